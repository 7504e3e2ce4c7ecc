//! Concurrency limits, and the drain at shutdown.
//!
//! The process counts here what it does at the same time: requests being handled, paid calls (a
//! stream is one until its end) and bytes of request bodies. A request above a limit is refused
//! before any work is done for it, so refusals stay cheap however many there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::watch;

/// Smaller bodies are not counted: the limit on requests bounds them.
const SMALL_BODY: usize = 4 * 1024;

/// What may run at the same time.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionLimits {
    /// Requests being handled.
    pub requests: usize,
    /// Paid calls, streams included.
    pub calls: usize,
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
    calls: AtomicUsize,
    body_bytes: AtomicUsize,
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
    Call,
    BodyBytes,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.counter(self.kind).0.fetch_sub(self.amount, Ordering::AcqRel);
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
            calls: AtomicUsize::new(0),
            body_bytes: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
            stop: watch::Sender::new(false),
        }
    }

    fn counter(&self, kind: Kind) -> (&AtomicUsize, usize) {
        match kind {
            Kind::Request => (&self.requests, self.bounds.requests),
            Kind::Call => (&self.calls, self.bounds.calls),
            Kind::BodyBytes => (&self.body_bytes, self.bounds.body_bytes),
        }
    }

    fn take(self: &Arc<Self>, kind: Kind, amount: usize) -> Option<Permit> {
        let (counter, max) = self.counter(kind);
        let before = counter.fetch_add(amount, Ordering::AcqRel);
        let permit = Permit { admission: Arc::clone(self), kind, amount };
        (before.saturating_add(amount) <= max).then_some(permit)
    }

    /// Admits a request; `None` if the limit is reached.
    pub fn admit(self: &Arc<Self>) -> Option<Permit> {
        let permit = self.take(Kind::Request, 1);
        if permit.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        permit
    }

    /// Admits a paid call; `None` if the limit is reached or the server drains.
    pub fn enter(self: &Arc<Self>) -> Option<Running> {
        let running = self.take(Kind::Call, 1)?;
        // Checked after counting: a drain that does not see the call is seen by it.
        self.is_ready().then_some(running)
    }

    /// May a body of so many bytes be read?
    #[must_use]
    pub fn has_room_for(&self, bytes: usize) -> bool {
        let taken = self.body_bytes.load(Ordering::Relaxed);
        bytes < SMALL_BODY || taken.saturating_add(bytes) <= self.bounds.body_bytes
    }

    /// The body, counted while it is in memory; `None` if there is no room for it.
    pub fn count_body(self: &Arc<Self>, bytes: Bytes) -> Option<Bytes> {
        if bytes.len() < SMALL_BODY {
            return Some(bytes);
        }
        let permit = self.take(Kind::BodyBytes, bytes.len())?;
        Some(Bytes::from_owner(Counted { bytes, _permit: permit }))
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

    /// How many paid calls run, streams included.
    #[must_use]
    pub fn running(&self) -> usize {
        self.calls.load(Ordering::Acquire)
    }

    /// How many paid calls may run.
    #[must_use]
    pub fn running_max(&self) -> usize {
        self.bounds.calls
    }

    /// Requests being handled.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Bytes of request bodies in memory, small ones not counted.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.body_bytes.load(Ordering::Relaxed)
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
        Arc::new(Admission::new(AdmissionLimits { requests: 2, calls: 1, body_bytes: 10_000 }))
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

        let call = admission.enter().unwrap();
        assert!(admission.enter().is_none());
        drop(call);
        admission.drain();
        assert!(admission.enter().is_none());
        assert_eq!(admission.running(), 0);
    }

    #[test]
    fn a_body_counts_as_long_as_anyone_has_it() {
        let admission = admission();
        let body = admission.count_body(Bytes::from(vec![1; 6_000])).unwrap();
        assert!(!admission.has_room_for(6_000));
        assert!(admission.count_body(Bytes::from(vec![1; 6_000])).is_none());
        // Small ones are bounded by the number of requests.
        assert!(admission.has_room_for(100) && admission.count_body(Bytes::from("x")).is_some());
        let part = body.slice(10..20);
        drop(body);
        assert_eq!((admission.body_bytes(), part.len()), (6_000, 10));
        drop(part);
        assert_eq!(admission.body_bytes(), 0);
    }
}
