//! Makes one segment of several, without their dead documents.

use super::{DocumentSet, Error, Segment, SegmentBuilder};
use crate::bytes::index;
use crate::embed::Quantised;

/// The bytes of a segment that has the living documents of all. `dead` has a set for each segment;
/// one that is not there is empty. Nothing is analysed or embedded again.
pub fn merge(segments: &[&Segment], dead: &[DocumentSet]) -> Result<Vec<u8>, Error> {
    let first = segments.first();
    let language = first.map(|segment| segment.language()).unwrap_or_default();
    let dimensions = first.map_or(0, |segment| segment.dimensions());
    let mixed = |one: &&Segment| one.language() != language || one.dimensions() != dimensions;
    if segments.iter().any(mixed) {
        return Err(Error::Mixed);
    }
    let mut builder = SegmentBuilder::new(language, dimensions);
    let nothing = DocumentSet::default();
    for (number, segment) in segments.iter().enumerate() {
        append(&mut builder, segment, dead.get(number).unwrap_or(&nothing))?;
    }
    builder.finish()
}

fn append(
    builder: &mut SegmentBuilder,
    segment: &Segment,
    dead: &DocumentSet,
) -> Result<(), Error> {
    let broken = Error::Broken("a chunk cannot be read");
    let (vectors, scales) = segment.vectors();
    let dimensions = segment.dimensions();
    // The new number of each chunk that lives.
    let mut numbers: Vec<Option<u32>> = Vec::with_capacity(segment.len());
    let mut quotes = segment.quotes();
    for ((chunk, &owner), &length) in (0..).zip(segment.owners()).zip(segment.lengths()) {
        let text = quotes.next().ok_or_else(|| broken.clone())?;
        if dead.contains(owner) {
            numbers.push(None);
            continue;
        }
        let row = segment.row(chunk).ok_or_else(|| broken.clone())?;
        let document = segment.documents().get(index(owner)).ok_or_else(|| broken.clone())?;
        let start = index(chunk) * dimensions;
        let vector = vectors.get(start..start + dimensions).zip(scales.get(index(chunk)));
        let vector = vector.map(|(values, &scale)| Quantised {
            values: values.iter().map(|value| value.cast_signed()).collect(),
            scale,
        });
        numbers.push(Some(u32::try_from(builder.len()).map_err(|_| Error::Full)?));
        let headings = segment.headings(&row);
        builder.push(document, &row, headings, text, length, vector.as_ref())?;
    }
    segment.scan("", |term, entry| {
        let Some(postings) = builder.postings(term) else { return };
        for (chunk, times) in segment.postings(entry) {
            if let Some(number) = numbers.get(index(chunk)).copied().flatten() {
                postings.add(number, times);
            }
        }
    });
    Ok(())
}
