//! The results: a table on the terminal, and under `target/load/` JSON and an HTML page with
//! curves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plotters::prelude::*;
use serde::Serialize;

use super::cost::Cost;
use test_support::generator::{Measured, Shape};

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// The name of the case.
    pub case: String,
    /// The measured server.
    pub target: String,
    /// The server that its throughput is compared with.
    pub yardstick: Option<String>,
    pub round: usize,
    pub connections: usize,
    pub accounts: usize,
    /// Requests due per second; `None` if each request follows an answer.
    pub rate: Option<f64>,
    pub per_second: f64,
    /// Throughput divided by that of the yardstick in the same round.
    pub ratio: Option<f64>,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
    /// Processor time of the server for each answer, in microseconds.
    pub cpu_micros: Option<f64>,
    pub answers: u64,
    pub statuses: BTreeMap<u16, u64>,
    /// Number of answers with an unexpected status, broken connections, and requests that were
    /// never sent.
    pub astray: u64,
    /// The median of 200 syncs of 4 KiB just before, in microseconds.
    pub fsync_micros: u64,
}

impl Figure {
    pub(crate) fn of(measured: &Measured, expected: u16) -> Self {
        let unsent = u64::try_from(measured.unsent).unwrap();
        Figure {
            case: String::new(),
            target: String::new(),
            yardstick: None,
            round: 0,
            connections: 0,
            accounts: 0,
            rate: None,
            per_second: measured.per_second,
            ratio: None,
            p50_ms: measured.percentile(50.0),
            p90_ms: measured.percentile(90.0),
            p99_ms: measured.percentile(99.0),
            p999_ms: measured.percentile(99.9),
            max_ms: measured.latency.max() as f64 / 1_000.0,
            cpu_micros: None,
            answers: measured.answers(),
            statuses: measured.statuses.clone(),
            astray: measured.others(expected) + measured.broken + unsent,
            fsync_micros: 0,
        }
    }

    pub(crate) fn at(mut self, shape: Shape) -> Self {
        self.rate = match shape {
            Shape::Closed => None,
            Shape::Open(rate) => Some(rate),
        };
        self
    }
}

pub(crate) fn heading() -> String {
    format!(
        "{:<34}{:<22}{:>10}{:>10}{:>9}{:>9}{:>9}{:>9}{:>9}{:>8}",
        "case",
        "target",
        "answers/s",
        "of yard.",
        "p50 ms",
        "p99 ms",
        "p99.9",
        "cpu us",
        "fsync us",
        "astray"
    )
}

pub(crate) fn line(figure: &Figure) -> String {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    };
    format!(
        "{:<34}{:<22}{:>10.0}{:>10}{:>9.2}{:>9.2}{:>9.2}{:>9}{:>9}{:>8}",
        figure.case,
        figure.target,
        figure.per_second,
        number(figure.ratio, 2),
        figure.p50_ms,
        figure.p99_ms,
        figure.p999_ms,
        number(figure.cpu_micros, 1),
        figure.fsync_micros,
        figure.astray,
    )
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The medians over all rounds, for each case and target.
pub(crate) fn medians(metrics: &[Figure]) -> Vec<Figure> {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for figure in metrics {
        let name = (figure.case.as_str(), figure.target.as_str());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let of = |(case, target): (&str, &str)| {
        let same: Vec<&Figure> = metrics
            .iter()
            .filter(|figure| figure.case == case && figure.target == target)
            .collect();
        let over =
            |field: fn(&Figure) -> f64| median(same.iter().map(|figure| field(figure)).collect());
        let over_some = |field: fn(&Figure) -> Option<f64>| {
            let values: Vec<f64> = same.iter().filter_map(|figure| field(figure)).collect();
            (!values.is_empty()).then(|| median(values))
        };
        Figure {
            per_second: over(|figure| figure.per_second),
            ratio: over_some(|figure| figure.ratio),
            p50_ms: over(|figure| figure.p50_ms),
            p90_ms: over(|figure| figure.p90_ms),
            p99_ms: over(|figure| figure.p99_ms),
            p999_ms: over(|figure| figure.p999_ms),
            max_ms: over(|figure| figure.max_ms),
            cpu_micros: over_some(|figure| figure.cpu_micros),
            astray: same.iter().map(|figure| figure.astray).sum(),
            answers: same.iter().map(|figure| figure.answers).sum(),
            round: same.len(),
            ..same[0].clone()
        }
    };
    names.into_iter().map(of).collect()
}

#[derive(Serialize)]
struct Everything<'a> {
    machine: &'a BTreeMap<&'static str, String>,
    rounds: &'a [Figure],
    medians: &'a [Figure],
    costs: &'a [Cost],
}

/// Writes the JSON and the page. Returns where they are.
pub(crate) fn write(
    folder: &Path,
    machine: &BTreeMap<&'static str, String>,
    rounds: &[Figure],
    medians: &[Figure],
    costs: &[Cost],
) -> (PathBuf, PathBuf) {
    std::fs::create_dir_all(folder).unwrap();
    let (json, html) = (folder.join("load.json"), folder.join("load.html"));
    let everything = Everything { machine, rounds, medians, costs };
    std::fs::write(&json, serde_json::to_string_pretty(&everything).unwrap()).unwrap();
    std::fs::write(&html, page(machine, medians, costs)).unwrap();
    (json, html)
}

fn page(machine: &BTreeMap<&'static str, String>, medians: &[Figure], costs: &[Cost]) -> String {
    let mut page = String::from(
        "<!doctype html><meta charset=utf-8><title>Polysystems under load</title>
        <style>body{font:15px sans-serif;margin:2em}table{border-collapse:collapse}
        td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}
        td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}</style><h1>Polysystems under load</h1><p>",
    );
    for (name, value) in machine {
        page.push_str(&format!("{name}: {value}<br>"));
    }
    page.push_str("Medians; every ratio within its round.</p>");
    let open: Vec<&Figure> = medians.iter().filter(|figure| figure.rate.is_some()).collect();
    for (title, field) in [
        ("Latency by load, p50, ms", (|figure| figure.p50_ms) as fn(&Figure) -> f64),
        ("Latency by load, p99, ms", |figure| figure.p99_ms),
    ] {
        let points = open
            .iter()
            .map(|figure| (figure.target.clone(), figure.rate.unwrap_or_default(), field(figure)));
        page.push_str(&curves(title, "requests a second, due at fixed moments", points));
    }
    let closed = medians
        .iter()
        .filter(|figure| figure.case.starts_with("paid call") && figure.connections == 64);
    let points = closed
        .map(|figure| (figure.target.clone(), (figure.accounts as f64).log10(), figure.per_second));
    page.push_str(&curves("Paid calls a second, by accounts", "accounts, 10^", points));
    page.push_str(
        "<table><tr><th>case<th>target<th>answers/s<th>of yardstick<th>p50 ms<th>p90<th>p99<th>p99.9
        <th>server's CPU, us<th>fsync, us<th>astray",
    );
    for figure in medians {
        let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}"));
        page.push_str(&format!(
            "<tr><td>{}<td>{}<td>{:.0}<td>{}<td>{:.2}<td>{:.2}<td>{:.2}<td>{:.2}<td>{}<td>{}<td>{}",
            figure.case,
            figure.target,
            figure.per_second,
            number(figure.ratio),
            figure.p50_ms,
            figure.p90_ms,
            figure.p99_ms,
            figure.p999_ms,
            number(figure.cpu_micros),
            figure.fsync_micros,
            figure.astray,
        ));
    }
    page.push_str("</table><h2>Bytes a paid call</h2><table><tr><th>database<th>what<th>bytes");
    for Cost { database, what, bytes_a_call } in costs {
        page.push_str(&format!("<tr><td>{database}<td>{what}<td>{bytes_a_call:.0}"));
    }
    page.push_str("</table>");
    page
}

/// SVG with one curve for each name; empty if there are no points.
fn curves(title: &str, below: &str, points: impl Iterator<Item = (String, f64, f64)>) -> String {
    let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (name, x, y) in points {
        series.entry(name).or_default().push((x, y));
    }
    let all = || series.values().flatten();
    let most = |axis: fn(&(f64, f64)) -> f64| all().map(axis).fold(0.0, f64::max) * 1.05;
    let (right, top) = (most(|point| point.0), most(|point| point.1));
    if right <= 0.0 || top <= 0.0 {
        return String::new();
    }
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (860, 380)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..right, 0.0..top)
            .unwrap();
        chart.configure_mesh().x_desc(below).draw().unwrap();
        for (place, (name, points)) in series.into_iter().enumerate() {
            let color = Palette99::pick(place).to_rgba();
            let mut points = points;
            points.sort_by(|one, other| one.0.total_cmp(&other.0));
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(3))
                .unwrap()
                .label(name)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 4), (x + 10, y + 4)], color.filled())
                });
        }
        chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw().unwrap();
        area.present().unwrap();
    }
    format!("<h2>{title}</h2>{svg}")
}
