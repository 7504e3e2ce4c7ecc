//! An attempt at a deployment, from the permit to the end of its answer.
//!
//! The permit is given back whatever happens: a future that is cancelled and a panic drop the
//! attempt, and that gives it back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Routing;
use crate::clock::Clock;
use domain::Timestamp;
use domain::catalogue::{Candidate, Deployed};
use domain::routing::{AttemptFailure, AttemptOutcome, AttemptPermit, GiveUp, Next, Plan, after};

/// What a call does next.
pub enum NextStep {
    /// It asks, after a random time below `wait_micros`.
    Ask {
        /// The attempt that begins.
        attempt: RunningAttempt,
        /// The longest time to wait before.
        wait_micros: u64,
    },
    /// It waits until this instant, and then looks again.
    Wait(Timestamp),
    /// It ends.
    GiveUp(GiveUp),
}

/// How many attempts at a deployment ended in each way.
#[derive(Clone, Debug, Default)]
pub struct AttemptCounts(BTreeMap<AttemptOutcome, u64>);

impl AttemptCounts {
    fn add(&mut self, outcome: AttemptOutcome) {
        let count = self.0.entry(outcome).or_default();
        *count = count.saturating_add(1);
    }

    /// The number of attempts that ended so.
    #[must_use]
    pub fn of(&self, outcome: AttemptOutcome) -> u64 {
        self.0.get(&outcome).copied().unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asking,
    Answered,
    Over,
}

/// An attempt that runs.
pub struct RunningAttempt {
    routing: Arc<Mutex<Routing>>,
    clock: Clock,
    permit: AttemptPermit,
    state: State,
}

impl Drop for RunningAttempt {
    fn drop(&mut self) {
        if self.state == State::Over {
            return;
        }
        let now = self.clock.now();
        let mut routing = lock(&self.routing);
        match self.state {
            State::Asking => {
                routing.standings.dropped(&self.permit, now);
                routing.count(&self.permit, AttemptOutcome::Dropped);
            }
            State::Answered => routing.standings.finished(&self.permit, now),
            State::Over => {}
        }
    }
}

impl RunningAttempt {
    /// Who is asked.
    #[must_use]
    pub fn served(&self) -> &Candidate {
        &self.permit.served
    }

    /// The provider answers; its first byte came after so many microseconds. The attempt runs until
    /// it is dropped.
    pub fn answered(&mut self, first_byte_micros: i64) {
        let now = self.clock.now();
        let mut routing = lock(&self.routing);
        routing.standings.answered(&self.permit, first_byte_micros, now);
        routing.count(&self.permit, AttemptOutcome::Answered);
        self.state = State::Answered;
    }

    /// It failed. What does the call do next?
    pub fn failed(mut self, failure: AttemptFailure, plan: &mut Plan) -> NextStep {
        let now = self.clock.now();
        let by = Arc::clone(&self.permit.served.by);
        self.state = State::Over;
        let shared = Arc::clone(&self.routing);
        let (next, before, health) = {
            let mut routing = lock(&shared);
            routing.count(&self.permit, failure.into());
            let Routing { standings, retries, .. } = &mut *routing;
            let before = standings.health(&by, now);
            let next = after(failure, &self.permit, plan, standings, retries, now);
            (next, before, standings.health(&by, now))
        };
        if health.is_credential_off && !before.is_credential_off {
            tell_of_credential(&by, failure);
        }
        if health.is_off && !before.is_off {
            tracing::error!(
                alert = "model_without_deployment",
                deployment = %by.deployment.name,
                "the provider does not know the model of a deployment, which is not asked any more; correct \
                 upstream_model, then reset the deployment"
            );
        }
        step(&shared, &self.clock, next)
    }
}

fn tell_of_credential(by: &Deployed, failure: AttemptFailure) {
    let (credential, deployment) = (&by.credential.name, &by.deployment.name);
    if failure == AttemptFailure::OutOfMoney {
        tracing::error!(
            alert = "provider_out_of_money",
            %credential,
            %deployment,
            "the account of a credential has no money or quota left at its provider, and is not used any more; pay \
             the provider, then reset the deployment"
        );
    } else {
        tracing::error!(
            alert = "credential_refused",
            %credential,
            %deployment,
            "a provider refuses a credential, which is not used any more; give it a new secret, or reset the \
             deployment"
        );
    }
}

/// The step, with its attempt if it is one.
pub(super) fn step(routing: &Arc<Mutex<Routing>>, clock: &Clock, next: Next) -> NextStep {
    match next {
        Next::Try { permit, wait_micros } => {
            let (routing, clock) = (Arc::clone(routing), clock.clone());
            let attempt = RunningAttempt { routing, clock, permit, state: State::Asking };
            NextStep::Ask { attempt, wait_micros }
        }
        Next::Wait(until) => NextStep::Wait(until),
        Next::GiveUp(why) => NextStep::GiveUp(why),
    }
}

impl Routing {
    fn count(&mut self, permit: &AttemptPermit, outcome: AttemptOutcome) {
        self.counts.entry(permit.served.by.id).or_default().add(outcome);
    }
}

/// Locks it for a moment. A panic elsewhere leaves counters that are right.
pub(super) fn lock(routing: &Mutex<Routing>) -> MutexGuard<'_, Routing> {
    routing.lock().unwrap_or_else(PoisonError::into_inner)
}
