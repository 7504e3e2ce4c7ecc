//! The tokenizer against the pieces that the `tokenizers` wheel gives for the same texts
//! (`tools/distill/word_pieces.py`).

use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    text: String,
    pieces: Vec<u32>,
}

#[test]
fn pieces_are_those_of_the_models_own_tokenizer() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("word_pieces.json")).unwrap();
    assert!(cases.len() > 80);
    for case in cases {
        let mut pieces = Vec::new();
        retrieval::tokens::pieces(&case.text, |piece| pieces.push(piece));
        assert_eq!(pieces, case.pieces, "{:?}", case.text);
    }
}
