//! The session that a call belongs to. Its calls stay at one deployment, so that the provider's
//! cache of prompts serves them.
//!
//! Clients name it in a header or a field. If none does, the beginning of a long prompt stands for
//! it: the system prompt, the tools and the first message stay the same in every turn, while the
//! messages after them grow. In chats the system prompt is a message itself, and all customers of a
//! program may share it, so the first message after it counts as well.

use std::borrow::Cow;

use actix_web::http::header::HeaderMap;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::json::fields::Fields;
use domain::AccountId;
use domain::routing::{Affinity, session_key};

/// Headers that name a session. Those of the second list are asked after `prompt_cache_key`.
const HEADERS: [&str; 3] =
    ["x-session-affinity", "x-polysystems-session", "x-claude-code-session-id"];
const LATER_HEADERS: [&str; 2] = ["session-id", "thread-id"];
/// Fields that name who uses the model.
const USER_FIELDS: [&str; 2] = ["user", "safety_identifier"];
/// A prompt of fewer tokens is not cached, so it may go anywhere.
const PROMPT_TOKENS_MIN: u64 = 1_024;
/// Bytes of each part of a prompt that stand for it.
const PART_BYTES: usize = 4 * 1_024;
/// Longest name of a session, in bytes. The rest of a longer one does not count.
const NAME_BYTES: usize = 512;

/// Where a call of this account goes among equal deployments.
pub(super) fn affinity(
    account: AccountId,
    headers: &HeaderMap,
    body: &[u8],
    prompt_tokens: u64,
    chance: u64,
) -> Affinity {
    match name(headers, body, prompt_tokens) {
        Some(name) => Affinity::Session(session_key(account, &name)),
        None => Affinity::Chance(chance),
    }
}

/// The name of the session; `None` if the call has none.
fn name(headers: &HeaderMap, body: &[u8], prompt_tokens: u64) -> Option<Vec<u8>> {
    let of_headers = |names: &[&str]| {
        let mut values = names.iter().filter_map(|name| headers.get(*name));
        let value = values.find(|value| !value.is_empty())?;
        Some(cut(value.as_bytes(), NAME_BYTES).to_vec())
    };
    if let Some(name) = of_headers(&HEADERS) {
        return Some(name);
    }
    let text = std::str::from_utf8(body).unwrap_or_default();
    let fields = Fields::read(text).unwrap_or_default();
    let field = |name: &str| named(fields.get(name)?);
    let of_metadata = || named(Fields::read(fields.get("metadata")?)?.get("user_id")?);
    field("prompt_cache_key")
        .or_else(|| of_headers(&LATER_HEADERS))
        .or_else(of_metadata)
        .or_else(|| USER_FIELDS.iter().find_map(|name| field(name)))
        .or_else(|| (prompt_tokens > PROMPT_TOKENS_MIN).then(|| beginning(&fields)).flatten())
}

/// A name in JSON, if it is a text and not empty.
fn named(json: &str) -> Option<Vec<u8>> {
    let text: Cow<'_, str> = serde_json::from_str::<Text<'_>>(json).ok()?.0;
    (!text.is_empty()).then(|| cut(text.as_bytes(), NAME_BYTES).to_vec())
}

#[derive(Deserialize)]
struct Text<'t>(#[serde(borrow)] Cow<'t, str>);

fn cut(bytes: &[u8], most: usize) -> &[u8] {
    bytes.get(..most).unwrap_or(bytes)
}

/// What does not change from turn to turn.
fn beginning(fields: &Fields<'_>) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    let mut add = |part: &str| {
        all.extend_from_slice(cut(part.as_bytes(), PART_BYTES));
        // So that no two parts read as one.
        all.push(0);
    };
    for name in ["system", "instructions", "systemInstruction", "tools"] {
        add(fields.get(name).unwrap_or_default());
    }
    let messages = ["messages", "input", "contents", "prompt"];
    let messages = messages.iter().find_map(|name| fields.get(name))?;
    match serde_json::from_str::<Beginning<'_>>(messages) {
        Ok(Beginning(first)) => first.iter().for_each(|message| add(message.get())),
        // One text is the first message, and there is no other.
        Err(_) => add(messages),
    }
    Some(all)
}

/// The first messages of a list: all of the system's, and one more.
struct Beginning<'m>(Vec<&'m RawValue>);

impl<'de> Deserialize<'de> for Beginning<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Beginning<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut first = Vec::new();
                while let Some(message) = list.next_element::<&RawValue>()? {
                    first.push(message);
                    if !is_of_system(message.get()) {
                        break;
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Beginning(first))
            }
        }

        deserializer.deserialize_seq(Reader)
    }
}

fn is_of_system(message: &str) -> bool {
    let fields = Fields::read(message).unwrap_or_default();
    fields.get("role").is_some_and(|role| matches!(role, "\"system\"" | "\"developer\""))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(named: &[(&'static str, &'static str)]) -> HeaderMap {
        named
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_session_is_what_names_it_first() {
        let body = r#"{"prompt_cache_key":"key","metadata":{"user_id":"meta"},"user":"user","safety_identifier":"safe"}"#;
        let all = [
            ("x-session-affinity", "1"),
            ("x-polysystems-session", "2"),
            ("x-claude-code-session-id", "3"),
            ("session-id", "4"),
            ("thread-id", "5"),
        ];
        let named = |headers: &HeaderMap, body: &str| {
            name(headers, body.as_bytes(), 9).map(|name| String::from_utf8(name).unwrap())
        };
        for (from, expected) in [(0, "1"), (1, "2"), (2, "3"), (3, "key")] {
            assert_eq!(named(&headers(&all[from..]), body).as_deref(), Some(expected));
        }
        assert_eq!(named(&headers(&all[3..]), "{}").as_deref(), Some("4"));
        assert_eq!(named(&headers(&all[4..]), r#"{"user":"u"}"#).as_deref(), Some("5"));
        let none = HeaderMap::new();
        for (body, expected) in [
            (r#"{"metadata":{"user_id":"meta"},"user":"user"}"#, Some("meta")),
            (r#"{"user":"user","safety_identifier":"safe"}"#, Some("user")),
            (r#"{"user":7,"safety_identifier":"s\u0061fe"}"#, Some("safe")),
            (r#"{"prompt_cache_key":""}"#, None),
            ("not json", None),
        ] {
            assert_eq!(named(&none, body).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn a_long_prompt_is_known_by_its_beginning() {
        let of = |body: &str, tokens| name(&HeaderMap::new(), body.as_bytes(), tokens);
        let turn = |system: &str, first: &str, more: &str| {
            format!(
                r#"{{"messages":[{{"role":"system","content":"{system}"}},{{"role":"user","content":"{first}"}}{more}]}}"#
            )
        };
        let later = r#",{"role":"assistant","content":"b"},{"role":"user","content":"c"}"#;
        let one = of(&turn("s", "a", ""), 2_000).unwrap();
        assert_eq!(of(&turn("s", "a", later), 9_000).unwrap(), one);
        assert_ne!(of(&turn("s", "z", ""), 2_000).unwrap(), one);
        assert_ne!(of(&turn("t", "a", ""), 2_000).unwrap(), one);
        assert_eq!(of(&turn("s", "a", ""), 1_024), None);
        let anthropic = |more: &str| {
            format!(
                r#"{{"system":"s","tools":[1],"messages":[{{"role":"user","content":"a"}}{more}]}}"#
            )
        };
        assert_eq!(of(&anthropic(later), 2_000), of(&anthropic(""), 2_000));
        assert!(of(r#"{"input":"a"}"#, 2_000) != of(r#"{"input":"b"}"#, 2_000));
        assert_eq!(of("{}", 2_000), None);
    }

    #[test]
    fn nobody_steers_anothers_session() {
        let headers = headers(&[("x-session-affinity", "1")]);
        let of = |account| affinity(AccountId(account), &headers, b"{}", 0, 7);
        assert_ne!(of(1), of(2));
        assert_eq!(affinity(AccountId(1), &HeaderMap::new(), b"{}", 0, 7), Affinity::Chance(7));
    }
}
