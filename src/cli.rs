//! Commands of operators. The running server owns the accounts, so a command calls it over HTTP,
//! with a session that the command opens for itself and ends. That needs the server's secrets and
//! its database.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, bail};
use reqwest::{Method, Url};
use serde_json::Value;
use uuid::Uuid;

use crate::auth::Users;
use crate::auth::users::{Device, LoggedIn};
use crate::config::Settings;
use crate::exit::{Exit, ExitError};
use crate::store::users::{Role, User};
use domain::UserId;

/// User agent of the command line in the audit log.
const AGENT: &str = concat!("polysystems/", env!("CARGO_PKG_VERSION"), " command line");

/// A session of an operator with the running server.
pub struct Console<'p> {
    users: &'p Users,
    url: Url,
    client: reqwest::Client,
    session: LoggedIn,
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
        let user = find_user(users, operator).await?;
        if user.role != Role::Admin {
            bail!(
                "{} is not an operator; make them one with `polysystems user set-role`",
                user.email
            );
        }
        let operator = user.id;
        let device = Device { address: IpAddr::from(Ipv4Addr::LOCALHOST), agent: AGENT.into() };
        let session = users.log_in_by_command(user, device).await?;
        let client = reqwest::Client::builder().no_proxy().user_agent(AGENT).build()?;
        Ok(Console { users, url, client, session, operator })
    }

    /// Sends a request; returns the body as it came, so that amounts keep every digit.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<String>,
    ) -> anyhow::Result<String> {
        let mut url = self.url.join(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.client.request(method, url).bearer_auth(&self.session.token);
        // Each command happens once, even if the network repeats it.
        let request = request.header("Idempotency-Key", Uuid::new_v4().to_string());
        let request = match body {
            Some(body) => request.body(body),
            None => request,
        };
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
        let text = answer.text().await?;
        if !status.is_success() {
            let body: Value = serde_json::from_str(&text).unwrap_or_default();
            let message = body.get("message").and_then(Value::as_str);
            bail!("{status}: {}", message.unwrap_or("the server refused the request"));
        }
        Ok(text)
    }

    /// Ends the session.
    pub async fn close(self) -> anyhow::Result<()> {
        let device = Device { address: IpAddr::from(Ipv4Addr::LOCALHOST), agent: AGENT.into() };
        let session = self.session.session;
        self.users.log_out(self.operator, session, &device).await?;
        Ok(())
    }
}
