//! Remote entry: the tokens of a sale, or of an approved order, on their way to a meter that takes
//! them over its token gateway, as commands in the order in which they would be typed.
//!
//! **Invariant:** the commands are written in the transaction of their sale or approval: one that is
//! durable sends each of its tokens once, and one that is not sends nothing.

use std::collections::BTreeMap;

use meter::{Command, PurchaseId, TokenDigits, UnixSeconds};
use rusqlite::params;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::command::{COLUMNS, CommandRow, command_of};
use super::drawer::Writing;
use super::row::{to_i64, to_u64};
use super::sale::{SaleRow, SoldToken};
use super::token_meter::TokenOrderRow;
use super::write::Write;
use super::{Refusal, Registry, RegistryError};

/// How the tokens of a meter come to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenEntry {
    /// The customer types them.
    Keypad,
    /// The node sends them to the token gateway (DLMS class 115).
    Remote,
}

/// How long a token is offered to a meter that does not answer; the customer can type it meanwhile.
const ENTRY_S_MAX: u32 = 7 * 86_400;

/// Keys of commands that the node gives by itself.
const OWN_KEYS: [&str; 2] = ["order-", "sale-"];

impl TokenEntry {
    const ALL: [Self; 2] = [Self::Keypad, Self::Remote];

    /// The name in SQL and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keypad => "keypad",
            Self::Remote => "remote",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }
}

/// A person's key must not be one of the node's own: the command would never be given.
pub(super) fn check_key(key: &str) -> Result<(), Refusal> {
    if OWN_KEYS.iter().any(|own| key.starts_with(own)) {
        let reason = "must not begin with order- or sale-: the node's own commands have such keys";
        return Err(Refusal::invalid("Idempotency-Key", reason));
    }
    Ok(())
}

/// Gives the meters the tokens of these sales, each asked for by an API token.
pub(super) fn enter_tokens(
    write: &Writing<'_>,
    sales: &[(&SaleRow, u32)],
) -> Result<(), RegistryError> {
    let count = sales.iter().map(|(sale, _)| sale.tokens.len() as u64).sum();
    if count == 0 {
        return Ok(());
    }
    let mut next = write.advance("command", count)? - count + 1;
    for (sale, actor) in sales {
        for (number, token) in (1..).zip(&sale.tokens) {
            let command = command_with(token)?;
            write.run(
                "INSERT INTO command (id, idempotency_key, meter, command, actor, at, expires_at, \
                 sale) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                params![
                    next.cast_signed(),
                    format!("sale-{}-{number}", sale.id),
                    sale.meter.map(|meter| meter.0),
                    command,
                    actor,
                    sale.at.0,
                    sale.at.plus(ENTRY_S_MAX).0,
                    sale.id.0.cast_signed(),
                ],
            )?;
            next += 1;
        }
    }
    Ok(())
}

/// The command that carries a token, as the table has it.
fn command_with(token: &SoldToken) -> Result<String, RegistryError> {
    let digits = TokenDigits::try_from(token.digits.clone());
    let digits = digits.map_err(|reason| RegistryError::Damaged(format!("a token: {reason}")))?;
    let command = Command::Token(digits);
    Ok(serde_json::to_string(&command).expect("a command has string keys only"))
}

impl Write<'_> {
    /// Gives a meter the tokens of an order that another person has just approved.
    pub(super) async fn enter_order(
        &mut self,
        order: &TokenOrderRow,
        tokens: &[SoldToken],
        now: UnixSeconds,
    ) -> Result<(), RegistryError> {
        for (number, token) in (1..).zip(tokens) {
            let id = self.advance("command", 1).await?;
            sqlx::query(
                "INSERT INTO command (id, idempotency_key, meter, command, actor, at, expires_at, \
                 token_order) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(to_i64(id)?)
            .bind(format!("order-token-{}-{number}", order.id))
            .bind(i64::from(order.meter.0))
            .bind(command_with(token)?)
            .bind(i64::from(order.decided_by))
            .bind(i64::from(now.0))
            .bind(i64::from(now.plus(ENTRY_S_MAX).0))
            .bind(i64::from(order.id))
            .execute(self.sql())
            .await?;
        }
        Ok(())
    }
}

impl Registry {
    /// The commands that carry the tokens of these sales, in the order of the tokens.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn entries(
        &self,
        sales: &[PurchaseId],
    ) -> Result<BTreeMap<PurchaseId, Vec<CommandRow>>, RegistryError> {
        let ids = sales.iter().map(|sale| to_i64(sale.0)).collect::<Result<Vec<_>, _>>()?;
        let entries = self.commands_of("sale", 10, &ids).await?;
        Ok(entries.into_iter().map(|(id, rows)| (PurchaseId(id), rows)).collect())
    }

    /// The commands that carry the tokens of these orders, in the order of the tokens.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn order_entries(
        &self,
        orders: &[u32],
    ) -> Result<BTreeMap<u64, Vec<CommandRow>>, RegistryError> {
        let ids: Vec<i64> = orders.iter().copied().map(i64::from).collect();
        self.commands_of("token_order", 11, &ids).await
    }

    /// Commands by the number that a column has, one of `ids`.
    async fn commands_of(
        &self,
        name: &str,
        column: usize,
        ids: &[i64],
    ) -> Result<BTreeMap<u64, Vec<CommandRow>>, RegistryError> {
        let mut found = BTreeMap::<_, Vec<_>>::new();
        if ids.is_empty() {
            return Ok(found);
        }
        let mut query = QueryBuilder::<Sqlite>::new(COLUMNS);
        query.push(format_args!("WHERE {name} IN ("));
        let mut list = query.separated(", ");
        for id in ids {
            list.push_bind(*id);
        }
        query.push(") ORDER BY id");
        for row in query.build().fetch_all(&self.readers).await? {
            let id = to_u64(row.try_get(column)?)?;
            found.entry(id).or_default().push(command_of(&row)?);
        }
        Ok(found)
    }
}
