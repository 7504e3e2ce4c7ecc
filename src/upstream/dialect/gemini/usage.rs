//! What an answer of Gemini's says that it used.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::json::Object;
use crate::json::fields::Fields;
use domain::metering::ProviderUsage;
use domain::usage::TOKENS_MAX;
use domain::{Reported, Service, TokenUsage};

/// Tokens of one kind of content.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfModality {
    #[serde(default)]
    modality: String,
    #[serde(default)]
    token_count: Option<i64>,
}

/// `usageMetadata`. Zeros are left out of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    prompt_token_count: Option<i64>,
    tool_use_prompt_token_count: Option<i64>,
    cached_content_token_count: Option<i64>,
    candidates_token_count: Option<i64>,
    thoughts_token_count: Option<i64>,
    total_token_count: Option<i64>,
    prompt_tokens_details: Option<Vec<OfModality>>,
    cache_tokens_details: Option<Vec<OfModality>>,
    candidates_tokens_details: Option<Vec<OfModality>>,
    tool_use_prompt_tokens_details: Option<Vec<OfModality>>,
    service_tier: Option<Value>,
    traffic_type: Option<Value>,
}

/// The service tier of this name, as Google writes it: in any case, and with or without the name of
/// its kind. `None`: there is none of this name here.
#[must_use]
pub fn tier_named(name: &str) -> Option<Service> {
    let name = name.to_ascii_lowercase();
    match name.strip_prefix("service_tier_").unwrap_or(&name) {
        "unspecified" | "standard" => Some(Service::Standard),
        "flex" => Some(Service::Flex),
        "priority" => Some(Service::Priority),
        _ => None,
    }
}

/// Is a tier of this name the one that a call has anyway?
pub(super) fn is_standard_tier(name: &str) -> bool {
    tier_named(name) == Some(Service::Standard)
}

/// The service tier that an answer says has served.
#[must_use]
pub fn served_tier(name: &str) -> Option<Service> {
    let says_nothing = name.to_ascii_lowercase().ends_with("unspecified");
    if says_nothing { None } else { tier_named(name) }
}

/// The service tier of a kind of traffic, as Vertex names it.
fn tier_of_traffic(kind: &str) -> Option<Service> {
    match kind {
        "ON_DEMAND" => Some(Service::Standard),
        "ON_DEMAND_FLEX" => Some(Service::Flex),
        "ON_DEMAND_PRIORITY" => Some(Service::Priority),
        _ => None,
    }
}

impl Metadata {
    fn service(&self) -> Option<Service> {
        let tier = self.service_tier.as_ref().and_then(Value::as_str).and_then(served_tier);
        let kind = || self.traffic_type.as_ref().and_then(Value::as_str);
        tier.or_else(|| kind().and_then(tier_of_traffic))
    }
}

/// How often the candidates of an answer have searched the web. Chunks of a stream may repeat what
/// was searched for.
#[derive(Clone, Debug, Default)]
pub struct Searches(BTreeSet<(u64, String)>);

impl Searches {
    /// Of a complete answer.
    pub(in crate::upstream::dialect) fn of_answer(body: &[u8]) -> Self {
        let mut searches = Searches::default();
        let text = String::from_utf8_lossy(body);
        // Most answers have none, and need not be read once more.
        if text.contains("earchQueries")
            && let Ok(Value::Object(answer)) = serde_json::from_str(&text)
        {
            searches.add(&answer);
        }
        searches
    }

    /// Adds what an answer, or a chunk of one, has searched for.
    pub(in crate::upstream::dialect) fn add(&mut self, answer: &Map<String, Value>) {
        let candidates = answer.get("candidates").and_then(Value::as_array);
        for (place, candidate) in (0_u64..).zip(candidates.into_iter().flatten()) {
            let index = candidate.get("index").and_then(Value::as_u64).unwrap_or(place);
            let Some(grounding) = candidate.get("groundingMetadata") else { continue };
            for name in ["webSearchQueries", "imageSearchQueries"] {
                let queries = grounding.get(name).and_then(Value::as_array);
                let queries = queries.into_iter().flatten().filter_map(Value::as_str);
                // An empty one is not searched for.
                let queries = queries.filter(|query| !query.is_empty());
                self.0.extend(queries.map(|query| (index, query.to_owned())));
            }
        }
    }

    /// How many; `None` if there was none.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        u64::try_from(self.0.len()).ok().filter(|number| *number > 0)
    }
}

/// A number that can be true, if it is told.
fn believed(number: Option<i64>) -> Option<Option<u64>> {
    match number.map(u64::try_from) {
        None => Some(None),
        Some(Ok(count)) if count <= TOKENS_MAX => Some(Some(count)),
        Some(_) => None,
    }
}

/// The tokens of a kind in all of these lists, if one of them names it.
fn of_modality(lists: &[&Option<Vec<OfModality>>], name: &str) -> Option<Option<u64>> {
    let mut sum = None;
    for part in lists.iter().copied().flatten().flatten().filter(|part| part.modality == name) {
        if let Some(count) = believed(part.token_count)? {
            sum = Some(u64::saturating_add(sum.unwrap_or(0), count));
        }
    }
    Some(sum)
}

/// Reads a `usageMetadata`. `None`: it is no object, or has numbers that cannot be true.
#[must_use]
pub fn usage_metadata(text: &str) -> Option<ProviderUsage> {
    read(text).map(|(usage, _)| usage)
}

/// The same, with the service tier that has served.
fn read(text: &str) -> Option<(ProviderUsage, Option<Service>)> {
    let Object(told) = serde_json::from_str::<Object<Metadata>>(text).ok()?;
    let service = told.service();
    let prompt = [&told.prompt_tokens_details, &told.tool_use_prompt_tokens_details];
    let cached = [&told.cache_tokens_details];
    let written = [&told.candidates_tokens_details];
    let usage = ProviderUsage {
        input: believed(told.prompt_token_count)?,
        tool_input: believed(told.tool_use_prompt_token_count)?,
        output: believed(told.candidates_token_count)?,
        total: believed(told.total_token_count)?,
        cache_read: believed(told.cached_content_token_count)?,
        cache_read_audio: of_modality(&cached, "AUDIO")?,
        cache_read_image: of_modality(&cached, "IMAGE")?,
        input_audio: of_modality(&prompt, "AUDIO")?,
        input_image: of_modality(&prompt, "IMAGE")?,
        input_video: of_modality(&prompt, "VIDEO")?,
        thoughts: believed(told.thoughts_token_count)?,
        output_audio: of_modality(&written, "AUDIO")?,
        output_image: of_modality(&written, "IMAGE")?,
        ..ProviderUsage::default()
    };
    Some((usage, service))
}

/// The usage of an answer, whole or in chunks. Every chunk tells it anew, and each number only
/// grows, so the largest of each counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct GeminiUsage {
    told: ProviderUsage,
    service: Option<Service>,
    is_absurd: bool,
}

impl GeminiUsage {
    /// Of a complete answer.
    pub(in crate::upstream::dialect) fn of_answer(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let mut usage = GeminiUsage::default();
        let fields = Fields::read(&text);
        if let Some(told) = fields.as_ref().and_then(|fields| fields.get("usageMetadata")) {
            usage.add(told);
        }
        usage
    }

    /// Adds a `usageMetadata`.
    pub(in crate::upstream::dialect) fn add(&mut self, text: &str) {
        match read(text) {
            Some((told, service)) => {
                self.told = self.told.merged(told);
                self.service = service.or(self.service);
            }
            None => self.is_absurd = text.trim() != "null" || self.is_absurd,
        }
    }

    /// The usage as its provider names it.
    #[must_use]
    pub fn told(&self) -> Option<ProviderUsage> {
        (!self.is_absurd).then_some(self.told)
    }

    /// The service tier that has served, if it says so.
    #[must_use]
    pub fn service(&self) -> Option<Service> {
        self.service
    }

    /// The tokens of the prompt, if they are told: what tools have added stands beside.
    #[must_use]
    pub fn prompt(&self) -> Option<u64> {
        let ProviderUsage { input, tool_input, .. } = self.told()?;
        let sum = |more: u64| more.saturating_add(tool_input.unwrap_or(0));
        input.map(sum).or(tool_input)
    }

    /// What is reported so far. Thoughts stand beside the candidates.
    #[must_use]
    pub fn reported(&self) -> Reported {
        let Some(ProviderUsage { output, thoughts, total, .. }) = self.told() else {
            return Reported::Absurd;
        };
        let prompt = self.prompt();
        if [prompt, output, thoughts, total].iter().all(Option::is_none) {
            return Reported::Missing;
        }
        // A number that is missing is a zero.
        let completion = output.unwrap_or(0).saturating_add(thoughts.unwrap_or(0));
        let (prompt, reported_total) = (prompt.unwrap_or(0), total.unwrap_or(0));
        Reported::Given(TokenUsage { prompt, completion, reported_total })
    }
}

#[cfg(test)]
mod tests {
    use domain::Convention;
    use domain::dim::Dim;
    use domain::metering::split;
    use serde_json::{Value, json};

    use super::*;

    fn reported(usages: &[Value]) -> Reported {
        let mut all = GeminiUsage::default();
        for usage in usages {
            all.add(&usage.to_string());
        }
        all.reported()
    }

    #[test]
    fn thoughts_and_what_tools_add_stand_beside() {
        let given = |prompt, completion, reported_total| {
            Reported::Given(TokenUsage { prompt, completion, reported_total })
        };
        let all = json!({
            "promptTokenCount": 100, "cachedContentTokenCount": 60, "toolUsePromptTokenCount": 7,
            "candidatesTokenCount": 20, "thoughtsTokenCount": 30, "totalTokenCount": 157,
        });
        for (usages, expected) in [
            (vec![all.clone()], given(107, 50, 157)),
            // Zeros are left out.
            (vec![json!({ "promptTokenCount": 9, "totalTokenCount": 9 })], given(9, 0, 9)),
            (vec![json!({ "promptTokenCount": 9, "thoughtsTokenCount": 4 })], given(9, 4, 0)),
            (vec![json!({ "totalTokenCount": 9 })], given(0, 0, 9)),
            (vec![json!({})], Reported::Missing),
            (vec![json!(null)], Reported::Missing),
            (vec![json!({ "trafficType": "ON_DEMAND" })], Reported::Missing),
            // Chunks tell it anew.
            (
                vec![
                    json!({ "promptTokenCount": 9, "totalTokenCount": 9 }),
                    json!({ "promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14 }),
                    json!({ "promptTokenCount": 9, "candidatesTokenCount": 8,
                        "thoughtsTokenCount": 3, "totalTokenCount": 20 }),
                    json!({ "promptTokenCount": 0 }),
                ],
                given(9, 11, 20),
            ),
            (vec![json!({ "promptTokenCount": -1 })], Reported::Absurd),
            (vec![all.clone(), json!({ "thoughtsTokenCount": 1e30 })], Reported::Absurd),
            (vec![json!("many")], Reported::Absurd),
            (vec![json!([9, 9])], Reported::Absurd),
            (
                vec![json!({ "promptTokenCount": 9, "promptTokensDetails": [
                    { "modality": "AUDIO", "tokenCount": -1 }] })],
                Reported::Absurd,
            ),
        ] {
            assert_eq!(reported(&usages), expected, "{usages:?}");
        }
        let body = json!({ "usageMetadata": all }).to_string();
        assert_eq!(GeminiUsage::of_answer(body.as_bytes()).reported(), given(107, 50, 157));
        assert_eq!(GeminiUsage::of_answer(b"[]").reported(), Reported::Missing);
    }

    #[test]
    fn each_token_is_of_one_dimension() {
        let told = json!({
            "promptTokenCount": 1_000, "cachedContentTokenCount": 500,
            "toolUsePromptTokenCount": 40, "candidatesTokenCount": 1_300, "thoughtsTokenCount": 9,
            "totalTokenCount": 2_349,
            "promptTokensDetails": [
                { "modality": "TEXT", "tokenCount": 442 },
                { "modality": "AUDIO", "tokenCount": 300 },
                { "modality": "IMAGE", "tokenCount": 258 } ],
            "cacheTokensDetails": [
                { "modality": "AUDIO", "tokenCount": 200 }, { "modality": "TEXT", "tokenCount": 300 } ],
            "candidatesTokensDetails": [{ "modality": "IMAGE", "tokenCount": 1_290 }, {}],
        });
        let usage = usage_metadata(&told.to_string()).unwrap();
        let (quantities, odd) = split(&usage, Convention::GEMINI);
        let expected = [
            (Dim::Input, 182),
            (Dim::CacheRead, 300),
            (Dim::CacheReadAudio, 200),
            (Dim::InputAudio, 100),
            (Dim::InputImage, 258),
            (Dim::Output, 10),
            (Dim::Reasoning, 9),
            (Dim::OutputImage, 1_290),
        ];
        let mut parts: Vec<(Dim, u64)> = quantities.parts().collect();
        parts.sort_unstable_by_key(|(dim, _)| dim.code());
        let mut sorted = expected.to_vec();
        sorted.sort_unstable_by_key(|(dim, _)| dim.code());
        assert_eq!(parts, sorted);
        assert!(odd.is_empty());
        let sum: u64 = parts.iter().map(|(_, tokens)| tokens).sum();
        assert_eq!(sum, 2_349);
    }
}
