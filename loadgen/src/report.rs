//! What a run did: counters and latencies, and a report that merges those of several drivers.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::device::Sent;
use crate::faults::FaultCounts;

/// What one driver did so far.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Readings that its meters take from first to last.
    pub expected: u64,
    /// Frames sent, repetitions included.
    pub frames_sent: u64,
    /// Readings in them, repetitions included.
    pub rows_sent: u64,
    /// Frames that repeated earlier ones.
    pub retries: u64,
    /// Bytes that the sockets took.
    pub bytes_sent: u64,
    /// Frames that came back.
    pub frames_received: u64,
    /// Readings confirmed, each once.
    pub acknowledged: u64,
    /// Confirmations of what was confirmed before.
    pub repeated: u64,
    /// Requests of commands.
    pub asked: u64,
    /// Frames that were no confirmation for anybody.
    pub foreign: u64,
    /// Connections opened.
    pub connects: u64,
    /// Connections that broke.
    pub disconnects: u64,
    /// Times a socket's send buffer was full.
    pub send_blocked: u64,
    /// Errors of datagram sockets, such as a node that is away.
    pub socket_errors: u64,
    /// Times that a device's reading was due by the time of day.
    pub scheduled: u64,
    /// Of these, polled more than 20 ms late: the generator's own lateness.
    pub late: u64,
    /// The latest.
    pub late_most: Duration,
    /// From when a reading was due to its confirmation, µs.
    pub latency: Histogram<u64>,
}

/// A report of a run, in plain numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The seed that makes the run again.
    pub seed: u64,
    /// Readings that the meters take.
    pub expected: u64,
    /// Readings confirmed.
    pub acknowledged: u64,
    /// Frames sent.
    pub frames_sent: u64,
    /// Of these, repetitions.
    pub retries: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Confirmations that came twice.
    pub repeated: u64,
    /// Frames received that were no confirmation for anybody.
    pub foreign: u64,
    /// Connections opened.
    pub connects: u64,
    /// Connections that broke.
    pub disconnects: u64,
    /// Readings due, the generator's sends that were late by more than 20 ms, and the latest in ms.
    pub scheduled: u64,
    /// See `scheduled`.
    pub late: u64,
    /// See `scheduled`.
    pub late_most_ms: u64,
    /// From when a reading was due to its confirmation.
    pub latency: Percentiles,
    /// Faults on the way to the node.
    pub faults_up: FaultCounts,
    /// Faults on the way back.
    pub faults_down: FaultCounts,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half are faster.
    pub p50_us: u64,
    /// 90 % are faster.
    pub p90_us: u64,
    /// 99 % are faster.
    pub p99_us: u64,
    /// 99.9 % are faster.
    pub p999_us: u64,
    /// The slowest.
    pub max_us: u64,
}

/// Longest latency told apart: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

impl Stats {
    /// Nothing done; `expected` readings are to come.
    #[must_use]
    pub fn new(expected: u64) -> Self {
        Self {
            expected,
            frames_sent: 0,
            rows_sent: 0,
            retries: 0,
            bytes_sent: 0,
            frames_received: 0,
            acknowledged: 0,
            repeated: 0,
            asked: 0,
            foreign: 0,
            connects: 0,
            disconnects: 0,
            send_blocked: 0,
            socket_errors: 0,
            scheduled: 0,
            late: 0,
            late_most: Duration::ZERO,
            latency: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
                .expect("the bounds are in order"),
        }
    }

    /// Whether all readings are confirmed.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.acknowledged >= self.expected
    }

    pub(crate) fn count(&mut self, sent: &Sent<'_>) {
        self.frames_sent += 1;
        self.rows_sent += u64::from(sent.rows);
        self.retries += u64::from(sent.is_retry);
    }
}

impl Percentiles {
    /// Those of a histogram of microseconds.
    #[must_use]
    pub fn of(latency: &Histogram<u64>) -> Self {
        Self {
            p50_us: latency.value_at_quantile(0.5),
            p90_us: latency.value_at_quantile(0.9),
            p99_us: latency.value_at_quantile(0.99),
            p999_us: latency.value_at_quantile(0.999),
            max_us: latency.max(),
        }
    }
}

impl Report {
    /// The report of several drivers' work; the faults are those of each driver's two directions.
    #[must_use]
    pub fn new(seed: u64, stats: &[&Stats], faults: &[[FaultCounts; 2]]) -> Self {
        let sum = |count: fn(&Stats) -> u64| stats.iter().map(|stats| count(stats)).sum();
        let mut latency = Stats::new(0).latency;
        for stats in stats {
            latency.add(&stats.latency).expect("all histograms have the same bounds");
        }
        let direction = |index: usize| {
            faults.iter().fold(FaultCounts::default(), |sum, counts| sum.plus(counts[index]))
        };
        Self {
            seed,
            expected: sum(|stats| stats.expected),
            acknowledged: sum(|stats| stats.acknowledged),
            frames_sent: sum(|stats| stats.frames_sent),
            retries: sum(|stats| stats.retries),
            bytes_sent: sum(|stats| stats.bytes_sent),
            frames_received: sum(|stats| stats.frames_received),
            repeated: sum(|stats| stats.repeated),
            foreign: sum(|stats| stats.foreign),
            connects: sum(|stats| stats.connects),
            disconnects: sum(|stats| stats.disconnects),
            scheduled: sum(|stats| stats.scheduled),
            late: sum(|stats| stats.late),
            late_most_ms: stats
                .iter()
                .map(|stats| u64::try_from(stats.late_most.as_millis()).unwrap_or(u64::MAX))
                .max()
                .unwrap_or_default(),
            latency: Percentiles::of(&latency),
            faults_up: direction(0),
            faults_down: direction(1),
        }
    }

    /// The report as a JSON object.
    ///
    /// # Panics
    /// Never: it holds numbers only.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain numbers are JSON")
    }
}
