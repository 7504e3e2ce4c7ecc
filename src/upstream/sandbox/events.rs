//! A generated answer as a stream of events.

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};

use super::fault::{Fault, SLOW_EVENT};
use super::writing::{Shape, Writing, output_part};
use crate::upstream::answer::{Answer, AnswerBody, Failure};
use domain::Reported;

/// The answer with these events, `total` of them, as the fault has it.
pub(super) fn paced(
    events: impl Iterator<Item = Bytes> + Send + 'static,
    total: usize,
    fault: Option<Fault>,
) -> Answer {
    let is_cut = fault == Some(Fault::Cut);
    let kept = if is_cut { total / 2 } else { total };
    let broken = Failure::Broken("the sandbox broke off on purpose");
    let end = is_cut.then_some(Err(broken));
    let events = events.take(kept).map(Ok).chain(end);
    let paced = futures_util::stream::iter(events).then(move |event| async move {
        if fault == Some(Fault::Slow) {
            tokio::time::sleep(SLOW_EVENT).await;
        }
        event
    });
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    let (body, reported) = (AnswerBody::Stream(Box::pin(paced)), Reported::Missing);
    Answer { status: StatusCode::OK, headers, body, reported }
}

impl Writing {
    /// The answer as events, one per token, each made when the client is ready for it.
    pub(super) fn streamed(self) -> Answer {
        let fault = self.fault;
        let last = self.last_events();
        let pieces = self.reply.pieces.len().saturating_mul(self.choices);
        let total = self.first_events().len().saturating_add(pieces).saturating_add(last.len());
        let first = self.first_events();
        let choices = self.choices;
        let middle = (0..pieces).map(move |index| {
            let (piece, choice) = (index / choices.max(1), index.checked_rem(choices));
            self.piece_event(piece, choice.unwrap_or(0))
        });
        paced(first.into_iter().chain(middle).chain(last), total, fault)
    }

    /// The events before the text.
    fn first_events(&self) -> Vec<Bytes> {
        match self.shape {
            Shape::Chat => (0..self.choices)
                .map(|index| {
                    let delta = json!({ "role": "assistant", "content": "" });
                    self.choice_chunk(
                        &json!({ "index": index, "delta": delta, "finish_reason": null }),
                    )
                })
                .collect(),
            Shape::Response => {
                let begun = self.response("in_progress", &json!([]), None);
                let item = json!({
                    "id": self.item_id(), "type": "message", "role": "assistant",
                    "status": "in_progress", "content": [],
                });
                let part = with(&self.item_position(), "part", output_part(""));
                vec![
                    response_event(0, "response.created", &json!({ "response": begun })),
                    response_event(1, "response.in_progress", &json!({ "response": begun })),
                    response_event(
                        2,
                        "response.output_item.added",
                        &json!({ "output_index": 0, "item": item }),
                    ),
                    response_event(3, "response.content_part.added", &part),
                ]
            }
            _ => Vec::new(),
        }
    }

    /// The event of a token, of one choice.
    fn piece_event(&self, piece: usize, choice: usize) -> Bytes {
        let text = self.reply.pieces.get(piece).map_or("", |text| text.as_ref());
        match self.shape {
            Shape::Chat => self.choice_chunk(&json!({
                "index": choice, "delta": { "content": text }, "finish_reason": null,
            })),
            Shape::Completion => self.choice_chunk(&json!({
                "index": choice, "text": text, "finish_reason": null,
            })),
            Shape::Response => {
                let delta =
                    with(&with(&self.item_position(), "delta", text.into()), "logprobs", json!([]));
                response_event(piece.saturating_add(4), "response.output_text.delta", &delta)
            }
            Shape::AgentChat => self.chunk(json!({ "delta": { "content": text } })),
            Shape::Generation => self.chunk(json!({ "text": text })),
        }
    }

    /// The events after the text.
    fn last_events(&self) -> Vec<Bytes> {
        if self.shape == Shape::Response {
            return self.last_response_events();
        }
        let finish_reason = self.reply.finish_reason;
        let mut events: Vec<Bytes> = match self.shape {
            Shape::Chat => (0..self.choices)
                .map(|index| {
                    self.choice_chunk(&json!({
                        "index": index, "delta": {}, "finish_reason": finish_reason,
                    }))
                })
                .collect(),
            Shape::Completion => (0..self.choices)
                .map(|index| {
                    self.choice_chunk(&json!({
                        "index": index, "text": "", "finish_reason": finish_reason,
                    }))
                })
                .collect(),
            _ => vec![self.chunk(json!({ "finish_reason": finish_reason }))],
        };
        if let Some(usage) = self.usage_object() {
            events.push(self.chunk(if self.shape.has_choices() {
                json!({ "choices": [], "usage": usage })
            } else {
                json!({ "usage": usage })
            }));
        }
        events.push(Bytes::from_static(b"data: [DONE]\n\n"));
        events
    }

    fn choice_chunk(&self, choice: &Value) -> Bytes {
        self.chunk(json!({ "choices": [choice], "usage": null }))
    }

    fn chunk(&self, fields: Value) -> Bytes {
        let object = match self.shape {
            Shape::Chat => "chat.completion.chunk",
            Shape::Completion => "text_completion",
            Shape::AgentChat => "agent.chat.chunk",
            _ => "generation.chunk",
        };
        let mut fields = match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        self.add_head(&mut fields, object);
        Bytes::from(format!("data: {}\n\n", Value::Object(fields)))
    }

    fn last_response_events(&self) -> Vec<Bytes> {
        let (at, text) = (self.item_position(), self.reply.text.as_str());
        let done = with(&with(&at, "text", text.into()), "logprobs", json!([]));
        let item = self.output_item();
        let completed = self.response("completed", &json!([item]), self.usage_object());
        let events = [
            ("response.output_text.done", done),
            ("response.content_part.done", with(&at, "part", output_part(text))),
            ("response.output_item.done", json!({ "output_index": 0, "item": item })),
            ("response.completed", json!({ "response": completed })),
        ];
        let first = self.reply.pieces.len().saturating_add(4);
        (first..)
            .zip(events)
            .map(|(number, (kind, fields))| response_event(number, kind, &fields))
            .collect()
    }
}

fn response_event(number: usize, kind: &str, fields: &Value) -> Bytes {
    let fields = with(&with(fields, "type", kind.into()), "sequence_number", number.into());
    Bytes::from(format!("event: {kind}\ndata: {fields}\n\n"))
}

/// The object with one more field.
fn with(object: &Value, name: &str, value: Value) -> Value {
    let mut object = object.clone();
    if let Value::Object(fields) = &mut object {
        fields.insert(name.to_owned(), value);
    }
    object
}
