//! The paths of Gemini's routes: `/v1beta/models/NAME:METHOD`, and the same below `/v1`.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::upstream::dialect::Dialect;

/// What is before the name of a model.
const ROOTS: [&str; 2] = ["/v1beta/models/", "/v1/models/"];

/// A path, taken apart.
struct Named<'p> {
    root: &'static str,
    /// As it is written in the path.
    model: &'p str,
    method: &'p str,
}

/// A name may have `/`, `:` and `.`, so what follows the last `:` is the method.
fn named(path: &str) -> Option<Named<'_>> {
    let (root, rest) = ROOTS.into_iter().find_map(|root| Some((root, path.strip_prefix(root)?)))?;
    let (model, method) = rest.rsplit_once(':')?;
    (!model.is_empty()).then_some(Named { root, model, method })
}

/// The protocol of a path of Gemini's that calls a method of a model.
pub(in crate::upstream::dialect) fn method_of(path: &str) -> Option<Dialect> {
    match named(path)?.method {
        "generateContent" => Some(Dialect::Gemini),
        "streamGenerateContent" => Some(Dialect::GeminiStream),
        "countTokens" => Some(Dialect::GeminiCount),
        "embedContent" | "batchEmbedContents" => Some(Dialect::GeminiEmbeddings),
        _ => None,
    }
}

/// The model that a path of Gemini's names.
#[must_use]
pub fn model_of(path: &str) -> Option<Cow<'_, str>> {
    method_of(path)?;
    percent_decode_str(named(path)?.model).decode_utf8().ok()
}

/// The path that prices are for: with `*` for the name of a model, which anybody can invent. It is
/// what usage records have, too.
#[must_use]
pub fn priced_path(path: &str) -> Cow<'_, str> {
    match named(path).filter(|_| method_of(path).is_some()) {
        Some(Named { root, method, .. }) => format!("{root}*:{method}").into(),
        None => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_model_and_a_method() {
        for (path, model, dialect, priced) in [
            (
                "/v1beta/models/gemini-x:generateContent",
                Some("gemini-x"),
                Dialect::Gemini,
                "/v1beta/models/*:generateContent",
            ),
            (
                "/v1/models/google/gemini-2.5:free:streamGenerateContent",
                Some("google/gemini-2.5:free"),
                Dialect::GeminiStream,
                "/v1/models/*:streamGenerateContent",
            ),
            (
                "/v1beta/models/a%20b:countTokens",
                Some("a b"),
                Dialect::GeminiCount,
                "/v1beta/models/*:countTokens",
            ),
            (
                "/v1beta/models/*:embedContent",
                Some("*"),
                Dialect::GeminiEmbeddings,
                "/v1beta/models/*:embedContent",
            ),
            (
                "/v1beta/models/m:batchEmbedContents",
                Some("m"),
                Dialect::GeminiEmbeddings,
                "/v1beta/models/*:batchEmbedContents",
            ),
            ("/v1beta/models/m", None, Dialect::Native, "/v1beta/models/m"),
            ("/v1beta/models/m:predict", None, Dialect::Native, "/v1beta/models/m:predict"),
            (
                "/v1beta/models/m:GenerateContent",
                None,
                Dialect::Native,
                "/v1beta/models/m:GenerateContent",
            ),
            (
                "/v1beta/models/:generateContent",
                None,
                Dialect::Native,
                "/v1beta/models/:generateContent",
            ),
            (
                "/v1betamodels/m:generateContent",
                None,
                Dialect::Native,
                "/v1betamodels/m:generateContent",
            ),
            ("/v1/models/llama3:8b", None, Dialect::Native, "/v1/models/llama3:8b"),
        ] {
            assert_eq!(model_of(path).as_deref(), model, "{path}");
            assert_eq!(Dialect::of(path), dialect, "{path}");
            assert_eq!(priced_path(path), priced, "{path}");
            // What prices are for is one of its own paths.
            assert_eq!(priced_path(priced), priced);
            assert_eq!(Dialect::of(priced), dialect);
        }
    }
}
