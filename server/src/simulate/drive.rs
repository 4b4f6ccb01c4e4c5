//! The fleet on a thread of its own, and the purchases beside it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use loadgen::World;
use loadgen::driver::DriverConfig;
use loadgen::faults::FaultPlan;
use loadgen::fleet::{Fleet, FleetRun, account_code};
use loadgen::report::{Report, Stats};
use meter::{Money, UnixSeconds};

use super::target::Target;
use super::{FaultOptions, ShapeName, Simulate, pause, say, swaps};
use crate::clock::{self, Clock};
use crate::demo::client::Api;
use crate::http::HttpError;

/// How long the last readings may take after the run.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);
/// How long a step waits for the sockets.
const WAIT: Duration = Duration::from_millis(1);
/// Between two tries of a purchase.
pub(super) const RETRY: Duration = Duration::from_millis(50);
/// Between two looks of the watch at the counters.
const LOOK: Duration = Duration::from_millis(250);

/// The generator's counters as they stood a moment ago.
#[derive(Clone, Debug)]
pub(super) struct Shot {
    pub(super) report: Report,
    pub(super) latency: hdrhistogram::Histogram<u64>,
    pub(super) links: (usize, usize),
}

impl Shot {
    fn of(run: &FleetRun) -> Self {
        let mut latency = Stats::new(0).latency;
        for stats in run.stats() {
            latency.add(&stats.latency).expect("all histograms have the same bounds");
        }
        Self { report: run.report(), latency, links: run.links() }
    }
}

/// The fleet on its way.
#[derive(Debug)]
pub(super) struct Drive {
    thread: JoinHandle<io::Result<Shot>>,
    latest: Arc<Mutex<Shot>>,
    cut: Arc<AtomicBool>,
    purchases: tokio::task::JoinHandle<anyhow::Result<()>>,
    bought: Arc<AtomicU64>,
    swaps: tokio::task::JoinHandle<anyhow::Result<usize>>,
}

impl Drive {
    /// Makes the devices and lets them go.
    ///
    /// # Errors
    /// Sockets that do not open, accounts that cannot be listed.
    pub(super) async fn start(
        fleet: &Fleet,
        world: World,
        target: &Target,
        options: &Simulate,
    ) -> anyhow::Result<Self> {
        let (clocks, config) = (target.clocks(), config(options));
        let mut run = FleetRun::new(fleet, world, target.ways, config, clocks)
            .context("cannot open the meters' sockets; try several processes with --part")?;
        let lead = target.lead(fleet.span().first);
        let limit = lead + Duration::from_secs(u64::from(options.seconds)) + PATIENCE;
        let (latest, cut) =
            (Arc::new(Mutex::new(Shot::of(&run))), Arc::new(AtomicBool::new(false)));
        let (shown, told) = (Arc::clone(&latest), Arc::clone(&cut));
        let work = move || {
            let began = clock::instant();
            let mut looked = began;
            while !run.is_done() && began.elapsed() < limit {
                run.step(WAIT)?;
                // Relaxed: the order against other memory does not matter.
                if told.swap(false, Ordering::Relaxed) {
                    run.cut();
                }
                let now = clock::instant();
                if now.duration_since(looked) >= LOOK {
                    looked = now;
                    *shown.lock().unwrap_or_else(PoisonError::into_inner) = Shot::of(&run);
                }
            }
            Ok(Shot::of(&run))
        };
        let thread = std::thread::Builder::new().name("simulator".to_owned()).spawn(work)?;
        let bought = Arc::new(AtomicU64::new(0));
        let orders = orders(fleet, &target.api).await?;
        let count = Arc::clone(&bought);
        let purchases = tokio::spawn(buy(orders, target.api.clone(), target.clock, count));
        let swaps = swaps::planned(fleet, &world, &target.api).await?;
        let swaps = tokio::spawn(swaps::tell(swaps, target.api.clone(), target.clock));
        Ok(Self { thread, latest, cut, purchases, bought, swaps })
    }

    /// The counters of a moment ago.
    pub(super) fn shot(&self) -> Shot {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Breaks every connection of the gateways.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Purchases made so far.
    pub(super) fn bought(&self) -> u64 {
        self.bought.load(Ordering::Relaxed)
    }

    /// Whether every reading is confirmed, or time is over.
    pub(super) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// The last counters, when all purchases and swaps are made too.
    ///
    /// # Errors
    /// Polling failed, or the purchases or swaps do not end.
    pub(super) async fn finish(self) -> anyhow::Result<Shot> {
        self.purchases.await??;
        let swapped = self.swaps.await??;
        if swapped > 0 {
            say(&format!("{swapped} meters gave way to others"));
        }
        let join = tokio::task::spawn_blocking(move || self.thread.join());
        join.await?.map_err(|_| anyhow!("the simulator broke"))?.context("polling failed")
    }
}

/// A purchase to be made.
struct Order {
    at: UnixSeconds,
    account: u64,
    key: String,
    paid: Money,
}

async fn orders(fleet: &Fleet, api: &Api) -> anyhow::Result<Vec<Order>> {
    let ordinals = fleet.units().flat_map(|unit| fleet.consumers(unit));
    let wanted: BTreeMap<String, (u32, UnixSeconds, Money)> = ordinals
        .filter_map(|ordinal| {
            let (at, paid) = fleet.purchase(ordinal)?;
            Some((account_code(ordinal), (ordinal, at, paid)))
        })
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let ids = api.ids("/v1/accounts", "code").await?;
    let order = |(code, &(ordinal, at, paid)): (&String, &(u32, UnixSeconds, Money))| {
        let key = format!("sim-{}-{}-{ordinal}", fleet.seed().0, fleet.span().first.0);
        let account = *ids.get(code).with_context(|| format!("no account {code}"))?;
        Ok(Order { at, account, key, paid })
    };
    let mut orders = wanted.iter().map(order).collect::<anyhow::Result<Vec<Order>>>()?;
    orders.sort_by_key(|order| order.at);
    Ok(orders)
}

/// Makes the purchases when they are due.
///
/// # Errors
/// The node refuses one, or does not take it for [`PATIENCE`].
async fn buy(
    orders: Vec<Order>,
    api: Api,
    clock: Clock,
    bought: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    for order in orders {
        while clock.now() < order.at {
            pause(RETRY).await;
        }
        pay(&order, &api).await.with_context(|| format!("the purchase {}", order.key))?;
        bought.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Makes one purchase. While the node is away it is asked for again, under the same key.
async fn pay(order: &Order, api: &Api) -> Result<(), HttpError> {
    let began = clock::instant();
    loop {
        match api.top_up(order.account, &order.key, &order.paid.to_decimal()).await {
            Ok(_) => return Ok(()),
            Err(refused @ HttpError::Status { status: ..500, .. }) => return Err(refused),
            Err(late) if began.elapsed() > PATIENCE => return Err(late),
            Err(_) => pause(RETRY).await,
        }
    }
}

/// Over how many milliseconds of a second the meters that are due in it spread.
pub(super) fn smear_ms(options: &Simulate) -> u16 {
    if options.shape == ShapeName::Aligned { 0 } else { 1000 }
}

fn config(options: &Simulate) -> DriverConfig {
    let FaultOptions { loss, duplicate, .. } = options.faults;
    DriverConfig {
        node: ([127, 0, 0, 1], 0).into(),
        sockets: 64,
        receive_buffer_bytes: 4 << 20,
        faults_up: options.faults.plan(),
        faults_down: FaultPlan { loss, duplication: duplicate, ..FaultPlan::default() },
        smear_ms: smear_ms(options),
        reconnect: Duration::from_millis(50),
    }
}
