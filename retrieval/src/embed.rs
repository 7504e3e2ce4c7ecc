//! The vector of a text: the mean of the vectors of its word pieces, by a table in the program.
//!
//! The table knows English. It helps a search by words, it does not replace a real model.

use crate::bytes::{float, index, rounded, signed_float};
use crate::tokens;

/// Dimensions of the vectors of [`embed`].
pub const DIMENSIONS: usize = 256;

/// One row of [`DIMENSIONS`] 8-bit numbers for each word piece (`tools/distill`).
static TABLE: &[u8] = include_bytes!("../data/embedding.bin");

/// Word pieces of a text that count. It bounds the time for a text, and the sums.
const PIECES_MAX: u32 = 1 << 20;

/// A vector of length 1, or of zeros for a text that says nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Vector(Vec<f32>);

impl Vector {
    /// Scales a vector to length 1. `None` if it is empty or has a number that is not finite.
    pub fn new(mut values: Vec<f32>) -> Option<Self> {
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        if values.is_empty() || !values.iter().all(|value| value.is_finite()) {
            return None;
        }
        if largest > 0.0 {
            // By the largest first: squares of large numbers are not finite.
            for value in &mut values {
                *value /= largest;
            }
            let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
            for value in &mut values {
                *value /= length;
            }
        }
        Some(Self(values))
    }

    /// The numbers.
    pub fn values(&self) -> &[f32] {
        &self.0
    }

    /// Rounds to 8 bits a number.
    pub fn quantise(&self) -> Quantised {
        let largest = self.0.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        if largest == 0.0 {
            return Quantised { values: vec![0; self.0.len()], scale: 0.0 };
        }
        let scale = largest / 127.0;
        let values = self.0.iter().map(|value| rounded(value / scale)).collect();
        Quantised { values, scale }
    }
}

/// A vector of 8-bit numbers. `values` times `scale` is the vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantised {
    /// The numbers, -127 to 127.
    pub values: Vec<i8>,
    /// What they are to be multiplied with. 0 if all numbers are 0.
    pub scale: f32,
}

/// The vector of a text, of [`DIMENSIONS`] numbers. Only its first million word pieces count.
pub fn embed(text: &str) -> Vector {
    let mut sums = vec![0_i32; DIMENSIONS];
    let mut count = 0;
    tokens::pieces(text, |piece| {
        count += 1;
        let row = index(piece) * DIMENSIONS;
        let row = TABLE.get(row..row + DIMENSIONS);
        if let (Some(row), true) = (row, count <= PIECES_MAX) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value.cast_signed());
            }
        }
    });
    // Divided first: the length of large sums is not exact.
    let count = float(u64::from(count.clamp(1, PIECES_MAX)));
    let means = sums.into_iter().map(|sum| signed_float(sum) / count).collect();
    Vector::new(means).unwrap_or_else(|| Vector(vec![0.0; DIMENSIONS]))
}
