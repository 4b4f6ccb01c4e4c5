//! Which tariff plan an account has when. A change is dated to a local midnight ahead; it takes the
//! place of whatever was to hold from then on, so that one to the plan before takes back what waits.
//!
//! **Invariant:** what has begun never changes, and within a block period an account has a plan once,
//! so that the blocks of the period are counted in the order of its days.

use meter::{
    BlockPeriod, LocalCalendar, LocalDate, PlanChange, PlanId, SplitError, TariffVersion,
    UnixSeconds,
};

use super::account::Account;
use super::row::json;
use super::write::Write;
use super::{Refusal, Registry, RegistryError};

/// The plans of an account by the midnight from which each holds, in the order of time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plans(Vec<(UnixSeconds, PlanId)>);

/// A change is known this long before it holds: longer than a meter's clock may be ahead.
const NOTICE_S: u32 = 3600;

/// Different histories of plans at most; the books keep the rates of each.
const HISTORIES_MAX: i64 = 50_000;

impl Plans {
    /// One plan from the beginning.
    pub(super) fn only(plan: PlanId) -> Self {
        Self(vec![(UnixSeconds(0), plan)])
    }

    /// As the columns `plan` and `plans` have them.
    pub(super) fn read(plan: PlanId, text: &str) -> Result<Self, RegistryError> {
        if text.is_empty() { Ok(Self::only(plan)) } else { Ok(Self(json(text)?)) }
    }

    /// As the column `plans` has them.
    fn text(&self) -> String {
        serde_json::to_string(&self.0).expect("numbers have no keys")
    }

    /// The plan at an instant.
    #[must_use]
    pub fn at(&self, at: UnixSeconds) -> PlanId {
        let held = self.0.iter().rfind(|(from, _)| *from <= at);
        held.map_or(PlanId::NONE, |(_, plan)| *plan)
    }

    /// The change that waits next.
    #[must_use]
    pub fn next(&self, now: UnixSeconds) -> Option<(UnixSeconds, PlanId)> {
        self.0.iter().copied().find(|(from, _)| *from > now)
    }

    /// All of them, the first from the beginning of time.
    #[must_use]
    pub fn all(&self) -> &[(UnixSeconds, PlanId)] {
        &self.0
    }

    /// The plans with another one from a midnight on.
    fn changed(&self, at: UnixSeconds, plan: PlanId) -> Self {
        let mut plans = self.0.clone();
        plans.retain(|(from, _)| *from < at);
        if plans.last().is_none_or(|(_, before)| *before != plan) {
            plans.push((at, plan));
        }
        Self(plans)
    }

    /// When the account leaves a plan for another one before the last, if it does.
    fn left(&self, plan: PlanId) -> Option<UnixSeconds> {
        let (_, before) = self.0.split_last()?;
        let place = before.iter().rposition(|(_, held)| *held == plan)?;
        self.0.get(place + 1).map(|(from, _)| *from)
    }
}

impl Registry {
    /// The next instant after `now` at which an account gets another plan.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn next_plan_change(
        &self,
        now: UnixSeconds,
    ) -> Result<Option<UnixSeconds>, RegistryError> {
        let texts: Vec<String> =
            sqlx::query_scalar("SELECT DISTINCT plans FROM account WHERE plans <> ''")
                .fetch_all(&self.readers)
                .await?;
        let mut next = None;
        for text in texts {
            let change = Plans::read(PlanId::NONE, &text)?.next(now).map(|(at, _)| at);
            next = next.into_iter().chain(change).min();
        }
        Ok(next)
    }
}

impl Write<'_> {
    /// Gives an account another plan from a local midnight ahead.
    pub(super) async fn change_plan(
        &mut self,
        account: &Account,
        change: &PlanChange,
        now: UnixSeconds,
    ) -> Result<(), RegistryError> {
        let PlanChange { account: id, plan, at } = *change;
        self.check_can_pay(id, now).await?;
        let calendar = LocalCalendar::new(&account.terms.zone).map_err(Refusal::from)?;
        let date = calendar.local(at).date;
        if calendar.day_start(date) != at || at < now.plus(NOTICE_S) {
            let reason = "must be a local day that begins in an hour or later";
            return Err(Refusal::invalid("from", reason).into());
        }
        self.check_currency(plan, account.terms.plan).await?;
        let first = self.first_version(plan).await?;
        if date < first {
            return Err(Refusal::BeforeTariff { plan, first }.into());
        }
        let plans = account.plans.changed(at, plan);
        if plans == account.plans {
            return Err(Refusal::SamePlan { plan }.into());
        }
        let bodies: Vec<String> =
            sqlx::query_scalar("SELECT body FROM plan_version WHERE plan = $1 ORDER BY valid_from")
                .bind(i64::from(plan.0))
                .fetch_all(self.sql())
                .await?;
        let versions: Vec<TariffVersion> =
            bodies.iter().map(|body| json(body)).collect::<Result<_, _>>()?;
        let ahead = versions.iter().rposition(|version| version.valid_from <= date);
        let ahead = &versions[ahead.unwrap_or_default()..];
        check_period(&plans, (plan, date), &calendar, ahead)?;
        self.check_flat(account, ahead).await?;
        self.check_histories(&plans, &account.terms.zone).await?;
        sqlx::query("UPDATE account SET plan = $1, plans = $2 WHERE id = $3")
            .bind(i64::from(plan.0))
            .bind(plans.text())
            .bind(i64::from(id.0))
            .execute(self.sql())
            .await?;
        Ok(())
    }

    /// A balance has one currency, so another plan must have it too.
    async fn check_currency(&mut self, plan: PlanId, before: PlanId) -> Result<(), RegistryError> {
        let mut currencies = Vec::new();
        for id in [plan, before] {
            let text = sqlx::query_scalar("SELECT currency FROM plan WHERE id = $1");
            let found: Option<String> =
                text.bind(i64::from(id.0)).fetch_optional(self.sql()).await?;
            currencies.push(found.ok_or_else(|| Refusal::not_found("plan", id))?);
        }
        if currencies[0] != currencies[1] {
            return Err(Refusal::Currency { want: currencies.swap_remove(1) }.into());
        }
        Ok(())
    }

    /// Who is sold energy needs a plan with a single rate.
    async fn check_flat(
        &mut self,
        account: &Account,
        ahead: &[TariffVersion],
    ) -> Result<(), RegistryError> {
        let rates = ahead.iter().map(|version| version.prices.len()).find(|rates| *rates != 1);
        let Some(rates) = rates else { return Ok(()) };
        let meter = self.token_meter(account.meter).await?;
        if meter.is_some_and(|meter| meter.counts_energy()) {
            return Err(Refusal::from(SplitError::NotFlat(rates)).into());
        }
        Ok(())
    }

    async fn check_histories(&mut self, plans: &Plans, zone: &str) -> Result<(), RegistryError> {
        let (others, is_known): (i64, bool) = sqlx::query_as(
            "SELECT (SELECT COUNT(*) FROM (SELECT DISTINCT plans, zone FROM account \
             WHERE plans <> '')), \
             EXISTS (SELECT 1 FROM account WHERE plans <> '' AND plans = $1 AND zone = $2)",
        )
        .bind(plans.text())
        .bind(zone)
        .fetch_one(self.sql())
        .await?;
        if is_known || others < HISTORIES_MAX {
            return Ok(());
        }
        let reason = format!("the accounts have {HISTORIES_MAX} different histories of plans");
        let hint = "let accounts change on the same days: those that change alike share one";
        Err(Refusal::vending("plan_histories_full", reason, hint).into())
    }
}

/// Within a block period an account has a plan once.
fn check_period(
    plans: &Plans,
    (plan, date): (PlanId, LocalDate),
    calendar: &LocalCalendar,
    ahead: &[TariffVersion],
) -> Result<(), Refusal> {
    let first = match ahead.first().map(|version| version.block_period) {
        Some(BlockPeriod::Year) => date.first_of_year(),
        Some(BlockPeriod::Month) | None => date.first_of_month(),
    };
    match plans.left(plan).filter(|left| *left > calendar.day_start(first)) {
        Some(left) => {
            let left = calendar.local(left).date;
            Err(Refusal::PlanLeft { plan, left, first })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_takes_the_place_of_what_was_to_hold() {
        let plans = |list: &[(u32, u32)]| {
            Plans(list.iter().map(|(at, plan)| (UnixSeconds(*at), PlanId(*plan))).collect())
        };
        let check = |before: &[(u32, u32)], (at, plan), want: &[(u32, u32)]| {
            let changed = plans(before).changed(UnixSeconds(at), PlanId(plan));
            assert_eq!(changed, plans(want), "{before:?} {at} {plan}");
            assert_eq!(Plans::read(PlanId(9), &changed.text()).unwrap(), changed);
        };
        check(&[(0, 1)], (900, 2), &[(0, 1), (900, 2)]);
        check(&[(0, 1), (900, 2)], (900, 1), &[(0, 1)]);
        check(&[(0, 1), (900, 2)], (900, 3), &[(0, 1), (900, 3)]);
        check(&[(0, 1), (900, 2)], (1800, 3), &[(0, 1), (900, 2), (1800, 3)]);
        check(&[(0, 1), (900, 2)], (1800, 2), &[(0, 1), (900, 2)]);
        check(&[(0, 1), (900, 2), (1800, 3)], (600, 4), &[(0, 1), (600, 4)]);
        let three = plans(&[(0, 1), (900, 2), (1800, 1)]);
        let at = |at| three.at(UnixSeconds(at)).0;
        assert_eq!([at(0), at(899), at(900), at(1800)], [1, 1, 2, 1]);
        assert_eq!(three.next(UnixSeconds(899)), Some((UnixSeconds(900), PlanId(2))));
        assert_eq!(three.next(UnixSeconds(1800)), None);
        assert_eq!(three.left(PlanId(1)), Some(UnixSeconds(900)));
        assert_eq!(plans(&[(0, 1), (900, 2)]).left(PlanId(2)), None);
        assert_eq!(Plans::read(PlanId(9), "").unwrap(), Plans::only(PlanId(9)));
    }
}
