//! What operators watch: a sample a second of what the metrics count, and the last calls. Nothing
//! of it is kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use crate::auth::Users;
use crate::metrics::live::{Listener, LiveCall};
use crate::metrics::requests::Requests;
use crate::pipeline::Gateway;
use crate::store::StoreError;
use crate::store::audit_log::AuditLogStore;
use crate::store::users::Role;
use domain::{ActKind, Credits, Environment, Origin, SessionId, Timestamp, UserId};

/// So many calls are shown at once.
const CALLS_MAX: usize = 50;
/// Samples that are summed up.
const MINUTE: usize = 60;
/// Samples after which a watch ends, so that a session token is shown again.
const SAMPLES_MAX: u32 = 900;

/// Why nobody may watch now.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// As many as may watch already.
    #[error("too many watch already")]
    TooMany,
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a watch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// Its session has ended.
    SessionEnded,
    /// Its user is no operator any more.
    NotOperator,
    /// The server stops.
    ServerStops,
    /// It has lasted as long as it may; it can be begun again.
    TimeOver,
    /// The database does not say whether its session goes on.
    NotKnown,
}

impl WatchEnd {
    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            WatchEnd::SessionEnded => "session_ended",
            WatchEnd::NotOperator => "not_operator",
            WatchEnd::ServerStops => "server_stops",
            WatchEnd::TimeOver => "time_over",
            WatchEnd::NotKnown => "not_known",
        }
    }
}

/// The counters at an instant.
#[derive(Clone, Debug, Default)]
struct Counters {
    calls: u64,
    errors: u64,
    refusals: Vec<(&'static str, u64)>,
    /// In nano-dollars: of live accounts, then of test accounts.
    spent: [u64; 2],
    /// By upstream: how many answers, and how many microseconds they took.
    upstreams: Vec<(&'static str, u64, u64)>,
}

/// Who is slowest, and how many microseconds a call takes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slowest {
    /// Its name.
    pub name: String,
    /// Microseconds to the first byte.
    pub micros: i64,
}

/// What has happened since the sample before.
#[derive(Clone, Debug)]
pub struct LiveSample {
    /// Now.
    pub at: Timestamp,
    /// Paid calls that were answered.
    pub calls: u64,
    /// Requests that were answered with 500 or above.
    pub errors: u64,
    /// Calls that were refused, by reason; only reasons that there were.
    pub refusals: Vec<(&'static str, u64)>,
    /// What calls have come to in the last minute: of live accounts, then of test accounts.
    pub spent: [Credits; 2],
    /// How many seconds of that minute were watched.
    pub seconds: usize,
    /// Calls that run: with live keys, then with test keys.
    pub running: [usize; 2],
    /// The deployment whose last calls took longest to the first byte.
    pub slowest_deployment: Option<Slowest>,
    /// The upstream whose calls of the last minute took longest on average.
    pub slowest_upstream: Option<Slowest>,
    /// The calls that have ended, the last first; at most 50.
    pub latest: Vec<LiveCall>,
}

/// See the module.
pub struct Live {
    /// What is counted.
    pub gateway: Arc<Gateway>,
    /// Whose sessions go on.
    pub users: Arc<Users>,
    /// Who did what.
    pub audit_log: AuditLogStore,
}

/// An operator who watches.
pub struct Watch {
    gateway: Arc<Gateway>,
    users: Arc<Users>,
    session: SessionId,
    _listener: Listener,
    /// The samples of the last minute, the last one at the end.
    minute: VecDeque<Counters>,
    last_call: u64,
    samples_left: u32,
}

impl Live {
    /// Begins to watch, for so many samples at most. The audit log says so.
    ///
    /// # Errors
    /// [`WatchError`]
    pub async fn watch(
        &self,
        (operator, session): (UserId, SessionId),
        samples: Option<u32>,
        origin: Origin,
    ) -> Result<Watch, WatchError> {
        let gateway = Arc::clone(&self.gateway);
        let listener = Listener::new(&gateway.metrics).ok_or(WatchError::TooMany)?;
        let act = origin.act(Uuid::now_v7(), operator, ActKind::UserRead, gateway.clock.now());
        self.audit_log.record(act.with("live calls of all users")).await?;
        let minute = VecDeque::from([counters(&gateway)]);
        Ok(Watch {
            gateway,
            users: Arc::clone(&self.users),
            session,
            _listener: listener,
            minute,
            last_call: 0,
            samples_left: samples.unwrap_or(SAMPLES_MAX).min(SAMPLES_MAX),
        })
    }
}

fn counters(gateway: &Gateway) -> Counters {
    let metrics = &gateway.metrics;
    let mut spent = [0; 2];
    for (sum, so_far) in spent.iter_mut().zip(metrics.sums.spent()) {
        *sum = so_far.nanos;
    }
    Counters {
        calls: metrics.calls.load(Ordering::Relaxed),
        errors: metrics.requests.get().map_or(0, Requests::server_errors),
        refusals: metrics.refusals().collect(),
        spent,
        upstreams: metrics
            .upstreams()
            .map(|(group, durations)| {
                let (count, micros) = durations.total();
                (group.name(), count, micros)
            })
            .collect(),
    }
}

fn credits(nanos: u64) -> Credits {
    Credits::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}

impl Watch {
    /// Does it go on? What it reads keeps no session alive.
    ///
    /// # Errors
    /// [`WatchEnd`]
    pub async fn check(&mut self) -> Result<(), WatchEnd> {
        if self.gateway.readiness.is_unready() {
            return Err(WatchEnd::ServerStops);
        }
        let left = self.samples_left.checked_sub(1).ok_or(WatchEnd::TimeOver)?;
        self.samples_left = left;
        let now = self.gateway.clock.now();
        let found = self.users.store.find_by_session(self.session, now).await;
        let (user, _) = found.map_err(|_| WatchEnd::NotKnown)?.ok_or(WatchEnd::SessionEnded)?;
        let is_operator =
            user.role == Role::Admin && self.users.assert_operators_factor(&user).is_ok();
        if is_operator { Ok(()) } else { Err(WatchEnd::NotOperator) }
    }

    /// What has happened since the sample before.
    pub fn sample(&mut self) -> LiveSample {
        let now = counters(&self.gateway);
        let before = self.minute.back().cloned().unwrap_or_default();
        let first = self.minute.front().cloned().unwrap_or_default();
        let refusals = now.refusals.iter().zip(&before.refusals);
        let refusals =
            refusals.map(|((name, now), (_, before))| (*name, now.saturating_sub(*before)));
        let mut spent = [Credits::ZERO; 2];
        for (sum, (now, first)) in spent.iter_mut().zip(now.spent.iter().zip(first.spent)) {
            *sum = credits(now.saturating_sub(first));
        }
        let mut latest = self.gateway.metrics.live.since(self.last_call);
        if let Some(last) = latest.first() {
            self.last_call = last.number;
        }
        latest.truncate(CALLS_MAX);
        let readiness = &self.gateway.readiness;
        let sample = LiveSample {
            at: self.gateway.clock.now(),
            calls: now.calls.saturating_sub(before.calls),
            errors: now.errors.saturating_sub(before.errors),
            refusals: refusals.filter(|(_, count)| *count > 0).collect(),
            spent,
            seconds: self.minute.len(),
            running: [Environment::Live, Environment::Test].map(|of| readiness.running(of)),
            slowest_deployment: self.slowest_deployment(),
            slowest_upstream: slowest_upstream(&now, &first),
            latest,
        };
        self.minute.push_back(now);
        if self.minute.len() > MINUTE {
            self.minute.pop_front();
        }
        sample
    }

    fn slowest_deployment(&self) -> Option<Slowest> {
        let now = self.gateway.clock.now();
        let selling = self.gateway.models.selling();
        let routing = self.gateway.models.routing();
        let timed = selling.catalogue.deployments().filter_map(|by| {
            let micros = routing.standings.health(by, now).first_byte_micros?;
            Some(Slowest { name: by.deployment.name.to_string(), micros })
        });
        timed.max_by_key(|slowest| slowest.micros)
    }
}

fn slowest_upstream(now: &Counters, first: &Counters) -> Option<Slowest> {
    let timed = now.upstreams.iter().zip(&first.upstreams).filter_map(|(now, first)| {
        let (count, micros) = (now.1.saturating_sub(first.1), now.2.saturating_sub(first.2));
        let mean = i64::try_from(micros.checked_div(count)?).unwrap_or(i64::MAX);
        Some(Slowest { name: now.0.to_owned(), micros: mean })
    });
    timed.max_by_key(|slowest| slowest.micros)
}
