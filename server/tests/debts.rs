//! A debt at the counter and in the books: what the registry takes of a sale and what the books take
//! of a top-up follow one rule, whatever is taken back and in whichever month. So do the fees of an
//! account that changes its plan.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use meter::{
    AccountId, Ask, Block, BlockPeriod, Change, CurrencyCode, CustomerId, DayProfile,
    DebtAgreement, Entry, LedgerKind, LocalDate, Mode, Money, MonthDay, OutboxId, PlanChange,
    PlanId, Price, Season, Switch, TariffVersion, UnixSeconds,
};
use server::cli::Verify;
use server::config::Settings;
use server::verify::{Verdict, verify};
use storage::log::{Config, Directory, Durability, NewBatch, SegmentLog, Urgency, WritePath};
use storage::registry::{
    self, IssuedTokens, Limits, NewAccount, NewPurchase, NewSale, Refusal, Registry, SaleKind,
    TokenIssuer, TokenOrder,
};
use tokio::runtime::Runtime;

const ID: AccountId = AccountId(1);
/// Noon of 2026-09-30, UTC; October is half a day away.
const NOON: UnixSeconds = UnixSeconds(1_790_769_600);
const NEXT_DAY: UnixSeconds = NOON.plus(20 * 3600);

const fn units(count: i64) -> Money {
    Money::from_ticks(count * 100 * Money::TICKS_PER_CENT)
}

/// The account has no token meter.
struct NoTokens;

impl TokenIssuer for NoTokens {
    fn issue(&self, _: &TokenOrder<'_>) -> Result<IssuedTokens, Refusal> {
        unreachable!("money is sold")
    }
}

fn tariff(plan: PlanId, currency: CurrencyCode) -> TariffVersion {
    let all_day = DayProfile(vec![Switch { quarter: 0, rate: 1 }]);
    let season = Season {
        from: MonthDay { month: 1, day: 1 },
        to: MonthDay { month: 12, day: 31 },
        workday: all_day.clone(),
        weekend: all_day.clone(),
        holiday: all_day,
    };
    TariffVersion {
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
    }
}

/// A registry with an account that owes 100, of which a fifth of each purchase and 30 a month are
/// taken.
async fn owing(folder: &Path) -> Arc<Registry> {
    let config = registry::Config {
        path: folder.join("registry.sqlite"),
        master_key_path: folder.join("master.key"),
        readers: 1,
    };
    let registry = Arc::new(Registry::open(&config).await.unwrap());
    registry.add_customer("C-1", "Li Wei", "").await.unwrap();
    let currency = CurrencyCode::parse("CNY").unwrap();
    let plan = registry.add_plan("flat", "", currency).await.unwrap().id;
    registry.add_version(&tariff(plan, currency), NOON).await.unwrap();
    let account = NewAccount {
        code: "A-1".to_owned(),
        customer: CustomerId(1),
        plan,
        zone: "UTC".to_owned(),
        mode: Mode::Prepaid,
        limits: Limits { overdraft: Money::ZERO, low_levels: [Money::ZERO; 2] },
    };
    registry.add_account(&account).await.unwrap();
    let debt = DebtAgreement {
        account: ID,
        amount: units(100),
        share_bp: 2000,
        cap: units(30),
        at: NOON.minus(3600),
        reason: "arrears".to_owned(),
    };
    registry.act(Change::Debt(debt), NOON.minus(3600), 1).await.unwrap();
    registry
}

/// What is done, in its turn.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Sell(&'static str, i64),
    Reverse(&'static str),
    TopUp(&'static str, i64),
    /// Another plan from the midnight between the days; it has a fee of 1.
    Plan,
}

async fn tell(registry: &Arc<Registry>, at: UnixSeconds, deed: Deed) {
    let body_hash = [0; 32];
    match deed {
        Deed::Sell(key, paid) => {
            let sale = NewSale {
                key: key.to_owned(),
                body_hash,
                kind: SaleKind::Purchase,
                account: ID,
                ask: Ask::Money(units(paid)),
                currency: None,
                reason: String::new(),
                rnd: 0,
                at,
                actor: 1,
            };
            let till = Arc::clone(registry);
            let selling = tokio::task::spawn_blocking(move || till.sell(&[sale], &NoTokens));
            let sold = selling.await.unwrap();
            sold.unwrap().remove(0).unwrap();
        }
        Deed::Reverse(key) => {
            registry.reverse_sale(key, "a mistake", 1, at).await.unwrap();
        }
        Deed::TopUp(key, paid) => {
            let (key, paid) = (key.to_owned(), units(paid));
            let new =
                NewPurchase { key, body_hash, account: ID, paid, currency: None, at, actor: 1 };
            registry.purchase(&new).await.unwrap();
        }
        Deed::Plan => {
            let currency = CurrencyCode::parse("CNY").unwrap();
            let plan = registry.add_plan("with a fee", "", currency).await.unwrap().id;
            let version = TariffVersion { fee: units(1), ..tariff(plan, currency) };
            registry.add_version(&version, at).await.unwrap();
            let midnight = UnixSeconds(NOON.0 + 43_200);
            let change = Change::Plan(PlanChange { account: ID, plan, at: midnight });
            registry.act(change, at, 1).await.unwrap();
        }
    }
}

/// The log as the node would have it: the rows of the outbox, each durable.
async fn log_of(registry: &Registry, folder: &Path) {
    let disk = Directory::open(&folder.join("log"), WritePath::Buffered).unwrap();
    let config = Config {
        segment_size_bytes: 1 << 20,
        reserve_segments: 1,
        spares_max: 1,
        durability: Durability::Synced,
        node: 1,
        epoch: 1,
    };
    let (mut log, _) = SegmentLog::open(Arc::new(disk), config, 0).unwrap();
    let mut after = OutboxId(0);
    loop {
        let rows = registry.next_outbox(after, 100).await.unwrap();
        let Some(last) = rows.last() else { break };
        after = last.id;
        for row in rows {
            let mut payload = Vec::new();
            Entry::Changes { outbox: row.id, changes: row.changes }.encode(&mut payload);
            let (count, urgency) = (1, Urgency::Urgent);
            let batch = NewBatch { count, payload: &payload, kind: 1, slot_group: 0, urgency };
            log.append(batch).unwrap();
            log.commit().unwrap();
        }
    }
}

/// Tells the deeds, and what `meterd verify` says of them.
fn verified(deeds: &[(UnixSeconds, Deed)]) -> (Verdict, i64) {
    let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let left = runtime.block_on(async {
        let registry = owing(folder.path()).await;
        for (at, deed) in deeds {
            tell(&registry, *at, *deed).await;
        }
        log_of(&registry, folder.path()).await;
        let debts = registry.debts(ID, 0, 10).await.unwrap();
        debts.iter().map(|debt| debt.left.ticks()).sum()
    });
    let mut settings = Settings::from_parts("", "test", std::iter::empty()).unwrap();
    settings.node.data_dir = folder.path().to_owned();
    let options = Verify { config: None, data_dir: None, without_clickhouse: true, workers: 1 };
    (verify(&settings, &options, &runtime).unwrap(), left)
}

#[test]
fn the_registry_and_the_books_leave_the_same_debt() {
    use Deed::{Reverse, Sell, TopUp};
    let check = |deeds: &[(UnixSeconds, Deed)], want: i64| {
        let (verdict, left) = verified(deeds);
        assert!(verdict.holds(), "{deeds:?}\n{verdict}");
        assert_eq!(left, units(want).ticks(), "{deeds:?}\n{verdict}");
        let account = verdict.replayed.tally.account(ID).unwrap();
        let recovered = account.kind(LedgerKind::DebtRecovery).1;
        assert_eq!(recovered, units(want - 100).ticks(), "{deeds:?}");
    };
    let (first, second) = (NOON, NEXT_DAY);
    // Of 500 a fifth is 100: the cap of the month decides.
    check(&[(first, Sell("a", 50)), (first, Reverse("a")), (first, TopUp("b", 500))], 70);
    // The month of the reversal may take no more than its cap, whatever came back in it.
    check(&[(first, Sell("a", 50)), (second, Reverse("a")), (second, TopUp("b", 500))], 70);
    check(&[(first, Sell("a", 50)), (second, Reverse("a")), (second, Sell("b", 500))], 70);
    let reversed_between = [
        (first, Sell("a", 100)),
        (second, TopUp("b", 50)),
        (second, Reverse("a")),
        (second, TopUp("c", 500)),
        (second, Sell("d", 500)),
    ];
    check(&reversed_between, 70);
    // A later sale goes first.
    let one_after_another = [
        (first, Sell("a", 100)),
        (second, Sell("b", 100)),
        (second, Reverse("b")),
        (second, Reverse("a")),
        (second, TopUp("c", 500)),
    ];
    check(&one_after_another, 70);
}

/// Sold or topped up, before or after the midnight: registry and books know of one plan at a time.
#[test]
fn a_change_of_plan_takes_its_fee_from_its_day_on() {
    use Deed::{Plan, Reverse, Sell, TopUp};
    let (first, second) = (NOON, NEXT_DAY);
    let deeds = [
        (first, Plan),
        (first, Sell("a", 50)),
        (first, TopUp("b", 50)),
        (second, TopUp("c", 50)),
        (second, Sell("d", 50)),
        (second, Sell("e", 50)),
        (second, Reverse("e")),
    ];
    let (verdict, left) = verified(&deeds);
    assert!(verdict.holds(), "{verdict}");
    let account = verdict.replayed.tally.account(ID).unwrap();
    assert_eq!(account.kind(LedgerKind::Fee).1, units(-2).ticks(), "of c and d: {verdict}");
    assert_eq!(left, units(60).ticks(), "a fifth of each of a to d");
}
