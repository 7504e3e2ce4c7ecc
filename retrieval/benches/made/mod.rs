//! Made text: chunks of common and rare words, always the same.

use std::sync::Arc;

use retrieval::analyze::Language;
use retrieval::collection::Collection;
use retrieval::embed::{DIMENSIONS, embed};
use retrieval::segment::{NewChunk, Segment, SegmentBuilder};

/// Words of a chunk: about 880 characters.
const WORDS: usize = 130;

/// Draws words of the embedding's vocabulary: the word of rank n about 1/n times.
pub(crate) struct Words {
    words: Vec<&'static str>,
    state: u64,
}

impl Words {
    pub(crate) fn new() -> Self {
        let words = include_str!("../../data/vocabulary.txt")
            .lines()
            .filter(|word| word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_lowercase()));
        Self { words: words.collect(), state: 88_172_645_463_325_252 }
    }

    fn draw(&mut self) -> f64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        f64::from(u32::try_from(self.state >> 32).unwrap()) / f64::from(u32::MAX)
    }

    pub(crate) fn text(&mut self, words: usize) -> String {
        let mut text = String::new();
        for _ in 0..words {
            let ranks = f64::from(u32::try_from(self.words.len() - 1).unwrap());
            let rank = ranks.powf(self.draw());
            #[expect(
                clippy::as_conversions,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rank is a small number"
            )]
            let word = self.words[rank as usize];
            text.push_str(word);
            text.push(' ');
        }
        text
    }

    pub(crate) fn chunk(&mut self) -> String {
        self.text(WORDS)
    }
}

/// Embeds and indexes chunks, ten of them a document.
pub(crate) fn segment(texts: &[String]) -> Vec<u8> {
    let mut builder = SegmentBuilder::new(Language::English, DIMENSIONS);
    for (number, text) in (0..).zip(texts) {
        let vector = embed(text);
        let chunk = NewChunk {
            number: number % 10,
            start: 0,
            end: text.len(),
            page: None,
            headings: &[],
            text,
            indexed: text,
            vector: Some(&vector),
        };
        builder.add(&format!("document-{}", number / 10), &chunk).unwrap();
    }
    builder.finish().unwrap()
}

pub(crate) fn collection(bytes: Vec<u8>) -> Collection {
    Collection::open(&[Arc::new(Segment::open(bytes).unwrap())], &[]).unwrap()
}
