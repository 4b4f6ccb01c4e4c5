//! Money by people: purchases, named for ever by the caller's key, and adjustments.

use meter::{AccountId, Adjustment, Change, Money, OutboxId, Purchase, PurchaseId, UnixSeconds};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::account::AMOUNT_MAX;
use super::place::check_text;
use super::row::{by_key, of_account, to_i64, to_u64, u32_of};
use super::{Refusal, Registry, RegistryError};

/// A purchase asked for.
#[derive(Clone, Debug)]
pub struct NewPurchase {
    /// The caller's key.
    pub key: String,
    /// SHA-256 of what was asked, so that the same key with another request is noticed.
    pub body_hash: [u8; 32],
    /// For which account.
    pub account: AccountId,
    /// What was paid, > 0.
    pub paid: Money,
    /// The currency, where the caller named it.
    pub currency: Option<String>,
    /// When.
    pub at: UnixSeconds,
    /// Id of the API token that asked.
    pub actor: u32,
}

/// A purchase on record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PurchaseRow {
    /// The purchase.
    pub purchase: Purchase,
    /// The caller's key.
    pub key: String,
    /// The row of the outbox that carries it to the log.
    pub outbox: OutboxId,
    /// What the first caller was told, once he was.
    pub answer: Option<String>,
}

/// An adjustment on record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AdjustmentRow {
    /// The number.
    pub id: u32,
    /// The entry.
    pub adjustment: Adjustment,
}

const PURCHASE_COLUMNS: &str =
    "SELECT id, account, paid, at, idempotency_key, outbox, answer, body_hash FROM purchase ";

impl Registry {
    /// Records a purchase, or finds the one this key names. A crash after it loses nothing: the
    /// outbox row is in the same transaction.
    ///
    /// # Errors
    /// [`Refusal::KeyReused`] when the key named another request; [`Refusal::NotFound`],
    /// [`Refusal::Invalid`], [`Refusal::Currency`], [`Refusal::BeforeTariff`]; [`Refusal::Vending`]
    /// `agent_limit_reached`.
    pub async fn purchase(&self, new: &NewPurchase) -> Result<PurchaseRow, RegistryError> {
        check_text("Idempotency-Key", &new.key, 128)?;
        let mut write = self.write().await?;
        if let Some(row) = by_key(write.sql(), PURCHASE_COLUMNS, &new.key).await? {
            let hash: &[u8] = row.try_get(7)?;
            if hash != new.body_hash {
                return Err(Refusal::KeyReused.into());
            }
            return purchase_of(&row);
        }
        // Sales share the space of keys.
        if by_key(write.sql(), "SELECT id FROM sale", &new.key).await?.is_some() {
            return Err(Refusal::KeyReused.into());
        }
        if new.paid <= Money::ZERO || new.paid > AMOUNT_MAX {
            return Err(Refusal::invalid("amount", "must be above 0, at most 1000000000").into());
        }
        let currency: Option<String> = sqlx::query_scalar(
            "SELECT p.currency FROM account a JOIN plan p ON p.id = a.plan WHERE a.id = $1",
        )
        .bind(i64::from(new.account.0))
        .fetch_optional(write.sql())
        .await?;
        let want = currency.ok_or_else(|| Refusal::not_found("account", new.account))?;
        if new.currency.as_ref().is_some_and(|currency| *currency != want) {
            return Err(Refusal::Currency { want }.into());
        }
        write.check_can_pay(new.account, new.at).await?;
        write.check_tariff_at(new.account, new.at).await?;
        write.count_top_up(new.actor, new.paid, new.at).await?;
        let id = write.advance("purchase", 1).await?;
        let purchase =
            Purchase { purchase: PurchaseId(id), account: new.account, paid: new.paid, at: new.at };
        write.note_top_up(&purchase).await?;
        write.tell(Change::Purchase(purchase)).await?;
        let outbox = write.flush().await?.expect("a change was told before");
        sqlx::query(
            "INSERT INTO purchase (id, idempotency_key, body_hash, account, paid, at, actor, \
             outbox) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(to_i64(id)?)
        .bind(&new.key)
        .bind(&new.body_hash[..])
        .bind(i64::from(new.account.0))
        .bind(new.paid.ticks())
        .bind(i64::from(new.at.0))
        .bind(i64::from(new.actor))
        .bind(to_i64(outbox.0)?)
        .execute(write.sql())
        .await?;
        write.commit().await?;
        Ok(PurchaseRow { purchase, key: new.key.clone(), outbox, answer: None })
    }

    /// Keeps what the caller is told. The first answer stands for ever and is what all get.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn keep_answer(&self, id: PurchaseId, answer: &str) -> Result<String, RegistryError> {
        let mut write = self.write().await?;
        sqlx::query("UPDATE purchase SET answer = $1 WHERE id = $2 AND answer IS NULL")
            .bind(answer)
            .bind(to_i64(id.0)?)
            .execute(write.sql())
            .await?;
        let kept: String = sqlx::query_scalar("SELECT answer FROM purchase WHERE id = $1")
            .bind(to_i64(id.0)?)
            .fetch_one(write.sql())
            .await?;
        write.commit().await?;
        Ok(kept)
    }

    /// The purchase that a key names.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn purchase_by_key(&self, key: &str) -> Result<PurchaseRow, RegistryError> {
        let row = by_key(&self.readers, PURCHASE_COLUMNS, key).await?;
        purchase_of(&row.ok_or_else(|| Refusal::not_found("purchase", key))?)
    }

    /// Purchases of an account after `after`, by id.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn purchases(
        &self,
        account: AccountId,
        after: PurchaseId,
        limit: u32,
    ) -> Result<Vec<PurchaseRow>, RegistryError> {
        of_account(&self.readers, PURCHASE_COLUMNS, (account, after.0, limit), purchase_of).await
    }

    /// Records a signed correction.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Invalid`].
    pub async fn adjust(
        &self,
        adjustment: &Adjustment,
        actor: u32,
    ) -> Result<(AdjustmentRow, OutboxId), RegistryError> {
        check_text("reason", &adjustment.reason, 200)?;
        check_adjustment(adjustment.amount)?;
        let mut write = self.write().await?;
        write.account(adjustment.account).await?;
        let id = write.next_id("adjustment").await?;
        write.tell(Change::Adjust(adjustment.clone())).await?;
        let outbox = write.flush().await?.expect("a change was told before");
        sqlx::query(
            "INSERT INTO adjustment (id, account, amount, at, reason, actor, outbox) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(i64::from(id))
        .bind(i64::from(adjustment.account.0))
        .bind(adjustment.amount.ticks())
        .bind(i64::from(adjustment.at.0))
        .bind(&adjustment.reason)
        .bind(i64::from(actor))
        .bind(to_i64(outbox.0)?)
        .execute(write.sql())
        .await?;
        write.commit().await?;
        Ok((AdjustmentRow { id, adjustment: adjustment.clone() }, outbox))
    }

    /// Adjustments of an account after `after`, by number.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn adjustments(
        &self,
        account: AccountId,
        after: u32,
        limit: u32,
    ) -> Result<Vec<AdjustmentRow>, RegistryError> {
        let select = "SELECT id, account, amount, at, reason FROM adjustment";
        of_account(&self.readers, select, (account, after.into(), limit), |row| {
            let adjustment = Adjustment {
                account: AccountId(u32_of(row, 1)?),
                amount: Money::from_ticks(row.try_get(2)?),
                at: UnixSeconds(u32_of(row, 3)?),
                reason: row.try_get(4)?,
            };
            Ok(AdjustmentRow { id: u32_of(row, 0)?, adjustment })
        })
        .await
    }
}

/// A correction moves something, and not more than anyone could owe.
pub(super) fn check_adjustment(amount: Money) -> Result<(), Refusal> {
    let is_good =
        amount != Money::ZERO && amount.ticks().unsigned_abs() <= AMOUNT_MAX.ticks().unsigned_abs();
    if is_good {
        Ok(())
    } else {
        Err(Refusal::invalid("amount", "must not be 0, within ±1000000000"))
    }
}

fn purchase_of(row: &SqliteRow) -> Result<PurchaseRow, RegistryError> {
    let purchase = Purchase {
        purchase: PurchaseId(to_u64(row.try_get(0)?)?),
        account: AccountId(u32_of(row, 1)?),
        paid: Money::from_ticks(row.try_get(2)?),
        at: UnixSeconds(u32_of(row, 3)?),
    };
    Ok(PurchaseRow {
        purchase,
        key: row.try_get(4)?,
        outbox: OutboxId(to_u64(row.try_get(5)?)?),
        answer: row.try_get(6)?,
    })
}
