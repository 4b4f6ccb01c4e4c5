//! A virtual token meter: what a real one does with 20 digits, for tests and simulation.
//!
//! The order of its checks is that of the standard: number, class, decryption, checksum,
//! identifier old or used, key expired, default key, then what the token says. A key change is
//! collected section by section, in any order, and changes nothing until it is complete.
//!
//! **Invariants:** a token is accepted at most once; a refused token changes nothing but the
//! lockout's count; time is an argument, and only the key-change time-out and the lockout use it.

use std::collections::BTreeMap;

use crate::block::remove_class;
use crate::codec::{Refusal, TokenCipher, decode};
use crate::codes::KeyType;
use crate::derive::MeterConfig;
use crate::identity::{KeyExpiryNumber, KeyRevisionNumber, MeterPan, SupplyGroupCode, TariffIndex};
use crate::key::DecoderKey;
use crate::key_change::{KeyChange, KeyChangeSection, KeyChangeSections, Rollover};
use crate::number::TokenNumber;
use crate::sta::Sta;
use crate::tid::Tid;
use crate::tid_store::{TidRefusal, TidStore};
use crate::token::{ContentError, CreditRegister, Management, MeterTest, Service, Token};

/// What a meter answers. The numbers are those one maker prints (Conlog BEC62).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum ResultCode {
    /// 1: done.
    Accept,
    /// 2: the first section of a key change is kept; others are to come.
    FirstKct,
    /// 3: the second.
    SecondKct,
    /// The third; its number is not public.
    ThirdKct,
    /// The fourth; its number is not public.
    FourthKct,
    /// 4: the register would run over.
    Overflow,
    /// 5: a key of this type must not follow the present one.
    KeyType,
    /// 6: no 20 digits, or no token of 66 bits.
    Format,
    /// 7: a field is out of its range.
    Range,
    /// 8: this meter does not do that.
    Function,
    /// 9: older than all identifiers kept.
    Old,
    /// 10: entered before.
    Used,
    /// 11: made after the key's expiry.
    KeyExpired,
    /// 12: no credit under a default key.
    Ddtk,
    /// 13: mistyped, or for another meter or key.
    Crc,
    /// 14: a test token for another maker's meters.
    MfrCode,
    /// 15: too many wrong entries; try later.
    Lockout,
}

impl ResultCode {
    /// Its number, where one is public.
    #[must_use]
    pub const fn number(self) -> Option<u8> {
        match self {
            Self::Accept => Some(1),
            Self::FirstKct => Some(2),
            Self::SecondKct => Some(3),
            Self::ThirdKct | Self::FourthKct => None,
            Self::Overflow => Some(4),
            Self::KeyType => Some(5),
            Self::Format => Some(6),
            Self::Range => Some(7),
            Self::Function => Some(8),
            Self::Old => Some(9),
            Self::Used => Some(10),
            Self::KeyExpired => Some(11),
            Self::Ddtk => Some(12),
            Self::Crc => Some(13),
            Self::MfrCode => Some(14),
            Self::Lockout => Some(15),
        }
    }

    /// The result with this number; `None` for one that is not public or not known.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::NUMBERED.into_iter().find(|code| code.number() == Some(number))
    }

    const NUMBERED: [Self; 15] = [
        Self::Accept,
        Self::FirstKct,
        Self::SecondKct,
        Self::Overflow,
        Self::KeyType,
        Self::Format,
        Self::Range,
        Self::Function,
        Self::Old,
        Self::Used,
        Self::KeyExpired,
        Self::Ddtk,
        Self::Crc,
        Self::MfrCode,
        Self::Lockout,
    ];

    /// Its name, for people and machines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::FirstKct => "first_key_change_token",
            Self::SecondKct => "second_key_change_token",
            Self::ThirdKct => "third_key_change_token",
            Self::FourthKct => "fourth_key_change_token",
            Self::Overflow => "overflow",
            Self::KeyType => "key_type",
            Self::Format => "format",
            Self::Range => "range",
            Self::Function => "function",
            Self::Old => "old",
            Self::Used => "used",
            Self::KeyExpired => "key_expired",
            Self::Ddtk => "default_key",
            Self::Crc => "crc",
            Self::MfrCode => "manufacturer_code",
            Self::Lockout => "lockout",
        }
    }

    /// Whether the meter kept the token: it is done, or a section waits for its set.
    #[must_use]
    pub const fn is_accepted(self) -> bool {
        matches!(
            self,
            Self::Accept | Self::FirstKct | Self::SecondKct | Self::ThirdKct | Self::FourthKct
        )
    }
}

/// Wrong entries that close the keypad for a while. Class 1 tokens still work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LockoutRule {
    /// Wrong entries in a row that close it.
    pub wrong_entries_max: u32,
    /// How long, the first time; each further wrong entry doubles it.
    pub first_s: u64,
    /// The longest.
    pub longest_s: u64,
}

impl LockoutRule {
    /// One maker's rule (CLOU): 3 entries, 10 s to 1,280 s.
    pub const CLOU: Self = Self { wrong_entries_max: 3, first_s: 10, longest_s: 1_280 };
}

/// How a virtual meter is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its number, cipher, and the settings that go with its first key.
    pub meter: MeterConfig,
    /// Expiry of its first key.
    pub ken: KeyExpiryNumber,
    /// What it meters.
    pub service: Service,
    /// The tables of EA07.
    pub sta: &'static Sta,
    /// Identifiers kept; the standard asks for 50 or so.
    pub tid_count: usize,
    /// Identifiers up to this one are past: the date of manufacture.
    pub start: Tid,
    /// Credit in units (tenths) above which it answers `Overflow`.
    pub units_max: u64,
    /// Magnitude of currency credit (10⁻⁵) above which it answers `Overflow`.
    pub currency_steps_max: i128,
    /// After this long an incomplete key change is forgotten.
    pub key_change_timeout_s: u64,
    /// The keypad's rule; `None` for none.
    pub lockout: Option<LockoutRule>,
}

/// What a meter holds that tokens change.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Registers {
    /// Credit in tenths of a unit.
    pub units: u64,
    /// Currency credit in 10⁻⁵ of the base currency unit; may be negative.
    pub currency_steps: i128,
    /// Whether the tamper condition is raised.
    pub tampered: bool,
    /// Maximum power in watts, when set.
    pub power_limit_w: Option<u32>,
    /// Maximum phase power unbalance in watts, when set.
    pub unbalance_limit_w: Option<u32>,
    /// Tariff rate as carried, when set.
    pub tariff_rate: Option<u16>,
    /// Water meter factor as carried, when set.
    pub water_factor: Option<u16>,
    /// Flags of the extended token set, by number.
    pub flags: BTreeMap<u16, bool>,
    /// The last test a test token asked for.
    pub shown: Option<MeterTest>,
}

/// A virtual token meter.
#[derive(Clone, Debug)]
pub struct VirtualMeter {
    config: Config,
    settings: Settings,
    key: DecoderKey,
    cipher: TokenCipher,
    tids: TidStore,
    registers: Registers,
    pending: Option<Pending>,
    wrong_entries: u32,
    closed_until_s: u64,
}

/// What a meter knows of its key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Its type.
    pub kt: KeyType,
    /// Its revision.
    pub krn: KeyRevisionNumber,
    /// Its expiry.
    pub ken: KeyExpiryNumber,
    /// The tariff index that goes with it.
    pub ti: TariffIndex,
    /// Its supply group; a key change of two tokens does not tell it.
    pub sgc: Option<SupplyGroupCode>,
}

/// Sections of a key change that is not complete.
#[derive(Clone, Debug)]
struct Pending {
    sections: KeyChangeSections,
    latest_s: u64,
}

impl VirtualMeter {
    /// A new meter with its first key.
    #[must_use]
    pub fn new(config: Config, key: DecoderKey) -> Self {
        Self {
            settings: Settings {
                kt: config.meter.key.kt,
                krn: config.meter.key.krn,
                ken: config.ken,
                ti: config.meter.ti,
                sgc: Some(config.meter.key.sgc),
            },
            cipher: TokenCipher::new(&key, config.sta),
            key,
            tids: TidStore::new(config.tid_count, config.start),
            registers: Registers::default(),
            pending: None,
            wrong_entries: 0,
            closed_until_s: 0,
            config,
        }
    }

    /// Which meter it is.
    #[must_use]
    pub const fn pan(&self) -> MeterPan {
        self.config.meter.pan
    }

    /// What it knows of its key.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it holds.
    #[must_use]
    pub const fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Whether it holds this key (compared in constant time).
    #[must_use]
    pub fn has_key(&self, key: &DecoderKey) -> bool {
        self.key == *key
    }

    /// Opens the cover: the tamper condition stays raised until a token clears it.
    pub const fn tamper(&mut self) {
        self.registers.tampered = true;
    }

    /// Uses up credit; what is not there is not used.
    pub const fn consume(&mut self, units: u64, currency_steps: i128) {
        self.registers.units = self.registers.units.saturating_sub(units);
        self.registers.currency_steps =
            self.registers.currency_steps.saturating_sub(currency_steps);
    }

    /// Types text into the keypad.
    pub fn enter_text(&mut self, text: &str, now_s: u64) -> ResultCode {
        match text.parse() {
            Ok(number) => self.enter(number, now_s),
            Err(_) if now_s < self.closed_until_s => ResultCode::Lockout,
            Err(_) => self.count_entry(ResultCode::Format, now_s),
        }
    }

    /// Enters a token, by keypad or over a network.
    pub fn enter(&mut self, number: TokenNumber, now_s: u64) -> ResultCode {
        let (class, _) = remove_class(number);
        if now_s < self.closed_until_s && class != TEST_CLASS {
            return ResultCode::Lockout;
        }
        let result = match decode(number, &self.cipher) {
            Ok(token) => self.apply(token, now_s).unwrap_or_else(|refusal| refusal),
            Err(refusal) => code_of(&refusal),
        };
        self.count_entry(result, now_s)
    }

    fn apply(&mut self, token: Token, now_s: u64) -> Result<ResultCode, ResultCode> {
        match token {
            Token::MeterTest(test) => self.show(test),
            // No register beyond the tests is there to be read.
            Token::ExtendedRead(_) => Err(ResultCode::Function),
            Token::KeyChange(section) => self.collect(section, now_s),
            Token::Credit { service, tid, amount, .. } => {
                self.check_credit(tid, service)?;
                let units = self.registers.units.checked_add(amount.units().into());
                let fits = units.filter(|units| *units <= self.config.units_max);
                self.registers.units = fits.ok_or(ResultCode::Overflow)?;
                Ok(self.accept(tid))
            }
            Token::CurrencyCredit { service, tid, amount } => {
                self.check_credit(tid, service)?;
                let steps = self.registers.currency_steps.checked_add(amount.steps());
                let max = self.config.currency_steps_max.unsigned_abs();
                let fits = steps.filter(|steps| steps.unsigned_abs() <= max);
                self.registers.currency_steps = fits.ok_or(ResultCode::Overflow)?;
                Ok(self.accept(tid))
            }
            Token::Management { tid, action, .. } => {
                self.check_tid(tid)?;
                self.obey(action)?;
                Ok(self.accept(tid))
            }
        }
    }

    //= IEC 62055-41 §7.3.7: old before used, used before expired, expired before default key.
    fn check_tid(&self, tid: Tid) -> Result<(), ResultCode> {
        self.tids.check(tid).map_err(|refusal| match refusal {
            TidRefusal::Old => ResultCode::Old,
            TidRefusal::Used => ResultCode::Used,
        })?;
        if tid.expiry_block() > self.settings.ken.0 {
            return Err(ResultCode::KeyExpired);
        }
        Ok(())
    }

    fn check_credit(&self, tid: Tid, service: Service) -> Result<(), ResultCode> {
        self.check_tid(tid)?;
        if self.settings.kt == KeyType::Default {
            return Err(ResultCode::Ddtk);
        }
        if service == self.config.service { Ok(()) } else { Err(ResultCode::Function) }
    }

    fn accept(&mut self, tid: Tid) -> ResultCode {
        self.tids.put(tid);
        ResultCode::Accept
    }

    fn show(&mut self, test: MeterTest) -> Result<ResultCode, ResultCode> {
        let own = self.config.meter.pan.drn().manufacturer();
        let is_own = test.width() == own.width && test.manufacturer() == own.code;
        if test.manufacturer() != 0 && !is_own {
            return Err(ResultCode::MfrCode);
        }
        self.registers.shown = Some(test);
        Ok(ResultCode::Accept)
    }

    fn obey(&mut self, action: Management) -> Result<(), ResultCode> {
        let service = self.config.service;
        let registers = &mut self.registers;
        match action {
            Management::SetMaximumPowerLimit(watts) => {
                registers.power_limit_w = Some(watts.units());
            }
            Management::SetMaximumPhasePowerUnbalanceLimit(watts) => {
                registers.unbalance_limit_w = Some(watts.units());
            }
            Management::ClearCredit(CreditRegister::All) => {
                registers.units = 0;
                registers.currency_steps = 0;
            }
            Management::ClearCredit(CreditRegister::Units(of)) if of == service => {
                registers.units = 0;
            }
            Management::ClearCredit(CreditRegister::Currency(of)) if of == service => {
                registers.currency_steps = 0;
            }
            Management::ClearCredit(_) => return Err(ResultCode::Range),
            Management::SetTariffRate(rate) => registers.tariff_rate = Some(rate),
            Management::ClearTamperCondition => registers.tampered = false,
            Management::SetWaterMeterFactor(factor) if service == Service::Water => {
                registers.water_factor = Some(factor);
            }
            Management::SetWaterMeterFactor(_) => return Err(ResultCode::Function),
            Management::Extended(setting) => {
                let (number, value) = setting.as_flag().ok_or(ResultCode::Function)?;
                registers.flags.insert(number, value);
            }
        }
        Ok(())
    }

    /// Keeps a section of a key change, and changes the key when its set is complete.
    fn collect(&mut self, section: KeyChangeSection, now_s: u64) -> Result<ResultCode, ResultCode> {
        if let KeyChangeSection::First { kt, .. } = section
            && !self.settings.kt.may_become(kt)
        {
            return Err(ResultCode::KeyType);
        }
        let kept = match section {
            KeyChangeSection::First { .. } => ResultCode::FirstKct,
            KeyChangeSection::Second { .. } => ResultCode::SecondKct,
            KeyChangeSection::ThirdShort { .. } | KeyChangeSection::ThirdWide { .. } => {
                ResultCode::ThirdKct
            }
            KeyChangeSection::Fourth { .. } => ResultCode::FourthKct,
        };
        let timeout_s = self.config.key_change_timeout_s;
        let fresh =
            self.pending.take().filter(|old| now_s.saturating_sub(old.latest_s) <= timeout_s);
        let mut sections = fresh.map(|old| old.sections).unwrap_or_default();
        sections.put(section);
        match sections.complete(self.config.meter.ea) {
            Some(change) => {
                self.change_key(change);
                Ok(ResultCode::Accept)
            }
            None => {
                self.pending = Some(Pending { sections, latest_s: now_s });
                Ok(kept)
            }
        }
    }

    /// Takes over a new key. Credit stays; identifiers stay unless the base date changes.
    fn change_key(&mut self, change: KeyChange) {
        let KeyChange { kt, krn, ken, ti, sgc, .. } = change;
        self.settings = Settings { kt, krn, ken, ti, sgc };
        if change.rollover == Rollover::Clear {
            self.tids = TidStore::new(self.config.tid_count, Tid::MIN);
        }
        self.cipher = TokenCipher::new(&change.key, self.config.sta);
        self.key = change.key;
    }

    /// Counts wrong entries in a row, and closes the keypad when there are too many.
    fn count_entry(&mut self, result: ResultCode, now_s: u64) -> ResultCode {
        let Some(rule) = self.config.lockout else { return result };
        if result.is_accepted() {
            self.wrong_entries = 0;
            return result;
        }
        self.wrong_entries = self.wrong_entries.saturating_add(1);
        if let Some(doublings) = self.wrong_entries.checked_sub(rule.wrong_entries_max) {
            let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
            let closed_s = rule.first_s.saturating_mul(factor).min(rule.longest_s);
            self.closed_until_s = now_s.saturating_add(closed_s);
        }
        result
    }
}

fn code_of(refusal: &Refusal) -> ResultCode {
    match refusal {
        Refusal::Class
        | Refusal::Content(ContentError::Function { .. })
        | Refusal::KeyNeeded(_) => ResultCode::Function,
        Refusal::Crc => ResultCode::Crc,
        Refusal::Content(ContentError::Range { .. } | ContentError::Identity(_)) => {
            ResultCode::Range
        }
    }
}

const TEST_CLASS: u8 = 1;
