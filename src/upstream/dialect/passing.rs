//! The fields of a body that pass to an upstream. Upstreams read more fields than anybody can list,
//! and some of them set a limit elsewhere, or ask for what is not priced. So a field passes if it
//! is known that it costs nothing beside the tokens that are held for.
//!
//! The names are those of OpenAI's and Anthropic's references, and those of common servers.
//! Services of other protocols are the operator's own: their fields pass unless they are known to
//! cost.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::Dialect;

const CHAT: u8 = 1;
const COMPLETION: u8 = 2;
const RESPONSES: u8 = 4;
const EMBEDDINGS: u8 = 8;
/// Anthropic's.
const MESSAGES: u8 = 16;
/// What generates text by completing a prompt.
const COMPLETING: u8 = CHAT | COMPLETION;
const GENERATING: u8 = COMPLETING | RESPONSES;
const ALL: u8 = GENERATING | EMBEDDINGS;

/// The fields, and the protocols in which they pass.
const PASSING: [(&str, u8); 130] = [
    // Read here, and held for or refused if they ask for what costs.
    ("audio", CHAT),
    ("background", RESPONSES),
    ("background_options", RESPONSES),
    ("chat_template_kwargs", GENERATING),
    ("client_metadata", RESPONSES),
    ("container", ALL),
    ("conversation", ALL),
    ("ec_transfer_params", ALL),
    ("enable_search", ALL),
    ("enable_thinking", GENERATING),
    ("extra_body", ALL),
    ("fallbacks", ALL),
    ("file_id", ALL),
    ("file_ids", ALL),
    ("functions", CHAT),
    ("include_reasoning", GENERATING),
    ("input", ALL),
    ("instructions", CHAT | RESPONSES),
    ("kv_transfer_params", ALL),
    ("mcp_servers", ALL),
    ("messages", ALL),
    ("metadata", ALL),
    ("modalities", CHAT),
    ("models", ALL),
    ("plugins", ALL),
    ("prediction", GENERATING),
    ("preset", ALL),
    ("previous_response_id", ALL),
    ("prompt", ALL),
    ("prompt_cache_options", GENERATING),
    ("reasoning", GENERATING),
    ("reasoning_effort", GENERATING),
    ("response_format", GENERATING),
    ("route", ALL),
    ("search_parameters", ALL),
    ("service_tier", ALL),
    ("suffix", COMPLETION),
    ("system", GENERATING),
    ("text", GENERATING),
    ("thinking", GENERATING),
    ("thinking_budget", GENERATING),
    ("thinking_config", GENERATING),
    ("tool_choice", GENERATING),
    ("tool_resources", ALL),
    ("tools", GENERATING),
    ("vector_store_ids", ALL),
    ("web_search_options", ALL),
    // OpenAI's reference.
    ("dimensions", EMBEDDINGS),
    ("echo", COMPLETING),
    ("encoding_format", EMBEDDINGS),
    ("frequency_penalty", GENERATING),
    ("function_call", CHAT),
    ("include", CHAT | RESPONSES),
    ("image", RESPONSES),
    ("logit_bias", GENERATING),
    ("logprobs", GENERATING),
    ("max_tool_calls", RESPONSES),
    ("moderation", CHAT | RESPONSES),
    ("parallel_tool_calls", GENERATING),
    ("presence_penalty", GENERATING),
    ("prompt_cache_key", GENERATING),
    ("prompt_cache_retention", GENERATING),
    ("safety_identifier", ALL),
    ("seed", GENERATING),
    ("stop", GENERATING),
    ("store", GENERATING),
    ("temperature", GENERATING),
    ("top_logprobs", GENERATING),
    ("top_p", GENERATING),
    ("truncation", GENERATING),
    ("user", ALL),
    ("verbosity", GENERATING),
    // How the next token is chosen, in common servers.
    ("allowed_token_ids", GENERATING),
    ("bad_words", GENERATING),
    ("dry_allowed_length", GENERATING),
    ("dry_base", GENERATING),
    ("dry_multiplier", GENERATING),
    ("dry_penalty_last_n", GENERATING),
    ("dry_sequence_breakers", GENERATING),
    ("dynatemp_exponent", GENERATING),
    ("dynatemp_range", GENERATING),
    ("early_stopping", GENERATING),
    ("ignore_eos", GENERATING),
    ("include_stop_str_in_output", GENERATING),
    ("length_penalty", GENERATING),
    ("min_p", GENERATING),
    ("min_tokens", GENERATING),
    ("mirostat", GENERATING),
    ("mirostat_eta", GENERATING),
    ("mirostat_tau", GENERATING),
    ("random_seed", GENERATING),
    ("repeat_last_n", GENERATING),
    ("repeat_penalty", GENERATING),
    ("repetition_penalty", GENERATING),
    ("stop_token_ids", GENERATING),
    ("top_a", GENERATING),
    ("top_k", GENERATING),
    ("typical_p", GENERATING),
    ("use_beam_search", GENERATING),
    ("xtc_probability", GENERATING),
    ("xtc_threshold", GENERATING),
    // What the text must look like.
    ("ebnf", GENERATING),
    ("grammar", GENERATING),
    ("guided_choice", GENERATING),
    ("guided_decoding_backend", GENERATING),
    ("guided_grammar", GENERATING),
    ("guided_json", GENERATING),
    ("guided_regex", GENERATING),
    ("guided_whitespace_pattern", GENERATING),
    ("json_schema", GENERATING),
    ("regex", GENERATING),
    ("structured_outputs", GENERATING),
    // How the prompt is made of the messages, and the answer of the tokens.
    ("add_generation_prompt", CHAT),
    ("add_special_tokens", ALL),
    ("continue_final_message", CHAT),
    ("documents", CHAT),
    ("input_type", EMBEDDINGS),
    ("normalize", EMBEDDINGS),
    ("prompt_logprobs", COMPLETING),
    ("return_token_ids", COMPLETING),
    ("return_tokens_as_token_ids", COMPLETING),
    ("safe_prompt", CHAT),
    ("skip_special_tokens", GENERATING),
    ("spaces_between_special_tokens", GENERATING),
    ("transforms", COMPLETING),
    ("truncate", EMBEDDINGS),
    ("truncate_prompt_tokens", ALL),
    // What the caches and the answers of servers say of themselves.
    ("cache_prompt", GENERATING),
    ("cache_salt", GENERATING),
    ("usage", GENERATING),
];

/// The fields that pass in Anthropic's protocol.
const PASSING_MESSAGES: [&str; 21] = [
    // Read here, and held for or refused if they ask for what costs.
    "container",
    "context_management",
    "fallbacks",
    "inference_geo",
    "mcp_servers",
    "messages",
    "metadata",
    "service_tier",
    "speed",
    "system",
    "thinking",
    "tool_choice",
    "tools",
    "user_profile_id",
    // Anthropic's reference.
    "cache_control",
    "output_config",
    "output_format",
    "stop_sequences",
    "temperature",
    "top_k",
    "top_p",
];

/// Fields that set a limit elsewhere, or ask for more than is held for, whatever the protocol is.
const COSTING: [&str; 15] = [
    "additional_drop_params",
    "allowed_openai_params",
    "content_policy_fallbacks",
    "context_window_fallbacks",
    "drop_params",
    "max_new_tokens",
    "model_list",
    "multi_agent",
    "n_predict",
    "num_predict",
    "num_retries",
    "prompt_embeds",
    "speculation",
    "speed",
    "user_config",
];

static BY_NAME: LazyLock<HashMap<&'static str, u8>> = LazyLock::new(|| {
    let mut by_name = HashMap::from(PASSING);
    for name in PASSING_MESSAGES {
        *by_name.entry(name).or_default() |= MESSAGES;
    }
    by_name
});

impl Dialect {
    const fn bit(self) -> u8 {
        match self {
            Dialect::Chat => CHAT,
            Dialect::Completion => COMPLETION,
            Dialect::Responses => RESPONSES,
            Dialect::Embeddings => EMBEDDINGS,
            Dialect::Messages | Dialect::MessageCount => MESSAGES,
            // Their fields are within one another (`gemini`).
            Dialect::Gemini
            | Dialect::GeminiStream
            | Dialect::GeminiCount
            | Dialect::GeminiEmbeddings
            | Dialect::Native => 0,
        }
    }

    /// Is it known that the field, written like this, costs nothing more? Of protocols of an
    /// operator's own nothing is known.
    pub(super) fn passes(self, name: &str) -> bool {
        BY_NAME.get(name).is_some_and(|dialects| dialects & self.bit() != 0)
    }
}

/// Is it known that the field costs? Then no other spelling of it passes either.
pub(super) fn costs(squashed: &str) -> bool {
    COSTING.iter().any(|name| name.bytes().filter(|byte| *byte != b'_').eq(squashed.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_is_there_twice() {
        let names = |dialect: u8| BY_NAME.values().filter(|bits| **bits & dialect != 0).count();
        assert_eq!((names(ALL), names(MESSAGES)), (PASSING.len(), PASSING_MESSAGES.len()));
        // Anthropic's `speed` is read here.
        let is_refused = |name: &&str| BY_NAME.get(name).is_none_or(|bits| *bits == MESSAGES);
        assert!(COSTING.iter().all(is_refused));
    }

    #[test]
    fn a_field_passes_where_it_is_known() {
        for (dialect, name, passes) in [
            (Dialect::Chat, "top_k", true),
            (Dialect::Chat, "dimensions", false),
            (Dialect::Embeddings, "dimensions", true),
            (Dialect::Responses, "n_predict", false),
            (Dialect::Native, "top_k", false),
            (Dialect::Chat, "anything", false),
            (Dialect::Chat, "speed", false),
            (Dialect::Messages, "speed", true),
            (Dialect::Messages, "compaction", false),
            (Dialect::MessageCount, "top_k", true),
            (Dialect::Messages, "seed", false),
        ] {
            assert_eq!(dialect.passes(name), passes, "{name} in {dialect:?}");
        }
        assert!(costs("npredict") && costs("multiagent") && !costs("predict"));
    }
}
