//! What can go wrong in the registry: it does not open, it does not answer, or it refuses.

use std::path::PathBuf;

use meter::{
    AccountId, GatewayId, LocalDate, MeterId, PlanId, QuantityError, SplitError, TariffError,
    ZoneError,
};
use thiserror::Error;

/// Why the registry failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The request breaks a rule; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The linked SQLite has a bug that loses committed data.
    #[error(
        "SQLite {found} is linked, at least {least} is needed; rebuild with a newer libsqlite3-sys"
    )]
    SqliteVersion {
        /// Version linked.
        found: String,
        /// Oldest version that is safe.
        least: &'static str,
    },
    /// The database file cannot be opened.
    #[error("registry {path} cannot be opened; check that the folder exists and may be written")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: sqlx::Error,
    },
    /// The file is not a registry, or a later version wrote it.
    #[error(
        "registry {path} does not fit this version; restore a backup or start the version that wrote it"
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// What the migration said.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// An earlier version wrote the file, and nobody has brought it up to date.
    #[error(
        "registry {path} is of version {found}, this program reads {known}; start the node with this \
         program once, which brings it up to date"
    )]
    OldSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The version known here.
        known: i64,
    },
    /// The master key is absent, wrong, or open to others.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// A row holds what no row may hold.
    #[error("registry row is damaged: {0}; restore a backup")]
    Damaged(String),
    /// The database did not answer as it should.
    #[error("registry does not answer")]
    Database(#[from] sqlx::Error),
    /// As [`RegistryError::Database`], to the till.
    #[error("registry does not answer the till")]
    Till(#[from] rusqlite::Error),
    /// The disk did not take what was written. Whether it lies there is not known, so nothing more
    /// is written on top of it.
    #[error(
        "the disk refused to keep what was written to the registry; look after the disk, then start \
         the node again: nothing is changed or sold until then"
    )]
    NotDurable(#[source] Option<std::io::Error>),
}

/// Why the master key cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MasterKeyError {
    /// The file cannot be read or written.
    #[error("master key file {path} cannot be read or created")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The registry holds sealed keys, but the file is gone.
    #[error(
        "master key file {path} is missing, but the registry holds keys sealed under it; restore the file"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Others may read the file.
    #[error("master key file {path} may be read by others; run: chmod 600 {path}")]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// The file does not hold a key.
    #[error("master key file {path} does not hold 64 hexadecimal digits")]
    Text {
        /// The file.
        path: PathBuf,
    },
    /// The registry was sealed under another key.
    #[error("master key does not fit this registry; use the key file that was made with it")]
    Wrong,
}

/// A rule that a request breaks. Nothing was changed.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// A field holds what it may not hold.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What it must be.
        reason: String,
    },
    /// Nothing of this kind has this id or code.
    #[error("there is no {kind} {key}")]
    NotFound {
        /// What was looked for.
        kind: &'static str,
        /// By which id or code.
        key: String,
    },
    /// A unique value is in use.
    #[error("{kind} with {field} {value} exists already")]
    Exists {
        /// What exists.
        kind: &'static str,
        /// Which of its values is unique.
        field: &'static str,
        /// The value.
        value: String,
    },
    /// A gateway serves 32 meters already.
    #[error("gateway {0} has 32 meters already")]
    GatewayFull(GatewayId),
    /// The meter serves already.
    #[error("meter {meter} is installed already")]
    MeterInstalled {
        /// The meter.
        meter: MeterId,
    },
    /// The account has a meter already.
    #[error("account {account} has an active meter already")]
    AccountServed {
        /// The account.
        account: AccountId,
    },
    /// The meter serves nobody.
    #[error("meter {0} is not installed")]
    NotInstalled(MeterId),
    /// Installations of a meter or an account would overlap.
    #[error("the instant is before the end of the previous installation")]
    InstallationOrder,
    /// Consumption would have no price.
    #[error("plan {plan} has no version in force then, the first is from {first}")]
    BeforeTariff {
        /// The plan.
        plan: PlanId,
        /// First local day with prices.
        first: LocalDate,
    },
    /// A plan has no version yet.
    #[error("plan {0} has no version")]
    PlanEmpty(PlanId),
    /// The version breaks a rule of tariffs.
    #[error("tariff version: {0}")]
    Tariff(#[from] TariffError),
    /// The version does not follow the newest one.
    #[error(
        "the newest version is valid from {newest}; a further one must be valid from a later day"
    )]
    VersionOrder {
        /// First day of the newest version.
        newest: LocalDate,
    },
    /// The version would change days that have begun.
    #[error("{valid_from} has begun for accounts of this plan; effective prices are immutable")]
    VersionEffective {
        /// The day asked for.
        valid_from: LocalDate,
    },
    /// A holiday that has begun would change.
    #[error("{day} has begun; effective holidays are immutable")]
    HolidayEffective {
        /// The day.
        day: LocalDate,
    },
    /// The currency is another one.
    #[error("the currency is {want}")]
    Currency {
        /// The one to use.
        want: String,
    },
    /// An idempotency key was used with another request.
    #[error("the idempotency key was used with another request")]
    KeyReused,
    /// A person settled this reading before.
    #[error("the quarantined reading {seq} is settled already")]
    Resolved {
        /// Its log position.
        seq: u64,
    },
    /// The account has ended.
    #[error("account {account} was closed at {at}")]
    AccountClosed {
        /// The account.
        account: AccountId,
        /// Since when, Unix seconds.
        at: u32,
    },
    /// A switch of mode waits already.
    #[error("a switch of mode waits for {at} (Unix seconds)")]
    SwitchPending {
        /// When it takes place.
        at: u32,
    },
    /// The account's mode is changing right now.
    #[error("the account's mode is being switched, until {until} (Unix seconds)")]
    SwitchUnderWay {
        /// When money is taken again.
        until: u32,
    },
    /// The account has this mode already.
    #[error("the account has this mode already")]
    SameMode,
    /// The account has this plan from that day on already.
    #[error("plan {plan} holds from that day on already")]
    SamePlan {
        /// The plan.
        plan: PlanId,
    },
    /// The blocks of a period would be counted twice.
    #[error("the account leaves plan {plan} on {left}, in the block period that begins on {first}")]
    PlanLeft {
        /// The plan.
        plan: PlanId,
        /// The day from which it has another one.
        left: LocalDate,
        /// First day of the block period.
        first: LocalDate,
    },
    /// The account has no emergency credit.
    #[error("account {account} has no emergency credit to take")]
    EmergencyOff {
        /// The account.
        account: AccountId,
    },
    /// A calendar of friendly periods leaves a day open, or its stretches cross.
    #[error("{day}: not there, or its stretches are empty, out of order or past midnight")]
    CalendarGap {
        /// The day.
        day: &'static str,
    },
    /// The last administrator would be locked out.
    #[error("this is the last administrator token")]
    LastAdministrator,
    /// A purchase that cannot be split.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// A rule of vending, with its own code.
    #[error("{reason}")]
    Vending {
        /// The stable code.
        code: &'static str,
        /// What happened.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// The zone is unknown.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// An amount is not one.
    #[error("amount: {0}")]
    Amount(#[from] QuantityError),
}

/// What kind of no a refusal is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Nature {
    /// What is named does not exist.
    Absent,
    /// A value is wrong by itself.
    Invalid,
    /// The request contradicts what is.
    Conflict,
}

impl Refusal {
    /// A field holds what it may not.
    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { field, reason: reason.into() }
    }

    /// A rule of vending is broken.
    pub(crate) fn vending(
        code: &'static str,
        reason: impl Into<String>,
        hint: &'static str,
    ) -> Self {
        Self::Vending { code, reason: reason.into(), hint }
    }

    /// Nothing of this kind.
    pub(crate) fn not_found(kind: &'static str, key: impl ToString) -> Self {
        Self::NotFound { kind, key: key.to_string() }
    }

    /// What kind of no this is.
    #[must_use]
    pub const fn nature(&self) -> Nature {
        match self {
            Self::NotFound { .. } => Nature::Absent,
            Self::Invalid { .. }
            | Self::Tariff(_)
            | Self::Currency { .. }
            | Self::CalendarGap { .. }
            | Self::Zone(_)
            | Self::Split(_)
            | Self::Amount(_) => Nature::Invalid,
            Self::Exists { .. }
            | Self::GatewayFull(_)
            | Self::MeterInstalled { .. }
            | Self::AccountServed { .. }
            | Self::NotInstalled(_)
            | Self::InstallationOrder
            | Self::BeforeTariff { .. }
            | Self::PlanEmpty(_)
            | Self::VersionOrder { .. }
            | Self::VersionEffective { .. }
            | Self::HolidayEffective { .. }
            | Self::KeyReused
            | Self::AccountClosed { .. }
            | Self::SwitchPending { .. }
            | Self::SwitchUnderWay { .. }
            | Self::SameMode
            | Self::SamePlan { .. }
            | Self::PlanLeft { .. }
            | Self::EmergencyOff { .. }
            | Self::Resolved { .. }
            | Self::Vending { .. }
            | Self::LastAdministrator => Nature::Conflict,
        }
    }

    /// The field that is meant, where a single one is.
    pub(crate) const fn field(&self) -> Option<&'static str> {
        if let Self::Invalid { field, .. } = self { Some(field) } else { None }
    }

    /// What is wrong, without the field.
    pub(crate) fn reason(&self) -> String {
        if let Self::Invalid { reason, .. } = self { reason.clone() } else { self.to_string() }
    }

    /// The stable code of this refusal, for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "invalid_field",
            Self::NotFound { .. } => "not_found",
            Self::Exists { .. } => "already_exists",
            Self::GatewayFull(_) => "gateway_full",
            Self::MeterInstalled { .. } => "meter_already_installed",
            Self::AccountServed { .. } => "account_already_served",
            Self::NotInstalled(_) => "meter_not_installed",
            Self::InstallationOrder => "installation_order",
            Self::BeforeTariff { .. } => "no_tariff_in_force",
            Self::PlanEmpty(_) => "plan_without_version",
            Self::Tariff(TariffError::Hole { .. } | TariffError::Coverage { seasons: 0, .. }) => {
                "tariff_without_rate"
            }
            Self::Tariff(TariffError::Coverage { .. }) => "tariff_seasons_overlap",
            Self::Tariff(_) => "invalid_tariff",
            Self::AccountClosed { .. } => "account_closed",
            Self::SwitchPending { .. } => "mode_switch_pending",
            Self::SwitchUnderWay { .. } => "mode_switch_under_way",
            Self::SameMode => "mode_unchanged",
            Self::SamePlan { .. } => "plan_unchanged",
            Self::PlanLeft { .. } => "plan_left_in_period",
            Self::EmergencyOff { .. } => "no_emergency_credit",
            Self::CalendarGap { .. } => "calendar_gap",
            Self::VersionOrder { .. } => "tariff_version_order",
            Self::VersionEffective { .. } => "tariff_version_effective",
            Self::HolidayEffective { .. } => "holiday_effective",
            Self::Currency { .. } => "wrong_currency",
            Self::KeyReused => "idempotency_key_reused",
            Self::Resolved { .. } => "already_resolved",
            Self::LastAdministrator => "last_administrator",
            Self::Zone(_) => "unknown_time_zone",
            Self::Split(SplitError::BelowMinimum { .. }) => "below_minimum",
            Self::Split(SplitError::NothingLeft) => "nothing_left",
            Self::Split(SplitError::SoldInMoney) => "sold_in_money",
            Self::Split(SplitError::NotFlat(_)) => "plan_not_flat",
            Self::Split(_) => "amount_out_of_range",
            Self::Vending { code, .. } => code,
            Self::Amount(_) => "invalid_amount",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "correct the field and send the request again",
            Self::NotFound { .. } => "check the id, or create it first",
            Self::Exists { .. } => "use another value, or the one that exists",
            Self::GatewayFull(_) => "assign the meter to another gateway",
            Self::MeterInstalled { .. } => "record the removal of the meter first",
            Self::AccountServed { .. } => "record the removal of the account's meter first",
            Self::NotInstalled(_) => "install the meter first",
            Self::InstallationOrder => "give an instant after the previous removal",
            Self::BeforeTariff { .. } => {
                "use a later instant, or a plan whose prices begin earlier"
            }
            Self::PlanEmpty(_) => "add a version to the plan first",
            Self::Tariff(_) => "every quarter hour of the year needs exactly one rate with a price",
            Self::VersionOrder { .. } => "choose a later valid_from",
            Self::VersionEffective { .. } => "choose a valid_from in the future",
            Self::HolidayEffective { .. } => "change only days that have not begun",
            Self::Currency { .. } => "send the amount in the plan's currency",
            Self::KeyReused => "use a new key for a new request; repeat a request unchanged",
            Self::AccountClosed { .. } => "open a new account; late readings are still rated",
            Self::SwitchPending { .. } => "wait until it has taken place",
            Self::SwitchUnderWay { .. } => "send the same request again, with the same key, then",
            Self::SameMode => "read the account's mode; nothing is left to do",
            Self::SamePlan { .. } => "read the account's plan; nothing is left to do",
            Self::PlanLeft { .. } => "choose a day of a later block period, or another plan",
            Self::EmergencyOff { .. } => "give the account emergency credit in its supply terms",
            Self::CalendarGap { .. } => {
                "give all seven days, each with ascending stretches within the day, or none"
            }
            Self::Resolved { .. } => "nothing is left to do; read the reading's state",
            Self::LastAdministrator => "create another administrator token first",
            Self::Split(SplitError::BelowMinimum { .. }) => "sell at least the amount named",
            Self::Split(SplitError::NothingLeft) => "lower the share of the debt or the tax",
            Self::Split(SplitError::SoldInMoney) => "ask for an amount of money",
            Self::Split(SplitError::NotFlat(_)) => "give the account a plan with one rate",
            Self::Split(_) => "ask for less",
            Self::Vending { hint, .. } => hint,
            Self::Zone(_) => "use an IANA name such as Asia/Shanghai",
            Self::Amount(_) => "send a decimal amount with at most 7 decimals",
        }
    }
}
