//! What every payment provider does: begin a payment, say how far it has come, and what was taken back of it.
//!
//! A provider's word is asked for whenever something hints that it has changed: its webhook, a look now and then. So
//! hints may be lost, come twice, late or in any order; what counts is what the provider says when it is asked.

use std::future::Future;
use std::pin::Pin;

use serde_json::Value;

use crate::store::payments::Payment;
use domain::{Credits, ReversalKind, Timestamp};

/// What a provider answers, in time.
pub type Answer<'p, T> = Pin<Box<dyn Future<Output = Result<T, ProviderError>> + 'p>>;

/// Why a provider did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// It did not answer, or not with a word that counts: it may have done it. To be asked again.
    #[error("the payment provider did not answer: {0}")]
    Unreachable(String),
    /// It said no, for good.
    #[error("the payment provider refused: {0}")]
    Refused(String),
}

/// A payment that is to begin.
#[derive(Clone, Debug)]
pub struct Order {
    /// The payment, on record already.
    pub payment: Payment,
    /// What the provider calls its payer, where it knows them.
    pub customer: Option<String>,
}

/// How far a payment has come, by its provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits for its payer.
    Waiting,
    /// The payer has given their word.
    Confirming,
    /// The provider has the money: so much.
    Paid(Credits),
    /// It did not get it; says why.
    Failed(String),
    /// The payer did not pay in time.
    Expired,
}

/// What a provider takes back, by its last word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenReversal {
    /// What the provider calls it.
    pub provider_ref: String,
    /// Why.
    pub kind: ReversalKind,
    /// How much; nothing where it came to nothing.
    pub wanted: Credits,
}

/// A provider's word on a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What the provider calls it.
    pub provider_ref: Option<String>,
    /// Where its payer pays.
    pub checkout_url: Option<String>,
    /// How far it has come.
    pub stage: Stage,
    /// What was taken back of it.
    pub reversals: Vec<SeenReversal>,
}

impl Progress {
    /// Only how far it has come.
    #[must_use]
    pub fn at(stage: Stage) -> Self {
        Progress { provider_ref: None, checkout_url: None, stage, reversals: Vec::new() }
    }
}

/// A field of an answer; null where there is none.
#[must_use]
pub fn at<'v>(value: &'v Value, name: &str) -> &'v Value {
    value.get(name).unwrap_or(&Value::Null)
}

/// A payment provider. The sandbox is none: it has nothing to say.
pub trait Provider {
    /// Its name in the API.
    fn name(&self) -> &'static str;

    /// Was the provider told of this payment, by what is on record?
    fn has_heard(&self, payment: &Payment) -> bool {
        payment.provider_ref.is_some()
    }

    /// Begins a payment. Doing so twice is the same as once: the payment's id names it.
    fn begin<'p>(&'p self, order: &'p Order) -> Answer<'p, Progress>;

    /// Has the money moved, where that is ours to do: once it is on record that it is about to be, and never before.
    fn settle<'p>(&'p self, _: &'p Payment) -> Option<Answer<'p, Progress>> {
        None
    }

    /// How far it has come. `hint` is what a webhook called it, where that was one.
    fn look<'p>(
        &'p self,
        payment: &'p Payment,
        hint: Option<&'p str>,
        now: Timestamp,
    ) -> Answer<'p, Progress>;
}
