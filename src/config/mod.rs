//! Settings: one TOML file, each value overridable by the environment, read once at start.
//!
//! `POLYSYSTEMS_<SECTION>__<NAME>` overrides `[section] name`. `POLYSYSTEMS_<SECTION>__<NAME>_FILE`
//! names a file that contains the value, as container platforms provide secrets. Every limit and
//! every duration of the server is a setting. An unknown or invalid setting stops the start with
//! one line that names it.
//!
//! The doc comment of a field is its text in `docs/src/reference/settings.md`, which
//! `tests/settings_reference.rs` generates.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::{Deserialize, Serialize};

mod auth;
mod ledger;
mod non_zero;
mod payments;
mod prices;
mod rate_limits;
mod secret;
mod server;
mod upstreams;
pub mod url;
mod validate;
mod webhooks;

pub use auth::{AuthSettings, EmailSettings, EmailTransport};
pub use ledger::{AccountSettings, LedgerSettings, UsageSettings};
pub use payments::{PaymentSettings, SandboxPayments, StripeSettings, X402Settings};
pub use prices::PriceSetting;
pub use rate_limits::{RateLimitSettings, TierSettings};
pub use secret::Secret;
pub use server::{DatabaseSettings, LogFormat, LogSettings, ServerSettings, TraceSettings};
pub use upstreams::{
    HoldSettings, IdempotencySettings, OnDisconnect, TokenLimitField, UpstreamSettings,
    UpstreamsSettings,
};
pub use webhooks::WebhookSettings;

/// Prefix of the environment variables.
const PREFIX: &str = "POLYSYSTEMS_";
/// Suffix of variables that name a file.
const FILE_SUFFIX: &str = "_FILE";

/// All settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Folder of the SQLite database and of generated secrets, unless these are set otherwise.
    pub data_dir: PathBuf,
    /// The HTTP server.
    pub server: ServerSettings,
    /// The database.
    pub database: DatabaseSettings,
    /// Passwords, sessions and API keys.
    pub auth: AuthSettings,
    /// Messages to users.
    pub email: EmailSettings,
    /// Rate limits.
    pub rate_limit: RateLimitSettings,
    /// The services that answer paid calls.
    pub upstreams: UpstreamsSettings,
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
    /// Prices in addition to the default list, or instead of its entries for the same method and
    /// path.
    pub prices: Vec<PriceSetting>,
    /// If true, the price list starts with the default prices.
    pub default_prices: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            data_dir: PathBuf::from("data"),
            server: ServerSettings::default(),
            database: DatabaseSettings::default(),
            auth: AuthSettings::default(),
            email: EmailSettings::default(),
            rate_limit: RateLimitSettings::default(),
            upstreams: UpstreamsSettings::default(),
            holds: HoldSettings::default(),
            idempotency: IdempotencySettings::default(),
            usage: UsageSettings::default(),
            payments: PaymentSettings::default(),
            webhooks: WebhookSettings::default(),
            accounts: AccountSettings::default(),
            ledger: LedgerSettings::default(),
            log: LogSettings::default(),
            traces: TraceSettings::default(),
            prices: Vec::new(),
            default_prices: true,
        }
    }
}

impl Settings {
    /// Reads the file, if one is named, and the environment. An error is one line that names the
    /// invalid setting and where it is set.
    pub fn read(file: Option<&Path>) -> anyhow::Result<Self> {
        let mut figment = Figment::from(Serialized::defaults(Settings::default()));
        if let Some(file) = file {
            if !file.is_file() {
                bail!("there is no settings file {}", file.display());
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        let files = std::env::vars_os().filter_map(|(name, file)| {
            let name = name.into_string().ok()?;
            let setting = name.strip_prefix(PREFIX)?.strip_suffix(FILE_SUFFIX)?.to_owned();
            Some((name, setting, PathBuf::from(file)))
        });
        let files: Vec<_> = files.collect();
        // Variables of the command line.
        let mut ignored: Vec<String> = ["CONFIG", "OPERATOR", "URL"].map(str::to_owned).to_vec();
        ignored.extend(files.iter().map(|(_, setting, _)| format!("{setting}{FILE_SUFFIX}")));
        let ignored: Vec<&str> = ignored.iter().map(String::as_str).collect();
        let environment = Env::prefixed(PREFIX).ignore(&ignored).split("__");
        figment = figment.merge(environment);
        for (name, setting, file) in files {
            figment = figment.merge(of_file(&name, &setting, &file)?);
        }
        let settings: Settings = figment.extract().map_err(|error| anyhow::anyhow!("{error}"))?;
        settings.check()?;
        Ok(settings)
    }

    /// The URL of the database.
    #[must_use]
    pub fn database_url(&self) -> String {
        match &self.database.url {
            Some(url) => url.expose().to_owned(),
            None => format!("sqlite://{}?mode=rwc", self.data_dir.join("polysystems.db").display()),
        }
    }
}

/// A setting whose value is in a file.
fn of_file(name: &str, setting: &str, file: &Path) -> anyhow::Result<Figment> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("{name}: cannot read {}", file.display()))?;
    let setting = setting.to_ascii_lowercase().replace("__", ".");
    if std::env::var_os(name.strip_suffix(FILE_SUFFIX).unwrap_or(name)).is_some() {
        bail!("{name} is set, and so is the setting itself");
    }
    let text = text.trim_end_matches(['\r', '\n']);
    Ok(Figment::from(Serialized::default(&setting, text)))
}
