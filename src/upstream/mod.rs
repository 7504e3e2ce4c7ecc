//! Upstreams: who does the work that is sold. Each route group has one, the built-in sandbox or a URL.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;

use crate::config::{UpstreamSettings, UpstreamsSettings};
use crate::domain::{Environment, Timestamp};
use crate::pipeline::Arrival;

mod proxy;
pub mod sandbox;

use proxy::Proxy;
pub use proxy::client;

/// The groups of paid routes (Chapter 2, Access Token Protected Endpoints).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// `/api/hub/*`
    Hub,
    /// `/api/omm/*`
    Omm,
    /// `/api/yggdrasil/*`
    Yggdrasil,
    /// `/v1/*`
    V1,
}

impl Group {
    /// Every group.
    pub const ALL: [Group; 4] = [Group::Hub, Group::Omm, Group::Yggdrasil, Group::V1];

    /// Its name in the settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Group::Hub => "hub",
            Group::Omm => "omm",
            Group::Yggdrasil => "yggdrasil",
            Group::V1 => "v1",
        }
    }

    /// Its base path.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Group::Hub => "/api/hub",
            Group::Omm => "/api/omm",
            Group::Yggdrasil => "/api/yggdrasil",
            Group::V1 => "/v1",
        }
    }
}

/// The tokens an answer reports.
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

    /// Reads the `usage` object of an answer; nothing where there is none.
    #[must_use]
    pub fn of_answer(body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Body {
            usage: Option<Usage>,
        }
        #[expect(clippy::struct_field_names, reason = "OpenAI's names")]
        #[derive(Deserialize)]
        struct Usage {
            #[serde(default, alias = "input_tokens")]
            prompt_tokens: Option<i64>,
            #[serde(default, alias = "output_tokens")]
            completion_tokens: Option<i64>,
            #[serde(default)]
            total_tokens: Option<i64>,
        }
        let usage = serde_json::from_slice::<Body>(body).ok().and_then(|body| body.usage);
        let Some(usage) = usage else { return TokenUsage::default() };
        let count = |tokens: Option<i64>| u64::try_from(tokens.unwrap_or(0)).unwrap_or(0);
        TokenUsage {
            prompt: count(usage.prompt_tokens),
            completion: count(usage.completion_tokens),
            reported_total: count(usage.total_tokens),
        }
    }
}

/// What an upstream answered.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers that may be passed on.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The tokens it reports.
    pub usage: TokenUsage,
}

/// Why there is no answer to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// None came in time.
    TimedOut,
    /// None came, or none that can be passed on. The reason is for the log.
    Broken(&'static str),
}

impl Failure {
    /// The status that our answer will have.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Failure::TimedOut => 504,
            Failure::Broken(_) => 502,
        }
    }
}

/// One upstream.
pub enum Upstream {
    /// Built in: deterministic, with true token counts.
    Sandbox(Arc<str>),
    /// Behind a URL.
    Url(Box<Proxy>),
}

impl Upstream {
    fn new(group: Group, settings: &UpstreamSettings) -> Self {
        match Proxy::new(group, settings) {
            Some(proxy) => Upstream::Url(Box::new(proxy)),
            None => Upstream::Sandbox(sandbox::NAME.into()),
        }
    }

    /// What `X-Polysystems-Upstream` says: `sandbox`, or the group's name.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        match self {
            Upstream::Sandbox(name) => Arc::clone(name),
            Upstream::Url(proxy) => proxy.name(),
        }
    }

    /// Makes the call.
    ///
    /// # Errors
    /// [`Failure`]
    pub async fn call(
        &self,
        client: &reqwest::Client,
        arrival: &Arrival,
        now: Timestamp,
    ) -> Result<Answer, Failure> {
        match self {
            Upstream::Sandbox(_) => sandbox::answer(arrival, now).await,
            Upstream::Url(proxy) => proxy.forward(client, arrival).await,
        }
    }
}

/// The upstream of each group.
pub struct Upstreams {
    groups: [Upstream; 4],
    sandbox: Upstream,
}

impl Upstreams {
    /// As the settings say.
    #[must_use]
    pub fn new(settings: &UpstreamsSettings) -> Self {
        Upstreams {
            groups: [
                Upstream::new(Group::Hub, &settings.hub),
                Upstream::new(Group::Omm, &settings.omm),
                Upstream::new(Group::Yggdrasil, &settings.yggdrasil),
                Upstream::new(Group::V1, &settings.v1),
            ],
            sandbox: Upstream::Sandbox(sandbox::NAME.into()),
        }
    }

    /// Who serves a group. Test keys are always served by the sandbox.
    #[must_use]
    pub fn of(&self, group: Group, environment: Environment) -> &Upstream {
        match environment {
            Environment::Test => &self.sandbox,
            Environment::Live => self.configured(group),
        }
    }

    /// Does the group's configured upstream need the request's headers?
    #[must_use]
    pub fn wants_headers(&self, group: Group) -> bool {
        matches!(self.configured(group), Upstream::Url(_))
    }

    /// The names of the groups that the sandbox serves.
    #[must_use]
    pub fn on_sandbox(&self) -> Vec<&'static str> {
        Group::ALL
            .into_iter()
            .filter(|group| matches!(self.configured(*group), Upstream::Sandbox(_)))
            .map(Group::name)
            .collect()
    }

    fn configured(&self, group: Group) -> &Upstream {
        let [hub, omm, yggdrasil, v1] = &self.groups;
        match group {
            Group::Hub => hub,
            Group::Omm => omm,
            Group::Yggdrasil => yggdrasil,
            Group::V1 => v1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_where_it_makes_sense() {
        for (body, prompt, completion, total) in [
            (r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#, 3, 4, 7),
            (r#"{"usage":{"input_tokens":3,"output_tokens":4}}"#, 3, 4, 7),
            (r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":9}}"#, 3, 4, 9),
            (r#"{"usage":{"prompt_tokens":-3,"completion_tokens":4}}"#, 0, 4, 4),
            (r#"{"usage":null}"#, 0, 0, 0),
            (r#"{"usage":"many"}"#, 0, 0, 0),
            ("not json", 0, 0, 0),
        ] {
            let usage = TokenUsage::of_answer(body.as_bytes());
            assert_eq!(
                (usage.prompt, usage.completion, usage.total()),
                (prompt, completion, total),
                "{body}"
            );
        }
    }
}
