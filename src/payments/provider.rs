//! The interface of payment providers: begin a payment, report its progress and its reversals.
//!
//! A webhook or a timer only triggers a query; what counts is the provider's answer. So webhooks
//! may be lost, late, repeated or in any order.

use std::future::Future;
use std::pin::Pin;

use serde_json::Value;

use crate::store::payments::Payment;
use domain::{Credits, ReversalKind, Timestamp};

/// A provider's pending answer.
pub type ProviderAnswer<'p, T> = Pin<Box<dyn Future<Output = Result<T, ProviderError>> + 'p>>;

/// Why a provider's request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// No answer, or none that decides: the request may have succeeded. To be retried.
    #[error("the payment provider did not answer: {0}")]
    Unreachable(String),
    /// A final refusal.
    #[error("the payment provider refused: {0}")]
    Refused(String),
}

/// A payment that is to begin.
#[derive(Clone, Debug)]
pub struct Order {
    /// The payment, on record already.
    pub payment: Payment,
    /// The payer's id at the provider, if there is one.
    pub customer: Option<String>,
}

/// The state of a payment at its provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits for its payer.
    Waiting,
    /// The payer has confirmed; the money is on its way.
    Confirming,
    /// The provider has received this amount.
    Paid(Credits),
    /// The payment failed; says why.
    Failed(String),
    /// The payer did not pay in time.
    Expired,
}

/// A refund or dispute, as the provider last reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenReversal {
    /// Its id at the provider.
    pub provider_ref: String,
    /// Why.
    pub kind: ReversalKind,
    /// How much; zero if it was withdrawn.
    pub wanted: Credits,
}

/// A provider's report on a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its id at the provider.
    pub provider_ref: Option<String>,
    /// Where its payer pays.
    pub checkout_url: Option<String>,
    /// Its status.
    pub stage: Stage,
    /// What was taken back of it.
    pub reversals: Vec<SeenReversal>,
}

impl Progress {
    /// A report of the state alone.
    #[must_use]
    pub fn at(stage: Stage) -> Self {
        Progress { provider_ref: None, checkout_url: None, stage, reversals: Vec::new() }
    }
}

/// A field of an answer; null if there is none.
#[must_use]
pub fn at<'v>(value: &'v Value, name: &str) -> &'v Value {
    value.get(name).unwrap_or(&Value::Null)
}

/// A payment provider. The sandbox is not one: its payments are confirmed at once.
pub trait Provider {
    /// Its name in the API.
    fn name(&self) -> &'static str;

    /// Does the provider know this payment, according to the database?
    fn is_known(&self, payment: &Payment) -> bool {
        payment.provider_ref.is_some()
    }

    /// Begins a payment. This is idempotent by the payment's id.
    fn begin<'p>(&'p self, order: &'p Order) -> ProviderAnswer<'p, Progress>;

    /// Moves the money, if the server has to do that. Called only after the payment is recorded as
    /// confirming.
    fn settle<'p>(&'p self, _: &'p Payment) -> Option<ProviderAnswer<'p, Progress>> {
        None
    }

    /// The state of a payment. `hint` is the id that a webhook gave.
    fn check<'p>(
        &'p self,
        payment: &'p Payment,
        hint: Option<&'p str>,
        now: Timestamp,
    ) -> ProviderAnswer<'p, Progress>;
}
