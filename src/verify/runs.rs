//! Verifications that this process runs, one at a time, and the last one that anybody has run.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{Audience, Finding, Report, verify};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::store::verifications::EndedVerification;
use crate::store::{Store, StoreError};
use domain::{ActKind, Actor, Origin, Timestamp};

/// So many findings are kept of a verification.
pub const KEPT_MAX: usize = 100;

/// Why no verification was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// One runs already.
    #[error("a verification runs already")]
    Runs,
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A verification that runs.
#[derive(Clone, Copy, Debug)]
pub struct RunningVerification {
    /// When it began.
    pub began_at: Timestamp,
    /// Who has it run.
    pub actor: Actor,
    /// How far it is.
    pub so_far: Report,
    /// How many accounts there are.
    pub accounts: u64,
}

/// The last verification, and the one that runs.
#[derive(Clone, Debug)]
pub struct SeenVerifications {
    /// The one that this process runs.
    pub running: Option<RunningVerification>,
    /// The one that ended last, of this process or another one.
    pub last: Option<(EndedVerification, Vec<Finding>)>,
}

/// Runs verifications.
pub struct Verifier {
    store: Store,
    clock: Clock,
    metrics: Arc<Metrics>,
    running: Mutex<Option<RunningVerification>>,
}

/// The right to run one, until it is dropped.
struct Turn(Arc<Verifier>);

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.running() = None;
    }
}

impl Verifier {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(store: Store, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Verifier { store, clock, metrics, running: Mutex::default() }
    }

    fn running(&self) -> MutexGuard<'_, Option<RunningVerification>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_turn(self: &Arc<Self>, actor: Actor) -> Result<(Turn, Timestamp), StartError> {
        let mut running = self.running();
        if running.is_some() {
            return Err(StartError::Runs);
        }
        let began_at = self.clock.now();
        let so_far = Report::default();
        *running = Some(RunningVerification { began_at, actor, so_far, accounts: 0 });
        Ok((Turn(Arc::clone(self)), began_at))
    }

    /// Runs one by the schedule, in a task of its own.
    ///
    /// # Errors
    /// [`StartError::Runs`]
    pub fn start_by_schedule(self: &Arc<Self>) -> Result<JoinHandle<()>, StartError> {
        let (turn, began_at) = self.take_turn(Actor::Server)?;
        Ok(turn.run(Actor::Server, began_at))
    }

    /// Runs one for an operator, in a task of its own. The audit log says so before it begins.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn start(self: &Arc<Self>, reason: String, origin: Origin) -> Result<(), StartError> {
        let actor = origin.actor;
        let (turn, began_at) = self.take_turn(actor)?;
        if let Some(operator) = actor.person() {
            let act = origin.act(Uuid::now_v7(), operator, ActKind::VerificationStarted, began_at);
            self.store.audit_log.record(act.with(reason)).await?;
        }
        drop(turn.run(actor, began_at));
        Ok(())
    }

    /// The last one, and the one that runs.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn seen(&self) -> Result<SeenVerifications, StoreError> {
        let last = self.store.verifications.last().await?;
        let last = last.map(|ended| {
            let found = serde_json::from_str(&ended.found).unwrap_or_default();
            (ended, found)
        });
        let running = *self.running();
        Ok(SeenVerifications { running, last })
    }
}

impl Turn {
    fn run(self, actor: Actor, began_at: Timestamp) -> JoinHandle<()> {
        let verifier = Arc::clone(&self.0);
        let runtime = verifier.store.runtime().clone();
        runtime.spawn(async move {
            let turn = self;
            let mut audience = Kept { verifier: &verifier, found: Vec::new() };
            let verified = verify(&verifier.store, &mut audience).await;
            let found = audience.found;
            let metrics = &verifier.metrics;
            let so_far = verifier.running().map(|running| running.so_far).unwrap_or_default();
            let (report, failure) = match verified {
                Ok(report) => {
                    let findings = i64::try_from(report.findings).unwrap_or(i64::MAX);
                    metrics.verified_at.store(verifier.clock.now().seconds(), Ordering::Relaxed);
                    metrics.verify_findings.store(findings, Ordering::Relaxed);
                    tracing::info!(?report, "verified");
                    (report, None)
                }
                Err(error) => {
                    metrics.verify_failures.fetch_add(1, Ordering::Relaxed);
                    let error = format!("{error:#}");
                    tracing::warn!(error, "not verified");
                    (so_far, Some(error))
                }
            };
            let ended_at = verifier.clock.now();
            let ended = ended(actor, (began_at, ended_at), report, failure, &found);
            if let Err(error) = verifier.store.verifications.insert(ended).await {
                tracing::warn!(%error, "a verification is not on record");
            }
            drop(turn);
        })
    }
}

/// A verification as it is kept.
#[must_use]
pub fn ended(
    actor: Actor,
    (began_at, ended_at): (Timestamp, Timestamp),
    report: Report,
    failure: Option<String>,
    found: &[Finding],
) -> EndedVerification {
    let Report { accounts, entries, bills, usage, findings } = report;
    let found = found.get(..KEPT_MAX).unwrap_or(found);
    EndedVerification {
        began_at,
        ended_at,
        actor,
        failure,
        counts: [accounts, entries, bills, usage, findings],
        found: serde_json::to_string(found).unwrap_or_else(|_| "[]".to_owned()),
    }
}

/// Logs the findings, and keeps the first of them.
struct Kept<'v> {
    verifier: &'v Verifier,
    found: Vec<Finding>,
}

impl Audience for Kept<'_> {
    fn find(&mut self, finding: &Finding) -> anyhow::Result<()> {
        tracing::error!(alert = "verify", %finding, "a ledger does not agree");
        if self.found.len() < KEPT_MAX {
            self.found.push(finding.clone());
        }
        Ok(())
    }

    fn progress(&mut self, so_far: &Report, accounts: u64) {
        if let Some(running) = &mut *self.verifier.running() {
            (running.so_far, running.accounts) = (*so_far, accounts);
        }
    }
}
