//! Plots as SVG text: a line over time with its axes, nothing to load from anywhere.

use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 180.0;
const LEFT: f64 = 70.0;
const FOOT: f64 = 22.0;
const TICKS: u32 = 4;
const COLOURS: [&str; 3] = ["#0b63ce", "#d9480f", "#2b8a3e"];

/// One line of a plot: its name, and its points as seconds and value.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A plot with a title, its unit in it.
pub(super) fn plot(title: &str, lines: &[Line<'_>]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let most = |value: fn(&(f64, f64)) -> f64| points().map(value).fold(0.0, f64::max).max(1.0);
    let (last, top) = (most(|point| point.0), most(|point| point.1));
    let x = |at: f64| LEFT + at / last * (WIDTH - LEFT - 10.0);
    let y = |value: f64| HEIGHT - FOOT - value / top * (HEIGHT - FOOT - 10.0);
    let mut svg = format!("<h2>{}</h2><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\">", escape(title));
    let mut add = |part: std::fmt::Arguments<'_>| {
        svg.write_fmt(part).expect("a string takes any text");
    };
    for tick in 0..=TICKS {
        let share = f64::from(tick) / f64::from(TICKS);
        let (value, at) = (top * share, last * share);
        let (up, along) = (y(value), x(at));
        add(format_args!(
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{up:.1}\" y2=\"{up:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text x=\"{along:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at:.0} s</text>",
            LEFT - 6.0,
            up + 4.0,
            short(value),
            HEIGHT - 4.0
        ));
    }
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let path: Vec<String> = line
            .points
            .iter()
            .map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value)))
            .collect();
        add(format_args!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
            path.join(" ")
        ));
    }
    svg.push_str("</svg><p>");
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        write!(svg, "<b style=\"color:{colour}\">— {}</b> ", escape(line.name))
            .expect("a string takes any text");
    }
    svg.push_str("</p>");
    svg
}

/// Text that HTML does not take for marks.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.1} M", value / 1e6),
        value if value >= 1e4 => format!("{:.0} k", value / 1e3),
        value if value >= 10.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_stays_inside_its_frame() {
        let points = vec![(0.0, 0.0), (5.0, 250.0), (10.0, 1_000_000.0)];
        let svg = plot("a < b", &[Line { name: "one", points }]);
        assert!(svg.contains("a &lt; b"), "{svg}");
        assert!(svg.contains("points=\"70.0,158.0 480.0,158.0 890.0,10.0\""), "{svg}");
        assert!(plot("empty", &[]).ends_with("</p>"));
    }
}
