//! The loader: rows against what exists and against each other, then into the transaction.

use std::collections::BTreeMap;

use meter::{
    AccountId, AccountTerms, Adjustment, Change, CustomerId, GatewayId, Installation,
    LocalCalendar, LocalDate, MeterId, MeterRecord, PlanId, Role, SystemTitle, TransformerId,
    UnixSeconds,
};
use sqlx::{QueryBuilder, Sqlite};

use super::columns::{Content, InstallationColumns, NewAccountColumns, NewMeterColumns, Row};
use super::insert::{Ids, Pending};
use super::{Counts, ImportReport, LineError, Problems};
use crate::registry::meters::check_role;
use crate::registry::place::GATEWAY_METERS_MAX;
use crate::registry::row::{date, to_i64, u32_of};
use crate::registry::write::Write;
use crate::registry::{Registry, RegistryError};

/// A meter that is known, from before or from an earlier row.
#[derive(Clone, Copy)]
struct KnownMeter {
    id: MeterId,
    role: Role,
    /// The row that named it, 0 for one from before.
    row: u64,
    /// Whether it is or was installed: an import installs only meters that never served.
    is_installed: bool,
}

#[derive(Clone, Copy)]
struct KnownAccount {
    id: AccountId,
    row: u64,
    is_served: bool,
    plan: PlanId,
}

struct KnownPlan {
    id: PlanId,
    /// First day with prices, `None` while there is no version.
    first: Option<LocalDate>,
}

pub(super) struct Loader<'r> {
    registry: &'r Registry,
    write: Write<'r>,
    pending: Pending,
    ids: Ids,
    counts: Counts,
    device_rev: i64,
    plans: BTreeMap<String, KnownPlan>,
    transformers: BTreeMap<String, TransformerId>,
    /// With how many meters hang behind each.
    gateways: BTreeMap<SystemTitle, (GatewayId, u32)>,
    meters: BTreeMap<String, KnownMeter>,
    titles: BTreeMap<SystemTitle, u64>,
    accounts: BTreeMap<String, (KnownAccount, String)>,
    customers: BTreeMap<String, CustomerId>,
    /// First priced instant of a plan in a zone.
    priced_from: BTreeMap<(PlanId, String), Option<UnixSeconds>>,
}

/// What a row breaks: column, problem, hint.
type Broken = (&'static str, String, &'static str);

impl<'r> Loader<'r> {
    pub(super) async fn new(registry: &'r Registry) -> Result<Self, RegistryError> {
        let mut write = registry.write().await?;
        let device_rev = to_i64(write.device_rev().await?.0)?;
        let ids = Ids::read(&mut write).await?;
        let plans: Vec<(String, i64, Option<String>)> = sqlx::query_as(
            "SELECT p.code, p.id, (SELECT MIN(valid_from) FROM plan_version v WHERE v.plan = p.id) \
             FROM plan p",
        )
        .fetch_all(write.sql())
        .await?;
        let transformers: Vec<(String, i64)> =
            sqlx::query_as("SELECT code, id FROM transformer").fetch_all(write.sql()).await?;
        let gateways = sqlx::query(
            "SELECT g.system_title, g.id, (SELECT COUNT(*) FROM meter m WHERE m.gateway = g.id) \
             FROM gateway g",
        )
        .fetch_all(write.sql())
        .await?;
        let mut loader = Self {
            registry,
            write,
            pending: Pending::default(),
            ids,
            counts: Counts::default(),
            device_rev,
            plans: BTreeMap::new(),
            transformers: BTreeMap::new(),
            gateways: BTreeMap::new(),
            meters: BTreeMap::new(),
            titles: BTreeMap::new(),
            accounts: BTreeMap::new(),
            customers: BTreeMap::new(),
            priced_from: BTreeMap::new(),
        };
        for (code, id, first) in plans {
            let first = first.as_deref().map(date).transpose()?;
            loader.plans.insert(code, KnownPlan { id: PlanId(id32(id)?), first });
        }
        for (code, id) in transformers {
            loader.transformers.insert(code, TransformerId(id32(id)?));
        }
        for row in &gateways {
            let title = sqlx::Row::try_get(row, 0)?;
            let title = crate::registry::device::title_of(title)?;
            loader.gateways.insert(title, (GatewayId(u32_of(row, 1)?), u32_of(row, 2)?));
        }
        Ok(loader)
    }

    pub(super) const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Checks a batch and writes what is good; with any problem, nothing is committed anyway.
    pub(super) async fn load(
        &mut self,
        rows: Vec<Row>,
        problems: &mut Problems,
    ) -> Result<(), RegistryError> {
        self.look_up(&rows).await?;
        for Row { line, row, content } in rows {
            self.counts.rows += 1;
            let content = match content {
                Ok(content) => content,
                Err(errors) => {
                    errors.into_iter().for_each(|error| problems.add(error));
                    continue;
                }
            };
            if let Err((column, problem, hint)) = self.take(row, content) {
                let (column, hint) = (column.to_owned(), hint.to_owned());
                problems.add(LineError { line, row, column, problem, hint });
            }
        }
        if problems.total > 0 {
            self.pending = Pending::default();
            return Ok(());
        }
        self.pending.write(&mut self.write).await
    }

    pub(super) async fn commit(mut self) -> Result<ImportReport, RegistryError> {
        self.ids.write(&mut self.write).await?;
        let outbox = self.write.commit().await?;
        Ok(ImportReport { counts: self.counts, outbox })
    }

    /// Reads what the batch names and is not known yet.
    async fn look_up(&mut self, rows: &[Row]) -> Result<(), RegistryError> {
        let contents = || rows.iter().filter_map(|row| row.content.as_ref().ok());
        let serials: Vec<&str> = contents().map(|content| content.serial.as_str()).collect();
        let titles: Vec<&[u8]> = contents()
            .filter_map(|content| content.meter.as_ref().map(|meter| &meter.title.0[..]))
            .collect();
        let installations = || contents().filter_map(|content| content.installation.as_ref());
        let accounts: Vec<&str> =
            installations().filter_map(|installation| installation.account.as_deref()).collect();
        let customers: Vec<&str> = installations()
            .filter_map(|installation| installation.new_account.as_ref())
            .map(|account| account.customer.as_str())
            .collect();
        self.look_up_devices(&serials, &titles).await?;
        self.look_up_accounts(&accounts, &customers).await
    }

    async fn look_up_devices(
        &mut self,
        serials: &[&str],
        titles: &[&[u8]],
    ) -> Result<(), RegistryError> {
        let mut sql = QueryBuilder::<Sqlite>::new(
            "SELECT m.serial, m.id, m.role, \
             EXISTS (SELECT 1 FROM installation i WHERE i.meter = m.id) \
             FROM meter m WHERE m.serial IN ",
        );
        bind_list(&mut sql, serials);
        let known: Vec<(String, i64, String, bool)> =
            sql.build_query_as().fetch_all(self.write.sql()).await?;
        for (serial, id, role, is_installed) in known {
            let role = if role == "supply" { Role::Supply } else { Role::Consumer };
            let known = KnownMeter { id: MeterId(id32(id)?), role, row: 0, is_installed };
            self.meters.entry(serial).or_insert(known);
        }
        let mut sql =
            QueryBuilder::<Sqlite>::new("SELECT system_title FROM meter WHERE system_title IN ");
        bind_list(&mut sql, titles);
        let known: Vec<Vec<u8>> = sql.build_query_scalar().fetch_all(self.write.sql()).await?;
        for title in known {
            self.titles.entry(crate::registry::device::title_of(&title)?).or_insert(0);
        }
        Ok(())
    }

    async fn look_up_accounts(
        &mut self,
        accounts: &[&str],
        customers: &[&str],
    ) -> Result<(), RegistryError> {
        let mut sql = QueryBuilder::<Sqlite>::new(
            "SELECT a.code, a.id, a.plan, a.zone, \
             EXISTS (SELECT 1 FROM installation i WHERE i.account = a.id) \
             FROM account a WHERE a.code IN ",
        );
        bind_list(&mut sql, accounts);
        let known: Vec<(String, i64, i64, String, bool)> =
            sql.build_query_as().fetch_all(self.write.sql()).await?;
        for (code, id, plan, zone, is_served) in known {
            let (id, plan) = (AccountId(id32(id)?), PlanId(id32(plan)?));
            let known = KnownAccount { id, row: 0, is_served, plan };
            self.accounts.entry(code).or_insert((known, zone));
        }
        let mut sql = QueryBuilder::<Sqlite>::new("SELECT code, id FROM customer WHERE code IN ");
        bind_list(&mut sql, customers);
        let known: Vec<(String, i64)> = sql.build_query_as().fetch_all(self.write.sql()).await?;
        for (code, id) in known {
            self.customers.entry(code).or_insert(CustomerId(id32(id)?));
        }
        Ok(())
    }

    fn take(&mut self, row: u64, content: Content) -> Result<(), Broken> {
        let Content { serial, meter, installation } = content;
        let known = self.meters.get(&serial).copied();
        let known = match (meter, known) {
            (Some(meter), None) => self.take_meter(row, &serial, meter)?,
            (Some(_), Some(known)) => {
                let problem = format!("meter {serial} {}", exists(known.row));
                let hint = "leave the meter's columns empty to install a meter that exists";
                return Err(("serial", problem, hint));
            }
            (None, Some(known)) => known,
            (None, None) => {
                let problem = format!("there is no meter {serial}");
                return Err(("serial", problem, "fill in system_title to register it"));
            }
        };
        match installation {
            Some(installation) => self.take_installation(row, &serial, known, installation),
            None => Ok(()),
        }
    }

    fn take_meter(
        &mut self,
        row: u64,
        serial: &str,
        new: NewMeterColumns,
    ) -> Result<KnownMeter, Broken> {
        let title_row = self.titles.get(&new.title).copied();
        let title_row = title_row.or_else(|| self.gateways.contains_key(&new.title).then_some(0));
        if let Some(other) = title_row {
            let problem = format!("system title {} {}", new.title, exists(other));
            return Err(("system_title", problem, "every device has its own system title"));
        }
        let gateway = match new.gateway {
            None => GatewayId::NONE,
            Some(title) => self.take_gateway(title)?,
        };
        let transformer = match &new.transformer {
            None => TransformerId::NONE,
            Some(code) => self.take_transformer(code),
        };
        let id = MeterId(self.ids.next_meter());
        let record = MeterRecord { meter: id, transformer, gateway, ..new.record };
        self.titles.insert(new.title, row);
        let known = KnownMeter { id, role: record.role, row, is_installed: false };
        self.meters.insert(serial.to_owned(), known);
        self.pending.add_meter(self.registry, serial, new, record, self.device_rev);
        self.pending.changes.push(Change::Meter(record));
        self.counts.meters += 1;
        Ok(known)
    }

    fn take_gateway(&mut self, title: SystemTitle) -> Result<GatewayId, Broken> {
        let Some((id, meters)) = self.gateways.get_mut(&title) else {
            let problem = format!("there is no gateway {title}");
            return Err(("gateway", problem, "register the gateway first"));
        };
        if *meters >= GATEWAY_METERS_MAX {
            let problem = format!("gateway {title} has {GATEWAY_METERS_MAX} meters already");
            return Err(("gateway", problem, "assign the meter to another gateway"));
        }
        *meters += 1;
        Ok(*id)
    }

    fn take_transformer(&mut self, code: &str) -> TransformerId {
        if let Some(id) = self.transformers.get(code) {
            return *id;
        }
        let id = TransformerId(self.ids.next_transformer());
        self.transformers.insert(code.to_owned(), id);
        self.pending.transformers.push((id.0, code.to_owned()));
        self.counts.transformers += 1;
        id
    }

    fn take_installation(
        &mut self,
        row: u64,
        serial: &str,
        meter: KnownMeter,
        new: InstallationColumns,
    ) -> Result<(), Broken> {
        if meter.is_installed {
            let problem = format!("meter {serial} is or was installed");
            let hint = "an import installs meters that never served; move this one by the API";
            return Err(("installed_at", problem, hint));
        }
        let some = AccountId(u32::from(new.account.is_some()));
        if check_role(meter.role, some).is_err() {
            let hint = "a consumer meter serves an account, a supply meter none";
            return Err(("account", "does not fit the meter's role".to_owned(), hint));
        }
        let account = match new.account {
            None => AccountId::NONE,
            Some(code) => self.take_account(row, code, new.new_account, new.at)?,
        };
        let installation = Installation { meter: meter.id, account, at: new.at, start: new.start };
        self.pending.installations.push(installation);
        self.pending.changes.push(Change::Install(installation));
        self.meters.insert(serial.to_owned(), KnownMeter { is_installed: true, ..meter });
        self.counts.installations += 1;
        Ok(())
    }

    fn take_account(
        &mut self,
        row: u64,
        code: String,
        new: Option<NewAccountColumns>,
        at: UnixSeconds,
    ) -> Result<AccountId, Broken> {
        let known = self.accounts.get(&code).cloned();
        let (known, zone) = match (new, known) {
            (Some(new), None) => return self.open_account(row, code, new, at),
            (Some(_), Some((known, _))) => {
                let problem = format!("account {code} {}", exists(known.row));
                let hint = "leave the account's columns empty to use an account that exists";
                return Err(("account", problem, hint));
            }
            (None, Some(known)) => known,
            (None, None) => {
                let problem = format!("there is no account {code}");
                return Err(("account", problem, "fill in customer, plan, zone and mode"));
            }
        };
        if known.is_served {
            let problem = format!("account {code} has or had a meter");
            let hint = "an account has one active meter; replace it by the API";
            return Err(("account", problem, hint));
        }
        self.check_priced(known.plan, None, &zone, at)?;
        let known = KnownAccount { is_served: true, ..known };
        self.accounts.insert(code, (known, zone));
        Ok(known.id)
    }

    fn open_account(
        &mut self,
        row: u64,
        code: String,
        new: NewAccountColumns,
        at: UnixSeconds,
    ) -> Result<AccountId, Broken> {
        let Some(plan) = self.plans.get(&new.plan) else {
            let problem = format!("there is no plan {}", new.plan);
            return Err(("plan", problem, "create the plan first, or correct its code"));
        };
        let (plan, first) = (plan.id, plan.first);
        let Some(first) = first else {
            let problem = format!("plan {} has no version", new.plan);
            return Err(("plan", problem, "add a version with prices to the plan first"));
        };
        self.check_priced(plan, Some(first), &new.zone, at)?;
        let customer = self.take_customer(&new)?;
        let account = AccountId(self.ids.next_account());
        let terms = AccountTerms {
            account,
            customer,
            plan,
            zone: new.zone.clone(),
            mode: new.mode,
            overdraft: new.limits.overdraft,
            low_levels: new.limits.low_levels,
        };
        self.pending.accounts.push((code.clone(), terms.clone()));
        self.pending.changes.push(Change::Account(terms));
        if let Some(amount) = new.opening {
            let reason = "opening balance".to_owned();
            let adjustment = Adjustment { account, amount, at, reason };
            self.pending.adjustments.push((self.ids.next_adjustment(), adjustment.clone()));
            self.pending.changes.push(Change::Adjust(adjustment));
        }
        let known = KnownAccount { id: account, row, is_served: true, plan };
        self.accounts.insert(code, (known, new.zone));
        self.counts.accounts += 1;
        Ok(account)
    }

    fn take_customer(&mut self, new: &NewAccountColumns) -> Result<CustomerId, Broken> {
        if let Some(id) = self.customers.get(&new.customer) {
            return Ok(*id);
        }
        if new.customer_name.is_empty() {
            let problem = format!("customer {} is new and has no name", new.customer);
            return Err(("customer_name", problem, "fill in the name"));
        }
        let id = CustomerId(self.ids.next_customer());
        self.customers.insert(new.customer.clone(), id);
        let row = (id.0, new.customer.clone(), new.customer_name.clone());
        self.pending.customers.push(row);
        self.counts.customers += 1;
        Ok(id)
    }

    /// Consumption must have a price from the first instant on.
    fn check_priced(
        &mut self,
        plan: PlanId,
        first: Option<LocalDate>,
        zone: &str,
        at: UnixSeconds,
    ) -> Result<(), Broken> {
        let key = (plan, zone.to_owned());
        let plans = &self.plans;
        let from = *self.priced_from.entry(key).or_insert_with(|| {
            let known = || plans.values().find(|known| known.id == plan)?.first;
            let first = first.or_else(known)?;
            LocalCalendar::new(zone).ok().map(|calendar| calendar.day_start(first))
        });
        if from.is_some_and(|from| from <= at) {
            return Ok(());
        }
        let problem = "the plan has no prices yet at this instant".to_owned();
        Err(("installed_at", problem, "use a later instant or a plan that begins earlier"))
    }
}

/// Where something stands already.
fn exists(row: u64) -> String {
    if row == 0 { "exists already".to_owned() } else { format!("stands in row {row} already") }
}

fn id32(id: i64) -> Result<u32, RegistryError> {
    u32::try_from(id).map_err(|_| RegistryError::Damaged(format!("{id} is no id")))
}

/// `($1, $2, …)`; an empty list matches nothing.
fn bind_list<'t, T>(sql: &mut QueryBuilder<Sqlite>, values: &[T])
where
    T: Copy + sqlx::Encode<'t, Sqlite> + sqlx::Type<Sqlite>,
{
    sql.push("(");
    let mut list = sql.separated(", ");
    for value in values {
        list.push_bind(*value);
    }
    sql.push(")");
}
