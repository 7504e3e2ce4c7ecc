//! The span of the call to an upstream, after OpenTelemetry's conventions for generative AI. It
//! ends with the answer: if that is a stream, with the stream.

use tracing::Span;
use tracing::field::Empty;

use super::charge::ChargedCall;
use crate::telemetry::SPANS;
use crate::upstream::Dialect;
use domain::TokenUsage;

/// What the call is for, and whose protocol it speaks, as the conventions name them.
fn operation(dialect: Dialect) -> Option<(&'static str, &'static str)> {
    match dialect {
        Dialect::Chat | Dialect::Responses => Some(("chat", "openai")),
        Dialect::Completion => Some(("text_completion", "openai")),
        Dialect::Embeddings => Some(("embeddings", "openai")),
        Dialect::Messages => Some(("chat", "anthropic")),
        Dialect::Gemini | Dialect::GeminiStream => Some(("generate_content", "gcp.gemini")),
        Dialect::GeminiEmbeddings => Some(("embeddings", "gcp.gemini")),
        Dialect::MessageCount | Dialect::GeminiCount | Dialect::Native => None,
    }
}

/// The span, with what is known before the call.
pub(super) fn upstream(charged: &ChargedCall) -> Span {
    let span = tracing::info_span!(
        target: SPANS,
        "upstream",
        otel.kind = "client",
        otel.status_code = Empty,
        "error.type" = Empty,
        "gen_ai.operation.name" = Empty,
        "gen_ai.provider.name" = Empty,
        "gen_ai.request.model" = Empty,
        "gen_ai.request.max_tokens" = Empty,
        "gen_ai.usage.input_tokens" = Empty,
        "gen_ai.usage.output_tokens" = Empty,
    );
    if span.is_disabled() {
        return span;
    }
    if let Some((operation, provider)) = operation(charged.dialect()) {
        span.record("gen_ai.operation.name", operation);
        span.record("gen_ai.provider.name", provider);
    }
    // Of a model that is sold: any other text of a request may be anything.
    if let Some(model) = charged.model() {
        span.record("gen_ai.request.model", &*model.found.name);
    }
    if let Some(limit) = charged.token_limit() {
        span.record("gen_ai.request.max_tokens", count(limit));
    }
    span
}

/// A number as exporters take it.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Ends the span with the tokens that are billed, and the status of our own answer if the upstream
/// has failed.
pub(super) fn end(span: &Span, tokens: TokenUsage, failed: Option<u16>) {
    if span.is_disabled() {
        return;
    }
    if tokens.prompt > 0 || tokens.completion > 0 {
        span.record("gen_ai.usage.input_tokens", count(tokens.prompt));
        span.record("gen_ai.usage.output_tokens", count(tokens.completion));
    }
    if let Some(status) = failed {
        span.record("error.type", &*status.to_string());
        span.record("otel.status_code", "ERROR");
    }
}
