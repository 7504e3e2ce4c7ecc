//! The way of one call from deployment to deployment.

use std::cmp::Reverse;
use std::sync::Arc;

use super::breaker::RetryBudget;
use super::rendezvous::score;
use super::standing::{AttemptFailure, AttemptPermit, Excluded, Standings};
use crate::catalogue::{Candidate, DeploymentId, FoundModel, Modality, ProviderDialect, SoldModel};
use crate::window::Timestamp;

/// Most attempts of one call, the first one included.
const ATTEMPTS_MAX: u32 = 3;
/// The longest time that a call waits for a deployment, once.
const WAIT_MAX_MICROS: i64 = 1_000_000;
/// The longest time before the same deployment is asked again; doubled each time.
const AGAIN_MICROS: u64 = 50_000;
/// So many running calls more than its share a deployment may have anyway. With few calls chance
/// makes the shares uneven, and a session that leaves loses the provider's cache.
const SPARE_CALLS: u64 = 16;

/// What decides between deployments of one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// The key of a session, which stays where it is so that the provider's cache serves it.
    Session(u64),
    /// Random bits, for a call without a session.
    Chance(u64),
}

/// What a call needs of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Need {
    /// The most tokens that its prompt has.
    pub input: u64,
    /// The most tokens that its completion may have.
    pub output: u64,
    /// The protocols that it can be asked in. Empty: any.
    pub dialects: Vec<ProviderDialect>,
    /// What its prompt contains and its answer must.
    pub modalities: Vec<Modality>,
    /// The region that it must stay in.
    pub region: Option<Arc<str>>,
    /// The only deployment that has what the call refers to, such as an earlier answer.
    pub pinned: Option<DeploymentId>,
    /// Deployments that would cost us more than the customer pays.
    pub at_a_loss: Vec<DeploymentId>,
    /// Is it a count of tokens or the like, which costs nothing? It takes no room of paid calls,
    /// and nothing is learned from it.
    pub is_aside: bool,
    /// Does it leave the last tenth of the calls that a deployment may have at once to others?
    pub is_shed: bool,
    /// Context window and modalities of the model.
    pub model: Arc<SoldModel>,
}

impl Need {
    /// The tokens that count against a deployment's limit.
    pub(super) fn tokens(&self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// Is there no room for it at a deployment that has so many of at most `most` calls?
    pub(super) fn is_beyond(&self, in_flight: u32, most: u32) -> bool {
        let (in_flight, most) = (u64::from(in_flight), u64::from(most));
        let is_spare = in_flight.saturating_mul(10) >= most.saturating_mul(9);
        in_flight >= most || (self.is_shed && is_spare)
    }

    /// What speaks against a deployment at any time.
    pub(super) fn excludes(&self, served: &Candidate) -> Option<Excluded> {
        let (by, model) = (&served.by, &self.model);
        let region = by.provider.region.as_ref();
        let reasons = [
            (by.deployment.is_disabled, Excluded::Disabled),
            (self.pinned.is_some_and(|only| only != by.id), Excluded::Pinned),
            (
                !self.dialects.is_empty() && !self.dialects.contains(&by.provider.dialect),
                Excluded::Dialect,
            ),
            (self.input > model.max_input, Excluded::Context),
            (!self.modalities.iter().all(|kind| model.takes(*kind)), Excluded::Modality),
            (self.region.is_some() && self.region.as_ref() != region, Excluded::Region),
            (self.at_a_loss.contains(&by.id), Excluded::AtALoss),
        ];
        reasons.into_iter().find(|(is_so, _)| *is_so).map(|(_, reason)| reason)
    }
}

/// Why a call is not tried any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// Everybody who could be asked is not asked before this instant.
    Busy {
        /// The soonest of them.
        until: Timestamp,
    },
    /// There is nobody who could be asked.
    Nobody,
    /// Attempts or retries are used up. The last failure is the answer.
    Spent,
    /// The prompt is too long. Another model may take it.
    ContextTooLong,
    /// A policy forbids the prompt. Another model may take it.
    Policy,
    /// It is the request, or the client has left.
    Callers,
}

/// What a call does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It asks, after a random time below `wait_micros`.
    Try {
        /// That it may.
        permit: AttemptPermit,
        /// The longest time to wait before.
        wait_micros: u64,
    },
    /// It waits until this instant, and then calls [`Plan::next`] again.
    Wait(Timestamp),
    /// It ends.
    GiveUp(GiveUp),
}

/// The way of one call.
#[derive(Clone, Debug)]
pub struct Plan {
    need: Need,
    /// The best first.
    order: Vec<Candidate>,
    /// Those that have failed, so that they are not asked again.
    failed: Vec<DeploymentId>,
    /// Credentials that were refused.
    refused: Vec<Arc<str>>,
    /// The one that may be asked again if nobody else can be.
    again: Option<DeploymentId>,
    attempts: u32,
    has_waited: bool,
}

/// The order in which the deployments of a model are asked for this call.
#[must_use]
pub fn plan(found: &FoundModel, need: Need, standings: &Standings, by: Affinity) -> Plan {
    let key = match by {
        Affinity::Session(key) | Affinity::Chance(key) => key,
    };
    let mut order = found.served.clone();
    order.sort_by_cached_key(|served| {
        (served.priority, Reverse(score(key, served.by.id.0, served.weight)), served.by.id)
    });
    for group in order.chunk_by_mut(|a, b| a.priority == b.priority) {
        match by {
            Affinity::Session(_) => spill(group, standings),
            Affinity::Chance(_) => less_loaded(group, standings),
        }
    }
    Plan {
        need,
        order,
        failed: Vec::new(),
        refused: Vec::new(),
        again: None,
        attempts: 0,
        has_waited: false,
    }
}

/// Moves the first deployment that is not overloaded to the front: one that has at most 1.25 times
/// its share of the calls that run, and [`SPARE_CALLS`].
fn spill(group: &mut [Candidate], standings: &Standings) {
    let running = |served: &Candidate| u64::from(standings.in_flight(served.by.id));
    let all = group.iter().map(running).fold(1, u64::saturating_add);
    let weights = group.iter().map(|served| u64::from(served.weight)).fold(0, u64::saturating_add);
    let has_room = |served: &Candidate| {
        let share = all.saturating_mul(u64::from(served.weight)).saturating_mul(5);
        let most = share.div_ceil(weights.saturating_mul(4).max(1)).saturating_add(SPARE_CALLS);
        running(served) < most
    };
    if let Some(front) = group.iter().position(has_room).and_then(|place| group.get_mut(..=place)) {
        front.rotate_right(1);
    }
}

/// Of the first two the less loaded first; the faster one if they are equally loaded.
fn less_loaded(group: &mut [Candidate], standings: &Standings) {
    if let [first, second, ..] = group {
        let load = |one: &Candidate, other: &Candidate| {
            let running = u64::from(standings.in_flight(one.by.id));
            let load = running.saturating_mul(u64::from(other.weight));
            (load, standings.first_byte_micros(one.by.id))
        };
        if load(second, first) < load(first, second) {
            std::mem::swap(first, second);
        }
    }
}

impl Plan {
    /// The deployments in their order.
    #[must_use]
    pub fn order(&self) -> &[Candidate] {
        &self.order
    }

    /// What speaks against each of them now.
    pub fn excluded(
        &self,
        standings: &Standings,
        now: Timestamp,
    ) -> impl Iterator<Item = (DeploymentId, Option<Excluded>)> {
        self.order
            .iter()
            .map(move |served| (served.by.id, standings.excluded(served, &self.need, now)))
    }

    /// Whom the call asks first, or after it has waited.
    pub fn next(
        &mut self,
        standings: &mut Standings,
        retries: &mut RetryBudget,
        now: Timestamp,
    ) -> Next {
        if self.attempts >= ATTEMPTS_MAX {
            return Next::GiveUp(GiveUp::Spent);
        }
        let found = self.find(standings, now);
        let (served, is_again) = match found {
            Ok(found) => found,
            Err(Some(until)) if !self.has_waited && until.micros_since(now) <= WAIT_MAX_MICROS => {
                self.has_waited = true;
                return Next::Wait(until);
            }
            Err(Some(until)) => return Next::GiveUp(GiveUp::Busy { until }),
            Err(None) if self.attempts > 0 => return Next::GiveUp(GiveUp::Spent),
            Err(None) => return Next::GiveUp(GiveUp::Nobody),
        };
        if self.need.is_aside {
            // What is asked for nothing takes none of the retries of those who pay.
        } else if self.attempts == 0 {
            retries.call(now);
        } else if !retries.retry(now) {
            return Next::GiveUp(GiveUp::Spent);
        }
        let repeats = self.attempts.saturating_sub(1);
        let wait_micros = if is_again { AGAIN_MICROS << repeats.min(10) } else { 0 };
        self.attempts = self.attempts.saturating_add(1);
        self.again = None;
        let permit = standings.begin(served, &self.need, now);
        Next::Try { permit, wait_micros }
    }

    /// Whom to ask now, and whether it is the one that has just failed. Else the soonest instant at
    /// which somebody may be asked.
    fn find(
        &self,
        standings: &Standings,
        now: Timestamp,
    ) -> Result<(Candidate, bool), Option<Timestamp>> {
        let (mut again, mut shut, mut soonest) = (None, None, None);
        let mut may_wait = |until: Timestamp| {
            soonest = Some(soonest.map_or(until, |soonest: Timestamp| soonest.min(until)));
        };
        for served in &self.order {
            let id = served.by.id;
            let has_failed =
                self.failed.contains(&id) || self.refused.contains(&served.by.credential.name);
            match standings.excluded(served, &self.need, now) {
                None if !has_failed => return Ok((served.clone(), false)),
                None if self.again == Some(id) => again = Some(served),
                Some(Excluded::Cooling(until)) if !has_failed => may_wait(until),
                Some(Excluded::Open(until)) if !has_failed => {
                    may_wait(until);
                    shut = shut.or(Some(served));
                }
                _ => {}
            }
        }
        // A broken deployment may answer; a closed door does not.
        let last = shut.filter(|_| self.attempts == 0);
        match (again, last) {
            (Some(served), _) => Ok((served.clone(), true)),
            (None, Some(served)) => Ok((served.clone(), false)),
            (None, None) => Err(soonest),
        }
    }
}

/// What a call does after an attempt has failed.
pub fn after(
    failure: AttemptFailure,
    permit: &AttemptPermit,
    plan: &mut Plan,
    standings: &mut Standings,
    retries: &mut RetryBudget,
    now: Timestamp,
) -> Next {
    standings.failed(permit, failure, now);
    let by = &permit.served.by;
    match failure {
        AttemptFailure::ContextTooLong => return Next::GiveUp(GiveUp::ContextTooLong),
        AttemptFailure::Policy => return Next::GiveUp(GiveUp::Policy),
        AttemptFailure::Callers | AttemptFailure::ClientGone => {
            return Next::GiveUp(GiveUp::Callers);
        }
        // Its quota group cools. After that it may be asked again.
        AttemptFailure::RateLimited { .. } if !plan.need.is_aside => {}
        AttemptFailure::Refused | AttemptFailure::OutOfMoney => {
            plan.refused.push(Arc::clone(&by.credential.name));
        }
        AttemptFailure::Unreachable => {
            plan.again = Some(by.id);
            plan.failed.push(by.id);
        }
        AttemptFailure::RateLimited { .. }
        | AttemptFailure::Broken
        | AttemptFailure::NoSuchModel
        | AttemptFailure::NotServed => plan.failed.push(by.id),
    }
    plan.next(standings, retries, now)
}
