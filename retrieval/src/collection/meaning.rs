//! The vector arm: the exact cosine of all vectors, in numbers of 8 bits.

use super::top::{Found, Top};
use super::{Allowed, Collection};
use crate::bytes::signed_float;
use crate::embed::Vector;

/// The best chunks for a vector, of those whose cosine is above 0.
pub(super) fn search(
    collection: &Collection,
    vector: &Vector,
    allowed: Allowed<'_>,
    limit: usize,
) -> Vec<Found> {
    let query = vector.quantise();
    let mut top = Top::new(limit);
    for (segment, live) in (0..).zip(&collection.live) {
        let (vectors, scales) = live.segment.vectors();
        let rows = vectors.chunks_exact(query.values.len().max(1)).zip(scales);
        for ((chunk, (row, scale)), &owner) in (0..).zip(rows).zip(live.segment.owners()) {
            if !allowed.has(live, segment, owner) {
                continue;
            }
            let score = signed_float(dot(row, &query.values)) * scale * query.scale;
            if score > 0.0 && top.may_take(score) {
                live.found(score, segment, chunk, owner).into_iter().for_each(|one| top.add(one));
            }
        }
    }
    top.sorted()
}

/// The compiler makes vector instructions of it: products fit into 16 bits, and up to 130,000 of
/// them into the sum.
fn dot(row: &[u8], query: &[i8]) -> i32 {
    let product = |(one, other): (&u8, &i8)| i16::from(one.cast_signed()) * i16::from(*other);
    row.iter().zip(query).map(product).map(i32::from).sum()
}
