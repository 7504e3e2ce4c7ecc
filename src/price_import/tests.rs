//! Whole files.

use std::fmt::Write as _;
use std::time::Instant;

use super::archive::tests::{gzip, zip};
use super::*;

/// `name: service over: dimension price ...` of every row, by name.
pub(super) fn lines(imported: &Imported) -> Vec<String> {
    let mut models: Vec<_> = imported.models.iter().collect();
    models.sort_by(|a, b| a.name.cmp(&b.name));
    let mut lines = Vec::new();
    for model in models {
        for row in model.card.rows() {
            let mut line = format!("{}: {} {}:", model.name, row.service.name(), row.over);
            for (dim, price) in row.rates.named() {
                let _ = write!(line, " {} {price}", dim.name());
            }
            lines.push(line);
        }
    }
    lines
}

/// Name and reason of what was refused.
pub(super) fn refusals(imported: &Imported) -> Vec<String> {
    let refused = imported.refused.iter();
    refused.map(|model| format!("{} {}", model.name, model.reason)).collect()
}

fn now() -> Timestamp {
    Timestamp::parse_rfc3339("2026-11-30T12:00:00Z").unwrap()
}

const LITELLM: &str =
    r#"{"m": {"litellm_provider": "p", "mode": "chat", "input_cost_per_token": 1e-6}}"#;
const GENAI: &str = r#"[{"id": "p", "models": [{"id": "m", "prices": {"input_mtok": 1}}]}]"#;
const GENAI_PYTHON: &str = "from decimal import Decimal\nproviders: list[Provider] = [\n\
    Provider(id='p', models=[ModelInfo(id='m', prices=ModelPrice(input_mtok=Decimal('1')))])]\n";
const MODELS_DEV: &str =
    r#"{"p": {"id": "p", "models": {"m": {"id": "m", "cost": {"input": 1}}}}}"#;

#[test]
fn a_file_is_known_by_its_content() {
    let units = format!("{{\"units\": {{}}, \"providers\": {GENAI}}}");
    for (text, format) in [
        (LITELLM, FileFormat::LiteLlm),
        (GENAI, FileFormat::GenaiPrices),
        (&units, FileFormat::GenaiPrices),
        (GENAI_PYTHON, FileFormat::GenaiPrices),
        (MODELS_DEV, FileFormat::ModelsDev),
    ] {
        for file in [text.as_bytes().to_vec(), gzip(text.as_bytes())] {
            let (found, imported) = read(&open(&file).unwrap(), None, now()).unwrap();
            assert_eq!((found, imported.models.len()), (format, 1), "{text}");
            assert!(lines(&imported)[0].ends_with("input 1.0000"));
        }
        for expected in FileFormat::ALL {
            let read = read(text, Some(expected), now());
            assert_eq!(read.is_ok(), expected == format);
            if let Err(error) = read {
                assert!(error.to_string().contains(format.name()), "{error}");
            }
        }
    }
    let wheel = zip(&[("genai_prices/data.py", GENAI_PYTHON.as_bytes())]);
    assert_eq!(read(&open(&wheel).unwrap(), None, now()).unwrap().0, FileFormat::GenaiPrices);
}

#[test]
fn an_unknown_form_says_what_was_expected() {
    for text in ["{}", "[]", "1", "{\"a\": {\"b\": 1}}", "[{\"id\": \"x\"}]"] {
        let error = read(text, None, now()).unwrap_err().to_string();
        assert!(error.contains("LiteLLM") && error.contains("models.dev"), "{error}");
    }
    assert!(matches!(read("hello", None, now()), Err(ImportError::NotJson(_))));
}

/// Reads the files that the variable names, separated by `:`. They are other people's, so none is
/// kept here.
#[test]
#[expect(clippy::disallowed_methods, clippy::print_stderr, reason = "counts for who has the files")]
fn public_files_are_read() {
    let Ok(files) = std::env::var("POLYSYSTEMS_PRICE_FILES") else { return };
    for file in files.split(':') {
        let bytes = std::fs::read(file).unwrap();
        let began = Instant::now();
        let (format, imported) = read(&open(&bytes).unwrap(), None, now()).unwrap();
        let took = began.elapsed();
        let free = imported.models.iter().filter(|model| model.is_free()).count();
        eprintln!(
            "{file}: {}, {} models read ({free} free), {} refused, {took:?}",
            format.name(),
            imported.models.len(),
            imported.refused.len()
        );
        if std::env::var("POLYSYSTEMS_PRICE_FILES_SHOW").is_ok() {
            for refused in refusals(&imported) {
                eprintln!("refused\t{refused}");
            }
            for model in &imported.models {
                for note in &model.notes {
                    eprintln!("note\t{}\t{note}", model.name);
                }
            }
            for line in lines(&imported) {
                eprintln!("line\t{line}");
            }
        }
        assert!(took.as_secs() < 2, "{took:?}");
        if format == FileFormat::LiteLlm {
            assert!(imported.models.len() >= 4_600, "{}", imported.models.len());
        }
    }
}
