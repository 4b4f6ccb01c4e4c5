//! Orders on their whole way but the wire: registry and outbox, the books, the dispatcher, and a
//! relay that loses its first order. An account is cut off, pays and is restored; after a restart
//! the order under way goes on; nothing is carried twice.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::BoxFuture;
use dataflow::Engine;
use meter::{
    AccountId, Adjustment, Block, BlockPeriod, CurrencyCode, Current, DayProfile, Effects, Energy,
    Entry, GatewayId, Installation, LocalDate, MeterId, MeterRecord, Mode, Money, MonthDay,
    OrderId, OrderKind, OrderNews, OrderRow, OrderState, OutboxId, PlanId, Price, Reading, Relay,
    Role, Season, Seq, SupplyPolicy, Switch, SystemTitle, TariffVersion, TransformerId,
    UnixSeconds, Voltage,
};
use server::orders::{self, Relays};
use storage::registry::{Config, DeviceKeys, Limits, NewAccount, NewMeter, Registry};
use tokio::sync::mpsc;

use OrderState::{Decided, Done, Sent};

/// 2026-11-02T00:00:00Z.
const START: UnixSeconds = UnixSeconds(1_793_577_600);

/// A meter's relay: what it was told, by order and attempt. The first attempt of all is lost.
#[derive(Debug, Default)]
struct OneRelay {
    carried: Mutex<BTreeMap<(OrderId, u8), u32>>,
}

impl Relays for OneRelay {
    fn carry(&self, order: OrderRow) -> BoxFuture<'static, OrderNews> {
        let mut carried = self.carried.lock().unwrap();
        let is_first = carried.is_empty();
        *carried.entry((order.order, order.attempt)).or_default() += 1;
        let relay = match order.kind {
            OrderKind::Disconnect => Relay::Open,
            OrderKind::Reconnect => Relay::Closed,
        };
        let news = if is_first { OrderNews::Silent } else { OrderNews::Read(relay) };
        Box::pin(async move { news })
    }

    fn call_back(&self, _: OrderRow) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

/// The books behind the outbox, and the dispatcher beside them.
struct Node {
    registry: Arc<Registry>,
    engine: Engine,
    next: u64,
    outbox: OutboxId,
    tell: mpsc::UnboundedSender<OrderRow>,
    relay: Arc<OneRelay>,
}

impl Node {
    async fn start(folder: &Path) -> Self {
        let config = Config {
            path: folder.join("registry.sqlite"),
            master_key_path: folder.join("master.key"),
            readers: 2,
        };
        let registry = Arc::new(Registry::open(&config).await.unwrap());
        let engine = Engine::start(&dataflow::Config { workers: 1 }, None).unwrap();
        let (tell, _) = mpsc::unbounded_channel();
        let (next, outbox, relay) = (1, OutboxId(0), Arc::default());
        Self { registry, engine, next, outbox, tell, relay }
    }

    fn dispatch(&mut self) -> tokio::task::JoinHandle<()> {
        let (tell, told) = mpsc::unbounded_channel();
        self.tell = tell;
        let relay = Arc::clone(&self.relay);
        let relays: Arc<dyn Relays> = relay;
        // Each look at the clock takes a second.
        let seconds = AtomicU32::new(0);
        let now: server::clock::Now =
            Arc::new(move || START.plus(seconds.fetch_add(1, Ordering::Relaxed)));
        tokio::spawn(orders::run(told, Arc::clone(&self.registry), relays, now))
    }

    fn feed(&mut self, entries: Vec<Entry>) -> Vec<OrderRow> {
        let mut effects = Effects::default();
        let count = entries.len() as u64;
        self.engine.process(Seq(self.next), &Arc::new(entries), &mut effects).unwrap();
        self.next += count;
        for row in &effects.orders {
            self.tell.send(*row).ok();
        }
        effects.orders
    }

    /// Takes outbox rows in until an order stands so.
    async fn until(&mut self, number: u32, state: OrderState) {
        let id = OrderId::new(AccountId(1), number);
        let turns = async {
            loop {
                self.relay_outbox().await;
                let steps = self.registry.order_steps(id).await.unwrap_or_default();
                if steps.last().is_some_and(|row| row.state == state) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), turns).await.unwrap();
    }

    async fn relay_outbox(&mut self) {
        for row in self.registry.next_outbox(self.outbox, 64).await.unwrap() {
            self.outbox = row.id;
            self.feed(vec![Entry::Changes { outbox: row.id, changes: row.changes }]);
        }
    }
}

fn version() -> TariffVersion {
    let day = DayProfile(vec![Switch { quarter: 0, rate: 1 }]);
    TariffVersion {
        plan: PlanId(1),
        valid_from: LocalDate::parse("2026-01-01").unwrap(),
        currency: CurrencyCode::parse("CNY").unwrap(),
        prices: vec![Price::from_e4(5000)],
        seasons: vec![Season {
            from: MonthDay { month: 1, day: 1 },
            to: MonthDay { month: 12, day: 31 },
            workday: day.clone(),
            weekend: day.clone(),
            holiday: day,
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

async fn register(registry: &Registry) {
    let customer = registry.add_customer("C1", "Li Wei", "").await.unwrap().id;
    let plan = registry.add_plan("home", "", CurrencyCode::parse("CNY").unwrap()).await.unwrap().id;
    registry.add_version(&version(), START).await.unwrap();
    let limits = Limits { overdraft: Money::ZERO, low_levels: [Money::ZERO; 2] };
    let (code, zone, mode) = ("A1".to_owned(), "UTC".to_owned(), Mode::Prepaid);
    let new = NewAccount { code, customer, plan, zone, mode, limits };
    registry.add_account(&new).await.unwrap();
    let record = MeterRecord {
        meter: MeterId::NONE,
        role: Role::Consumer,
        transformer: TransformerId::NONE,
        gateway: GatewayId::NONE,
        current_max: Current::from_ma(60_000),
        voltage_nominal: Voltage::from_mv(230_000),
        phases: 1,
        register_digits: 6,
        period_s: 900,
    };
    let keys = DeviceKeys { encryption: [1; 16], authentication: [2; 16] };
    let new = NewMeter {
        serial: "1".to_owned(),
        title: SystemTitle(*b"MTD00001"),
        model: "m".to_owned(),
        template: "obis".to_owned(),
        record,
        keys,
    };
    registry.add_meter(&new).await.unwrap();
    let (meter, account, start) = (MeterId(1), AccountId(1), Some(Energy::from_wh(0)));
    registry.install(Installation { meter, account, at: START, start }).await.unwrap();
    let policy = SupplyPolicy { is_cutting: true, retry_s: 1, ..SupplyPolicy::standard() };
    registry.set_supply_policy(SupplyPolicy { stagger_s: 0, ..policy }).await.unwrap();
    adjust(registry, 1000).await;
}

async fn adjust(registry: &Registry, ticks: i64) {
    let (account, amount, reason) = (AccountId(1), Money::from_ticks(ticks), "test".to_owned());
    registry.adjust(&Adjustment { account, amount, at: START, reason }, 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_paid_and_restored_over_a_lost_order_and_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(folder.path()).await;
    register(&node.registry).await;
    node.relay_outbox().await;
    let dispatcher = node.dispatch();
    node.feed(vec![Entry::Tick(START), reading(1)]);
    node.until(1, Done).await;
    let steps = node.registry.order_steps(OrderId::new(AccountId(1), 1)).await.unwrap();
    let states: Vec<_> = steps.iter().map(|row| (row.state, row.attempt)).collect();
    let want = [(Decided, 0), (Sent, 1), (Decided, 1), (Sent, 2), (Done, 2)];
    assert_eq!(states, want, "the first attempt was lost");
    adjust(&node.registry, 1_000_000).await;
    node.until(2, Done).await;
    let open = node.registry.orders(AccountId(1), true, OrderId::NONE, 9).await.unwrap();
    assert_eq!(open, [], "none is under way");
    // The dispatcher dies with an order kept and its turn not told; the next one takes it up.
    dispatcher.abort();
    dispatcher.await.unwrap_err();
    let rows = node.feed(vec![reading(2), reading(3)]);
    node.registry.keep_orders(&rows).await.unwrap();
    node.registry.keep_orders(&rows).await.unwrap();
    node.dispatch();
    node.until(3, Done).await;
    let carried = node.relay.carried.lock().unwrap();
    let counts: Vec<_> = carried.iter().map(|((id, n), count)| (id.number(), *n, *count)).collect();
    assert_eq!(counts, [(1, 1, 1), (1, 2, 1), (2, 1, 1), (3, 1, 1)], "nothing is carried twice");
}

fn reading(n: u32) -> Entry {
    let taken_at = START.plus(900 * n);
    Entry::Reading(Reading {
        meter: MeterId(1),
        taken_at,
        received_at: taken_at,
        register: Energy::from_wh(u64::from(n) * 100),
        ..Reading::default()
    })
}
