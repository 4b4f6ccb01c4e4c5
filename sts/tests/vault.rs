//! The software module from outside: import by two people, what the attributes of a key allow,
//! and tokens that a virtual meter takes.

#![expect(clippy::unwrap_used, reason = "tests, and the code they share")]
use sts::meter::{Config, ResultCode, VirtualMeter};
use sts::{
    BaseDate, DecoderKey, Deriver, EncryptionAlgorithm, GroupNotice, ImportError, IssueRequest,
    KeyAttributes, KeyChangeRequest, KeyCheckValue, KeyExpiryNumber, KeyRevisionNumber, KeyType,
    Management, MasterKey, MeterConfig, Order, Rnd, SecurityModule, Service, SoftModule, Sta,
    SupplyGroupCode, TariffIndex, Tid, TokenLimit, TransferAmount, VaultError, VendingKey,
    VendingKeyId,
};

const HMAC_KEY: &str = "abababababababab949494949494949401234567";
const DES_KEY: &str = "abababababababab";
const NOW_S: u64 = 1_800_000_000; // 2027-01-15
const BASE: BaseDate = BaseDate::Base2014;

fn id(sgc: u32, krn: u8, kt: KeyType) -> VendingKeyId {
    VendingKeyId {
        sgc: SupplyGroupCode::new(sgc).unwrap(),
        kt,
        krn: KeyRevisionNumber::new(krn).unwrap(),
    }
}

fn attributes(id: VendingKeyId) -> KeyAttributes {
    KeyAttributes {
        id,
        base_date: BASE,
        ken: KeyExpiryNumber::NEVER,
        active_from_s: NOW_S - 1_000,
        active_until_s: NOW_S + 1_000,
        issued_until_s: NOW_S + 500,
        limit: TokenLimit { units: 10_000, currency: 500 },
    }
}

fn meter(key: VendingKeyId, ea: EncryptionAlgorithm) -> MeterConfig {
    let ti = TariffIndex::new(1).unwrap();
    MeterConfig { pan: "600727000000000009".parse().unwrap(), ea, key, ti }
}

fn open(trail: &str) -> SoftModule {
    SoftModule::open("soft-1", MasterKey::new([1; 32]), Sta::sample(), trail).unwrap()
}

fn import(module: &mut SoftModule, hex: &str, attributes: KeyAttributes) -> Vec<u8> {
    let key = VendingKey::from_hex(hex).unwrap();
    let kcv = module.propose("ann", key, attributes, NOW_S).unwrap();
    module.confirm("bob", attributes.id, kcv, NOW_S).unwrap()
}

fn credit(meter: MeterConfig, tid: Tid, tenths: u32) -> IssueRequest {
    let amount = TransferAmount::from_units(tenths).unwrap();
    let (service, rnd) = (Service::Electricity, Rnd::from_low_bits(5));
    IssueRequest { meter, tid, order: Order::Credit { service, amount, rnd } }
}

#[test]
fn two_people_import_a_key() {
    let mut module = open("");
    let name = id(201_457, 1, KeyType::Unique);
    let key = || VendingKey::from_hex(HMAC_KEY).unwrap();
    let wanted = attributes(name);

    let kcv = module.propose("ann", key(), wanted, NOW_S).unwrap();
    assert_eq!(kcv, key().check_value());
    assert_eq!(module.attributes(name), Err(VaultError::UnknownKey(name)), "not yet in the vault");
    let same = module.confirm("ann", name, kcv, NOW_S);
    assert_eq!(same, Err(ImportError::SameOperator("ann".into())));
    let other = module.confirm("bob", name, KeyCheckValue([0; 3]), NOW_S);
    assert_eq!(other, Err(ImportError::CheckValue));
    let late = module.confirm("bob", name, kcv, NOW_S + 86_401);
    assert_eq!(late, Err(ImportError::NotProposed), "forgotten after a day");

    module.propose("ann", key(), wanted, NOW_S).unwrap();
    module.withdraw("cleo", name, NOW_S).unwrap();
    assert_eq!(module.confirm("bob", name, kcv, NOW_S), Err(ImportError::NotProposed));

    module.propose("ann", key(), wanted, NOW_S).unwrap();
    assert_eq!(module.proposals().map(|(who, ..)| who).collect::<Vec<_>>(), ["ann"]);
    let blob = module.confirm("bob", name, kcv, NOW_S).unwrap();
    assert_eq!(module.attributes(name), Ok(wanted));
    assert_eq!(module.propose("ann", key(), wanted, NOW_S), Err(ImportError::Present));

    let trail = module.take_audit();
    let deeds: Vec<&str> = trail.lines().filter_map(|line| line.split('\t').nth(3)).collect();
    let refused = "confirmation refused";
    assert_eq!(
        deeds,
        ["proposed", refused, refused, "proposed", "withdrawn", "proposed", "confirmed"]
    );
    assert!(!trail.contains("abab"), "the key is in the trail");
    assert_eq!(module.take_audit(), "");

    // After a restart: the trail goes on, the sealed key works.
    let mut again = open(&trail);
    assert_eq!(again.load(&blob), Ok(wanted));
    let holder = meter(name, EncryptionAlgorithm::Ea07);
    assert_eq!(again.derive(&holder), module.derive(&holder));
    again.propose("ann", key(), attributes(id(1, 1, KeyType::Unique)), NOW_S).unwrap();
    assert!(again.take_audit().starts_with("8\t"));
    let other_master = MasterKey::new([2; 32]);
    assert!(SoftModule::open("soft-1", other_master, Sta::sample(), &trail).is_err());
}

#[test]
fn keys_that_are_not_imported() {
    let mut module = open("");
    let mut check = |hex: &str, attributes: KeyAttributes, want: fn(&ImportError) -> bool| {
        let key = VendingKey::from_hex(hex).unwrap();
        let error = module.propose("ann", key, attributes, NOW_S).unwrap_err();
        assert!(want(&error), "{error}");
        assert_eq!(module.proposals().count(), 0);
        assert_eq!(module.take_audit(), "");
    };
    let good = attributes(id(1, 1, KeyType::Unique));
    check("abababababababaa", good, |e| matches!(e, ImportError::Parity(_)));
    let initial = attributes(id(1, 1, KeyType::Initialisation));
    check(DES_KEY, initial, |e| *e == ImportError::KeyType);
    let common = attributes(id(1, 1, KeyType::Common));
    check(HMAC_KEY, common, |e| *e == ImportError::KeyType);
    let never = KeyAttributes { active_from_s: 5, active_until_s: 5, ..good };
    check(DES_KEY, never, |e| matches!(e, ImportError::NeverActive { .. }));
    for operator in ["", "a\tb", "a\nb", &"x".repeat(101)] {
        let key = VendingKey::from_hex(DES_KEY).unwrap();
        assert_eq!(module.propose(operator, key, good, NOW_S), Err(ImportError::Operator));
    }
    for krn in 1..=9 {
        for sgc in [1, 2] {
            let key = VendingKey::from_hex(DES_KEY).unwrap();
            let wanted = attributes(id(sgc, krn, KeyType::Unique));
            let got = module.propose("ann", key, wanted, NOW_S).map(|_| ());
            let full = krn > 8;
            assert_eq!(got, if full { Err(ImportError::TooMany) } else { Ok(()) }, "{sgc}/{krn}");
        }
    }
}

/// Each byte of the trail counts, and so do the order and the number of its lines.
#[test]
fn a_changed_audit_trail_is_refused() {
    let mut module = open("");
    import(&mut module, HMAC_KEY, attributes(id(1, 1, KeyType::Unique)));
    import(&mut module, DES_KEY, attributes(id(2, 1, KeyType::Unique)));
    let trail = module.take_audit();
    let check = |text: &str, line: u64| {
        let master = MasterKey::new([1; 32]);
        let error = SoftModule::open("soft-1", master, Sta::sample(), text).unwrap_err();
        assert_eq!(error.line, line, "{text}");
    };
    let lines: Vec<&str> = trail.lines().collect();
    assert_eq!(lines.len(), 4);
    check(&trail.replacen("bob", "eve", 1), 2);
    check(&lines[1..].join("\n"), 1);
    check(&[lines[0], lines[2], lines[3]].join("\n"), 2);
    check(&[lines[0], lines[1], lines[3], lines[2]].join("\n"), 3);
    check(&format!("{trail}5\t1\teve\tconfirmed\t000001/2/1\tABCDEF\t00\n"), 5);
    check("rubbish", 1);
}

//= IEC 62055-41 §6.5.2.6: the point of sale refuses tokens past the key expiry number.
#[test]
fn what_the_attributes_allow() {
    let mut module = open("");
    let name = id(201_457, 1, KeyType::Unique);
    let expiring = KeyAttributes { ken: KeyExpiryNumber(104), ..attributes(name) };
    import(&mut module, HMAC_KEY, expiring);
    let default = id(201_457, 1, KeyType::Default);
    import(&mut module, HMAC_KEY, attributes(default));
    let holder = meter(name, EncryptionAlgorithm::Ea07);
    let tid = Tid::at(BASE, NOW_S).unwrap();
    assert_eq!(tid.expiry_block(), 104);
    let check = |request: &IssueRequest, now_s: u64, want: fn(&VaultError) -> bool| {
        let error = module.issue(request, now_s).unwrap_err();
        assert!(want(&error), "{error}");
    };
    assert!(module.issue(&credit(holder, tid, 10_000), NOW_S).is_ok());
    check(&credit(holder, tid, 10_001), NOW_S, |e| matches!(e, VaultError::Limit { .. }));
    check(&credit(holder, tid, 1), NOW_S - 1_001, |e| matches!(e, VaultError::NotActive { .. }));
    check(&credit(holder, tid, 1), NOW_S + 1_000, |e| matches!(e, VaultError::NotActive { .. }));
    check(&credit(holder, tid, 1), NOW_S + 501, |e| matches!(e, VaultError::IssueEnded(_)));
    let expired = Tid::new(105 << 16).unwrap();
    check(&credit(holder, expired, 1), NOW_S, |e| matches!(e, VaultError::KeyExpired { .. }));
    let reserved = Tid::new(1_441).unwrap();
    check(&credit(holder, reserved, 1), NOW_S, |e| matches!(e, VaultError::ReservedTid(_)));
    let in_default = meter(default, EncryptionAlgorithm::Ea07);
    let no_credit = VaultError::CreditUnderDefaultKey;
    assert_eq!(module.issue(&credit(in_default, tid, 1), NOW_S), Err(no_credit));
    let action = Management::ClearTamperCondition;
    let order = Order::Management { action, rnd: Rnd::default() };
    assert!(module.issue(&IssueRequest { meter: in_default, tid, order }, NOW_S).is_ok());
    let unknown = meter(id(9, 9, KeyType::Unique), EncryptionAlgorithm::Ea07);
    check(&credit(unknown, tid, 1), NOW_S, |e| matches!(e, VaultError::UnknownKey(_)));
}

#[test]
fn negative_currency_counts_against_the_limit_too() {
    let mut module = open("");
    let name = id(201_457, 1, KeyType::Unique);
    import(&mut module, HMAC_KEY, attributes(name));
    let tid = Tid::at(BASE, NOW_S).unwrap();
    let issue = |text: &str| {
        let amount = sts::CurrencyAmount::parse(text).unwrap();
        let order = Order::CurrencyCredit { service: Service::Electricity, amount };
        let meter = meter(name, EncryptionAlgorithm::Ea11);
        module.issue(&IssueRequest { meter, tid, order }, NOW_S).map(|_| ())
    };
    assert_eq!(issue("499"), Ok(()));
    assert_eq!(issue("-499"), Ok(()));
    assert!(matches!(issue("501"), Err(VaultError::Limit { .. })));
    assert!(matches!(issue("-510"), Err(VaultError::Limit { .. })));
}

/// A key change from an expired key to a live one works (CTSA16), the other way round not; with
/// the base date changed, the meter starts its identifiers afresh.
#[test]
fn a_meter_follows_its_vault() {
    use EncryptionAlgorithm::{Ea07, Ea11};
    for (ea, group, tokens) in
        [(Ea07, GroupNotice::Silent, 2), (Ea07, GroupNotice::Told, 3), (Ea11, GroupNotice::Told, 4)]
    {
        let mut module = open("");
        let (old, new) = (id(201_457, 1, KeyType::Unique), id(203_557, 6, KeyType::Unique));
        let expired = KeyAttributes { ken: KeyExpiryNumber(3), ..attributes(old) };
        import(&mut module, HMAC_KEY, expired);
        import(&mut module, HMAC_KEY, attributes(new));

        let holder = meter(old, ea);
        let key = derive(BASE, &holder);
        let mut virtual_meter = VirtualMeter::new(virtual_config(holder), key);
        let to_ti = TariffIndex::new(2).unwrap();
        let request = KeyChangeRequest { meter: holder, to: new, to_ti, group };
        let numbers = module.change_key(&request, NOW_S).unwrap();
        assert_eq!(numbers.len(), tokens);
        for number in numbers {
            assert!(virtual_meter.enter(number, NOW_S).is_accepted());
        }
        let moved = MeterConfig { key: new, ti: to_ti, ..holder };
        assert!(virtual_meter.has_key(&derive(BASE, &moved)));
        assert_eq!(virtual_meter.settings().sgc.is_some(), tokens > 2);

        let tid = Tid::at(BASE, NOW_S).unwrap();
        let number = module.issue(&credit(moved, tid, 100), NOW_S).unwrap();
        assert_eq!(module.verify(&moved, number).unwrap().tid(), Some(tid));
        assert_eq!(virtual_meter.enter(number, NOW_S), ResultCode::Accept);
        assert_eq!(virtual_meter.enter(number, NOW_S), ResultCode::Used);

        let back = KeyChangeRequest { meter: moved, to: old, to_ti, group };
        let error = module.change_key(&back, NOW_S).unwrap_err();
        assert!(matches!(error, VaultError::KeyExpired { .. }), "{error}");
    }
}

#[test]
fn a_new_base_date_clears_the_store() {
    let mut module = open("");
    let (old, new) = (id(123_456, 1, KeyType::Unique), id(201_457, 2, KeyType::Unique));
    let rolled_out = KeyAttributes {
        base_date: BaseDate::Base1993,
        active_until_s: NOW_S,
        issued_until_s: NOW_S - 500,
        ..attributes(old)
    };
    import(&mut module, DES_KEY, rolled_out);
    import(&mut module, HMAC_KEY, attributes(new));
    let holder = meter(old, EncryptionAlgorithm::Ea07);
    let to_ti = holder.ti;
    let request = KeyChangeRequest { meter: holder, to: new, to_ti, group: GroupNotice::Silent };
    let key = Deriver::new(&VendingKey::from_hex(DES_KEY).unwrap())
        .derive(BaseDate::Base1993, &holder)
        .unwrap();
    let mut config = virtual_config(holder);
    config.start = Tid::MAX;
    let mut virtual_meter = VirtualMeter::new(config, key);
    for number in module.change_key(&request, NOW_S).unwrap() {
        assert!(virtual_meter.enter(number, NOW_S).is_accepted());
    }
    let moved = MeterConfig { key: new, ..holder };
    let tid = Tid::at(BASE, NOW_S).unwrap();
    let number = module.issue(&credit(moved, tid, 100), NOW_S).unwrap();
    assert_eq!(virtual_meter.enter(number, NOW_S), ResultCode::Accept);
    // Back to the exhausted base date: it has no identifier for today.
    let back = KeyChangeRequest { meter: moved, to: old, to_ti, group: GroupNotice::Silent };
    assert!(module.change_key(&back, NOW_S).is_err());
}

#[test]
fn types_of_key_are_not_changed_back() {
    let mut module = open("");
    let (unique, default) = (id(1, 1, KeyType::Unique), id(1, 1, KeyType::Default));
    import(&mut module, HMAC_KEY, attributes(unique));
    import(&mut module, HMAC_KEY, attributes(default));
    let change = |from: VendingKeyId, to: VendingKeyId| {
        let meter = meter(from, EncryptionAlgorithm::Ea07);
        let (to_ti, group) = (meter.ti, GroupNotice::Silent);
        module.change_key(&KeyChangeRequest { meter, to, to_ti, group }, NOW_S)
    };
    assert!(change(default, unique).is_ok());
    assert!(matches!(change(unique, default), Err(VaultError::KeyType { .. })));
}

fn derive(base: BaseDate, meter: &MeterConfig) -> DecoderKey {
    Deriver::new(&VendingKey::from_hex(HMAC_KEY).unwrap()).derive(base, meter).unwrap()
}

fn virtual_config(meter: MeterConfig) -> Config {
    Config {
        meter,
        ken: KeyExpiryNumber::NEVER,
        service: Service::Electricity,
        sta: Sta::sample(),
        tid_count: 50,
        start: Tid::MIN,
        units_max: 1_000_000,
        currency_steps_max: 1_000_000,
        key_change_timeout_s: 600,
        lockout: None,
    }
}
