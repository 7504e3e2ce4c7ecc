//! The vector arm: the exact cosine of all vectors, in numbers of 8 bits.

use super::top::{FoundChunk, Top};
use super::{Allowed, Collection};
use crate::bytes::signed_float;
use crate::embed::{Quantised, Vector};

/// The best chunks for a vector, of those whose cosine is above 0.
pub(super) fn search(
    collection: &Collection,
    vector: &Vector,
    allowed: Allowed<'_>,
    limit: usize,
) -> Vec<FoundChunk> {
    let Quantised { values, scale: query_scale } = vector.quantise();
    let query: Vec<i16> = values.into_iter().map(i16::from).collect();
    let mut top = Top::new(limit);
    for (segment, live) in (0..).zip(&collection.live) {
        let (vectors, scales) = live.segment.vectors();
        let rows = vectors.chunks_exact(query.len().max(1)).zip(scales);
        for ((chunk, (row, scale)), &owner) in (0..).zip(rows).zip(live.segment.owners()) {
            if !allowed.has(live, segment, owner) {
                continue;
            }
            let score = signed_float(dot(row, &query)) * scale * query_scale;
            if score > 0.0 && top.may_take(score) {
                live.found(score, segment, chunk, owner).into_iter().for_each(|one| top.add(one));
            }
        }
    }
    top.sorted()
}

/// The compiler makes vector instructions of it, the fewest with a query of 16 bits. Up to 130,000
/// dimensions fit into the sum.
fn dot(row: &[u8], query: &[i16]) -> i32 {
    let product = |(one, other): (&u8, &i16)| i32::from(one.cast_signed()) * i32::from(*other);
    row.iter().zip(query).map(product).sum()
}
