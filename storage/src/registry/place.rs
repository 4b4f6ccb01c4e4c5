//! Transformers and gateways.

use meter::{GatewayId, SystemTitle, TransformerId};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::device::title_of;
use super::master::{DeviceKeys, Owner};
use super::row::{to_i64, u32_of};
use super::write::Write;
use super::{Refusal, Registry, RegistryError};

/// Meters behind one gateway at most.
pub(super) const GATEWAY_METERS_MAX: u32 = 32;

/// A transformer: the unit whose supply and use are compared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transformer {
    /// Its id.
    pub id: TransformerId,
    /// Its code in the field, unique.
    pub code: String,
    /// Its name.
    pub name: String,
}

/// A gateway.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gateway {
    /// Its id.
    pub id: GatewayId,
    /// Its system title, unique.
    pub title: SystemTitle,
    /// Its name.
    pub name: String,
    /// Name of its push template.
    pub template: String,
}

/// A gateway to be registered.
#[derive(Clone, Debug)]
pub struct NewGateway {
    /// Its system title.
    pub title: SystemTitle,
    /// Its name.
    pub name: String,
    /// Name of its push template.
    pub template: String,
    /// Its keys.
    pub keys: DeviceKeys,
}

impl Registry {
    /// Registers a transformer.
    ///
    /// # Errors
    /// [`Refusal::Exists`] for a code in use, [`Refusal::Invalid`].
    pub async fn add_transformer(
        &self,
        code: &str,
        name: &str,
    ) -> Result<Transformer, RegistryError> {
        check_text("code", code, 64)?;
        check_line("name", name, 200)?;
        let mut write = self.write().await?;
        let id = write.next_id("transformer").await?;
        sqlx::query("INSERT INTO transformer (id, code, name) VALUES ($1, $2, $3)")
            .bind(i64::from(id))
            .bind(code)
            .bind(name)
            .execute(write.sql())
            .await
            .map_err(|error| taken(error, "transformer", "code", code))?;
        write.commit().await?;
        Ok(Transformer { id: TransformerId(id), code: code.to_owned(), name: name.to_owned() })
    }

    /// Transformers after `after`, by id.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn transformers(
        &self,
        after: TransformerId,
        limit: u32,
    ) -> Result<Vec<Transformer>, RegistryError> {
        sqlx::query("SELECT id, code, name FROM transformer WHERE id > $1 ORDER BY id LIMIT $2")
            .bind(i64::from(after.0))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(transformer)
            .collect()
    }

    /// One transformer.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn transformer(&self, id: TransformerId) -> Result<Transformer, RegistryError> {
        let row = sqlx::query("SELECT id, code, name FROM transformer WHERE id = $1")
            .bind(i64::from(id.0))
            .fetch_optional(&self.readers)
            .await?;
        transformer(&row.ok_or_else(|| Refusal::not_found("transformer", id))?)
    }

    /// Registers a gateway.
    ///
    /// # Errors
    /// [`Refusal::Exists`] for a system title in use, [`Refusal::Invalid`].
    pub async fn add_gateway(&self, new: &NewGateway) -> Result<Gateway, RegistryError> {
        check_line("name", &new.name, 200)?;
        check_text("template", &new.template, 64)?;
        let mut write = self.write().await?;
        write.check_title(new.title).await?;
        let id = write.next_id("gateway").await?;
        let rev = write.device_rev().await?;
        sqlx::query(
            "INSERT INTO gateway (id, system_title, name, template, sealed_keys, device_rev) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(i64::from(id))
        .bind(&new.title.0[..])
        .bind(&new.name)
        .bind(&new.template)
        .bind(self.master.seal(Owner::Gateway(new.title), &new.keys))
        .bind(to_i64(rev.0)?)
        .execute(write.sql())
        .await?;
        write.commit().await?;
        let NewGateway { title, name, template, .. } = new.clone();
        Ok(Gateway { id: GatewayId(id), title, name, template })
    }

    /// Gateways after `after`, by id.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn gateways(
        &self,
        after: GatewayId,
        limit: u32,
    ) -> Result<Vec<Gateway>, RegistryError> {
        let rows = sqlx::query(
            "SELECT id, system_title, name, template FROM gateway \
             WHERE id > $1 ORDER BY id LIMIT $2",
        );
        let rows = rows.bind(i64::from(after.0)).bind(i64::from(limit));
        rows.fetch_all(&self.readers).await?.iter().map(gateway).collect()
    }

    /// One gateway.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn gateway(&self, id: GatewayId) -> Result<Gateway, RegistryError> {
        let row = sqlx::query("SELECT id, system_title, name, template FROM gateway WHERE id = $1")
            .bind(i64::from(id.0))
            .fetch_optional(&self.readers)
            .await?;
        gateway(&row.ok_or_else(|| Refusal::not_found("gateway", id))?)
    }
}

impl Write<'_> {
    /// A system title names one device, meter or gateway.
    pub(super) async fn check_title(&mut self, title: SystemTitle) -> Result<(), RegistryError> {
        let known: i64 = sqlx::query_scalar(
            "SELECT (SELECT COUNT(*) FROM meter WHERE system_title = $1) \
             + (SELECT COUNT(*) FROM gateway WHERE system_title = $1)",
        )
        .bind(&title.0[..])
        .fetch_one(self.sql())
        .await?;
        if known == 0 {
            return Ok(());
        }
        let value = title.to_string();
        Err(Refusal::Exists { kind: "device", field: "system_title", value }.into())
    }
}

fn transformer(row: &SqliteRow) -> Result<Transformer, RegistryError> {
    Ok(Transformer {
        id: TransformerId(u32_of(row, 0)?),
        code: row.try_get(1)?,
        name: row.try_get(2)?,
    })
}

fn gateway(row: &SqliteRow) -> Result<Gateway, RegistryError> {
    Ok(Gateway {
        id: GatewayId(u32_of(row, 0)?),
        title: title_of(row.try_get(1)?)?,
        name: row.try_get(2)?,
        template: row.try_get(3)?,
    })
}

/// One line of text, not empty.
pub(super) fn check_text(
    field: &'static str,
    text: &str,
    length_max: usize,
) -> Result<(), Refusal> {
    if text.trim().is_empty() {
        return Err(Refusal::invalid(field, "must not be empty"));
    }
    check_line(field, text, length_max)
}

/// One line of text, which may be empty.
pub(super) fn check_line(
    field: &'static str,
    text: &str,
    length_max: usize,
) -> Result<(), Refusal> {
    if text.chars().count() > length_max {
        return Err(Refusal::invalid(field, format!("must have at most {length_max} characters")));
    }
    if text.chars().any(char::is_control) || text.trim() != text {
        return Err(Refusal::invalid(field, "must be one line without spaces at its ends"));
    }
    Ok(())
}

/// A unique value in use is a refusal, all else the database's failure.
pub(super) fn taken(
    error: sqlx::Error,
    kind: &'static str,
    field: &'static str,
    value: &str,
) -> RegistryError {
    if is_taken(&error) {
        return Refusal::Exists { kind, field, value: value.to_owned() }.into();
    }
    error.into()
}

/// Whether the database refused a row because a unique value is in use.
pub(super) fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
}
