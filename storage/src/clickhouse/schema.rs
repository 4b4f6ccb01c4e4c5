//! The tables and views: templates in `deploy/clickhouse/`, rendered for the server's dialect,
//! applied in steps that a `schema_version` table counts.
//!
//! A step is never edited once released; a change is a further file. Every statement may run
//! twice, so a step cut short by a crash is simply run again.

use super::ClickhouseError;
use super::version::Dialect;

/// A migration: its number and its template.
struct Step {
    version: u32,
    template: &'static str,
}

const STEPS: &[Step] = &[
    Step { version: 1, template: include_str!("../../../deploy/clickhouse/0001_tables.sql") },
    Step { version: 2, template: include_str!("../../../deploy/clickhouse/0002_views.sql") },
    Step { version: 3, template: include_str!("../../../deploy/clickhouse/0003_ledger.sql") },
    Step { version: 4, template: include_str!("../../../deploy/clickhouse/0004_supply.sql") },
    Step { version: 5, template: include_str!("../../../deploy/clickhouse/0005_days.sql") },
];

/// The schema's version that this program makes and expects.
pub(super) const VERSION: u32 = 5;

/// The views among what the steps make.
pub(super) const VIEWS: [&str; 2] = ["daily", "monthly"];

const _: () = assert!(STEPS[STEPS.len() - 1].version == VERSION);

/// What fills the holes of the templates.
#[derive(Debug, Clone)]
pub(super) struct Holes<'a> {
    pub(super) database: &'a str,
    /// IANA zone of the days and months in the views.
    pub(super) zone: &'a str,
    pub(super) dialect: Dialect,
}

/// The statements that make the bookkeeping of versions itself.
pub(super) fn bootstrap(database: &str) -> [String; 2] {
    let database = quoted(database);
    [
        format!("CREATE DATABASE IF NOT EXISTS {database}"),
        format!(
            "CREATE TABLE IF NOT EXISTS {database}.schema_version (version UInt32, applied_at \
             DateTime) ENGINE = MergeTree ORDER BY version"
        ),
    ]
}

/// The statements from version `from` (exclusive) to [`VERSION`], each step with its number.
pub(super) fn statements(from: u32, holes: &Holes<'_>) -> Vec<(u32, Vec<String>)> {
    STEPS
        .iter()
        .filter(|step| step.version > from)
        .map(|step| (step.version, render(step.template, holes)))
        .collect()
}

/// Fills the holes and splits into statements.
fn render(template: &str, holes: &Holes<'_>) -> Vec<String> {
    let mut text = String::with_capacity(template.len());
    for line in template.lines().filter(|line| !line.starts_with("--")) {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once('{') {
            let (hole, after) = after.split_once('}').expect("a template's hole is closed");
            text.push_str(before);
            text.push_str(&fill(hole, holes));
            rest = after;
        }
        text.push_str(rest);
        text.push('\n');
    }
    let statements = text.split("\n;\n").map(str::trim);
    statements.filter(|statement| !statement.is_empty()).map(str::to_owned).collect()
}

fn fill(hole: &str, holes: &Holes<'_>) -> String {
    let modern = holes.dialect == Dialect::Modern;
    match hole.split_once(':').unwrap_or((hole, "")) {
        ("db", _) => quoted(holes.database),
        ("zone", _) => holes.zone.to_owned(),
        // An older server does not know the words; see [`is_done`].
        ("if_new", _) if modern => "IF NOT EXISTS".to_owned(),
        ("codec", codec) if modern => format!("CODEC({codec})"),
        ("low", kind) if modern => format!("LowCardinality({kind})"),
        ("low", kind) => kind.to_owned(),
        ("codec" | "if_new", _) => String::new(),
        (other, _) => unreachable!("the templates have no hole {other}"),
    }
}

/// Whether an error means that a statement was run before: code 44, a column with this name exists.
pub(super) fn is_done(statement: &str, error: &ClickhouseError) -> bool {
    statement.contains(" ADD COLUMN ") && matches!(error, ClickhouseError::Server { code: 44, .. })
}

/// Compares a table's columns with those that are written.
pub(super) fn compare(
    table: &'static str,
    want: &[(&'static str, &'static str)],
    have: &[(String, String)],
) -> Result<(), ClickhouseError> {
    let differs = |what: String| Err(ClickhouseError::SchemaDiffers { table, what });
    for &(name, kind) in want {
        let Some((_, found)) = have.iter().find(|(column, _)| column == name) else {
            return differs(format!("column {name} is missing"));
        };
        let plain = found
            .strip_prefix("LowCardinality(")
            .and_then(|rest| rest.strip_suffix(')'))
            .unwrap_or(found);
        if plain != kind {
            return differs(format!("column {name} is {found}, not {kind}"));
        }
    }
    Ok(())
}

/// A name between back-ticks.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

#[cfg(test)]
mod tests {
    use super::super::Table;
    use super::*;

    fn holes(dialect: Dialect) -> Holes<'static> {
        Holes { database: "m", zone: "UTC", dialect }
    }

    #[test]
    fn every_hole_is_filled_and_portable_text_has_nothing_new() {
        for dialect in [Dialect::Portable, Dialect::Modern] {
            let steps = statements(0, &holes(dialect));
            assert_eq!(steps.len(), STEPS.len());
            for statement in steps.iter().flat_map(|step| &step.1) {
                let is_known = ["CREATE ", "ALTER ", "DROP TABLE IF EXISTS "]
                    .iter()
                    .any(|verb| statement.starts_with(verb));
                assert!(is_known, "{statement}");
                assert!(!statement.contains(['{', '}', ';']), "{statement}");
                // ClickHouse notes a block before its part is committed (see the template).
                assert!(!statement.contains("deduplication"), "{statement}");
                for new in ["CODEC", "TTL", "LowCardinality"] {
                    let used = statement.contains(new);
                    assert!(!used || dialect == Dialect::Modern, "{new} in {statement}");
                }
            }
        }
        assert!(statements(VERSION, &holes(Dialect::Modern)).is_empty());
    }

    #[test]
    fn a_table_changed_by_hand_is_named() {
        let mut have: Vec<(String, String)> = Table::Meters
            .columns()
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned()))
            .collect();
        have.push(("extra".into(), "UInt8".into()));
        have[2].1 = "LowCardinality(String)".into();
        let compare = |have: &[_]| compare("meters", &Table::Meters.columns(), have);
        assert!(compare(&have).is_ok());
        have[0].1 = "UInt64".into();
        let error = compare(&have).unwrap_err().to_string();
        assert!(error.contains("meter_id is UInt64, not UInt32"), "{error}");
        have.remove(0);
        let error = compare(&have).unwrap_err().to_string();
        assert!(error.contains("meter_id is missing"), "{error}");
    }
}
