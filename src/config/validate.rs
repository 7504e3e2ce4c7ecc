//! Checks of the settings that their types cannot make.

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use lettre::message::Mailbox;
use lettre::{AsyncSmtpTransport as SmtpTransport, Tokio1Executor};

use super::headers::{check_answer_header, check_request_header};
use super::{EmailSettings, EmailTransport, PaymentSettings, Settings, StripeSettings, url};
use domain::{Credits, GRANTED_BALANCE_MAX};

impl Settings {
    /// Checks the settings. Fails with one line that names the first invalid one.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if let Some(url) = &self.database.url
            && !["sqlite:", "postgres:", "postgresql:"]
                .iter()
                .any(|scheme| url.expose().starts_with(scheme))
        {
            bail!("database.url must begin with sqlite: or postgres:");
        }
        let tier = &self.rate_limit.default_tier;
        if !self.rate_limit.tiers.contains_key(tier) {
            let known: Vec<_> = self.rate_limit.tiers.keys().map(String::as_str).collect();
            bail!("rate_limit.default_tier is {tier:?}; the tiers are {}", known.join(", "));
        }
        if self.server.tls_certificate.is_some() != self.server.tls_key.is_some() {
            bail!("server.tls_certificate and server.tls_key are set together or not at all");
        }
        for origin in &self.server.cors_origins {
            let parsed = reqwest::Url::parse(origin).map(|url| url.origin().ascii_serialization());
            if origin != "*" && parsed.ok().as_ref() != Some(origin) {
                bail!(
                    "server.cors_origins: {origin:?} is not an origin such as https://app.example.com"
                );
            }
        }
        if let Some(url) = &self.server.public_url {
            let parsed = reqwest::Url::parse(url).ok();
            let parsed = parsed.filter(|url| matches!(url.scheme(), "http" | "https"));
            let origin = parsed.map(|url| url.origin().ascii_serialization());
            if origin.as_ref() != Some(url) {
                bail!(
                    "server.public_url: {url:?} is not a scheme, a name and perhaps a port, such as \
                     https://api.example.com"
                );
            }
        }
        self.check_observation()?;
        self.email.check()?;
        if self.auth.sessions_per_user_max == 0 {
            bail!("auth.sessions_per_user_max must be at least 1");
        }
        for (name, secret) in [
            ("jwt_secret", &self.auth.jwt_secret),
            ("jwt_previous_secret", &self.auth.jwt_previous_secret),
            ("key_pepper", &self.auth.key_pepper),
            ("key_previous_pepper", &self.auth.key_previous_pepper),
        ] {
            if secret.as_ref().is_some_and(|secret| secret.expose().len() < 32) {
                bail!("auth.{name} must have at least 32 characters");
            }
        }
        self.check_upstreams()?;
        self.check_catalogue()?;
        if self.payment_amount_max()? > GRANTED_BALANCE_MAX {
            bail!(
                "payments.amount_max must be at most {GRANTED_BALANCE_MAX}, or a payment may not fit"
            );
        }
        self.grant_caps()?;
        self.test_credits()?;
        self.price_list()?;
        self.payments.check()?;
        self.check_test_money()
    }

    /// Credits that were bought with money of a test must not buy what costs real money.
    fn check_test_money(&self) -> anyhow::Result<()> {
        let mut groups = self.upstreams.groups().into_iter();
        let Some((group, _)) = groups.find(|(_, upstream)| upstream.url.is_some()) else {
            return Ok(());
        };
        let Some(what) = self.payments.test_money() else {
            return Ok(());
        };
        bail!(
            "{what}, so payments cost nothing, and upstreams.{group}.url is set: use real payments, \
             or set payments.sell_for_test_money = true"
        );
    }

    fn check_upstreams(&self) -> anyhow::Result<()> {
        for (group, upstream) in self.upstreams.groups() {
            for name in &upstream.request_headers {
                if let Err(reason) = check_request_header(name) {
                    bail!("upstreams.{group}.request_headers: {name:?} {reason}");
                }
            }
            for name in &upstream.answer_headers {
                if let Err(reason) = check_answer_header(name) {
                    bail!("upstreams.{group}.answer_headers: {name:?} {reason}");
                }
            }
            if upstream.fallback_url.is_some() && upstream.url.is_none() {
                bail!("upstreams.{group}.fallback_url is set, but upstreams.{group}.url is not");
            }
            let addresses = [
                ("url", &upstream.url, &upstream.api_key),
                ("fallback_url", &upstream.fallback_url, &upstream.fallback_api_key),
            ];
            for (name, url, key) in addresses {
                let Some(url) = url else { continue };
                if let Err(reason) = url::check(url, key.as_ref()) {
                    bail!("upstreams.{group}.{name} {reason}");
                }
            }
        }
        Ok(())
    }

    fn check_observation(&self) -> anyhow::Result<()> {
        self.log.filter()?;
        if self.server.metrics_token.as_ref().is_some_and(|token| token.expose().len() < 16) {
            bail!("server.metrics_token must have at least 16 characters");
        }
        if self.traces.per_mille > 1_000 {
            bail!("traces.per_mille must be from 0 to 1000");
        }
        if let Some(url) = &self.traces.otlp_url {
            let url = reqwest::Url::parse(url).context("traces.otlp_url is not a URL")?;
            if !matches!(url.scheme(), "http" | "https") {
                bail!("traces.otlp_url must begin with http: or https:");
            }
        }
        if self.webhooks.keep_days.get() < 4 {
            bail!("webhooks.keep_days must be at least 4: deliveries are tried for three days");
        }
        Ok(())
    }
}

impl EmailSettings {
    fn check(&self) -> anyhow::Result<()> {
        if self.from.parse::<Mailbox>().is_err() {
            bail!("email.from must be an address, such as Name <no-reply@example.com>");
        }
        match &self.smtp_url {
            // The cause is left out, because it could repeat the password.
            Some(url) if SmtpTransport::<Tokio1Executor>::from_url(url.expose()).is_err() => bail!(
                "email.smtp_url is not an SMTP URL, such as smtps://user:password@mail.example.com"
            ),
            Some(url) if !is_sent_by_tls(url.expose()) => bail!(
                "email.smtp_url sends letters without TLS, with tokens that work like passwords: use \
                 smtps://..., or smtp://...?tls=required. To 127.0.0.1 it may be without"
            ),
            None if self.transport() == EmailTransport::Smtp => {
                bail!("email.transport is smtp, and email.smtp_url is not set")
            }
            _ => Ok(()),
        }
    }
}

/// Does the URL of a mail server demand TLS, or lead to this machine?
fn is_sent_by_tls(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_here = host == "localhost" || literal.is_ok_and(|address| address.is_loopback());
    let is_demanded = url.query_pairs().any(|(name, value)| name == "tls" && value == "required");
    url.scheme() == "smtps" || is_demanded || is_here
}

impl PaymentSettings {
    fn check(&self) -> anyhow::Result<()> {
        let url = |name: &str, text: &str| {
            let parsed = reqwest::Url::parse(text).ok();
            let is_http = parsed.is_some_and(|url| matches!(url.scheme(), "http" | "https"));
            if is_http { Ok(()) } else { bail!("payments.{name} is not an http: or https: URL") }
        };
        let StripeSettings { secret_key, webhook_secret, checkout_minutes, .. } = &self.stripe;
        if secret_key.is_some() != webhook_secret.is_some() {
            bail!(
                "payments.stripe.secret_key and payments.stripe.webhook_secret are set together or not at all"
            );
        }
        if self.sandbox == Some(true) && self.stripe.is_live() {
            bail!(
                "payments.sandbox = true gives credits away, and payments.stripe.secret_key is a live key: \
                 remove payments.sandbox, or use a test key (sk_test_... or rk_test_...)"
            );
        }
        if secret_key.is_some() {
            url("stripe.url", &self.stripe.url)?;
            url("stripe.success_url", &self.stripe.success_url)?;
            url("stripe.cancel_url", &self.stripe.cancel_url)?;
            // Stripe requires at least 30 minutes from the time of the request.
            if !(31..=1_440).contains(checkout_minutes) {
                bail!("payments.stripe.checkout_minutes must be from 31 to 1440");
            }
        }
        amount("payments.stripe.amount_min", &self.stripe.amount_min)?;
        amount("payments.x402.amount", &self.x402.amount)?;
        if let Some(facilitator) = &self.x402.facilitator_url {
            url("x402.facilitator_url", facilitator)?;
            if !self.x402.network.starts_with("eip155:") {
                bail!("payments.x402.network must be an EVM network, such as eip155:8453");
            }
            if self.x402.pay_to.is_empty() {
                bail!("payments.x402.pay_to must be set if payments.x402.facilitator_url is");
            }
        }
        Ok(())
    }
}

/// Parses the amount of USD in the setting `name`. Fails with one line if it is not an amount or is
/// negative.
pub(super) fn amount(name: &str, text: &str) -> anyhow::Result<Credits> {
    let amount: Credits = text.parse().map_err(|error| anyhow::anyhow!("{name} {error}"))?;
    if amount.is_negative() {
        bail!("{name} must not be negative");
    }
    Ok(amount)
}
