//! What chunks cite, whatever the document is.
#![expect(clippy::unwrap_used, reason = "a test that fails by a panic has done its work")]

use proptest::prelude::*;
use retrieval::chunk::{Chunk, Chunking, Size, chunk, count_tokens};
use retrieval::document::{Block, Document, Kind, Page};

/// A document of parts, each on lines of its own.
fn document(parts: &[(Kind, String)]) -> Document {
    let mut document = Document::default();
    for (kind, text) in parts {
        let start = document.text.len();
        document.text.push_str(text);
        document.blocks.push(Block { kind: *kind, start, end: document.text.len() });
        document.text.push_str("\n\n");
    }
    document
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (1_u8..=6).prop_map(Kind::Heading),
        Just(Kind::Paragraph),
        Just(Kind::ListItem),
        Just(Kind::Code),
        Just(Kind::Table),
        Just(Kind::Quote),
    ]
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z ]{0,40}",
        "([a-zé]{1,9}[ .!\n]){0,300}",
        "[語京東一。]{0,700}",
        "\\PC{0,300}",
        Just("x".repeat(9_000)),
        Just("| a | b |\n|---|---|\n".to_owned() + &"| one cell | another |\n".repeat(200)),
    ]
}

fn chunkings() -> impl Strategy<Value = Chunking> {
    prop_oneof![
        4 => Just(Chunking::Auto),
        4 => (100_usize..400, 0_usize..=200).prop_map(|(max, overlap)| {
            Chunking::Static(Size::new(max, overlap.min(max / 2)).unwrap())
        }),
        1 => Just(Chunking::Delimiter("\n\n".to_owned())),
        1 => Just(Chunking::None),
    ]
}

fn max(chunking: &Chunking) -> usize {
    match chunking {
        Chunking::Auto => 400,
        Chunking::Static(size) => size.max(),
        Chunking::Delimiter(_) => 4096,
        Chunking::None => usize::MAX,
    }
}

fn check(document: &Document, chunking: &Chunking) {
    let text = &document.text;
    let chunks = chunk(document, chunking);
    let mut covered = 0;
    for one in &chunks {
        let cited = text.get(one.start..one.end).unwrap();
        assert_eq!(one.text(document), cited);
        assert!(!cited.trim().is_empty() && cited.trim() == cited, "{cited:?}");
        let gap = text.get(covered.min(one.start)..one.start).unwrap();
        assert!(gap.trim().is_empty(), "left out: {gap:?}");
        assert!(one.end > covered, "a chunk that brings nothing new");
        covered = one.end;
        let tokens = count_tokens(&one.piece(document));
        assert!(tokens <= max(chunking), "{tokens} tokens: {one:?}");
    }
    assert!(text.get(covered..).unwrap().trim().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn chunks_cover_all_and_keep_to_their_size(
        parts in prop::collection::vec((kinds(), texts()), 0..8),
        chunking in chunkings(),
    ) {
        check(&document(&parts), &chunking);
    }

    #[test]
    fn forged_blocks_do_no_harm(
        text in texts(),
        blocks in prop::collection::vec((kinds(), 0_usize..900, 0_usize..900), 0..9),
        pages in prop::collection::vec(0_usize..900, 0..4),
    ) {
        let blocks = blocks.into_iter().map(|(kind, start, end)| Block { kind, start, end });
        let pages = pages.into_iter().map(|start| Page { start, number: 1 });
        let document = Document { text, blocks: blocks.collect(), pages: pages.collect() };
        check(&document, &Chunking::Auto);
    }
}

fn words(count: usize) -> String {
    let words: Vec<String> = (0..count).map(|number| format!("word{}", number % 7)).collect();
    words.join(" ")
}

fn headings(chunk: &Chunk) -> Vec<&str> {
    chunk.headings.iter().map(String::as_str).collect()
}

#[test]
fn a_section_is_a_chunk_with_its_path() {
    let document = document(&[
        (Kind::Heading(1), "# Billing".to_owned()),
        (Kind::Heading(2), "## Refunds".to_owned()),
        (Kind::Paragraph, "Within 30 days.".to_owned()),
        (Kind::Heading(2), "## Taxes".to_owned()),
        (Kind::Paragraph, "By country.".to_owned()),
    ]);
    let chunks = chunk(&document, &Chunking::Auto);
    assert_eq!(chunks.len(), 2);
    assert_eq!(headings(&chunks[0]), ["Billing", "Refunds"]);
    assert_eq!(chunks[0].indexed(&document), "# Billing\n\n## Refunds\n\nWithin 30 days.");
    assert_eq!(headings(&chunks[1]), ["Billing", "Taxes"]);
    assert_eq!(chunks[1].indexed(&document), "Billing\n## Taxes\n\nBy country.");
}

#[test]
fn a_table_stays_with_its_heading_and_repeats_its_header_row() {
    let table = "| item | price |\n|---|---|\n".to_owned() + &"| an item | 12 |\n".repeat(200);
    let document = document(&[
        (Kind::Heading(1), "Prices".to_owned()),
        (Kind::Table, table.trim().to_owned()),
    ]);
    let chunks = chunk(&document, &Chunking::Auto);
    assert!(chunks.len() > 2);
    assert!(chunks[0].text(&document).starts_with("Prices\n\n| item | price |\n|---|---|\n| an"));
    assert_eq!(chunks[0].header, None);
    let mut end = chunks[0].end;
    for one in &chunks[1..] {
        assert_eq!(headings(one), ["Prices"]);
        let indexed = one.indexed(&document);
        assert!(indexed.starts_with("Prices\n| item | price |\n|---|---|\n| an item"), "{indexed}");
        assert!(one.text(&document).ends_with("| 12 |"), "rows are whole");
        assert!(one.start >= end, "rows are in one chunk only");
        end = one.end;
    }
}

#[test]
fn long_text_overlaps_and_is_cut_after_sentences() {
    let sentence = words(20) + ". ";
    let document = document(&[(Kind::Paragraph, sentence.repeat(60).trim().to_owned())]);
    let chunks = chunk(&document, &Chunking::Auto);
    assert!(chunks.len() > 2);
    for pair in chunks.windows(2) {
        assert!(pair[0].text(&document).ends_with('.'));
        assert!(pair[1].start < pair[0].end);
        let shared = &document.text[pair[1].start..pair[0].end];
        assert!((40..=60).contains(&count_tokens(shared)), "{}", count_tokens(shared));
    }
}

#[test]
fn a_chunk_has_the_page_on_which_it_begins() {
    let mut document = document(&[
        (Kind::Heading(1), "One".to_owned()),
        (Kind::Paragraph, words(10)),
        (Kind::Heading(1), "Two".to_owned()),
        (Kind::Paragraph, words(10)),
    ]);
    let second = document.blocks[2].start;
    document.pages = vec![Page { start: 0, number: 1 }, Page { start: second, number: 2 }];
    let pages: Vec<_> = chunk(&document, &Chunking::Auto).iter().map(|one| one.page).collect();
    assert_eq!(pages, [Some(1), Some(2)]);
}

#[test]
fn delimiters_and_none_do_what_they_say() {
    let text = "one---two---three".to_owned();
    let document = Document { text, ..Document::default() };
    let cited = |chunking| -> Vec<String> {
        chunk(&document, &chunking).iter().map(|one| one.text(&document).to_owned()).collect()
    };
    assert_eq!(cited(Chunking::Delimiter("---".to_owned())), ["one---", "two---", "three"]);
    assert_eq!(cited(Chunking::None), ["one---two---three"]);
    assert!(chunk(&Document::default(), &Chunking::Auto).is_empty());
}

#[test]
fn sizes_are_those_of_openai() {
    assert!(Size::new(100, 50).is_some() && Size::new(4096, 2048).is_some());
    assert!(Size::new(99, 0).is_none() && Size::new(4097, 0).is_none());
    assert!(Size::new(800, 401).is_none());
    assert_eq!(Size::new(800, 400), Some(Size::default()));
}

/// Quadratic work would take hours on this.
#[test]
fn one_endless_line_is_cut() {
    const BYTES: usize = 4_000_000;
    for unit in ["x", "ab,", "a ", "語"] {
        let text = unit.repeat(BYTES / unit.len());
        let end = text.trim_end().len();
        let document = Document { text, ..Document::default() };
        let chunks = chunk(&document, &Chunking::Auto);
        assert!(chunks.len() > 100, "{unit:?}: {}", chunks.len());
        assert_eq!(chunks.last().unwrap().end, end, "{unit:?}");
    }
}
