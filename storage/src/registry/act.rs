//! Acts: what people decide of an account beside its terms — bookings, terms of supply, emergency
//! credit, debts, switches of mode, changes of plan, replacements, the end. Each is one row with the change as the
//! log has it, written with its outbox row.

use meter::{
    AccountId, Booking, Change, Closing, DebtAgreement, FriendlyId, LedgerKind, LocalCalendar,
    Mode, ModeSwitch, Money, OutboxId, Replacement, SupplyTerms, UnixSeconds,
};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::account::{AMOUNT_MAX, Account};
use super::meters::check_role;
use super::place::check_text;
use super::purchase::check_adjustment;
use super::row::{json, of_account, to_i64, to_u64, u32_of};
use super::write::Write;
use super::{Refusal, Registry, RegistryError};

/// An act on record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Act {
    /// The number.
    pub id: u32,
    /// Of which account.
    pub account: AccountId,
    /// What was decided, as the log has it.
    pub change: Change,
    /// When it was recorded.
    pub at: UnixSeconds,
    /// Id of the API token that asked.
    pub actor: u32,
}

/// Seconds around a switch of mode in which no purchase is taken: it would be split by the wrong
/// rules. The books switch at the first tick of a minute.
pub(super) const SWITCH_WINDOW_S: u32 = 120;

const ACT_COLUMNS: &str = "SELECT id, account, body, at, actor FROM act ";

impl Registry {
    /// Records what was decided of an account and tells the books.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::AccountClosed`], [`Refusal::Invalid`],
    /// [`Refusal::SwitchPending`], [`Refusal::SameMode`], [`Refusal::EmergencyOff`],
    /// [`Refusal::AccountServed`], [`Refusal::NotInstalled`], [`Refusal::MeterInstalled`],
    /// [`Refusal::InstallationOrder`]; for a change of plan also [`Refusal::Currency`],
    /// [`Refusal::BeforeTariff`], [`Refusal::PlanEmpty`], [`Refusal::SamePlan`],
    /// [`Refusal::PlanLeft`], [`Refusal::SwitchUnderWay`].
    pub async fn act(
        &self,
        change: Change,
        now: UnixSeconds,
        actor: u32,
    ) -> Result<(Act, OutboxId), RegistryError> {
        let (id, kind) = subject_of(&change)
            .ok_or_else(|| Refusal::invalid("change", "is no act upon an account"))?;
        if let Change::Replace(replacement) = &change {
            check_role(self.meter(replacement.new).await?.record.role, id)?;
        }
        let mut write = self.write().await?;
        let account = write.account(id).await?;
        if !matches!(change, Change::Book(_) | Change::Clear(_)) {
            write.check_open(id).await?;
        }
        write.check_act(&account, &change, now).await?;
        if let Change::Debt(debt) = &change {
            write.note_agreement(debt, None, actor).await?;
        }
        let number = write.next_id("act").await?;
        let body = serde_json::to_string(&change).expect("a change has string keys only");
        write.tell(change.clone()).await?;
        let outbox = write.flush().await?.expect("a change was told before");
        sqlx::query(
            "INSERT INTO act (id, account, kind, body, at, actor, outbox) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(i64::from(number))
        .bind(i64::from(id.0))
        .bind(kind)
        .bind(body)
        .bind(i64::from(now.0))
        .bind(i64::from(actor))
        .bind(to_i64(outbox.0)?)
        .execute(write.sql())
        .await?;
        write.commit().await?;
        Ok((Act { id: number, account: id, change, at: now, actor }, outbox))
    }

    /// Acts upon an account after `after`, by number.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn acts(
        &self,
        account: AccountId,
        after: u32,
        limit: u32,
    ) -> Result<Vec<Act>, RegistryError> {
        of_account(&self.readers, ACT_COLUMNS, (account, after.into(), limit), act_of).await
    }

    /// The newest act of a kind upon an account: `terms`, `switch`, `closing`, …
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn newest_act(
        &self,
        account: AccountId,
        kind: &str,
    ) -> Result<Option<Act>, RegistryError> {
        let sql =
            format!("{ACT_COLUMNS} WHERE account = $1 AND kind = $2 ORDER BY id DESC LIMIT 1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(i64::from(account.0)).bind(kind);
        row.fetch_optional(&self.readers).await?.as_ref().map(act_of).transpose()
    }
}

impl Write<'_> {
    /// An account that has not ended.
    pub(super) async fn check_open(&mut self, id: AccountId) -> Result<(), RegistryError> {
        match self.newest(id, "closing").await? {
            Some(Change::Close(Closing { at, .. })) => {
                Err(Refusal::AccountClosed { account: id, at: at.0 }.into())
            }
            _ => Ok(()),
        }
    }

    /// An account that takes in money now: open, and no switch of mode is under way.
    pub(super) async fn check_can_pay(
        &mut self,
        id: AccountId,
        now: UnixSeconds,
    ) -> Result<(), RegistryError> {
        self.check_open(id).await?;
        let Some(Change::Switch(ModeSwitch { at, .. })) = self.newest(id, "switch").await? else {
            return Ok(());
        };
        if now.plus(SWITCH_WINDOW_S) >= at && now < at.plus(SWITCH_WINDOW_S) {
            return Err(Refusal::SwitchUnderWay { until: at.plus(SWITCH_WINDOW_S).0 }.into());
        }
        Ok(())
    }

    /// The switch of an account at an instant, and who asked for it.
    pub(super) async fn switch_at(
        &mut self,
        account: AccountId,
        at: UnixSeconds,
    ) -> Result<Option<(ModeSwitch, u32)>, RegistryError> {
        let sql = format!("{ACT_COLUMNS} WHERE account = $1 AND kind = 'switch' ORDER BY id DESC");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(i64::from(account.0));
        for row in rows.fetch_all(self.sql()).await? {
            let act = act_of(&row)?;
            if let Change::Switch(switch) = act.change
                && switch.at == at
            {
                return Ok(Some((switch, act.actor)));
            }
        }
        Ok(None)
    }

    async fn newest(
        &mut self,
        account: AccountId,
        kind: &str,
    ) -> Result<Option<Change>, RegistryError> {
        let body: Option<String> = sqlx::query_scalar(
            "SELECT body FROM act WHERE account = $1 AND kind = $2 ORDER BY id DESC LIMIT 1",
        )
        .bind(i64::from(account.0))
        .bind(kind)
        .fetch_optional(self.sql())
        .await?;
        body.map(|body| json(&body)).transpose()
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the other acts need no more than an open account"
    )]
    async fn check_act(
        &mut self,
        account: &Account,
        change: &Change,
        now: UnixSeconds,
    ) -> Result<(), RegistryError> {
        match change {
            Change::Book(booking) => Ok(check_booking(booking)?),
            Change::SupplyTerms(terms) => {
                check_supply_terms(terms)?;
                self.check_friendly(terms.friendly).await
            }
            Change::Debt(debt) => Ok(check_debt(debt)?),
            Change::Switch(switch) => self.check_switch(account, switch, now).await,
            Change::Plan(change) => self.change_plan(account, change, now).await,
            Change::Emergency(_) => match self.newest(account.terms.account, "terms").await? {
                Some(Change::SupplyTerms(terms)) if terms.emergency_credit > Money::ZERO => Ok(()),
                _ => Err(Refusal::EmergencyOff { account: account.terms.account }.into()),
            },
            Change::Replace(replacement) => self.replace(replacement).await,
            Change::Close(_) if account.meter.is_some() => {
                Err(Refusal::AccountServed { account: account.terms.account }.into())
            }
            Change::Clear(clearance) => Ok(check_text("reason", &clearance.reason, 200)?),
            _ => Ok(()),
        }
    }

    /// A switch lies at a local midnight ahead, changes the mode, and is the only one that waits.
    async fn check_switch(
        &mut self,
        account: &Account,
        switch: &ModeSwitch,
        now: UnixSeconds,
    ) -> Result<(), RegistryError> {
        let calendar = LocalCalendar::new(&account.terms.zone).map_err(Refusal::from)?;
        if switch.at <= now || calendar.day_start(calendar.local(switch.at).date) != switch.at {
            return Err(Refusal::invalid("from", "must be a local day that has not begun").into());
        }
        if switch.share_bp > 10_000 || switch.cap < Money::ZERO || switch.cap > AMOUNT_MAX {
            return Err(
                Refusal::invalid("share_bp", "must be 0 to 10000, the cap not below 0").into()
            );
        }
        let mode = match self.newest(account.terms.account, "switch").await? {
            Some(Change::Switch(before)) if before.at > now => {
                return Err(Refusal::SwitchPending { at: before.at.0 }.into());
            }
            Some(Change::Switch(before)) => before.mode,
            _ => account.terms.mode,
        };
        if mode == switch.mode { Err(Refusal::SameMode.into()) } else { Ok(()) }
    }

    /// Ends the old meter's installation and begins the new one's.
    async fn replace(&mut self, replacement: &Replacement) -> Result<(), RegistryError> {
        let Replacement { account, old, end, new, start, at } = *replacement;
        let open: Option<(i64, Option<i64>)> = sqlx::query_as(
            "SELECT installed_at, account FROM installation WHERE meter = $1 AND removed_at IS NULL",
        )
        .bind(i64::from(old.0))
        .fetch_optional(self.sql())
        .await?;
        let serves = open.filter(|(_, served)| *served == Some(i64::from(account.0)));
        let (installed_at, _) = serves.ok_or(Refusal::NotInstalled(old))?;
        let last: Option<(Option<i64>,)> = sqlx::query_as(
            "SELECT removed_at FROM installation WHERE meter = $1 ORDER BY installed_at DESC LIMIT 1",
        )
        .bind(i64::from(new.0))
        .fetch_optional(self.sql())
        .await?;
        let is_late = |removed: i64| i64::from(at.0) < removed;
        match last {
            Some((None,)) => return Err(Refusal::MeterInstalled { meter: new }.into()),
            Some((Some(removed),)) if is_late(removed) => {
                return Err(Refusal::InstallationOrder.into());
            }
            Some(_) | None => {}
        }
        if i64::from(at.0) <= installed_at {
            return Err(Refusal::InstallationOrder.into());
        }
        sqlx::query(
            "UPDATE installation SET removed_at = $1, end_wh = $2 \
             WHERE meter = $3 AND installed_at = $4",
        )
        .bind(i64::from(at.0))
        .bind(to_i64(end.wh())?)
        .bind(i64::from(old.0))
        .bind(installed_at)
        .execute(self.sql())
        .await?;
        sqlx::query(
            "INSERT INTO installation (meter, installed_at, account, start_wh) \
             VALUES ($1, $2, $3, $4)",
        )
        .bind(i64::from(new.0))
        .bind(i64::from(at.0))
        .bind(i64::from(account.0))
        .bind(to_i64(start.wh())?)
        .execute(self.sql())
        .await?;
        Ok(())
    }

    pub(super) async fn check_friendly(&mut self, id: FriendlyId) -> Result<(), RegistryError> {
        if !id.is_some() {
            return Ok(());
        }
        let known: Option<i64> = sqlx::query_scalar("SELECT id FROM friendly WHERE id = $1")
            .bind(i64::from(id.0))
            .fetch_optional(self.sql())
            .await?;
        known.map(|_| ()).ok_or_else(|| Refusal::not_found("friendly calendar", id).into())
    }
}

/// The account and the kind of an act.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other changes are no acts")]
fn subject_of(change: &Change) -> Option<(AccountId, &'static str)> {
    match change {
        Change::Book(act) => Some((act.account, "booking")),
        Change::SupplyTerms(act) => Some((act.account, "terms")),
        Change::Emergency(act) => Some((act.account, "emergency")),
        Change::Debt(act) => Some((act.account, "debt")),
        Change::Switch(act) => Some((act.account, "switch")),
        Change::Plan(act) => Some((act.account, "plan")),
        Change::Replace(act) => Some((act.account, "replacement")),
        Change::Close(act) => Some((act.account, "closing")),
        Change::Clear(act) => Some((act.account, "clearance")),
        _ => None,
    }
}

fn check_booking(booking: &Booking) -> Result<(), Refusal> {
    use LedgerKind::{Adjustment, FreeIssue, OpeningBalance, Refund};
    check_text("reason", &booking.reason, 200)?;
    check_adjustment(booking.amount)?;
    if !matches!(booking.kind, Adjustment | FreeIssue | OpeningBalance | Refund) {
        let kinds = "must be adjustment, opening_balance, free_issue or refund";
        return Err(Refusal::invalid("kind", kinds));
    }
    if booking.corrects == Some(0) {
        return Err(Refusal::invalid("corrects", "movements are numbered from 1"));
    }
    Ok(())
}

fn check_supply_terms(terms: &SupplyTerms) -> Result<(), Refusal> {
    let within = |amount: Money| amount.ticks().unsigned_abs() <= AMOUNT_MAX.ticks().unsigned_abs();
    if terms.emergency_credit < Money::ZERO || !within(terms.emergency_credit) {
        return Err(Refusal::invalid("emergency_credit", "must be 0 to 1000000000"));
    }
    if !within(terms.emergency_below) || !within(terms.reconnect_at) {
        return Err(Refusal::invalid("reconnect_at", "must be within ±1000000000"));
    }
    Ok(())
}

fn check_debt(debt: &DebtAgreement) -> Result<(), Refusal> {
    check_text("reason", &debt.reason, 200)?;
    if debt.amount <= Money::ZERO || debt.amount > AMOUNT_MAX {
        return Err(Refusal::invalid("amount", "must be above 0, at most 1000000000"));
    }
    if !(1..=10_000).contains(&debt.share_bp) {
        return Err(Refusal::invalid("share_bp", "must be 1 to 10000"));
    }
    if debt.cap < Money::ZERO || debt.cap > AMOUNT_MAX {
        return Err(Refusal::invalid("cap", "must be 0 to 1000000000"));
    }
    Ok(())
}

impl Account {
    /// How the account is billed at an instant, given its newest switch.
    #[must_use]
    pub fn mode_at(&self, switch: Option<&ModeSwitch>, now: UnixSeconds) -> Mode {
        match switch {
            None => self.terms.mode,
            Some(switch) if switch.at <= now => switch.mode,
            // A switch that waits changes the mode, so until then it is the other one.
            Some(ModeSwitch { mode: Mode::Prepaid, .. }) => Mode::Postpaid,
            Some(_) => Mode::Prepaid,
        }
    }
}

fn act_of(row: &SqliteRow) -> Result<Act, RegistryError> {
    Ok(Act {
        id: u32_of(row, 0)?,
        account: AccountId(u32_of(row, 1)?),
        change: json(row.try_get(2)?)?,
        at: UnixSeconds(u32_of(row, 3)?),
        actor: u32::try_from(to_u64(row.try_get(4)?)?).unwrap_or_default(),
    })
}
