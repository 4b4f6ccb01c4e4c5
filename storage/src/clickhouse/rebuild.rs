//! Making all tables anew beside the old ones: analysts see the old rows until the new ones are
//! complete, and a rebuild that is cut short leaves the old tables as they were.

use super::days::{DAY_TABLES, MARKS};
use super::schema::{self, quoted};
use super::{ClickhouseConfig, ClickhouseError, Sink, Table};

/// Ends the name of the database where the tables are filled.
const BESIDE: &str = "_rebuild";
/// What is not a table of rows, but belongs to the schema.
const VERSIONS: &str = "schema_version";

/// An empty copy of the schema that waits to be filled, then takes the place of the live one.
#[derive(Debug)]
pub struct Rebuild {
    beside: Sink,
    live: ClickhouseConfig,
}

impl Rebuild {
    /// Makes the empty tables. What an earlier rebuild left half done is dropped; the live tables
    /// are not looked at, whatever was done to them.
    ///
    /// # Errors
    /// As [`Sink::open`].
    pub async fn begin(live: ClickhouseConfig) -> Result<Self, ClickhouseError> {
        let database = format!("{}{BESIDE}", live.database);
        let server = Sink::connect(live.clone()).await?;
        server.execute(&format!("DROP DATABASE IF EXISTS {}", quoted(&database))).await?;
        let beside = Sink::open(ClickhouseConfig { database, ..live.clone() }).await?;
        Ok(Self { beside, live })
    }

    /// Where the rows go.
    pub fn sink(&self) -> &Sink {
        &self.beside
    }

    /// Puts the new tables in the place of the old ones, table by table, and drops the old ones.
    ///
    /// # Errors
    /// What the server or the connection said. Cut short it leaves tables of both kinds, or one
    /// that is missing: begin again.
    pub async fn finish(self) -> Result<Sink, ClickhouseError> {
        let (live, beside) = (quoted(&self.live.database), quoted(self.beside.database()));
        self.beside.execute(&format!("CREATE DATABASE IF NOT EXISTS {live}")).await?;
        for view in schema::VIEWS {
            self.beside.execute(&format!("DROP TABLE IF EXISTS {live}.{view}")).await?;
        }
        let tables = Table::ALL.into_iter().map(Table::name);
        let of_days = DAY_TABLES.iter().map(|table| table.name);
        for name in tables.chain(of_days).chain([MARKS, VERSIONS]) {
            let away = match self.beside.exists(&format!("{live}.{name}")).await? {
                true => format!("{live}.{name} TO {beside}.{name}_old, "),
                false => String::new(),
            };
            let renamed = format!("RENAME TABLE {away}{beside}.{name} TO {live}.{name}");
            self.beside.execute(&renamed).await?;
        }
        // The views name their tables with the database, so they are made, not moved; a later step
        // may drop what an earlier one made.
        let steps = schema::statements(0, &self.beside.holes(&self.live.database));
        let statements = steps.iter().flat_map(|step| &step.1);
        for view in statements.filter(|statement| is_of_views(statement)) {
            self.beside.execute(view).await?;
        }
        self.beside.execute(&format!("DROP DATABASE {beside}")).await?;
        Sink::open(self.live).await
    }
}

/// Tables are dropped nowhere, so what a step drops is a view.
fn is_of_views(statement: &str) -> bool {
    ["CREATE VIEW ", "DROP TABLE "].iter().any(|verb| statement.starts_with(verb))
}
