//! Push templates: what a meter model's push means, as data (TOML, `deploy/templates/`), compiled
//! once into a small program that runs over a push without allocating.
//!
//! Four forms:
//! - `obis`: OBIS code, value, and perhaps a structure {scaler, unit} follow each other, flat or in
//!   structures of their own, in any order (Aidon, Kamstrup, Kaifa, Sagemcom);
//! - `described`: the first element lists the captured objects, the values follow in that order
//!   (Landis+Gyr);
//! - `list`: a structure whose positions mean something; the list is chosen by its length, and by how
//!   a text in it begins where two have the same length (Iskraemeco, Kaifa, our own meters);
//! - `rows`: an array of such structures (our own gateways).
//!
//! **Events** come as codes (field `event`) or as bits of an alarm register (field `alarms`); what they
//! mean stands under `[events]` and `[alarms]`. A row may hold a register, events, or both.
//!
//! **Scaling** is exact in integers. Where a value is finer than our unit, energy registers are cut
//! (a later reading carries the rest, nothing is billed twice) and everything else is rounded half
//! away from zero. A value that does not fit, or has another unit than its field, is an error.

use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

use super::super::WireError;
use super::data::Plain;
use super::field::{Column, Field, Finished, Meaning, Row};
use super::run::{Found, Sink, run};
use super::{Attribute, DateTime, Measured, Notification, Obis, Token, Value, Walker};
use crate::EventCode;

/// Why a template is not one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// Not TOML, or keys that a template does not have.
    #[error("template is not readable")]
    Toml(#[from] toml::de::Error),
    /// A column that is no field: `field`, `field.index`, `field e-1`, or `-`.
    #[error("template {template}: {text:?} is no field, as in \"voltage.1 e-1\" or \"-\"")]
    Field {
        /// The template's name.
        template: String,
        /// The text in the place of a field.
        text: String,
    },
    /// A key under `[obis]` that is no OBIS code.
    #[error("template {template}: {text:?} is no OBIS code, as in \"1.0.1.8.0.255\"")]
    Obis {
        /// The template's name.
        template: String,
        /// The text in the place of a code.
        text: String,
    },
    /// A template whose form needs lists and has none, or the other way round.
    #[error(
        "template {template}: forms \"list\" and \"rows\" need [[list]], others must not have it"
    )]
    Lists {
        /// The template's name.
        template: String,
    },
    /// A key under `[events]` that is no number, or under `[alarms]` no bit from 0 to 31, or a kind
    /// that no device tells.
    #[error(
        "template {template}: {text:?} is no event, as in 1 = \"power-down\" under [events] (codes) \
         or [alarms] (bits from 0 to 31)"
    )]
    Event {
        /// The template's name.
        template: String,
        /// Key and value.
        text: String,
    },
    /// Two templates of one name, or more than 65,536.
    #[error("template {template} exists already")]
    Taken {
        /// The template's name.
        template: String,
    },
}

/// A template's place among [`Templates`]: small enough to keep per meter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TemplateId(pub u16);

/// What the pushes of a meter model mean.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template {
    name: String,
    meaning: Meaning,
    /// How the first text of its pushes begins, to tell a model by its push.
    begins: Option<String>,
    form: Form,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Form {
    Obis(Codes),
    Described(Codes),
    List(Vec<List>),
    Rows(Vec<List>),
}

/// The fields by OBIS code (channel-free) that differ from the standard ones.
pub(super) type Codes = BTreeMap<Obis, Column>;

/// A structure whose positions mean something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct List {
    pub(super) columns: Vec<Column>,
    pub(super) marker: Option<Marker>,
}

/// What the text at a position of one list begins with, and those of others of its length do not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Marker {
    pub(super) index: usize,
    pub(super) text: String,
}

impl Template {
    /// Compiles a template from TOML.
    ///
    /// # Errors
    /// [`TemplateError`], which names what is wrong.
    pub fn parse(toml: &str) -> Result<Self, TemplateError> {
        let file: File = toml::from_str(toml)?;
        let form = file.form()?;
        let meaning = Meaning {
            deviation_minutes: file.deviation_minutes,
            events: file.kinds(&file.events, u32::MAX)?,
            alarms: file.kinds(&file.alarms, 31)?,
        };
        let File { name, begins, .. } = file;
        Ok(Self { name, meaning, begins, form })
    }

    /// Its name, as meters' records use it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads a push: calls `each` with every row that has a register, and says how many those were.
    /// 0 is no error: many meters push power every few seconds and registers every hour.
    ///
    /// When it ends in an error, rows before the error have been given already: a caller that
    /// wants all or nothing keeps them until the end.
    ///
    /// # Errors
    /// [`WireError`] for broken data, a value out of range, or a push without any time. Offsets
    /// are of the notification's body.
    pub fn run(
        &self,
        push: &Notification<'_>,
        mut each: impl FnMut(&Measured),
    ) -> Result<u32, WireError> {
        let mut readings = 0_u32;
        self.run_all(push, |said| {
            if let Said::Reading(row) = said {
                readings = readings.saturating_add(1);
                each(row);
            }
        })?;
        Ok(readings)
    }

    /// As [`Self::run`], with the events: how many readings and events there were.
    ///
    /// # Errors
    /// As there.
    pub fn run_all(
        &self,
        push: &Notification<'_>,
        each: impl FnMut(Said<'_>),
    ) -> Result<u32, WireError> {
        let push_time = push.date_time;
        let mut rows = Rows { row: Row::default(), push_time, meaning: &self.meaning, each };
        run(&self.form, push.body, &mut rows)
    }

    /// Reads an event notification: the value of an event code or an alarm register. Without a
    /// `time`, it happened at `now`. How many events there were.
    ///
    /// # Errors
    /// [`WireError`] for broken data and values of another type.
    pub fn run_event(
        &self,
        time: Option<DateTime>,
        attribute: Attribute,
        data: &[u8],
        now: u32,
        each: impl FnMut(Said<'_>),
    ) -> Result<u32, WireError> {
        let push_time = time.or_else(|| Some(DateTime::from_unix(now)));
        let mut rows = Rows { row: Row::default(), push_time, meaning: &self.meaning, each };
        let field = standard(attribute.code.channel_free());
        let field = field.filter(|field| matches!(field, Field::Event | Field::Alarms));
        if let Some(Token::Value(value)) = Walker::new(data).next()? {
            rows.value(Found { code: None, field, value, scaler: None, unit: None }, 0)?;
        }
        rows.row()
    }

    /// Whether the first text of a body begins as this model's do.
    pub(super) fn begins(&self, body: &[u8]) -> bool {
        let Some(begins) = &self.begins else { return true };
        let mut walker = Walker::new(body);
        while let Ok(Some(token)) = walker.next() {
            if let Token::Value(Value::VisibleString(text) | Value::OctetString(text)) = token
                && !matches!(text.len(), 6 | 12)
            {
                return text.starts_with(begins.as_bytes());
            }
        }
        false
    }

    /// Its program, for other sinks than rows.
    pub(super) const fn form(&self) -> &Form {
        &self.form
    }
}

/// What a push says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Said<'m> {
    /// What a meter measured.
    Reading(&'m Measured),
    /// That something happened.
    Event {
        /// The device's system title, where the push is a gateway's.
        device: Option<[u8; 8]>,
        /// The device's stamp, seconds since 1970 UTC.
        taken_at: u32,
        /// What.
        code: EventCode,
    },
}

/// Turns what a run finds into rows.
struct Rows<'t, F> {
    row: Row,
    push_time: Option<DateTime>,
    meaning: &'t Meaning,
    each: F,
}

impl<F: FnMut(Said<'_>)> Sink for Rows<'_, F> {
    const TAKES_PLAIN: bool = true;

    #[inline]
    fn plain(&mut self, column: Column, value: Plain<'_>, at: usize) -> Result<(), WireError> {
        let set = self.row.set_plain(column, value, self.meaning);
        set.map_err(|fault| WireError::new(fault, at))
    }

    #[inline]
    fn value(&mut self, found: Found<'_>, at: usize) -> Result<(), WireError> {
        self.row.set(found, self.meaning).map_err(|fault| WireError::new(fault, at))
    }

    fn row(&mut self) -> Result<u32, WireError> {
        let row = std::mem::take(&mut self.row);
        let row = row.finish(self.push_time, self.meaning.deviation_minutes)?;
        let Some(Finished { measured, has_register, events }) = row else { return Ok(0) };
        let mut count = 0_u32;
        if has_register {
            count = 1;
            (self.each)(Said::Reading(&measured));
        }
        if !events.is_empty() {
            let Measured { meter: device, taken_at, .. } = measured;
            for code in events.iter() {
                count = count.saturating_add(1);
                (self.each)(Said::Event { device, taken_at, code });
            }
        }
        Ok(count)
    }
}

/// All templates a node knows.
#[derive(Clone, Debug, Default)]
pub struct Templates(Vec<Template>);

impl Templates {
    /// The template of our own virtual meters.
    pub const SINGLE: &str = "meterd-single";
    /// The template of our own virtual gateways.
    pub const BATCH: &str = "meterd-batch";
    /// The template of whatever names its values itself.
    pub const OBIS: &str = "obis";

    /// Those that come with Meterd.
    #[must_use]
    pub fn built_in() -> Self {
        let mut templates = Self::default();
        for toml in BUILT_IN {
            templates.add(toml).expect("the tests compile every built-in template");
        }
        templates
    }

    /// Adds one from TOML.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn add(&mut self, toml: &str) -> Result<TemplateId, TemplateError> {
        let template = Template::parse(toml)?;
        let taken = || TemplateError::Taken { template: template.name.clone() };
        if self.find(&template.name).is_some() {
            return Err(taken());
        }
        let id = u16::try_from(self.0.len()).map_err(|_| taken())?;
        self.0.push(template);
        Ok(TemplateId(id))
    }

    /// The id of the template with this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<TemplateId> {
        let index = self.0.iter().position(|template| template.name == name)?;
        u16::try_from(index).ok().map(TemplateId)
    }

    /// The template with this id.
    #[must_use]
    pub fn get(&self, id: TemplateId) -> Option<&Template> {
        self.0.get(usize::from(id.0))
    }

    /// All of them, in the order of their ids.
    pub fn all(&self) -> impl Iterator<Item = &Template> {
        self.0.iter()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    form: FormName,
    #[serde(default)]
    deviation_minutes: i16,
    begins: Option<String>,
    #[serde(default)]
    obis: BTreeMap<String, String>,
    #[serde(default)]
    events: BTreeMap<String, String>,
    #[serde(default)]
    alarms: BTreeMap<String, String>,
    #[serde(default)]
    list: Vec<ListFile>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FormName {
    Obis,
    Described,
    List,
    Rows,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListFile {
    columns: Vec<String>,
    when: Option<When>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    /// From 1.
    column: usize,
    text: String,
}

impl File {
    fn form(&self) -> Result<Form, TemplateError> {
        let needs_lists = matches!(self.form, FormName::List | FormName::Rows);
        if needs_lists == self.list.is_empty() || needs_lists && !self.obis.is_empty() {
            return Err(TemplateError::Lists { template: self.name.clone() });
        }
        Ok(match self.form {
            FormName::Obis => Form::Obis(self.codes()?),
            FormName::Described => Form::Described(self.codes()?),
            FormName::List => Form::List(self.lists()?),
            FormName::Rows => Form::Rows(self.lists()?),
        })
    }

    fn codes(&self) -> Result<Codes, TemplateError> {
        let code = |(text, column): (&String, &String)| {
            let template = self.name.clone();
            let code = Obis::parse(text)
                .ok_or_else(|| TemplateError::Obis { template, text: text.clone() })?
                .channel_free();
            Ok((code, self.column(column)?))
        };
        self.obis.iter().map(code).collect()
    }

    fn lists(&self) -> Result<Vec<List>, TemplateError> {
        let list = |list: &ListFile| {
            let columns =
                list.columns.iter().map(|text| self.column(text)).collect::<Result<_, _>>();
            let marker = list.when.clone();
            let marker =
                marker.map(|when| Marker { index: when.column.saturating_sub(1), text: when.text });
            Ok(List { columns: columns?, marker })
        };
        self.list.iter().map(list).collect()
    }

    /// Kinds of events by code or bit.
    fn kinds(
        &self,
        named: &BTreeMap<String, String>,
        max: u32,
    ) -> Result<BTreeMap<u32, EventCode>, TemplateError> {
        let kind = |(code, name): (&String, &String)| {
            let known = code.parse().ok().filter(|code| *code <= max);
            known.zip(EventCode::from_name(name)).ok_or_else(|| TemplateError::Event {
                template: self.name.clone(),
                text: format!("{code} = {name}"),
            })
        };
        named.iter().map(kind).collect()
    }

    fn column(&self, text: &str) -> Result<Column, TemplateError> {
        let refused =
            || TemplateError::Field { template: self.name.clone(), text: text.to_owned() };
        Column::parse(text).ok_or_else(refused)
    }
}

/// The standard field of a (channel-free) OBIS code, for every template that does not say else.
pub(super) const fn standard(code: Obis) -> Option<Field> {
    let Obis([a, _, c, d, e, _]) = code;
    Some(match (a, c, d, e) {
        (0, 1, 0, 0) => Field::Clock,
        (0, 96, 3, 10) => Field::Relay,
        (0, 96, 11, _) => Field::Event,
        (0, 97, 98, _) => Field::Alarms,
        (1, 1, 8, 0) => Field::Register,
        (1, 1, 8, rate @ 1..=4) => Field::Rate(rate),
        (1, 2, 8, 0) => Field::Export,
        (1, 1 | 16, 7, 0) => Field::Power,
        (1, 2, 7, 0) => Field::PowerExport,
        (1, 3 | 131, 7, 0) => Field::Reactive,
        (1, 4, 7, 0) => Field::ReactiveExport,
        (1, 13, 7, 0) => Field::PowerFactor,
        (1, 14, 7, 0) => Field::Frequency,
        (1, 32, 7, 0) => Field::Voltage(1),
        (1, 52, 7, 0) => Field::Voltage(2),
        (1, 72, 7, 0) => Field::Voltage(3),
        (1, 31, 7, 0) => Field::Current(1),
        (1, 51, 7, 0) => Field::Current(2),
        (1, 71, 7, 0) => Field::Current(3),
        _ => return None,
    })
}

/// In the order in which a push without a known model is tried.
const BUILT_IN: [&str; 8] = [
    include_str!("../../../../deploy/templates/meterd-single.toml"),
    include_str!("../../../../deploy/templates/meterd-batch.toml"),
    include_str!("../../../../deploy/templates/kamstrup.toml"),
    include_str!("../../../../deploy/templates/kaifa.toml"),
    include_str!("../../../../deploy/templates/kaifa-sweden.toml"),
    include_str!("../../../../deploy/templates/iskraemeco.toml"),
    include_str!("../../../../deploy/templates/landis-gyr.toml"),
    include_str!("../../../../deploy/templates/obis.toml"),
];

#[cfg(test)]
mod tests {
    use super::super::super::Fault;
    use super::*;

    #[test]
    fn every_built_in_template_compiles_and_is_found() {
        let templates = Templates::built_in();
        assert_eq!(templates.all().count(), BUILT_IN.len());
        for name in [Templates::SINGLE, Templates::BATCH, Templates::OBIS, "kamstrup", "landis-gyr"]
        {
            let id = templates.find(name).unwrap();
            assert_eq!(templates.get(id).unwrap().name(), name);
        }
        assert_eq!(templates.find("none"), None);
        assert_eq!(templates.get(TemplateId(u16::MAX)), None);
    }

    fn check(toml: &str, want: &str) {
        let error = Template::parse(toml).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let text = cause.unwrap_or_else(|| error.to_string());
        assert!(text.contains(want), "{toml}\n{text}");
    }

    #[test]
    fn a_bad_template_says_what_is_wrong() {
        check("", "missing field `name`");
        check("name = 1", "expected a string");
        check("name = \"x\"\nform = \"obi\"", "unknown variant `obi`");
        check("name = \"x\"\nform = \"obis\"\ndeviation = 1", "unknown field `deviation`");
        let obis = "name = \"x\"\nform = \"obis\"\n[obis]\n";
        check(&format!("{obis}\"1.8.0\" = \"register\""), "\"1.8.0\" is no OBIS code");
        check(&format!("{obis}\"1.0.1.8.0.255\" = \"volts\""), "\"volts\" is no field");
        let list = "name = \"x\"\nform = \"list\"\n";
        check(list, "need [[list]]");
        check(&format!("{list}[[list]]\ncolumns = [\"register x\"]"), "\"register x\" is no field");
        check(&format!("{obis}[[list]]\ncolumns = []"), "must not have it");
        check(&format!("{obis}[events]\n1 = \"boom\""), "\"1 = boom\" is no event");
        check(&format!("{obis}[alarms]\n32 = \"tamper\""), "\"32 = tamper\" is no event");
        check(&format!("{obis}[events]\n1 = \"link-up\""), "is no event");
        let mut templates = Templates::built_in();
        let again = templates.add("name = \"obis\"\nform = \"obis\"").unwrap_err();
        assert_eq!(again.to_string(), "template obis exists already");
    }

    const CLOCK: [u8; 14] = [9, 12, 0x07, 0xE9, 12, 3, 3, 12, 0, 0, 0, 0, 0, 0];
    const NOON: u32 = 1_764_763_200;

    fn run_obis(push_time: Option<DateTime>, body: &[u8]) -> Result<Vec<Measured>, Fault> {
        let template = Template::parse("name = \"x\"\nform = \"obis\"").unwrap();
        let invoke_id = super::super::InvokeId(0);
        let mut rows = Vec::new();
        template
            .run(&Notification { invoke_id, date_time: push_time, body }, |row| rows.push(*row))
            .map_err(|error| error.fault)?;
        Ok(rows)
    }

    fn obis(c: u8, d: u8) -> [u8; 8] {
        [9, 6, 1, 1, c, d, 0, 255]
    }

    #[test]
    fn obis_in_every_nesting() {
        let clock = [&[9, 6, 0, 0, 1, 0, 0, 255][..], &CLOCK].concat();
        let register = [&obis(1, 8)[..], &[6, 0, 0, 0, 9, 2, 2, 15, 3, 22, 30]].concat();
        let voltage = [&obis(32, 7)[..], &[18, 9, 26, 2, 2, 15, 0xFF, 22, 35]].concat();
        let want = Measured {
            taken_at: NOON,
            register_wh: 9_000,
            voltage_mv: [Some(233_000), None, None],
            ..Measured::default()
        };
        // Flat, and each in a structure of its own.
        let flat = [&[2, 8][..], &clock, &register, &voltage].concat();
        assert_eq!(run_obis(None, &flat), Ok(vec![want]));
        let nested = [&[1, 3, 2, 2][..], &clock, &[2, 3], &register, &[2, 3], &voltage].concat();
        assert_eq!(run_obis(None, &nested), Ok(vec![want]));
    }

    #[test]
    fn what_a_push_must_have() {
        let register = [&[2, 2][..], &obis(1, 8), &[6, 0, 0, 0, 9]].concat();
        let noon = DateTime(CLOCK[2..].try_into().unwrap());
        let rows = run_obis(Some(noon), &register).unwrap();
        assert_eq!((rows[0].taken_at, rows[0].register_wh), (NOON, 9));
        assert_eq!(run_obis(None, &register), Err(Fault::Missing("clock")));
        // Without a register there is no row, and nothing wrong.
        let power = [&[2, 2][..], &obis(1, 7), &[6, 0, 0, 0, 9]].concat();
        assert_eq!(run_obis(None, &power), Ok(vec![]));
    }

    /// What a template of codes with two kinds of each says of `body`.
    fn events(body: &[u8]) -> Vec<(u32, EventCode)> {
        let toml = "name = \"x\"\nform = \"obis\"\n[events]\n1 = \"power-down\"\n40 = \"tamper\"\n\
                    [alarms]\n0 = \"clock\"\n13 = \"tamper\"";
        let template = Template::parse(toml).unwrap();
        let invoke_id = super::super::InvokeId(0);
        let date_time = Some(DateTime(CLOCK[2..].try_into().unwrap()));
        let mut events = Vec::new();
        template
            .run_all(&Notification { invoke_id, date_time, body }, |said| {
                if let Said::Event { taken_at, code, .. } = said {
                    events.push((taken_at, code));
                }
            })
            .unwrap();
        events
    }

    #[test]
    fn events_are_codes_or_bits_and_unknown_ones_are_passed_over() {
        let code = |value: &[u8]| [&[2, 2, 9, 6, 0, 0, 96, 11, 1, 255][..], value].concat();
        assert_eq!(events(&code(&[17, 40])), [(NOON, EventCode::Tamper)]);
        assert_eq!(events(&code(&[22, 1])), [(NOON, EventCode::PowerDown)]);
        assert_eq!(events(&code(&[18, 0, 99])), []);
        let bits = |value: &[u8]| [&[2, 2, 9, 6, 0, 0, 97, 98, 0, 255][..], value].concat();
        let both = [(NOON, EventCode::Tamper), (NOON, EventCode::Clock)];
        assert_eq!(events(&bits(&[6, 0, 0, 0x20, 0x01])), both);
        assert_eq!(events(&bits(&[4, 32, 0x80, 0x04, 0, 0])), both, "the first bit is bit 0");
        assert_eq!(events(&bits(&[6, 0, 0, 0, 2])), []);
        // An event notification says the same of one attribute.
        let template =
            Template::parse("name = \"x\"\nform = \"obis\"\n[events]\n1 = \"power-down\"").unwrap();
        let attribute = Attribute { class: 1, code: Obis([0, 0, 96, 11, 0, 255]), index: 2 };
        let mut told = Vec::new();
        let count = template.run_event(None, attribute, &[17, 1], 900, |said| {
            told.push(matches!(
                said,
                Said::Event { taken_at: 900, code: EventCode::PowerDown, .. }
            ));
        });
        assert_eq!((count, told), (Ok(1), vec![true]));
        let register = Attribute { code: Obis([1, 0, 1, 8, 0, 255]), ..attribute };
        assert_eq!(template.run_event(None, register, &[17, 1], 900, |_| ()), Ok(0));
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        let noon = Some(DateTime(CLOCK[2..].try_into().unwrap()));
        let check = |code: [u8; 8], value: &[u8], want: &'static str| {
            let body = [&[2, 2][..], &code, value].concat();
            assert_eq!(run_obis(noon, &body), Err(Fault::Invalid(want)), "{value:?}");
        };
        check(obis(1, 8), &[5, 0xFF, 0xFF, 0xFF, 0xFF], "register");
        check(obis(1, 8), &[9, 1, 5], "register");
        check(obis(1, 8), &[21, 0xFF, 0, 0, 0, 0, 0, 0, 0], "register");
        check(obis(32, 7), &[16, 0xFF, 0xFF], "voltage");
        check([9, 6, 0, 0, 1, 0, 0, 255], &[17, 5], "clock");
        check([9, 6, 0, 0, 96, 3, 10, 255], &[22, 3], "relay state");
        // A register in varh is no register.
        let body = [&[2, 3][..], &obis(1, 8), &[6, 0, 0, 0, 9, 2, 2, 15, 0, 22, 32]].concat();
        assert_eq!(run_obis(noon, &body), Err(Fault::Invalid("register")));
    }
}
