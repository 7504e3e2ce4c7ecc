//! A generated answer in the shape of its route.

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::fault::{ABSURD_TOKENS, Fault};
use super::text::GeneratedText;
use crate::upstream::answer::{Answer, AnswerBody, read_usage};
use domain::{Reported, TokenUsage};

/// The shape of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Chat,
    Completion,
    Response,
    AgentChat,
    Generation,
}

impl Shape {
    pub(super) fn has_choices(self) -> bool {
        matches!(self, Shape::Chat | Shape::Completion)
    }
}

/// A complete answer of any shape but that of responses.
#[derive(Serialize)]
struct WholeAnswer<'w> {
    id: String,
    object: &'static str,
    created: i64,
    model: &'w str,
    #[serde(skip_serializing_if = "Option::is_none")]
    choices: Option<Vec<Choice<'w>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'w>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'w str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<WholeUsage>,
    simulated: bool,
}

/// Its usage.
#[derive(Serialize)]
#[serde(untagged)]
enum WholeUsage {
    Right { completion_tokens: u64, prompt_tokens: u64, total_tokens: u64 },
    Wrong(Value),
}

/// One of its choices. `()` is null.
#[derive(Serialize)]
struct Choice<'w> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'w>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'w str>,
    logprobs: (),
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message<'w> {
    role: &'static str,
    content: &'w str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<()>,
}

/// A generated answer.
pub(super) struct Writing {
    pub(super) shape: Shape,
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) model: String,
    pub(super) choices: usize,
    pub(super) prompt_tokens: u64,
    pub(super) reply: GeneratedText,
    pub(super) fault: Option<Fault>,
}

impl Writing {
    fn usage(&self) -> TokenUsage {
        let choices = u64::try_from(self.choices).unwrap_or(1);
        let written = u64::try_from(self.reply.count).unwrap_or(u64::MAX);
        TokenUsage::new(self.prompt_tokens, written.saturating_mul(choices))
    }

    fn reported(&self) -> Reported {
        match self.fault {
            Some(Fault::NoUsage) => Reported::Missing,
            Some(Fault::AbsurdUsage | Fault::NegativeUsage) => {
                let usage = self.usage_object().unwrap_or_default();
                read_usage(&usage.to_string())
            }
            _ => {
                let usage = self.usage();
                Reported::Given(TokenUsage { reported_total: usage.total(), ..usage })
            }
        }
    }

    pub(super) fn usage_object(&self) -> Option<Value> {
        let usage = self.usage();
        let (prompt, completion) = match self.shape {
            Shape::Response => ("input_tokens", "output_tokens"),
            _ => ("prompt_tokens", "completion_tokens"),
        };
        match self.fault {
            Some(Fault::NoUsage) => None,
            Some(Fault::AbsurdUsage) => {
                Some(json!({ prompt: ABSURD_TOKENS, completion: ABSURD_TOKENS }))
            }
            Some(Fault::NegativeUsage) => Some(json!({ prompt: -1, completion: -1 })),
            _ => Some(json!({
                prompt: usage.prompt,
                completion: usage.completion,
                "total_tokens": usage.total(),
            })),
        }
    }

    fn whole_usage(&self) -> Option<WholeUsage> {
        if self.fault.is_some() {
            return self.usage_object().map(WholeUsage::Wrong);
        }
        let usage = self.usage();
        Some(WholeUsage::Right {
            completion_tokens: usage.completion,
            prompt_tokens: usage.prompt,
            total_tokens: usage.total(),
        })
    }

    /// The complete answer.
    pub(super) fn answer(&self) -> Answer {
        let (status, reported) = (StatusCode::OK, self.reported());
        if self.shape == Shape::Response {
            let output = json!([self.output_item()]);
            return whole(
                status,
                &self.response("completed", &output, self.usage_object()),
                reported,
            );
        }
        let (text, finish_reason) = (self.reply.text.as_str(), self.reply.finish_reason);
        let (shape, has_choices) = (self.shape, self.shape.has_choices());
        let message = |refusal| Message { role: "assistant", content: text, refusal };
        let choice = |index| Choice {
            index,
            message: (shape == Shape::Chat).then(|| message(Some(()))),
            text: (shape == Shape::Completion).then_some(text),
            logprobs: (),
            finish_reason,
        };
        let answer = WholeAnswer {
            id: self.object_id(),
            object: match shape {
                Shape::Chat => "chat.completion",
                Shape::Completion => "text_completion",
                Shape::AgentChat => "agent.chat",
                _ => "generation",
            },
            created: self.created,
            model: &self.model,
            choices: has_choices.then(|| (0..self.choices).map(choice).collect()),
            message: (shape == Shape::AgentChat).then(|| message(None)),
            text: (shape == Shape::Generation).then_some(text),
            finish_reason: (!has_choices).then_some(finish_reason),
            usage: self.whole_usage(),
            simulated: true,
        };
        whole(status, &answer, reported)
    }

    fn object_id(&self) -> String {
        let prefix = match self.shape {
            Shape::Chat => "chatcmpl",
            Shape::Completion => "cmpl",
            Shape::Response => "resp",
            Shape::AgentChat => "chat",
            Shape::Generation => "gen",
        };
        format!("{prefix}-{}", self.id)
    }

    pub(super) fn add_head(&self, fields: &mut Map<String, Value>, object: &str) {
        fields.insert("id".into(), self.object_id().into());
        fields.insert("object".into(), object.into());
        let created = if self.shape == Shape::Response { "created_at" } else { "created" };
        fields.insert(created.into(), self.created.into());
        fields.insert("model".into(), self.model.as_str().into());
        fields.insert("simulated".into(), true.into());
    }

    pub(super) fn output_item(&self) -> Value {
        json!({
            "id": self.item_id(),
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [output_part(&self.reply.text)],
        })
    }

    pub(super) fn item_id(&self) -> String {
        format!("msg-{}", self.id)
    }

    pub(super) fn item_position(&self) -> Value {
        json!({ "item_id": self.item_id(), "output_index": 0, "content_index": 0 })
    }

    pub(super) fn response(&self, status: &str, output: &Value, usage: Option<Value>) -> Value {
        let mut response = response_object(status, output);
        if let Value::Object(fields) = &mut response {
            self.add_head(fields, "response");
            fields.insert("usage".into(), usage.unwrap_or(Value::Null));
        }
        response
    }
}

pub(super) fn output_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [] })
}

fn response_object(status: &str, output: &Value) -> Value {
    json!({
        "status": status,
        "error": null,
        "incomplete_details": null,
        "instructions": null,
        "metadata": {},
        "output": output,
        "parallel_tool_calls": true,
        "temperature": null,
        "tool_choice": "auto",
        "tools": [],
        "top_p": null,
    })
}

/// A complete answer with a JSON body.
pub(super) fn whole(status: StatusCode, body: &impl Serialize, reported: Reported) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // This cannot fail: every key is a text.
    let body = serde_json::to_vec(body).unwrap_or_default();
    Answer { status, headers, body: AnswerBody::Whole(body.into()), reported }
}
