//! `[upstreams]`, and `[holds]` and `[idempotency]` of the calls that they serve.

use std::num::{NonZeroU32, NonZeroU64};

use serde::{Deserialize, Serialize};

use super::{Secret, non_zero};

/// `[upstreams]`: the services that answer paid calls, one for each route group.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamsSettings {
    /// How long connecting to an upstream may take, in seconds.
    pub connect_timeout_seconds: NonZeroU64,
    /// Upstream of `/api/hub/*`.
    pub hub: UpstreamSettings,
    /// Upstream of `/api/omm/*`.
    pub omm: UpstreamSettings,
    /// Upstream of `/api/yggdrasil/*`.
    pub yggdrasil: UpstreamSettings,
    /// Upstream of `/v1/*`.
    pub v1: UpstreamSettings,
}

impl UpstreamsSettings {
    /// The route groups by name, each with its upstream.
    #[must_use]
    pub fn groups(&self) -> [(&'static str, &UpstreamSettings); 4] {
        [("hub", &self.hub), ("omm", &self.omm), ("yggdrasil", &self.yggdrasil), ("v1", &self.v1)]
    }
}

impl Default for UpstreamsSettings {
    fn default() -> Self {
        UpstreamsSettings {
            connect_timeout_seconds: non_zero::u64(5),
            hub: UpstreamSettings::default(),
            omm: UpstreamSettings::default(),
            yggdrasil: UpstreamSettings::default(),
            v1: UpstreamSettings::default(),
        }
    }
}

/// `[upstreams.<group>]`: the upstream of one route group: `hub`, `omm`, `yggdrasil` or `v1`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamSettings {
    /// Base URL of the upstream. The whole path of a call, such as `/v1/models`, and its query are
    /// appended. If it is unset, the built-in sandbox answers.
    pub url: Option<String>,
    /// API key that is sent to the upstream as `Authorization: Bearer`.
    pub api_key: Option<Secret>,
    /// Base URL for calls that failed at `url`. If it is unset, there is no fallback.
    pub fallback_url: Option<String>,
    /// API key that is sent to the fallback as `Authorization: Bearer`.
    pub fallback_api_key: Option<Secret>,
    /// How often a call that failed before its first byte is sent again to `url`, before the
    /// fallback is tried.
    pub retries: u32,
    /// How long one attempt may take until its answer is complete, or until the first byte of a
    /// stream, in seconds. What the upstream may have done by then is billed.
    pub timeout_seconds: NonZeroU64,
    /// How long the upstream may send nothing in a stream, in seconds. After that the stream ends
    /// with an error, and is billed as if its client had left.
    pub stream_idle_seconds: NonZeroU64,
    /// What happens to a stream whose client leaves. The prompt is billed in any case. `cancel`
    /// ends it and bills what was delivered, and all that is held if the model can think unseen.
    /// `drain` reads it to its end and bills what the upstream reports. `auto` drains if the model
    /// can think unseen, and cancels if all it generates is shown.
    pub on_disconnect: OnDisconnect,
    /// Name of the token limit in chat requests to this upstream: `max_tokens` or
    /// `max_completion_tokens`. Set it if the upstream accepts only one of them. If it is unset,
    /// the request's own name is kept; `max_tokens` is used if the request has no limit.
    pub token_limit_field: Option<TokenLimitField>,
    /// Names of headers of requests that pass to the upstream, beside those that pass anyway.
    /// Headers that the server writes itself, and secrets, cannot be named.
    pub request_headers: Vec<String>,
    /// Names of headers of answers that pass back to the client, beside those that pass anyway.
    pub answer_headers: Vec<String>,
    /// Largest answer that is not a stream, in bytes. A larger one is not passed on, and billed as
    /// far as it has come.
    pub response_max_bytes: usize,
    /// Names of the models that are sold. `*` stands for any text; case does not matter. If it is
    /// empty, every model that the upstream's key reaches is sold at the price of its route.
    pub models: Vec<String>,
    /// Names of fields of token-priced requests to `/v1` that pass to the upstream, beside those
    /// that pass anyway. List none that costs more than the tokens that are held for.
    pub request_fields: Vec<String>,
    /// Names in the query of token-priced requests to `/v1` that pass to the upstream. Without
    /// them, such a request may have no query but `beta` on `/v1/messages`, and `alt` on Gemini's
    /// routes. Names of fields that the server reads, such as `model`, never pass.
    pub query_parameters: Vec<String>,
    /// Values of `OpenAI-Beta` and `Anthropic-Beta` that pass to the upstream, beside those that
    /// pass anyway. List none that changes prices.
    pub beta_features: Vec<String>,
    /// Does the upstream report the usage of every answer? If true, an answer without usage of a
    /// model that can think unseen is billed with all that is held. If false, what was delivered is
    /// counted and billed.
    pub reports_usage: bool,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        UpstreamSettings {
            url: None,
            api_key: None,
            fallback_url: None,
            fallback_api_key: None,
            retries: 0,
            timeout_seconds: non_zero::u64(300),
            stream_idle_seconds: non_zero::u64(120),
            on_disconnect: OnDisconnect::Auto,
            token_limit_field: None,
            request_headers: Vec::new(),
            answer_headers: Vec::new(),
            response_max_bytes: 64 * 1024 * 1024,
            models: Vec::new(),
            request_fields: Vec::new(),
            query_parameters: Vec::new(),
            beta_features: Vec::new(),
            reports_usage: true,
        }
    }
}

/// What happens to a stream whose client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// `Drain` if the model can think unseen or the prompt has parts that only the upstream can
    /// count, else `Cancel`.
    Auto,
    /// The upstream is cancelled. The prompt and what was delivered are billed, and all that is
    /// held if the model can think unseen.
    Cancel,
    /// The upstream is read to its end, and what it reports is billed.
    Drain,
}

/// Name of the token limit in a chat request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenLimitField {
    /// `max_tokens`
    MaxTokens,
    /// `max_completion_tokens`
    MaxCompletionTokens,
}

impl TokenLimitField {
    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            TokenLimitField::MaxTokens => "max_tokens",
            TokenLimitField::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// `[holds]`: credits that are held for calls whose price is known only at their end.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HoldSettings {
    /// If true, a call that the balance or a limit covers only in part starts with a lower token
    /// limit. If false, it is refused.
    pub lower_token_limit: bool,
    /// Completion tokens that the balance must cover before such a call, or a stream, starts. If a
    /// request asks for several choices, for each of them.
    pub start_tokens: NonZeroU64,
    /// Completion tokens of each choice that a stream holds when it starts. Each extension of the
    /// hold is twice as large as the last one, up to `step_tokens_max`.
    pub step_tokens: NonZeroU64,
    /// Largest extension of a stream's hold, in completion tokens of each choice.
    pub step_tokens_max: NonZeroU64,
    /// A call to a model of the catalogue that can think unseen holds one part in so many of what
    /// is available when it starts, or the most that it can cost if that is less. Its token limit
    /// is what that pays for.
    pub hidden_share: NonZeroU32,
    /// The same for a stream of a model of the catalogue that shows all that it generates. Its hold
    /// is extended while it goes on.
    pub visible_share: NonZeroU32,
    /// Longest duration of a stream, in seconds.
    pub stream_seconds_max: NonZeroU64,
    /// How long a client may read nothing from a stream, in seconds. After that it counts as gone.
    pub reader_seconds: NonZeroU64,
    /// How long an upstream is heard after its client has left, in seconds. After that it is
    /// cancelled.
    pub drain_seconds: NonZeroU64,
    /// Names of models that can think unseen: they generate tokens that their answers do not show.
    /// `*` stands for any text; case does not matter, nor what stands before a `/`, `:` or `.`. A
    /// request that asks for reasoning or sound counts as one to such a model. What such a call can
    /// cost is held at once.
    pub thinking_models: Vec<String>,
    /// Names of models on `/v1` whose answers show all that they generate, unless `thinking_models`
    /// names them too. Every other model on `/v1` counts as one that can think unseen, because new
    /// ones do. `*` stands for any text; case does not matter, nor a provider before a `/`. Models
    /// of the other groups show all unless `thinking_models` names them.
    pub visible_models: Vec<String>,
}

/// Models that are known to think unseen.
const THINKING_MODELS: [&str; 20] = [
    "o1*",
    "o3*",
    "o4*",
    "gpt-5*",
    "gpt-6*",
    "chat-latest",
    "gemini-flash-latest",
    "gemini-pro-latest",
    "gpt-oss*",
    "codex-*",
    "gemini-2.5*",
    "gemini-3*",
    "grok-3-mini*",
    "grok-4*",
    "deepseek-r1*",
    "*-r1",
    "qwq*",
    "*thinking*",
    "*reasoner*",
    "*reasoning*",
];

/// Models that are known to show all that they generate.
const VISIBLE_MODELS: [&str; 20] = [
    "babbage-002",
    "chatgpt-4o*",
    "claude-3-5-*",
    "claude-3-haiku*",
    "claude-3-opus*",
    "davinci-002",
    "gemma-2*",
    "gpt-3.5*",
    "gpt-4",
    "gpt-4-*",
    "gpt-4.1*",
    "gpt-4o*",
    "llama-3*",
    "llama3*",
    "meta-llama-3*",
    "mistral-7b*",
    "mixtral-*",
    "phi-3*",
    "qwen2.5*",
    "text-embedding-*",
];

impl Default for HoldSettings {
    fn default() -> Self {
        HoldSettings {
            lower_token_limit: true,
            start_tokens: non_zero::u64(16),
            step_tokens: non_zero::u64(512),
            step_tokens_max: non_zero::u64(8_192),
            hidden_share: non_zero::u32(4),
            visible_share: non_zero::u32(16),
            stream_seconds_max: non_zero::u64(3_600),
            reader_seconds: non_zero::u64(120),
            drain_seconds: non_zero::u64(600),
            thinking_models: THINKING_MODELS.map(str::to_owned).to_vec(),
            visible_models: VISIBLE_MODELS.map(str::to_owned).to_vec(),
        }
    }
}

/// `[idempotency]`: requests with an `Idempotency-Key`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdempotencySettings {
    /// How long an answer is kept for repeats of its request, in days.
    pub keep_days: NonZeroU32,
    /// Largest answer that is kept, in bytes. A repeat of a request with a larger answer gets 409.
    pub answer_max_bytes: usize,
}

impl Default for IdempotencySettings {
    fn default() -> Self {
        IdempotencySettings { keep_days: non_zero::u32(7), answer_max_bytes: 1024 * 1024 }
    }
}
