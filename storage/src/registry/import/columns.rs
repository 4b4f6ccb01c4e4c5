//! The columns of an import and how one row of them reads.

use meter::{
    Current, Energy, LocalCalendar, MeterId, MeterRecord, Mode, Money, Role, SystemTitle,
    TransformerId, UnixSeconds, Voltage,
};

use super::LineError;
use crate::registry::account::{check_limits, mode_of};
use crate::registry::master::{DeviceKeys, parse_hex};
use crate::registry::meters::{check_record, check_role};
use crate::registry::place::check_text;
use crate::registry::purchase::check_adjustment;
use crate::registry::row::role_of;
use crate::registry::{Limits, Refusal};

/// A column of the import.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name: the header in CSV, the key in JSON.
    pub name: &'static str,
    /// When it is to be filled.
    pub needed: &'static str,
    /// What it holds.
    pub meaning: &'static str,
    /// A value.
    pub example: &'static str,
}

const fn column(
    name: &'static str,
    needed: &'static str,
    meaning: &'static str,
    example: &'static str,
) -> Column {
    Column { name, needed, meaning, example }
}

/// Every column, in the order of the template.
pub const IMPORT_COLUMNS: &[Column] = &[
    column("serial", "always", "serial number of the meter, unique", "62810001"),
    column("system_title", "new meter", "16 hexadecimal digits, unique", "4D54523062810001"),
    column("model", "new meter", "maker's model", "DTZ-3"),
    column("template", "new meter", "name of the push template", "obis"),
    column(
        "encryption_key",
        "new meter",
        "EK, 32 hexadecimal digits",
        "000102030405060708090A0B0C0D0E0F",
    ),
    column(
        "authentication_key",
        "new meter",
        "AK, 32 hexadecimal digits",
        "D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF",
    ),
    column("role", "optional", "consumer (default) or supply", "consumer"),
    column("transformer", "supply meters", "code of the transformer; made when unknown", "TR-1"),
    column("gateway", "optional", "system title of a registered gateway", ""),
    column("current_max_a", "new meter", "rated maximum current of a phase, A", "60"),
    column("voltage_nominal_v", "new meter", "rated voltage to neutral, V", "230"),
    column("phases", "new meter", "1 or 3", "1"),
    column("register_digits", "new meter", "whole kWh digits of the register, 1 to 12", "6"),
    column("period_s", "new meter", "seconds between readings, 1 to 86400", "900"),
    column(
        "installed_at",
        "installation",
        "RFC 3339 instant from which it serves",
        "2026-11-01T00:00:00Z",
    ),
    column("start_kwh", "optional", "register at installed_at; else the first reading", "12.345"),
    column(
        "account",
        "installation of a consumer",
        "number of the account; new with customer",
        "A-1001",
    ),
    column("customer", "new account", "number of the customer; made when unknown", "C-1001"),
    column("customer_name", "new customer", "name", "Li Wei"),
    column("plan", "new account", "code of the tariff plan", "residential"),
    column("zone", "new account", "IANA time zone", "Asia/Shanghai"),
    column("mode", "new account", "prepaid or postpaid", "prepaid"),
    column("overdraft", "optional", "how far the balance may go below 0, default 0", "10"),
    column("low_level_1", "optional", "first low-balance level, default 0", "20"),
    column("low_level_2", "optional", "second low-balance level, default 0", "5"),
    column("opening_balance", "optional", "signed balance to begin with", "50"),
];

/// Whether the import has a column of this name.
pub(super) fn is_column(name: &str) -> bool {
    IMPORT_COLUMNS.iter().any(|column| column.name == name)
}

/// The cells of one row: name and text, trimmed; an absent cell is an empty one.
pub(super) struct Cells<'a>(pub(super) Vec<(&'a str, &'a str)>);

/// One row, checked by itself; what it refers to is not looked up yet.
pub(super) struct Row {
    pub(super) line: u64,
    pub(super) row: u64,
    pub(super) content: Result<Content, Vec<LineError>>,
}

/// What a row says.
pub(super) struct Content {
    pub(super) serial: String,
    pub(super) meter: Option<NewMeterColumns>,
    pub(super) installation: Option<InstallationColumns>,
}

/// A meter to be registered.
pub(super) struct NewMeterColumns {
    pub(super) title: SystemTitle,
    pub(super) model: String,
    pub(super) template: String,
    pub(super) transformer: Option<String>,
    pub(super) gateway: Option<SystemTitle>,
    /// Without ids, which the loader fills in.
    pub(super) record: MeterRecord,
    pub(super) keys: DeviceKeys,
}

/// A meter to be installed.
pub(super) struct InstallationColumns {
    pub(super) at: UnixSeconds,
    pub(super) start: Option<Energy>,
    pub(super) account: Option<String>,
    pub(super) new_account: Option<NewAccountColumns>,
}

/// An account to be opened.
pub(super) struct NewAccountColumns {
    pub(super) customer: String,
    pub(super) customer_name: String,
    pub(super) plan: String,
    pub(super) zone: String,
    pub(super) mode: Mode,
    pub(super) limits: Limits,
    pub(super) opening: Option<Money>,
}

impl Cells<'_> {
    fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(column, _)| *column == name).map_or("", |(_, text)| text)
    }

    fn any(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|name| !self.text(name).is_empty())
    }
}

/// Reads the cells of one row and collects what is wrong.
struct Reader<'a> {
    cells: &'a Cells<'a>,
    line: u64,
    row: u64,
    errors: Vec<LineError>,
}

const METER_COLUMNS: &[&str] = &[
    "system_title",
    "model",
    "template",
    "encryption_key",
    "authentication_key",
    "transformer",
    "gateway",
    "current_max_a",
    "voltage_nominal_v",
    "phases",
    "register_digits",
    "period_s",
];
const ACCOUNT_COLUMNS: &[&str] = &[
    "customer",
    "customer_name",
    "plan",
    "zone",
    "mode",
    "overdraft",
    "low_level_1",
    "low_level_2",
    "opening_balance",
];

impl Row {
    pub(super) fn read(line: u64, row: u64, cells: &Cells<'_>) -> Self {
        let mut reader = Reader { cells, line, row, errors: Vec::new() };
        let content = reader.content();
        let content = match content {
            Some(content) if reader.errors.is_empty() => Ok(content),
            Some(_) | None => Err(reader.errors),
        };
        Self { line, row, content }
    }
}

impl Reader<'_> {
    fn bad(&mut self, column: &str, problem: impl Into<String>, hint: &str) {
        self.errors.push(LineError {
            line: self.line,
            row: self.row,
            column: column.to_owned(),
            problem: problem.into(),
            hint: hint.to_owned(),
        });
    }

    fn refused(&mut self, column: &str, refusal: &Refusal) {
        self.bad(column, refusal.reason(), refusal.hint());
    }

    /// A cell that must be filled with what `parse` takes.
    fn need<T>(
        &mut self,
        column: &'static str,
        want: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.cells.text(column).to_owned();
        if text.is_empty() {
            self.bad(column, "is empty", &format!("fill in {want}"));
            return None;
        }
        self.parse(column, &text, want, parse)
    }

    /// A cell that may be empty.
    fn may<T>(
        &mut self,
        column: &'static str,
        want: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.cells.text(column).to_owned();
        if text.is_empty() { None } else { self.parse(column, &text, want, parse) }
    }

    fn parse<T>(
        &mut self,
        column: &'static str,
        text: &str,
        want: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = parse(text);
        if value.is_none() {
            // The text of a key is never repeated.
            let is_key = column.ends_with("_key");
            let problem =
                if is_key { "does not read".to_owned() } else { format!("{text:?} does not read") };
            self.bad(column, problem, &format!("write {want}"));
        }
        value
    }

    fn text(&mut self, column: &'static str, length_max: usize) -> Option<String> {
        let text = self.need(column, "a text", |text| Some(text.to_owned()))?;
        if let Err(refusal) = check_text(column, &text, length_max) {
            self.refused(column, &refusal);
        }
        Some(text)
    }

    fn content(&mut self) -> Option<Content> {
        let serial = self.text("serial", 64);
        let role = self.may("role", "consumer or supply", role_of);
        let is_new = !self.cells.text("system_title").is_empty();
        let meter = if is_new {
            self.meter(role.unwrap_or(Role::Consumer))
        } else {
            if let Some(column) = self.cells.any(METER_COLUMNS) {
                let hint = "fill in system_title to register a meter, or leave this empty";
                self.bad(column, "is filled, but system_title is empty", hint);
            }
            None
        };
        let installation = self.installation();
        if !is_new && installation.is_none() && self.errors.is_empty() {
            let hint = "fill in system_title to register it, or installed_at to install it";
            self.bad("", "the row neither registers nor installs a meter", hint);
        }
        if let (Some(meter), Some(installation)) = (&meter, &installation) {
            let account = meter::AccountId(u32::from(installation.account.is_some()));
            if let Err(refusal) = check_role(meter.record.role, account) {
                self.refused("account", &refusal);
            }
        }
        Some(Content { serial: serial?, meter, installation })
    }

    fn meter(&mut self, role: Role) -> Option<NewMeterColumns> {
        let title = self.need("system_title", "16 hexadecimal digits", parse_hex);
        let model = self.text("model", 64);
        let template = self.text("template", 64);
        let encryption = self.need("encryption_key", "32 hexadecimal digits", parse_hex);
        let authentication = self.need("authentication_key", "32 hexadecimal digits", parse_hex);
        let transformer = self.may("transformer", "a code", |text| Some(text.to_owned()));
        let gateway = self.may("gateway", "16 hexadecimal digits", parse_hex);
        let current = self.need("current_max_a", "amperes, at most 3 decimals", milli);
        let voltage = self.need("voltage_nominal_v", "volts, at most 3 decimals", milli);
        let phases = self.need("phases", "1 or 3", |text| text.parse().ok());
        let digits = self.need("register_digits", "1 to 12", |text| text.parse().ok());
        let period = self.need("period_s", "1 to 86400", |text| text.parse().ok());
        if let Some(code) = &transformer
            && let Err(refusal) = check_text("transformer", code, 64)
        {
            self.refused("transformer", &refusal);
        }
        let record = MeterRecord {
            meter: MeterId::NONE,
            role,
            // Stands for "some" until the loader knows which.
            transformer: TransformerId(u32::from(transformer.is_some())),
            gateway: meter::GatewayId::NONE,
            current_max: Current::from_ma(current?),
            voltage_nominal: Voltage::from_mv(voltage?),
            phases: phases?,
            register_digits: digits?,
            period_s: period?,
        };
        if let Err(refusal) = check_record(&record) {
            self.refused(refusal.field().unwrap_or_default(), &refusal);
        }
        let keys = DeviceKeys { encryption: encryption?, authentication: authentication? };
        Some(NewMeterColumns {
            title: SystemTitle(title?),
            model: model?,
            template: template?,
            transformer,
            gateway: gateway.map(SystemTitle),
            record,
            keys,
        })
    }

    fn installation(&mut self) -> Option<InstallationColumns> {
        let columns = ["installed_at", "start_kwh", "account"];
        let has_account = self.cells.any(ACCOUNT_COLUMNS).is_some();
        if !has_account && self.cells.any(&columns).is_none() {
            return None;
        }
        let at = self.need("installed_at", "an instant such as 2026-11-01T00:00:00Z", instant);
        let start = self.may("start_kwh", "kWh, at most 3 decimals", energy);
        let account = if has_account {
            self.text("account", 64)
        } else {
            self.may("account", "a number", |text| Some(text.to_owned()))
        };
        let new_account = has_account.then(|| self.account());
        Some(InstallationColumns { at: at?, start, account, new_account: new_account.flatten() })
    }

    fn account(&mut self) -> Option<NewAccountColumns> {
        let customer = self.text("customer", 64);
        let customer_name = self.cells.text("customer_name").to_owned();
        let plan = self.text("plan", 64);
        let zone = self.text("zone", 64);
        let mode = self.need("mode", "prepaid or postpaid", mode_of);
        let mut money = |column| {
            self.may(column, "an amount, at most 7 decimals", |text| {
                Money::parse_decimal(text).ok()
            })
        };
        let limits = Limits {
            overdraft: money("overdraft").unwrap_or_default(),
            low_levels: [
                money("low_level_1").unwrap_or_default(),
                money("low_level_2").unwrap_or_default(),
            ],
        };
        let opening = money("opening_balance").filter(|amount| *amount != Money::ZERO);
        if let Err(refusal) = check_limits(&limits) {
            let is_overdraft = refusal.field() == Some("overdraft");
            let column = if is_overdraft { "overdraft" } else { "low_level_2" };
            self.refused(column, &refusal);
        }
        if let Some(amount) = opening
            && let Err(refusal) = check_adjustment(amount)
        {
            self.refused("opening_balance", &refusal);
        }
        if let Some(zone) = &zone
            && let Err(error) = LocalCalendar::new(zone)
        {
            self.refused("zone", &error.into());
        }
        Some(NewAccountColumns {
            customer: customer?,
            customer_name,
            plan: plan?,
            zone: zone?,
            mode: mode?,
            limits,
            opening,
        })
    }
}

/// A decimal with at most three decimals, in thousandths.
fn milli(text: &str) -> Option<u32> {
    energy(text).and_then(|value| u32::try_from(value.wh()).ok())
}

/// kWh with at most three decimals.
fn energy(text: &str) -> Option<Energy> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || fraction.len() > 3 {
        return None;
    }
    format!("{whole}{fraction:0<3}").parse().ok().filter(|wh| *wh < 1 << 62).map(Energy::from_wh)
}

/// An RFC 3339 instant.
fn instant(text: &str) -> Option<UnixSeconds> {
    let instant: jiff::Timestamp = text.parse().ok()?;
    u32::try_from(instant.as_second()).ok().filter(|second| *second > 0).map(UnixSeconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_read_exactly() {
        let check = |text: &str, want: Option<u64>| {
            assert_eq!(energy(text).map(Energy::wh), want, "text={text:?}");
        };
        check("12.345", Some(12_345));
        check("12", Some(12_000));
        check("0.5", Some(500));
        for bad in ["", ".5", "1.", "1.2345", "-1", "1e3", "1,5", "99999999999999999999"] {
            check(bad, None);
        }
    }

    #[test]
    fn the_example_row_reads() {
        let cells =
            Cells(IMPORT_COLUMNS.iter().map(|column| (column.name, column.example)).collect());
        let content = Row::read(2, 1, &cells).content.map_err(|errors| format!("{errors:?}"));
        assert!(content.unwrap().installation.unwrap().new_account.is_some());
    }
}
