//! A stream of Gemini's. It has no event for its end: the last chunk is the one after which the
//! connection ends. So what may be the last is kept until another comes, or until the call is
//! settled and the chunk can say what it cost.
//!
//! Nothing but `data` is sent: some of Google's clients fail on comments.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value, json};

use super::super::bill::{Close, ClosingBill};
use super::super::refused::{has_generated, is_failure, known_error};
use super::super::text::Content;
use super::super::transcript::{Piece, Transcript};
use super::parts::content_of;
use super::usage::{GeminiUsage, Searches};
use crate::json::fields::Fields;
use domain::Reported;

/// What all chunks of a stream share.
const HEAD: [&str; 3] = ["modelVersion", "responseId", "createTime"];

/// What is known of a stream of Gemini's.
#[derive(Default)]
pub(in crate::upstream::dialect) struct GeminiStream {
    /// The latest chunk, if the stream may end with it.
    kept: Option<Fields<'static>>,
    pub(in crate::upstream::dialect) usage: GeminiUsage,
    pub(in crate::upstream::dialect) searches: Searches,
}

/// Is the chunk one after which the stream may end?
fn is_last(chunk: &Map<String, Value>) -> bool {
    let has_ended = |candidate: &Value| {
        candidate
            .get("finishReason")
            .and_then(Value::as_str)
            .is_some_and(|reason| !reason.is_empty() && reason != "FINISH_REASON_UNSPECIFIED")
    };
    let candidates = chunk.get("candidates").and_then(Value::as_array);
    let feedback = chunk.get("promptFeedback");
    candidates.is_some_and(|candidates| candidates.iter().any(has_ended))
        || feedback.and_then(|feedback| feedback.get("blockReason")).is_some_and(Value::is_string)
}

/// The fields as the one line of data that every client reads.
fn chunk(fields: &str) -> String {
    format!("data: {}\n\n", fields.replace(['\n', '\r'], " "))
}

/// The frame if it is nothing but one line of data; else such a frame.
fn plain(frame: Bytes, data: &str) -> Bytes {
    let rest = frame.strip_prefix(b"data: ").and_then(|rest| rest.strip_prefix(data.as_bytes()));
    let is_plain = !data.contains(['\n', '\r']) && matches!(rest, Some(b"\n\n" | b"\r\n\r\n"));
    if is_plain { frame } else { chunk(data).into() }
}

/// Google's `code` and `status` of what has broken a stream off.
fn error_of(word: &str) -> (u16, &'static str) {
    match word {
        "upstream_timeout" => (504, "DEADLINE_EXCEEDED"),
        "server_stopped" | "unavailable" => (503, "UNAVAILABLE"),
        _ => (502, "UNAVAILABLE"),
    }
}

impl Transcript {
    /// Reads a chunk of a stream of Gemini's.
    pub(in crate::upstream::dialect) fn read_gemini_chunk(
        &mut self,
        frame: Bytes,
        data: &str,
    ) -> Piece {
        let Some(fields) = Fields::read(data) else {
            let content = Content::of_text(data.to_owned());
            return Piece { passed: Some(plain(frame, data)), content, is_end: false };
        };
        if let Some(usage) = fields.get("usageMetadata") {
            self.gemini.usage.add(usage);
            self.reported = self.gemini.usage.reported();
            self.usage = Some(usage.to_owned());
        }
        if self.head.is_none() {
            self.head = Some(fields.only(&HEAD));
        }
        let before = self.gemini.kept.take();
        let error = fields.get("error").filter(|error| is_failure(error));
        self.has_failed |= error.is_some();
        let mut passed = BytesMut::new();
        if let Some(before) = before {
            passed.extend_from_slice(chunk(&before.to_string()).as_bytes());
        }
        let mut content = Content::default();
        match error {
            // Nothing else of it was asked for.
            Some(error) if !has_generated(&fields) => {
                let error = serde_json::from_str(error).unwrap_or_default();
                let failed = json!({ "error": known_error(&error) });
                passed.extend_from_slice(chunk(&failed.to_string()).as_bytes());
            }
            _ => {
                match serde_json::from_str(data) {
                    Ok(Value::Object(event)) => {
                        content = content_of(&event);
                        self.gemini.searches.add(&event);
                        self.has_finished |= is_last(&event);
                    }
                    // It has a number that nobody can read.
                    _ => content = Content::of_text(data.to_owned()),
                }
                if self.has_finished {
                    self.gemini.kept = Some(fields.into_owned());
                } else {
                    passed.extend_from_slice(&plain(frame, data));
                }
            }
        }
        let passed = (!passed.is_empty()).then(|| passed.freeze());
        Piece { passed, content, is_end: false }
    }

    /// The chunk that ends a stream of Gemini's, with its bill.
    pub(in crate::upstream::dialect) fn close_gemini(
        &self,
        out: &mut String,
        close: Close<'_>,
        bill: Option<&ClosingBill>,
    ) {
        let mut receipt = self.receipt(close, bill);
        let mut last = self.head.clone().unwrap_or_default();
        match close {
            Close::Completed => last = self.gemini.kept.clone().unwrap_or(last),
            Close::Failed => match &self.gemini.kept {
                Some(kept) => last = kept.clone(),
                // The failure was the last that its clients read.
                None => return,
            },
            Close::Declined { message, .. } => {
                let end = |index: u64| {
                    json!({ "index": index, "content": { "role": "model", "parts": [] },
                        "finishReason": "MAX_TOKENS", "finishMessage": message })
                };
                let candidates: Vec<Value> = (0..self.choices.min(128)).map(end).collect();
                last.set("candidates", Value::Array(candidates).to_string());
                if let Some(mut with_message) = Fields::read(&receipt).map(Fields::into_owned) {
                    with_message.set("message", Value::from(message).to_string());
                    receipt = with_message.to_string();
                }
            }
            Close::Broken { code: word, message } => {
                let (code, status) = error_of(word);
                let error = json!({ "code": code, "message": message, "status": status });
                last = Fields::default();
                last.set("error", error.to_string());
                last.set("polysystems", receipt);
                let _ = out.write_str(&chunk(&last.to_string()));
                return;
            }
        }
        if let Some(bill) = bill {
            last.set("usageMetadata", self.metadata_with_cost(bill));
        }
        last.set("polysystems", receipt);
        let _ = out.write_str(&chunk(&last.to_string()));
    }

    /// The upstream's usage, or ours if it reports none, with the cost.
    fn metadata_with_cost(&self, bill: &ClosingBill) -> String {
        let is_reported = matches!(self.reported, Reported::Given(_));
        let own = self.usage.as_deref().filter(|_| is_reported).and_then(Fields::read);
        let mut usage = own.unwrap_or_else(|| {
            let mut usage = Fields::default();
            usage.set("promptTokenCount", bill.prompt.to_string());
            usage.set("candidatesTokenCount", bill.completion.to_string());
            usage.set("totalTokenCount", bill.prompt.saturating_add(bill.completion).to_string());
            usage
        });
        usage.set("cost", bill.cost.to_string());
        usage.to_string()
    }
}

#[cfg(test)]
mod tests {
    use domain::{LimitsLeft, TokenUsage};

    use super::*;
    use crate::upstream::dialect::Dialect;
    use crate::upstream::sse;

    fn frame(event: &Value) -> Bytes {
        format!("data: {event}\r\n\r\n").into()
    }

    fn transcript() -> Transcript {
        let request = Dialect::GeminiStream.read_request(b"{\"contents\":[]}").unwrap();
        Transcript::new(Dialect::GeminiStream, &request, "req-1".into())
    }

    fn word(text: &str, tokens: u64) -> Value {
        json!({
            "candidates": [{ "index": 0, "content": { "role": "model", "parts": [{ "text": text }] } }],
            "usageMetadata": { "promptTokenCount": 3, "candidatesTokenCount": tokens,
                "totalTokenCount": tokens + 3 },
            "modelVersion": "m", "responseId": "r",
        })
    }

    fn last(text: &str, tokens: u64) -> Value {
        let mut chunk = word(text, tokens);
        chunk["candidates"][0]["finishReason"] = json!("STOP");
        chunk
    }

    fn bill() -> ClosingBill {
        let (cost, balance) = ("0.00205".parse().unwrap(), "1".parse().unwrap());
        ClosingBill { cost, balance, left: LimitsLeft::default(), prompt: 3, completion: 2 }
    }

    fn told(bytes: &Bytes) -> Vec<Value> {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(text.is_empty() || text.ends_with("\n\n"), "{text:?}");
        let frames = text.split("\n\n").filter(|frame| !frame.trim().is_empty());
        frames
            .map(|frame| {
                let data = frame.trim().strip_prefix("data: ").unwrap_or_else(|| panic!("{text}"));
                serde_json::from_str(data).unwrap()
            })
            .collect()
    }

    #[test]
    fn the_last_chunk_is_kept_and_tells_the_price() {
        let mut open = transcript();
        let first = frame(&word("Hi", 1));
        let piece = open.read(first.clone());
        assert_eq!((piece.passed, piece.content.text.as_str()), (Some(first), "Hi"));
        assert!(!open.is_whole());
        let piece = open.read(frame(&last(" you", 2)));
        assert_eq!((piece.passed, piece.content.text.as_str()), (None, " you"));
        assert!(open.is_whole() && !piece.is_end);
        assert_eq!(
            open.reported(),
            Reported::Given(TokenUsage { prompt: 3, completion: 2, reported_total: 5 })
        );
        assert_eq!(open.reported_prompt(), Some(3));
        let end = told(&open.close(Close::Completed, Some(&bill())));
        let mut expected = last(" you", 2);
        expected["usageMetadata"]["cost"] = json!(0.00205);
        expected["polysystems"] =
            json!({ "cost": 0.00205, "balance": 1.0, "currency": "USD", "request_id": "req-1" });
        assert_eq!(end, [expected]);
        // Another comes after it.
        let late = json!({ "usageMetadata": { "promptTokenCount": 3, "candidatesTokenCount": 2,
            "thoughtsTokenCount": 9, "totalTokenCount": 14 } });
        let passed = open.read(frame(&late)).passed.unwrap();
        assert_eq!(told(&passed), [last(" you", 2)]);
        let end = told(&open.close(Close::Completed, Some(&bill())));
        assert_eq!(end[0]["usageMetadata"]["thoughtsTokenCount"], 9);
        assert_eq!(
            open.reported(),
            Reported::Given(TokenUsage { prompt: 3, completion: 11, reported_total: 14 })
        );
    }

    #[test]
    fn a_blocked_prompt_ends_a_stream() {
        let mut open = transcript();
        let blocked = json!({ "promptFeedback": { "blockReason": "SAFETY" },
            "usageMetadata": { "promptTokenCount": 3, "totalTokenCount": 3 } });
        assert_eq!(open.read(frame(&blocked)), Piece::default());
        assert!(open.is_whole());
        let unfinished = json!({ "candidates": [{ "finishReason": "FINISH_REASON_UNSPECIFIED" }] });
        let mut open = transcript();
        open.read(frame(&unfinished));
        assert!(!open.is_whole());
    }

    #[test]
    fn nothing_but_data_is_sent() {
        let mut open = transcript();
        assert_eq!(open.read(": keep alive\n\n".into()), Piece::default());
        assert_eq!(open.read("event: x\n\n".into()), Piece::default());
        let event = word("Hi", 1);
        for odd in [
            format!(": comment\ndata: {event}\n\n"),
            format!("data:{event}\n\n"),
            format!("id: 1\ndata: {event}\n\n"),
            format!("data: {event}\r\r"),
            format!("data: {{\ndata: {}\n\n", &event.to_string()[1..]),
        ] {
            let passed = open.read(odd.clone().into()).passed.unwrap();
            assert!(passed.starts_with(b"data: {") && passed.ends_with(b"}\n\n"), "{odd}");
            assert_eq!(told(&passed), std::slice::from_ref(&event), "{odd}");
        }
        let piece = open.read("data: [DONE]\n\n".into());
        assert!(piece.is_end && piece.passed.is_none());
    }

    #[test]
    fn a_stream_ends_as_its_protocol_ends() {
        let declined = |reason| Close::Declined { reason, message: "Please top up." };
        let broken = |code| Close::Broken { code, message: "It broke off." };
        for (close, place, value) in [
            (declined("insufficient_credits"), "/candidates/0/finishReason", json!("MAX_TOKENS")),
            (
                declined("insufficient_credits"),
                "/polysystems/ended_by",
                json!("insufficient_credits"),
            ),
            (declined("spending_limit"), "/polysystems/message", json!("Please top up.")),
            (declined("token_limit"), "/usageMetadata/cost", json!(0.00205)),
            (declined("token_limit"), "/modelVersion", json!("m")),
            (broken("upstream_timeout"), "/error/status", json!("DEADLINE_EXCEEDED")),
            (broken("upstream_error"), "/error/code", json!(502)),
            (broken("server_stopped"), "/error/code", json!(503)),
            (broken("server_stopped"), "/polysystems/cost", json!(0.00205)),
        ] {
            let mut open = transcript();
            open.read(frame(&word("Hi", 1)));
            let end = told(&open.close(close, Some(&bill())));
            assert_eq!(end.len(), 1);
            assert_eq!(end[0].pointer(place), Some(&value), "{end:?}");
            // Nor without a bill is there anything that a client cannot read.
            assert_eq!(told(&open.close(close, None)).len(), 1);
        }
    }

    #[test]
    fn a_failure_is_told_and_nothing_beside_it() {
        let mut open = transcript();
        open.read(frame(&last("Hi", 1)));
        let error = json!({ "code": 503, "message": "busy", "status": "UNAVAILABLE",
            "details": ["the answer"] });
        let failed = json!({ "error": error, "note": "the answer" });
        let piece = open.read(frame(&failed));
        let told = told(&piece.passed.unwrap());
        assert_eq!(told[0], last("Hi", 1));
        assert_eq!(
            told[1],
            json!({ "error": { "code": 503, "message": "busy",
            "status": "UNAVAILABLE" } })
        );
        assert!(open.has_failed() && piece.content.is_empty());
        assert!(open.close(Close::Failed, Some(&bill())).is_empty());
        assert!(sse::read(b"data: x\n\n").is_some());
    }
}
