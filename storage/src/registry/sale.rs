//! Sales on record, and what is done to one afterwards: copies of the receipt, reversal, refund.

use meter::{
    AccountId, Ask, Change, LedgerKind, LocalCalendar, MeterId, Money, OutboxId, PurchaseId, Sale,
    SaleLine, Split, UnixSeconds,
};
use serde::{Deserialize, Serialize};

use super::agent::DayNews;
use super::place::check_text;
use super::row::{Columns, by_key, json, of_account, parsed, to_i64, to_u64, u32_of};
use super::{Refusal, Registry, RegistryError};

/// What kind of sale.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SaleKind {
    /// Paid for.
    Purchase,
    /// Given away.
    FreeIssue,
}

/// A sale asked for.
#[derive(Clone, Debug)]
pub struct NewSale {
    /// The caller's key.
    pub key: String,
    /// SHA-256 of what was asked, so that the same key with another request is noticed.
    pub body_hash: [u8; 32],
    /// What kind.
    pub kind: SaleKind,
    /// For which account.
    pub account: AccountId,
    /// How much.
    pub ask: Ask,
    /// The currency, where the caller named it.
    pub currency: Option<String>,
    /// Why, of a free issue; else empty.
    pub reason: String,
    /// Random bits of its token.
    pub rnd: u8,
    /// When.
    pub at: UnixSeconds,
    /// Id of the API token that asked.
    pub actor: u32,
}

/// A token that a sale made.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SoldToken {
    /// `credit`, or `key_change` with the section.
    pub kind: String,
    /// The 20 digits.
    pub digits: String,
    /// Its identifier, where it has one.
    pub tid: Option<u32>,
    /// Year that the identifier counts from.
    pub base_year: u16,
}

/// What became of a sale.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SaleState {
    /// It stands.
    Sold,
    /// Cancelled before delivery.
    Reversed,
    /// Paid back, in part or whole, after an inspection.
    Refunded,
}

/// A sale on record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SaleRow {
    /// The id: the cause of its movements.
    pub id: PurchaseId,
    /// The caller's key.
    pub key: String,
    /// What kind.
    pub kind: SaleKind,
    /// For which account.
    pub account: AccountId,
    /// The token meter that got the energy, if one did.
    pub meter: Option<MeterId>,
    /// The vending point that sold it.
    pub agent: Option<u32>,
    /// When.
    pub at: UnixSeconds,
    /// Its lines.
    pub split: Split,
    /// Its tokens, in the order in which they are typed.
    pub tokens: Vec<SoldToken>,
    /// Why, of a free issue.
    pub reason: String,
    /// What became of it.
    pub state: SaleState,
    /// How much was paid back.
    pub refunded: Money,
    /// How often the receipt was printed again.
    pub copies: u32,
    /// The row of the outbox that carries it to the log.
    pub outbox: OutboxId,
}

pub(super) const SALE_COLUMNS: &str = "SELECT id, idempotency_key, kind, account, meter, agent, \
     at, detail, tokens, reason, state, refunded, copies, outbox, body_hash FROM sale ";

impl SaleKind {
    /// The name in SQL and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Purchase => "purchase",
            Self::FreeIssue => "free_issue",
        }
    }
}

impl SaleState {
    const ALL: [Self; 3] = [Self::Sold, Self::Reversed, Self::Refunded];

    /// The name in SQL and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sold => "sold",
            Self::Reversed => "reversed",
            Self::Refunded => "refunded",
        }
    }
}

impl SaleRow {
    /// The movements of the account that the sale makes.
    #[must_use]
    pub fn lines(&self) -> Vec<SaleLine> {
        let Split { paid, debt, fee, tax, credit, .. } = &self.split;
        let less = |kind, amount: Money| SaleLine { kind, amount: negative(amount) };
        let mut lines = match self.kind {
            SaleKind::Purchase => vec![
                SaleLine { kind: LedgerKind::Purchase, amount: *paid },
                less(LedgerKind::DebtRecovery, *debt),
                less(LedgerKind::Fee, *fee),
                less(LedgerKind::Tax, *tax),
            ],
            SaleKind::FreeIssue => vec![SaleLine { kind: LedgerKind::FreeIssue, amount: *credit }],
        };
        if self.meter.is_some() {
            lines.push(less(LedgerKind::Token, *credit));
        }
        lines.retain(|line| line.amount != Money::ZERO);
        lines
    }
}

pub(super) const fn negative(amount: Money) -> Money {
    Money::from_ticks(amount.ticks().saturating_neg())
}

impl Registry {
    /// The sale that a key names.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn sale_by_key(&self, key: &str) -> Result<SaleRow, RegistryError> {
        let row = by_key(&self.readers, SALE_COLUMNS, key).await?;
        let sale = sale_of(&row.ok_or_else(|| Refusal::not_found("purchase", key))?)?;
        self.durable(sale.outbox).await?;
        Ok(sale)
    }

    /// Sales of an account after `after`, by id.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn sales(
        &self,
        account: AccountId,
        after: PurchaseId,
        limit: u32,
    ) -> Result<Vec<SaleRow>, RegistryError> {
        let page = (account, after.0, limit);
        let sales = of_account(&self.readers, SALE_COLUMNS, page, sale_of).await?;
        if let Some(sale) = sales.last() {
            self.durable(sale.outbox).await?;
        }
        Ok(sales)
    }

    /// Counts a further copy of a receipt. The tokens are the stored ones: a second token would
    /// credit the customer twice.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn reissue(
        &self,
        key: &str,
        actor: u32,
        now: UnixSeconds,
    ) -> Result<SaleRow, RegistryError> {
        let mut write = self.write().await?;
        let sale = write.sale(key).await?;
        write.deed(&sale, ("copy", Money::ZERO, ""), actor, now).await?;
        sqlx::query("UPDATE sale SET copies = copies + 1 WHERE id = $1")
            .bind(to_i64(sale.id.0)?)
            .execute(write.sql())
            .await?;
        write.commit().await?;
        Ok(SaleRow { copies: sale.copies + 1, ..sale })
    }

    /// Cancels a sale before delivery: every line is entered once more with the other sign. What
    /// a token carries is delivered once the receipt is out, so such a sale is never reversed.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Vending`] `already_delivered`, `already_taken_back`,
    /// `reversal_too_late`, `not_the_last_sale`.
    pub async fn reverse_sale(
        &self,
        key: &str,
        reason: &str,
        actor: u32,
        now: UnixSeconds,
    ) -> Result<(SaleRow, OutboxId), RegistryError> {
        check_text("reason", reason, 200)?;
        let mut write = self.write().await?;
        let sale = write.sale(key).await?;
        check_standing(&sale)?;
        if !sale.tokens.is_empty() {
            let hint = "refund it after an inspection of the meter";
            let reason = "the token of this purchase is with the buyer";
            return Err(Refusal::vending("already_delivered", reason, hint).into());
        }
        if now.since(sale.at) > REVERSAL_S_MAX {
            let hint = "refund it after an inspection";
            let reason = "a purchase is reversed within a day";
            return Err(Refusal::vending("reversal_too_late", reason, hint).into());
        }
        let newest: Option<i64> =
            sqlx::query_scalar("SELECT MAX(id) FROM sale WHERE account = $1 AND state = 'sold'")
                .bind(i64::from(sale.account.0))
                .fetch_one(write.sql())
                .await?;
        if newest != Some(to_i64(sale.id.0)?) {
            let hint = "reverse the later ones first";
            let reason = "the account has a later purchase";
            return Err(Refusal::vending("not_the_last_sale", reason, hint).into());
        }
        let lines = sale.lines().iter().map(taken_back).collect();
        write.take_back(&sale, sale.split.paid, now).await?;
        let tell = Sale { sale: sale.id, account: sale.account, at: now, lines };
        write.tell(Change::Sale(tell)).await?;
        write.deed(&sale, ("reversal", sale.split.paid, reason), actor, now).await?;
        sqlx::query("UPDATE sale SET state = 'reversed' WHERE id = $1")
            .bind(to_i64(sale.id.0)?)
            .execute(write.sql())
            .await?;
        let outbox = write.commit_told().await?;
        Ok((SaleRow { state: SaleState::Reversed, ..sale }, outbox))
    }

    /// Pays credit back after an inspection, in part or whole. Where a token carried it, the value
    /// comes back from the meter first.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Vending`] `already_taken_back`, `refund_too_large`.
    pub async fn refund_sale(
        &self,
        key: &str,
        amount: Option<Money>,
        inspection: &str,
        actor: u32,
        now: UnixSeconds,
    ) -> Result<(SaleRow, OutboxId), RegistryError> {
        check_text("inspection", inspection, 200)?;
        let mut write = self.write().await?;
        let sale = write.sale(key).await?;
        if sale.state == SaleState::Reversed || sale.kind == SaleKind::FreeIssue {
            let hint = "nothing was paid that could be paid back";
            let reason = "this sale was reversed, or was free";
            return Err(Refusal::vending("nothing_to_refund", reason, hint).into());
        }
        let known: Option<i64> = sqlx::query_scalar(
            "SELECT number FROM sale_deed WHERE sale = $1 AND deed = 'refund' AND reason = $2",
        )
        .bind(to_i64(sale.id.0)?)
        .bind(inspection)
        .fetch_optional(write.sql())
        .await?;
        if known.is_some() {
            let reason = "this inspection was paid back already";
            let hint = "read the purchase; a further refund needs a further inspection";
            return Err(Refusal::vending("already_refunded", reason, hint).into());
        }
        let left = Money::from_ticks(sale.split.credit.ticks() - sale.refunded.ticks());
        let amount = amount.unwrap_or(left);
        if amount <= Money::ZERO || amount > left {
            let reason = format!("{} of its credit can be paid back", left.to_decimal());
            let hint = "refund at most what was credited and not yet refunded";
            return Err(Refusal::vending("refund_too_large", reason, hint).into());
        }
        let mut lines = Vec::new();
        if sale.meter.is_some() {
            lines.push(SaleLine { kind: LedgerKind::Token, amount });
        }
        lines.push(SaleLine { kind: LedgerKind::Refund, amount: negative(amount) });
        write.take_back(&sale, amount, now).await?;
        let tell = Sale { sale: sale.id, account: sale.account, at: now, lines };
        write.tell(Change::Sale(tell)).await?;
        write.deed(&sale, ("refund", amount, inspection), actor, now).await?;
        let refunded = Money::from_ticks(sale.refunded.ticks() + amount.ticks());
        sqlx::query("UPDATE sale SET state = 'refunded', refunded = $1 WHERE id = $2")
            .bind(refunded.ticks())
            .bind(to_i64(sale.id.0)?)
            .execute(write.sql())
            .await?;
        let outbox = write.commit_told().await?;
        Ok((SaleRow { state: SaleState::Refunded, refunded, ..sale }, outbox))
    }
}

impl super::write::Write<'_> {
    async fn sale(&mut self, key: &str) -> Result<SaleRow, RegistryError> {
        let row = by_key(self.sql(), SALE_COLUMNS, key).await?;
        sale_of(&row.ok_or_else(|| Refusal::not_found("purchase", key))?)
    }

    /// Gives the vending point back what it paid out, and the debt what was taken for it.
    async fn take_back(
        &mut self,
        sale: &SaleRow,
        amount: Money,
        now: UnixSeconds,
    ) -> Result<(), RegistryError> {
        if let Some(agent) = sale.agent {
            let news = DayNews { sales: 0, paid: Money::ZERO, taken_back: amount };
            self.at_agent(agent.into(), now, news).await?;
        }
        if amount == sale.split.paid && sale.split.debt > Money::ZERO {
            let zone = self.account(sale.account).await?.terms.zone;
            let calendar = LocalCalendar::new(&zone).map_err(Refusal::from)?;
            let month = calendar.local(sale.at).date.first_of_month().to_string();
            // As in the books: the month of the sale may recover it again, and no other.
            sqlx::query(
                "UPDATE debt SET left_over = left_over + $1, \
                 recovered = recovered - CASE WHEN month = $3 THEN $1 ELSE 0 END \
                 WHERE id = (SELECT MAX(id) FROM debt WHERE account = $2)",
            )
            .bind(sale.split.debt.ticks())
            .bind(i64::from(sale.account.0))
            .bind(month)
            .execute(self.sql())
            .await?;
        }
        Ok(())
    }

    /// Notes what was done, how much it moved and why, with the outbox row of what was told.
    async fn deed(
        &mut self,
        sale: &SaleRow,
        (deed, amount, reason): (&str, Money, &str),
        actor: u32,
        now: UnixSeconds,
    ) -> Result<(), RegistryError> {
        let outbox = self.flush().await?.unwrap_or_default();
        sqlx::query(
            "INSERT INTO sale_deed (sale, number, deed, amount, reason, actor, at, outbox) VALUES \
             ($1, (SELECT COUNT(*) + 1 FROM sale_deed WHERE sale = $1), $2, $3, $4, $5, $6, $7)",
        )
        .bind(to_i64(sale.id.0)?)
        .bind(deed)
        .bind(amount.ticks())
        .bind(reason)
        .bind(i64::from(actor))
        .bind(i64::from(now.0))
        .bind(to_i64(outbox.0)?)
        .execute(self.sql())
        .await?;
        Ok(())
    }
}

/// Longest time after which a sale is still reversed: a day.
const REVERSAL_S_MAX: u32 = 86_400;

fn check_standing(sale: &SaleRow) -> Result<(), Refusal> {
    if sale.state == SaleState::Sold {
        return Ok(());
    }
    let reason = format!("this sale is {} already", sale.state.name());
    let hint = "nothing is left to do; read its state";
    Err(Refusal::vending("already_taken_back", reason, hint))
}

/// The line that undoes a line: debt, fee and tax come back under their own kinds.
fn taken_back(line: &SaleLine) -> SaleLine {
    let is_payment = line.kind == LedgerKind::Purchase;
    let kind = if is_payment { LedgerKind::Reversal } else { line.kind };
    SaleLine { kind, amount: negative(line.amount) }
}

pub(super) fn sale_of(row: &impl Columns) -> Result<SaleRow, RegistryError> {
    let kind = row.text(2)?;
    let kinds = [SaleKind::Purchase, SaleKind::FreeIssue];
    let state = row.text(10)?;
    let none = |id: u32| (id != 0).then_some(id);
    Ok(SaleRow {
        id: PurchaseId(to_u64(row.number(0)?)?),
        key: row.text(1)?.to_owned(),
        kind: parsed(kind, kinds.into_iter().find(|known| known.name() == kind))?,
        account: AccountId(u32_of(row, 3)?),
        meter: none(u32_of(row, 4)?).map(MeterId),
        agent: none(u32_of(row, 5)?),
        at: UnixSeconds(u32_of(row, 6)?),
        split: json(row.text(7)?)?,
        tokens: json(row.text(8)?)?,
        reason: row.text(9)?.to_owned(),
        state: parsed(state, SaleState::ALL.into_iter().find(|known| known.name() == state))?,
        refunded: Money::from_ticks(row.number(11)?),
        copies: u32_of(row, 12)?,
        outbox: OutboxId(to_u64(row.number(13)?)?),
    })
}
