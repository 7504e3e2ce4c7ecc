//! The vectors of texts.

use proptest::prelude::*;
use retrieval::embed::{DIMENSIONS, Vector, embed};

fn cosine(one: &Vector, other: &Vector) -> f32 {
    one.values().iter().zip(other.values()).map(|(one, other)| one * other).sum()
}

/// The numbers are NumPy's, by the same table and the model's own tokenizer.
#[test]
fn cosines_are_those_of_the_table() {
    let question = "How do I get a refund?";
    for (one, other, expected) in [
        (question, "Returning a product and getting the money back", 0.318_721),
        (question, "The capital of France is Paris", 0.004_090),
        ("naïve café", "naive cafe", 1.0),
    ] {
        let found = cosine(&embed(one), &embed(other));
        assert!((found - expected).abs() < 1e-5, "{one:?}, {other:?}: {found}");
    }
}

#[test]
fn a_text_that_says_nothing_has_no_direction() {
    for text in ["", " \n", "\u{200b}", "\u{e000}"] {
        assert_eq!(embed(text).values(), [0.0; DIMENSIONS]);
    }
    assert!(embed("").quantise().scale.abs() < f32::EPSILON);
}

#[test]
fn only_vectors_with_a_direction_or_zeros_are_taken() {
    assert_eq!(Vector::new(Vec::new()), None);
    assert_eq!(Vector::new(vec![1.0, f32::NAN]), None);
    assert_eq!(Vector::new(vec![f32::INFINITY]), None);
    assert_eq!(Vector::new(vec![3e38, 2e38]).map(|one| one.values().len()), Some(2));
}

proptest! {
    #[test]
    fn rounding_to_8_bits_keeps_the_cosine(
        values in prop::collection::vec(-1.0_f32..1.0, 256),
        other in prop::collection::vec(-1.0_f32..1.0, 256),
    ) {
        let one = Vector::new(values).unwrap();
        let other = Vector::new(other).unwrap();
        let small = one.quantise();
        let back = small.values.iter().map(|&value| f32::from(value) * small.scale).collect();
        let back = Vector::new(back).unwrap();
        prop_assert!((cosine(&one, &one) - 1.0).abs() < 1e-4);
        prop_assert!((cosine(&one, &other) - cosine(&back, &other)).abs() < 0.01);
    }
}
