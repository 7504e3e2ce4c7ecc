//! Commands of operators. The running server owns the accounts, so a command calls it over HTTP,
//! with a session that the command opens for itself and ends. That needs the server's secrets and
//! its database.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, bail};
use reqwest::header::ETAG;
use reqwest::{Method, Url};
use serde_json::Value;
use uuid::Uuid;

use crate::auth::Users;
use crate::auth::users::Device;
use crate::config::Settings;
use crate::exit::{Exit, ExitError};
use crate::store::users::{Role, User};
use domain::{SessionId, UserId};

/// User agent of the command line in the audit log.
const AGENT: &str = concat!("polysystems/", env!("CARGO_PKG_VERSION"), " command line");

/// This machine. Its address is that of everybody behind a proxy that names no client, so it is no
/// place that an operator's logins are known from.
fn device() -> Device {
    let address = IpAddr::from(Ipv4Addr::LOCALHOST);
    Device { address, agent: AGENT.into(), is_place: false }
}

/// What the server has answered.
pub struct ServerAnswer {
    /// The body as it came.
    pub text: String,
    /// The ETag, if there is one.
    pub etag: Option<String>,
}

/// What an error says of several fields. Of one alone the message says it.
fn details(body: &Value) -> String {
    let details = body.get("details").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = |detail: &Value, field: &str| {
        detail.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let words = details
        .iter()
        .map(|detail| format!("{}: {}", text(detail, "field"), text(detail, "message")));
    match words.collect::<Vec<_>>() {
        words if words.len() > 1 => format!(" {}", words.join("; ")),
        _ => String::new(),
    }
}

/// A session of an operator with the running server.
pub struct Console<'p> {
    users: &'p Users,
    url: Url,
    client: reqwest::Client,
    session: SessionId,
    token: String,
    operator: UserId,
}

/// The URL of the server of these settings.
pub fn url_of(settings: &Settings) -> anyhow::Result<Url> {
    let server = &settings.server;
    let scheme = if server.tls_certificate.is_some() { "https" } else { "http" };
    let mut address = server.bind;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::from(Ipv4Addr::LOCALHOST));
    }
    Ok(Url::parse(&format!("{scheme}://{address}"))?)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The user with this email or id.
pub async fn find_user(users: &Users, name: &str) -> anyhow::Result<User> {
    let found = match name.parse::<UserId>() {
        Ok(id) => users.store.find(id).await?,
        Err(_) => users.store.find_by_email(name).await?,
    };
    found.with_context(|| format!("there is no user {name}"))
}

impl<'p> Console<'p> {
    /// Begins a session of an operator.
    pub async fn open(users: &'p Users, operator: &str, url: Url) -> anyhow::Result<Self> {
        if url.scheme() != "https" && !is_loopback(&url) {
            bail!("the operator's token must not go to {url} in the clear; use https://");
        }
        let user = find_user(users, operator).await?;
        if user.role != Role::Admin {
            bail!(
                "{} is not an operator; make them one with `polysystems user set-role`",
                user.email
            );
        }
        let operator = user.id;
        let device = device();
        let (session, token) = users.log_in_by_command(user, device).await?;
        let client = reqwest::Client::builder().no_proxy().user_agent(AGENT).build()?;
        Ok(Console { users, url, client, session, token, operator })
    }

    /// Sends a request; returns the body as it came, so that amounts keep every digit.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<String>,
    ) -> anyhow::Result<String> {
        Ok(self.request(method, path, query, body, &[]).await?.text)
    }

    /// Sends a request with these headers.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<String>,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<ServerAnswer> {
        let mut url = self.url.join(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.client.request(method, url).bearer_auth(&self.token);
        // Each command happens once, even if the network repeats it.
        let request = request.header("Idempotency-Key", Uuid::new_v4().to_string());
        let request = match body {
            Some(body) => request.body(body),
            None => request,
        };
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = request.send().await.map_err(|error| {
            let why = error.without_url();
            let message = format!(
                "the server at {} does not answer: {why}; it must be running, or name another with --url \
                 (POLYSYSTEMS_URL)",
                self.url
            );
            ExitError::error(Exit::NoAnswer, message)
        })?;
        let status = answer.status();
        let etag = answer.headers().get(ETAG).and_then(|value| value.to_str().ok());
        let etag = etag.map(str::to_owned);
        let text = answer.text().await?;
        if !status.is_success() {
            let body: Value = serde_json::from_str(&text).unwrap_or_default();
            let message = body.get("message").and_then(Value::as_str);
            let message = message.unwrap_or("the server refused the request");
            bail!("{status}: {message}{}", details(&body));
        }
        Ok(ServerAnswer { text, etag })
    }

    /// Ends the session.
    pub async fn close(self) -> anyhow::Result<()> {
        let device = device();
        self.users.log_out(self.operator, self.session, &device).await?;
        Ok(())
    }
}
