//! What a collection finds does not depend on how it is stored.
#![expect(clippy::unwrap_used, reason = "a test that fails by a panic has done its work")]

use std::sync::Arc;

use proptest::prelude::*;
use retrieval::analyze::Language;
use retrieval::collection::{Collection, Hit, Mode, Query, Tolerance};
use retrieval::embed::{DIMENSIONS, Vector, embed};
use retrieval::fuse::Fusion;
use retrieval::segment::{DocumentSet, Error, NewChunk, Segment, SegmentBuilder, merge};

/// A document: its name and the texts of its chunks.
type Text = (String, Vec<String>);

fn bytes(documents: &[Text], dimensions: usize) -> Vec<u8> {
    let mut builder = SegmentBuilder::new(Language::English, dimensions);
    for (name, chunks) in documents {
        let mut start = 0;
        for (number, text) in (0..).zip(chunks) {
            let vector = (dimensions > 0).then(|| embed(text));
            let headings = [name.clone()];
            let chunk = NewChunk {
                number,
                start,
                end: start + text.len(),
                page: (number % 2 == 0).then_some(number),
                headings: &headings,
                text,
                indexed: text,
                vector: vector.as_ref(),
            };
            builder.add(name, &chunk).unwrap();
            start += text.len() + 1;
        }
    }
    builder.finish().unwrap()
}

fn segment(documents: &[Text]) -> Arc<Segment> {
    Arc::new(Segment::open(bytes(documents, DIMENSIONS)).unwrap())
}

fn hits(collection: &Collection, text: &str, mode: Mode) -> Vec<Hit> {
    let vector = embed(text);
    let mut query = Query::new(text, Some(&vector));
    query.mode = mode;
    query.top_k = 20;
    query.tolerance = Tolerance { prefix: true, typos: true };
    collection.search(&query).unwrap()
}

fn words() -> impl Strategy<Value = String> {
    let words = [
        "refund",
        "refunds",
        "price",
        "token",
        "balance",
        "account",
        "model",
        "café",
        "東京",
        "running",
        "charge",
        "the",
        "of",
        "key",
        "limit",
        "invoice",
        "refuse",
        "tokenomics",
        "keyboard",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 1..12).prop_map(|all| all.join(" "))
}

fn documents() -> impl Strategy<Value = Vec<Text>> {
    prop::collection::vec(prop::collection::vec(words(), 1..5), 1..30).prop_map(|all| {
        (0..).zip(all).map(|(number, chunks)| (format!("doc-{number}"), chunks)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn hits_and_scores_do_not_depend_on_segments_or_dead_documents(
        documents in documents(),
        shares in prop::collection::vec(0_usize..8, 30),
        dead in prop::collection::vec(any::<bool>(), 30),
        text in prop_oneof![words(), "refnd|pric|re|tok|ke|京|balence".prop_map(String::from)],
    ) {
        let living: Vec<Text> =
            documents.iter().zip(&dead).filter(|(_, dead)| !**dead).map(|(one, _)| one.clone()).collect();
        let one = Collection::open(&[segment(&living)], &[]).unwrap();

        let mut spread: Vec<Vec<Text>> = vec![Vec::new(); 8];
        for (document, share) in documents.iter().zip(&shares) {
            spread[*share].push(document.clone());
        }
        let segments: Vec<Arc<Segment>> = spread.iter().map(|some| segment(some)).collect();
        let sets: Vec<DocumentSet> = segments
            .iter()
            .map(|segment| {
                let numbered = (0..).zip(segment.documents());
                numbered
                    .filter(|(_, name)| dead[name[4..].parse::<usize>().unwrap()])
                    .map(|(number, _)| number)
                    .collect()
            })
            .collect();
        let eight = Collection::open(&segments, &sets).unwrap();

        let refs: Vec<&Segment> = segments.iter().map(|one| &**one).collect();
        let merged = Segment::open(merge(&refs, &sets).unwrap()).unwrap();
        prop_assert_eq!(merged.documents().len(), living.len());
        let merged = Collection::open(&[Arc::new(merged)], &[]).unwrap();

        for mode in [Mode::Text, Mode::Vector, Mode::Hybrid] {
            let expected = hits(&one, &text, mode);
            prop_assert_eq!(&hits(&eight, &text, mode), &expected);
            prop_assert_eq!(&hits(&merged, &text, mode), &expected);
        }
    }

    #[test]
    fn cut_or_changed_bytes_are_an_error(
        documents in documents(),
        at in any::<prop::sample::Index>(),
        bit in 0_u32..8,
    ) {
        let bytes = bytes(&documents, DIMENSIONS);
        let at = at.index(bytes.len());
        prop_assert!(matches!(Segment::open(bytes[..at].to_vec()), Err(Error::Broken(_))));
        let mut changed = bytes;
        changed[at] ^= 1 << bit;
        prop_assert!(matches!(Segment::open(changed), Err(Error::Broken(_))));
    }

    /// With a checksum that fits, what was changed may go unseen, but nothing panics.
    #[test]
    fn forged_bytes_do_not_panic(
        documents in documents(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        early in any::<bool>(),
    ) {
        let mut bytes = bytes(&documents, 0);
        let body = bytes.len() - 4;
        for (at, value) in changes {
            // Half of the cases change the header and the tables.
            let at = at.index(if early { body.min(400) } else { body });
            bytes[at] = value;
        }
        let checksum = crc32fast::hash(&bytes[..body]);
        bytes[body..].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(segment) = Segment::open(bytes) {
            let segment = Arc::new(segment);
            let _ = merge(&[&segment], &[]);
            if let Ok(collection) = Collection::open(&[segment], &[]) {
                for text in ["refund price 東京", "refnd", "京", "pri"] {
                    let mut query = Query::new(text, None);
                    query.tolerance = Tolerance { prefix: true, typos: true };
                    let _ = collection.search(&query);
                }
            }
        }
    }
}

fn some() -> Vec<Text> {
    let text = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    vec![
        ("a".to_owned(), text(&["Refunds are paid within 30 days.", "A refund needs an invoice."])),
        ("b".to_owned(), text(&["Prices are in credits.", "Refunds of refunds do not exist."])),
        ("c".to_owned(), text(&["猫と東京タワーについて。", "Completely other things."])),
    ]
}

fn found(collection: &Collection, query: &Query<'_>) -> Vec<(String, u32)> {
    let hits = collection.search(query).unwrap();
    hits.into_iter().map(|hit| (hit.document, hit.number)).collect()
}

#[test]
fn a_hit_cites_its_chunk() {
    let collection = Collection::open(&[segment(&some())], &[]).unwrap();
    let hit = &hits(&collection, "invoice", Mode::Text)[0];
    assert_eq!((&*hit.document, hit.number, hit.page), ("a", 1, None));
    assert_eq!(hit.text, "A refund needs an invoice.");
    assert_eq!((hit.start, hit.end - hit.start), (33, hit.text.len()));
    assert_eq!(hit.headings, ["a"]);
    assert!((hit.score - 1.0).abs() < 1e-6);
    assert!(hit.scores.bm25.unwrap() > 1.0 && hit.scores.cosine.is_none());
}

#[test]
fn bm25_is_the_known_formula() {
    let documents = vec![
        ("a".to_owned(), vec!["red red blue".to_owned()]),
        ("b".to_owned(), vec!["blue".to_owned()]),
    ];
    let collection = Collection::open(&[segment(&documents)], &[]).unwrap();
    let hit = &hits(&collection, "red", Mode::Text)[0];
    // ln(1 + (2 - 1 + 0.5) / (1 + 0.5)) * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2))
    let expected = 2.0_f64.ln() * 4.4 / (2.0 + 1.2 * (0.25 + 0.75 * 1.5));
    assert!((f64::from(hit.scores.bm25.unwrap()) - expected).abs() < 1e-6);
}

#[test]
fn words_may_be_wrong_or_not_whole_only_where_asked() {
    let collection = Collection::open(&[segment(&some())], &[]).unwrap();
    let mut query = Query::new("invoixe", None);
    query.mode = Mode::Text;
    assert!(found(&collection, &query).is_empty());
    query.tolerance.typos = true;
    assert_eq!(found(&collection, &query), [("a".to_owned(), 1)]);
    query.text = "invo";
    assert!(found(&collection, &query).is_empty());
    query.tolerance.prefix = true;
    assert_eq!(found(&collection, &query), [("a".to_owned(), 1)]);
    for text in ["猫", "東京", "京"] {
        query.text = text;
        assert_eq!(found(&collection, &query), [("c".to_owned(), 0)], "{text}");
    }
}

#[test]
fn only_eight_words_may_be_wrong() {
    let collection = Collection::open(&[segment(&some())], &[]).unwrap();
    let wrong = |count: usize| {
        let words: Vec<String> = (0..count).map(|number| format!("abs{number}ent")).collect();
        words.join(" ") + " invoixe"
    };
    let tolerance = Tolerance { prefix: false, typos: true };
    let (seven, eight) = (wrong(7), wrong(8));
    let mut query = Query::new(&seven, None);
    query.tolerance = tolerance;
    assert_eq!(found(&collection, &query), [("a".to_owned(), 1)]);
    query.text = &eight;
    assert!(found(&collection, &query).is_empty());
}

#[test]
fn a_selection_and_limits_are_kept() {
    let collection = Collection::open(&[segment(&some())], &[]).unwrap();
    let selection = collection.select(|name| name == "b");
    let vector = embed("refund");
    let mut query = Query::new("refund", Some(&vector));
    query.selection = Some(&selection);
    assert!(collection.search(&query).unwrap().iter().all(|hit| hit.document == "b"));
    query.selection = None;
    query.mode = Mode::Text;
    assert_eq!(found(&collection, &query).len(), 3);
    query.per_document_max = Some(1);
    assert_eq!(found(&collection, &query).len(), 2);
    query.min_score = 1.0;
    assert_eq!(found(&collection, &query).len(), 1);
    query.top_k = 0;
    assert!(found(&collection, &query).is_empty());
}

#[test]
fn ranks_can_be_fused() {
    let collection = Collection::open(&[segment(&some())], &[]).unwrap();
    let vector = embed("A refund needs an invoice.");
    let mut query = Query::new("invoice", Some(&vector));
    query.fusion = Fusion::Ranks { text_weight: 1.0, vector_weight: 1.0 };
    let hits = collection.search(&query).unwrap();
    assert_eq!((&*hits[0].document, hits[0].number), ("a", 1));
    assert!((hits[0].score - 1.0).abs() < 1e-6);
    assert!(hits[1].score < 0.5 + 1e-6);
}

#[test]
fn what_does_not_fit_is_refused() {
    let three = Vector::new(vec![1.0, 2.0, 3.0]).unwrap();
    let mut builder = SegmentBuilder::new(Language::Plain, 4);
    let chunk = NewChunk {
        number: 0,
        start: 0,
        end: 4,
        page: None,
        headings: &[],
        text: "text",
        indexed: "text",
        vector: Some(&three),
    };
    let dimensions = Error::Dimensions { expected: 4, found: 3 };
    assert_eq!(builder.add("a", &chunk), Err(dimensions));
    let chunk = NewChunk { end: 5, vector: None, ..chunk };
    assert_eq!(builder.add("a", &chunk), Err(Error::Range { range: 5, text: 4 }));
    let plain = Arc::new(Segment::open(builder.finish().unwrap()).unwrap());
    let english = segment(&some());
    assert!(matches!(Collection::open(&[plain, Arc::clone(&english)], &[]), Err(Error::Mixed)));
    let collection = Collection::open(&[english], &[]).unwrap();
    let refused = collection.search(&Query::new("refund", Some(&three)));
    assert_eq!(refused, Err(Error::Dimensions { expected: DIMENSIONS, found: 3 }));
    assert!(Collection::open(&[], &[]).unwrap().search(&Query::new("a", None)).unwrap().is_empty());
}

#[test]
fn a_segment_without_vectors_is_searched_by_words() {
    let segment = Arc::new(Segment::open(bytes(&some(), 0)).unwrap());
    let collection = Collection::open(&[segment], &[]).unwrap();
    let vector = embed("invoice");
    assert_eq!(found(&collection, &Query::new("invoice", Some(&vector))).len(), 1);
}
