//! The virtual token meter, from outside: its answers one by one, and what holds for any entries.

#![expect(clippy::unwrap_used, reason = "tests, and the code they share")]

use proptest::prelude::*;
use sts::meter::{Config, LockoutRule, ResultCode, VirtualMeter};
use sts::{
    CreditRegister, CurrencyAmount, DecoderKey, EncryptionAlgorithm, ExtendedSetting, KeyChange,
    KeyExpiryNumber, KeyRevisionNumber, KeyType, Management, ManufacturerWidth, MeterConfig,
    MeterTest, Rnd, Rollover, Service, Sta, SupplyGroupCode, TariffIndex, Tid, Token, TokenCipher,
    TokenNumber, TransferAmount, VendingKeyId, encode, encode_plain,
};

const KEY_64: &str = "87f3ecbb2e46b48f";
const KEY_128: &str = "929bd3a415c9420a05ec5ee9f3ce91c3";
const START: u32 = 1_000;

fn key(hex: &str) -> DecoderKey {
    DecoderKey::from_hex(hex).unwrap()
}

fn tid(minutes: u32) -> Tid {
    Tid::new(minutes).unwrap()
}

fn config(hex: &str) -> Config {
    Config {
        meter: MeterConfig {
            pan: "600727000000000009".parse().unwrap(),
            ea: key(hex).algorithm(),
            key: VendingKeyId {
                sgc: SupplyGroupCode::new(201_457).unwrap(),
                kt: KeyType::Unique,
                krn: KeyRevisionNumber::new(1).unwrap(),
            },
            ti: TariffIndex::new(1).unwrap(),
        },
        ken: KeyExpiryNumber::NEVER,
        service: Service::Electricity,
        sta: Sta::sample(),
        tid_count: 50,
        start: tid(START),
        units_max: 1_000_000,
        currency_steps_max: 1_000_000,
        key_change_timeout_s: 600,
        lockout: None,
    }
}

fn meter(hex: &str) -> VirtualMeter {
    VirtualMeter::new(config(hex), key(hex))
}

fn cipher(hex: &str) -> TokenCipher {
    TokenCipher::new(&key(hex), Sta::sample())
}

fn units(units: u32) -> TransferAmount {
    TransferAmount::from_units(units).unwrap()
}

fn credit(minutes: u32, tenths: u32) -> Token {
    let (service, rnd) = (Service::Electricity, Rnd::from_low_bits(5));
    Token::Credit { service, rnd, tid: tid(minutes), amount: units(tenths) }
}

fn currency(minutes: u32, steps: i128) -> Token {
    let amount = CurrencyAmount::from_steps(steps).unwrap();
    Token::CurrencyCredit { service: Service::Electricity, tid: tid(minutes), amount }
}

fn order(minutes: u32, action: Management) -> Token {
    Token::Management { rnd: Rnd::from_low_bits(5), tid: tid(minutes), action }
}

fn change(hex: &str, rollover: Rollover) -> KeyChange {
    KeyChange {
        key: key(hex),
        kt: KeyType::Unique,
        krn: KeyRevisionNumber::new(2).unwrap(),
        ken: KeyExpiryNumber(200),
        ti: TariffIndex::new(2).unwrap(),
        rollover,
        sgc: (key(hex).algorithm() == EncryptionAlgorithm::Ea11)
            .then(|| SupplyGroupCode::new(203_557).unwrap()),
    }
}

const NEW_64: &str = "0123456789abcdef";
const NEW_128: &str = "00112233445566778899aabbccddeeff";

fn check(meter: &mut VirtualMeter, token: &Token, want: ResultCode) {
    let before = (meter.registers().clone(), *meter.settings());
    let got = meter.enter(encode(token, &cipher(KEY_64)), 0);
    assert_eq!(got, want, "{token:?}");
    if !want.is_accepted() {
        let after = (meter.registers().clone(), *meter.settings());
        assert_eq!(after, before, "a refused token changed something: {token:?}");
    }
}

//= IEC 62055-41 §7.3.7: old before used, used before expired, expired before default key.
#[test]
fn credit_and_its_refusals() {
    let mut meter = meter(KEY_64);
    check(&mut meter, &credit(2_000, 500), ResultCode::Accept);
    check(&mut meter, &credit(2_000, 500), ResultCode::Used);
    check(&mut meter, &credit(2_000, 700), ResultCode::Used);
    check(&mut meter, &credit(1_500, 100), ResultCode::Accept);
    check(&mut meter, &credit(999, 100), ResultCode::Old);
    check(&mut meter, &credit(START, 100), ResultCode::Used);
    check(&mut meter, &credit(2_001, 999_401), ResultCode::Overflow);
    check(&mut meter, &currency(2_002, -400_000), ResultCode::Accept);
    check(&mut meter, &currency(2_003, 900_000), ResultCode::Accept);
    check(&mut meter, &currency(2_004, 900_000), ResultCode::Overflow);
    let water = Token::Credit {
        service: Service::Water,
        rnd: Rnd::default(),
        tid: tid(3_000),
        amount: units(1),
    };
    check(&mut meter, &water, ResultCode::Function);
    assert_eq!(meter.registers().units, 600);
    assert_eq!(meter.registers().currency_steps, 500_100, "each rounded up to a code");
    meter.consume(50, 100);
    assert_eq!((meter.registers().units, meter.registers().currency_steps), (550, 500_000));
}

#[test]
fn expired_and_default_keys() {
    let expiring = Config { ken: KeyExpiryNumber(1), ..config(KEY_64) };
    let mut meter = VirtualMeter::new(expiring, key(KEY_64));
    check(&mut meter, &credit(0x01_FFFF, 1), ResultCode::Accept);
    check(&mut meter, &credit(0x02_0000, 1), ResultCode::KeyExpired);
    check(&mut meter, &order(0x02_0000, Management::ClearTamperCondition), ResultCode::KeyExpired);

    let mut default = config(KEY_64);
    default.meter.key.kt = KeyType::Default;
    let mut meter = VirtualMeter::new(default, key(KEY_64));
    check(&mut meter, &credit(2_000, 1), ResultCode::Ddtk);
    check(&mut meter, &currency(2_000, 1), ResultCode::Ddtk);
    check(&mut meter, &order(2_000, Management::ClearTamperCondition), ResultCode::Accept);
}

#[test]
fn orders() {
    let mut meter = meter(KEY_64);
    meter.tamper();
    check(&mut meter, &credit(2_000, 500), ResultCode::Accept);
    check(&mut meter, &currency(2_001, 7), ResultCode::Accept);
    use Management::{
        ClearCredit, ClearTamperCondition, Extended, SetMaximumPhasePowerUnbalanceLimit,
        SetMaximumPowerLimit, SetTariffRate, SetWaterMeterFactor,
    };
    check(&mut meter, &order(2_010, ClearTamperCondition), ResultCode::Accept);
    check(&mut meter, &order(2_011, SetMaximumPowerLimit(units(5_000))), ResultCode::Accept);
    let unbalance = SetMaximumPhasePowerUnbalanceLimit(units(900));
    check(&mut meter, &order(2_012, unbalance), ResultCode::Accept);
    check(&mut meter, &order(2_013, SetTariffRate(7)), ResultCode::Accept);
    check(&mut meter, &order(2_014, SetWaterMeterFactor(7)), ResultCode::Function);
    check(&mut meter, &order(2_015, Extended(ExtendedSetting::flag(6, true))), ResultCode::Accept);
    let unknown = Extended(ExtendedSetting::from_field(0x007B));
    check(&mut meter, &order(2_016, unknown), ResultCode::Function);
    let water = ClearCredit(CreditRegister::Units(Service::Water));
    check(&mut meter, &order(2_017, water), ResultCode::Range);
    let own = ClearCredit(CreditRegister::Units(Service::Electricity));
    check(&mut meter, &order(2_017, own), ResultCode::Accept);
    assert_eq!((meter.registers().units, meter.registers().currency_steps), (0, 7));
    check(&mut meter, &order(2_018, ClearCredit(CreditRegister::All)), ResultCode::Accept);
    let registers = meter.registers();
    assert_eq!(registers.currency_steps, 0);
    assert!(!registers.tampered);
    assert_eq!(registers.power_limit_w, Some(5_000));
    assert_eq!(registers.unbalance_limit_w, Some(900));
    assert_eq!(registers.tariff_rate, Some(7));
    assert_eq!(registers.flags.get(&6), Some(&true));
}

#[test]
fn typed_text_and_test_tokens() {
    let mut meter = meter(KEY_64);
    assert_eq!(meter.enter_text("1234", 0), ResultCode::Format);
    assert_eq!(meter.enter_text("99999999999999999999", 0), ResultCode::Format);
    // Any meter, maker 00, all tests: STS 531 CTSA11.
    assert_eq!(meter.enter_text("5649 3153 7254 5031 3471", 0), ResultCode::Accept);
    assert_eq!(meter.registers().shown.unwrap().names().count(), 18);
    let test = |width, maker| {
        encode_plain(&Token::MeterTest(MeterTest::new(width, 1, maker).unwrap())).unwrap()
    };
    assert_eq!(meter.enter(test(ManufacturerWidth::Two, 7), 0), ResultCode::MfrCode);
    assert_eq!(meter.enter(test(ManufacturerWidth::Four, 0), 0), ResultCode::Accept);
    let read: TokenNumber = "02305843009347914912".parse().unwrap();
    assert_eq!(meter.enter(read, 0), ResultCode::Function);
    let crc = encode(&credit(2_000, 1), &cipher(NEW_64));
    assert_eq!(meter.enter(crc, 0), ResultCode::Crc, "made for another key");
}

#[test]
fn three_wrong_entries_close_the_keypad() {
    let locking = Config { lockout: Some(LockoutRule::CLOU), ..config(KEY_64) };
    let mut meter = VirtualMeter::new(locking, key(KEY_64));
    let good = format!("{:#}", encode(&credit(2_000, 1), &cipher(KEY_64)));
    let mut at_s = 0;
    assert_eq!(meter.enter_text("1", at_s), ResultCode::Format);
    assert_eq!(meter.enter_text("1", at_s), ResultCode::Format);
    for closed_s in [10, 20, 40, 80, 160, 320, 640, 1_280, 1_280] {
        assert_eq!(meter.enter_text("1", at_s), ResultCode::Format);
        assert_eq!(meter.enter_text("1", at_s), ResultCode::Lockout, "not counted");
        assert_eq!(meter.enter_text(&good, at_s + closed_s - 1), ResultCode::Lockout);
        at_s += closed_s;
    }
    assert_eq!(meter.enter_text(&good, at_s), ResultCode::Accept);
    // A right entry starts the count afresh, and a test token works while the keypad is closed.
    let all_tests = "56493153725450313471";
    for (wrong, text, want) in [
        (2, good.as_str(), ResultCode::Used),
        (3, good.as_str(), ResultCode::Lockout),
        (3, all_tests, ResultCode::Accept),
    ] {
        let mut again = meter.clone();
        for _entry in 0..wrong {
            again.enter_text("1", at_s);
        }
        assert_eq!(again.enter_text(text, at_s), want, "{text} after {wrong}");
    }
}

#[test]
fn key_changes() {
    for (old, new, tokens) in [(KEY_64, NEW_64, 2), (KEY_128, NEW_128, 4)] {
        for rollover in [Rollover::Keep, Rollover::Clear] {
            let mut meter = meter(old);
            let first = encode(&credit(2_000, 500), &cipher(old));
            assert_eq!(meter.enter(first, 0), ResultCode::Accept);
            let set = change(new, rollover).tokens().unwrap();
            assert_eq!(set.len(), tokens);
            for token in &set {
                assert!(meter.has_key(&key(old)));
                assert!(meter.enter(encode(token, &cipher(old)), 0).is_accepted());
            }
            assert!(meter.has_key(&key(new)));
            assert_eq!(meter.registers().units, 500, "credit stays");
            let settings = meter.settings();
            assert_eq!((settings.krn.value(), settings.ti.value()), (2, 2));
            assert_eq!(settings.ken, KeyExpiryNumber(200));
            assert_eq!(settings.sgc.map(SupplyGroupCode::value), (tokens == 4).then_some(203_557));
            // The same identifier under the new key: used, unless the store was cleared.
            let again = meter.enter(encode(&credit(2_000, 500), &cipher(new)), 0);
            let want =
                if rollover == Rollover::Clear { ResultCode::Accept } else { ResultCode::Used };
            assert_eq!(again, want);
            assert_eq!(meter.enter(first, 0), ResultCode::Crc, "the old key is gone");
        }
    }
}

#[test]
fn a_key_change_of_three_tells_the_supply_group() {
    let mut meter = meter(KEY_64);
    let group = SupplyGroupCode::new(654_321).unwrap();
    let set = KeyChange { sgc: Some(group), ..change(NEW_64, Rollover::Keep) }.tokens().unwrap();
    assert_eq!(set.len(), 3);
    let codes: Vec<ResultCode> =
        [2, 1, 0].map(|i| meter.enter(encode(&set[i], &cipher(KEY_64)), 0)).to_vec();
    assert_eq!(codes, [ResultCode::ThirdKct, ResultCode::SecondKct, ResultCode::Accept]);
    assert_eq!(meter.settings().sgc, Some(group));
}

/// The numbers one maker prints; for the sections edition 3 added, none is public.
#[test]
fn sections_are_answered_by_number() {
    let mut meter = meter(KEY_128);
    let set = change(NEW_128, Rollover::Keep).tokens().unwrap();
    let numbers = [3, 1, 0, 2].map(|i| meter.enter(encode(&set[i], &cipher(KEY_128)), 0).number());
    assert_eq!(numbers, [None, Some(3), Some(2), Some(1)]);
}

#[test]
fn key_types_that_may_follow() {
    let check = |now: KeyType, new: KeyType, want: ResultCode| {
        let mut config = config(KEY_64);
        config.meter.key.kt = now;
        let mut meter = VirtualMeter::new(config, key(KEY_64));
        let set = KeyChange { kt: new, ..change(NEW_64, Rollover::Keep) }.tokens().unwrap();
        let got = meter.enter(encode(&set[0], &cipher(KEY_64)), 0);
        assert_eq!(got, want, "{now:?} to {new:?}");
    };
    use KeyType::{Common, Default, Initialisation, Unique};
    check(Initialisation, Default, ResultCode::FirstKct);
    check(Default, Unique, ResultCode::FirstKct);
    check(Unique, Unique, ResultCode::FirstKct);
    check(Unique, Default, ResultCode::KeyType);
    check(Common, Default, ResultCode::KeyType);
    check(Default, Initialisation, ResultCode::KeyType);
}

#[test]
fn an_incomplete_key_change_is_forgotten() {
    let mut meter = meter(KEY_64);
    let set = change(NEW_64, Rollover::Keep).tokens().unwrap();
    let numbers: Vec<TokenNumber> = set.iter().map(|t| encode(t, &cipher(KEY_64))).collect();
    assert_eq!(meter.enter(numbers[0], 0), ResultCode::FirstKct);
    assert_eq!(meter.enter(numbers[1], 601), ResultCode::SecondKct, "the first is forgotten");
    assert!(meter.has_key(&key(KEY_64)));
    assert_eq!(meter.enter(numbers[0], 1_201), ResultCode::Accept);
    assert!(meter.has_key(&key(NEW_64)));
}

/// A generator of numbers that needs no crate (splitmix64).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

/// Of random numbers of 66 bits, three quarters have a class that is not reserved, and of those
/// one in 65,536 has a fitting checksum: of 2¹⁹, 6 are to be expected. (That exactly one checksum
/// of 65,536 fits any content is a test beside the data block.)
#[test]
fn random_numbers_pass_no_more_often_than_the_checksum_lets_them() {
    let (mut state, mut passed, mut accepted) = (7, 0, 0);
    for hex in [KEY_64, KEY_128] {
        let mut meter = meter(hex);
        for _entry in 0..1 << 18 {
            let wide = u128::from(random(&mut state)) << 64 | u128::from(random(&mut state));
            let number = TokenNumber::new(wide >> 62).unwrap();
            let is_reserved_class = number.bits() >> 27 & 0b11 == 3;
            let result = meter.enter(number, 0);
            passed += u32::from(result != ResultCode::Crc && !is_reserved_class);
            accepted += u32::from(result.is_accepted());
        }
        assert!(meter.has_key(&key(hex)));
    }
    println!("of 2^19: {passed} with a fitting checksum, {accepted} accepted");
    assert!((1..=18).contains(&passed), "{passed} of 2^19, expected about 6");
    assert!(accepted <= passed);
}

proptest! {
    /// A token is accepted at most once, whatever is entered between, and the register is the
    /// sum of what was accepted.
    #[test]
    fn a_token_is_accepted_at_most_once(
        tid_count in 1_usize..6,
        entries in prop::collection::vec((START - 3..START + 30, 1_u32..4), 1..120),
    ) {
        let config = Config { tid_count, ..config(KEY_64) };
        let mut meter = VirtualMeter::new(config, key(KEY_64));
        let mut accepted = std::collections::BTreeSet::new();
        let mut sum = 0;
        for (minutes, tenths) in entries {
            let number = encode(&credit(minutes, tenths), &cipher(KEY_64));
            let result = meter.enter(number, 0);
            if result == ResultCode::Accept {
                prop_assert!(accepted.insert(minutes), "{} was accepted twice", minutes);
                sum += u64::from(tenths);
            } else {
                prop_assert!(matches!(result, ResultCode::Old | ResultCode::Used));
            }
            prop_assert_eq!(meter.registers().units, sum);
        }
    }

    /// As many tokens as the store holds may come in any order.
    #[test]
    fn tokens_within_the_store_may_come_in_any_order(
        minutes in Just((START + 1..START + 21).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let config = Config { tid_count: minutes.len(), ..config(KEY_128) };
        let mut meter = VirtualMeter::new(config, key(KEY_128));
        for minute in minutes {
            let number = encode(&credit(minute, 1), &cipher(KEY_128));
            prop_assert_eq!(meter.enter(number, 0), ResultCode::Accept);
        }
    }

    /// Sections in any order, again and again, with other tokens between: the key changes when
    /// the last missing one is in, and not before.
    #[test]
    fn only_a_complete_set_changes_the_key(
        wide: bool,
        entries in prop::collection::vec((0_usize..6, 0_u64..700), 0..40),
    ) {
        let (old, new) = if wide { (KEY_128, NEW_128) } else { (KEY_64, NEW_64) };
        let (mut meter, old_cipher) = (meter(old), cipher(old));
        let set = change(new, Rollover::Keep).tokens().unwrap();
        let mut present = vec![false; set.len()];
        let (mut now_s, mut latest_s, mut minutes) = (0, 0, START);
        for (index, wait_s) in entries {
            now_s += wait_s;
            minutes += 1;
            let Some(token) = set.get(index) else {
                // Any other token does not disturb a pending change.
                meter.enter(encode(&credit(minutes, 1), &old_cipher), now_s);
                continue;
            };
            if now_s - latest_s > 600 {
                present.fill(false);
            }
            latest_s = now_s;
            present[index] = true;
            let result = meter.enter(encode(token, &old_cipher), now_s);
            let complete = present.iter().all(|there| *there);
            prop_assert_eq!(result == ResultCode::Accept, complete);
            prop_assert_eq!(meter.has_key(&key(new)), complete);
            if complete {
                return Ok(());
            }
        }
        prop_assert!(meter.has_key(&key(old)));
    }
}
