//! `meterd sts decode`: what a token carries, as a line of JSON.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};
use sts::{
    BaseDate, ContentError, CreditRegister, FLAG_NAMES, KeyChangeSection, Management, Refusal,
    Rollover, Service, Tid, Token, TokenNumber, decode, decode_plain,
};

use super::keys::{KeyArgs, NO_KEY};
use super::{StsError, failed};

/// `meterd sts decode`.
#[derive(Args, Debug)]
pub struct Decode {
    /// The 20 digits, with spaces or dashes or without.
    #[arg(value_name = "TOKEN", num_args = 1.., required = true)]
    token: Vec<String>,
    #[command(flatten)]
    keys: KeyArgs,
}

impl Decode {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, StsError> {
        let number: TokenNumber = self.token.join(" ").parse()?;
        let decoded = match self.keys.cipher()? {
            Some(cipher) => decode(number, &cipher),
            None => decode_plain(number),
        };
        let is_locked = matches!(decoded, Err(Refusal::KeyNeeded(_)));
        if is_locked {
            return Err(NO_KEY);
        }
        let (line, code) = match decoded {
            Ok(token) => (fields(&token, self.keys.meter.base_year), ExitCode::SUCCESS),
            Err(refusal) => {
                let line = json!({
                    "ok": false, "refusal": refusal_name(&refusal), "error": refusal.to_string(),
                });
                (line, failed())
            }
        };
        writeln!(out, "{line}")?;
        Ok(code)
    }
}

const fn refusal_name(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Crc => "crc",
        Refusal::Class => "class",
        Refusal::Content(ContentError::Function { .. }) => "function",
        Refusal::Content(_) => "content",
        Refusal::KeyNeeded(_) | _ => "refused",
    }
}

/// Everything the token says; of a new key, only which section it is.
pub(super) fn fields(token: &Token, base: BaseDate) -> Value {
    let (class, subclass) = token.class();
    let mut map = Map::new();
    let mut put = |name: &str, value: Value| drop(map.insert(name.to_owned(), value));
    put("ok", true.into());
    put("class", class.into());
    put("subclass", subclass.into());
    match token {
        Token::Credit { service, rnd, amount, .. } => {
            let units = amount.units();
            put("kind", "credit".into());
            put("service", service_name(*service).into());
            put("rnd", rnd.value().into());
            put("amount", format!("{}.{}", units / 10, units % 10).into());
            put("unit", unit(*service).into());
        }
        Token::CurrencyCredit { service, amount, .. } => {
            put("kind", "currency".into());
            put("service", service_name(*service).into());
            put("amount", currency(amount.steps()).into());
            put("unit", "currency".into());
        }
        Token::MeterTest(test) => {
            put("kind", "meter_test".into());
            put("control", format!("{:X}", test.control()).into());
            put("manufacturer", test.manufacturer().into());
            put("tests", test.names().collect::<Vec<_>>().into());
        }
        Token::ExtendedRead(read) => {
            put("kind", "extended_read".into());
            put("content", format!("{:011X}", read.content()).into());
        }
        Token::Management { rnd, action, .. } => {
            put("rnd", rnd.value().into());
            for (name, value) in action_fields(*action) {
                put(name, value);
            }
        }
        Token::KeyChange(section) => {
            put("kind", "key_change".into());
            for (name, value) in section_fields(section) {
                put(name, value);
            }
        }
        _ => put("kind", "unknown".into()),
    }
    if let Some(tid) = token.tid() {
        put("tid", tid.value().into());
        put("at", instant(tid, base));
    }
    Value::Object(map)
}

fn instant(tid: Tid, base: BaseDate) -> Value {
    sts::format_instant(tid.unix_s(base)).map_or(Value::Null, Value::from)
}

fn action_fields(action: Management) -> Vec<(&'static str, Value)> {
    let kind = |name: &'static str| ("kind", Value::from(name));
    match action {
        Management::SetMaximumPowerLimit(watts) => {
            vec![kind("set_maximum_power_limit"), ("watts", watts.units().into())]
        }
        Management::SetMaximumPhasePowerUnbalanceLimit(watts) => {
            let name = "set_maximum_phase_power_unbalance_limit";
            vec![kind(name), ("watts", watts.units().into())]
        }
        Management::ClearCredit(register) => {
            vec![kind("clear_credit"), ("register", register_name(register).into())]
        }
        Management::SetTariffRate(rate) => {
            vec![kind("set_tariff_rate"), ("field", format!("{rate:04X}").into())]
        }
        Management::ClearTamperCondition => vec![kind("clear_tamper")],
        Management::SetWaterMeterFactor(factor) => {
            vec![kind("set_water_meter_factor"), ("field", format!("{factor:04X}").into())]
        }
        Management::Extended(setting) => {
            let mut fields =
                vec![kind("extended"), ("field", format!("{:04X}", setting.field()).into())];
            if let Some((number, value)) = setting.as_flag() {
                let name = FLAG_NAMES.get(usize::from(number)).copied();
                fields.extend([
                    ("flag", number.into()),
                    ("value", u8::from(value).into()),
                    ("name", name.into()),
                ]);
            }
            fields
        }
        _ => vec![kind("unknown")],
    }
}

fn section_fields(section: &KeyChangeSection) -> Vec<(&'static str, Value)> {
    match section {
        KeyChangeSection::First { ken_high, krn, rollover, three_tokens, kt, .. } => vec![
            ("section", 1.into()),
            ("ken_high", (*ken_high).into()),
            ("krn", krn.value().into()),
            ("kt", kt.code().into()),
            ("rollover", (*rollover == Rollover::Clear).into()),
            ("three_tokens", (*three_tokens).into()),
        ],
        KeyChangeSection::Second { ken_low, ti, .. } => {
            vec![("section", 2.into()), ("ken_low", (*ken_low).into()), ("ti", ti.value().into())]
        }
        KeyChangeSection::ThirdShort { sgc } => {
            vec![("section", 3.into()), ("sgc", sgc.to_string().into())]
        }
        KeyChangeSection::ThirdWide { sgc_low, .. } => {
            vec![("section", 3.into()), ("sgc_low", format!("{sgc_low:03X}").into())]
        }
        KeyChangeSection::Fourth { sgc_high, .. } => {
            vec![("section", 4.into()), ("sgc_high", format!("{sgc_high:03X}").into())]
        }
        _ => vec![],
    }
}

const fn service_name(service: Service) -> &'static str {
    match service {
        Service::Electricity => "electricity",
        Service::Water => "water",
        Service::Gas => "gas",
        Service::Time => "time",
    }
}

const fn unit(service: Service) -> &'static str {
    match service {
        Service::Electricity => "kWh",
        Service::Water | Service::Gas => "m³",
        Service::Time => "min",
    }
}

fn register_name(register: CreditRegister) -> String {
    match register {
        CreditRegister::Units(service) => service_name(service).to_owned(),
        CreditRegister::Currency(service) => format!("{}_currency", service_name(service)),
        CreditRegister::All => "all".to_owned(),
    }
}

/// Steps of 10⁻⁵ as a decimal number.
fn currency(steps: i128) -> String {
    let sign = if steps < 0 { "-" } else { "" };
    let steps = steps.unsigned_abs();
    format!("{sign}{}.{:05}", steps / 100_000, steps % 100_000)
}
