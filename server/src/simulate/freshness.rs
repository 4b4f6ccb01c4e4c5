//! How fresh the API is: from the millisecond in which a reading was due at its meter until the API
//! tells it. A probe asks for the latest of one meter after another, from that moment on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use loadgen::World;
use loadgen::driver::due_ms;
use loadgen::fleet::{Fleet, Link, serial};
use meter::UnixSeconds;

use super::pause;
use crate::clock::Clock;
use crate::demo::client::Api;

/// Meters that the probe goes round, evenly over the fleet.
const METERS: usize = 256;
/// A reading that the API does not tell within this was lost on the way and will come again.
const PATIENCE_MS: u64 = 5_000;
/// Between two questions, and how much of the time so far it may be: asking is work for the node.
const AGAIN: Duration = Duration::from_millis(1);
const AGAIN_SHARE: u32 = 16;

/// The probe.
#[derive(Debug)]
pub(super) struct Freshness {
    us: Arc<Mutex<Histogram<u64>>>,
    stop: Arc<AtomicBool>,
}

/// A reading that will be due, by the time of day.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Expected {
    due_ms: u64,
    stamp: UnixSeconds,
    meter: u64,
}

impl Freshness {
    /// Starts the probe.
    ///
    /// # Errors
    /// The meters' ids cannot be listed.
    pub(super) async fn start(
        fleet: &Fleet,
        world: &World,
        api: &Api,
        (clock, smear_ms): (Clock, u16),
    ) -> anyhow::Result<Self> {
        let ids = api.ids("/v1/meters", "serial").await?;
        let direct = direct(fleet);
        let mut expected = Vec::new();
        for (place, ordinal) in direct.iter().step_by(direct.len().div_ceil(METERS).max(1)) {
            let meter = fleet.consumer(world, *ordinal);
            let delay = u32::from(meter.plan().send_delay_s);
            let Some(&id) = ids.get(&serial(*ordinal)) else { continue };
            let expect = |stamp: UnixSeconds| {
                let due_ms = due_ms(stamp.plus(delay), *place, smear_ms);
                Expected { due_ms, stamp, meter: id }
            };
            let told = meter.stamps().filter(|stamp| !meter.is_spike(*stamp));
            expected.extend(told.map(expect));
        }
        expected.sort_unstable();
        let us = Arc::new(Mutex::new(
            Histogram::new_with_bounds(1, 2 * PATIENCE_MS * 1000, 3)
                .expect("the bounds are in order"),
        ));
        let stop = Arc::new(AtomicBool::new(false));
        tokio::spawn(probe(expected, api.clone(), clock, Arc::clone(&us), Arc::clone(&stop)));
        Ok(Self { us, stop })
    }

    /// Stops the probe; from due to told, µs.
    pub(super) fn finish(&self) -> Histogram<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.us.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Consumers' meters that speak for themselves, each with its place among all such meters.
fn direct(fleet: &Fleet) -> Vec<(u32, u32)> {
    let (mut direct, mut place) = (Vec::new(), 0..);
    for unit in fleet.units() {
        let own = fleet.consumers(unit).filter(|meter| fleet.group(*meter).link == Link::Direct);
        direct.extend(own.zip(place.by_ref()).map(|(ordinal, place)| (place, ordinal)));
        // The transformer's.
        place.next();
    }
    direct
}

async fn probe(
    expected: Vec<Expected>,
    api: Api,
    clock: Clock,
    us: Arc<Mutex<Histogram<u64>>>,
    stop: Arc<AtomicBool>,
) {
    for Expected { due_ms, stamp, meter } in expected {
        // One at a time: what became due meanwhile is left out.
        if clock.now_ms() > due_ms {
            continue;
        }
        while clock.now_ms() < due_ms {
            pause(AGAIN).await;
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
        let overslept = clock.since_ms(due_ms);
        let began = crate::clock::instant();
        let is_told = loop {
            let latest = api.get(&format!("/v1/meters/{meter}/latest")).await;
            let taken_at =
                latest.ok().and_then(|latest| latest["taken_at"].as_str().map(str::to_owned));
            if taken_at.is_some_and(|at| at == stamp.to_string()) {
                break true;
            }
            let waited = began.elapsed();
            if waited > Duration::from_millis(PATIENCE_MS) || stop.load(Ordering::Relaxed) {
                break false;
            }
            pause(AGAIN.max(waited / AGAIN_SHARE)).await;
        };
        let took = overslept + began.elapsed();
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut us = us.lock().unwrap_or_else(PoisonError::into_inner);
        // What was not told in time counts with all its time.
        us.saturating_record(if is_told { took } else { PATIENCE_MS * 1000 });
    }
}
