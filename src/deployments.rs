//! What operators see of deployments, and do to them. What is done is recorded in the audit log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use serde_json::json;
use uuid::Uuid;

use crate::models::AttemptCounts;
use crate::pipeline::Gateway;
use crate::store::StoreError;
use crate::store::attempts::{AttemptFilter, AttemptRow, AttemptStore};
use crate::store::audit_log::AuditLogStore;
use crate::store::users::UserStore;
use crate::upstream::{Client, Dialect, Failure, Sent, Told, UpstreamCall, judge, path_at, rename};
use domain::catalogue::{Candidate, Deployed, DeploymentId, ProviderDialect};
use domain::routing::{Affinity, AttemptOutcome, DeploymentHealth, Excluded, Need, session_key};
use domain::{AccountId, ActKind, ChargeId, Origin, Timestamp, UserId};

/// How long a test call may take.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Why an operator's request failed.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentsError {
    /// There is no deployment with this name.
    #[error("no such deployment")]
    NoDeployment,
    /// There is no model with this name.
    #[error("no such model")]
    NoModel,
    /// There is no such user.
    #[error("no such user")]
    NoUser,
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A deployment, and what is known of it.
pub struct SeenDeployment {
    /// The deployment.
    pub by: Arc<Deployed>,
    /// What is known of it now.
    pub health: DeploymentHealth,
    /// How attempts at it ended, since the process started.
    pub counts: AttemptCounts,
}

/// How a test of a deployment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeploymentTest {
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// The provider's status, if it answered.
    pub status: Option<u16>,
    /// How long it took, in microseconds.
    pub latency_micros: i64,
}

/// A call that is thought of.
#[derive(Clone, Debug, Default)]
pub struct PlanQuestion {
    /// The name of its model.
    pub model: String,
    /// The protocol in which a provider must be asked; `None` is any.
    pub dialect: Option<ProviderDialect>,
    /// Tokens of its prompt.
    pub input: u64,
    /// Tokens that its answer may have.
    pub output: u64,
    /// The name of its session.
    pub session: Option<String>,
    /// The user who makes it.
    pub user: Option<UserId>,
}

/// The order in which the deployments of a model would be asked.
pub struct RoutingPlan {
    /// The public name of the model.
    pub model: Arc<str>,
    /// The deployments in their order, and why each would not be asked now.
    pub order: Vec<(Candidate, Option<Excluded>)>,
}

/// See the module.
pub struct Deployments {
    /// What is sold, and what is known of who serves it.
    pub gateway: Arc<Gateway>,
    /// Attempts on record.
    pub attempts: AttemptStore,
    /// Users.
    pub users: UserStore,
    /// Who did what.
    pub audit_log: AuditLogStore,
}

impl Deployments {
    /// All deployments by name.
    #[must_use]
    pub fn list(&self) -> Vec<SeenDeployment> {
        let now = self.gateway.clock.now();
        let selling = self.gateway.models.selling();
        let routing = self.gateway.models.routing();
        let seen = |by: &Arc<Deployed>| SeenDeployment {
            health: routing.standings.health(by, now),
            counts: routing.counts.get(&by.id).cloned().unwrap_or_default(),
            by: Arc::clone(by),
        };
        let mut all: Vec<SeenDeployment> = selling.catalogue.deployments().map(seen).collect();
        all.sort_by(|one, other| one.by.deployment.name.cmp(&other.by.deployment.name));
        all
    }

    /// The deployment with this name.
    ///
    /// # Errors
    /// [`DeploymentsError::NoDeployment`]
    pub fn find(&self, name: &str) -> Result<Arc<Deployed>, DeploymentsError> {
        let selling = self.gateway.models.selling();
        let found = selling.catalogue.deployments().find(|by| &*by.deployment.name == name);
        found.cloned().ok_or(DeploymentsError::NoDeployment)
    }

    /// The names of deployments by their numbers. One that is not in the catalogue any more has
    /// none.
    #[must_use]
    pub fn name(&self, id: DeploymentId) -> Option<Arc<str>> {
        let selling = self.gateway.models.selling();
        selling.catalogue.deployment(id).map(|by| Arc::clone(&by.deployment.name))
    }

    /// Asks a deployment again that was off, open or cooling.
    ///
    /// # Errors
    /// [`DeploymentsError::NoDeployment`], [`DeploymentsError::Store`]
    pub async fn reset(&self, name: &str, origin: Origin) -> Result<(), DeploymentsError> {
        let by = self.find(name)?;
        self.record(ActKind::DeploymentReset, &by, "", origin).await?;
        self.gateway.models.routing().standings.reset(&by);
        Ok(())
    }

    /// Asks a deployment for one token, whatever is known of it. If it answers, it is asked again.
    ///
    /// # Errors
    /// [`DeploymentsError::NoDeployment`], [`DeploymentsError::Store`]
    pub async fn test(
        &self,
        name: &str,
        client: &Client,
        origin: Origin,
    ) -> Result<DeploymentTest, DeploymentsError> {
        let by = self.find(name)?;
        let tested = self.ask_for_a_token(&by, client).await;
        self.record(ActKind::DeploymentTested, &by, tested.outcome.name(), origin).await?;
        if tested.outcome == AttemptOutcome::Answered {
            self.gateway.models.routing().standings.reset(&by);
        }
        Ok(tested)
    }

    async fn ask_for_a_token(&self, by: &Arc<Deployed>, client: &Client) -> DeploymentTest {
        let selling = self.gateway.models.selling();
        let served = selling
            .catalogue
            .models()
            .flat_map(|found| &found.served)
            .find(|served| served.by.id == by.id);
        let upstream_model = served
            .map(|served| &served.upstream_model)
            .or(by.deployment.upstream_model.as_ref())
            .unwrap_or(&by.deployment.name);
        let (path, dialect, body) = test_call(by.provider.dialect);
        let body = rename(&body, upstream_model);
        let body = dialect.rewrite_request(&body, Some(1), None, false);
        let (sent, mut told, begun) = (Sent::default(), Told::with_body(), Instant::now());
        let result = match (selling.upstream(by.id), path_at(path, upstream_model)) {
            (Some(upstream), Some(path)) => {
                let call = UpstreamCall {
                    id: ChargeId(Uuid::now_v7()),
                    method: &Method::POST,
                    path: &path,
                    query: None,
                    headers: &HeaderMap::new(),
                    body,
                    dialect,
                    is_stream: false,
                    prompt_tokens: Some(1),
                    sent: &sent,
                };
                upstream.attempt(client, &call, TEST_TIMEOUT, &mut told).await
            }
            _ => Err(Failure::Broken("the name of the model cannot be in a path")),
        };
        let failure = judge(&result, &told, upstream_model, self.gateway.clock.now());
        DeploymentTest {
            outcome: failure.map_or(AttemptOutcome::Answered, AttemptOutcome::from),
            status: told.status,
            latency_micros: i64::try_from(begun.elapsed().as_micros()).unwrap_or(i64::MAX),
        }
    }

    /// The order in which the deployments of a model would be asked. Nobody is asked.
    ///
    /// # Errors
    /// [`DeploymentsError::NoModel`], [`DeploymentsError::NoUser`], [`DeploymentsError::Store`]
    pub async fn plan(&self, question: PlanQuestion) -> Result<RoutingPlan, DeploymentsError> {
        let models = &self.gateway.models;
        let (account, is_shed) = match question.user {
            Some(user) => {
                let found = self.users.find(user).await?.ok_or(DeploymentsError::NoUser)?;
                let account = self.users.accounts_of(user).await?.live;
                (account, models.sheds(found.tier.as_deref()))
            }
            None => (AccountId(0), false),
        };
        let found = models.selling().catalogue.find(&question.model);
        let found = found.ok_or(DeploymentsError::NoModel)?;
        let need = Need {
            input: question.input,
            output: question.output,
            dialects: question.dialect.into_iter().collect(),
            is_shed,
            model: Arc::clone(&found.model),
            ..Need::default()
        };
        let by = match &question.session {
            Some(session) => Affinity::Session(session_key(account, session.as_bytes())),
            None => Affinity::Chance(0),
        };
        let plan = models.plan(&found, need, by);
        let now = self.gateway.clock.now();
        let routing = models.routing();
        let excluded = plan.excluded(&routing.standings, now).map(|(_, reason)| reason);
        let order = plan.order().iter().cloned().zip(excluded).collect();
        Ok(RoutingPlan { model: Arc::clone(&found.name), order })
    }

    /// Attempts on record with their numbers, the last written first.
    ///
    /// # Errors
    /// [`DeploymentsError::Store`]
    pub async fn attempts(
        &self,
        filter: AttemptFilter,
        limit: u64,
    ) -> Result<Vec<(i64, AttemptRow)>, DeploymentsError> {
        Ok(self.attempts.list(filter, limit).await?)
    }

    async fn record(
        &self,
        kind: ActKind,
        by: &Deployed,
        detail: &str,
        origin: Origin,
    ) -> Result<(), DeploymentsError> {
        let Some(operator) = origin.actor.person() else { return Ok(()) };
        let at: Timestamp = self.gateway.clock.now();
        let act = origin.act(Uuid::now_v7(), operator, kind, at);
        let act = act.to(by.deployment.name.to_string()).with(detail);
        Ok(self.audit_log.record(act).await?)
    }
}

/// The path, the protocol and the body of a call for one token.
fn test_call(dialect: ProviderDialect) -> (&'static str, Dialect, Bytes) {
    let messages = json!([{ "role": "user", "content": "Hi" }]);
    let (path, of, body) = match dialect {
        ProviderDialect::OpenAi | ProviderDialect::Azure => {
            ("/v1/chat/completions", Dialect::Chat, json!({ "model": "", "messages": messages }))
        }
        ProviderDialect::Anthropic => (
            "/v1/messages",
            Dialect::Messages,
            json!({ "model": "", "messages": messages, "max_tokens": 1 }),
        ),
        ProviderDialect::Gemini => (
            "/v1beta/models/x:generateContent",
            // Nothing is written into a body of its protocol.
            Dialect::Embeddings,
            json!({
                "contents": [{ "role": "user", "parts": [{ "text": "Hi" }] }],
                "generationConfig": { "maxOutputTokens": 1 },
            }),
        ),
    };
    (path, of, body.to_string().into())
}
