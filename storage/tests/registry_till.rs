//! The till on a real file: sales that die at any point, keys that name one sale, batches.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use meter::{
    AccountId, Ask, Block, BlockPeriod, Change, Command, CommandId, CurrencyCode, Current,
    CustomerId, DayProfile, GatewayId, Installation, LocalDate, MeterId, MeterRecord, Mode, Money,
    MonthDay, OutboxId, Price, Role, Season, Switch, SystemTitle, TariffVersion, TokenDigits,
    TransformerId, UnixSeconds, Voltage,
};
use storage::registry::{
    Config, DeviceKeys, IssuedTokens, KeySetting, Limits, NewAccount, NewMeter, NewPurchase,
    NewSale, Refusal, Registry, SaleKind, SaleRow, SoldToken, TokenEntry, TokenIssuer, TokenMeter,
    TokenOrder,
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
    registry.sell(new.to_vec(), Arc::new(Numbers)).await.unwrap()
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
        let work = Box::pin(registry.sell(new.to_vec(), Arc::new(Numbers)));
        let seen = Dies { work, polls_left: polls }.await;
        let seen = seen.map(|rows| rows.unwrap().remove(0).unwrap());
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
        let issuer = Arc::new(Breaks(AtomicU32::new(tokens)));
        let sold = tokio::spawn(async move { registry.sell(new, issuer).await.map(drop) }).await;
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
    let plan = registry.plans(meter::PlanId(0), 1).await.unwrap()[0].id;
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
