//! What the till must know to sell: accounts, tariffs, vending points. It is kept from batch to
//! batch, until any other transaction writes.
//!
//! **Invariant:** what is kept equals what the tables say, as the till is the only writer since.

use std::collections::{BTreeMap, BTreeSet};

use meter::{Change, LocalCalendar, LocalDate, Money, PlanId, Split, TariffVersion, UnixSeconds};
use rusqlite::Connection;

use super::act::SWITCH_WINDOW_S;
use super::agent::{OpenDebt, check_limit};
use super::drawer::{row, rows};
use super::plans::Plans;
use super::row::{Columns as _, json, to_u64, u32_of};
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

/// What is known of an account.
#[derive(Debug)]
pub(super) struct AccountState {
    pub(super) plans: Plans,
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
    pub(super) fn fetch(&mut self, sql: &Connection, new: &[NewSale]) -> Result<(), RegistryError> {
        if self.accounts.len() > ACCOUNTS_MAX {
            *self = Self::default();
        }
        for sale in new {
            let id = sale.account.0;
            if !self.accounts.contains_key(&id)
                && let Some(account) = load_account(sql, id)?
            {
                self.accounts.insert(id, account);
            }
            if !self.agent_of.contains_key(&sale.actor) {
                self.fetch_agent(sql, sale.actor)?;
            }
            let plan = self.accounts.get(&id).map(|account| account.plans.at(sale.at).0);
            if let Some(plan) = plan
                && !self.versions.contains_key(&plan)
            {
                let text = "SELECT body FROM plan_version WHERE plan = $1";
                let mut versions: Vec<TariffVersion> =
                    rows(sql, text, [plan], |row| json(row.text(0)?))?;
                versions.sort_by_key(|version| version.valid_from);
                self.versions.insert(plan, versions);
            }
        }
        Ok(())
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

    fn fetch_agent(&mut self, sql: &Connection, token: u32) -> Result<(), RegistryError> {
        let text = "SELECT a.id, a.zone, a.credit_limit, a.owed FROM agent_token t \
             JOIN agent a ON a.id = t.agent WHERE t.token = $1";
        let agent = row(sql, text, [token], |row| {
            Ok(AgentState {
                id: u32_of(row, 0)?,
                zone: row.text(1)?.to_owned(),
                limit: Money::from_ticks(row.number(2)?),
                owed: Money::from_ticks(row.number(3)?),
                days: BTreeMap::new(),
            })
        })?;
        self.agent_of.insert(token, agent.as_ref().map(|agent| agent.id));
        if let Some(agent) = agent {
            // Another API token of it may have sold in this batch.
            self.agents.entry(agent.id).or_insert(agent);
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
        check_limit(self.owed, self.limit, paid)
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

fn load_account(sql: &Connection, id: u32) -> Result<Option<AccountState>, RegistryError> {
    let text = "SELECT a.plan, p.currency, a.zone, i.meter, a.plans FROM account a \
         JOIN plan p ON p.id = a.plan \
         LEFT JOIN installation i ON i.account = a.id AND i.removed_at IS NULL WHERE a.id = $1";
    let found = row(sql, text, [id], |row| {
        let account = AccountState {
            plans: Plans::read(PlanId(u32_of(row, 0)?), row.text(4)?)?,
            currency: row.text(1)?.to_owned(),
            zone: row.text(2)?.to_owned(),
            meter: None,
            meter_before: None,
            debt: None,
            debt_changed: false,
            closed_at: None,
            switch_at: None,
            bought: BTreeMap::new(),
            bought_changed: BTreeSet::new(),
        };
        Ok((account, u32_of(row, 3)?))
    })?;
    let Some((mut account, meter)) = found else { return Ok(None) };
    let text = format!("{METER_COLUMNS} WHERE meter = $1");
    account.meter = row(sql, &text, [meter], |row| token_meter_of(row))?;
    let text = "SELECT body FROM act WHERE kind IN ('closing', 'switch') AND account = $1";
    for change in rows(sql, text, [id], |row| json(row.text(0)?))? {
        if let Change::Close(closing) = &change {
            account.closed_at = Some(closing.at.0);
        }
        if let Change::Switch(switch) = &change {
            // Of several switches the newest lies furthest ahead.
            account.switch_at = account.switch_at.max(Some(switch.at));
        }
    }
    let text = "SELECT id, left_over, share_bp, cap, month, recovered FROM debt \
         WHERE left_over > 0 AND account = $1";
    account.debt = row(sql, text, [id], |row| OpenDebt::read(row, 0))?;
    let text = "SELECT period, wh FROM energy_bought WHERE account = $1";
    let bought =
        rows(sql, text, [id], |row| Ok((row.text(0)?.to_owned(), to_u64(row.number(1)?)?)))?;
    account.bought = bought.into_iter().collect();
    Ok(Some(account))
}
