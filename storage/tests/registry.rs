//! The registry on a real file: what it keeps, what it refuses, what it never writes in clear.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use meter::{
    AccountId, Adjustment, Block, BlockPeriod, CalendarId, Change, CurrencyCode, Current,
    CustomerId, DayProfile, Decision, Energy, GatewayId, Installation, LocalDate, MeterId,
    MeterRecord, Mode, Money, MonthDay, OutboxId, PlanId, Policy, Price, PurchaseId, Removal,
    Resolution, Role, Season, Seq, Switch, SystemTitle, TariffVersion, TransformerId, UnixSeconds,
    Voltage,
};
use storage::registry::{
    ApiRole, Config, Device, DeviceKeys, DeviceKind, DeviceRev, Limits, NewAccount, NewGateway,
    NewMeter, NewPurchase, Refusal, Registry, RegistryError,
};

const NOW: UnixSeconds = UnixSeconds(1_790_000_000); // 2026-09-21

fn config(folder: &Path) -> Config {
    Config {
        path: folder.join("registry.sqlite"),
        master_key_path: folder.join("master.key"),
        readers: 2,
    }
}

async fn open(folder: &Path) -> Registry {
    Registry::open(&config(folder)).await.unwrap()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, RegistryError>) -> &'static str {
    match result {
        Err(RegistryError::Refused(refusal)) => refusal.code(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn keys(seed: u8) -> DeviceKeys {
    DeviceKeys { encryption: [seed; 16], authentication: [seed ^ 0xFF; 16] }
}

fn new_meter(serial: u32) -> NewMeter {
    let mut title = *b"MTR\0\0\0\0\0";
    title[4..].copy_from_slice(&serial.to_be_bytes());
    NewMeter {
        serial: serial.to_string(),
        title: SystemTitle(title),
        model: "model".to_owned(),
        template: "obis".to_owned(),
        record: MeterRecord {
            meter: MeterId::NONE,
            role: Role::Consumer,
            transformer: TransformerId::NONE,
            gateway: GatewayId::NONE,
            current_max: Current::from_ma(60_000),
            voltage_nominal: Voltage::from_mv(230_000),
            phases: 1,
            register_digits: 6,
            period_s: 900,
        },
        keys: keys(serial.to_be_bytes()[3]),
    }
}

fn version(plan: PlanId, valid_from: &str) -> TariffVersion {
    let all_day = DayProfile(vec![Switch { quarter: 0, rate: 1 }]);
    TariffVersion {
        plan,
        valid_from: LocalDate::parse(valid_from).unwrap(),
        currency: CurrencyCode::parse("CNY").unwrap(),
        prices: vec![Price::from_e4(5283)],
        seasons: vec![Season {
            from: MonthDay { month: 1, day: 1 },
            to: MonthDay { month: 12, day: 31 },
            workday: all_day.clone(),
            weekend: all_day.clone(),
            holiday: all_day,
        }],
        calendar: None,
        blocks: vec![Block { from_kwh: 0, adder: Price::from_e4(0) }],
        block_period: BlockPeriod::Month,
        standing_per_day: Money::ZERO,
        standing_per_month: Money::ZERO,
        tax_bp: 0,
        fee: Money::ZERO,
    }
}

fn new_account(code: &str, plan: PlanId) -> NewAccount {
    NewAccount {
        code: code.to_owned(),
        customer: CustomerId(1),
        plan,
        zone: "Asia/Shanghai".to_owned(),
        mode: Mode::Prepaid,
        limits: Limits { overdraft: Money::ZERO, low_levels: [Money::ZERO; 2] },
    }
}

/// A customer and a plan with prices from 2026-01-01.
async fn with_plan(registry: &Registry) -> PlanId {
    let cny = CurrencyCode::parse("CNY").unwrap();
    registry.add_customer("C-1", "Li Wei", "").await.unwrap();
    let plan = registry.add_plan("home", "", cny).await.unwrap().id;
    registry.add_version(&version(plan, "2026-01-01"), NOW).await.unwrap();
    plan
}

fn purchase(key: &str, account: AccountId, ticks: i64) -> NewPurchase {
    NewPurchase {
        key: key.to_owned(),
        body_hash: [u8::try_from(ticks % 251).unwrap_or(0); 32],
        account,
        paid: Money::from_ticks(ticks),
        currency: None,
        at: NOW,
        actor: 1,
    }
}

async fn changes(registry: &Registry) -> Vec<Change> {
    let rows = registry.next_outbox(OutboxId(0), 1000).await.unwrap();
    rows.into_iter().flat_map(|row| row.changes).collect()
}

#[tokio::test]
async fn opening_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    assert_eq!(changes(&registry).await, [Change::Policy(Policy::standard())]);
    registry.add_meter(&new_meter(1)).await.unwrap();
    let (ids, told) = (registry.ids().await.unwrap(), changes(&registry).await);
    registry.close().await;
    let registry = open(folder.path()).await;
    assert_eq!(registry.ids().await.unwrap(), ids);
    assert_eq!(changes(&registry).await, told);
    assert_eq!(registry.meter(MeterId(1)).await.unwrap().serial, "1");
}

#[tokio::test]
async fn a_wrong_or_absent_master_key_is_named() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).await.close().await;
    let config = config(folder.path());
    std::fs::remove_file(&config.master_key_path).unwrap();
    let text = Registry::open(&config).await.unwrap_err().to_string();
    assert!(text.contains("is missing"), "{text}");
    let other = tempfile::tempdir().unwrap();
    open(other.path()).await.close().await;
    std::fs::copy(other.path().join("master.key"), &config.master_key_path).unwrap();
    let text = Registry::open(&config).await.unwrap_err().to_string();
    assert!(text.contains("does not fit this registry"), "{text}");
}

#[tokio::test]
async fn files_that_are_no_registry_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    std::fs::write(&config.path, vec![0x5A; 8192]).unwrap();
    assert!(Registry::open(&config).await.is_err());
    let absent = Config { path: folder.path().join("absent/registry.sqlite"), ..config };
    let text = Registry::open(&absent).await.unwrap_err().to_string();
    assert!(text.contains("cannot be opened"), "{text}");
}

#[tokio::test]
async fn keys_and_tokens_are_never_in_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let mut meter = new_meter(7);
    let encryption = *b"EncryptionKeyOfM";
    let authentication = *b"AuthenticationKy";
    meter.keys = DeviceKeys { encryption, authentication };
    registry.add_meter(&meter).await.unwrap();
    let token = registry.first_token(NOW).await.unwrap().unwrap();
    assert!(!format!("{registry:?} {meter:?} {token:?}").contains(&token.secret));
    let mut files = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        files += 1;
        for secret in [&encryption[..], &authentication[..], &token.secret.as_bytes()[7..]] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
    }
    assert!(files >= 3, "database, write-ahead log and key");
}

#[tokio::test]
async fn devices_come_with_their_keys_and_only_the_new_ones_later() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let gateway = NewGateway {
        title: SystemTitle(*b"GTW00001"),
        name: String::new(),
        template: "meterd-batch".to_owned(),
        keys: keys(9),
    };
    registry.add_gateway(&gateway).await.unwrap();
    let mut behind = new_meter(1);
    behind.record.gateway = GatewayId(1);
    registry.add_meter(&behind).await.unwrap();
    let list = async |since| {
        let mut devices = Vec::new();
        let rev = registry.devices_since(since, |device| devices.push(device)).await.unwrap();
        (rev, devices)
    };
    let (rev, devices) = list(DeviceRev::default()).await;
    let meter = new_meter(1);
    let want = [
        Device {
            kind: DeviceKind::Gateway(GatewayId(1)),
            title: gateway.title,
            gateway: GatewayId::NONE,
            template: gateway.template,
            keys: keys(9),
        },
        Device {
            kind: DeviceKind::Meter(MeterId(1)),
            title: meter.title,
            gateway: GatewayId(1),
            template: meter.template,
            keys: meter.keys,
        },
    ];
    assert_eq!(devices, want);
    assert_eq!(list(rev).await, (rev, Vec::new()));
    registry.add_meter(&new_meter(2)).await.unwrap();
    assert_eq!(*registry.watch_devices().borrow(), DeviceRev(rev.0 + 1));
    let (_, devices) = list(rev).await;
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].kind, DeviceKind::Meter(MeterId(2)));
}

#[tokio::test]
async fn the_outbox_is_sent_in_order_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let watch = registry.watch_outbox();
    for serial in 1..=5 {
        registry.add_meter(&new_meter(serial)).await.unwrap();
    }
    assert_eq!(*watch.borrow(), OutboxId(6));
    let ids = async |after, limit| -> Vec<u64> {
        let rows = registry.next_outbox(OutboxId(after), limit).await.unwrap();
        rows.iter().map(|row| row.id.0).collect()
    };
    assert_eq!(ids(0, 4).await, [1, 2, 3, 4]);
    assert_eq!(ids(4, 4).await, [5, 6]);
    assert_eq!(registry.sent_through().await.unwrap(), OutboxId(0));
    registry.mark_sent(OutboxId(4)).await.unwrap();
    assert_eq!(registry.sent_through().await.unwrap(), OutboxId(4));
    registry.mark_sent(OutboxId(4)).await.unwrap();
    assert_eq!(ids(0, 10).await, [5, 6], "rows that are sent are not sent again");
}

#[tokio::test]
async fn a_refused_change_leaves_neither_row_nor_outbox() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    registry.add_meter(&new_meter(1)).await.unwrap();
    let before = (registry.ids().await.unwrap(), changes(&registry).await);
    let check = async |change: fn(&mut NewMeter), want: &str| {
        let mut meter = new_meter(2);
        change(&mut meter);
        assert_eq!(refusal(registry.add_meter(&meter).await), want, "{meter:?}");
    };
    check(|meter| meter.serial = "1".to_owned(), "already_exists").await;
    check(|meter| meter.title = new_meter(1).title, "already_exists").await;
    check(|meter| meter.record.transformer = TransformerId(9), "not_found").await;
    check(|meter| meter.record.gateway = GatewayId(9), "not_found").await;
    check(|meter| meter.record.phases = 2, "invalid_field").await;
    check(|meter| meter.record.register_digits = 13, "invalid_field").await;
    check(|meter| meter.record.period_s = 0, "invalid_field").await;
    check(|meter| meter.record.role = Role::Supply, "invalid_field").await;
    check(|meter| meter.serial = "a\nb".to_owned(), "invalid_field").await;
    check(|meter| meter.model = String::new(), "invalid_field").await;
    assert_eq!((registry.ids().await.unwrap(), changes(&registry).await), before);
}

#[tokio::test]
async fn tariff_versions_only_follow() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let cny = CurrencyCode::parse("CNY").unwrap();
    let plan = registry.add_plan("home", "", cny).await.unwrap().id;
    registry.add_customer("C-1", "Li Wei", "").await.unwrap();
    let add = async |version: &TariffVersion| registry.add_version(version, NOW).await;
    assert_eq!(
        refusal(registry.add_account(&new_account("A", plan)).await),
        "plan_without_version"
    );
    add(&version(plan, "2026-01-01")).await.unwrap();
    registry.add_account(&new_account("A", plan)).await.unwrap();
    let check = async |change: fn(&mut TariffVersion), want: &str| {
        let mut version = version(plan, "2026-12-01");
        change(&mut version);
        assert_eq!(refusal(add(&version).await), want, "{version:?}");
    };
    let date = |text: &str| LocalDate::parse(text).unwrap();
    assert_eq!(date("2026-09-21").to_string(), "2026-09-21");
    check(|v| v.valid_from = LocalDate::new(2026, 1, 1).unwrap(), "tariff_version_order").await;
    check(|v| v.valid_from = LocalDate::new(2026, 9, 21).unwrap(), "tariff_version_effective")
        .await;
    check(|v| v.prices.clear(), "invalid_tariff").await;
    check(|v| v.plan = PlanId(7), "not_found").await;
    check(|v| v.calendar = Some(CalendarId(7)), "not_found").await;
    check(|v| v.currency = CurrencyCode::parse("EUR").unwrap(), "wrong_currency").await;
    add(&version(plan, "2026-12-01")).await.unwrap();
    check(|_| (), "tariff_version_order").await;
    let versions = registry.plan_versions(plan).await.unwrap();
    assert_eq!(versions, [version(plan, "2026-01-01"), version(plan, "2026-12-01")]);
}

#[tokio::test]
async fn holidays_that_have_begun_stay() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let day = |text: &str| LocalDate::parse(text).unwrap();
    let (past, future) = (day("2026-05-01"), day("2026-10-01"));
    let (calendar, _) = registry.add_calendar("cn", "", vec![future, past]).await.unwrap();
    assert_eq!(calendar.holidays.days, [past, future]);
    let set = async |days| registry.set_holidays(CalendarId(1), days, NOW).await;
    assert_eq!(refusal(set(vec![future]).await), "holiday_effective");
    assert_eq!(refusal(set(vec![past, day("2026-09-21")]).await), "holiday_effective");
    let days = vec![past, day("2026-10-02")];
    let (calendar, _) = set(days.clone()).await.unwrap();
    assert_eq!(calendar.holidays.days, days);
    assert_eq!(registry.calendars(CalendarId(0), 10).await.unwrap(), [calendar]);
}

#[tokio::test]
async fn installations_do_not_overlap() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let plan = with_plan(&registry).await;
    for code in ["A", "B"] {
        registry.add_account(&new_account(code, plan)).await.unwrap();
    }
    for serial in 1..=2 {
        registry.add_meter(&new_meter(serial)).await.unwrap();
    }
    let install = async |meter, account, at| {
        let start = Some(Energy::from_wh(5));
        let (meter, account, at) = (MeterId(meter), AccountId(account), UnixSeconds(at));
        registry.install(Installation { meter, account, at, start }).await
    };
    let remove = async |meter, at| {
        let end = Energy::from_wh(9);
        registry.remove(Removal { meter: MeterId(meter), at: UnixSeconds(at), end }).await
    };
    let start = 1_780_000_000;
    assert_eq!(refusal(install(1, 1, 1_700_000_000).await), "no_tariff_in_force");
    assert_eq!(refusal(install(1, 0, start).await), "invalid_field");
    assert_eq!(refusal(install(9, 1, start).await), "not_found");
    assert_eq!(refusal(install(1, 9, start).await), "not_found");
    install(1, 1, start).await.unwrap();
    assert_eq!(refusal(install(1, 2, start + 1).await), "meter_already_installed");
    assert_eq!(refusal(install(2, 1, start + 1).await), "account_already_served");
    assert_eq!(refusal(remove(2, start + 1).await), "meter_not_installed");
    assert_eq!(refusal(remove(1, start).await), "installation_order");
    remove(1, start + 100).await.unwrap();
    assert_eq!(refusal(install(1, 2, start + 99).await), "installation_order");
    assert_eq!(refusal(install(2, 1, start + 99).await), "installation_order");
    install(2, 1, start + 100).await.unwrap();
    let periods = registry.installations_of_account(AccountId(1)).await.unwrap();
    assert_eq!(periods.iter().map(|period| period.meter.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(periods[0].to, Some(UnixSeconds(start + 100)));
    assert_eq!(registry.account(AccountId(1)).await.unwrap().meter, MeterId(2));
    assert_eq!(registry.meter(MeterId(1)).await.unwrap().account, AccountId::NONE);
}

#[tokio::test]
async fn a_gateway_takes_32_meters() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let gateway = NewGateway {
        title: SystemTitle(*b"GTW00001"),
        name: String::new(),
        template: "meterd-batch".to_owned(),
        keys: keys(1),
    };
    let gateway = registry.add_gateway(&gateway).await.unwrap().id;
    let add = async |serial| {
        let mut meter = new_meter(serial);
        meter.record.gateway = gateway;
        registry.add_meter(&meter).await
    };
    for serial in 1..=32 {
        add(serial).await.unwrap();
    }
    assert_eq!(refusal(add(33).await), "gateway_full");
}

#[tokio::test]
async fn a_purchase_is_named_for_ever_by_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let plan = with_plan(&registry).await;
    let account = registry.add_account(&new_account("A", plan)).await.unwrap().0.terms.account;
    let first = registry.purchase(&purchase("key", account, 500)).await.unwrap();
    assert_eq!(first.purchase.purchase, PurchaseId(1));
    assert_eq!(registry.purchase(&purchase("key", account, 500)).await.unwrap(), first);
    assert_eq!(
        refusal(registry.purchase(&purchase("key", account, 501)).await),
        "idempotency_key_reused"
    );
    let check = async |change: fn(&mut NewPurchase), want: &str| {
        let mut new = purchase("other", AccountId(1), 500);
        change(&mut new);
        assert_eq!(refusal(registry.purchase(&new).await), want, "{new:?}");
    };
    check(|new| new.paid = Money::ZERO, "invalid_field").await;
    check(|new| new.paid = Money::from_ticks(-1), "invalid_field").await;
    check(|new| new.paid = Money::from_ticks(i64::MAX), "invalid_field").await;
    check(|new| new.account = AccountId(9), "not_found").await;
    check(|new| new.currency = Some("EUR".to_owned()), "wrong_currency").await;
    check(|new| new.at = UnixSeconds(1_700_000_000), "no_tariff_in_force").await;
    check(|new| new.key = String::new(), "invalid_field").await;
    assert_eq!(registry.keep_answer(PurchaseId(1), "first").await.unwrap(), "first");
    assert_eq!(registry.keep_answer(PurchaseId(1), "second").await.unwrap(), "first");
    assert_eq!(registry.purchase_by_key("key").await.unwrap().answer.as_deref(), Some("first"));
    let told = changes(&registry).await;
    let purchases = told.iter().filter(|change| matches!(change, Change::Purchase(_)));
    assert_eq!(purchases.count(), 1);
    assert_eq!(registry.purchases(account, PurchaseId(0), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn limits_and_adjustments_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let plan = with_plan(&registry).await;
    let account = registry.add_account(&new_account("A", plan)).await.unwrap().0.terms.account;
    let overdraft = Money::from_ticks(77);
    let (changed, _) =
        registry.set_limits(account, |limits| limits.overdraft = overdraft).await.unwrap();
    assert_eq!(changed.terms.overdraft, overdraft);
    assert_eq!(changes(&registry).await.last(), Some(&Change::Account(changed.terms)));
    let negative = registry.set_limits(account, |limits| limits.overdraft = Money::from_ticks(-1));
    assert_eq!(refusal(negative.await), "invalid_field");
    let crossed = |limits: &mut Limits| limits.low_levels[1] = Money::from_ticks(1);
    assert_eq!(refusal(registry.set_limits(account, crossed).await), "invalid_field");
    let adjustment =
        Adjustment { account, amount: Money::from_ticks(-5), at: NOW, reason: "test".to_owned() };
    registry.adjust(&adjustment, 1).await.unwrap();
    let rows = registry.adjustments(account, 0, 10).await.unwrap();
    assert_eq!(rows[0].adjustment, adjustment);
    let nothing = Adjustment { amount: Money::ZERO, ..adjustment };
    assert_eq!(refusal(registry.adjust(&nothing, 1).await), "invalid_field");
}

#[tokio::test]
async fn a_quarantined_reading_is_settled_once() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    registry.add_meter(&new_meter(1)).await.unwrap();
    let resolution = Resolution {
        meter: MeterId(1),
        taken_at: NOW,
        seq: Seq(42),
        register: Energy::from_wh(1),
        decision: Decision::NewEpoch,
    };
    registry.resolve(resolution, NOW, 1).await.unwrap();
    let again = Resolution { decision: Decision::Reject, ..resolution };
    assert_eq!(refusal(registry.resolve(again, NOW, 2).await), "already_resolved");
    let settled = registry.settlement(Seq(42)).await.unwrap().unwrap();
    assert_eq!(settled.decision, Decision::NewEpoch);
    assert_eq!(changes(&registry).await.last(), Some(&Change::Resolve(resolution)));
    // Two people at once: one of them is told that it is done.
    let told = changes(&registry).await.len();
    let next = Resolution { seq: Seq(43), ..resolution };
    let (one, other) = tokio::join!(
        registry.resolve(next, NOW, 1),
        registry.resolve(Resolution { decision: Decision::Reject, ..next }, NOW, 2)
    );
    let refused = if one.is_err() { refusal(one) } else { refusal(other) };
    assert_eq!(refused, "already_resolved");
    assert_eq!(changes(&registry).await.len(), told + 1, "told once");
}

#[tokio::test]
async fn a_policy_that_contradicts_itself_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let mut policy = Policy::standard();
    policy.alarms.loss_clear = policy.alarms.loss_raise + 1;
    assert_eq!(refusal(registry.set_policy(policy).await), "invalid_field");
    policy.alarms.loss_clear = 1;
    registry.set_policy(policy).await.unwrap();
    assert_eq!(registry.policy().await.unwrap(), policy);
}

#[tokio::test]
async fn tokens_are_shown_once_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let first = registry.first_token(NOW).await.unwrap().unwrap();
    assert!(registry.first_token(NOW).await.unwrap().is_none(), "only at first start");
    let found = registry.token_by_secret(&first.secret).unwrap();
    assert_eq!((found.id, found.role), (1, ApiRole::Admin));
    assert_eq!(refusal(registry.revoke_token(1, NOW).await), "last_administrator");
    let second = registry.add_token("ops", ApiRole::Admin, NOW).await.unwrap();
    registry.revoke_token(1, NOW).await.unwrap();
    assert_eq!(registry.token_by_secret(&first.secret), None);
    assert_eq!(refusal(registry.revoke_token(99, NOW).await), "not_found");
    registry.close().await;
    let registry = open(folder.path()).await;
    assert!(registry.first_token(NOW).await.unwrap().is_none());
    assert!(registry.token_by_secret(&second.secret).is_some());
    assert_eq!(registry.token_by_secret(&first.secret), None);
    assert_eq!(registry.tokens(0, 10).await.unwrap().len(), 2);
}

#[test]
fn every_refusal_says_what_to_do() {
    for refusal in [Refusal::KeyReused, Refusal::LastAdministrator, Refusal::InstallationOrder] {
        assert!(!refusal.hint().is_empty() && !refusal.code().is_empty());
    }
}
