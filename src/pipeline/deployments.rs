//! The deployments of a call's model are asked, one after the other, until one answers.
//!
//! Whom to ask is decided in [`domain::routing`]; here they are asked. The price is the model's,
//! whoever serves it. Nothing is asked again after the first byte of an answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use futures_util::StreamExt as _;
use rand::RngExt as _;

use super::by_model::{fallback, kinds_of};
use super::charge::ChargedCall;
use super::gateway::Gateway;
use super::session::affinity;
use crate::config::TokenLimitField;
use crate::models::{ModelCall, NextStep, RunningAttempt};
use crate::store::attempts::AttemptRow;
use crate::upstream::dialect::KeptReasoning;
use crate::upstream::dialect::gemini::{body_with_model, served_tier};
use crate::upstream::{
    Answer, AnswerBody, Client, Failure, Sent, Told, UpstreamCall, hide_name, judge, path_at,
    rename, rename_answer, rename_stream,
};
use domain::catalogue::{Candidate, Deployed, FallbackPrice, FoundModel, ProviderDialect};
use domain::pricing::Fallback;
use domain::routing::{Affinity, AttemptFailure, AttemptOutcome, Excluded, GiveUp, Need, Plan};
use domain::{Credits, Extension, Reported, Service};

/// The name of the upstream that customers see if they do not see the deployment's.
const SHOWN_NAME: &str = "v1";
/// All attempts together may take so many times as long as one.
const ATTEMPT_TIMES: u32 = 2;
/// Other models that are asked after the one that was asked for.
pub(super) const OTHER_MODELS_MAX: usize = 2;
/// The longest wait before somebody is asked again that is busy.
const WAIT_MAX: Duration = Duration::from_secs(1);
const MICROS_PER_SECOND: i64 = 1_000_000;

/// Who served a call.
#[derive(Clone, Debug, Default)]
pub(super) struct ServedBy {
    /// The name of the upstream as the customer sees it.
    pub(super) shown: Arc<str>,
    /// How many deployments were asked.
    pub(super) attempts: u32,
    /// The name of the deployment, if the customer sees it.
    pub(super) deployment: Option<Arc<str>>,
    /// The deployment that was asked last.
    pub(super) by: Option<Arc<Deployed>>,
    /// The service tier that has served, if a header of the answer says so.
    pub(super) tier: Option<Service>,
}

/// Another model that may answer: it is held for.
pub(super) struct OtherModel {
    /// What the call costs if it does, and what the call may use of it.
    pub(super) fallback: Fallback,
    /// The token limit of each choice that it is told.
    pub(super) limit: u64,
    /// Its public name, if its price counts.
    pub(super) billed_as: Option<Arc<str>>,
}

/// A model whose deployments are asked.
struct Turn {
    found: Arc<FoundModel>,
    /// It is not the one that the call asks for. A count of tokens costs nothing whoever counts.
    other: Option<OtherModel>,
}

/// How a call went.
pub(super) struct Went {
    /// The name of the last deployment.
    pub(super) name: Arc<str>,
    /// Who served it.
    pub(super) served: ServedBy,
    /// What is worth a record.
    pub(super) rows: Vec<AttemptRow>,
    /// What is held, if more was held for another model.
    pub(super) held: Option<Credits>,
    /// The model that answered, if it is another one than was asked for.
    pub(super) other: Option<OtherModel>,
}

/// What has happened to a call so far. It is known even if the call is cancelled.
#[derive(Default)]
pub(super) struct CallProgress(Mutex<Asked>);

#[derive(Default)]
struct Asked {
    /// The name of the last deployment.
    name: Option<Arc<str>>,
    served: ServedBy,
    rows: Vec<AttemptRow>,
    /// Has the last row ended?
    is_open: bool,
    held: Option<Credits>,
    other: Option<OtherModel>,
}

impl CallProgress {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, gateway: &Gateway, charged: &ChargedCall, attempt: &RunningAttempt) {
        let by = &attempt.served().by;
        let is_shown = gateway.models.shows_deployments();
        let mut asked = self.lock();
        let attempts = asked.served.attempts.saturating_add(1);
        asked.name = Some(Arc::clone(&by.deployment.name));
        asked.served = ServedBy {
            shown: if is_shown { Arc::clone(&by.provider.name) } else { SHOWN_NAME.into() },
            attempts,
            deployment: is_shown.then(|| Arc::clone(&by.deployment.name)),
            by: Some(Arc::clone(by)),
            tier: None,
        };
        asked.rows.push(AttemptRow {
            charge: charged.id(),
            n: i16::try_from(attempts).unwrap_or(i16::MAX),
            deployment: by.id,
            started_at: gateway.clock.now(),
            latency_micros: 0,
            status: None,
            outcome: AttemptOutcome::Dropped,
        });
        asked.is_open = true;
    }

    fn end(&self, took: Duration, told: &Told, outcome: AttemptOutcome) {
        let mut asked = self.lock();
        asked.served.tier = told.service_tier.as_deref().and_then(served_tier);
        asked.is_open = false;
        if let Some(row) = asked.rows.last_mut() {
            row.latency_micros = micros(took);
            row.status = told.status;
            row.outcome = outcome;
        }
    }

    /// How the call went. A call that was answered at once is not worth a record, nor one whose
    /// request was refused.
    pub(super) fn went(self) -> Went {
        let asked = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Asked { name, mut served, rows, held, other, .. } = asked;
        if name.is_none() {
            served.shown = SHOWN_NAME.into();
        }
        let is_plain = |row: &AttemptRow| {
            matches!(row.outcome, AttemptOutcome::Answered | AttemptOutcome::RequestRefused)
        };
        let is_usual = rows.len() <= 1 && rows.iter().all(is_plain);
        let rows = if is_usual { Vec::new() } else { rows };
        Went { name: name.unwrap_or_else(|| SHOWN_NAME.into()), served, rows, held, other }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// What failed last.
struct LastFailure {
    failure: AttemptFailure,
    result: Result<Answer, Failure>,
    /// What the provider said, if that is the caller's to know.
    said: Bytes,
    /// The seconds until the deployment may be asked again, if it cools.
    cools: Option<u64>,
}

/// Asks the deployments of the call's model.
pub(super) async fn ask(
    gateway: &Gateway,
    client: &Client,
    charged: &ChargedCall,
    model: &ModelCall,
    sent: &Sent,
    progress: &CallProgress,
) -> Result<Answer, Failure> {
    let asking = Asking::new(gateway, client, charged, model, sent, progress);
    // An attempt that a provider was at work on is paid, whatever those after it come to.
    let mut given_up = None;
    let result = asking.through_models(&mut given_up).await;
    match (result, given_up) {
        (Ok(answer), Some(failure)) if !answer.status.is_success() => Err(failure),
        (Err(failure), Some(given_up)) if !failure.is_by_our_limit() => Err(given_up),
        (result, _) => result,
    }
}

/// A call that asks.
struct Asking<'c> {
    gateway: &'c Gateway,
    client: &'c Client,
    charged: &'c ChargedCall,
    model: &'c ModelCall,
    sent: &'c Sent,
    progress: &'c CallProgress,
    /// The body as the customer sent it, without what providers would refuse.
    body: Bytes,
    affinity: Affinity,
    deadline: Option<Instant>,
}

impl<'c> Asking<'c> {
    fn new(
        gateway: &'c Gateway,
        client: &'c Client,
        charged: &'c ChargedCall,
        model: &'c ModelCall,
        sent: &'c Sent,
        progress: &'c CallProgress,
    ) -> Self {
        let (arrival, generation) = (charged.arrival(), charged.generation());
        let dialect = charged.dialect();
        let keeps = generation.map(|generation| generation.request.kept_reasoning);
        let body = match keeps {
            Some(KeptReasoning::LeftOut) => dialect.without_kept_reasoning(&arrival.body),
            Some(KeptReasoning::None) | None => arrival.body.clone(),
        };
        let tokens = generation.map_or(0, |generation| generation.request.prompt.counted);
        let chance = rand::rng().random();
        let account = charged.key().account;
        let affinity = affinity(account, &arrival.headers, &arrival.body, tokens, chance);
        let together = gateway.models.attempt_timeout().saturating_mul(ATTEMPT_TIMES);
        let deadline = Instant::now().checked_add(together);
        Asking { gateway, client, charged, model, sent, progress, body, affinity, deadline }
    }

    /// The time that is left for all attempts.
    fn time_left(&self) -> Duration {
        self.deadline
            .map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Asks the deployments of the model, and of those that take what it does not.
    async fn through_models(&self, given_up: &mut Option<Failure>) -> Result<Answer, Failure> {
        let mut turn = Turn { found: Arc::clone(&self.model.found), other: None };
        let mut tried = vec![Arc::clone(&turn.found.name)];
        loop {
            let (plan, why, last) = match self.through_deployments(&turn, given_up).await {
                Ok(answer) => {
                    self.progress.lock().other = turn.other;
                    return Ok(answer);
                }
                Err(ended) => *ended,
            };
            let others: &[Arc<str>] = match why {
                _ if tried.len() > OTHER_MODELS_MAX => &[],
                GiveUp::ContextTooLong => &turn.found.model.on_context,
                GiveUp::Policy => &turn.found.model.on_policy,
                _ => &[],
            };
            match self.another(others, &tried).await {
                Some(next) => {
                    tried.push(Arc::clone(&next.found.name));
                    turn = next;
                }
                None => return self.ended(&turn.found, &plan, why, last),
            }
        }
    }

    /// The first of these models that may answer and that is held for.
    async fn another(&self, names: &[Arc<str>], tried: &[Arc<str>]) -> Option<Turn> {
        let catalogue = &self.model.selling.catalogue;
        for found in names.iter().filter_map(|name| catalogue.find(name)) {
            let dialects = dialects_of(self.charged);
            let speaks = |one: &Candidate| dialects.contains(&one.by.provider.dialect);
            if tried.contains(&found.name) || !found.served.iter().any(speaks) {
                continue;
            }
            if self.charged.generation().is_none() {
                return Some(Turn { found, other: None });
            }
            let other = self.hold_for(&found).await;
            if other.is_some() {
                return Some(Turn { found, other });
            }
        }
        None
    }

    /// Holds for another model what the call may come to if that answers. `None` if it may not
    /// answer, or if the account does not cover it: it is left out then.
    async fn hold_for(&self, found: &FoundModel) -> Option<OtherModel> {
        let (gateway, charged) = (self.gateway, self.charged);
        let generation = charged.generation()?;
        let told = charged.token_limit().unwrap_or(generation.demand.completion_tokens_max);
        let fallback = fallback(gateway, charged.quoted(), found, told)?;
        let (need, want) = fallback.hold().ok()?;
        let held = self.progress.lock().held.unwrap_or(charged.held());
        let held = if want > held { self.extend(need, want, held).await? } else { held };
        // What is shown as it is generated is held for as it goes on.
        let is_in_steps = generation.request.is_stream && !generation.may_hide;
        let covering = if is_in_steps { held.max(charged.ceiling()) } else { held };
        let limit = if gateway.holds.lower_token_limit {
            fallback.token_limit(covering)
        } else {
            fallback.demand().completion_tokens_max
        };
        let is_billed = self.model.found.model.price_on_fallback == FallbackPrice::Served;
        let billed_as = is_billed.then(|| Arc::clone(&found.name));
        Some(OtherModel { fallback, limit, billed_as })
    }

    /// Extends the hold, to `want` or as far as the account goes. `None` if `need` is not held
    /// then.
    async fn extend(&self, need: Credits, want: Credits, held: Credits) -> Option<Credits> {
        let extension = Extension::Ahead { need, want, earned: Credits::ZERO, bill: None };
        let extended = self.charged.account()?.extend(self.charged.id(), extension).await;
        let Ok(receipt) = extended else { return Some(held).filter(|held| *held >= need) };
        let written = tokio::time::timeout(self.gateway.commit_timeout, receipt.wait()).await;
        let Ok(Ok(held)) = written else { return None };
        self.progress.lock().held = Some(held);
        Some(held)
    }

    /// Asks the deployments of one model. If none answers: why no other one is asked, and how the
    /// last one failed.
    async fn through_deployments(
        &self,
        turn: &Turn,
        given_up: &mut Option<Failure>,
    ) -> Result<Answer, Box<(Plan, GiveUp, Option<LastFailure>)>> {
        let (models, clock) = (&self.gateway.models, &self.gateway.clock);
        let mut plan = models.plan(&turn.found, self.need(&turn.found), self.affinity);
        let mut last = None;
        let mut step = models.next(&mut plan, clock);
        loop {
            let (attempt, wait_micros) = match step {
                NextStep::Ask { attempt, wait_micros } => (attempt, wait_micros),
                NextStep::Wait(until) => {
                    let wait = u64::try_from(until.micros_since(clock.now())).unwrap_or(0);
                    tokio::time::sleep(Duration::from_micros(wait).min(WAIT_MAX)).await;
                    step = models.next(&mut plan, clock);
                    continue;
                }
                NextStep::GiveUp(why) => return Err(Box::new((plan, why, last))),
            };
            if wait_micros > 0 {
                let wait = rand::rng().random_range(0..wait_micros);
                tokio::time::sleep(Duration::from_micros(wait)).await;
            }
            if last.is_some() && self.time_left().is_zero() {
                return Err(Box::new((plan, GiveUp::Spent, last)));
            }
            match self.attempt(attempt, turn).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => {
                    let (attempt, failed) = *failed;
                    let by_our_limit = failed.result.as_ref().err();
                    let by_our_limit = by_our_limit.filter(|failure| failure.is_by_our_limit());
                    *given_up = given_up.or(by_our_limit.copied());
                    let by = Arc::clone(&attempt.served().by);
                    step = attempt.failed(failed.failure, &mut plan);
                    failpoint!("attempt-failed");
                    let now = clock.now();
                    let until = models.routing().standings.cooling(&by, now);
                    let cools = until.map(|until| seconds_until(until.micros_since(now)));
                    last = Some(LastFailure { cools, ..failed });
                }
            }
        }
    }

    /// Asks one deployment.
    async fn attempt(
        &self,
        mut attempt: RunningAttempt,
        turn: &Turn,
    ) -> Result<Answer, Box<(RunningAttempt, LastFailure)>> {
        let (gateway, charged) = (self.gateway, self.charged);
        let arrival = charged.arrival();
        let upstream_model = Arc::clone(&attempt.served().upstream_model);
        let deployment = Arc::clone(&attempt.served().by.deployment.name);
        self.progress.begin(gateway, charged, &attempt);
        let (begun, mut told) = (Instant::now(), Told::with_body());
        let upstream = self.model.selling.upstream(attempt.served().by.id);
        let result = match (upstream, path_at(&arrival.path, &upstream_model)) {
            (Some(upstream), Some(path)) => {
                let call = UpstreamCall {
                    id: arrival.id,
                    method: &arrival.method,
                    path: &path,
                    query: arrival.query.as_deref(),
                    headers: &arrival.headers,
                    body: self.body_for(&upstream_model, turn),
                    dialect: charged.dialect(),
                    is_stream: charged.is_stream(),
                    prompt_tokens: charged
                        .generation()
                        .map(|generation| generation.request.prompt.counted),
                    sent: self.sent,
                };
                upstream.attempt(self.client, &call, self.time_left(), &mut told).await
            }
            (None, _) => Err(Failure::Broken("the deployment is gone")),
            (_, None) => Err(Failure::Broken("the name of the model cannot be in a path")),
        };
        let took = begun.elapsed();
        let failure = judge(&result, &told, &upstream_model, gateway.clock.now());
        let outcome = failure.map_or(AttemptOutcome::Answered, AttemptOutcome::from);
        self.progress.end(took, &told, outcome);
        match (failure, result) {
            (None, Ok(answer)) => {
                attempt.answered(micros(took));
                Ok(self.passed_on(answer, attempt))
            }
            (failure, result) => {
                let failure = failure.unwrap_or(AttemptFailure::Broken);
                let reason = match &result {
                    Ok(answer) => answer.status.to_string(),
                    Err(failure) => failure.to_string(),
                };
                let request = arrival.id;
                tracing::warn!(%deployment, %request, outcome = outcome.name(), reason, "an attempt failed");
                let result = result.map(|answer| self.refusal(answer, &upstream_model));
                let said = hide_name(&told.body, &upstream_model, &self.model.found.name);
                Err(Box::new((attempt, LastFailure { failure, result, said, cools: None })))
            }
        }
    }

    /// The body for this name of the model.
    fn body_for(&self, upstream_model: &str, turn: &Turn) -> Bytes {
        let charged = self.charged;
        let dialect = charged.dialect();
        let body = if dialect.is_gemini() {
            body_with_model(dialect, &self.body, upstream_model)
        } else {
            rename(&self.body, upstream_model)
        };
        let Some(generation) = charged.generation() else { return body };
        let policy = self.gateway.upstreams.stream_policy(charged.arrival().group);
        let field = policy.token_limit_field.map(TokenLimitField::name);
        let limit = match &turn.other {
            // Another model has another longest answer than what is held for.
            Some(other) => {
                Some(other.limit).filter(|limit| generation.request.token_limit != Some(*limit))
            }
            None => charged.token_limit(),
        };
        dialect.rewrite_request(&body, limit, field, charged.is_stream())
    }

    /// The answer as the customer gets it: with the public name of the model. The attempt runs as
    /// long as its stream.
    fn passed_on(&self, answer: Answer, attempt: RunningAttempt) -> Answer {
        let public = &self.model.found.name;
        let body = match answer.body {
            AnswerBody::Whole(body) => AnswerBody::Whole(rename_answer(&body, public)),
            AnswerBody::Stream(source) => {
                let renamed = rename_stream(source, Arc::clone(public));
                AnswerBody::Stream(Box::pin(renamed.map(move |piece| {
                    let _ = &attempt;
                    piece
                })))
            }
        };
        Answer { body, ..answer }
    }

    /// A refusal with the public name of the model.
    fn refusal(&self, answer: Answer, upstream_model: &str) -> Answer {
        let body = match answer.body {
            AnswerBody::Whole(body) => {
                AnswerBody::Whole(hide_name(&body, upstream_model, &self.model.found.name))
            }
            stream @ AnswerBody::Stream(_) => stream,
        };
        Answer { body, ..answer }
    }

    /// What the call needs of a deployment of this model.
    fn need(&self, found: &FoundModel) -> Need {
        let charged = self.charged;
        let (input, output) = charged.generation().map_or((0, 0), |generation| {
            let demand = &generation.demand;
            let output = demand.completion_tokens_max.saturating_mul(demand.choices.max(1));
            (generation.request.prompt.counted, output)
        });
        Need {
            // The provider itself says that a prompt is too long: ours is an estimate.
            input: input.min(found.model.max_input),
            output: output.min(found.model.max_output),
            dialects: dialects_of(charged).to_vec(),
            modalities: charged
                .generation()
                .map_or_else(Vec::new, |generation| kinds_of(&generation.request)),
            is_aside: charged.dialect().is_count(),
            is_shed: self.gateway.models.sheds(charged.key().tier.as_deref()),
            model: Arc::clone(&found.model),
            ..Need::default()
        }
    }

    /// The end of a call that nobody has answered.
    fn ended(
        &self,
        found: &FoundModel,
        plan: &Plan,
        why: GiveUp,
        last: Option<LastFailure>,
    ) -> Result<Answer, Failure> {
        let now = self.gateway.clock.now();
        let excluded: Vec<Excluded> = {
            let routing = self.gateway.models.routing();
            plan.excluded(&routing.standings, now).filter_map(|(_, reason)| reason).collect()
        };
        let has = |is: fn(&Excluded) -> bool| excluded.iter().any(is);
        match (why, last) {
            (GiveUp::Busy { until }, last) => {
                let was_limited = last
                    .is_some_and(|last| matches!(last.failure, AttemptFailure::RateLimited { .. }));
                let is_limit = was_limited || has(|reason| matches!(reason, Excluded::Cooling(_)));
                let retry_after = seconds_until(until.micros_since(now));
                Err(Failure::Busy { retry_after, is_limit })
            }
            (GiveUp::Nobody, None) => {
                if has(|reason| matches!(reason, Excluded::Rate | Excluded::Concurrency)) {
                    let is_shed = self.gateway.models.sheds(self.charged.key().tier.as_deref());
                    return Err(Failure::Busy { retry_after: 1, is_limit: !is_shed });
                }
                self.gateway.models.tell_of_nobody(found, now);
                Err(Failure::Nobody)
            }
            (_, Some(last)) => ended_by(last),
            (_, None) => Err(Failure::Nobody),
        }
    }
}

/// What the customer is told of the last failure. What is between us and a provider is not told.
fn ended_by(last: LastFailure) -> Result<Answer, Failure> {
    let LastFailure { failure, result, said, cools } = last;
    match failure {
        AttemptFailure::RateLimited { .. } => {
            Err(Failure::Busy { retry_after: cools.unwrap_or(1), is_limit: true })
        }
        AttemptFailure::OutOfMoney => {
            Err(Failure::Broken("our account at the provider has no money or quota left"))
        }
        AttemptFailure::Refused => Err(Failure::Broken("the provider refused our credential")),
        AttemptFailure::NoSuchModel => Err(Failure::Broken("the provider does not know the model")),
        AttemptFailure::NotServed => {
            Err(Failure::Broken("the provider does not serve this request"))
        }
        AttemptFailure::Policy => Ok(result.unwrap_or_else(|_| Answer {
            // Some say with 403 that it is the prompt. Ours means a key.
            status: StatusCode::BAD_REQUEST,
            headers: HeaderMap::new(),
            body: AnswerBody::Whole(said),
            reported: Reported::Missing,
        })),
        AttemptFailure::Unreachable
        | AttemptFailure::Broken
        | AttemptFailure::ContextTooLong
        | AttemptFailure::Callers
        | AttemptFailure::ClientGone => result,
    }
}

/// So many microseconds as seconds, at least one.
fn seconds_until(micros: i64) -> u64 {
    let seconds = micros.saturating_add(MICROS_PER_SECOND.saturating_sub(1)) / MICROS_PER_SECOND;
    u64::try_from(seconds).unwrap_or(0).max(1)
}

/// The protocols in which a provider can be asked for this call.
fn dialects_of(charged: &ChargedCall) -> &'static [ProviderDialect] {
    let dialect = charged.dialect();
    if dialect.is_anthropic() {
        &[ProviderDialect::Anthropic]
    } else if dialect.is_gemini() {
        &[ProviderDialect::Gemini]
    } else {
        &[ProviderDialect::OpenAi, ProviderDialect::Azure]
    }
}
