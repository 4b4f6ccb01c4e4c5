//! A node small enough for a test.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use api::{
    ActiveAlarms, Applied, Board, BoxFuture, By, Config, GapPoint, History, Latest, Node,
    NotApplied, Part, PartState, Rows, Server, Standing, Version,
};
use meter::{
    AccountId, AlarmCode, AlarmRow, AlarmState, BalanceRow, Cause, Change, Energy, Fields,
    LedgerKind, LedgerRow, MeterId, ModeSwitch, Money, OutboxId, Reading, Relay, Seq, Severity,
    Subject, TransformerId, UnixSeconds, Voltage,
};
use storage::clickhouse::{
    AlarmPoint, IntervalPoint, LedgerPoint, LossPoint, PeriodPoint, ReadingPoint,
};
use storage::registry::{ApiRole, Registry};
use tokio::sync::watch;

use crate::client::{Call, Reply};

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_790_000_000); // 2026-09-21T14:13:20Z

/// A running API. Everything stops when it is dropped with its runtime.
pub(crate) struct TestNode {
    pub(crate) address: SocketAddr,
    pub(crate) admin: String,
    pub(crate) registry: Arc<Registry>,
    pub(crate) is_down: Arc<AtomicBool>,
    pub(crate) is_stuck: Arc<AtomicBool>,
    /// Purchases that reached the books.
    pub(crate) purchases: Arc<AtomicU32>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) server: tokio::task::JoinHandle<()>,
    folder: tempfile::TempDir,
}

/// Waits for the relay below.
struct Wait {
    applied: watch::Receiver<OutboxId>,
    is_stuck: Arc<AtomicBool>,
}

impl Applied for Wait {
    fn wait(&self, outbox: OutboxId) -> BoxFuture<'_, Result<(), NotApplied>> {
        let mut applied = self.applied.clone();
        Box::pin(async move {
            if self.is_stuck.load(Ordering::Relaxed) {
                return Err(NotApplied);
            }
            applied.wait_for(|through| *through >= outbox).await.map(drop).map_err(|_| NotApplied)
        })
    }
}

impl TestNode {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change).await
    }

    /// Stops the API and its registry, and starts both again on the same folder.
    pub(crate) async fn restart(self) -> Self {
        self.stop.send_replace(true);
        self.server.await.unwrap();
        self.registry.close().await;
        let node = Self::start_in(self.folder, |_| ()).await;
        Self { admin: self.admin, ..node }
    }

    async fn start_in(folder: tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let place = storage::registry::Config {
            path: folder.path().join("registry.sqlite"),
            master_key_path: folder.path().join("master.key"),
            readers: 4,
        };
        let registry = Arc::new(Registry::open(&place).await.unwrap());
        let first = registry.first_token(NOW).await.unwrap();
        let admin = first.map(|token| token.secret.clone()).unwrap_or_default();
        let is_down = Arc::new(AtomicBool::new(false));
        let is_stuck = Arc::new(AtomicBool::new(false));
        let purchases = Arc::new(AtomicU32::new(0));
        let (mut meters, meter_board) = Board::<Latest>::create(1000);
        meters.reading(&reading()).unwrap();
        let (accounts, account_board) = Board::<Standing>::create(1000);
        let alarms = Arc::new(ActiveAlarms::new(100));
        alarms.apply(&[alarm(1), alarm(2)]);
        let before = registry.sent_through().await.unwrap();
        let applied = relay(Arc::clone(&registry), before, accounts, Arc::clone(&purchases));
        let mut config = Config::standard(SocketAddr::from(([127, 0, 0, 1], 0)));
        change(&mut config);
        let down = Arc::clone(&is_down);
        let node = Node {
            registry: Arc::clone(&registry),
            meters: meter_board,
            accounts: account_board,
            alarms,
            applied: Arc::new(Wait { applied, is_stuck: Arc::clone(&is_stuck) }),
            history: Arc::new(Rows3),
            parts: Arc::new(move || vec![part(down.load(Ordering::Relaxed))]),
            metrics: Arc::new(|text| text.push_str("# TYPE node_up gauge\nnode_up 1\n")),
            clock: Arc::new(|| NOW),
            version: Version { product: "0.1.0", commit: "abc" },
        };
        let server = Server::bind(config, node).await.unwrap();
        let address = server.address();
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(server.run(stopped));
        Self { address, admin, registry, is_down, is_stuck, purchases, stop, server, folder }
    }

    pub(crate) async fn send(&self, call: Call) -> Reply {
        assert!(self.folder.path().exists(), "the node's folder outlives its calls");
        call.send(self.address).await
    }

    /// A call as administrator, with a JSON body unless it is empty.
    pub(crate) async fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        let call = Call::new(method, path).token(&self.admin);
        self.send(if body.is_empty() { call } else { call.json(body) }).await
    }

    pub(crate) async fn token(&self, role: ApiRole) -> String {
        self.registry.add_token("test", role, NOW).await.unwrap().secret.clone()
    }

    /// A customer, a plan with prices and an account with id 1.
    pub(crate) async fn with_account(&self) {
        for (path, body) in [
            ("/v1/customers", r#"{"code":"C1","name":"Li Wei"}"#),
            ("/v1/plans", r#"{"code":"home","currency":"CNY"}"#),
            ("/v1/plans/1/versions", VERSION),
            ("/v1/accounts", r#"{"code":"A1","customer":1,"plan":1,"zone":"Asia/Shanghai"}"#),
        ] {
            let reply = self.call("POST", path, body).await;
            assert_eq!(reply.status, 201, "{path}: {reply:?}");
        }
    }
}

pub(crate) const VERSION: &str = r#"{"valid_from":"2026-01-01","prices":["0.5283","0.3"],
    "seasons":[{"from":"01-01","to":"12-31","workday":[{"at":"00:00","rate":2},
    {"at":"07:00","rate":1},{"at":"22:15","rate":2}]}],
    "blocks":[{"from_kwh":0,"adder":"0"},{"from_kwh":200,"adder":"0.05"}],
    "standing_per_day":"0.1","tax_bp":600,"fee":"1"}"#;

fn part(is_down: bool) -> Part {
    let state = if is_down { PartState::Down } else { PartState::Ready };
    Part { name: "log", state, detail: "0 entries behind".to_owned() }
}

/// Takes outbox rows in order, as the log and the books would.
fn relay(
    registry: Arc<Registry>,
    before: OutboxId,
    mut accounts: api::BoardWriter<Standing>,
    purchases: Arc<AtomicU32>,
) -> watch::Receiver<OutboxId> {
    let (sender, applied) = watch::channel(before);
    let mut grown = registry.watch_outbox();
    let standing: Mutex<std::collections::BTreeMap<u32, Money>> = Mutex::default();
    tokio::spawn(async move {
        loop {
            let after = *sender.borrow();
            for row in registry.next_outbox(after, 64).await.unwrap() {
                for change in &row.changes {
                    let (account, amount) = if let Change::Purchase(purchase) = change {
                        purchases.fetch_add(1, Ordering::Relaxed);
                        (purchase.account, purchase.paid)
                    } else if let Change::Sale(sale) = change {
                        let is_paid =
                            sale.lines.iter().any(|line| line.kind == LedgerKind::Purchase);
                        purchases.fetch_add(u32::from(is_paid), Ordering::Relaxed);
                        let sum = sale.lines.iter().map(|line| line.amount.ticks()).sum();
                        (sale.account, Money::from_ticks(sum))
                    } else if let Change::Debt(debt) = change {
                        (debt.account, debt.amount)
                    } else if let Change::Switch(switch) = change {
                        // As if it were due, with the account 100.00 in arrears.
                        accounts.movement(&switched(switch)).unwrap();
                        continue;
                    } else if let Change::Adjust(adjustment) = change {
                        (adjustment.account, adjustment.amount)
                    } else {
                        continue;
                    };
                    let mut standing = standing.lock().unwrap();
                    let balance = standing.entry(account.0).or_default();
                    *balance = balance.plus(amount).unwrap();
                    let (balance, as_of) = (*balance, UnixSeconds(0));
                    let (meter, seq) = (MeterId(1), Seq(row.id.0));
                    let complete_through = as_of;
                    let row = BalanceRow { account, meter, balance, as_of, complete_through, seq };
                    accounts.balance(&row).unwrap();
                }
                registry.mark_sent(row.id).await.unwrap();
                sender.send_replace(row.id);
            }
            if *sender.borrow() == after && grown.changed().await.is_err() {
                return;
            }
        }
    });
    applied
}

fn switched(switch: &ModeSwitch) -> LedgerRow {
    LedgerRow {
        account: switch.account,
        number: 1,
        kind: LedgerKind::DebtAgreed,
        amount: Money::from_ticks(1_000_000_000),
        balance: Money::ZERO,
        at: switch.at,
        cause: Cause::Period(switch.at),
        seq: Seq(1),
    }
}

fn reading() -> Reading {
    Reading {
        meter: MeterId(1),
        taken_at: NOW.minus(60),
        received_at: NOW,
        register: Energy::from_wh(123_456),
        voltage: [Voltage::from_mv(231_100), Voltage::default(), Voltage::default()],
        fields: Fields::VOLTAGE[0].with(Fields::RELAY),
        ..Reading::default()
    }
}

fn alarm(meter: u32) -> AlarmRow {
    assert_eq!(reading().relay(), Some(Relay::Closed));
    AlarmRow {
        subject: Subject::Meter(MeterId(meter)),
        code: AlarmCode::OverVoltage,
        severity: Severity::Warning,
        state: AlarmState::Raised,
        at: NOW,
        value: 260_000,
        seq: Seq(u64::from(meter)),
    }
}

/// A store of history that holds three rows of each kind, 900 s apart, and honours its arguments.
struct Rows3;

const STARTS: [u32; 3] = [NOW.0 - 2_000, NOW.0 - 1_100, NOW.0 - 200];

fn within<'a, T: Send + 'a>(
    from: UnixSeconds,
    to: UnixSeconds,
    rows_max: u32,
    make: impl Fn(u32) -> T,
) -> Rows<'a, T> {
    let starts = STARTS.into_iter().filter(|start| (from.0..to.0).contains(start));
    let rows = starts.take(usize::try_from(rows_max).unwrap()).map(make).collect();
    Box::pin(async move { Ok(rows) })
}

impl History for Rows3 {
    fn intervals(
        &self,
        _: MeterId,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Rows<'_, IntervalPoint> {
        within(from, to, rows_max, |start| IntervalPoint {
            start,
            account_id: 1,
            energy_wh: 100,
            register_wh: 1000,
            cost_ticks: 528_300,
            rate: 1,
            quality: 1,
            samples: 1,
            voltage_mv: (230_000, 229_000, 231_000),
            current_ma: (1, 1, 1),
            power_w: (-5, -6, -4),
            power_factor_milli: (990, 990, 990),
        })
    }

    fn periods<'a>(
        &'a self,
        _: MeterId,
        _: By,
        from: UnixSeconds,
        to: UnixSeconds,
        zone: &'a str,
    ) -> Rows<'a, PeriodPoint> {
        assert_eq!(zone, "Asia/Shanghai");
        within(from, to, 3, |start| PeriodPoint {
            first_day: u16::try_from(start / 86_400).unwrap(),
            energy_wh: 100,
            cost_ticks: 528_300,
            register_wh: 1000,
            power_max_w: 400,
            intervals: 96,
            intervals_actual: 95,
        })
    }

    fn readings(
        &self,
        _: MeterId,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Rows<'_, ReadingPoint> {
        within(from, to, rows_max, |taken_at| ReadingPoint {
            meter_id: 1,
            taken_at,
            seq: u64::from(taken_at - STARTS[0]) + 7,
            received_at: taken_at,
            counter: 0,
            register_wh: 99,
            rates_wh: (0, 0, 0, 0),
            voltage_mv: (0, 0, 0),
            current_ma: (0, 0, 0),
            power_w: 0,
            reactive_var: 0,
            frequency_mhz: 0,
            power_factor_milli: 0,
            fields: 0,
            outcome: if taken_at == STARTS[0] { 3 } else { 1 },
            reason: if taken_at == STARTS[0] { 8 } else { 0 },
        })
    }

    fn ledger(&self, _: AccountId, after: u64, rows_max: u32) -> Rows<'_, LedgerPoint> {
        let point = |number: u64| LedgerPoint {
            number,
            at: NOW.0,
            kind: 1,
            amount_ticks: -5,
            balance_ticks: -5,
            cause: u8::try_from(number).unwrap(),
            cause_meter_id: 1,
            cause_from: 1,
            cause_to: 2,
            cause_id: 3,
            seq: 4,
        };
        let rows = (after + 1..=4).take(usize::try_from(rows_max).unwrap()).map(point).collect();
        Box::pin(async move { Ok(rows) })
    }

    fn alarms(
        &self,
        _: Option<Subject>,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Rows<'_, AlarmPoint> {
        // Five alarms at one instant, newest log position first.
        let point = |seq| AlarmPoint {
            subject: 1,
            subject_id: 1,
            at: NOW.0 - 100,
            code: 1,
            severity: 2,
            state: 1,
            value: 0,
            seq,
        };
        let is_within = (from.0..to.0).contains(&(NOW.0 - 100));
        let rows = (1..=5).rev().filter(|_| is_within);
        let rows = rows.take(usize::try_from(rows_max).unwrap()).map(point).collect();
        Box::pin(async move { Ok(rows) })
    }

    fn losses(
        &self,
        _: TransformerId,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Rows<'_, LossPoint> {
        within(from, to, rows_max, |start| LossPoint {
            start,
            supply_wh: 1000,
            delivered_wh: 950,
            expected: 3,
            actual: 3,
        })
    }

    fn gaps(&self, _: MeterId, after: UnixSeconds, rows_max: u32) -> Rows<'_, GapPoint> {
        within(after.plus(1), UnixSeconds(u32::MAX), rows_max, |from| GapPoint {
            from,
            to: 0,
            missing: 4,
            state: 1,
        })
    }
}
