//! Percentiles of searches in 100,000 chunks of made text, and how fast they are indexed.
//!
//! `cargo run --release -p retrieval --example speed`
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement by hand prints, and a panic has said what is wrong"
)]

#[path = "../benches/made/mod.rs"]
mod made;

use std::time::Instant;

use retrieval::collection::{Collection, Mode, Query, Tolerance};
use retrieval::embed::embed;

const CHUNKS: u32 = 100_000;

fn main() {
    let mut words = made::Words::new();
    let texts: Vec<String> = (0..CHUNKS).map(|_| words.chunk()).collect();
    let began = Instant::now();
    let bytes = made::segment(&texts);
    let seconds = began.elapsed().as_secs_f64();
    println!("indexed {:.0} chunks/s, {} bytes", f64::from(CHUNKS) / seconds, bytes.len());
    let began = Instant::now();
    let collection = made::collection(bytes);
    println!("opened in {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    let queries: Vec<String> = (0..400).map(|_| words.text(6)).collect();
    for (name, mode) in [("text", Mode::Text), ("vector", Mode::Vector), ("hybrid", Mode::Hybrid)] {
        report(name, &collection, &queries, mode, Tolerance::default());
    }
    let wrong: Vec<String> = queries.iter().map(|text| format!("{}q", text.trim_end())).collect();
    let tolerance = Tolerance { prefix: true, typos: true };
    report("text, last word wrong", &collection, &wrong, Mode::Text, tolerance);
}

fn report(
    name: &str,
    collection: &Collection,
    queries: &[String],
    mode: Mode,
    tolerance: Tolerance,
) {
    let mut times: Vec<f64> = queries
        .iter()
        .map(|text| {
            let began = Instant::now();
            let vector = embed(text);
            let mut query = Query::new(text, Some(&vector));
            (query.mode, query.tolerance) = (mode, tolerance);
            assert!(!collection.search(&query).unwrap().is_empty());
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let (half, most) = (times[times.len() / 2], times[times.len() * 95 / 100]);
    println!("{name}: p50 {half:.2} ms, p95 {most:.2} ms");
}
