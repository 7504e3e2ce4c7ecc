//! The protocols of the upstreams, as far as calls are priced, limited and billed by them: which
//! fields of a request say how much it wants (`request`, `names`) and what it asks for beside
//! (`extras`, `items`), what an answer delivers (`text`), what a failure says (`refused`), and how
//! a stream is read and ended (`transcript`, `bill`).
//!
//! Chat, completions and responses are OpenAI's. `Native` is any other protocol: events are JSON
//! objects, `usage` is read if present, and `[DONE]` ends a stream.

mod bill;
mod extras;
mod items;
mod names;
mod refused;
mod request;
mod text;
mod transcript;

pub use bill::{Bill, Close};
pub use extras::Asked;
pub use items::KeptReasoning;
pub use names::is_model_field;
pub use refused::{is_only_failure, refusal_body};
pub use request::ModelRequest;
pub use text::Content;
pub use transcript::{Piece, Transcript};

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
            _ => Dialect::Native,
        }
    }

    /// The fields in which requests name a token limit. Upstreams of this protocol know no others.
    const fn limit_fields(self) -> &'static [&'static str] {
        match self {
            Dialect::Chat => &["max_tokens", "max_completion_tokens"],
            Dialect::Completion => &["max_tokens"],
            Dialect::Responses => &["max_output_tokens"],
            Dialect::Embeddings => &[],
            Dialect::Native => &["max_tokens", "max_completion_tokens", "max_output_tokens"],
        }
    }
}
