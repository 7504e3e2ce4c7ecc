//! The text arm: BM25 over the living chunks of all segments.

use std::collections::BTreeMap;

use super::top::{FoundChunk, Top};
use super::{Allowed, Collection, Live};
use crate::analyze::{Analyzer, Word};
use crate::bytes::{float, index};

/// How soon more of a term counts less.
const SATURATION: f32 = 1.2;
/// How much a long chunk counts less.
const LENGTH_WEIGHT: f32 = 0.75;

/// Terms that one word of a query may stand for.
const VARIANTS_MAX: usize = 32;
/// Letters of the shortest word of which more may follow, and that may be wrong in one.
const PREFIX_MIN: usize = 2;
const TYPO_MIN: usize = 4;
/// How much words count that are not in the collection as they are written.
const PREFIX_WEIGHT: f32 = 0.8;
const TYPO_WEIGHT: f32 = 0.6;

/// Words of a query that count.
const WORDS_MAX: usize = 256;
/// Words of a query that may be wrong: each looks at all terms with its first letter.
const TYPOS_MAX: u32 = 8;

/// Whether words of a query may stand for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tolerance {
    /// The last word may be the begin of one.
    pub prefix: bool,
    /// A word of 4 letters or more that is in no document may have one wrong, missing, doubled or
    /// swapped letter, but not the first. So may at most 8 words of a query.
    pub typos: bool,
}

/// Terms that count as one, with the weight of each find.
struct Group {
    terms: Vec<String>,
    weight: f32,
}

/// How many factors the length of each chunk of a segment makes.
pub(super) fn norms(lengths: &[u32], average: f32) -> Vec<f32> {
    let norm = |length: &u32| {
        let share = float(u64::from(*length)) / average;
        SATURATION * (1.0 - LENGTH_WEIGHT + LENGTH_WEIGHT * share)
    };
    lengths.iter().map(norm).collect()
}

/// The best chunks for the words of a query.
pub(super) fn search(
    collection: &Collection,
    text: &str,
    tolerance: Tolerance,
    allowed: Allowed<'_>,
    limit: usize,
) -> Vec<FoundChunk> {
    let mut words = Analyzer::new(collection.language).words(text);
    words.truncate(WORDS_MAX);
    let last = words.last().cloned();
    let mut counted: BTreeMap<Word, u32> = BTreeMap::new();
    for word in words {
        *counted.entry(word).or_default() += 1;
    }
    let mut scores: Vec<Vec<f32>> =
        collection.live.iter().map(|live| vec![0.0; live.segment.len()]).collect();
    let mut typos = if tolerance.typos { TYPOS_MAX } else { 0 };
    for (word, times) in &counted {
        let may_go_on = tolerance.prefix && last.as_ref() == Some(word);
        let group = group(collection, word, may_go_on, &mut typos);
        add(collection, &group, float(u64::from(*times)), &mut scores);
    }
    let mut top = Top::new(limit);
    for ((segment, live), scores) in (0..).zip(&collection.live).zip(&scores) {
        let scored = (0..).zip(scores).zip(live.segment.owners());
        for ((chunk, &score), &owner) in scored {
            if score > 0.0 && top.may_take(score) && allowed.has(live, segment, owner) {
                live.found(score, segment, chunk, owner).into_iter().for_each(|one| top.add(one));
            }
        }
    }
    top.sorted()
}

/// What a word stands for in this collection. Dead documents have no say in it.
fn group(collection: &Collection, word: &Word, may_go_on: bool, typos: &mut u32) -> Group {
    let exact = vec![word.term.clone()];
    if word.part_of_pair {
        let mut terms = alive(collection, starting(collection, &word.term));
        terms.truncate(VARIANTS_MAX);
        return Group { terms, weight: 1.0 };
    }
    let known = frequency(collection, &word.term) > 0;
    let letters: Vec<char> = word.term.chars().collect();
    if may_go_on && word.folded.chars().count() >= PREFIX_MIN {
        let mut terms = alive(collection, starting(collection, &word.folded));
        if known && !terms.contains(&word.term) {
            terms.insert(0, word.term.clone());
        }
        terms.truncate(VARIANTS_MAX);
        if !terms.is_empty() {
            let weight = if known { 1.0 } else { PREFIX_WEIGHT };
            return Group { terms, weight };
        }
    }
    if known || *typos == 0 || letters.len() < TYPO_MIN {
        return Group { terms: exact, weight: 1.0 };
    }
    *typos -= 1;
    let first: String = letters.iter().take(1).collect();
    let near = |term: &String| {
        let other: Vec<char> = term.chars().collect();
        is_near(&letters, &other)
    };
    let near = starting(collection, &first).into_iter().filter(near).collect();
    let mut terms = alive(collection, near);
    terms.truncate(VARIANTS_MAX);
    Group { terms, weight: TYPO_WEIGHT }
}

/// The terms of all segments that begin so: the shortest first.
fn starting(collection: &Collection, prefix: &str) -> Vec<String> {
    let mut terms = Vec::new();
    for live in &collection.live {
        live.segment.scan(prefix, |term, _| terms.push(term.to_owned()));
    }
    terms.sort_unstable_by(|one, other| (one.len(), one).cmp(&(other.len(), other)));
    terms.dedup();
    terms
}

/// The first of the terms that living documents have, one more than will be used.
fn alive(collection: &Collection, terms: Vec<String>) -> Vec<String> {
    let lives = |term: &String| frequency(collection, term) > 0;
    terms.into_iter().filter(lives).take(VARIANTS_MAX + 1).collect()
}

/// In how many living chunks a term is.
fn frequency(collection: &Collection, term: &str) -> u32 {
    let count = |live: &Live| {
        let Some(entry) = live.segment.find(term) else { return 0 };
        if live.has_no_dead() {
            return entry.chunks;
        }
        let lives = |&(chunk, _): &(u32, u32)| live.has(chunk);
        u32::try_from(live.segment.postings(&entry).filter(lives).count()).unwrap_or(u32::MAX)
    };
    collection.live.iter().map(count).fold(0, u32::saturating_add)
}

/// Adds what the terms of a group say to the scores of chunks.
fn add(collection: &Collection, group: &Group, times: f32, scores: &mut [Vec<f32>]) {
    if let [term] = group.terms.as_slice() {
        let weight = rarity(collection, frequency(collection, term)) * group.weight * times;
        for (live, scores) in collection.live.iter().zip(scores) {
            let Some(entry) = live.segment.find(term) else { continue };
            score(live, live.segment.postings(&entry), weight, scores);
        }
        return;
    }
    let mut found: Vec<BTreeMap<u32, u32>> = Vec::new();
    for live in &collection.live {
        let mut chunks = BTreeMap::new();
        for entry in group.terms.iter().filter_map(|term| live.segment.find(term)) {
            for (chunk, count) in live.segment.postings(&entry).filter(|&(one, _)| live.has(one)) {
                let sum: &mut u32 = chunks.entry(chunk).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        found.push(chunks);
    }
    let frequency = found.iter().map(BTreeMap::len).sum::<usize>();
    let frequency = u32::try_from(frequency).unwrap_or(u32::MAX);
    let weight = rarity(collection, frequency) * group.weight * times;
    for ((live, chunks), scores) in collection.live.iter().zip(found).zip(scores) {
        score(live, chunks.into_iter(), weight, scores);
    }
}

fn score(live: &Live, postings: impl Iterator<Item = (u32, u32)>, weight: f32, scores: &mut [f32]) {
    for (chunk, count) in postings {
        let place = index(chunk);
        if let (Some(score), Some(norm)) = (scores.get_mut(place), live.norms.get(place)) {
            let count = float(u64::from(count));
            *score += weight * (count * (SATURATION + 1.0) / (count + norm));
        }
    }
}

/// The weight of a term that is in so many chunks.
fn rarity(collection: &Collection, frequency: u32) -> f32 {
    let (all, with) = (float(collection.chunks), float(u64::from(frequency)));
    ((all - with + 0.5) / (with + 0.5)).ln_1p()
}

/// Whether one letter was replaced, left out, added, or swapped with its neighbour.
fn is_near(one: &[char], other: &[char]) -> bool {
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    if long.len() - short.len() > 1 {
        return false;
    }
    let same = short.iter().zip(long).take_while(|(one, other)| one == other).count();
    let (short, long) = (short.get(same..).unwrap_or(&[]), long.get(same..).unwrap_or(&[]));
    if short.len() < long.len() {
        return long.get(1..) == Some(short);
    }
    match (short, long) {
        ([a, b, rest @ ..], [c, d, other @ ..]) if a == d && b == c => rest == other,
        ([_, rest @ ..], [_, other @ ..]) => rest == other,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::is_near;

    #[test]
    fn near_words_differ_by_one_letter() {
        let near = |one: &str, other: &str| {
            let (one, other): (Vec<_>, Vec<_>) = (one.chars().collect(), other.chars().collect());
            let both = (is_near(&one, &other), is_near(&other, &one));
            assert_eq!(both.0, both.1);
            both.0
        };
        for other in ["refund", "refnd", "refunds", "refumd", "reufnd", "refudn"] {
            assert!(near("refund", other), "{other}");
        }
        for other in ["ref", "fundre", "refnds", "rfeudn", "refundss"] {
            assert!(!near("refund", other), "{other}");
        }
    }
}
