//! `meterd sts encode`: a token of every class, from its fields.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use sts::{
    BaseDate, CreditRegister, CurrencyAmount, ExtendedRead, ExtendedSetting, Management,
    ManufacturerWidth, MeterTest, Rnd, Service, Tid, Token, TransferAmount, encode, encode_plain,
};

use super::StsError;
use super::keys::KeyArgs;
use crate::clock::Clock;

/// `meterd sts encode`.
#[derive(Args, Debug)]
pub struct Encode {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Class 0: credit in kWh, m³ or minutes.
    Credit(Sealed<Credit>),
    /// Class 0: credit in currency, negative too.
    Currency(Sealed<Credit>),
    /// Class 1: tests and displays, not encrypted, for every meter.
    Test(Test),
    /// Class 1: extended read, not encrypted.
    Read(Read),
    /// Class 2: maximum power limit.
    PowerLimit(Sealed<Watts>),
    /// Class 2: maximum phase power unbalance limit.
    UnbalanceLimit(Sealed<Watts>),
    /// Class 2: clear credit.
    ClearCredit(Sealed<Register>),
    /// Class 2: tariff rate, 16 raw bits.
    TariffRate(Sealed<Raw>),
    /// Class 2: clear tamper condition.
    ClearTamper(Sealed<Nothing>),
    /// Class 2: water meter factor, 16 raw bits.
    WaterFactor(Sealed<Raw>),
    /// Class 2: a flag of the extended token set.
    Flag(Sealed<Flag>),
}

/// A token for one meter: what it says, when it was made, and the meter's key.
#[derive(Args, Debug)]
struct Sealed<T: Args> {
    #[command(flatten)]
    says: T,
    #[command(flatten)]
    stamp: Stamp,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Identifier and random bits.
#[derive(Args, Debug)]
struct Stamp {
    /// Identifier: minutes since the base date.
    #[arg(long, value_name = "MINUTES", conflicts_with = "at")]
    tid: Option<u32>,
    /// Instant whose minute is the identifier, such as 2026-11-22T10:15:00Z; now, when neither is
    /// given.
    #[arg(long, value_name = "INSTANT")]
    at: Option<String>,
    /// Random bits, 0 to 15; currency tokens have none.
    #[arg(long, value_name = "0-15", value_parser = clap::value_parser!(u8).range(0..16))]
    rnd: Option<u8>,
}

#[derive(Args, Debug)]
struct Credit {
    /// How much: kWh, m³ or minutes with one decimal, or currency units with five; what lies
    /// between two codes is rounded for the customer.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    amount: String,
    /// What is credited.
    #[arg(long, default_value = "electricity")]
    service: ServiceName,
}

#[derive(Args, Debug)]
struct Test {
    /// The control bits in hexadecimal, a bit a test; all tests when absent.
    #[arg(long, value_name = "HEX")]
    control: Option<String>,
    /// Manufacturer's code; 0 is for every meter.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    manufacturer: u16,
    /// Digits of a manufacturer's code: 2 (subclass 0) or 4 (subclass 1).
    #[arg(long, value_name = "DIGITS", default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=4))]
    width: u8,
}

#[derive(Args, Debug)]
struct Read {
    /// What to read, 0 to 63.
    #[arg(long, value_name = "0-63", value_parser = clap::value_parser!(u8).range(0..64))]
    index: u8,
}

#[derive(Args, Debug)]
struct Watts {
    /// The limit in watts.
    #[arg(long, value_name = "W")]
    watts: u32,
}

#[derive(Args, Debug)]
struct Register {
    /// Which register: 0 to 3 units of electricity, water, gas, time; 4 to 7 the same in currency;
    /// 65535 all.
    #[arg(long, value_name = "CODE")]
    register: u16,
}

#[derive(Args, Debug)]
struct Raw {
    /// The 16 bits in hexadecimal.
    #[arg(long, value_name = "HEX")]
    field: String,
}

#[derive(Args, Debug)]
struct Nothing {}

#[derive(Args, Debug)]
struct Flag {
    /// The flag, 0 to 511.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(0..512))]
    flag: u16,
    /// Its value, 0 or 1.
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..2))]
    value: u8,
}

/// What is sold.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ServiceName {
    Electricity,
    Water,
    Gas,
    Time,
}

impl From<ServiceName> for Service {
    fn from(name: ServiceName) -> Self {
        match name {
            ServiceName::Electricity => Self::Electricity,
            ServiceName::Water => Self::Water,
            ServiceName::Gas => Self::Gas,
            ServiceName::Time => Self::Time,
        }
    }
}

impl Encode {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, StsError> {
        let number = match &self.what {
            What::Test(test) => plain(&Token::MeterTest(test.read()?)),
            What::Read(read) => plain(&Token::ExtendedRead(ExtendedRead::index(read.index))),
            What::Credit(sealed) => {
                let Credit { amount, service } = &sealed.says;
                let amount = TransferAmount::parse(amount, 1)?;
                let service = (*service).into();
                sealed.encode(|tid, rnd| Token::Credit { service, rnd, tid, amount })?
            }
            What::Currency(sealed) => {
                let Credit { amount, service } = &sealed.says;
                let amount = CurrencyAmount::parse(amount)?;
                let service = (*service).into();
                sealed.encode(|tid, _| Token::CurrencyCredit { service, tid, amount })?
            }
            What::PowerLimit(sealed) => {
                let watts = TransferAmount::from_units(sealed.says.watts)?;
                sealed.order(Management::SetMaximumPowerLimit(watts))?
            }
            What::UnbalanceLimit(sealed) => {
                let watts = TransferAmount::from_units(sealed.says.watts)?;
                sealed.order(Management::SetMaximumPhasePowerUnbalanceLimit(watts))?
            }
            What::ClearCredit(sealed) => {
                let register = CreditRegister::from_code(sealed.says.register);
                let register = register.ok_or_else(|| StsError::Value {
                    option: "--register",
                    reason: "expected 0 to 7 or 65535".to_owned(),
                })?;
                sealed.order(Management::ClearCredit(register))?
            }
            What::TariffRate(sealed) => {
                sealed.order(Management::SetTariffRate(hex16(&sealed.says.field)?))?
            }
            What::ClearTamper(sealed) => sealed.order(Management::ClearTamperCondition)?,
            What::WaterFactor(sealed) => {
                sealed.order(Management::SetWaterMeterFactor(hex16(&sealed.says.field)?))?
            }
            What::Flag(sealed) => {
                let Flag { flag, value } = sealed.says;
                sealed.order(Management::Extended(ExtendedSetting::flag(flag, value == 1)))?
            }
        };
        writeln!(out, "{number}")?;
        Ok(ExitCode::SUCCESS)
    }
}

impl<T: Args> Sealed<T> {
    fn order(&self, action: Management) -> Result<sts::TokenNumber, StsError> {
        self.encode(|tid, rnd| Token::Management { rnd, tid, action })
    }

    fn encode(&self, make: impl Fn(Tid, Rnd) -> Token) -> Result<sts::TokenNumber, StsError> {
        let (tid, rnd) = self.stamp.read(self.keys.meter.base_year)?;
        let token = make(tid, rnd);
        let cipher = self.keys.needed_cipher()?;
        // What a point of sale refuses needs the meter's settings; a bare decoder key has none.
        if let Ok(config) = self.keys.meter.config() {
            let now_s = Clock::System.now().0.into();
            self.keys.meter.attributes(config.key).check_issue(&token, now_s)?;
        }
        Ok(encode(&token, &cipher))
    }
}

impl Stamp {
    fn read(&self, base: BaseDate) -> Result<(Tid, Rnd), StsError> {
        let now = Clock::System.now();
        let tid = match (self.tid, self.at.as_deref()) {
            (Some(minutes), _) => Tid::new(minutes)?,
            (None, Some(text)) => {
                let at_s = sts::parse_instant(text).ok_or_else(|| StsError::Value {
                    option: "--at",
                    reason: format!("{text:?} is no instant such as 2026-11-22T10:15:00Z"),
                })?;
                Tid::at(base, at_s)?
            }
            (None, None) => Tid::at(base, now.0.into())?,
        };
        let rnd = self.rnd.unwrap_or((now.0 & 0x0F) as u8);
        Ok((tid, Rnd::from_low_bits(rnd)))
    }
}

impl Test {
    fn read(&self) -> Result<MeterTest, StsError> {
        let width = match self.width {
            2 => ManufacturerWidth::Two,
            4 => ManufacturerWidth::Four,
            _ => {
                let reason = "a manufacturer's code has 2 or 4 digits".to_owned();
                return Err(StsError::Value { option: "--width", reason });
            }
        };
        let control = match &self.control {
            None => MeterTest::all(width),
            Some(text) => u64::from_str_radix(text, 16).map_err(|_| StsError::Value {
                option: "--control",
                reason: format!("{text:?} is not hexadecimal"),
            })?,
        };
        Ok(MeterTest::new(width, control, self.manufacturer)?)
    }
}

fn plain(token: &Token) -> sts::TokenNumber {
    encode_plain(token).expect("class 1 tokens are not encrypted")
}

fn hex16(text: &str) -> Result<u16, StsError> {
    u16::from_str_radix(text, 16).map_err(|_| StsError::Value {
        option: "--field",
        reason: format!("{text:?} is not 1 to 4 hexadecimal digits"),
    })
}
