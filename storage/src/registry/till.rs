//! The till: many sales in one transaction, so that one sync makes all of them durable.
//!
//! What the sales touch and the till does not know yet (module `shelf`) is read first, with one
//! question a table; the sales are then worked out one after another in memory, and what they made
//! is written with few statements a table. A sale that breaks a rule leaves no trace and does not
//! disturb the others.
//!
//! **Invariant:** a key names one sale for ever; the identifier of a token is committed with the
//! token and never given out again; lines, tokens and outbox row of a sale are all there or absent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use meter::{
    Ask, BlockPeriod, Change, CreditUnit, Energy, Money, OutboxId, PurchaseId, Sale, SaleTerms,
    Split, UnixSeconds,
};
use sqlx::{Row as _, SqliteConnection};

use super::account::AMOUNT_MAX;
use super::entry::TokenEntry;
use super::many::{self, select};
use super::place::check_text;
use super::sale::{NewSale, SALE_COLUMNS, SaleKind, SaleRow, SaleState, SoldToken, sale_of};
use super::shelf::{Periods, Shelf, calendar};
use super::token_meter::TokenMeter;
use super::write::Write;
use super::{Refusal, Registry, RegistryError};

/// Sales of one transaction at most.
pub const SALES_MAX: usize = 256;

/// Makes the tokens of a sale. It is asked inside the transaction: what it answers is durable
/// before anyone sees it, and the same order makes the same tokens.
pub trait TokenIssuer: Send + Sync {
    /// The tokens that hand this to the meter, key change first where its settings differ.
    ///
    /// # Errors
    /// [`Refusal`]: nothing is sold then.
    fn issue(&self, order: &TokenOrder<'_>) -> Result<IssuedTokens, Refusal>;
}

/// What a token is to hand over.
#[derive(Clone, Copy, Debug)]
pub struct TokenOrder<'a> {
    /// The meter, its settings, and what they are to become.
    pub meter: &'a TokenMeter,
    /// Energy, where energy is sold.
    pub energy: Energy,
    /// Money, where the scheme carries money.
    pub money: Money,
    /// Random bits.
    pub rnd: u8,
    /// When.
    pub at: UnixSeconds,
}

/// Tokens, and the meter after them.
#[derive(Clone, Debug)]
pub struct IssuedTokens {
    /// In the order in which they are typed.
    pub tokens: Vec<SoldToken>,
    /// The meter with its new settings and last identifier.
    pub meter: TokenMeter,
}

/// Sales that share a transaction.
struct Batch {
    known: BTreeMap<String, ([u8; 32], Result<SaleRow, Refusal>)>,
    shelf: Shelf,
    sold: Vec<(usize, SaleRow)>,
}

impl Registry {
    /// What a sale would come to, without selling anything.
    ///
    /// # Errors
    /// As [`Registry::sell`].
    pub async fn quote(&self, new: &NewSale) -> Result<Split, RegistryError> {
        let mut connection = self.readers.acquire().await?;
        let new = std::slice::from_ref(new);
        let mut batch = Batch::load(&mut connection, Shelf::default(), new).await?;
        Ok(batch.split(&new[0])?.0)
    }

    /// Sells: all of `new` in one transaction, each with its own answer. A key that is known gets
    /// the sale it named.
    ///
    /// # Errors
    /// [`RegistryError`] when nothing was written; the answers have the [`Refusal`]s.
    pub async fn sell(
        &self,
        new: &[NewSale],
        issuer: &dyn TokenIssuer,
    ) -> Result<Vec<Result<SaleRow, Refusal>>, RegistryError> {
        let mut write = self.write_sales().await?;
        let (turn, shelf) = self.shelf.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut batch = Batch::load(write.sql(), shelf, new).await?;
        let mut answers = Vec::with_capacity(new.len());
        for (index, sale) in new.iter().enumerate() {
            answers.push(batch.sell(index, sale, issuer));
        }
        if batch.sold.is_empty() {
            self.keep_shelf(turn, batch.shelf);
            return Ok(answers);
        }
        let outbox = batch.write(&mut write, new).await?;
        let has_remote = batch.remote().next().is_some();
        write.commit().await?;
        batch.shelf.settle(&batch.touched());
        self.keep_shelf(turn, batch.shelf);
        if has_remote {
            self.commands.send_modify(|turn| *turn += 1);
        }
        // Ids and outbox rows are known once all of the batch is.
        let by_key: BTreeMap<&str, &SaleRow> =
            batch.sold.iter().map(|(_, row)| (row.key.as_str(), row)).collect();
        for answer in answers.iter_mut().flatten().filter(|row| row.outbox == OutboxId(0)) {
            let row = by_key.get(answer.key.as_str()).expect("an unnumbered sale is of this batch");
            (answer.id, answer.outbox) = (row.id, outbox);
        }
        Ok(answers)
    }

    fn keep_shelf(&self, turn: u64, shelf: Shelf) {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner).keep((turn, shelf));
    }
}

impl Batch {
    async fn load(
        sql: &mut SqliteConnection,
        mut shelf: Shelf,
        new: &[NewSale],
    ) -> Result<Self, RegistryError> {
        let keys: Vec<String> = new.iter().map(|sale| sale.key.clone()).collect();
        let mut known = BTreeMap::new();
        for row in select(sql, &format!("{SALE_COLUMNS} WHERE idempotency_key IN "), &keys).await? {
            let sale = sale_of(&row)?;
            let hash: &[u8] = row.try_get(14)?;
            let hash = hash.try_into().unwrap_or_default();
            known.insert(sale.key.clone(), (hash, Ok(sale)));
        }
        let text = "SELECT idempotency_key FROM purchase WHERE idempotency_key IN ";
        for row in select(sql, text, &keys).await? {
            known.insert(row.try_get(0)?, ([0; 32], Err(Refusal::KeyReused)));
        }
        shelf.fetch(sql, new).await?;
        Ok(Self { known, shelf, sold: Vec::new() })
    }

    fn sell(
        &mut self,
        index: usize,
        new: &NewSale,
        issuer: &dyn TokenIssuer,
    ) -> Result<SaleRow, Refusal> {
        check_text("Idempotency-Key", &new.key, 128)?;
        if let Some((hash, answer)) = self.known.get(&new.key) {
            let sale = answer.clone()?;
            return if *hash == new.body_hash { Ok(sale) } else { Err(Refusal::KeyReused) };
        }
        let (split, day) = self.split(new)?;
        let agent = self.shelf.agent(new.actor);
        let agent = agent.map(|agent| agent.check(split.paid).map(|()| agent.id)).transpose()?;
        let account = self.shelf.accounts.get_mut(&new.account.0).expect("split found the account");
        let mut tokens = Vec::new();
        let meter = account.meter.as_ref().map(|meter| meter.meter);
        if let Some(meter) = &account.meter {
            let (energy, money) = (split.energy(), split.credit);
            let order = TokenOrder { meter, energy, money, rnd: new.rnd, at: new.at };
            let issued = issuer.issue(&order)?;
            tokens = issued.tokens;
            let before = account.meter.replace(issued.meter);
            account.meter_before = account.meter_before.take().or(before);
        }
        account.count(&split, &day, new.kind);
        self.shelf.count_at_agent(new, split.paid)?;
        let row = SaleRow {
            id: PurchaseId(0),
            key: new.key.clone(),
            kind: new.kind,
            account: new.account,
            meter,
            agent,
            at: new.at,
            split,
            tokens,
            reason: new.reason.clone(),
            state: SaleState::Sold,
            refunded: Money::ZERO,
            copies: 0,
            outbox: OutboxId(0),
        };
        self.known.insert(new.key.clone(), (new.body_hash, Ok(row.clone())));
        self.sold.push((index, row.clone()));
        Ok(row)
    }

    /// The lines of a sale, and the periods of the account it falls into.
    fn split(&mut self, new: &NewSale) -> Result<(Split, Periods), Refusal> {
        let most = match new.ask {
            Ask::Money(paid) => paid > Money::ZERO && paid <= AMOUNT_MAX,
            Ask::Energy(energy) => energy.wh() > 0 && energy.wh() <= ENERGY_WH_MAX,
        };
        if !most {
            let reason = "must be above 0, at most 1000000000, or 1000000 kWh";
            return Err(Refusal::invalid("amount", reason));
        }
        if new.kind == SaleKind::FreeIssue {
            check_text("reason", &new.reason, 200)?;
        }
        let account = self.shelf.accounts.get(&new.account.0);
        let account = account.ok_or_else(|| Refusal::not_found("account", new.account))?;
        account.check_can_pay(new)?;
        if new.currency.as_ref().is_some_and(|currency| *currency != account.currency) {
            return Err(Refusal::Currency { want: account.currency.clone() });
        }
        let calendar = calendar(&mut self.shelf.calendars, &account.zone)?;
        let date = calendar.local(new.at).date;
        let versions = self.shelf.versions.get(&account.plan.0).map_or(&[][..], Vec::as_slice);
        let first = versions.first().ok_or(Refusal::PlanEmpty(account.plan))?.valid_from;
        let version = versions.iter().rev().find(|version| version.valid_from <= date);
        let version = version.ok_or(Refusal::BeforeTariff { plan: account.plan, first })?;
        let block = match version.block_period {
            BlockPeriod::Month => date.first_of_month(),
            BlockPeriod::Year => date.first_of_year(),
        };
        let periods =
            Periods { month: date.first_of_month().to_string(), block: block.to_string() };
        let unit = match &account.meter {
            Some(meter) if meter.counts_energy() => CreditUnit::Energy,
            _ => CreditUnit::Money,
        };
        let bought = account.bought.get(&periods.block).copied().unwrap_or_default();
        let bought = Energy::from_wh(bought);
        let debt = account.debt.as_ref().map(|debt| debt.share(&periods.month));
        let terms = SaleTerms { version, debt, unit, bought };
        let split = match new.kind {
            SaleKind::Purchase => terms.split(new.ask)?,
            SaleKind::FreeIssue => terms.free(new.ask)?,
        };
        Ok((split, periods))
    }

    /// Writes what the sales of the batch made.
    async fn write(
        &mut self,
        write: &mut Write<'_>,
        new: &[NewSale],
    ) -> Result<OutboxId, RegistryError> {
        let count = self.sold.len() as u64;
        let last = write.advance("purchase", count).await?;
        for ((_, row), id) in self.sold.iter_mut().zip(last - count + 1..) {
            row.id = PurchaseId(id);
            let (sale, account, at, lines) = (row.id, row.account, row.at, row.lines());
            write.tell(Change::Sale(Sale { sale, account, at, lines })).await?;
        }
        let outbox = write.flush().await?.expect("changes were told before");
        self.write_sales(write, new, outbox).await?;
        self.write_tokens(write, new).await?;
        let remote: Vec<_> = self.remote().map(|(index, row)| (row, new[index].actor)).collect();
        write.enter_tokens(&remote).await?;
        self.write_states(write).await?;
        Ok(outbox)
    }

    /// The accounts that something was sold to.
    fn touched(&self) -> BTreeSet<u32> {
        self.sold.iter().map(|(_, row)| row.account.0).collect()
    }

    /// The sales whose tokens the node sends to the meter.
    fn remote(&self) -> impl Iterator<Item = (usize, &SaleRow)> {
        let is_remote = |row: &SaleRow| {
            let meter =
                self.shelf.accounts.get(&row.account.0).and_then(|state| state.meter.as_ref());
            meter.is_some_and(|meter| meter.entry == TokenEntry::Remote)
        };
        let sold = self.sold.iter().map(|(index, row)| (*index, row));
        sold.filter(move |(_, row)| is_remote(row))
    }

    async fn write_sales(
        &self,
        write: &mut Write<'_>,
        new: &[NewSale],
        outbox: OutboxId,
    ) -> Result<(), RegistryError> {
        let head = "INSERT INTO sale (id, idempotency_key, body_hash, kind, account, meter, agent, \
             actor, at, paid, detail, tokens, reason, state, outbox) ";
        many::write(write.sql(), (head, ""), &self.sold, |values, (index, row)| {
            values
                .push_bind(row.id.0 as i64)
                .push_bind(row.key.clone())
                .push_bind(new[*index].body_hash.to_vec())
                .push_bind(row.kind.name())
                .push_bind(i64::from(row.account.0))
                .push_bind(row.meter.map(|meter| i64::from(meter.0)))
                .push_bind(row.agent.map(i64::from))
                .push_bind(i64::from(new[*index].actor))
                .push_bind(i64::from(row.at.0))
                .push_bind(row.split.paid.ticks())
                .push_bind(text(&row.split))
                .push_bind(text(&row.tokens))
                .push_bind(row.reason.clone())
                .push_bind("sold")
                .push_bind(outbox.0 as i64);
        })
        .await
    }

    async fn write_tokens(
        &self,
        write: &mut Write<'_>,
        new: &[NewSale],
    ) -> Result<(), RegistryError> {
        let tokens: Vec<(usize, &SaleRow, &SoldToken)> = self
            .sold
            .iter()
            .flat_map(|(index, row)| row.tokens.iter().map(move |token| (*index, row, token)))
            .collect();
        if tokens.is_empty() {
            return Ok(());
        }
        let head =
            "INSERT INTO issued_token (meter, sale, kind, base_year, tid, digits, actor, at) ";
        many::write(write.sql(), (head, ""), &tokens, |values, (index, row, token)| {
            values
                .push_bind(row.meter.map(|meter| i64::from(meter.0)))
                .push_bind(row.id.0 as i64)
                .push_bind(token.kind.clone())
                .push_bind(i64::from(token.base_year))
                .push_bind(token.tid.map(i64::from))
                .push_bind(token.digits.clone())
                .push_bind(i64::from(new[*index].actor))
                .push_bind(i64::from(row.at.0));
        })
        .await
    }

    async fn write_states(&self, write: &mut Write<'_>) -> Result<(), RegistryError> {
        let touched = self.touched();
        let accounts = || touched.iter().filter_map(|id| Some((id, self.shelf.accounts.get(id)?)));
        let meters = accounts().filter_map(|(_, a)| a.meter_before.as_ref().zip(a.meter.as_ref()));
        // Nearly always the identifier alone has moved on.
        let changed: Vec<TokenMeter> = meters
            .filter(|(before, meter)| {
                **before != TokenMeter { last_tid: before.last_tid, ..(*meter).clone() }
            })
            .map(|(_, meter)| meter.clone())
            .collect();
        write.put_token_meters(&changed).await?;
        let bought: Vec<(u32, &String, u64)> = accounts()
            .flat_map(|(id, account)| {
                let bought = account.bought_changed.iter();
                bought.map(move |period| (*id, period, account.bought[period]))
            })
            .collect();
        let head = "INSERT INTO energy_bought (account, period, wh) ";
        let tail = " ON CONFLICT (account, period) DO UPDATE SET wh = excluded.wh";
        many::write(write.sql(), (head, tail), &bought, |values, (account, period, wh)| {
            let period = (*period).clone();
            values.push_bind(i64::from(*account)).push_bind(period).push_bind(*wh as i64);
        })
        .await?;
        for (_, account) in accounts().filter(|(_, account)| account.debt_changed) {
            if let Some(debt) = &account.debt {
                write.put_debt(debt).await?;
            }
        }
        for agent in self.shelf.agents.values() {
            for (day, (sales, paid)) in &agent.days {
                sqlx::query(
                    "INSERT INTO agent_day (agent, day, sales, paid, taken_back) \
                     VALUES ($1, $2, $3, $4, 0) ON CONFLICT (agent, day) DO UPDATE SET \
                     sales = agent_day.sales + excluded.sales, paid = agent_day.paid + excluded.paid",
                )
                .bind(i64::from(agent.id))
                .bind(day)
                .bind(sales)
                .bind(paid)
                .execute(write.sql())
                .await?;
            }
            if !agent.days.is_empty() {
                sqlx::query("UPDATE agent SET owed = $1 WHERE id = $2")
                    .bind(agent.owed.ticks())
                    .bind(i64::from(agent.id))
                    .execute(write.sql())
                    .await?;
            }
        }
        Ok(())
    }
}

/// JSON of a value of ours.
fn text<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("its keys are strings")
}

/// The most that is asked for at once: a million kWh.
const ENERGY_WH_MAX: u64 = 1_000_000_000;
