//! The till on a real file: sales that die at any point, keys that name one sale, batches.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use meter::{
    AccountId, Ask, Block, BlockPeriod, Change, Closing, Command, CommandId, CurrencyCode, Current,
    CustomerId, DayProfile, GatewayId, Installation, LocalDate, MeterId, MeterRecord, Mode,
    ModeSwitch, Money, MonthDay, OutboxId, PlanChange, PlanId, Price, Removal, Role, Season,
    Switch, SystemTitle, TariffVersion, TokenDigits, TransformerId, UnixSeconds, Voltage,
};
use storage::registry::{
    Config, DeviceKeys, IssuedTokens, KeySetting, Limits, NewAccount, NewMeter, NewPurchase,
    NewSale, Refusal, Registry, RegistryError, SaleKind, SaleRow, SoldToken, TokenEntry,
    TokenIssuer, TokenMeter, TokenOrder,
};

const NOW: UnixSeconds = UnixSeconds(1_790_000_000); // 2026-09-21

/// Makes tokens whose digits are their identifiers.
struct Numbers;

impl TokenIssuer for Numbers {
    fn issue(&self, order: &TokenOrder<'_>) -> Result<IssuedTokens, Refusal> {
        let tid = order.meter.last_tid.map_or(1, |last| last + 1);
        let digits = format!("{tid:020}");
        let token = SoldToken {
            kind: "credit".into(),
            digits,
            tid: Some(tid),
            base_year: order.meter.base_year,
        };
        let meter = TokenMeter { last_tid: Some(tid), ..order.meter.clone() };
        Ok(IssuedTokens { tokens: vec![token], meter })
    }
}

async fn open(folder: &Path) -> Arc<Registry> {
    let config = Config {
        path: folder.join("registry.sqlite"),
        master_key_path: folder.join("master.key"),
        readers: 2,
    };
    Arc::new(Registry::open(&config).await.unwrap())
}

/// Account 1 with token meter 1.
async fn with_token_meter(registry: &Registry) {
    registry.add_customer("C-1", "Li Wei", "").await.unwrap();
    let currency = CurrencyCode::parse("CNY").unwrap();
    let plan = registry.add_plan("flat", "", currency).await.unwrap().id;
    let all_day = DayProfile(vec![Switch { quarter: 0, rate: 1 }]);
    let season = Season {
        from: MonthDay { month: 1, day: 1 },
        to: MonthDay { month: 12, day: 31 },
        workday: all_day.clone(),
        weekend: all_day.clone(),
        holiday: all_day,
    };
    let version = TariffVersion {
        plan,
        valid_from: LocalDate::parse("2026-01-01").unwrap(),
        currency,
        prices: vec![Price::from_e4(5000)],
        seasons: vec![season],
        calendar: None,
        blocks: vec![Block { from_kwh: 0, adder: Price::from_e4(0) }],
        block_period: BlockPeriod::Month,
        standing_per_day: Money::ZERO,
        standing_per_month: Money::ZERO,
        tax_bp: 0,
        fee: Money::ZERO,
    };
    registry.add_version(&version, NOW).await.unwrap();
    let account = NewAccount {
        code: "A-1".to_owned(),
        customer: CustomerId(1),
        plan,
        zone: "Asia/Shanghai".to_owned(),
        mode: Mode::Prepaid,
        limits: Limits { overdraft: Money::ZERO, low_levels: [Money::ZERO; 2] },
    };
    registry.add_account(&account).await.unwrap();
    let meter = NewMeter {
        serial: "1".to_owned(),
        title: SystemTitle(*b"MTR00001"),
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
        keys: DeviceKeys { encryption: [1; 16], authentication: [2; 16] },
    };
    registry.add_meter(&meter).await.unwrap();
    token_settings(registry).await;
}

/// Meter 1 serves account 1 and takes tokens.
async fn token_settings(registry: &Registry) {
    let (account, at) = (AccountId(1), NOW.minus(86_400));
    let installation = Installation { meter: MeterId(1), account, at, start: None };
    registry.install(installation).await.unwrap();
    let key = KeySetting { sgc: 201_457, kt: 2, krn: 1, ti: 1 };
    let meter = TokenMeter {
        meter: MeterId(1),
        pan: "600727000000000009".to_owned(),
        scheme: "sts".to_owned(),
        ea: 7,
        known: key,
        ken: 255,
        base_year: 2014,
        to: key,
        last_tid: None,
        entry: TokenEntry::Remote,
    };
    registry.set_token_meter(&meter).await.unwrap();
}

fn sale(key: &str, cents: i64) -> NewSale {
    NewSale {
        key: key.to_owned(),
        body_hash: [u8::try_from(cents % 251).unwrap_or(0); 32],
        kind: SaleKind::Purchase,
        account: AccountId(1),
        ask: Ask::Money(Money::from_ticks(cents * Money::TICKS_PER_CENT)),
        currency: None,
        reason: String::new(),
        rnd: 0,
        at: NOW,
        actor: 1,
    }
}

async fn sell(registry: &Arc<Registry>, new: &[NewSale]) -> Vec<Result<SaleRow, Refusal>> {
    let (registry, new) = (Arc::clone(registry), new.to_vec());
    tokio::task::spawn_blocking(move || registry.sell(&new, &Numbers).unwrap()).await.unwrap()
}

fn as_command(token: &SoldToken) -> Command {
    Command::Token(TokenDigits::try_from(token.digits.clone()).unwrap())
}

/// A future that is dropped after so many polls: a process that dies there.
struct Dies<'a, T> {
    work: Pin<Box<dyn Future<Output = T> + 'a>>,
    polls_left: u32,
}

impl<T> Future for Dies<'_, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        if self.polls_left == 0 {
            return Poll::Ready(None);
        }
        self.polls_left -= 1;
        self.work.as_mut().poll(context).map(Some)
    }
}

/// Whatever the point at which a sale dies, the same key then gives one sale, with the tokens that
/// were seen if any were, and no identifier is given out twice.
#[tokio::test]
async fn a_sale_that_dies_anywhere_is_sold_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut registry = open(folder.path()).await;
    with_token_meter(&registry).await;
    let (mut tids, mut died, mut lived) = (BTreeSet::new(), 0, 0);
    for round in 0..40 {
        let polls = round % 4;
        let new = [sale(&format!("k{round}"), 100)];
        let work = Box::pin(sell(&registry, &new));
        let seen = Dies { work, polls_left: polls }.await;
        let seen = seen.map(|mut rows| rows.remove(0).unwrap());
        if seen.is_some() {
            lived += 1
        } else {
            died += 1
        }
        if round % 8 < 4 {
            registry.close().await;
            registry = open(folder.path()).await;
        }
        let row = sell(&registry, &new).await.remove(0).unwrap();
        if let Some(seen) = seen {
            assert_eq!(seen, row, "round={round}");
        }
        assert!(tids.insert(row.tokens[0].tid), "round={round}: identifier used twice");
    }
    assert!(died >= 3 && lived >= 3, "{died} died, {lived} lived");
    let rows = registry.next_outbox(OutboxId(0), 1000).await.unwrap();
    let changes = rows.iter().flat_map(|row| &row.changes);
    let sales = changes.filter(|change| matches!(change, Change::Sale(_))).count();
    assert_eq!(sales, tids.len(), "each sale goes to the log once");
    // And each of its tokens to the meter, once and in the order of the sales.
    let commands = registry.commands(MeterId(1), CommandId(0), 1000).await.unwrap();
    let sent: Vec<Command> = commands.iter().map(|row| row.command).collect();
    let sold = registry.sales(AccountId(1), meter::PurchaseId(0), 1000).await.unwrap();
    let sold: Vec<Command> = sold.iter().flat_map(|row| &row.tokens).map(as_command).collect();
    assert_eq!(sent, sold);
    assert_eq!(sent.len(), tids.len());
}

/// Makes so many tokens, then panics.
struct Breaks(AtomicU32);

impl TokenIssuer for Breaks {
    fn issue(&self, order: &TokenOrder<'_>) -> Result<IssuedTokens, Refusal> {
        assert!(self.0.fetch_sub(1, Ordering::Relaxed) > 0, "breaks as it is told to");
        Numbers.issue(order)
    }
}

#[tokio::test]
async fn a_batch_that_breaks_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    with_token_meter(&registry).await;
    let before = registry.ids().await.unwrap();
    let new: Vec<NewSale> = (0..5).map(|number| sale(&format!("k{number}"), 100)).collect();
    for tokens in 0..4 {
        let (registry, new) = (Arc::clone(&registry), new.clone());
        let issuer = Breaks(AtomicU32::new(tokens));
        let sold =
            tokio::task::spawn_blocking(move || registry.sell(&new, &issuer).map(drop)).await;
        assert!(sold.unwrap_err().is_panic(), "tokens={tokens}");
    }
    assert_eq!(registry.ids().await.unwrap(), before);
    assert_eq!(registry.sales(AccountId(1), meter::PurchaseId(0), 10).await.unwrap(), []);
    let tids: Vec<Option<u32>> =
        sell(&registry, &new).await.into_iter().map(|row| row.unwrap().tokens[0].tid).collect();
    assert_eq!(tids, [Some(1), Some(2), Some(3), Some(4), Some(5)]);
}

#[tokio::test]
async fn a_batch_sells_what_it_can_and_leaves_no_trace_of_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    with_token_meter(&registry).await;
    let unknown = NewSale { account: AccountId(9), ..sale("unknown", 100) };
    let new =
        [sale("a", 100), unknown, sale("a", 100), sale("a", 200), sale("b", 1), sale("c", 300)];
    let answers = sell(&registry, &new).await;
    let codes: Vec<Option<&str>> =
        answers.iter().map(|answer| answer.as_ref().err().map(Refusal::code)).collect();
    let reused = Some("idempotency_key_reused");
    assert_eq!(codes, [None, Some("not_found"), None, reused, Some("below_minimum"), None]);
    assert_eq!(answers[0], answers[2], "the same key in one batch is one sale");
    let rows = registry.sales(AccountId(1), meter::PurchaseId(0), 100).await.unwrap();
    let want = [0, 5].map(|index: usize| answers[index].clone().unwrap());
    assert_eq!(rows, want);
    assert_eq!(registry.token_meter(MeterId(1)).await.unwrap().last_tid, Some(2));
    // Top-ups and purchases share their keys.
    let top_up = |key: &str| NewPurchase {
        key: key.to_owned(),
        body_hash: [0; 32],
        account: AccountId(1),
        paid: Money::from_ticks(1_000_000),
        currency: None,
        at: NOW,
        actor: 1,
    };
    let error = registry.purchase(&top_up("a")).await.unwrap_err().to_string();
    assert!(error.contains("idempotency key"), "{error}");
    registry.purchase(&top_up("t")).await.unwrap();
    assert_eq!(
        sell(&registry, &[sale("t", 100)]).await[0].as_ref().unwrap_err().code(),
        "idempotency_key_reused"
    );
}

#[tokio::test]
async fn a_quote_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    with_token_meter(&registry).await;
    let before = registry.ids().await.unwrap();
    let split = registry.quote(sale("", 1000)).await.unwrap();
    assert_eq!(split.energy().wh(), 20_000);
    assert_eq!(registry.ids().await.unwrap(), before);
}

/// Around the midnight of a switch of mode nothing is sold or topped up, to the second, and nothing of a
/// refused sale is written; a closed account takes no money at all.
#[tokio::test]
async fn a_switch_under_way_and_a_closed_account_take_no_money() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    with_token_meter(&registry).await;
    // 2026-09-23T00:00 in Shanghai.
    let at = UnixSeconds(1_790_092_800);
    let (account, mode, cap) = (AccountId(1), Mode::Postpaid, Money::ZERO);
    let switch = Change::Switch(ModeSwitch { account, mode, at, share_bp: 2000, cap });
    registry.act(switch, NOW, 1).await.unwrap();
    let before = registry.ids().await.unwrap();
    let check = async |name: &str, at: UnixSeconds, want: &str| {
        for (kind, reason) in [(SaleKind::Purchase, ""), (SaleKind::FreeIssue, "relief")] {
            let key = format!("{name} {kind:?}");
            let new = NewSale { at, kind, reason: reason.to_owned(), ..sale(&key, 100) };
            let quoted = registry.quote(new.clone()).await.map_err(|error| error.to_string());
            let sold = sell(&registry, &[new]).await.remove(0);
            let code = sold.as_ref().map_or_else(Refusal::code, |_| "");
            assert_eq!(code, want, "{key}");
            assert_eq!(quoted.err(), sold.err().map(|refusal| refusal.to_string()), "{key}");
        }
        let (key, paid) = (format!("{name} top-up"), Money::from_ticks(1));
        let top_up =
            NewPurchase { key, body_hash: [0; 32], account, paid, currency: None, at, actor: 1 };
        let refused = registry.purchase(&top_up).await.map(drop);
        let code = match &refused {
            Err(RegistryError::Refused(refusal)) => refusal.code(),
            _ => "",
        };
        assert_eq!(code, want, "{name} {refused:?}");
    };
    for (name, at) in [("first", at.minus(120)), ("in it", at), ("last", at.plus(119))] {
        check(name, at, "mode_switch_under_way").await;
    }
    assert_eq!(registry.ids().await.unwrap(), before, "nothing is written");
    check("before", at.minus(121), "").await;
    check("after", at.plus(120), "").await;
    let (meter, end) = (MeterId(1), meter::Energy::from_wh(0));
    registry.remove(Removal { meter, at: at.plus(200), end }).await.unwrap();
    let close = Change::Close(Closing { account, at: at.plus(300) });
    registry.act(close, at.plus(300), 1).await.unwrap();
    check("closed", at.plus(400), "account_closed").await;
}

/// The till sells by the plan in force at the time of the sale, before and after the midnight.
#[tokio::test]
async fn a_change_of_plan_counts_from_its_midnight() {
    let folder = tempfile::tempdir().unwrap();
    let mut registry = open(folder.path()).await;
    with_token_meter(&registry).await;
    let (old, currency) = (PlanId(1), CurrencyCode::parse("CNY").unwrap());
    let mut version = registry.plan_versions(old).await.unwrap().remove(0);
    for (code, prices) in [("dear", vec![10_000]), ("two", vec![5000, 10_000])] {
        version.plan = registry.add_plan(code, "", currency).await.unwrap().id;
        version.prices = prices.into_iter().map(Price::from_e4).collect();
        registry.add_version(&version, NOW).await.unwrap();
    }
    // 2026-09-23T00:00 in Shanghai.
    let midnight = UnixSeconds(1_790_092_800);
    let change = async |registry: &Registry, plan, at| {
        let change = Change::Plan(PlanChange { account: AccountId(1), plan: PlanId(plan), at });
        registry.act(change, NOW, 1).await.map(drop).map_err(|error| error.to_string())
    };
    let refused = change(&registry, 3, midnight).await.unwrap_err();
    assert!(refused.contains("single rate"), "{refused}");
    let soon = change(&registry, 2, midnight.minus(900)).await.unwrap_err();
    assert!(soon.contains("local day"), "{soon}");
    change(&registry, 2, midnight).await.unwrap();
    for round in 0..2 {
        // By turns, as the till remembers what it sold by.
        for (at, wh) in [(midnight.minus(1), 20_000), (midnight, 10_000), (NOW, 20_000)] {
            let new = NewSale { at, ..sale(&format!("{round} {at}"), 1000) };
            let row = sell(&registry, std::slice::from_ref(&new)).await.remove(0).unwrap();
            assert_eq!(row.split.energy().wh(), wh, "{round} {at}");
            assert_eq!(registry.quote(new).await.unwrap().energy().wh(), wh);
        }
        registry.close().await;
        registry = open(folder.path()).await;
    }
    assert_eq!(registry.next_plan_change(NOW).await.unwrap(), Some(midnight));
    assert_eq!(registry.next_plan_change(midnight).await.unwrap(), None);
}

#[tokio::test]
async fn what_others_write_between_two_sales_counts_in_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    with_token_meter(&registry).await;
    let mut last = 0;
    let mut sell_one = async |registry: &Arc<Registry>, cents: i64| {
        last += 1;
        let sold = sell(registry, &[sale(&format!("k{last}"), cents)]).await.remove(0)?;
        Ok::<_, Refusal>((sold.tokens[0].tid, sold.split.blocks.len()))
    };
    assert_eq!(sell_one(&registry, 1000).await, Ok((Some(1), 1)));
    assert_eq!(sell_one(&registry, 1000).await, Ok((Some(2), 1)), "as the till left it");
    // Other settings, whose identifiers begin anew.
    let meter = registry.token_meter(MeterId(1)).await.unwrap();
    registry.set_token_meter(&TokenMeter { base_year: 2035, ..meter }).await.unwrap();
    assert_eq!(sell_one(&registry, 1000).await, Ok((Some(1), 1)));
    // A dearer tariff from today on.
    let plan = registry.plans(PlanId(0), 1).await.unwrap()[0].id;
    let mut version = registry.plan_versions(plan).await.unwrap().remove(0);
    version.valid_from = LocalDate::parse("2026-09-22").unwrap();
    version.blocks.push(Block { from_kwh: 61, adder: Price::from_e4(5000) });
    registry.add_version(&version, NOW).await.unwrap();
    let tomorrow = NewSale { at: NOW.plus(86_400), ..sale("tomorrow", 1000) };
    let sold = sell(&registry, &[tomorrow]).await.remove(0).unwrap();
    assert_eq!(sold.split.blocks.len(), 2, "60 kWh were bought before");
    // The registry opened anew knows the same.
    drop(registry);
    let registry = open(folder.path()).await;
    assert_eq!(sell_one(&registry, 1000).await, Ok((Some(3), 1)));
}
