//! Odd usage: it is kept with what was billed, counted, and told to a person if one deployment has
//! more than one in a thousand. It changes no bill.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use super::bill::{Cost, model_of};
use super::charge::ChargedCall;
use super::gateway::Gateway;
use crate::store::oddities::{OddUsage, OddityLog};
use crate::upstream::dialect::ToldUsage;
use domain::catalogue::DeploymentId;
use domain::oddity::{Oddity, OddityWindow};
use domain::routing::AttemptOutcome;
use domain::{Environment, ProviderUsage, StoredBill};

/// Most numbers of a report that are kept, and the most objects that they are within.
const NUMBERS_MAX: usize = 48;
const DEPTH_MAX: usize = 4;
/// The longest name of a number.
const NAME_MAX: usize = 40;

/// What was odd since the start.
#[derive(Default)]
struct Seen {
    /// By provider and kind.
    counts: BTreeMap<(Arc<str>, Oddity), u64>,
    windows: BTreeMap<DeploymentId, OddityWindow>,
}

/// The odd usage of this process.
pub struct OddUsages {
    log: OddityLog,
    seen: Mutex<Seen>,
}

/// What the upstream has reported of a call.
pub(super) enum ReportedUsage<'c> {
    /// The body of its answer.
    Answer(&'c [u8]),
    /// What a stream has told, merged.
    Stream(&'c ToldUsage),
}

impl OddUsages {
    /// Records into this log.
    #[must_use]
    pub fn new(log: OddityLog) -> Self {
        OddUsages { log, seen: Mutex::default() }
    }

    /// How often it was odd since the start, by provider and kind.
    #[must_use]
    pub fn counts(&self) -> Vec<(Arc<str>, Oddity, u64)> {
        let seen = self.seen();
        let count = |((provider, kind), count): (&(Arc<str>, Oddity), &u64)| {
            (Arc::clone(provider), *kind, *count)
        };
        seen.counts.iter().map(count).collect()
    }

    /// How much was not recorded, because the database was too slow.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.log.lost()
    }

    /// Locked for a moment. A panic elsewhere leaves counters that are right.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps and counts what is odd about the usage of a call that costs so much.
pub(super) fn note(
    gateway: &Gateway,
    charged: &ChargedCall,
    upstream: &Arc<str>,
    cost: &Cost,
    reported: &ReportedUsage<'_>,
) {
    if cost.odd.is_empty() || charged.key().environment == Environment::Test {
        return;
    }
    let by = charged.deployed();
    let provider = by.map_or(upstream, |by| &by.provider.name);
    let deployment = by.map_or(upstream, |by| &by.deployment.name);
    let answered = by.map(|by| {
        let routing = gateway.models.routing();
        let counts = routing.counts.get(&by.id);
        (by.id, counts.map_or(0, |counts| counts.of(AttemptOutcome::Answered)))
    });
    let tells = {
        let mut seen = gateway.odd_usages.seen();
        for kind in cost.odd.each() {
            let count = seen.counts.entry((Arc::clone(provider), kind)).or_default();
            *count = count.saturating_add(1);
        }
        answered.is_some_and(|(id, answered)| seen.windows.entry(id).or_default().add(answered))
    };
    let kinds: Vec<&str> = cost.odd.each().map(Oddity::name).collect();
    let kinds = kinds.join(", ");
    let charge = charged.id();
    if tells {
        tracing::error!(
            alert = "usage_disagrees", %charge, %deployment, %provider, kinds,
            "a provider reports usage that does not agree with itself or with what is sold, more than once in a \
             thousand calls; look at GET /api/admin/usage/oddities, and correct the convention of the provider or the \
             prices"
        );
    } else {
        tracing::warn!(%charge, %deployment, %provider, kinds, "a usage is odd");
    }
    gateway.odd_usages.log.record(OddUsage {
        charge,
        deployment: deployment.to_string(),
        provider: provider.to_string(),
        model: model_of(charged).to_string(),
        kinds: cost.odd,
        reported: reported.text(),
        billed: billed(cost.bill.as_ref()),
        at: gateway.clock.now(),
    });
}

/// The quantities of a bill.
fn billed(bill: Option<&StoredBill>) -> String {
    let bill = bill.and_then(StoredBill::bill);
    let parts = bill.iter().flat_map(|bill| bill.quantities.parts());
    let parts: Map<String, Value> =
        parts.map(|(dim, quantity)| (dim.name().to_owned(), quantity.into())).collect();
    Value::Object(parts).to_string()
}

impl ReportedUsage<'_> {
    /// The numbers of the report, by the provider's names; of a stream by ours.
    fn text(&self) -> String {
        match self {
            ReportedUsage::Answer(body) => {
                let body: Value = serde_json::from_slice(body).unwrap_or_default();
                let usage = body.get("usage").or_else(|| body.get("usageMetadata"));
                let mut left = NUMBERS_MAX;
                let numbers = usage.and_then(|usage| numbers(usage, DEPTH_MAX, &mut left));
                numbers.unwrap_or_else(|| Value::Object(Map::new())).to_string()
            }
            ReportedUsage::Stream(told) => merged(&told.parts).to_string(),
        }
    }
}

fn merged(usage: &ProviderUsage) -> Value {
    usage.named().map(|(name, number)| (name.to_owned(), number)).collect()
}

/// The numbers of a value, and what they are within. Texts are left out: they could be content.
fn numbers(value: &Value, depth: usize, left: &mut usize) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::Number(number) => {
            *left = left.checked_sub(1)?;
            Some(Value::Number(number.clone()))
        }
        Value::Object(fields) => {
            let is_plain = |name: &str| {
                let mut bytes = name.bytes();
                name.len() <= NAME_MAX
                    && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            };
            let kept = fields.iter().filter(|(name, _)| is_plain(name));
            let kept =
                kept.filter_map(|(name, value)| Some((name.clone(), numbers(value, depth, left)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(values) => {
            Some(values.iter().filter_map(|value| numbers(value, depth, left)).collect())
        }
        Value::Null | Value::Bool(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_numbers_are_kept() {
        let body = json!({ "choices": [{ "message": { "content": "secret" } }], "usage": {
            "prompt_tokens": 9, "completion_tokens": -3, "total_tokens": 1e30, "speed": "fast",
            "prompt_tokens_details": { "cached_tokens": 11, "a name with spaces": 1, "text": "secret" },
            "iterations": [{ "input_tokens": 1 }, "secret"], "none": null } });
        let text = ReportedUsage::Answer(body.to_string().as_bytes()).text();
        let expected = json!({ "prompt_tokens": 9, "completion_tokens": -3, "total_tokens": 1e30,
            "prompt_tokens_details": { "cached_tokens": 11 }, "iterations": [{ "input_tokens": 1 }] });
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
        for body in ["", "{}", r#"{"usage":"many"}"#, "[1]"] {
            assert_eq!(ReportedUsage::Answer(body.as_bytes()).text(), "{}", "{body}");
        }
        let many: Map<String, Value> =
            (0..500).map(|n| (format!("n{n}"), json!(u64::MAX))).collect();
        let text = ReportedUsage::Answer(json!({ "usage": many }).to_string().as_bytes()).text();
        assert!(text.len() < 2_048 && text.matches(':').count() == NUMBERS_MAX, "{text}");
    }

    #[test]
    fn a_stream_is_kept_as_it_was_merged() {
        let parts = ProviderUsage {
            input: Some(9),
            cache_read: Some(11),
            output: Some(0),
            ..ProviderUsage::default()
        };
        let told = ToldUsage { parts, ..ToldUsage::default() };
        let text = ReportedUsage::Stream(&told).text();
        assert_eq!(text, r#"{"cache_read":11,"input":9,"output":0}"#);
    }
}
