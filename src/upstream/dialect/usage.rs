//! What an upstream says that a call used, part by part, and in which service tier it served.
//!
//! The names are those of OpenAI's and Anthropic's protocols, and those of upstreams that speak
//! them. A part whose number is impossible makes all parts unbelievable: the totals count then.

use serde_json::{Map, Value};

use super::Dialect;
use super::gemini::{GeminiUsage, Searches};
use crate::json::fields::Fields;
use domain::usage::TOKENS_MAX;
use domain::{Convention, ProviderUsage, SeenAnswer, Service};

/// What an answer, or a stream so far, has told beside its totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToldUsage {
    /// The parts: of each the largest number that was told.
    pub parts: ProviderUsage,
    /// Was a number impossible?
    pub is_absurd: bool,
    /// The service tier that has served.
    pub service: Option<Service>,
    /// Does it say how fast it was? A tier alone does not.
    pub(crate) tells_speed: bool,
    /// What was seen of the answer, if that was looked at.
    pub seen: SeenAnswer,
}

/// A number that is impossible.
struct Impossible;

/// The usage of one call, as it is written.
struct Written<'u>(&'u Map<String, Value>);

impl Written<'_> {
    /// The number of this name, or of the first of these names that has one.
    fn first(&self, names: &[&str]) -> Result<Option<u64>, Impossible> {
        let named = names.iter().filter_map(|name| self.0.get(*name));
        match named.filter(|value| !value.is_null()).map(Value::as_u64).next() {
            None => Ok(None),
            Some(Some(number)) if number <= TOKENS_MAX => Ok(Some(number)),
            Some(_) => Err(Impossible),
        }
    }

    /// The number in the first of these objects that is there.
    fn within(&self, objects: &[&str], names: &[&str]) -> Result<Option<u64>, Impossible> {
        let mut found = objects.iter().filter_map(|name| self.0.get(*name)?.as_object());
        found.next().map_or(Ok(None), |object| Written(object).first(names))
    }

    fn read(&self) -> Result<ProviderUsage, Impossible> {
        let of_prompt = ["prompt_tokens_details", "input_tokens_details"];
        let of_completion = ["completion_tokens_details", "output_tokens_details"];
        let prompt = |names: &[&str]| self.within(&of_prompt, names);
        let completion = |names: &[&str]| self.within(&of_completion, names);
        let by_time = |name: &str| self.within(&["cache_creation"], &[name]);
        let of_cache = |name: &str| {
            let mut details = of_prompt.iter().filter_map(|name| self.0.get(*name)?.as_object());
            details.next().map_or(Ok(None), |details| {
                Written(details).within(&["cached_tokens_details"], &[name])
            })
        };
        let read = self.first(&["cache_read_input_tokens", "prompt_cache_hit_tokens"])?;
        let written = self.first(&["cache_creation_input_tokens"])?;
        let searches = self.within(&["server_tool_use"], &["web_search_requests"])?;
        Ok(ProviderUsage {
            input: self.first(&["prompt_tokens", "input_tokens"])?,
            output: self.first(&["completion_tokens", "output_tokens"])?,
            total: self.first(&["total_tokens"])?,
            cache_read: read.max(prompt(&["cached_tokens"])?),
            cache_write: written.max(prompt(&["cache_write_tokens", "cache_creation_tokens"])?),
            cache_write_5m: by_time("ephemeral_5m_input_tokens")?,
            cache_write_1h: by_time("ephemeral_1h_input_tokens")?,
            input_audio: prompt(&["audio_tokens"])?,
            cache_read_audio: of_cache("audio_tokens")?,
            input_image: prompt(&["image_tokens"])?,
            cache_read_image: of_cache("image_tokens")?,
            input_video: prompt(&["video_tokens"])?,
            thoughts: completion(&["reasoning_tokens", "thinking_tokens"])?,
            output_audio: completion(&["audio_tokens"])?,
            output_image: completion(&["image_tokens"])?,
            web_searches: searches.max(self.first(&["num_sources_used", "num_search_queries"])?),
            ..ProviderUsage::default()
        })
    }
}

/// The calls that an upstream made for one answer, added up.
fn sum(calls: &[Value]) -> Result<ProviderUsage, Impossible> {
    let mut all = ProviderUsage::default();
    let add = |sum: &mut Option<u64>, more: Option<u64>| {
        *sum = more.map(|more| sum.unwrap_or(0).saturating_add(more)).or(*sum);
    };
    for call in calls.iter().filter_map(Value::as_object) {
        let one = Written(call).read()?;
        add(&mut all.input, one.input);
        add(&mut all.output, one.output);
        add(&mut all.cache_read, one.cache_read);
        add(&mut all.cache_write, one.cache_write);
        add(&mut all.cache_write_5m, one.cache_write_5m);
        add(&mut all.cache_write_1h, one.cache_write_1h);
        add(&mut all.thoughts, one.thoughts);
    }
    Ok(all)
}

/// The service tier of this name in a request or an answer.
#[must_use]
pub fn service_named(name: &str) -> Option<Service> {
    match name {
        "default" | "standard" | "standard_only" => Some(Service::Standard),
        other => Service::ALL.into_iter().find(|service| service.name() == other),
    }
}

/// Did the item of `/v1/responses` search the web? One that reads a page it has found does not.
pub(super) fn is_search(item: &Value) -> bool {
    let action = item.pointer("/action/type").and_then(Value::as_str);
    item.get("type").and_then(Value::as_str) == Some("web_search_call")
        && !matches!(action, Some("open_page" | "find_in_page"))
}

/// How many items of such an output did.
pub(super) fn searches_of_output(output: Option<&str>) -> u64 {
    let output = output.filter(|output| output.contains("web_search_call"));
    let items = output.and_then(|output| serde_json::from_str::<Vec<Value>>(output).ok());
    let searches = items.iter().flatten().filter(|item| is_search(item)).count();
    u64::try_from(searches).unwrap_or(u64::MAX)
}

impl ToldUsage {
    /// What Gemini has told.
    pub(super) fn of_gemini(usage: &GeminiUsage, searches: &Searches) -> Self {
        let parts = usage.told();
        let told = ProviderUsage { web_searches: searches.number(), ..parts.unwrap_or_default() };
        let service = usage.service();
        ToldUsage { parts: told, is_absurd: parts.is_none(), service, ..ToldUsage::default() }
    }

    /// The service tier that has served a call that asked for this one, if the answer says so. Of a
    /// fast call only the speed says it: its tier is `standard` all the same.
    #[must_use]
    pub fn served(&self, asked: Service) -> Option<Service> {
        self.service.filter(|_| asked != Service::Fast || self.tells_speed)
    }

    /// The same, with what was seen of the answer.
    #[must_use]
    pub fn with_seen(self, seen: SeenAnswer) -> Self {
        ToldUsage { seen, ..self }
    }

    /// Notes that the answer shows so many searches.
    pub(super) fn search(&mut self, number: u64) {
        let searches = Some(number).filter(|number| *number > 0);
        self.parts.web_searches = self.parts.web_searches.max(searches);
    }

    /// Adds what a `usage` tells.
    pub(super) fn add(&mut self, usage: &Value) {
        let Value::Object(fields) = usage else {
            self.is_absurd |= !usage.is_null();
            return;
        };
        let calls = fields.get("iterations").and_then(Value::as_array);
        let told = Written(fields).read().and_then(|own| {
            let calls = calls.map_or(Ok(ProviderUsage::default()), |calls| sum(calls))?;
            Ok(own.merged(calls))
        });
        match told {
            Ok(told) => self.parts = self.parts.merged(told),
            Err(Impossible) => self.is_absurd = true,
        }
        let is_speed = |speed: &&Value| matches!(speed.as_str(), Some("fast" | "standard"));
        let speed = fields.get("speed").filter(is_speed);
        self.tells_speed |= speed.is_some();
        self.serve(speed);
        self.serve(fields.get("service_tier"));
    }

    /// The same of its text.
    pub(super) fn add_text(&mut self, usage: &str) {
        match serde_json::from_str(usage) {
            Ok(usage) => self.add(&usage),
            Err(_) => self.is_absurd = true,
        }
    }

    /// Notes the service tier that an answer names. A fast one stays: its tier is told beside.
    pub(super) fn serve(&mut self, name: Option<&Value>) {
        if self.service != Some(Service::Fast) {
            self.service = name.and_then(Value::as_str).and_then(service_named).or(self.service);
        }
    }

    /// The same of its text.
    pub(super) fn serve_text(&mut self, name: Option<&str>) {
        let name = name.and_then(|name| serde_json::from_str::<Value>(name).ok());
        self.serve(name.as_ref());
    }
}

impl Dialect {
    /// How upstreams of this protocol count, unless it is known that one counts otherwise.
    #[must_use]
    pub const fn convention(self) -> Convention {
        if self.is_anthropic() {
            Convention::ANTHROPIC
        } else if self.is_gemini() {
            Convention::GEMINI
        } else {
            Convention::OPENAI
        }
    }

    /// What a complete answer tells.
    #[must_use]
    pub fn told_by_answer(self, body: &[u8]) -> ToldUsage {
        if self.is_gemini() {
            return ToldUsage::of_gemini(&GeminiUsage::of_answer(body), &Searches::of_answer(body));
        }
        let mut told = ToldUsage::default();
        let text = String::from_utf8_lossy(body);
        if let Some(fields) = Fields::read(&text) {
            told.serve_text(fields.get("service_tier"));
            if let Some(usage) = fields.get("usage") {
                told.add_text(usage);
            }
            if self == Dialect::Responses {
                told.search(searches_of_output(fields.get("output")));
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use domain::{Dim, metering::split};
    use serde_json::json;

    use super::*;

    #[test]
    fn every_part_is_read_by_the_name_that_its_protocol_has_for_it() {
        let chat = json!({
            "prompt_tokens": 1_000, "completion_tokens": 500, "total_tokens": 1_500,
            "prompt_tokens_details": { "cached_tokens": 600, "cache_write_tokens": 100,
                "audio_tokens": 50 },
            "completion_tokens_details": { "reasoning_tokens": 300, "audio_tokens": 20 },
        });
        let responses = json!({
            "input_tokens": 1_000, "output_tokens": 500, "total_tokens": 1_500,
            "input_tokens_details": { "cached_tokens": 600, "cache_write_tokens": 100,
                "audio_tokens": 50 },
            "output_tokens_details": { "reasoning_tokens": 300, "audio_tokens": 20 },
        });
        let openai = [
            (Dim::Input, 250),
            (Dim::CacheRead, 600),
            (Dim::CacheWrite, 100),
            (Dim::InputAudio, 50),
            (Dim::Output, 180),
            (Dim::Reasoning, 300),
            (Dim::OutputAudio, 20),
        ];
        let messages = json!({
            "input_tokens": 10, "output_tokens": 70, "cache_read_input_tokens": 1_000,
            "cache_creation_input_tokens": 50,
            "cache_creation": { "ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 30 },
            "server_tool_use": { "web_search_requests": 2 },
            "output_tokens_details": { "thinking_tokens": 60 }, "service_tier": "priority",
        });
        let anthropic = [
            (Dim::Input, 10),
            (Dim::CacheRead, 1_000),
            (Dim::CacheWrite, 20),
            (Dim::CacheWrite1h, 30),
            (Dim::Output, 10),
            (Dim::Reasoning, 60),
            (Dim::WebSearch, 2),
        ];
        let embedding = json!({ "prompt_tokens": 9, "total_tokens": 9 });
        for (dialect, usage, parts) in [
            (Dialect::Chat, chat, &openai[..]),
            (Dialect::Responses, responses, &openai),
            (Dialect::Messages, messages, &anthropic),
            (Dialect::Embeddings, embedding, &[(Dim::Input, 9)]),
        ] {
            let body = json!({ "usage": usage }).to_string();
            let told = dialect.told_by_answer(body.as_bytes());
            assert!(!told.is_absurd);
            let (quantities, odd) = split(&told.parts, dialect.convention());
            assert_eq!(quantities, parts.iter().copied().collect(), "{dialect:?}");
            assert!(odd.is_empty(), "{dialect:?}");
        }
    }

    #[test]
    fn a_fast_call_is_fast_whatever_its_tier_is_called() {
        let fast = json!({ "input_tokens": 1, "speed": "fast", "service_tier": "standard" });
        let tier = json!({ "output_tokens": 9, "service_tier": "standard" });
        let slow = json!({ "input_tokens": 1, "speed": "standard", "service_tier": "standard" });
        let (asked_fast, plain) = (Service::Fast, Service::Standard);
        for (usages, asked, served) in [
            (vec![&fast], asked_fast, Some(Service::Fast)),
            // The end of a stream names the tier alone.
            (vec![&fast, &tier], asked_fast, Some(Service::Fast)),
            (vec![&tier, &fast], asked_fast, Some(Service::Fast)),
            // A tier alone does not say that a fast call was slow.
            (vec![&tier], asked_fast, None),
            (vec![&slow, &tier], asked_fast, Some(Service::Standard)),
            (vec![&tier], plain, Some(Service::Standard)),
            (vec![&tier], Service::Priority, Some(Service::Standard)),
        ] {
            let mut told = ToldUsage::default();
            for usage in &usages {
                told.add(usage);
            }
            assert_eq!(told.served(asked), served, "{usages:?}");
        }
        let body = json!({ "usage": fast, "service_tier": "standard" }).to_string();
        let told = Dialect::Messages.told_by_answer(body.as_bytes());
        assert_eq!(told.served(asked_fast), Some(Service::Fast));
    }

    #[test]
    fn searches_are_read_where_each_protocol_shows_them() {
        let search = json!({ "type": "web_search_call", "action": { "type": "search" } });
        let read = json!({ "type": "web_search_call", "action": { "type": "open_page" } });
        let responses = json!({ "output": [search, read, { "type": "web_search_call" },
            { "type": "message", "content": [] }], "usage": { "input_tokens": 1 } });
        let grounded =
            |queries: Value| json!({ "groundingMetadata": { "webSearchQueries": queries } });
        let gemini = json!({ "candidates": [grounded(json!(["a", "b", ""])),
            grounded(json!(["a"]))], "usageMetadata": { "promptTokenCount": 1 } });
        let messages = json!({ "usage": { "server_tool_use": { "web_search_requests": 4 } } });
        let chat = json!({ "usage": { "prompt_tokens": 1, "num_search_queries": 5 } });
        let none = json!({ "output": [], "candidates": [{}], "usage": { "input_tokens": 1 } });
        for (dialect, answer, number) in [
            (Dialect::Responses, &responses, Some(2)),
            (Dialect::Gemini, &gemini, Some(3)),
            (Dialect::Messages, &messages, Some(4)),
            (Dialect::Chat, &chat, Some(5)),
            (Dialect::Responses, &none, None),
            (Dialect::Gemini, &none, None),
            (Dialect::Chat, &responses, None),
        ] {
            let told = dialect.told_by_answer(answer.to_string().as_bytes());
            assert_eq!(told.parts.web_searches, number, "{dialect:?} {answer}");
        }
    }

    #[test]
    fn gemini_tells_its_tier_in_its_usage() {
        for (usage, served) in [
            (json!({ "serviceTier": "priority" }), Some(Service::Priority)),
            (json!({ "serviceTier": "SERVICE_TIER_FLEX" }), Some(Service::Flex)),
            (json!({ "serviceTier": "STANDARD", "trafficType": 1 }), Some(Service::Standard)),
            (json!({ "trafficType": "ON_DEMAND_PRIORITY" }), Some(Service::Priority)),
            (json!({ "trafficType": "ON_DEMAND" }), Some(Service::Standard)),
            (json!({ "trafficType": "PROVISIONED_THROUGHPUT" }), None),
            (json!({ "serviceTier": "unspecified" }), None),
            (json!({ "serviceTier": 7 }), None),
        ] {
            let mut usage = usage;
            usage["promptTokenCount"] = json!(9);
            let body = json!({ "usageMetadata": usage }).to_string();
            let told = Dialect::Gemini.told_by_answer(body.as_bytes());
            assert_eq!((told.service, told.is_absurd), (served, false), "{usage}");
        }
    }

    #[test]
    fn later_numbers_are_merged_and_impossible_ones_are_not_believed() {
        let mut told = ToldUsage::default();
        told.add(&json!({ "input_tokens": 10, "cache_read_input_tokens": 500 }));
        told.add(&json!({ "input_tokens": 0, "cache_read_input_tokens": null, "output_tokens": 7,
            "cache_creation": { "ephemeral_1h_input_tokens": 30 }, "service_tier": "batch" }));
        told.add(&json!(null));
        assert_eq!((told.is_absurd, told.service), (false, Some(Service::Batch)));
        let parts = told.parts;
        assert_eq!((parts.input, parts.cache_read, parts.output), (Some(10), Some(500), Some(7)));
        assert_eq!(parts.cache_write_1h, Some(30));
        for usage in [
            json!({ "prompt_tokens_details": { "cached_tokens": -1 } }),
            json!({ "cache_read_input_tokens": 1e30 }),
            json!({ "iterations": [{ "input_tokens": 0.5 }] }),
            json!("many"),
        ] {
            let mut told = told;
            told.add(&usage);
            assert_eq!((told.is_absurd, told.parts), (true, parts), "{usage}");
        }
        // An answer that took several calls.
        let mut told = ToldUsage::default();
        told.add(&json!({ "input_tokens": 10, "output_tokens": 9, "iterations": [
            { "input_tokens": 500, "cache_read_input_tokens": 3, "output_tokens": 40 },
            { "input_tokens": 10, "output_tokens": 9 } ] }));
        let parts = told.parts;
        assert_eq!((parts.input, parts.cache_read, parts.output), (Some(510), Some(3), Some(49)));
    }
}
