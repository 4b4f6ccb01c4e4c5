//! The till: many sales in one transaction, so that one sync makes all of them durable.
//!
//! What the sales touch and the till does not know yet (module `shelf`) is read first; the sales are
//! then worked out one after another in memory, and what they made is written. All of it runs on one
//! thread, over the till's own connection (module `drawer`). A sale that breaks a rule leaves no
//! trace and does not disturb the others.
//!
//! **Invariant:** a key names one sale for ever; the identifier of a token is committed with the
//! token and never given out again; lines, tokens and outbox row of a sale are all there or absent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use meter::{
    Ask, BlockPeriod, Change, CreditUnit, Energy, Money, OutboxId, PurchaseId, Sale, SaleTerms,
    Split, UnixSeconds,
};
use rusqlite::Connection;

use super::account::AMOUNT_MAX;
use super::drawer::{Drawer, Writing, row};
use super::entry::{TokenEntry, enter_tokens};
use super::outbox::Fresh;
use super::place::check_text;
use super::posting::{write_account, write_agent, write_sale};
use super::sale::{NewSale, SALE_COLUMNS, SaleKind, SaleRow, SaleState, SoldToken, sale_of};
use super::shelf::{Periods, Shelf, calendar};
use super::token_meter::TokenMeter;
use super::write::{INSERT_OUTBOX, payload_of};
use super::{OutboxRow, Refusal, Registry, RegistryError};

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

/// The till between two batches.
#[derive(Debug)]
pub(super) struct Desk {
    drawer: Drawer,
    shelf: Shelf,
}

/// What becomes of each sale of a batch.
type Answers = Vec<Result<SaleRow, Refusal>>;

/// What is told of a batch once it is durable.
struct Told {
    row: OutboxRow,
    /// Characters of its payload.
    length: usize,
    /// Some of its tokens go to the meter by themselves.
    has_remote: bool,
}

/// Sales that share a transaction.
struct Batch {
    known: BTreeMap<String, ([u8; 32], Known)>,
    shelf: Shelf,
    sold: Vec<(usize, SaleRow)>,
}

/// What a key names.
enum Known {
    /// A sale of a former batch.
    Before(Box<SaleRow>),
    /// A sale of this batch, by its place.
    Now(usize),
    /// A top-up.
    TopUp,
}

impl Desk {
    pub(super) fn open(path: &Path) -> Result<Self, RegistryError> {
        Ok(Self { drawer: Drawer::open(path)?, shelf: Shelf::default() })
    }

    /// Another transaction writes.
    pub(super) fn forget(&mut self) {
        self.shelf = Shelf::default();
    }
}

impl Registry {
    /// What a sale would come to, without selling anything.
    ///
    /// # Errors
    /// As [`Registry::sell`].
    pub async fn quote(self: &Arc<Self>, new: NewSale) -> Result<Split, RegistryError> {
        let registry = Arc::clone(self);
        blocking(move || {
            let desk = registry.desk();
            let mut shelf = Shelf::default();
            shelf.fetch(desk.drawer.sql(), std::slice::from_ref(&new))?;
            Ok(split(&mut shelf, &new)?.0)
        })
        .await
    }

    /// Sells: all of `new` in one transaction, each with its own answer; durable when it returns. A key
    /// that is known gets the sale it named. Blocks: others may write first, and the disk takes its
    /// time.
    ///
    /// # Errors
    /// [`RegistryError`] when nothing was sold, or nobody knows; the answers have the [`Refusal`]s.
    ///
    /// # Panics
    /// On a thread that drives asynchronous tasks.
    pub fn sell(
        &self,
        new: &[NewSale],
        issuer: &dyn TokenIssuer,
    ) -> Result<Answers, RegistryError> {
        let turn = self.blocking_turn()?;
        let (answers, told) = self.sell_now(new, issuer)?;
        // Others may write while the disk gets these.
        drop(turn);
        if answers.iter().any(Result::is_ok) {
            // Also for a sale that was made before: its own sync may be under way.
            self.sync()?;
        }
        if let Some(Told { row, length, has_remote }) = told {
            let (mut fresh, id) = (Fresh::default(), row.id);
            fresh.push(row, length);
            self.hand_over(fresh, id);
            if has_remote {
                self.commands.send_modify(|turn| *turn += 1);
            }
        }
        Ok(answers)
    }

    /// Brings sales into the tables.
    fn sell_now(
        &self,
        new: &[NewSale],
        issuer: &dyn TokenIssuer,
    ) -> Result<(Answers, Option<Told>), RegistryError> {
        let mut desk = self.desk();
        let Desk { drawer, shelf } = &mut *desk;
        let write = drawer.begin()?;
        // A batch that fails does not bring the shelf back.
        let mut batch = Batch::load(write.sql(), std::mem::take(shelf), new)?;
        let answers: Vec<_> =
            new.iter().enumerate().map(|(index, sale)| batch.sell(index, sale, issuer)).collect();
        let mut told = None;
        if !batch.sold.is_empty() {
            let (row, length) = batch.write(&write, new)?;
            write.commit()?;
            batch.shelf.settle(&batch.touched());
            told = Some(Told { row, length, has_remote: batch.remote().next().is_some() });
        }
        let answers =
            answers.into_iter().zip(new).map(|(answer, new)| answer.map(|()| batch.row(new)));
        let answers = answers.collect();
        *shelf = batch.shelf;
        Ok((answers, told))
    }
}

/// Runs on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl Batch {
    fn load(sql: &Connection, mut shelf: Shelf, new: &[NewSale]) -> Result<Self, RegistryError> {
        let mut known = BTreeMap::new();
        let sale = format!("{SALE_COLUMNS} WHERE idempotency_key = $1");
        for NewSale { key, .. } in new {
            let found = row(sql, &sale, [key], |row| {
                let hash = <[u8; 32]>::try_from(row.get_ref(14)?.as_blob().unwrap_or_default());
                Ok((hash.unwrap_or_default(), Known::Before(Box::new(sale_of(row)?))))
            })?;
            let top_up = "SELECT 1 FROM purchase WHERE idempotency_key = $1";
            let found = match found {
                Some(found) => Some(found),
                None => row(sql, top_up, [key], |_| Ok(([0; 32], Known::TopUp)))?,
            };
            if let Some(found) = found {
                known.insert(key.clone(), found);
            }
        }
        shelf.fetch(sql, new)?;
        Ok(Self { known, shelf, sold: Vec::new() })
    }

    /// Sells, or finds what the key names: then [`Batch::row`] has it.
    fn sell(
        &mut self,
        index: usize,
        new: &NewSale,
        issuer: &dyn TokenIssuer,
    ) -> Result<(), Refusal> {
        check_text("Idempotency-Key", &new.key, 128)?;
        if let Some((hash, known)) = self.known.get(&new.key) {
            let is_same = *hash == new.body_hash && !matches!(known, Known::TopUp);
            return if is_same { Ok(()) } else { Err(Refusal::KeyReused) };
        }
        let (split, day) = split(&mut self.shelf, new)?;
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
        self.known.insert(new.key.clone(), (new.body_hash, Known::Now(self.sold.len())));
        self.sold.push((index, row));
        Ok(())
    }

    /// The sale that the key names; ids are known once the batch is written.
    fn row(&self, new: &NewSale) -> SaleRow {
        match self.known.get(&new.key) {
            Some((_, Known::Now(place))) => self.sold[*place].1.clone(),
            Some((_, Known::Before(row))) => SaleRow::clone(row),
            Some((_, Known::TopUp)) | None => unreachable!("only a sale is not refused"),
        }
    }

    /// Writes what the sales of the batch made. The answer is the row of the outbox with its length.
    fn write(
        &mut self,
        write: &Writing<'_>,
        new: &[NewSale],
    ) -> Result<(OutboxRow, usize), RegistryError> {
        let count = self.sold.len() as u64;
        let (last, outbox) = (write.advance("purchase", count)?, write.advance("outbox", 1)?);
        let mut changes = Vec::with_capacity(self.sold.len());
        for ((_, row), id) in self.sold.iter_mut().zip(last - count + 1..) {
            (row.id, row.outbox) = (PurchaseId(id), OutboxId(outbox));
            let (sale, account, at, lines) = (row.id, row.account, row.at, row.lines());
            changes.push(Change::Sale(Sale { sale, account, at, lines }));
        }
        let payload = payload_of(&changes);
        let length = payload.len();
        write.run(INSERT_OUTBOX, (outbox.cast_signed(), payload))?;
        for (index, row) in &self.sold {
            write_sale(write, &new[*index], row)?;
        }
        let remote: Vec<_> = self.remote().map(|(index, row)| (row, new[index].actor)).collect();
        enter_tokens(write, &remote)?;
        for id in self.touched() {
            if let Some(account) = self.shelf.accounts.get(&id) {
                write_account(write, id, account)?;
            }
        }
        for agent in self.shelf.agents.values().filter(|agent| !agent.days.is_empty()) {
            write_agent(write, agent)?;
        }
        Ok((OutboxRow { id: OutboxId(outbox), changes: changes.into() }, length))
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
}

/// The lines of a sale, and the periods of the account it falls into.
fn split(shelf: &mut Shelf, new: &NewSale) -> Result<(Split, Periods), Refusal> {
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
    let account = shelf.accounts.get(&new.account.0);
    let account = account.ok_or_else(|| Refusal::not_found("account", new.account))?;
    account.check_can_pay(new)?;
    if new.currency.as_ref().is_some_and(|currency| *currency != account.currency) {
        return Err(Refusal::Currency { want: account.currency.clone() });
    }
    let calendar = calendar(&mut shelf.calendars, &account.zone)?;
    let date = calendar.local(new.at).date;
    let plan = account.plans.at(new.at);
    let versions = shelf.versions.get(&plan.0).map_or(&[][..], Vec::as_slice);
    let first = versions.first().ok_or(Refusal::PlanEmpty(plan))?.valid_from;
    let version = versions.iter().rev().find(|version| version.valid_from <= date);
    let version = version.ok_or(Refusal::BeforeTariff { plan, first })?;
    let block = match version.block_period {
        BlockPeriod::Month => date.first_of_month(),
        BlockPeriod::Year => date.first_of_year(),
    };
    let periods = Periods { month: date.first_of_month().to_string(), block: block.to_string() };
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

/// The most that is asked for at once: a million kWh.
const ENERGY_WH_MAX: u64 = 1_000_000_000;
