//! Upstreams: who does the work that is sold. Each route group has one, the built-in sandbox or a URL.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::HeaderMap;
use actix_web::http::{Method, StatusCode};
use bytes::Bytes;
use futures_util::Stream;

use crate::config::{OnDisconnect, Secret, TokenLimitField, UpstreamSettings, UpstreamsSettings};
use domain::route_group::RouteGroup;
use domain::{ChargeId, Environment, Timestamp};

pub mod dialect;
mod http_client;
mod proxy;
pub mod sandbox;
pub mod sse;

pub use dialect::Dialect;

pub use http_client::{Client, Connector};
use proxy::Proxy;

/// Before a failed call is tried again; twice as long each time.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);

/// The tokens that are paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    /// Of the prompt.
    pub prompt: u64,
    /// Of the completion.
    pub completion: u64,
    /// Of both, where the upstream counts more than the two.
    reported_total: u64,
}

impl TokenUsage {
    /// Of a prompt and its completion.
    #[must_use]
    pub fn new(prompt: u64, completion: u64) -> Self {
        TokenUsage { prompt, completion, reported_total: 0 }
    }

    /// The tokens that are paid for.
    #[must_use]
    pub fn total(self) -> u64 {
        self.prompt.saturating_add(self.completion).max(self.reported_total)
    }
}

/// What an upstream says a call took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// Nothing.
    Missing,
    /// Something that cannot be.
    Absurd,
    /// So much.
    Given(TokenUsage),
}

/// The bytes of a streamed answer, as they come.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>;

/// The body of an answer.
pub enum AnswerBody {
    /// All of it.
    Whole(Bytes),
    /// Server-sent events, the first of which has come.
    Stream(ByteStream),
}

/// What an upstream answered.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers that may be passed on.
    pub headers: HeaderMap,
    /// Its body.
    pub body: AnswerBody,
    /// What a whole body reports.
    pub reported: Reported,
}

/// A call to be made.
pub struct Call<'c> {
    /// Request, charge and usage record share it.
    pub id: ChargeId,
    /// The HTTP method.
    pub method: &'c Method,
    /// The path without the query.
    pub path: &'c str,
    /// The query, if there is one.
    pub query: Option<&'c str>,
    /// The caller's headers; empty where the sandbox answers.
    pub headers: &'c HeaderMap,
    /// The body, as the upstream is told it.
    pub body: Bytes,
    /// The protocol of the route.
    pub dialect: Dialect,
    /// Is the answer to be streamed?
    pub is_stream: bool,
    /// Of the prompt, as counted before, where the call is priced by tokens.
    pub prompt_tokens: Option<u64>,
}

/// Why there is no answer to pass on, or no more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// None came in time.
    #[error("the upstream took too long")]
    TimedOut,
    /// None came, or none that can be passed on. The reason is for the log.
    #[error("{0}")]
    Broken(&'static str),
    /// Nobody waits for it any more.
    #[error("the client left")]
    Abandoned,
    /// This server stops.
    #[error("stopped")]
    Stopped,
}

impl Failure {
    /// The status that our answer will have.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Failure::Abandoned => 499,
            Failure::Stopped => 503,
            Failure::TimedOut => 504,
            Failure::Broken(_) => 502,
        }
    }
}

/// One upstream.
pub enum Upstream {
    /// Built in: deterministic, with true token counts.
    Sandbox(Arc<str>),
    /// Behind a URL, or two.
    Url(Box<Proxies>),
}

/// The URL of a group, and where to turn when it fails.
pub struct Proxies {
    primary: Proxy,
    fallback: Option<Proxy>,
    retries: u32,
}

impl Upstream {
    fn new(group: RouteGroup, settings: &UpstreamSettings) -> Self {
        let of = |name: String, url: Option<&String>, key: Option<&Secret>| {
            url.map(|url| Proxy::new(name.into(), url, key, settings))
        };
        let name = group.name().to_owned();
        let fallback = (settings.fallback_url.as_ref(), settings.fallback_api_key.as_ref());
        match of(name.clone(), settings.url.as_ref(), settings.api_key.as_ref()) {
            Some(primary) => Upstream::Url(Box::new(Proxies {
                primary,
                fallback: of(format!("{name}-fallback"), fallback.0, fallback.1),
                retries: settings.retries,
            })),
            None => Upstream::Sandbox(sandbox::NAME.into()),
        }
    }

    /// Who is asked first.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        match self {
            Upstream::Sandbox(name) => Arc::clone(name),
            Upstream::Url(proxies) => proxies.primary.name(),
        }
    }

    /// Makes the call. Says who served it, as `X-Polysystems-Upstream` does: `sandbox`, the group's name, or
    /// that with `-fallback`. What fails before its first byte is tried again as often as the settings say,
    /// then with the fallback.
    ///
    /// # Errors
    /// [`Failure`]
    pub async fn call(
        &self,
        client: &Client,
        call: Call<'_>,
        now: Timestamp,
    ) -> (Arc<str>, Result<Answer, Failure>) {
        match self {
            Upstream::Sandbox(name) => (Arc::clone(name), sandbox::answer(&call, now).await),
            Upstream::Url(proxies) => Box::pin(proxies.call(client, call)).await,
        }
    }
}

impl Proxies {
    async fn call(&self, client: &Client, call: Call<'_>) -> (Arc<str>, Result<Answer, Failure>) {
        let mut pause = RETRY_PAUSE;
        let mut tries = 0;
        loop {
            let failure = match self.primary.forward(client, &call).await {
                Ok(answer) => return (self.primary.name(), Ok(answer)),
                Err(failure) => failure,
            };
            let reason = failure.to_string();
            tracing::warn!(upstream = %self.primary.name(), tries, reason, "an upstream failed");
            if tries >= self.retries {
                let Some(fallback) = &self.fallback else {
                    return (self.primary.name(), Err(failure));
                };
                return (fallback.name(), fallback.forward(client, &call).await);
            }
            tries = tries.saturating_add(1);
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(RETRY_PAUSE_MAX);
        }
    }
}

/// How the streams of a group are relayed.
#[derive(Clone, Copy, Debug)]
pub struct StreamPolicy {
    /// How long the upstream may say nothing.
    pub idle: Duration,
    /// What becomes of a stream whose client leaves.
    pub on_disconnect: OnDisconnect,
    /// The one name under which the upstream knows its token limit.
    pub token_limit_field: Option<TokenLimitField>,
}

impl StreamPolicy {
    fn new(settings: &UpstreamSettings) -> Self {
        StreamPolicy {
            idle: Duration::from_secs(settings.stream_idle_seconds.get()),
            on_disconnect: settings.on_disconnect,
            token_limit_field: settings.token_limit_field,
        }
    }
}

/// The upstream of each group.
pub struct Upstreams {
    groups: [(Upstream, StreamPolicy); 4],
    sandbox: Upstream,
}

impl Upstreams {
    /// As the settings say.
    #[must_use]
    pub fn new(settings: &UpstreamsSettings) -> Self {
        Upstreams {
            groups: [
                (RouteGroup::Hub, &settings.hub),
                (RouteGroup::Omm, &settings.omm),
                (RouteGroup::Yggdrasil, &settings.yggdrasil),
                (RouteGroup::V1, &settings.v1),
            ]
            .map(|(group, settings)| (Upstream::new(group, settings), StreamPolicy::new(settings))),
            sandbox: Upstream::Sandbox(sandbox::NAME.into()),
        }
    }

    /// Who serves a group. Test keys are always served by the sandbox.
    #[must_use]
    pub fn of(&self, group: RouteGroup, environment: Environment) -> &Upstream {
        match environment {
            Environment::Test => &self.sandbox,
            Environment::Live => &self.configured(group).0,
        }
    }

    /// How the group's streams are relayed.
    #[must_use]
    pub fn stream_policy(&self, group: RouteGroup) -> StreamPolicy {
        self.configured(group).1
    }

    /// Does the group's configured upstream need the request's headers?
    #[must_use]
    pub fn wants_headers(&self, group: RouteGroup) -> bool {
        matches!(self.configured(group).0, Upstream::Url(_))
    }

    /// The names of the groups that the sandbox serves.
    #[must_use]
    pub fn on_sandbox(&self) -> Vec<&'static str> {
        RouteGroup::ALL
            .into_iter()
            .filter(|group| matches!(self.configured(*group).0, Upstream::Sandbox(_)))
            .map(RouteGroup::name)
            .collect()
    }

    fn configured(&self, group: RouteGroup) -> &(Upstream, StreamPolicy) {
        let [hub, omm, yggdrasil, v1] = &self.groups;
        match group {
            RouteGroup::Hub => hub,
            RouteGroup::Omm => omm,
            RouteGroup::Yggdrasil => yggdrasil,
            RouteGroup::V1 => v1,
        }
    }
}
