//! What a fleet is made of, as a file says it. The defaults are a file too, `default.toml`, which
//! names every key there is: what is not in it is a typo, refused with its line and the nearest
//! name.

use meter::Money;
use serde::Deserialize;
use thiserror::Error;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

/// The defaults, with a comment for each key.
pub const DEFAULTS: &str = include_str!("default.toml");

/// Consumers of a fleet at most.
const METERS_MAX: u32 = 100_000_000;

/// Why a fleet's file is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Not TOML, or a value of the wrong kind.
    #[error("{line}:{column}: {message}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What the reader said.
        message: String,
    },
    /// A name that no key has.
    #[error("{line}:{column}: a fleet has no {name:?}{hint}")]
    Unknown {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// The name.
        name: String,
        /// The nearest name, as a sentence.
        hint: String,
    },
    /// A value out of range.
    #[error("{key} must be {range}")]
    Range {
        /// Which.
        key: &'static str,
        /// What instead.
        range: &'static str,
    },
}

/// A fleet.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Consumers.
    pub meters: u32,
    /// Consumers of one transformer, a multiple of 32.
    pub meters_per_transformer: u32,
    /// What the lines lose.
    pub loss_per_mille: u16,
    /// What goes wrong.
    pub incidents: Incidents,
    /// Meters of one kind each.
    pub group: Vec<Group>,
}

/// What goes wrong, in thousandths.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Incidents {
    /// Consumers whose meter shows too little.
    pub theft: u16,
    /// Transformers without mains for a while.
    pub outages: u16,
    /// How long.
    pub outage_minutes: u32,
    /// Registers that pass their last digit.
    pub rollovers: u16,
    /// Registers told far too high, once.
    pub spikes: u16,
    /// Meters that give way to another.
    pub swaps: u16,
}

/// How a group's meters reach the node.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// UDP.
    Direct,
    /// TCP, 32 meters a connection.
    Gateway,
}

/// What energy costs a group.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Plan {
    /// Four rates, three blocks, standing charges.
    TimeOfUse,
    /// One price.
    Flat,
}

/// Meters of one kind.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// How many, beside the shares of the other groups.
    pub share: u32,
    /// How they reach the node.
    pub link: Link,
    /// Model, for the registry.
    pub model: String,
    /// 1 or 3.
    pub phases: u8,
    /// Seconds between readings.
    pub period_s: u32,
    /// What energy costs.
    pub tariff: Plan,
    /// Least load, thousandths of the feeder's.
    pub load_least: u16,
    /// Greatest load.
    pub load_most: u16,
    /// A clock is ahead by at most this.
    pub clock_ahead_s_max: u16,
    /// A clock drifts by at most this.
    pub clock_drift_ppm_max: u16,
    /// What an account begins with, in currency units.
    pub opening_balance: String,
    /// Accounts, in thousandths, that buy once.
    pub purchases: u16,
    /// What they pay.
    pub purchase: String,
}

impl Group {
    /// What an account begins with.
    #[must_use]
    pub fn opening(&self) -> Money {
        amount(&self.opening_balance).expect("checked when read")
    }

    /// What a purchase pays.
    #[must_use]
    pub fn paid(&self) -> Money {
        amount(&self.purchase).expect("checked when read")
    }
}

impl Default for Spec {
    fn default() -> Self {
        Self::parse("").expect("the defaults are good")
    }
}

impl Spec {
    /// Reads a fleet; what the text leaves out is as in [`DEFAULTS`].
    ///
    /// # Errors
    /// [`SpecError`] with the place of the first mistake.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let defaults: Table = DEFAULTS.parse().expect("the defaults are TOML");
        let document = DeTable::parse(text).map_err(|error| syntax(text, &error))?;
        check_names(text, document.get_ref(), &defaults)?;
        let given: Table = text.parse().map_err(|error| syntax(text, &error))?;
        let spec: Self = Value::Table(merged(defaults, given))
            .try_into()
            .map_err(|error| syntax(text, &error))?;
        spec.check()?;
        Ok(spec)
    }

    /// Whether all values are in their ranges.
    ///
    /// # Errors
    /// [`SpecError::Range`] with the first that is not.
    pub fn check(&self) -> Result<(), SpecError> {
        let incidents = &self.incidents;
        let rules = [
            ("meters", (1..=METERS_MAX).contains(&self.meters), "1 to 100000000"),
            (
                "meters_per_transformer",
                self.meters_per_transformer.is_multiple_of(32)
                    && (32..=1024).contains(&self.meters_per_transformer),
                "a multiple of 32 up to 1024",
            ),
            ("loss_per_mille", self.loss_per_mille <= 500, "0 to 500"),
            ("incidents.theft", incidents.theft <= 1000, "0 to 1000"),
            ("incidents.outages", incidents.outages <= 1000, "0 to 1000"),
            ("incidents.outage_minutes", incidents.outage_minutes <= 1440, "0 to 1440"),
            ("incidents.rollovers", incidents.rollovers <= 1000, "0 to 1000"),
            ("incidents.spikes", incidents.spikes <= 1000, "0 to 1000"),
            ("incidents.swaps", incidents.swaps <= 1000, "0 to 1000"),
            ("group", (1..=64).contains(&self.group.len()), "1 to 64 groups"),
        ];
        let mut rules = rules.to_vec();
        for group in &self.group {
            rules.extend([
                ("share", (1..=1_000_000).contains(&group.share), "1 to 1000000"),
                ("model", (1..=64).contains(&group.model.len()), "1 to 64 letters"),
                ("phases", matches!(group.phases, 1 | 3), "1 or 3"),
                ("period_s", (1..=3600).contains(&group.period_s), "1 to 3600"),
                (
                    "load_least",
                    (1..=group.load_most).contains(&group.load_least),
                    "at least 1 and at most load_most",
                ),
                ("load_most", group.load_most <= 10_000, "at most 10000"),
                ("clock_ahead_s_max", group.clock_ahead_s_max <= 240, "0 to 240"),
                ("clock_drift_ppm_max", group.clock_drift_ppm_max <= 1000, "0 to 1000"),
                ("opening_balance", amount(&group.opening_balance).is_some(), "an amount"),
                ("purchases", group.purchases <= 1000, "0 to 1000"),
                ("purchase", amount(&group.purchase).is_some(), "an amount"),
            ]);
        }
        match rules.into_iter().find(|(_, holds, _)| !holds) {
            Some((key, _, range)) => Err(SpecError::Range { key, range }),
            None => Ok(()),
        }
    }
}

/// An amount in currency units and cents.
fn amount(text: &str) -> Option<Money> {
    let (units, cents) = text.split_once('.').unwrap_or((text, "00"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(units) || !is_number(cents) || cents.len() != 2 || units.len() > 7 {
        return None;
    }
    let (units, cents): (i64, i64) = (units.parse().ok()?, cents.parse().ok()?);
    Some(Money::from_ticks(units * Money::TICKS_PER_UNIT + cents * Money::TICKS_PER_CENT))
}

/// What is given over the defaults, key by key; each group over the default one.
fn merged(mut defaults: Table, given: Table) -> Table {
    let group = defaults.get("group").and_then(Value::as_array).and_then(|groups| groups.first());
    let group = group.and_then(Value::as_table).cloned().unwrap_or_default();
    for (key, value) in given {
        match (defaults.get_mut(&key), value) {
            (Some(Value::Table(known)), Value::Table(given)) => known.extend(given),
            (Some(slot @ Value::Array(_)), Value::Array(groups)) => {
                let over = |mut value: Value| {
                    if let Some(given) = value.as_table_mut() {
                        let given = std::mem::replace(given, group.clone());
                        value.as_table_mut().expect("still a table").extend(given);
                    }
                    value
                };
                *slot = Value::Array(groups.into_iter().map(over).collect());
            }
            (_, value) => {
                defaults.insert(key, value);
            }
        }
    }
    defaults
}

/// Refuses the first name that the defaults do not have.
fn check_names(text: &str, given: &DeTable<'_>, known: &Table) -> Result<(), SpecError> {
    for (name, value) in given {
        let Some(reference) = known.get(name.get_ref().as_ref()) else {
            return Err(unknown(text, name.get_ref(), name.span().start, known));
        };
        match (value.get_ref(), reference) {
            (DeValue::Table(given), Value::Table(known)) => check_names(text, given, known)?,
            (DeValue::Array(items), Value::Array(known)) => {
                let known = known.first().and_then(Value::as_table);
                let tables = items.iter().map(Spanned::get_ref).filter_map(DeValue::as_table);
                for (table, known) in tables.zip(known.into_iter().cycle()) {
                    check_names(text, table, known)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn unknown(text: &str, name: &str, offset: usize, known: &Table) -> SpecError {
    let near = known
        .keys()
        .map(|key| (strsim::osa_distance(name, key), key))
        .min()
        .filter(|(distance, key)| *distance <= 2.max(key.len() / 3));
    let hint = near.map_or_else(String::new, |(_, key)| format!("; did you mean {key:?}?"));
    let (line, column) = place(text, offset);
    SpecError::Unknown { line, column, name: name.to_owned(), hint }
}

fn syntax(text: &str, error: &toml::de::Error) -> SpecError {
    let (line, column) = place(text, error.span().map_or(0, |span| span.start));
    SpecError::Syntax { line, column, message: error.message().to_owned() }
}

fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_the_default() {
        let spec =
            Spec::parse("meters = 640\n[[group]]\nlink = \"gateway\"\n[[group]]\nshare = 3\n");
        let spec = spec.unwrap();
        assert_eq!((spec.meters, spec.meters_per_transformer), (640, 64));
        assert_eq!(spec.group.len(), 2);
        assert_eq!((spec.group[0].link, spec.group[1].link), (Link::Gateway, Link::Direct));
        assert_eq!((spec.group[1].share, spec.group[1].period_s), (3, 900));
        assert_eq!(spec.group[0].opening(), Money::from_ticks(200 * Money::TICKS_PER_UNIT));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let check = |text: &str, want: &str| {
            let error = Spec::parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text:?}: {error}");
        };
        check("meter = 5", "1:1: a fleet has no \"meter\"; did you mean \"meters\"?");
        check(
            "\n[incidents]\n thefts = 5",
            "3:2: a fleet has no \"thefts\"; did you mean \"theft\"?",
        );
        check("[[group]]\nshare = 1\n[[group]]\nperiods = 5", "4:1: a fleet has no \"periods\"");
        check("meters = 0", "meters must be 1 to");
        check("meters = \"many\"", "invalid type");
        check("meters_per_transformer = 40", "a multiple of 32");
        check("[[group]]\nphases = 2", "phases must be 1 or 3");
        check("[[group]]\npurchase = \"1.5\"", "purchase must be an amount");
        check("meters = ", "1:");
    }
}
