//! The protocols of the upstreams, as far as calls are priced, limited and billed by them: which
//! fields of a request say how much it wants (`request`, `names`), which of its fields pass
//! (`passing`), and what it asks for beside (`extras`, `items`), what an answer delivers (`text`),
//! what a failure says (`refused`), how a stream is read and ended (`transcript`, `bill`), what a
//! call used part by part (`usage`), what it cannot use (`ruled_out`), and how often tools of the
//! provider may search (`hosted`).
//!
//! Chat, completions and responses are OpenAI's, messages Anthropic's (`messages`), and what is
//! generated below the name of a model Google's (`gemini`). `Native` is any other protocol: events
//! are JSON objects, `usage` is read if present, and `[DONE]` ends a stream.

mod bill;
mod closing;
mod extras;
pub mod gemini;
mod hosted;
mod items;
mod messages;
mod names;
mod passing;
mod refused;
mod request;
mod ruled_out;
mod text;
mod transcript;
mod usage;

pub use bill::{Close, ClosingBill};
pub use extras::Asked;
pub use items::KeptReasoning;
pub use names::{check_query, is_model_field};
pub use refused::{is_failed, is_only_failure, refusal_body};
pub use request::ModelRequest;
pub use text::Content;
pub use transcript::{Piece, Transcript};
pub use usage::{ToldUsage, service_named};

/// The protocol of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
    /// `/v1/responses`
    Responses,
    /// `/v1/embeddings`: a prompt, and nothing generated.
    Embeddings,
    /// `/v1/messages`
    Messages,
    /// `/v1/messages/count_tokens`: a prompt, and nothing generated.
    MessageCount,
    /// `/v1beta/models/NAME:generateContent`, and the same below `/v1`, as all of Gemini's.
    Gemini,
    /// `/v1beta/models/NAME:streamGenerateContent`
    GeminiStream,
    /// `/v1beta/models/NAME:countTokens`: a prompt, and nothing generated.
    GeminiCount,
    /// `/v1beta/models/NAME:embedContent` and `:batchEmbedContents`: prompts, and nothing
    /// generated.
    GeminiEmbeddings,
    /// Any other.
    Native,
}

impl Dialect {
    /// The protocol of a path.
    #[must_use]
    pub fn of(path: &str) -> Self {
        match path {
            "/v1/chat/completions" => Dialect::Chat,
            "/v1/completions" => Dialect::Completion,
            "/v1/responses" => Dialect::Responses,
            "/v1/embeddings" => Dialect::Embeddings,
            "/v1/messages" => Dialect::Messages,
            "/v1/messages/count_tokens" => Dialect::MessageCount,
            path => gemini::method_of(path).unwrap_or(Dialect::Native),
        }
    }

    /// Is it Gemini's?
    #[must_use]
    pub const fn is_gemini(self) -> bool {
        matches!(
            self,
            Dialect::Gemini
                | Dialect::GeminiStream
                | Dialect::GeminiCount
                | Dialect::GeminiEmbeddings
        )
    }

    /// Does it count the tokens of a prompt, and nothing else?
    #[must_use]
    pub const fn is_count(self) -> bool {
        matches!(self, Dialect::MessageCount | Dialect::GeminiCount)
    }

    /// Is it Anthropic's?
    #[must_use]
    pub const fn is_anthropic(self) -> bool {
        matches!(self, Dialect::Messages | Dialect::MessageCount)
    }

    /// Does it have answers without generated text alone?
    #[must_use]
    pub const fn only_reads(self) -> bool {
        matches!(self, Dialect::Embeddings | Dialect::GeminiEmbeddings) || self.is_count()
    }

    /// Is it a protocol with fields of its own that generates text?
    const fn is_generating(self) -> bool {
        matches!(self, Dialect::Chat | Dialect::Completion | Dialect::Responses | Dialect::Messages)
    }

    /// The fields in which requests name a token limit. Upstreams of this protocol know no others.
    const fn limit_fields(self) -> &'static [&'static str] {
        match self {
            Dialect::Chat => &["max_tokens", "max_completion_tokens"],
            Dialect::Completion | Dialect::Messages => &["max_tokens"],
            Dialect::Responses => &["max_output_tokens"],
            // Gemini's is within `generationConfig`.
            Dialect::Embeddings
            | Dialect::MessageCount
            | Dialect::Gemini
            | Dialect::GeminiStream
            | Dialect::GeminiCount
            | Dialect::GeminiEmbeddings => &[],
            Dialect::Native => &["max_tokens", "max_completion_tokens", "max_output_tokens"],
        }
    }
}
