//! What is known of deployments, their credentials and their quota groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::breaker::{Breaker, Cooldown, Gate, HostOutcome};
use super::plan::Need;
use super::recent::Recent;
use crate::catalogue::{Candidate, Deployed, DeploymentId};
use crate::window::Timestamp;

/// A credential is off after so many refusals in a row.
const REFUSALS_MAX: u32 = 3;

/// How an attempt failed before its first byte. It decides who is asked next, and who is not
/// asked for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptFailure {
    /// No connection, or a status 502, 503 or 529. The same deployment may be asked again.
    Unreachable,
    /// Status 500 or 504, or no first byte in time.
    Broken,
    /// Status 429, with the microseconds to wait if it says so: see [`super::retry_after`].
    RateLimited {
        /// How long to wait.
        told_micros: Option<i64>,
    },
    /// The credential's account at the provider has no money or quota left.
    OutOfMoney,
    /// Status 401 or 403: the credential is refused.
    Refused,
    /// Status 404: the provider has no such model.
    NoSuchModel,
    /// The provider does not serve this request to us: what it asks for, its size or its model.
    /// Another deployment may. Any caller can bring it about, so it says nothing about anybody.
    NotServed,
    /// The prompt is too long for the model.
    ContextTooLong,
    /// The provider's policy forbids the prompt.
    Policy,
    /// Another status of 400 to 499: the request is wrong.
    Callers,
    /// The client has left.
    ClientGone,
}

impl AttemptFailure {
    /// What it says about the host.
    #[must_use]
    pub const fn host(self) -> HostOutcome {
        match self {
            AttemptFailure::Unreachable | AttemptFailure::Broken => HostOutcome::Failed,
            AttemptFailure::ContextTooLong | AttemptFailure::Policy | AttemptFailure::Callers => {
                HostOutcome::Well
            }
            AttemptFailure::RateLimited { .. }
            | AttemptFailure::OutOfMoney
            | AttemptFailure::Refused
            | AttemptFailure::NoSuchModel
            | AttemptFailure::NotServed
            | AttemptFailure::ClientGone => HostOutcome::Neutral,
        }
    }
}

/// Why a deployment is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excluded {
    /// The catalogue disables it.
    Disabled,
    /// Another deployment has what the call refers to.
    Pinned,
    /// It does not speak the protocol.
    Dialect,
    /// The model's context window is too small.
    Context,
    /// The model does not take what the prompt contains.
    Modality,
    /// It is in another region.
    Region,
    /// It would cost us more than the customer pays.
    AtALoss,
    /// The provider does not know the model.
    Off,
    /// The credential does not work.
    Credential,
    /// As many calls as it may have are running.
    Concurrency,
    /// As many calls or tokens as it may have were in the last minute.
    Rate,
    /// Its quota group cools until then.
    Cooling(Timestamp),
    /// Its breaker is open until then.
    Open(Timestamp),
}

/// That one attempt may be made. It must be given back by [`Standings::succeeded`], by
/// [`super::after`], or by [`Standings::dropped`] if nothing came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct AttemptPermit {
    /// Who is asked.
    pub served: Candidate,
    pub(super) is_probe: bool,
    is_aside: bool,
    /// The most tokens of the call.
    tokens: u64,
}

impl AttemptPermit {
    /// Is it the one probe of an open breaker?
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }
}

/// What is known of a deployment at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeploymentHealth {
    /// Calls that are running.
    pub in_flight: u32,
    /// Microseconds to the first byte, of the last calls more than of earlier ones.
    pub first_byte_micros: Option<i64>,
    /// What its breaker says to the next call.
    pub gate: Gate,
    /// Until when its quota group cools.
    pub cooling: Option<Timestamp>,
    /// Is it off, because the provider does not know the model?
    pub is_off: bool,
    /// Is its credential off?
    pub is_credential_off: bool,
    /// Calls that it may have in the running minute; `None` without a limit.
    pub calls_left: Option<u64>,
    /// The same of tokens.
    pub tokens_left: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Standing {
    breaker: Breaker,
    in_flight: u32,
    /// Microseconds to the first byte, of the last calls more than of earlier ones.
    first_byte: Option<i64>,
    /// Calls that were begun, and tokens of calls that have ended.
    minute: Recent<60>,
    /// The most tokens of the running calls.
    reserved: u64,
    is_off: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct CredentialStanding {
    /// In a row.
    refusals: u32,
    is_off: bool,
}

/// What this process knows of all deployments.
#[derive(Clone, Debug, Default)]
pub struct Standings {
    deployments: BTreeMap<DeploymentId, Standing>,
    credentials: BTreeMap<Arc<str>, CredentialStanding>,
    groups: BTreeMap<Arc<str>, Cooldown>,
}

impl Standings {
    /// Why this deployment is not asked now; `None` if it may be. Its breaker comes last, so that
    /// [`Excluded::Open`] is the only reason.
    #[must_use]
    pub fn excluded(&self, served: &Candidate, need: &Need, now: Timestamp) -> Option<Excluded> {
        let by = &served.by;
        if let Some(reason) = need.excludes(served) {
            return Some(reason);
        }
        if self.credentials.get(&by.credential.name).is_some_and(|standing| standing.is_off) {
            return Some(Excluded::Credential);
        }
        if let Some(until) = self.cooling(by, now) {
            return Some(Excluded::Cooling(until));
        }
        let standing = self.deployments.get(&by.id)?;
        if standing.is_off {
            return Some(Excluded::Off);
        }
        let limits = &by.deployment;
        if limits.concurrency.is_some_and(|most| need.is_beyond(standing.in_flight, most)) {
            return Some(Excluded::Concurrency);
        }
        let [calls, tokens] = standing.minute.sums(now);
        let tokens = tokens.saturating_add(standing.reserved);
        let tokens = tokens.saturating_add(need.tokens());
        // A call of more tokens than a minute may have goes alone.
        let is_tpm_spent = limits.tpm.is_some_and(|most| tokens > most && calls > 0);
        if limits.rpm.is_some_and(|most| calls >= most) || is_tpm_spent {
            return Some(Excluded::Rate);
        }
        match standing.breaker.gate(now) {
            Gate::Go | Gate::Probe => None,
            Gate::Shut(until) => Some(Excluded::Open(until)),
        }
    }

    /// Until when the quota group of a deployment cools; `None` if it does not.
    #[must_use]
    pub fn cooling(&self, by: &Deployed, now: Timestamp) -> Option<Timestamp> {
        self.groups.get(by.credential.quota_group())?.until(now)
    }

    /// How many calls of a deployment are running.
    #[must_use]
    pub fn in_flight(&self, id: DeploymentId) -> u32 {
        self.deployments.get(&id).map_or(0, |standing| standing.in_flight)
    }

    /// Microseconds that a deployment takes to its first byte; 0 if nobody knows.
    #[must_use]
    pub fn first_byte_micros(&self, id: DeploymentId) -> i64 {
        self.deployments.get(&id).and_then(|standing| standing.first_byte).unwrap_or(0)
    }

    /// What is known of a deployment now.
    #[must_use]
    pub fn health(&self, by: &Deployed, now: Timestamp) -> DeploymentHealth {
        let unknown = Standing::default();
        let standing = self.deployments.get(&by.id).unwrap_or(&unknown);
        let credential = self.credentials.get(&by.credential.name);
        let [calls, tokens] = standing.minute.sums(now);
        let tokens = tokens.saturating_add(standing.reserved);
        let left = |most: Option<u64>, used: u64| most.map(|most| most.saturating_sub(used));
        DeploymentHealth {
            in_flight: standing.in_flight,
            first_byte_micros: standing.first_byte,
            gate: standing.breaker.gate(now),
            cooling: self.cooling(by, now),
            is_off: standing.is_off,
            is_credential_off: credential.is_some_and(|credential| credential.is_off),
            calls_left: left(by.deployment.rpm, calls),
            tokens_left: left(by.deployment.tpm, tokens),
        }
    }

    /// An attempt begins.
    pub(super) fn begin(
        &mut self,
        served: Candidate,
        need: &Need,
        now: Timestamp,
    ) -> AttemptPermit {
        if need.is_aside {
            return AttemptPermit { served, is_probe: false, is_aside: true, tokens: 0 };
        }
        let standing = self.deployments.entry(served.by.id).or_default();
        standing.in_flight = standing.in_flight.saturating_add(1);
        let tokens = need.tokens();
        standing.minute.add([1, 0], now);
        standing.reserved = standing.reserved.saturating_add(tokens);
        let is_probe = standing.breaker.gate(now) == Gate::Probe;
        if is_probe {
            standing.breaker.probe();
        }
        AttemptPermit { served, is_probe, is_aside: false, tokens }
    }

    fn credential(&mut self, name: &Arc<str>) -> &mut CredentialStanding {
        self.credentials.entry(Arc::clone(name)).or_default()
    }

    fn ended(&mut self, permit: &AttemptPermit, outcome: HostOutcome, now: Timestamp) {
        if permit.is_aside {
            return;
        }
        self.left(permit);
        let standing = self.deployments.entry(permit.served.by.id).or_default();
        standing.breaker.ended(outcome, permit.is_probe, now);
    }

    /// An attempt was answered completely; its first byte came after so many microseconds.
    pub fn succeeded(&mut self, permit: &AttemptPermit, first_byte_micros: i64, now: Timestamp) {
        self.answered(permit, first_byte_micros, now);
        self.finished(permit, now);
    }

    /// The answer to an attempt is on its way and may take long, as a stream does. The attempt runs
    /// until [`Standings::finished`].
    pub fn answered(&mut self, permit: &AttemptPermit, first_byte_micros: i64, now: Timestamp) {
        if permit.is_aside {
            return;
        }
        let by = &permit.served.by;
        let standing = self.deployments.entry(by.id).or_default();
        standing.breaker.ended(HostOutcome::Well, permit.is_probe, now);
        if let Some(standing) = self.deployments.get_mut(&by.id) {
            let before = standing.first_byte.unwrap_or(first_byte_micros);
            let change = first_byte_micros.saturating_sub(before) / 8;
            standing.first_byte = Some(before.saturating_add(change));
        }
        if let Some(standing) = self.credentials.get_mut(&by.credential.name) {
            standing.refusals = 0;
        }
        if let Some(cooldown) = self.groups.get_mut(by.credential.quota_group()) {
            cooldown.succeeded();
        }
    }

    /// The answer to an attempt has ended. See [`Standings::answered`].
    pub fn finished(&mut self, permit: &AttemptPermit, now: Timestamp) {
        self.left(permit);
        let standing = self.deployments.get_mut(&permit.served.by.id);
        if let Some(standing) = standing.filter(|_| !permit.is_aside) {
            standing.minute.add([0, permit.tokens], now);
        }
    }

    /// An attempt does not run any more. Its tokens are free again: a provider that refuses a
    /// request does not count them either.
    fn left(&mut self, permit: &AttemptPermit) {
        let standing = self.deployments.get_mut(&permit.served.by.id);
        if let Some(standing) = standing.filter(|_| !permit.is_aside) {
            standing.in_flight = standing.in_flight.saturating_sub(1);
            standing.reserved = standing.reserved.saturating_sub(permit.tokens);
        }
    }

    /// An attempt failed.
    pub(super) fn failed(
        &mut self,
        permit: &AttemptPermit,
        failure: AttemptFailure,
        now: Timestamp,
    ) {
        if permit.is_aside {
            return;
        }
        self.ended(permit, failure.host(), now);
        let credential = &permit.served.by.credential;
        match failure {
            AttemptFailure::RateLimited { told_micros } => {
                let group = Arc::clone(credential.quota_group());
                self.groups.entry(group).or_default().cool(told_micros, now);
            }
            AttemptFailure::OutOfMoney => self.credential(&credential.name).is_off = true,
            AttemptFailure::Refused => {
                let standing = self.credential(&credential.name);
                standing.refusals = standing.refusals.saturating_add(1);
                standing.is_off |= standing.refusals >= REFUSALS_MAX;
            }
            // Of a pattern the caller names the model, and must not speak for others.
            AttemptFailure::NoSuchModel if permit.served.by.is_of_pattern() => {}
            AttemptFailure::NoSuchModel => {
                let standing = self.deployments.entry(permit.served.by.id).or_default();
                // One that has answered has the model: it is what the request asks of it.
                standing.is_off |= standing.first_byte.is_none();
            }
            _ => {}
        }
    }

    /// Nothing came of an attempt, such as a task that was cancelled. It says nothing about
    /// anybody, and the place of a probe is free again.
    pub fn dropped(&mut self, permit: &AttemptPermit, now: Timestamp) {
        self.ended(permit, HostOutcome::Neutral, now);
    }

    /// The credentials that are off, because the provider refuses them or has no money left for
    /// them.
    pub fn credentials_off(&self) -> impl Iterator<Item = &Arc<str>> {
        self.credentials.iter().filter(|(_, standing)| standing.is_off).map(|(name, _)| name)
    }

    /// The deployments that are off, because the provider does not know their model.
    pub fn deployments_off(&self) -> impl Iterator<Item = DeploymentId> {
        self.deployments.iter().filter(|(_, standing)| standing.is_off).map(|(id, _)| *id)
    }

    /// A credential was tested or changed: it is used again.
    pub fn enable_credential(&mut self, name: &str) {
        self.credentials.remove(name);
    }

    /// An operator resets a deployment: it is asked again with its credential, and its quota group
    /// does not cool. Its running calls go on.
    pub fn reset(&mut self, by: &Deployed) {
        self.credentials.remove(&by.credential.name);
        if let Some(standing) = self.deployments.get_mut(&by.id) {
            standing.breaker = Breaker::default();
            standing.is_off = false;
        }
        self.groups.remove(by.credential.quota_group());
    }
}
