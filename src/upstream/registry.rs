//! The upstream of each route group, with retries and fallback.

use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, Failure, UpstreamCall};
use super::http_client::Client;
use super::proxy::Proxy;
use super::sandbox;
use crate::config::{OnDisconnect, Secret, TokenLimitField, UpstreamSettings, UpstreamsSettings};
use domain::route_group::RouteGroup;
use domain::thinking::ModelPatterns;
use domain::{Environment, Timestamp};

/// The pause before the first retry; it doubles with each further one.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);

/// One upstream.
pub enum Upstream {
    /// The built-in sandbox.
    Sandbox(Arc<str>),
    /// A URL, perhaps with a fallback.
    Url(Box<Proxies>),
}

/// The URL of a group, and its fallback.
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

    /// Is it the built-in sandbox?
    #[must_use]
    pub fn is_sandbox(&self) -> bool {
        matches!(self, Upstream::Sandbox(_))
    }

    /// The name of the primary.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        match self {
            Upstream::Sandbox(name) => Arc::clone(name),
            Upstream::Url(proxies) => proxies.primary.name(),
        }
    }

    /// Makes the call. Returns the name of the upstream that served it, as `X-Polysystems-Upstream`
    /// shows it: `sandbox`, the group's name, or that with `-fallback`. A call that fails before
    /// its first byte is retried as often as the settings say, and then sent to the fallback. One
    /// whose answer is too large is not, because it would be so again.
    pub async fn call(
        &self,
        client: &Client,
        call: UpstreamCall<'_>,
        now: Timestamp,
    ) -> (Arc<str>, Result<Answer, Failure>) {
        match self {
            Upstream::Sandbox(name) => {
                call.sent.set(true);
                (Arc::clone(name), sandbox::answer(&call, now).await)
            }
            Upstream::Url(proxies) => Box::pin(proxies.call(client, call)).await,
        }
    }
}

impl Proxies {
    async fn call(
        &self,
        client: &Client,
        call: UpstreamCall<'_>,
    ) -> (Arc<str>, Result<Answer, Failure>) {
        let mut pause = RETRY_PAUSE;
        let mut tries = 0;
        // An attempt that an upstream was at work on is paid, whatever those after it come to.
        let mut given_up = None;
        loop {
            let failure = match self.primary.forward(client, &call).await {
                Ok(answer) => return (self.primary.name(), paid_or(given_up, answer)),
                Err(failure) => failure,
            };
            let reason = failure.to_string();
            tracing::warn!(upstream = %self.primary.name(), tries, reason, "an upstream failed");
            if let Failure::TooLarge { .. } = failure {
                return (self.primary.name(), Err(failure));
            }
            given_up = given_up.or(Some(failure).filter(|failure| failure.is_by_our_limit()));
            if tries >= self.retries {
                let Some(fallback) = &self.fallback else {
                    return (self.primary.name(), Err(given_up.unwrap_or(failure)));
                };
                let answer = fallback.forward(client, &call).await;
                let answer = match answer {
                    Ok(answer) => paid_or(given_up, answer),
                    Err(failure) if failure.is_by_our_limit() => Err(failure),
                    Err(failure) => Err(given_up.unwrap_or(failure)),
                };
                return (fallback.name(), answer);
            }
            tries = tries.saturating_add(1);
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(RETRY_PAUSE_MAX);
        }
    }
}

/// The answer, if it pays for the attempt before it that was given up. A refusal costs nothing, and
/// would leave the work of that attempt unpaid.
fn paid_or(given_up: Option<Failure>, answer: Answer) -> Result<Answer, Failure> {
    match given_up {
        Some(failure) if !answer.status.is_success() => Err(failure),
        _ => Ok(answer),
    }
}

/// How the streams of a group are relayed.
#[derive(Clone, Copy, Debug)]
pub struct StreamPolicy {
    /// How long the upstream may send nothing.
    pub idle: Duration,
    /// What happens to a stream whose client leaves.
    pub on_disconnect: OnDisconnect,
    /// The name of the token limit, if the upstream accepts only one.
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

/// Which requests a group's upstream gets, and what is known of its answers.
#[derive(Clone, Debug)]
pub struct RequestPolicy {
    /// The models that are sold; all if it is empty.
    pub models: ModelPatterns,
    /// Further fields of the body that pass.
    pub fields: Vec<String>,
    /// Names in the query that pass.
    pub query: Vec<String>,
    /// Does it report the usage of every answer?
    pub reports_usage: bool,
}

impl RequestPolicy {
    fn new(settings: &UpstreamSettings) -> Self {
        RequestPolicy {
            models: ModelPatterns::new(&settings.models),
            fields: settings.request_fields.clone(),
            query: settings.query_parameters.clone(),
            reports_usage: settings.reports_usage,
        }
    }
}

/// A group: its upstream and its policies.
struct Group {
    upstream: Upstream,
    streams: StreamPolicy,
    requests: Arc<RequestPolicy>,
}

impl Group {
    fn new(group: RouteGroup, settings: &UpstreamSettings) -> Self {
        Group {
            upstream: Upstream::new(group, settings),
            streams: StreamPolicy::new(settings),
            requests: Arc::new(RequestPolicy::new(settings)),
        }
    }
}

/// The upstream of each group.
pub struct Upstreams {
    groups: [Group; 4],
    sandbox: Upstream,
}

impl Upstreams {
    /// As configured.
    #[must_use]
    pub fn new(settings: &UpstreamsSettings) -> Self {
        Upstreams {
            groups: [
                (RouteGroup::Hub, &settings.hub),
                (RouteGroup::Omm, &settings.omm),
                (RouteGroup::Yggdrasil, &settings.yggdrasil),
                (RouteGroup::V1, &settings.v1),
            ]
            .map(|(group, settings)| Group::new(group, settings)),
            sandbox: Upstream::Sandbox(sandbox::NAME.into()),
        }
    }

    /// The upstream of a group. Calls with test keys always go to the sandbox.
    #[must_use]
    pub fn of(&self, group: RouteGroup, environment: Environment) -> &Upstream {
        match environment {
            Environment::Test => &self.sandbox,
            Environment::Live => &self.configured(group).upstream,
        }
    }

    /// How the group's streams are relayed.
    #[must_use]
    pub fn stream_policy(&self, group: RouteGroup) -> StreamPolicy {
        self.configured(group).streams
    }

    /// Which requests the group's upstream gets.
    #[must_use]
    pub fn request_policy(&self, group: RouteGroup) -> &Arc<RequestPolicy> {
        &self.configured(group).requests
    }

    /// Does the group's upstream need the request's headers?
    #[must_use]
    pub fn wants_headers(&self, group: RouteGroup) -> bool {
        matches!(self.configured(group).upstream, Upstream::Url(_))
    }

    /// The names of the groups that the sandbox serves.
    #[must_use]
    pub fn on_sandbox(&self) -> Vec<&'static str> {
        RouteGroup::ALL
            .into_iter()
            .filter(|group| matches!(self.configured(*group).upstream, Upstream::Sandbox(_)))
            .map(RouteGroup::name)
            .collect()
    }

    fn configured(&self, group: RouteGroup) -> &Group {
        let [hub, omm, yggdrasil, v1] = &self.groups;
        match group {
            RouteGroup::Hub => hub,
            RouteGroup::Omm => omm,
            RouteGroup::Yggdrasil => yggdrasil,
            RouteGroup::V1 => v1,
        }
    }
}
