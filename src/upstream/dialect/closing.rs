//! The frames that end a stream, in the words of its protocol.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Value, json};

use super::Dialect;
use super::bill::{Close, ClosingBill, ended_by, left};
use super::transcript::{DONE, Transcript};
use crate::json::fields::Fields;
use domain::Reported;

impl Transcript {
    /// The frames that end the stream. Without a bill the cost is not known.
    #[must_use]
    pub fn close(&self, close: Close<'_>, bill: Option<&ClosingBill>) -> Bytes {
        let mut out = String::new();
        match self.dialect {
            Dialect::Responses => self.close_response(&mut out, close, bill),
            Dialect::Messages => {}
            dialect if dialect.is_gemini() => {
                self.close_gemini(&mut out, close, bill);
                return out.into();
            }
            _ => self.close_chunks(&mut out, close, bill),
        }
        let _ = write!(out, ": polysystems {}\n\n", self.receipt(close, bill));
        match self.dialect {
            Dialect::Responses => {}
            // Its clients stop reading at the end, and at an error.
            Dialect::Messages => {
                let completion = bill.map_or(0, |bill| bill.completion);
                self.close_message(&mut out, close, completion);
            }
            _ => {
                let _ = write!(out, "data: {DONE}\n\n");
            }
        }
        out.into()
    }

    /// The bill as JSON.
    pub(super) fn receipt(&self, close: Close<'_>, bill: Option<&ClosingBill>) -> String {
        match bill {
            Some(bill) => format!(
                "{{\"cost\":{},\"balance\":{},\"currency\":\"USD\"{},\"request_id\":\"{}\"{}}}",
                bill.cost,
                bill.balance,
                left(bill.left),
                self.request_id,
                ended_by(close)
            ),
            None => format!("{{\"request_id\":\"{}\"{}}}", self.request_id, ended_by(close)),
        }
    }

    fn close_chunks(&self, out: &mut String, close: Close<'_>, bill: Option<&ClosingBill>) {
        let head = self.head.clone().unwrap_or_default();
        match close {
            Close::Completed | Close::Failed => {}
            Close::Declined { reason, message } => {
                let mut last = head.clone();
                let choices: Vec<Value> =
                    (0..self.choices.min(128)).map(|index| self.last_choice(index)).collect();
                match self.dialect {
                    Dialect::Native => last.set("finish_reason", "\"length\""),
                    _ => last.set("choices", Value::Array(choices).to_string()),
                }
                let why = json!({ "ended_by": reason, "message": message });
                last.set("polysystems", why.to_string());
                let _ = write!(out, "data: {last}\n\n");
            }
            Close::Broken { code, message } => {
                let error = json!({ "error": { "message": message, "type": code, "code": code } });
                let _ = write!(out, "data: {error}\n\n");
            }
        }
        if let Some(bill) = bill.filter(|_| self.wants_usage) {
            let mut last = head;
            last.overlay(self.usage_event.clone().unwrap_or_default());
            if self.dialect != Dialect::Native {
                last.set("choices", "[]");
            }
            last.set("usage", self.usage_with_cost(bill));
            let _ = write!(out, "data: {last}\n\n");
        }
    }

    fn last_choice(&self, index: u64) -> Value {
        match self.dialect {
            Dialect::Completion => json!({ "index": index, "text": "", "finish_reason": "length" }),
            _ => json!({ "index": index, "delta": {}, "finish_reason": "length" }),
        }
    }

    fn close_response(&self, out: &mut String, close: Close<'_>, bill: Option<&ClosingBill>) {
        let next = self.sequence.saturating_add(1);
        match close {
            Close::Completed | Close::Failed => {
                let Some((event, fields)) = &self.terminal else { return };
                let mut fields = fields.clone();
                let response = fields.get("response").and_then(Fields::read);
                if let (Some(response), Some(bill)) = (response, bill) {
                    let mut response = response.into_owned();
                    response.set("usage", self.usage_with_cost(bill));
                    fields.set("response", response.to_string());
                }
                let _ = write!(out, "event: {event}\ndata: {fields}\n\n");
            }
            Close::Declined { reason, message } => {
                let mut response = self.head.clone().unwrap_or_default();
                response.set("status", "\"incomplete\"");
                response.set("incomplete_details", "{\"reason\":\"max_output_tokens\"}");
                if let Some(bill) = bill {
                    response.set("usage", self.usage_with_cost(bill));
                }
                let why = json!({ "ended_by": reason, "message": message });
                response.set("polysystems", why.to_string());
                let _ = write!(
                    out,
                    "event: response.incomplete\ndata: {{\"type\":\"response.incomplete\",\
                     \"sequence_number\":{next},\"response\":{response}}}\n\n"
                );
            }
            Close::Broken { code, message } => {
                let error = json!({
                    "type": "error", "code": code, "message": message, "param": null,
                    "sequence_number": next,
                });
                let _ = write!(out, "event: error\ndata: {error}\n\n");
            }
        }
    }

    /// The upstream's usage, or ours if it reports none, with the cost.
    fn usage_with_cost(&self, bill: &ClosingBill) -> String {
        let is_reported = matches!(self.reported, Reported::Given(_));
        let own = self.usage.as_deref().filter(|_| is_reported).and_then(Fields::read);
        let mut usage = own.unwrap_or_else(|| {
            let (prompt, completion) = match self.dialect {
                Dialect::Responses => ("input_tokens", "output_tokens"),
                _ => ("prompt_tokens", "completion_tokens"),
            };
            let mut usage = Fields::default();
            usage.set(prompt, bill.prompt.to_string());
            usage.set(completion, bill.completion.to_string());
            usage.set("total_tokens", bill.prompt.saturating_add(bill.completion).to_string());
            usage
        });
        usage.set("cost", bill.cost.to_string());
        usage.to_string()
    }
}
