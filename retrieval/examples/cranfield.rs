//! How good a search is, by the Cranfield collection: 1,400 abstracts, 225 queries.
//!
//! `cargo run --release -p retrieval --example cranfield -- FOLDER`, where the folder has
//! `cran.all.1400`, `cran.qry` and `cranqrel`. Fails below the bars.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement by hand prints, and a panic has said what is wrong"
)]

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use retrieval::analyze::Language;
use retrieval::collection::{Collection, Mode, Query};
use retrieval::embed::{DIMENSIONS, embed};
use retrieval::fuse::{Fusion, STATIC_TABLE_WEIGHT};
use retrieval::segment::{NewChunk, Segment, SegmentBuilder};

fn main() {
    let Some(folder) = std::env::args().nth(1) else {
        println!("give the folder of Cranfield's files as argument");
        return;
    };
    let file = |name: &str| {
        // Copies of the files are about with lines of both kinds.
        std::fs::read_to_string(Path::new(&folder).join(name)).unwrap().replace('\r', "")
    };
    let abstracts = texts(&file("cran.all.1400"));
    let queries = texts(&file("cran.qry"));
    let mut relevant: HashMap<usize, HashSet<String>> = HashMap::new();
    for line in file("cranqrel").lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [query, document, degree] = fields.as_slice()
            && degree.parse::<i32>().unwrap() > 0
        {
            let of_query = relevant.entry(query.parse().unwrap()).or_default();
            of_query.insert((*document).to_owned());
        }
    }
    let mut builder = SegmentBuilder::new(Language::English, DIMENSIONS);
    for (number, text) in (1..).zip(&abstracts) {
        let vector = embed(text);
        let chunk = NewChunk {
            number: 0,
            start: 0,
            end: text.len(),
            page: None,
            headings: &[],
            text,
            indexed: text,
            vector: Some(&vector),
        };
        builder.add(&format!("{number}"), &chunk).unwrap();
    }
    let segment = Segment::open(builder.finish().unwrap()).unwrap();
    let collection = Collection::open(&[Arc::new(segment)], &[]).unwrap();
    let relative = Fusion::Relative { vector_weight: STATIC_TABLE_WEIGHT };
    let ranks = Fusion::Ranks { text_weight: 1.0, vector_weight: 1.0 };
    let (text, text_recall) = measure(&collection, &queries, &relevant, Mode::Text, relative);
    let (vector, vector_recall) = measure(&collection, &queries, &relevant, Mode::Vector, relative);
    let (hybrid, recall) = measure(&collection, &queries, &relevant, Mode::Hybrid, relative);
    let (by_ranks, ranks_recall) = measure(&collection, &queries, &relevant, Mode::Hybrid, ranks);
    println!("text:         nDCG@10 {text:.4}, R@50 {text_recall:.4}");
    println!("vector:       nDCG@10 {vector:.4}, R@50 {vector_recall:.4}");
    println!("hybrid:       nDCG@10 {hybrid:.4}, R@50 {recall:.4}");
    println!("hybrid ranks: nDCG@10 {by_ranks:.4}, R@50 {ranks_recall:.4}");
    assert!(text >= 0.365 && hybrid >= 0.375 && recall >= 0.62, "below the bars");
}

/// The parts `.T` and `.W` of a file of Cranfield: a title and a text.
fn texts(file: &str) -> Vec<String> {
    let part = |one: &str, name: &str| -> String {
        let after = one.split_once(name).map_or("", |(_, after)| after);
        after.lines().take_while(|line| !line.starts_with('.')).collect::<Vec<_>>().join("\n")
    };
    let texts = file.split(".I ").skip(1);
    texts.map(|one| part(one, "\n.T\n") + "\n" + &part(one, "\n.W\n")).collect()
}

/// nDCG of the first 10, and recall of the first 50, as means over the queries.
fn measure(
    collection: &Collection,
    queries: &[String],
    relevant: &HashMap<usize, HashSet<String>>,
    mode: Mode,
    fusion: Fusion,
) -> (f64, f64) {
    let (mut gain, mut recall) = (0.0, 0.0);
    let discount = |place: usize| 1.0 / f64::from(u32::try_from(place).unwrap() + 2).log2();
    let size = |count: usize| f64::from(u32::try_from(count).unwrap());
    for (number, text) in (1..).zip(queries) {
        let relevant = &relevant[&number];
        let vector = embed(text);
        let mut query = Query::new(text, Some(&vector));
        (query.mode, query.fusion, query.top_k) = (mode, fusion, 50);
        let hits = collection.search(&query).unwrap();
        let found: Vec<usize> = (0..)
            .zip(&hits)
            .filter(|(_, hit)| relevant.contains(&hit.document))
            .map(|(place, _)| place)
            .collect();
        let best: f64 = (0..relevant.len().min(10)).map(discount).sum();
        let got: f64 = found.iter().filter(|&&place| place < 10).map(|&one| discount(one)).sum();
        gain += got / best;
        recall += size(found.len()) / size(relevant.len());
    }
    (gain / size(queries.len()), recall / size(queries.len()))
}
