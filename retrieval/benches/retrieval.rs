//! What a search and the indexing of a chunk cost by themselves.
//!
//! `cargo bench -p retrieval`
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement that fails by a panic has said so"
)]

mod made;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use made::Words;
use retrieval::collection::{Mode, Query};
use retrieval::embed::embed;

const CHUNKS: usize = 100_000;
const INDEXED: u64 = 1_000;

fn searches(criterion: &mut Criterion) {
    let mut words = Words::new();
    let texts: Vec<String> = (0..CHUNKS).map(|_| words.chunk()).collect();
    let collection = made::collection(made::segment(&texts));
    let queries: Vec<String> = (0..64).map(|_| words.text(6)).collect();
    let mut group = criterion.benchmark_group("query of 100,000 chunks");
    group.sample_size(20);
    for (name, mode) in [("text", Mode::Text), ("vector", Mode::Vector), ("hybrid", Mode::Hybrid)] {
        let mut queries = queries.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let text = queries.next().unwrap();
                let vector = embed(text);
                let mut query = Query::new(text, Some(&vector));
                query.mode = mode;
                black_box(collection.search(&query).unwrap())
            });
        });
    }
    group.finish();
}

fn indexing(criterion: &mut Criterion) {
    let mut words = Words::new();
    let texts: Vec<String> = (0..INDEXED).map(|_| words.chunk()).collect();
    let mut group = criterion.benchmark_group("indexing");
    group.throughput(Throughput::Elements(INDEXED)).sample_size(10);
    group.bench_function("chunks embedded and indexed", |bencher| {
        bencher.iter(|| black_box(made::segment(&texts)));
    });
    group.bench_function("chunks embedded", |bencher| {
        bencher.iter(|| texts.iter().for_each(|text| drop(black_box(embed(text)))));
    });
    group.finish();
}

criterion_group!(benches, searches, indexing);
criterion_main!(benches);
