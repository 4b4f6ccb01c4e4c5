//! Rows of a batch into their tables, many in one statement.

use meter::{AccountTerms, Adjustment, Change, Installation, MeterRecord};
use sqlx::{QueryBuilder, Sqlite};

use super::columns::NewMeterColumns;
use crate::registry::account::mode_name;
use crate::registry::master::Owner;
use crate::registry::row::{nullable, role_name, to_i64};
use crate::registry::write::Write;
use crate::registry::{Registry, RegistryError};

/// The counters of ids while the transaction holds the writer.
pub(super) struct Ids {
    last: [(&'static str, u32, u32); 5],
}

impl Ids {
    pub(super) async fn read(write: &mut Write<'_>) -> Result<Self, RegistryError> {
        let mut last = [
            ("meter", 0, 0),
            ("transformer", 0, 0),
            ("account", 0, 0),
            ("customer", 0, 0),
            ("adjustment", 0, 0),
        ];
        for (name, begin, now) in &mut last {
            let value = write.advance(name, 0).await?;
            let value = u32::try_from(value);
            let value = value.map_err(|_| RegistryError::Damaged(format!("ids of {name}")))?;
            (*begin, *now) = (value, value);
        }
        Ok(Self { last })
    }

    pub(super) async fn write(&self, write: &mut Write<'_>) -> Result<(), RegistryError> {
        for (name, begin, now) in &self.last {
            write.advance(name, u64::from(now - begin)).await?;
        }
        Ok(())
    }

    fn next(&mut self, index: usize) -> u32 {
        let (_, _, now) = &mut self.last[index];
        *now += 1;
        *now
    }

    pub(super) fn next_meter(&mut self) -> u32 {
        self.next(0)
    }

    pub(super) fn next_transformer(&mut self) -> u32 {
        self.next(1)
    }

    pub(super) fn next_account(&mut self) -> u32 {
        self.next(2)
    }

    pub(super) fn next_customer(&mut self) -> u32 {
        self.next(3)
    }

    pub(super) fn next_adjustment(&mut self) -> u32 {
        self.next(4)
    }
}

/// A meter's row without its keys in clear.
struct MeterRow {
    serial: String,
    title: [u8; 8],
    model: String,
    template: String,
    record: MeterRecord,
    sealed_keys: Vec<u8>,
    device_rev: i64,
}

/// Rows of a batch not yet in their tables.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) transformers: Vec<(u32, String)>,
    pub(super) customers: Vec<(u32, String, String)>,
    pub(super) accounts: Vec<(String, AccountTerms)>,
    pub(super) installations: Vec<Installation>,
    pub(super) adjustments: Vec<(u32, Adjustment)>,
    pub(super) changes: Vec<Change>,
    meters: Vec<MeterRow>,
}

impl Pending {
    pub(super) fn add_meter(
        &mut self,
        registry: &Registry,
        serial: &str,
        new: NewMeterColumns,
        record: MeterRecord,
        device_rev: i64,
    ) {
        self.meters.push(MeterRow {
            serial: serial.to_owned(),
            title: new.title.0,
            sealed_keys: registry.master.seal(Owner::Meter(new.title), &new.keys),
            model: new.model,
            template: new.template,
            record,
            device_rev,
        });
    }

    /// Writes all rows and tells of all changes. `changes` keeps the order of the rows; the tables
    /// are filled in the order of their references.
    pub(super) async fn write(&mut self, write: &mut Write<'_>) -> Result<(), RegistryError> {
        insert(write, "transformer (id, code, name)", self.transformers.drain(..), |row, item| {
            let (id, code) = item;
            row.push_bind(i64::from(id)).push_bind(code.clone()).push_bind(code);
            Ok(())
        })
        .await?;
        insert(
            write,
            "customer (id, code, name, contact)",
            self.customers.drain(..),
            |row, item| {
                let (id, code, name) = item;
                row.push_bind(i64::from(id)).push_bind(code).push_bind(name).push_bind("");
                Ok(())
            },
        )
        .await?;
        self.write_accounts(write).await?;
        self.write_meters(write).await?;
        insert(
            write,
            "installation (meter, installed_at, account, start_wh)",
            self.installations.drain(..),
            |row, item| {
                let start = item.start.map(|start| to_i64(start.wh())).transpose()?;
                row.push_bind(i64::from(item.meter.0))
                    .push_bind(i64::from(item.at.0))
                    .push_bind(nullable(item.account.0))
                    .push_bind(start);
                Ok(())
            },
        )
        .await?;
        for change in self.changes.drain(..) {
            write.tell(change).await?;
        }
        self.write_adjustments(write).await
    }

    async fn write_accounts(&mut self, write: &mut Write<'_>) -> Result<(), RegistryError> {
        insert(
            write,
            "account (id, code, customer, plan, zone, mode, overdraft, low_level_1, low_level_2)",
            self.accounts.drain(..),
            |row, (code, terms)| {
                row.push_bind(i64::from(terms.account.0))
                    .push_bind(code)
                    .push_bind(i64::from(terms.customer.0))
                    .push_bind(i64::from(terms.plan.0))
                    .push_bind(terms.zone)
                    .push_bind(mode_name(terms.mode))
                    .push_bind(terms.overdraft.ticks())
                    .push_bind(terms.low_levels[0].ticks())
                    .push_bind(terms.low_levels[1].ticks());
                Ok(())
            },
        )
        .await
    }

    async fn write_meters(&mut self, write: &mut Write<'_>) -> Result<(), RegistryError> {
        insert(
            write,
            "meter (id, serial, system_title, model, template, role, transformer, gateway, \
             current_max_ma, voltage_nominal_mv, phases, register_digits, period_s, sealed_keys, \
             device_rev)",
            self.meters.drain(..),
            |row, meter| {
                let record = meter.record;
                row.push_bind(i64::from(record.meter.0))
                    .push_bind(meter.serial)
                    .push_bind(meter.title.to_vec())
                    .push_bind(meter.model)
                    .push_bind(meter.template)
                    .push_bind(role_name(record.role))
                    .push_bind(nullable(record.transformer.0))
                    .push_bind(nullable(record.gateway.0))
                    .push_bind(i64::from(record.current_max.ma()))
                    .push_bind(i64::from(record.voltage_nominal.mv()))
                    .push_bind(i64::from(record.phases))
                    .push_bind(i64::from(record.register_digits))
                    .push_bind(i64::from(record.period_s))
                    .push_bind(meter.sealed_keys)
                    .push_bind(meter.device_rev);
                Ok(())
            },
        )
        .await
    }

    /// Opening balances; their outbox row is the batch's last, which holds them or came after.
    async fn write_adjustments(&mut self, write: &mut Write<'_>) -> Result<(), RegistryError> {
        if self.adjustments.is_empty() {
            return Ok(());
        }
        let outbox = write.flush().await?.expect("adjustments are told of before");
        let outbox = to_i64(outbox.0)?;
        insert(
            write,
            "adjustment (id, account, amount, at, reason, actor, outbox)",
            self.adjustments.drain(..),
            |row, (id, adjustment)| {
                row.push_bind(i64::from(id))
                    .push_bind(i64::from(adjustment.account.0))
                    .push_bind(adjustment.amount.ticks())
                    .push_bind(i64::from(adjustment.at.0))
                    .push_bind(adjustment.reason)
                    .push_bind(0_i64)
                    .push_bind(outbox);
                Ok(())
            },
        )
        .await
    }
}

type Values<'a, 'b> = sqlx::query_builder::Separated<'a, Sqlite, &'b str>;

/// One `INSERT` of all items; none for none.
async fn insert<T>(
    write: &mut Write<'_>,
    table: &str,
    items: impl ExactSizeIterator<Item = T>,
    bind: impl Fn(&mut Values<'_, '_>, T) -> Result<(), RegistryError>,
) -> Result<(), RegistryError> {
    if items.len() == 0 {
        return Ok(());
    }
    let mut sql = QueryBuilder::<Sqlite>::new("INSERT INTO ");
    sql.push(table).push(" VALUES ");
    for (index, item) in items.enumerate() {
        sql.push(if index == 0 { "(" } else { ", (" });
        bind(&mut sql.separated(", "), item)?;
        sql.push(")");
    }
    sql.build().execute(write.sql()).await?;
    Ok(())
}
