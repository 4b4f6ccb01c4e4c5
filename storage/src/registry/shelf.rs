//! What the till must know to sell: accounts, tariffs, vending points. It is read with one
//! question a table and kept from batch to batch, until any other transaction writes.
//!
//! **Invariant:** what is kept equals what the tables say, as the till is the only writer since.

use std::collections::{BTreeMap, BTreeSet};

use meter::{Change, LocalCalendar, LocalDate, Money, PlanId, Split, TariffVersion, UnixSeconds};
use sqlx::{Row as _, SqliteConnection};

use super::act::SWITCH_WINDOW_S;
use super::agent::OpenDebt;
use super::many::select;
use super::row::{json, to_u64, u32_of};
use super::sale::{NewSale, SaleKind};
use super::token_meter::{METER_COLUMNS, TokenMeter, token_meter_of};
use super::{Refusal, RegistryError};

/// Accounts kept at most.
const ACCOUNTS_MAX: usize = 16_384;

/// All that sales touch.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) accounts: BTreeMap<u32, AccountState>,
    pub(super) versions: BTreeMap<u32, Vec<TariffVersion>>,
    pub(super) calendars: BTreeMap<String, LocalCalendar>,
    pub(super) agents: BTreeMap<u32, AgentState>,
    /// The vending point of an API token, if it has one.
    agent_of: BTreeMap<u32, Option<u32>>,
}

/// The shelf between two batches.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Transactions of others so far.
    others: u64,
    shelf: Shelf,
}

impl Kept {
    /// Takes the shelf away; a transaction that fails does not bring it back.
    pub(super) fn take(&mut self) -> (u64, Shelf) {
        (self.others, std::mem::take(&mut self.shelf))
    }

    /// Brings the shelf back, unless another transaction began meanwhile.
    pub(super) fn keep(&mut self, (others, shelf): (u64, Shelf)) {
        if others == self.others {
            self.shelf = shelf;
        }
    }

    /// Another transaction writes.
    pub(super) fn forget(&mut self) {
        self.others += 1;
        self.shelf = Shelf::default();
    }
}

/// What is known of an account.
#[derive(Debug)]
pub(super) struct AccountState {
    pub(super) plan: PlanId,
    pub(super) currency: String,
    pub(super) zone: String,
    pub(super) meter: Option<TokenMeter>,
    /// The meter before the sales of the batch, once one of them changed it.
    pub(super) meter_before: Option<TokenMeter>,
    pub(super) debt: Option<OpenDebt>,
    pub(super) debt_changed: bool,
    closed_at: Option<u32>,
    switch_at: Option<UnixSeconds>,
    /// Energy bought by block period.
    pub(super) bought: BTreeMap<String, u64>,
    pub(super) bought_changed: BTreeSet<String>,
}

/// What is known of a vending point.
#[derive(Debug)]
pub(super) struct AgentState {
    pub(super) id: u32,
    zone: String,
    limit: Money,
    pub(super) owed: Money,
    /// By local day: sales of the batch, and what they paid.
    pub(super) days: BTreeMap<String, (i64, i64)>,
}

/// The local periods that a sale falls into, by their first days.
#[derive(Debug)]
pub(super) struct Periods {
    pub(super) month: String,
    pub(super) block: String,
}

impl Shelf {
    /// Reads what these sales touch and is not here.
    pub(super) async fn fetch(
        &mut self,
        sql: &mut SqliteConnection,
        new: &[NewSale],
    ) -> Result<(), RegistryError> {
        if self.accounts.len() > ACCOUNTS_MAX {
            *self = Self::default();
        }
        let missing = |pick: fn(&NewSale) -> u32, is_here: &dyn Fn(u32) -> bool| -> Vec<i64> {
            let ids: BTreeSet<u32> = new.iter().map(pick).filter(|id| !is_here(*id)).collect();
            ids.into_iter().map(i64::from).collect()
        };
        let ids = missing(|sale| sale.account.0, &|id| self.accounts.contains_key(&id));
        self.accounts.extend(load_accounts(sql, &ids).await?);
        let tokens = missing(|sale| sale.actor, &|id| self.agent_of.contains_key(&id));
        self.fetch_agents(sql, &tokens).await?;
        self.fetch_versions(sql, new).await
    }

    /// The vending point that an API token belongs to.
    pub(super) fn agent(&mut self, token: u32) -> Option<&mut AgentState> {
        let id = self.agent_of.get(&token).copied().flatten()?;
        self.agents.get_mut(&id)
    }

    /// Takes note of what a sale paid at its vending point, if it has one.
    pub(super) fn count_at_agent(&mut self, new: &NewSale, paid: Money) -> Result<(), Refusal> {
        let Some(id) = self.agent_of.get(&new.actor).copied().flatten() else { return Ok(()) };
        let agent = self.agents.get_mut(&id).expect("a vending point is here with its tokens");
        agent.count(paid, new.at, &mut self.calendars)
    }

    /// What the sales of a batch changed about these accounts is written.
    pub(super) fn settle(&mut self, accounts: &BTreeSet<u32>) {
        for id in accounts {
            let Some(account) = self.accounts.get_mut(id) else { continue };
            account.meter_before = None;
            account.debt_changed = false;
            account.debt = account.debt.take().filter(|debt| debt.left > Money::ZERO);
            account.bought_changed.clear();
        }
        for agent in self.agents.values_mut() {
            agent.days.clear();
        }
    }

    async fn fetch_agents(
        &mut self,
        sql: &mut SqliteConnection,
        tokens: &[i64],
    ) -> Result<(), RegistryError> {
        let text = "SELECT t.token, a.id, a.zone, a.credit_limit, a.owed FROM agent_token t \
             JOIN agent a ON a.id = t.agent WHERE t.token IN ";
        let mut agent_of = BTreeMap::new();
        for row in select(sql, text, tokens).await? {
            let id = u32_of(&row, 1)?;
            agent_of.insert(u32_of(&row, 0)?, id);
            let agent = AgentState {
                id,
                zone: row.try_get(2)?,
                limit: Money::from_ticks(row.try_get(3)?),
                owed: Money::from_ticks(row.try_get(4)?),
                days: BTreeMap::new(),
            };
            self.agents.insert(id, agent);
        }
        for token in tokens.iter().filter_map(|token| u32::try_from(*token).ok()) {
            self.agent_of.insert(token, agent_of.get(&token).copied());
        }
        Ok(())
    }

    async fn fetch_versions(
        &mut self,
        sql: &mut SqliteConnection,
        new: &[NewSale],
    ) -> Result<(), RegistryError> {
        let accounts = new.iter().filter_map(|sale| self.accounts.get(&sale.account.0));
        let plans: BTreeSet<u32> = accounts
            .map(|account| account.plan.0)
            .filter(|plan| !self.versions.contains_key(plan))
            .collect();
        let text = "SELECT plan, body FROM plan_version WHERE plan IN ";
        let ids: Vec<i64> = plans.iter().copied().map(i64::from).collect();
        let rows = select(sql, text, &ids).await?;
        self.versions.extend(plans.iter().map(|plan| (*plan, Vec::new())));
        for row in rows {
            self.versions.entry(u32_of(&row, 0)?).or_default().push(json(row.try_get(1)?)?);
        }
        for plan in plans {
            let versions = self.versions.entry(plan).or_default();
            versions.sort_by_key(|version| version.valid_from);
        }
        Ok(())
    }
}

impl AccountState {
    /// Open, and no switch of mode is under way: as top-ups are checked.
    pub(super) fn check_can_pay(&self, new: &NewSale) -> Result<(), Refusal> {
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
    pub(super) fn count(&mut self, split: &Split, periods: &Periods, kind: SaleKind) {
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
    pub(super) fn check(&self, paid: Money) -> Result<(), Refusal> {
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

pub(super) fn calendar<'a>(
    calendars: &'a mut BTreeMap<String, LocalCalendar>,
    zone: &str,
) -> Result<&'a LocalCalendar, Refusal> {
    if !calendars.contains_key(zone) {
        calendars.insert(zone.to_owned(), LocalCalendar::new(zone)?);
    }
    Ok(&calendars[zone])
}

async fn load_accounts(
    sql: &mut SqliteConnection,
    ids: &[i64],
) -> Result<BTreeMap<u32, AccountState>, RegistryError> {
    let mut accounts = BTreeMap::new();
    let mut served: BTreeMap<u32, u32> = BTreeMap::new();
    let text = "SELECT a.id, a.plan, p.currency, a.zone, i.meter FROM account a \
         JOIN plan p ON p.id = a.plan \
         LEFT JOIN installation i ON i.account = a.id AND i.removed_at IS NULL WHERE a.id IN ";
    for row in select(sql, text, ids).await? {
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
    for row in select(sql, &format!("{METER_COLUMNS} WHERE meter IN "), &meters).await? {
        let meter = token_meter_of(&row)?;
        let account = served.get(&meter.meter.0).and_then(|id| accounts.get_mut(id));
        if let Some(account) = account {
            account.meter = Some(meter);
        }
    }
    let text = "SELECT account, body FROM act WHERE kind IN ('closing', 'switch') AND account IN ";
    for row in select(sql, text, ids).await? {
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
    for row in select(sql, text, ids).await? {
        let Some(account) = accounts.get_mut(&u32_of(&row, 0)?) else { continue };
        account.debt = Some(OpenDebt::read(&row, 1)?);
    }
    let text = "SELECT account, period, wh FROM energy_bought WHERE account IN ";
    for row in select(sql, text, ids).await? {
        let Some(account) = accounts.get_mut(&u32_of(&row, 0)?) else { continue };
        account.bought.insert(row.try_get(1)?, to_u64(row.try_get(2)?)?);
    }
    Ok(accounts)
}
