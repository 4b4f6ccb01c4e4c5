//! Meters and where they are installed.

use meter::{
    AccountId, Change, Current, Energy, GatewayId, Installation, MeterId, MeterRecord, OutboxId,
    Removal, Role, SystemTitle, TransformerId, UnixSeconds, Voltage,
};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::device::title_of;
use super::master::{DeviceKeys, Owner};
use super::place::{GATEWAY_METERS_MAX, check_text, taken};
use super::row::{nullable, parsed, role_name, role_of, to_i64, to_u64, u32_of};
use super::write::Write;
use super::{Refusal, Registry, RegistryError};

/// A meter without its keys, which never leave the registry but for ingest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Meter {
    /// Serial number, unique.
    pub serial: String,
    /// System title, unique.
    pub title: SystemTitle,
    /// Maker's model.
    pub model: String,
    /// Name of its push template.
    pub template: String,
    /// What the rules know of it; its id is in there.
    pub record: MeterRecord,
    /// The account it serves now, or none.
    pub account: AccountId,
}

/// A meter to be registered; the id in `record` is assigned.
#[derive(Clone, Debug)]
pub struct NewMeter {
    /// Serial number.
    pub serial: String,
    /// System title.
    pub title: SystemTitle,
    /// Maker's model.
    pub model: String,
    /// Name of its push template.
    pub template: String,
    /// Role, place, ratings.
    pub record: MeterRecord,
    /// Its keys.
    pub keys: DeviceKeys,
}

/// Which meters to list; a `None` or "none" id does not restrict.
#[derive(Clone, Debug, Default)]
pub struct MeterFilter {
    /// Below this transformer.
    pub transformer: TransformerId,
    /// Behind this gateway.
    pub gateway: GatewayId,
    /// With this serial.
    pub serial: Option<String>,
}

/// A time in which a meter served an account.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InstallationPeriod {
    /// The meter.
    pub meter: MeterId,
    /// The account, or none for a supply meter.
    pub account: AccountId,
    /// From.
    pub from: UnixSeconds,
    /// Register then, where known.
    pub start: Option<Energy>,
    /// Until, where it ended.
    pub to: Option<UnixSeconds>,
    /// Register then.
    pub end: Option<Energy>,
}

const METER_COLUMNS: &str = "SELECT m.id, m.serial, m.system_title, m.model, m.template, m.role, \
     m.transformer, m.gateway, m.current_max_ma, m.voltage_nominal_mv, m.phases, \
     m.register_digits, m.period_s, i.account FROM meter m \
     LEFT JOIN installation i ON i.meter = m.id AND i.removed_at IS NULL ";

impl Registry {
    /// Registers a meter.
    ///
    /// # Errors
    /// [`Refusal::Exists`], [`Refusal::NotFound`] (transformer, gateway),
    /// [`Refusal::GatewayFull`], [`Refusal::Invalid`].
    pub async fn add_meter(&self, new: &NewMeter) -> Result<(Meter, OutboxId), RegistryError> {
        check_text("serial", &new.serial, 64)?;
        check_text("model", &new.model, 64)?;
        check_text("template", &new.template, 64)?;
        check_record(&new.record)?;
        let mut write = self.write().await?;
        write.check_title(new.title).await?;
        write.check_place(&new.record).await?;
        let id = MeterId(write.next_id("meter").await?);
        let record = MeterRecord { meter: id, ..new.record };
        let rev = write.device_rev().await?;
        sqlx::query(
            "INSERT INTO meter (id, serial, system_title, model, template, role, transformer, \
             gateway, current_max_ma, voltage_nominal_mv, phases, register_digits, period_s, \
             sealed_keys, device_rev) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        )
        .bind(i64::from(id.0))
        .bind(&new.serial)
        .bind(&new.title.0[..])
        .bind(&new.model)
        .bind(&new.template)
        .bind(role_name(record.role))
        .bind(nullable(record.transformer.0))
        .bind(nullable(record.gateway.0))
        .bind(i64::from(record.current_max.ma()))
        .bind(i64::from(record.voltage_nominal.mv()))
        .bind(i64::from(record.phases))
        .bind(i64::from(record.register_digits))
        .bind(i64::from(record.period_s))
        .bind(self.master.seal(Owner::Meter(new.title), &new.keys))
        .bind(to_i64(rev.0)?)
        .execute(write.sql())
        .await
        .map_err(|error| taken(error, "meter", "serial", &new.serial))?;
        write.tell(Change::Meter(record)).await?;
        let outbox = write.commit_told().await?;
        let NewMeter { serial, title, model, template, .. } = new.clone();
        Ok((Meter { serial, title, model, template, record, account: AccountId::NONE }, outbox))
    }

    /// Meters after `after`, by id.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn meters(
        &self,
        filter: &MeterFilter,
        after: MeterId,
        limit: u32,
    ) -> Result<Vec<Meter>, RegistryError> {
        let sql = format!(
            "{METER_COLUMNS} WHERE m.id > $1 AND ($2 = 0 OR m.transformer = $2) \
             AND ($3 = 0 OR m.gateway = $3) AND ($4 = '' OR m.serial = $4) ORDER BY m.id LIMIT $5"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(i64::from(after.0))
            .bind(i64::from(filter.transformer.0))
            .bind(i64::from(filter.gateway.0))
            .bind(filter.serial.as_deref().unwrap_or_default())
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(meter_of)
            .collect()
    }

    /// One meter.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn meter(&self, id: MeterId) -> Result<Meter, RegistryError> {
        let sql = format!("{METER_COLUMNS} WHERE m.id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(i64::from(id.0))
            .fetch_optional(&self.readers)
            .await?;
        meter_of(&row.ok_or_else(|| Refusal::not_found("meter", id))?)
    }

    /// Lets a meter begin to serve an account (or, a supply meter, none).
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::MeterInstalled`], [`Refusal::AccountServed`],
    /// [`Refusal::InstallationOrder`], [`Refusal::BeforeTariff`], [`Refusal::Invalid`].
    pub async fn install(&self, new: Installation) -> Result<OutboxId, RegistryError> {
        let role = self.meter(new.meter).await?.record.role;
        check_role(role, new.account)?;
        new.start.map_or(Ok(()), |start| check_register("start_wh", start))?;
        let mut write = self.write().await?;
        if new.account.is_some() {
            write.check_open(new.account).await?;
            write.check_tariff_at(new.account, new.at).await?;
        }
        write.check_free(&new).await?;
        sqlx::query(
            "INSERT INTO installation (meter, installed_at, account, start_wh) \
             VALUES ($1, $2, $3, $4)",
        )
        .bind(i64::from(new.meter.0))
        .bind(i64::from(new.at.0))
        .bind(nullable(new.account.0))
        .bind(new.start.map(|start| to_i64(start.wh())).transpose()?)
        .execute(write.sql())
        .await?;
        write.tell(Change::Install(new)).await?;
        write.commit_told().await
    }

    /// Lets a meter end to serve.
    ///
    /// # Errors
    /// [`Refusal::NotInstalled`], [`Refusal::InstallationOrder`].
    pub async fn remove(&self, removal: Removal) -> Result<OutboxId, RegistryError> {
        check_register("end_wh", removal.end)?;
        let mut write = self.write().await?;
        let open: Option<i64> = sqlx::query_scalar(
            "SELECT installed_at FROM installation WHERE meter = $1 AND removed_at IS NULL",
        )
        .bind(i64::from(removal.meter.0))
        .fetch_optional(write.sql())
        .await?;
        let installed_at = open.ok_or(Refusal::NotInstalled(removal.meter))?;
        if i64::from(removal.at.0) <= installed_at {
            return Err(Refusal::InstallationOrder.into());
        }
        sqlx::query(
            "UPDATE installation SET removed_at = $1, end_wh = $2 \
             WHERE meter = $3 AND installed_at = $4",
        )
        .bind(i64::from(removal.at.0))
        .bind(to_i64(removal.end.wh())?)
        .bind(i64::from(removal.meter.0))
        .bind(installed_at)
        .execute(write.sql())
        .await?;
        write.tell(Change::Remove(removal)).await?;
        write.commit_told().await
    }

    /// Where a meter served, in time order.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn installations_of_meter(
        &self,
        meter: MeterId,
    ) -> Result<Vec<InstallationPeriod>, RegistryError> {
        let sql = "SELECT meter, account, installed_at, start_wh, removed_at, end_wh \
             FROM installation WHERE meter = $1 ORDER BY installed_at";
        let rows = sqlx::query(sql).bind(i64::from(meter.0)).fetch_all(&self.readers).await?;
        rows.iter().map(period_of).collect()
    }

    /// Which meters served an account, in time order.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn installations_of_account(
        &self,
        account: AccountId,
    ) -> Result<Vec<InstallationPeriod>, RegistryError> {
        let sql = "SELECT meter, account, installed_at, start_wh, removed_at, end_wh \
             FROM installation WHERE account = $1 ORDER BY installed_at, meter";
        let rows = sqlx::query(sql).bind(i64::from(account.0)).fetch_all(&self.readers).await?;
        rows.iter().map(period_of).collect()
    }
}

impl Write<'_> {
    async fn check_place(&mut self, record: &MeterRecord) -> Result<(), RegistryError> {
        if record.transformer.is_some() {
            let known: Option<i64> = sqlx::query_scalar("SELECT id FROM transformer WHERE id = $1")
                .bind(i64::from(record.transformer.0))
                .fetch_optional(self.sql())
                .await?;
            known.ok_or_else(|| Refusal::not_found("transformer", record.transformer))?;
        }
        if record.gateway.is_some() {
            let meters: Option<i64> = sqlx::query_scalar(
                "SELECT (SELECT COUNT(*) FROM meter WHERE gateway = $1) FROM gateway WHERE id = $1",
            )
            .bind(i64::from(record.gateway.0))
            .fetch_optional(self.sql())
            .await?;
            let meters = meters.ok_or_else(|| Refusal::not_found("gateway", record.gateway))?;
            if meters >= i64::from(GATEWAY_METERS_MAX) {
                return Err(Refusal::GatewayFull(record.gateway).into());
            }
        }
        Ok(())
    }

    /// Neither the meter nor the account serves or is served at the instant or later.
    async fn check_free(&mut self, new: &Installation) -> Result<(), RegistryError> {
        let last: Option<(i64, Option<i64>)> = sqlx::query_as(
            "SELECT installed_at, removed_at FROM installation WHERE meter = $1 \
             ORDER BY installed_at DESC LIMIT 1",
        )
        .bind(i64::from(new.meter.0))
        .fetch_optional(self.sql())
        .await?;
        match last {
            Some((_, None)) => return Err(Refusal::MeterInstalled { meter: new.meter }.into()),
            Some((_, Some(removed))) if i64::from(new.at.0) < removed => {
                return Err(Refusal::InstallationOrder.into());
            }
            Some(_) | None => {}
        }
        if !new.account.is_some() {
            return Ok(());
        }
        let last: Option<(i64, Option<i64>)> = sqlx::query_as(
            "SELECT installed_at, removed_at FROM installation WHERE account = $1 \
             ORDER BY installed_at DESC, removed_at IS NULL DESC LIMIT 1",
        )
        .bind(i64::from(new.account.0))
        .fetch_optional(self.sql())
        .await?;
        match last {
            Some((_, None)) => Err(Refusal::AccountServed { account: new.account }.into()),
            Some((_, Some(removed))) if i64::from(new.at.0) < removed => {
                Err(Refusal::InstallationOrder.into())
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// A consumer meter serves an account, a supply meter none.
pub(super) fn check_role(role: Role, account: AccountId) -> Result<(), Refusal> {
    match (role, account.is_some()) {
        (Role::Consumer, true) | (Role::Supply, false) => Ok(()),
        (Role::Consumer, false) => Err(Refusal::invalid("account", "a consumer meter needs one")),
        (Role::Supply, true) => Err(Refusal::invalid("account", "a supply meter serves none")),
    }
}

/// A register of at most 12 kWh digits.
fn check_register(field: &'static str, register: Energy) -> Result<(), Refusal> {
    const REGISTER_MAX: Energy = Energy::from_wh(1_000_000_000_000_000);
    if register < REGISTER_MAX {
        return Ok(());
    }
    Err(Refusal::invalid(field, "must be below 10^15 Wh, the modulus of the longest register"))
}

/// Whether a record is one the rules can use.
pub(super) fn check_record(record: &MeterRecord) -> Result<(), Refusal> {
    let fields = [
        ("current_max_a", (1_000..=100_000_000).contains(&record.current_max.ma()), "1 to 100000"),
        (
            "voltage_nominal_v",
            (10_000..=1_000_000_000).contains(&record.voltage_nominal.mv()),
            "10 to 1000000",
        ),
        ("phases", matches!(record.phases, 1 | 3), "1 or 3"),
        ("register_digits", (1..=12).contains(&record.register_digits), "1 to 12"),
        ("period_s", (1..=86_400).contains(&record.period_s), "1 to 86400"),
    ];
    for (field, is_good, range) in fields {
        if !is_good {
            return Err(Refusal::invalid(field, format!("must be {range}")));
        }
    }
    if record.role == Role::Supply && !record.transformer.is_some() {
        return Err(Refusal::invalid("transformer", "a supply meter needs one"));
    }
    Ok(())
}

fn meter_of(row: &SqliteRow) -> Result<Meter, RegistryError> {
    let role: &str = row.try_get(5)?;
    let small = |column: usize| {
        let value = u32_of(row, column)?;
        u8::try_from(value).map_err(|_| RegistryError::Damaged(format!("{value} is no byte")))
    };
    let record = MeterRecord {
        meter: MeterId(u32_of(row, 0)?),
        role: parsed(role, role_of(role))?,
        transformer: TransformerId(u32_of(row, 6)?),
        gateway: GatewayId(u32_of(row, 7)?),
        current_max: Current::from_ma(u32_of(row, 8)?),
        voltage_nominal: Voltage::from_mv(u32_of(row, 9)?),
        phases: small(10)?,
        register_digits: small(11)?,
        period_s: u32_of(row, 12)?,
    };
    Ok(Meter {
        serial: row.try_get(1)?,
        title: title_of(row.try_get(2)?)?,
        model: row.try_get(3)?,
        template: row.try_get(4)?,
        record,
        account: AccountId(u32_of(row, 13)?),
    })
}

fn period_of(row: &SqliteRow) -> Result<InstallationPeriod, RegistryError> {
    let energy = |column: usize| {
        let wh: Option<i64> = row.try_get(column)?;
        wh.map(|wh| to_u64(wh).map(Energy::from_wh)).transpose()
    };
    let to: Option<i64> = row.try_get(4)?;
    Ok(InstallationPeriod {
        meter: MeterId(u32_of(row, 0)?),
        account: AccountId(u32_of(row, 1)?),
        from: UnixSeconds(u32_of(row, 2)?),
        start: energy(3)?,
        to: to.map(|_| u32_of(row, 4).map(UnixSeconds)).transpose()?,
        end: energy(5)?,
    })
}
