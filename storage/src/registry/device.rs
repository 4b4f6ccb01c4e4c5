//! Devices for the ingest tier: system title, template and keys of every meter and gateway, and
//! those that came or changed since. A million of them are read in pages.

use meter::{GatewayId, MeterId, SystemTitle};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::master::{DeviceKeys, Owner};
use super::row::{to_i64, u32_of};
use super::{Registry, RegistryError};

/// A revision of the devices: grows with each registration.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct DeviceRev(pub u64);

/// Which device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeviceKind {
    /// A meter.
    Meter(MeterId),
    /// A gateway.
    Gateway(GatewayId),
}

/// What ingest must know of a device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// Which.
    pub kind: DeviceKind,
    /// Its system title.
    pub title: SystemTitle,
    /// The gateway that a meter hangs behind, [`GatewayId::NONE`] when direct.
    pub gateway: GatewayId,
    /// Name of its push template.
    pub template: String,
    /// Its keys.
    pub keys: DeviceKeys,
}

/// Devices read in one statement.
const PAGE: i64 = 10_000;

impl Registry {
    /// Gives `take` every device registered or changed after `since`, gateways first, and returns
    /// the revision up to which this is so. [`DeviceRev::default`] means all of them.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer or keys do not open.
    pub async fn devices_since(
        &self,
        since: DeviceRev,
        mut take: impl FnMut(Device),
    ) -> Result<DeviceRev, RegistryError> {
        // Read before the rows: a row that comes later is read again next time, never missed.
        let through = *self.devices.borrow();
        if through <= since {
            return Ok(through);
        }
        let pages = [
            "SELECT id, system_title, template, sealed_keys, device_rev, 0 FROM gateway \
             WHERE (device_rev, id) > ($1, $2) ORDER BY device_rev, id LIMIT $3",
            "SELECT id, system_title, template, sealed_keys, device_rev, COALESCE(gateway, 0) \
             FROM meter \
             WHERE (device_rev, id) > ($1, $2) ORDER BY device_rev, id LIMIT $3",
        ];
        for (index, sql) in pages.into_iter().enumerate() {
            let (mut rev, mut id) = (to_i64(since.0)?, i64::MAX);
            loop {
                let page = sqlx::query(sql).bind(rev).bind(id).bind(PAGE);
                let rows = page.fetch_all(&self.readers).await?;
                for row in &rows {
                    (id, rev) = (row.try_get(0)?, row.try_get(4)?);
                    take(self.device(index == 0, row)?);
                }
                if rows.len() < usize::try_from(PAGE).expect("a page is small") {
                    break;
                }
            }
        }
        Ok(through)
    }

    fn device(&self, is_gateway: bool, row: &SqliteRow) -> Result<Device, RegistryError> {
        let id = u32_of(row, 0)?;
        let title = title_of(row.try_get(1)?)?;
        let (kind, owner) = if is_gateway {
            (DeviceKind::Gateway(GatewayId(id)), Owner::Gateway(title))
        } else {
            (DeviceKind::Meter(MeterId(id)), Owner::Meter(title))
        };
        let keys = self.master.open(owner, row.try_get(3)?);
        let keys = keys.ok_or_else(|| RegistryError::Damaged(format!("keys of {title}")))?;
        let gateway = GatewayId(u32_of(row, 5)?);
        Ok(Device { kind, title, gateway, template: row.try_get(2)?, keys })
    }
}

/// A system title column.
pub(super) fn title_of(bytes: &[u8]) -> Result<SystemTitle, RegistryError> {
    let title = bytes.try_into().map(SystemTitle);
    title.map_err(|_| RegistryError::Damaged("a system title is not 8 bytes".to_owned()))
}
