//! Settings: one TOML file, each value overridable by the environment, read once at start.
//!
//! `POLYSYSTEMS_<SECTION>__<NAME>` overrides `[section] name`. `POLYSYSTEMS_<SECTION>__<NAME>_FILE`
//! names a file that contains the value, as container platforms provide secrets. A list is written
//! with commas. Every limit and every duration of the server is a setting. An unknown or invalid
//! setting stops the start with one line that names it, and the nearest right name.
//!
//! The doc comment of a field is its text in `docs/src/reference/settings.md`, which
//! `tests/settings_reference.rs` generates.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod auth;
mod catalogue;
mod console;
mod headers;
mod ledger;
mod lenient;
mod names;
mod non_zero;
mod payments;
mod prices;
mod pricing;
mod rate_limits;
mod read;
mod secret;
mod server;
mod show;
mod upstreams;
pub mod url;
mod validate;
mod webhooks;

pub use auth::{AuthSettings, EmailSettings, EmailTransport, RegistrationPolicy};
pub use catalogue::{CatalogueSettings, CatalogueSource};
pub use console::ConsoleSettings;
pub use ledger::{AccountSettings, LedgerSettings, UsageSettings};
pub use payments::{PaymentSettings, SandboxPayments, StripeSettings, X402Settings};
pub use prices::PriceSetting;
pub use pricing::PricingSettings;
pub use rate_limits::{RateLimitSettings, TierSettings};
pub use read::{Source, Sources};
pub use secret::Secret;
pub use server::{DatabaseSettings, LogFormat, LogSettings, ServerSettings, TraceSettings};
pub use show::ListedSetting;
pub use upstreams::{
    HoldSettings, IdempotencySettings, OnDisconnect, TokenLimitField, UpstreamSettings,
    UpstreamsSettings,
};
pub use webhooks::WebhookSettings;

/// All settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Folder for the SQLite database, its journal and generated secrets. A relative path begins at
    /// the folder in which the server is started.
    pub data_dir: PathBuf,
    /// The HTTP server.
    pub server: ServerSettings,
    /// The database.
    pub database: DatabaseSettings,
    /// Passwords, sessions and API keys.
    pub auth: AuthSettings,
    /// The console, and sessions of browsers.
    pub console: ConsoleSettings,
    /// Messages to users.
    pub email: EmailSettings,
    /// Rate limits.
    pub rate_limit: RateLimitSettings,
    /// The services that answer paid calls.
    pub upstreams: UpstreamsSettings,
    /// The models that are sold by their names.
    pub catalogue: CatalogueSettings,
    /// Credits that are held for running calls.
    pub holds: HoldSettings,
    /// Repeated requests.
    pub idempotency: IdempotencySettings,
    /// Usage records.
    pub usage: UsageSettings,
    /// Payments.
    pub payments: PaymentSettings,
    /// Webhooks to account holders.
    pub webhooks: WebhookSettings,
    /// Accounts in memory.
    pub accounts: AccountSettings,
    /// The ledger writer.
    pub ledger: LedgerSettings,
    /// The log.
    pub log: LogSettings,
    /// Traces.
    pub traces: TraceSettings,
    /// Price lists of models.
    pub pricing: PricingSettings,
    /// Your prices. Each is added to the default list, or replaces its entry for the same method
    /// and path.
    pub prices: Vec<PriceSetting>,
    /// If false, the default list is left out, and only your prices apply.
    pub default_prices: bool,
    /// Is this a demo? No setting: a flag of the command line says it.
    #[serde(skip)]
    pub(crate) is_demo: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            data_dir: PathBuf::from("data"),
            server: ServerSettings::default(),
            database: DatabaseSettings::default(),
            auth: AuthSettings::default(),
            console: ConsoleSettings::default(),
            email: EmailSettings::default(),
            rate_limit: RateLimitSettings::default(),
            upstreams: UpstreamsSettings::default(),
            catalogue: CatalogueSettings::default(),
            holds: HoldSettings::default(),
            idempotency: IdempotencySettings::default(),
            usage: UsageSettings::default(),
            payments: PaymentSettings::default(),
            webhooks: WebhookSettings::default(),
            accounts: AccountSettings::default(),
            ledger: LedgerSettings::default(),
            log: LogSettings::default(),
            traces: TraceSettings::default(),
            pricing: PricingSettings::default(),
            prices: Vec::new(),
            default_prices: true,
            is_demo: false,
        }
    }
}

impl Settings {
    /// The server is to say that it is a demo.
    pub fn mark_as_demo(&mut self) {
        self.is_demo = true;
    }

    /// The URL of the database.
    #[must_use]
    pub fn database_url(&self) -> String {
        match &self.database.url {
            Some(url) => url.expose().to_owned(),
            None => format!("sqlite://{}?mode=rwc", self.data_dir.join("polysystems.db").display()),
        }
    }

    /// The URL of the database without its password and options, for people.
    #[must_use]
    pub fn database_name(&self) -> String {
        let url = self.database_url();
        let Ok(parsed) = reqwest::Url::parse(&url) else {
            return url.split(['?', '@']).next().unwrap_or_default().to_owned();
        };
        let Some(host) = parsed.host_str().filter(|_| !url.starts_with("sqlite:")) else {
            return url.split('?').next().unwrap_or_default().to_owned();
        };
        let port = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{host}{port}{}", parsed.scheme(), parsed.path())
    }
}
