//! The till: many sales in one transaction, so that one sync makes all of them durable.
//!
//! Everything that the sales touch is read first, with one question a table; the sales are then
//! worked out one after another in memory, and what they made is written with one statement a
//! table. A sale that breaks a rule leaves no trace and does not disturb the others.
//!
//! The file is longer than most: what is read, worked out and written must be seen together.
//!
//! **Invariant:** a key names one sale for ever; the identifier of a token is committed with the
//! token and never given out again; lines, tokens and outbox row of a sale are all there or absent.

use std::collections::{BTreeMap, BTreeSet};

use meter::{
    Ask, BlockPeriod, Change, CreditUnit, Energy, LocalCalendar, LocalDate, Money, OutboxId,
    PlanId, PurchaseId, Sale, SaleTerms, Split, TariffVersion, UnixSeconds,
};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::account::AMOUNT_MAX;
use super::act::SWITCH_WINDOW_S;
use super::agent::OpenDebt;
use super::entry::TokenEntry;
use super::place::check_text;
use super::row::{json, u32_of};
use super::sale::{NewSale, SALE_COLUMNS, SaleKind, SaleRow, SaleState, SoldToken, sale_of};
use super::token_meter::{METER_COLUMNS, TokenMeter, token_meter_of};
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

/// What a batch knows of an account.
struct AccountState {
    plan: PlanId,
    currency: String,
    zone: String,
    meter: Option<TokenMeter>,
    /// The meter before the sales of the batch, once one of them changed it.
    meter_before: Option<TokenMeter>,
    debt: Option<OpenDebt>,
    debt_changed: bool,
    closed_at: Option<u32>,
    switch_at: Option<UnixSeconds>,
    bought: BTreeMap<String, u64>,
    bought_changed: BTreeSet<String>,
}

struct AgentState {
    id: u32,
    zone: String,
    limit: Money,
    owed: Money,
    days: BTreeMap<String, (i64, i64)>,
}

/// All that the sales of a batch touch.
struct Batch {
    known: BTreeMap<String, ([u8; 32], Result<SaleRow, Refusal>)>,
    accounts: BTreeMap<u32, AccountState>,
    versions: BTreeMap<u32, Vec<TariffVersion>>,
    calendars: BTreeMap<String, LocalCalendar>,
    agents: BTreeMap<u32, AgentState>,
    agent_of: BTreeMap<u32, u32>,
    sold: Vec<(usize, SaleRow)>,
}

impl Registry {
    /// What a sale would come to, without selling anything.
    ///
    /// # Errors
    /// As [`Registry::sell`].
    pub async fn quote(&self, new: &NewSale) -> Result<Split, RegistryError> {
        let mut connection = self.readers.acquire().await?;
        let mut batch = Batch::load(&mut connection, std::slice::from_ref(new)).await?;
        Ok(batch.split(new)?.0)
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
        let mut write = self.write().await?;
        let mut batch = Batch::load(write.sql(), new).await?;
        let mut answers = Vec::with_capacity(new.len());
        for (index, sale) in new.iter().enumerate() {
            answers.push(batch.sell(index, sale, issuer));
        }
        if batch.sold.is_empty() {
            return Ok(answers);
        }
        let outbox = batch.write(&mut write, new).await?;
        write.commit().await?;
        if batch.remote().next().is_some() {
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
}

impl Batch {
    async fn load(
        sql: &mut sqlx::SqliteConnection,
        new: &[NewSale],
    ) -> Result<Self, RegistryError> {
        let keys: Vec<String> = new.iter().map(|sale| sale.key.clone()).collect();
        let mut known = BTreeMap::new();
        for row in of(sql, &format!("{SALE_COLUMNS} WHERE idempotency_key IN "), &keys).await? {
            let sale = sale_of(&row)?;
            let hash: &[u8] = row.try_get(14)?;
            let hash = hash.try_into().unwrap_or_default();
            known.insert(sale.key.clone(), (hash, Ok(sale)));
        }
        let text = "SELECT idempotency_key FROM purchase WHERE idempotency_key IN ";
        for row in of(sql, text, &keys).await? {
            known.insert(row.try_get(0)?, ([0; 32], Err(Refusal::KeyReused)));
        }
        let ids = |pick: fn(&NewSale) -> u32| -> Vec<i64> {
            let ids: BTreeSet<u32> = new.iter().map(pick).collect();
            ids.into_iter().map(i64::from).collect()
        };
        let accounts = load_accounts(sql, &ids(|sale| sale.account.0)).await?;
        let (agents, agent_of) = load_agents(sql, &ids(|sale| sale.actor)).await?;
        let plans: BTreeSet<u32> = accounts.values().map(|account| account.plan.0).collect();
        let plans: Vec<i64> = plans.into_iter().map(i64::from).collect();
        let mut versions: BTreeMap<u32, Vec<TariffVersion>> = BTreeMap::new();
        let text = "SELECT plan, body FROM plan_version WHERE plan IN ";
        for row in of(sql, text, &plans).await? {
            versions.entry(u32_of(&row, 0)?).or_default().push(json(row.try_get(1)?)?);
        }
        for versions in versions.values_mut() {
            versions.sort_by_key(|version| version.valid_from);
        }
        let (calendars, sold) = (BTreeMap::new(), Vec::new());
        Ok(Self { known, accounts, versions, calendars, agents, agent_of, sold })
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
        let agent = self.agent_of.get(&new.actor).copied();
        if let Some(agent) = agent.and_then(|id| self.agents.get(&id)) {
            agent.check(split.paid)?;
        }
        let account = self.accounts.get_mut(&new.account.0).expect("split found the account");
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
        if let Some(agent) = agent.and_then(|id| self.agents.get_mut(&id)) {
            agent.count(split.paid, new.at, &mut self.calendars)?;
        }
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
        let account = self.accounts.get(&new.account.0);
        let account = account.ok_or_else(|| Refusal::not_found("account", new.account))?;
        account.check_can_pay(new)?;
        if new.currency.as_ref().is_some_and(|currency| *currency != account.currency) {
            return Err(Refusal::Currency { want: account.currency.clone() });
        }
        let calendar = calendar(&mut self.calendars, &account.zone)?;
        let date = calendar.local(new.at).date;
        let versions = self.versions.get(&account.plan.0).map_or(&[][..], Vec::as_slice);
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

    /// The sales whose tokens the node sends to the meter.
    fn remote(&self) -> impl Iterator<Item = (usize, &SaleRow)> {
        let is_remote = |row: &SaleRow| {
            let meter = self.accounts.get(&row.account.0).and_then(|state| state.meter.as_ref());
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
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO sale (id, idempotency_key, body_hash, kind, account, meter, agent, \
             actor, at, paid, detail, tokens, reason, state, outbox) ",
        );
        query.push_values(&self.sold, |mut values, (index, row)| {
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
        });
        query.build().execute(write.sql()).await?;
        Ok(())
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
        let count = tokens.len() as u64;
        let first = write.advance("issued_token", count).await? - count + 1;
        let rows: Vec<_> = (first..).zip(tokens).collect();
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO issued_token (id, meter, sale, kind, base_year, tid, digits, actor, at) ",
        );
        query.push_values(rows, |mut values, (id, (index, row, token))| {
            values
                .push_bind(id as i64)
                .push_bind(row.meter.map(|meter| i64::from(meter.0)))
                .push_bind(row.id.0 as i64)
                .push_bind(token.kind.clone())
                .push_bind(i64::from(token.base_year))
                .push_bind(token.tid.map(i64::from))
                .push_bind(token.digits.clone())
                .push_bind(i64::from(new[index].actor))
                .push_bind(i64::from(row.at.0));
        });
        query.build().execute(write.sql()).await?;
        Ok(())
    }

    async fn write_states(&self, write: &mut Write<'_>) -> Result<(), RegistryError> {
        let meters = self.accounts.values();
        let meters = meters.filter_map(|a| a.meter_before.as_ref().zip(a.meter.as_ref()));
        // Nearly always the identifier alone has moved on.
        let (moved, changed): (Vec<_>, Vec<_>) = meters.partition(|(before, meter)| {
            **before == TokenMeter { last_tid: before.last_tid, ..(*meter).clone() }
        });
        let moved: Vec<_> =
            moved.into_iter().map(|(_, meter)| (meter.meter, meter.last_tid)).collect();
        write.put_last_tids(&moved).await?;
        let changed: Vec<TokenMeter> =
            changed.into_iter().map(|(_, meter)| meter.clone()).collect();
        write.put_token_meters(&changed).await?;
        let bought: Vec<(u32, String, u64)> = self
            .accounts
            .iter()
            .flat_map(|(id, account)| {
                let bought = account.bought_changed.iter();
                bought.map(move |period| (*id, period.clone(), account.bought[period]))
            })
            .collect();
        if !bought.is_empty() {
            let mut query =
                QueryBuilder::<Sqlite>::new("INSERT INTO energy_bought (account, period, wh) ");
            query.push_values(bought, |mut values, (account, period, wh)| {
                values.push_bind(i64::from(account)).push_bind(period).push_bind(wh as i64);
            });
            query.push(" ON CONFLICT (account, period) DO UPDATE SET wh = excluded.wh");
            query.build().execute(write.sql()).await?;
        }
        for account in self.accounts.values().filter(|account| account.debt_changed) {
            if let Some(debt) = &account.debt {
                write.put_debt(debt).await?;
            }
        }
        for agent in self.agents.values() {
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

/// The local periods that a sale falls into, by their first days.
struct Periods {
    month: String,
    block: String,
}

impl AccountState {
    /// Open, and no switch of mode is under way: as top-ups are checked.
    fn check_can_pay(&self, new: &NewSale) -> Result<(), Refusal> {
        if let Some(at) = self.closed_at {
            return Err(Refusal::AccountClosed { account: new.account, at });
        }
        if let Some(at) = self.switch_at
            && new.at.plus(SWITCH_WINDOW_S) >= at
            && new.at < at.plus(SWITCH_WINDOW_S)
        {
            return Err(Refusal::SwitchUnderWay { until: at.plus(SWITCH_WINDOW_S).0 });
        }
        Ok(())
    }

    /// Takes note of a sale.
    fn count(&mut self, split: &Split, periods: &Periods, kind: SaleKind) {
        if split.debt > Money::ZERO
            && let Some(debt) = &mut self.debt
        {
            debt.note(split.debt, &periods.month);
            self.debt_changed = true;
        }
        // What is given away does not lift later purchases into a dearer block.
        let wh = split.energy().wh();
        if wh > 0 && kind == SaleKind::Purchase {
            *self.bought.entry(periods.block.clone()).or_default() += wh;
            self.bought_changed.insert(periods.block.clone());
        }
    }
}

impl AgentState {
    fn check(&self, paid: Money) -> Result<(), Refusal> {
        let after = self.owed.plus(paid)?;
        if after <= self.limit {
            return Ok(());
        }
        let (owed, limit) = (self.owed.to_decimal(), self.limit.to_decimal());
        let reason = format!("the vending point owes {owed}, its credit limit is {limit}");
        let hint = "settle what it owes, or raise its credit limit";
        Err(Refusal::vending("agent_limit_reached", reason, hint))
    }

    fn count(
        &mut self,
        paid: Money,
        at: UnixSeconds,
        calendars: &mut BTreeMap<String, LocalCalendar>,
    ) -> Result<(), Refusal> {
        self.owed = self.owed.plus(paid)?;
        let day: LocalDate = calendar(calendars, &self.zone)?.local(at).date;
        let (sales, sum) = self.days.entry(day.to_string()).or_default();
        (*sales, *sum) = (*sales + 1, *sum + paid.ticks());
        Ok(())
    }
}

/// JSON of a value of ours.
fn text<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("its keys are strings")
}

fn calendar<'a>(
    calendars: &'a mut BTreeMap<String, LocalCalendar>,
    zone: &str,
) -> Result<&'a LocalCalendar, Refusal> {
    if !calendars.contains_key(zone) {
        calendars.insert(zone.to_owned(), LocalCalendar::new(zone)?);
    }
    Ok(&calendars[zone])
}

/// Rows whose column is one of `values`.
async fn of<T>(
    sql: &mut sqlx::SqliteConnection,
    text: &str,
    values: &[T],
) -> Result<Vec<SqliteRow>, RegistryError>
where
    T: Clone + Send + Sync + for<'q> sqlx::Encode<'q, Sqlite> + sqlx::Type<Sqlite> + 'static,
{
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = QueryBuilder::<Sqlite>::new(text);
    query.push("(");
    let mut list = query.separated(", ");
    for value in values {
        list.push_bind(value.clone());
    }
    query.push(")");
    Ok(query.build().fetch_all(sql).await?)
}

async fn load_accounts(
    sql: &mut sqlx::SqliteConnection,
    ids: &[i64],
) -> Result<BTreeMap<u32, AccountState>, RegistryError> {
    let mut accounts = BTreeMap::new();
    let mut served: BTreeMap<u32, u32> = BTreeMap::new();
    let text = "SELECT a.id, a.plan, p.currency, a.zone, i.meter FROM account a \
         JOIN plan p ON p.id = a.plan \
         LEFT JOIN installation i ON i.account = a.id AND i.removed_at IS NULL WHERE a.id IN ";
    for row in of(sql, text, ids).await? {
        let id = u32_of(&row, 0)?;
        served.insert(u32_of(&row, 4)?, id);
        let account = AccountState {
            plan: PlanId(u32_of(&row, 1)?),
            currency: row.try_get(2)?,
            zone: row.try_get(3)?,
            meter: None,
            meter_before: None,
            debt: None,
            debt_changed: false,
            closed_at: None,
            switch_at: None,
            bought: BTreeMap::new(),
            bought_changed: BTreeSet::new(),
        };
        accounts.insert(id, account);
    }
    let meters: Vec<i64> = served.keys().map(|meter| i64::from(*meter)).collect();
    for row in of(sql, &format!("{METER_COLUMNS} WHERE meter IN "), &meters).await? {
        let meter = token_meter_of(&row)?;
        let account = served.get(&meter.meter.0).and_then(|id| accounts.get_mut(id));
        if let Some(account) = account {
            account.meter = Some(meter);
        }
    }
    let text = "SELECT account, body FROM act WHERE kind IN ('closing', 'switch') AND account IN ";
    for row in of(sql, text, ids).await? {
        let Some(account) = accounts.get_mut(&u32_of(&row, 0)?) else { continue };
        let change = json(row.try_get(1)?)?;
        if let Change::Close(closing) = &change {
            account.closed_at = Some(closing.at.0);
        }
        if let Change::Switch(switch) = &change {
            // Of several switches the newest lies furthest ahead.
            account.switch_at = account.switch_at.max(Some(switch.at));
        }
    }
    let text = "SELECT account, id, left_over, share_bp, cap, month, recovered FROM debt \
         WHERE left_over > 0 AND account IN ";
    for row in of(sql, text, ids).await? {
        let Some(account) = accounts.get_mut(&u32_of(&row, 0)?) else { continue };
        account.debt = Some(OpenDebt::read(&row, 1)?);
    }
    let text = "SELECT account, period, wh FROM energy_bought WHERE account IN ";
    for row in of(sql, text, ids).await? {
        let Some(account) = accounts.get_mut(&u32_of(&row, 0)?) else { continue };
        account.bought.insert(row.try_get(1)?, super::row::to_u64(row.try_get(2)?)?);
    }
    Ok(accounts)
}

type Agents = (BTreeMap<u32, AgentState>, BTreeMap<u32, u32>);

async fn load_agents(
    sql: &mut sqlx::SqliteConnection,
    tokens: &[i64],
) -> Result<Agents, RegistryError> {
    let (mut agents, mut agent_of) = (BTreeMap::new(), BTreeMap::new());
    let text = "SELECT t.token, a.id, a.zone, a.credit_limit, a.owed FROM agent_token t \
         JOIN agent a ON a.id = t.agent WHERE t.token IN ";
    for row in of(sql, text, tokens).await? {
        let id = u32_of(&row, 1)?;
        agent_of.insert(u32_of(&row, 0)?, id);
        agents.insert(
            id,
            AgentState {
                id,
                zone: row.try_get(2)?,
                limit: Money::from_ticks(row.try_get(3)?),
                owed: Money::from_ticks(row.try_get(4)?),
                days: BTreeMap::new(),
            },
        );
    }
    Ok((agents, agent_of))
}

/// The most that is asked for at once: a million kWh.
const ENERGY_WH_MAX: u64 = 1_000_000_000;
