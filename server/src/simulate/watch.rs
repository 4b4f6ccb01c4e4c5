//! What is seen of a run while it goes on: a line or a view each second, and the series for the
//! plots. Kills the own node and cuts connections where planned.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use loadgen::fleet::Fleet;
use loadgen::report::Percentiles;
use serde::Serialize;

use super::drive::{Drive, Shot};
use super::target::Target;
use super::{ShapeName, Simulate, Thresholds, pause, say, since};
use crate::clock;
use crate::demo::check::Checks;

const EACH: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// How often it is looked whether the run is over or a kill is due.
const POLL: Duration = Duration::from_millis(100);

/// One second of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Second {
    /// Seconds since the clock ran.
    pub(super) at: f64,
    /// Frames sent a second.
    pub(super) sent: u64,
    /// Readings acknowledged a second.
    pub(super) acknowledged: u64,
    /// Latencies of these.
    pub(super) ack_p50_us: u64,
    /// See `ack_p50_us`.
    pub(super) ack_p99_us: u64,
    /// Entries that ClickHouse is behind; not known while the node is away.
    pub(super) lag: Option<u64>,
    /// Resident memory of the own node, MiB.
    pub(super) rss_mib: Option<u64>,
    /// Processor of the own node, hundredths of a core.
    pub(super) cpu_percent: Option<u64>,
}

/// What the own node used.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Usage {
    /// Processor seconds of all its lives.
    pub(super) cpu_s: f64,
    /// Most resident memory, MiB.
    pub(super) rss_peak_mib: u64,
    /// Bytes of its folder at the end, MiB.
    pub(super) disk_mib: u64,
}

/// The watch over a run.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) series: Vec<Second>,
    pub(super) outcomes: BTreeMap<String, u64>,
    pub(super) usage: Usage,
    pub(super) kills: u32,
    /// How long the gateways took to be connected again after the cut.
    pub(super) storm: Option<Duration>,
    /// From when a reading was due until the API told it.
    pub(super) fresh: Percentiles,
    /// From the first reading until ClickHouse had all, the node's restarts included.
    pub(super) queryable: Option<Duration>,
    /// How long the own node took to be ready after each kill.
    pub(super) restarts_s: Vec<f64>,
    began: Instant,
    title: String,
    is_live: bool,
    lines: usize,
    kills_at: Vec<Duration>,
    cut_at: Option<Duration>,
    seconds: u32,
    /// Until the first reading is due.
    lead: Duration,
}

impl Watch {
    pub(super) fn new(options: &Simulate, fleet: &Fleet, lead: Duration) -> Self {
        let span = u64::from(options.seconds) * 1000;
        let mut kills_at: Vec<Duration> = (0..options.kill)
            .map(|number| loadgen::mix(options.seed ^ u64::from(number) << 40))
            .map(|draw| Duration::from_millis(draw % span.max(1)))
            .collect();
        kills_at.sort_unstable_by(|a, b| b.cmp(a));
        let cut = Duration::from_secs(u64::from(options.seconds)) / 2;
        Self {
            series: Vec::new(),
            outcomes: BTreeMap::new(),
            usage: Usage::default(),
            kills: 0,
            storm: None,
            fresh: Percentiles::default(),
            queryable: None,
            restarts_s: Vec::new(),
            began: clock::instant(),
            title: format!(
                "meterd simulate  {:?}  {} meters  seed {}",
                options.shape,
                fleet.spec().meters,
                options.seed
            ),
            is_live: !options.plain && std::io::stdout().is_terminal(),
            lines: 0,
            kills_at,
            cut_at: (options.shape == ShapeName::Storm).then_some(cut),
            seconds: options.seconds,
            lead,
        }
    }

    /// Watches until every reading is confirmed or time is over.
    ///
    /// # Errors
    /// The own node does not start again.
    pub(super) async fn run(&mut self, target: &mut Target, drive: &Drive) -> anyhow::Result<()> {
        pause(self.lead).await;
        self.began = clock::instant();
        let began = self.began;
        let (mut before, mut told) = (drive.shot(), began);
        let mut cut: Option<Instant> = None;
        let mut usage = Ticks::default();
        while !drive.is_over() {
            pause(POLL).await;
            self.keep_alive(target, began.elapsed()).await?;
            if self.cut_at.is_some_and(|at| at <= began.elapsed()) {
                self.cut_at = None;
                cut = Some(clock::instant());
                drive.cut();
            }
            if clock::instant().duration_since(told) < EACH {
                continue;
            }
            let passed = since(told);
            told = clock::instant();
            let shot = drive.shot();
            if let Some(at) = cut.filter(|at| at.elapsed() > EACH && shot.links.0 == shot.links.1) {
                self.storm = Some(at.elapsed());
                cut = None;
            }
            let mut second = second(&before, &shot, since(began), passed);
            self.ask(target, &mut second, &mut usage, passed).await;
            self.show(&second, &shot, drive.bought());
            self.series.push(second);
            before = shot;
        }
        self.usage.cpu_s = usage.total_s;
        self.usage.disk_mib = target.own.as_ref().map_or(0, |own| disk_mib(&own.folder));
        Ok(())
    }

    /// Waits until ClickHouse has every acknowledged reading, a minute at most.
    pub(super) async fn wait_queryable(&mut self, target: &Target, fleet: &Fleet, sent: &Shot) {
        let Some(sql) = &target.sql else { return };
        let count = format!(
            "SELECT count() FROM readings FINAL WHERE taken_at >= toDateTime({}, 'UTC')",
            fleet.earliest().0
        );
        let until = clock::instant() + MINUTE;
        while clock::instant() < until {
            // An engine that is busy or starting is asked again.
            let stored = sql.value(&count).await.ok().and_then(|count| count.parse::<u64>().ok());
            if stored.is_some_and(|stored| stored >= sent.report.acknowledged) {
                self.queryable = Some(self.began.elapsed());
                return;
            }
            pause(POLL).await;
        }
    }

    /// Checks what the flags demand.
    pub(super) fn thresholds(&self, checks: &mut Checks, sent: &Shot, limits: &Thresholds) {
        let mut bound = |name: &str, holds: bool, want: String, got: u64| {
            checks.0.push(crate::demo::check::Check {
                name: name.to_owned(),
                ok: holds,
                want,
                got: got.to_string(),
            });
        };
        let Percentiles { p99_us, .. } = Percentiles::of(&sent.latency);
        if let Some(most) = limits.max_ack_p99_ms {
            let got = p99_us.div_ceil(1000);
            bound("ack p99, ms", got <= most, format!("at most {most}"), got);
        }
        if let Some(most) = limits.max_fresh_p99_ms {
            let got = self.fresh.p99_us.div_ceil(1000);
            bound("told by the API p99, ms", got <= most, format!("at most {most}"), got);
        }
        if let Some(most) = limits.max_late {
            let got = sent.report.late * 1000 / sent.report.scheduled.max(1);
            bound("late sends, per mille", got <= most, format!("at most {most}"), got);
        }
        if let Some(most) = limits.max_lag {
            let got = self.series.iter().filter_map(|second| second.lag).max().unwrap_or_default();
            bound("ClickHouse behind, entries", got <= most, format!("at most {most}"), got);
        }
        if let Some(least) = limits.min_rate {
            let got = sent.report.acknowledged / u64::from(self.seconds.max(1));
            bound("readings a second", got >= least, format!("at least {least}"), got);
        }
    }

    /// Kills the own node where planned, and starts it again whenever it ended.
    async fn keep_alive(&mut self, target: &mut Target, elapsed: Duration) -> anyhow::Result<()> {
        let Some(own) = &mut target.own else { return Ok(()) };
        if self.kills_at.last().is_some_and(|at| *at <= elapsed) {
            self.kills_at.pop();
            self.kills += 1;
            self.tell("the node is killed (SIGKILL)");
            own.node.kill().await?;
        }
        if let Ok(status) = tokio::time::timeout(Duration::ZERO, own.node.ended()).await {
            self.tell(&format!("the node ended ({}); it starts again", status?));
            let began = clock::instant();
            own.node.restart().await?;
            self.restarts_s.push(since(began));
            self.tell(&format!("ready again after {:.1} s", since(began)));
        }
        Ok(())
    }

    /// Takes the node's counters as they are now; tells how far ClickHouse is behind.
    pub(super) async fn count(&mut self, target: &Target) -> Option<u64> {
        // While the node is away there is nothing to be told.
        let metrics = parse(&target.metrics().await.ok()?);
        let lag = metrics.get("meterd_sink_lag_entries").copied();
        let is_outcome = |name: &str| {
            name.starts_with("meterd_ingest_frames_total") || name.starts_with("meterd_readings")
        };
        self.outcomes = metrics.into_iter().filter(|(name, _)| is_outcome(name)).collect();
        lag
    }

    /// Adds what the node says of itself.
    async fn ask(
        &mut self,
        target: &Target,
        second: &mut Second,
        usage: &mut Ticks,
        passed_s: f64,
    ) {
        second.lag = self.count(target).await;
        let Some(pid) = target.own.as_ref().and_then(|own| own.node.pid()) else { return };
        if let Some(rss_mib) = rss_mib(pid) {
            second.rss_mib = Some(rss_mib);
            self.usage.rss_peak_mib = self.usage.rss_peak_mib.max(rss_mib);
        }
        let used_s = usage.add(pid);
        second.cpu_percent = Some((used_s / passed_s.max(0.001) * 100.0) as u64);
    }

    fn show(&mut self, second: &Second, shot: &Shot, bought: u64) {
        let report = &shot.report;
        let waiting = report.expected.saturating_sub(report.acknowledged);
        let lag = second.lag.map_or_else(|| "?".to_owned(), |lag| lag.to_string());
        if !self.is_live {
            return say(&format!(
                "{:5.0} s  sent {}/s  acked {}/s  p50 {} p99 {} ms  late {}  open {waiting}  lag {lag}",
                second.at,
                second.sent,
                second.acknowledged,
                ms(second.ack_p50_us),
                ms(second.ack_p99_us),
                report.late,
            ));
        }
        let all = Percentiles::of(&shot.latency);
        let mut lines = vec![
            format!("{}  {:.0} of {} s", self.title, second.at, self.seconds),
            format!(
                "  rate      sent {}/s  acknowledged {}/s  still open {waiting} of {}",
                second.sent, second.acknowledged, report.expected
            ),
            format!(
                "  ack, ms   now p50 {} p99 {}   all p50 {} p90 {} p99 {} p99.9 {} most {}",
                ms(second.ack_p50_us),
                ms(second.ack_p99_us),
                ms(all.p50_us),
                ms(all.p90_us),
                ms(all.p99_us),
                ms(all.p999_us),
                ms(all.max_us)
            ),
            format!(
                "  sending   late {} of {}  again {}  connections {} of {}  purchases {bought}",
                report.late, report.scheduled, report.retries, shot.links.0, shot.links.1
            ),
            format!(
                "  node      behind {lag} entries  memory {} MiB  processor {} %",
                second.rss_mib.unwrap_or_default(),
                second.cpu_percent.unwrap_or_default()
            ),
        ];
        let counted = self.outcomes.iter().filter(|(_, count)| **count > 0);
        lines.extend(counted.map(|(name, count)| format!("  {count:>12}  {name}")));
        self.draw(&lines);
    }

    /// Draws the view over the one before.
    fn draw(&mut self, lines: &[String]) {
        let up = match self.lines {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        };
        let text = format!("{up}{}\n", lines.join("\n"));
        // A terminal that is gone is not worth ending the run.
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
        self.lines = lines.len();
    }

    /// A line that stays.
    fn tell(&mut self, text: &str) {
        self.lines = 0;
        say(&format!("  {text}"));
    }
}

fn second(before: &Shot, shot: &Shot, at: f64, passed_s: f64) -> Second {
    let a_second = |count: u64| (count as f64 / passed_s.max(0.001)) as u64;
    let mut latency = shot.latency.clone();
    // The counters only grow; should that ever fail, the sum is shown.
    latency.subtract(&before.latency).ok();
    let of_now = Percentiles::of(&latency);
    Second {
        at,
        sent: a_second(shot.report.frames_sent - before.report.frames_sent),
        acknowledged: a_second(shot.report.acknowledged - before.report.acknowledged),
        ack_p50_us: of_now.p50_us,
        ack_p99_us: of_now.p99_us,
        ..Second::default()
    }
}

fn ms(us: u64) -> String {
    format!("{:.1}", us as f64 / 1000.0)
}

/// The samples of a Prometheus text, by name with labels.
fn parse(text: &str) -> BTreeMap<String, u64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

/// Processor time of a node through its lives.
#[derive(Debug, Default)]
struct Ticks {
    pid: u32,
    life_s: f64,
    total_s: f64,
}

impl Ticks {
    /// What the node used since the last look.
    fn add(&mut self, pid: u32) -> f64 {
        let life_s = cpu_s(pid).unwrap_or(self.life_s);
        let before = if pid == self.pid { self.life_s } else { 0.0 };
        let used = (life_s - before).max(0.0);
        (self.pid, self.life_s) = (pid, life_s);
        self.total_s += used;
        used
    }
}

/// User and system time of a process, its ended children's included.
fn cpu_s(pid: u32) -> Option<f64> {
    const TICKS_PER_S: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; the numbers follow its closing bracket.
    let numbers: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: Option<Vec<f64>> =
        numbers.get(11..15)?.iter().map(|number| number.parse().ok()).collect();
    Some(ticks?.iter().sum::<f64>() / TICKS_PER_S)
}

fn rss_mib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024)
}

fn disk_mib(folder: &std::path::Path) -> u64 {
    fn bytes(folder: &std::path::Path) -> u64 {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| match entry.metadata() {
                Ok(data) if data.is_dir() => bytes(&entry.path()),
                Ok(data) => data.len(),
                Err(_) => 0,
            })
            .sum()
    }
    bytes(folder) >> 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_by_name_and_label() {
        let text = "# HELP a b\n# TYPE a counter\na{x=\"y z\"} 7\nb 9\nc nan\n";
        let metrics = parse(text);
        assert_eq!(metrics.get("a{x=\"y z\"}"), Some(&7));
        assert_eq!((metrics.get("b"), metrics.len()), (Some(&9), 2));
    }

    #[test]
    fn a_process_is_measured() {
        let pid = std::process::id();
        assert!(rss_mib(pid).is_some() && cpu_s(pid).is_some());
        assert_eq!((rss_mib(u32::MAX), cpu_s(u32::MAX)), (None, None));
    }
}
