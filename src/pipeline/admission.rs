//! Concurrency limits, and the drain at shutdown.
//!
//! The process counts here what it does at the same time: requests being handled, paid calls (a
//! stream is one until its end) and bytes of request bodies. A request above a limit is refused
//! before any work is done for it, so refusals stay cheap however many there are.
//!
//! Each kind of caller has places of its own. Strangers, who have shown no credential, cannot take
//! the places of callers with one; calls with test keys cannot take those of paying customers, and
//! nobody those of a payment provider. A place is for work: a request whose body is on its way has
//! none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::watch;

use domain::Environment;

/// Smaller bodies are not counted: the limits on requests and on connections bound them.
pub(crate) const SMALL_BODY: usize = 4 * 1024;
/// Bytes of their bodies that requests that are no calls have at least, whatever the limit is.
const ACCOUNT_BYTES_MIN: usize = 1024 * 1024;

/// Bytes that the bodies of requests that are no calls may take, of all that bodies may take. The
/// bodies of events of payment providers may take as many.
#[must_use]
pub fn account_bytes_max(body_bytes: usize) -> usize {
    (body_bytes / 16).max(ACCOUNT_BYTES_MIN)
}

fn call_bytes_max(body_bytes: usize) -> usize {
    body_bytes.saturating_sub(body_bytes / 8)
}

/// What may run at the same time.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionLimits {
    /// Requests being handled with live keys; and as many of users with a session.
    pub requests: usize,
    /// Requests without a credential. As many events of payment providers may be taken in, and as
    /// many keys may be looked up.
    pub strangers: usize,
    /// Paid calls with live keys, streams included.
    pub calls: usize,
    /// Calls with test keys, streams included.
    pub test_calls: usize,
    /// Bytes of request bodies in memory.
    pub body_bytes: usize,
}

/// The concurrency limits, and whether the server takes new work.
#[derive(Debug)]
pub struct Admission {
    /// The server reports that it is not ready, but still takes calls.
    is_unready: AtomicBool,
    is_draining: AtomicBool,
    bounds: AdmissionLimits,
    requests: AtomicUsize,
    sessions: AtomicUsize,
    strangers: AtomicUsize,
    providers: AtomicUsize,
    lookups: AtomicUsize,
    calls: AtomicUsize,
    test_calls: AtomicUsize,
    call_bytes: AtomicUsize,
    account_bytes: AtomicUsize,
    provider_bytes: AtomicUsize,
    operator_bytes: AtomicUsize,
    /// Requests refused because too many ran.
    refused: AtomicU64,
    /// Requests whose handler panicked.
    panicked: AtomicU64,
    /// Becomes true when running calls must end.
    stop: watch::Sender<bool>,
}

/// A share of a limit, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    kind: Kind,
    amount: usize,
}

/// One running paid call.
pub type Running = Permit;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Request,
    Session,
    Stranger,
    Provider,
    Lookup,
    Call,
    TestCall,
    CallBytes,
    AccountBytes,
    ProviderBytes,
    OperatorBytes,
}

impl From<Environment> for Kind {
    fn from(environment: Environment) -> Self {
        match environment {
            Environment::Live => Kind::Call,
            Environment::Test => Kind::TestCall,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.counter(self.kind).0.fetch_sub(self.amount, Ordering::AcqRel);
    }
}

/// Whose body it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyOf {
    /// A call with a live key. It may fill the whole limit on bytes of calls.
    PayingCaller,
    /// A call with a test key. All of them may fill half of that limit.
    TestCaller,
    /// A request that is no call, of anybody. They have a limit of their own.
    Account,
    /// An event of a payment provider. They have a limit of their own.
    Provider,
    /// A file of an operator. They have a limit of their own.
    Operator,
    /// A document of an operator: of the catalogue, or of prices. They share the limit of files.
    Document,
}

impl From<BodyOf> for Kind {
    fn from(of: BodyOf) -> Self {
        match of {
            BodyOf::PayingCaller | BodyOf::TestCaller => Kind::CallBytes,
            BodyOf::Account => Kind::AccountBytes,
            BodyOf::Provider => Kind::ProviderBytes,
            BodyOf::Operator | BodyOf::Document => Kind::OperatorBytes,
        }
    }
}

/// The largest file of an operator, in bytes, and the most that all of them have in memory
/// together.
pub const OPERATOR_BODY_MAX: usize = 64 * 1024 * 1024;

/// The largest document of an operator, in bytes. Public price files of thousands of models become
/// documents of some megabytes.
pub const DOCUMENT_BODY_MAX: usize = 8 * 1024 * 1024;

/// The share that a body has in the limit on bytes, while it is read and as long as it is in
/// memory.
#[derive(Debug)]
pub struct BodyPermit {
    admission: Arc<Admission>,
    of: BodyOf,
    permit: Option<Permit>,
}

impl BodyPermit {
    /// Takes what a body of `bytes` needs, as far as it is not taken yet. False if there is no
    /// room. Small bodies need none.
    pub fn cover(&mut self, bytes: usize) -> bool {
        if bytes < SMALL_BODY {
            return true;
        }
        let taken = self.permit.as_ref().map_or(0, |permit| permit.amount);
        let Some(missing) = bytes.checked_sub(taken).filter(|missing| *missing > 0) else {
            return true;
        };
        let max = self.admission.body_bytes_max(self.of);
        let Some(mut more) = self.admission.take_within(self.of.into(), missing, max) else {
            return false;
        };
        if let Some(permit) = &mut self.permit {
            permit.amount = permit.amount.saturating_add(std::mem::take(&mut more.amount));
        } else {
            self.permit = Some(more);
        }
        true
    }

    /// The body, which has its share as long as it is in memory.
    #[must_use]
    pub fn hold(self, bytes: Bytes) -> Bytes {
        match self.permit {
            Some(permit) => Bytes::from_owner(Counted { bytes, _permit: permit }),
            None => bytes,
        }
    }
}

/// A body that counts as long as it is in memory.
struct Counted {
    bytes: Bytes,
    _permit: Permit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Admission {
    /// Ready, with nothing running.
    #[must_use]
    pub fn new(bounds: AdmissionLimits) -> Self {
        Admission {
            is_unready: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            bounds,
            requests: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            strangers: AtomicUsize::new(0),
            providers: AtomicUsize::new(0),
            lookups: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            test_calls: AtomicUsize::new(0),
            call_bytes: AtomicUsize::new(0),
            account_bytes: AtomicUsize::new(0),
            provider_bytes: AtomicUsize::new(0),
            operator_bytes: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
            stop: watch::Sender::new(false),
        }
    }

    fn counter(&self, kind: Kind) -> (&AtomicUsize, usize) {
        match kind {
            Kind::Request => (&self.requests, self.bounds.requests),
            Kind::Session => (&self.sessions, self.bounds.requests),
            Kind::Stranger => (&self.strangers, self.bounds.strangers),
            Kind::Provider => (&self.providers, self.bounds.strangers),
            Kind::Lookup => (&self.lookups, self.bounds.strangers),
            Kind::Call => (&self.calls, self.bounds.calls),
            Kind::TestCall => (&self.test_calls, self.bounds.test_calls),
            Kind::CallBytes => (&self.call_bytes, call_bytes_max(self.bounds.body_bytes)),
            Kind::AccountBytes => (&self.account_bytes, account_bytes_max(self.bounds.body_bytes)),
            Kind::ProviderBytes => {
                (&self.provider_bytes, account_bytes_max(self.bounds.body_bytes))
            }
            Kind::OperatorBytes => (&self.operator_bytes, OPERATOR_BODY_MAX),
        }
    }

    fn take(self: &Arc<Self>, kind: Kind, amount: usize) -> Option<Permit> {
        let max = self.counter(kind).1;
        self.take_within(kind, amount, max)
    }

    fn take_within(self: &Arc<Self>, kind: Kind, amount: usize, max: usize) -> Option<Permit> {
        let before = self.counter(kind).0.fetch_add(amount, Ordering::AcqRel);
        let permit = Permit { admission: Arc::clone(self), kind, amount };
        (before.saturating_add(amount) <= max).then_some(permit)
    }

    /// A place for a request; `None` if the limit is reached.
    fn place(self: &Arc<Self>, kind: Kind) -> Option<Permit> {
        let permit = self.take(kind, 1);
        if permit.is_none() {
            self.count_refused();
        }
        permit
    }

    /// Admits a request with a live key; `None` if the limit is reached.
    pub fn admit(self: &Arc<Self>) -> Option<Permit> {
        self.place(Kind::Request)
    }

    /// Admits a request of a user with a session, who need not have paid anything; `None` if the
    /// limit is reached.
    pub fn admit_session(self: &Arc<Self>) -> Option<Permit> {
        self.place(Kind::Session)
    }

    /// Admits a request that has shown no credential; `None` if the limit is reached.
    pub fn admit_stranger(self: &Arc<Self>) -> Option<Permit> {
        self.place(Kind::Stranger)
    }

    /// Admits an event of a payment provider; `None` if the limit is reached.
    pub fn admit_provider(self: &Arc<Self>) -> Option<Permit> {
        self.place(Kind::Provider)
    }

    /// Admits a look-up of a key that is not in memory; `None` if the limit is reached.
    pub fn admit_lookup(self: &Arc<Self>) -> Option<Permit> {
        self.place(Kind::Lookup)
    }

    /// Admits a call, which has places by the environment of its key; `None` if the limit is
    /// reached or the server drains.
    pub fn enter(self: &Arc<Self>, environment: Environment) -> Option<Running> {
        let running = self.take(environment.into(), 1)?;
        // Checked after counting: a drain that does not see the call is seen by it.
        self.is_ready().then_some(running)
    }

    /// How many bytes of bodies there may be when one of these is read.
    fn body_bytes_max(&self, of: BodyOf) -> usize {
        let (_, max) = self.counter(of.into());
        if of == BodyOf::TestCaller { max / 2 } else { max }
    }

    /// May a body of so many bytes be read?
    #[must_use]
    pub fn has_room_for(&self, bytes: usize, of: BodyOf) -> bool {
        let taken = self.counter(of.into()).0.load(Ordering::Relaxed);
        bytes < SMALL_BODY || taken.saturating_add(bytes) <= self.body_bytes_max(of)
    }

    /// The share of a body that is going to be read: nothing yet.
    #[must_use]
    pub fn body_permit(self: &Arc<Self>, of: BodyOf) -> BodyPermit {
        BodyPermit { admission: Arc::clone(self), of, permit: None }
    }

    /// Counts a request that was refused because of a limit.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Is there a place for one more call of a paying customer?
    #[must_use]
    pub fn has_place(&self) -> bool {
        let is_below = |kind| {
            let (counter, max) = self.counter(kind);
            counter.load(Ordering::Relaxed) < max
        };
        is_below(Kind::Request) && is_below(Kind::Call)
    }

    /// From now on the server reports that it is not ready, but still takes calls.
    pub fn announce_drain(&self) {
        self.is_unready.store(true, Ordering::Release);
    }

    /// Is the server about to stop, or stopping?
    #[must_use]
    pub fn is_unready(&self) -> bool {
        self.is_unready.load(Ordering::Acquire) || !self.is_ready()
    }

    /// Takes no new calls from now on.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Are new calls taken?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.is_draining.load(Ordering::Acquire)
    }

    /// Ends the running calls.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until running calls must end.
    pub async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // The sender lives as long as `self`.
        let _ = stop.wait_for(|is_stopped| *is_stopped).await;
    }

    /// How many calls with keys of this environment run, streams included.
    #[must_use]
    pub fn running(&self, environment: Environment) -> usize {
        self.counter(environment.into()).0.load(Ordering::Acquire)
    }

    /// How many calls with keys of this environment may run.
    #[must_use]
    pub fn running_max(&self, environment: Environment) -> usize {
        self.counter(environment.into()).1
    }

    /// Does nothing run, neither a request nor a call?
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let requests = [&self.requests, &self.sessions, &self.strangers, &self.providers];
        let calls = [&self.calls, &self.test_calls];
        requests.iter().chain(&calls).all(|counter| counter.load(Ordering::Acquire) == 0)
    }

    /// Requests being handled, of callers with a credential.
    #[must_use]
    pub fn requests(&self) -> usize {
        let sessions = self.sessions.load(Ordering::Relaxed);
        self.requests.load(Ordering::Relaxed).saturating_add(sessions)
    }

    /// Requests without a credential.
    #[must_use]
    pub fn strangers(&self) -> usize {
        self.strangers.load(Ordering::Relaxed)
    }

    /// Bytes of request bodies in memory, small ones not counted.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        let kinds = [&self.call_bytes, &self.account_bytes, &self.provider_bytes];
        kinds.iter().map(|bytes| bytes.load(Ordering::Relaxed)).fold(0, usize::saturating_add)
    }

    /// Requests refused because too many ran, since the start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Counts a panic of a handler.
    pub fn note_panic(&self) {
        self.panicked.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests whose handler panicked, since the start.
    #[must_use]
    pub fn panicked(&self) -> u64 {
        self.panicked.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Arc<Admission> {
        Arc::new(Admission::new(AdmissionLimits {
            requests: 2,
            strangers: 1,
            calls: 1,
            test_calls: 1,
            body_bytes: 24_000,
        }))
    }

    #[test]
    fn no_more_is_let_in_than_may() {
        let admission = admission();
        let (one, two) = (admission.admit().unwrap(), admission.admit().unwrap());
        assert!(admission.admit().is_none());
        assert_eq!((admission.requests(), admission.refused()), (2, 1));
        drop(one);
        assert!(admission.admit().is_some());
        drop(two);
        assert_eq!(admission.requests(), 0);

        let call = admission.enter(Environment::Live).unwrap();
        assert!(admission.enter(Environment::Live).is_none());
        drop(call);
        admission.drain();
        assert!(admission.enter(Environment::Live).is_none());
        assert_eq!(admission.running(Environment::Live), 0);
    }

    #[test]
    fn each_kind_of_caller_has_places_of_its_own() {
        let admission = admission();
        let stranger = admission.admit_stranger().unwrap();
        assert!(admission.admit_stranger().is_none());
        let provider = admission.admit_provider().unwrap();
        assert!(admission.admit_provider().is_none());
        let test = admission.enter(Environment::Test).unwrap();
        assert!(admission.enter(Environment::Test).is_none());
        // A flood of users who have paid nothing takes no place of a call.
        let users = std::iter::from_fn(|| admission.admit_session()).collect::<Vec<_>>();
        assert!(!users.is_empty() && admission.has_place() && !admission.is_idle());
        let call = (admission.admit().unwrap(), admission.enter(Environment::Live).unwrap());
        assert!(!admission.has_place());
        drop((stranger, provider, test, call, users));
        assert!(admission.is_idle());
    }

    #[test]
    fn a_body_counts_from_its_first_bytes_as_long_as_anyone_has_it() {
        let admission = admission();
        let mut permit = admission.body_permit(BodyOf::PayingCaller);
        assert!(permit.cover(1_000) && admission.body_bytes() == 0);
        assert!(permit.cover(6_000) && permit.cover(12_000) && permit.cover(12_000));
        assert_eq!(admission.body_bytes(), 12_000);
        // What does not fit leaves the count as it was.
        assert!(!permit.cover(21_001));
        assert_eq!(admission.body_bytes(), 12_000);
        assert!(!admission.has_room_for(9_001, BodyOf::PayingCaller));
        // Small ones are bounded by the number of requests.
        assert!(admission.has_room_for(100, BodyOf::TestCaller));
        let body = permit.hold(Bytes::from(vec![1; 12_000]));
        let part = body.slice(10..20);
        drop(body);
        assert_eq!((admission.body_bytes(), part.len()), (12_000, 10));
        drop(part);
        assert_eq!(admission.body_bytes(), 0);
    }

    #[test]
    fn bodies_of_others_leave_room() {
        let admission = admission();
        let mut tests = admission.body_permit(BodyOf::TestCaller);
        assert!(tests.cover(10_500) && !tests.cover(10_501));
        assert!(!admission.has_room_for(5_000, BodyOf::TestCaller));
        let mut paying = admission.body_permit(BodyOf::PayingCaller);
        assert!(paying.cover(10_500) && !paying.cover(10_501));
        // Those that are no calls have room of their own, and so have payment providers.
        let mut kept = Vec::new();
        for of in [BodyOf::Account, BodyOf::Provider] {
            let mut all = admission.body_permit(of);
            assert!(all.cover(ACCOUNT_BYTES_MIN) && !all.cover(ACCOUNT_BYTES_MIN + 1), "{of:?}");
            kept.push(all);
        }
    }
}
