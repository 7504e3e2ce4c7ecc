//! One order of what was found by words and what was found by meaning.

use std::collections::HashMap;

use crate::bytes::{float, wide};
use crate::collection::{ARM, FoundChunk};

/// The weight of the vector arm with the vectors of [`crate::embed::embed`].
pub const STATIC_TABLE_WEIGHT: f32 = 0.3;
/// The weight of the vector arm with the vectors of a model.
pub const MODEL_WEIGHT: f32 = 0.4;

/// What softens the first ranks.
const RANK_OFFSET: f32 = 60.0;

/// How the arms are fused.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fusion {
    /// By scores: each arm's from 0 (the 100th) to 1 (the best). The text arm has the rest of the
    /// weight.
    Relative {
        /// The weight of the vector arm, 0 to 1.
        vector_weight: f32,
    },
    /// By ranks (reciprocal rank fusion), as OpenAI's `hybrid_search`. The best that both arms
    /// could give has the score 1.
    Ranks {
        /// The weight of the text arm, 0 or more.
        text_weight: f32,
        /// The weight of the vector arm, 0 or more.
        vector_weight: f32,
    },
}

/// What each arm says of a hit. `None`: the arm did not find it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Scores {
    /// By words, 0 to 1.
    pub text: Option<f32>,
    /// By meaning, 0 to 1.
    pub vector: Option<f32>,
    /// BM25.
    pub bm25: Option<f32>,
    /// The cosine of the vectors.
    pub cosine: Option<f32>,
}

/// All that was found, with its fused score, the best first.
pub(crate) fn fuse(
    text: &[FoundChunk],
    vector: &[FoundChunk],
    fusion: Fusion,
) -> Vec<(FoundChunk, Scores)> {
    let (text_weight, vector_weight) = match fusion {
        Fusion::Relative { vector_weight } => {
            let vector_weight = vector_weight.clamp(0.0, 1.0);
            (1.0 - vector_weight, vector_weight)
        }
        Fusion::Ranks { text_weight, vector_weight } => {
            let (text, vector) = (text_weight.max(0.0), vector_weight.max(0.0));
            let sum = if text + vector > 0.0 { text + vector } else { 1.0 };
            (text / sum, vector / sum)
        }
    };
    let mut all: HashMap<(u32, u32), (FoundChunk, Scores)> = HashMap::new();
    for (found, score) in text.iter().zip(relative(text, fusion)) {
        let (_, scores) = all.entry(found.key()).or_insert((*found, Scores::default()));
        (scores.text, scores.bm25) = (Some(score), Some(found.score));
    }
    for (found, score) in vector.iter().zip(relative(vector, fusion)) {
        let (_, scores) = all.entry(found.key()).or_insert((*found, Scores::default()));
        (scores.vector, scores.cosine) = (Some(score), Some(found.score));
    }
    let mut fused: Vec<(FoundChunk, Scores)> = all.into_values().collect();
    for (found, scores) in &mut fused {
        let (text, vector) = (scores.text.unwrap_or(0.0), scores.vector.unwrap_or(0.0));
        found.score = text_weight * text + vector_weight * vector;
    }
    fused.sort_unstable_by_key(|(found, _)| std::cmp::Reverse(*found));
    fused
}

/// The scores of an arm, 0 to 1.
fn relative(arm: &[FoundChunk], fusion: Fusion) -> Vec<f32> {
    if let Fusion::Ranks { .. } = fusion {
        let rank = |place: usize| (RANK_OFFSET + 1.0) / (RANK_OFFSET + float(wide(place)));
        return (1..=arm.len()).map(rank).collect();
    }
    let best = arm.first().map_or(0.0, |found| found.score);
    // An arm that is not full has found all that is above 0.
    let lowest = arm.get(ARM - 1).map_or(0.0, |found| found.score);
    let range = best - lowest;
    let scale = |found: &FoundChunk| {
        if range > 0.0 { ((found.score - lowest) / range).max(0.0) } else { 1.0 }
    };
    arm.iter().map(scale).collect()
}
