//! How a run is told: a few lines, JSON, and a page with plots.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::Context;
use loadgen::fleet::Fleet;
use loadgen::report::Percentiles;
use serde_json::{Value, json};

use super::Simulate;
use super::drive::Shot;
use super::plots::{Line, escape, plot};
use super::watch::{Second, Watch};
use crate::demo::check::Checks;

/// A run and what came of it.
pub(super) struct Outcome<'a> {
    pub(super) options: &'a Simulate,
    pub(super) fleet: &'a Fleet,
    pub(super) sent: &'a Shot,
    pub(super) watch: &'a Watch,
    pub(super) checks: &'a Checks,
}

impl Outcome<'_> {
    /// Writes the files that were asked for.
    ///
    /// # Errors
    /// One cannot be written.
    pub(super) fn write(&self, options: &Simulate) -> anyhow::Result<()> {
        let write = |path: &Path, text: String| {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        if let Some(path) = &options.json {
            write(path, format!("{:#}\n", self.json()))?;
        }
        if let Some(path) = &options.html {
            write(path, self.html())?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let span = self.fleet.span();
        json!({
            "shape": format!("{:?}", self.options.shape).to_lowercase(),
            "seed": self.options.seed,
            "meters": self.fleet.spec().meters,
            "part": self.options.part.to_string(),
            "first": span.first.0,
            "seconds": self.options.seconds,
            "pace": self.options.pace,
            "sent": self.sent.report,
            "kills": self.watch.kills,
            "reconnected_s": self.watch.storm.map(|storm| storm.as_secs_f64()),
            "fresh": self.watch.fresh,
            "queryable_s": self.watch.queryable.map(|all| all.as_secs_f64()),
            "restarts_s": self.watch.restarts_s,
            "outcomes": self.watch.outcomes,
            "node": self.watch.usage,
            "series": self.watch.series,
            "checks": self.checks,
        })
    }

    fn html(&self) -> String {
        let line = |name, value: fn(&Second) -> Option<f64>| {
            let points = self.watch.series.iter();
            Line { name, points: points.filter_map(|s| Some((s.at, value(s)?))).collect() }
        };
        let ms = |us: u64| Some(us as f64 / 1000.0);
        let plots = [
            plot(
                "readings a second",
                &[
                    line("acknowledged", |s| Some(s.acknowledged as f64)),
                    line("frames sent", |s| Some(s.sent as f64)),
                ],
            ),
            plot(
                "acknowledgement after it was due, ms",
                &[
                    Line { name: "p50", points: self.points(|s| ms(s.ack_p50_us)) },
                    Line { name: "p99", points: self.points(|s| ms(s.ack_p99_us)) },
                ],
            ),
            plot("ClickHouse behind, entries", &[line("lag", |s| Some(s.lag? as f64))]),
            plot("memory of the node, MiB", &[line("resident", |s| Some(s.rss_mib? as f64))]),
        ];
        let title = format!("meterd simulate, seed {}", self.options.seed);
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
             <style>body{{font:14px/1.5 sans-serif;max-width:960px;margin:2em auto;padding:0 1em}}\
             h2{{font-size:1em;margin:1.5em 0 0}}svg{{width:100%}}text{{font-size:11px;fill:#555}}\
             pre{{overflow:auto;background:#f6f6f6;padding:1em}}</style>\
             <h1>{title}</h1><pre>{}\n{}</pre>{}</html>\n",
            escape(&self.to_string()),
            escape(&self.checks.to_string()),
            plots.concat()
        )
    }

    fn points(&self, value: impl Fn(&Second) -> Option<f64>) -> Vec<(f64, f64)> {
        self.watch.series.iter().filter_map(|s| Some((s.at, value(s)?))).collect()
    }
}

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shot { report, latency, .. } = self.sent;
        let Percentiles { p50_us, p99_us, max_us, .. } = Percentiles::of(latency);
        let seconds = u64::from(self.options.seconds.max(1));
        let ms = |us: u64| us as f64 / 1000.0;
        writeln!(
            f,
            "{} readings of {} acknowledged, {}/s over {seconds} s; {} sent again; {} sends late, \
             the latest by {} ms",
            report.acknowledged,
            report.expected,
            report.acknowledged / seconds,
            report.retries,
            report.late,
            report.late_most_ms
        )?;
        writeln!(
            f,
            "ack after it was due: p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
            ms(p50_us),
            ms(p99_us),
            ms(max_us)
        )?;
        let fresh = self.watch.fresh;
        let queryable = self.watch.queryable.map_or_else(
            || "later than a minute after the last".to_owned(),
            |all| format!("{:.1} s after the first reading was due", all.as_secs_f64()),
        );
        writeln!(
            f,
            "told by the API: p50 {:.1} ms, p99 {:.1} ms; all queryable {queryable}",
            ms(fresh.p50_us),
            ms(fresh.p99_us)
        )?;
        let up = report.faults_up;
        writeln!(
            f,
            "faults to the node: {} lost, {} doubled, {} overtaken, {} late, {} with a wrong key, \
             {} replayed, {} random; the node was killed {} times, ready again after {:.1?} s",
            up.lost,
            up.duplicated,
            up.reordered,
            up.delayed,
            up.wrong_key,
            up.replayed,
            up.garbage,
            self.watch.kills,
            self.watch.restarts_s
        )?;
        if let Some(storm) = self.watch.storm {
            let (open, all) = self.sent.links;
            writeln!(
                f,
                "{open} of {all} connections back {:.1} s after the cut",
                storm.as_secs_f64()
            )?;
        }
        let usage = self.watch.usage;
        let most = self.watch.series.iter().filter_map(|second| second.lag).max();
        writeln!(
            f,
            "node: {:.1} s of processor, {} MiB of memory at most, {} MiB on disk; ClickHouse {} \
             entries behind at most",
            usage.cpu_s,
            usage.rss_peak_mib,
            usage.disk_mib,
            most.unwrap_or_default()
        )
    }
}
