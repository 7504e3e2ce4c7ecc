//! Settings: one TOML file, each value overridable by the environment, read once at start.
//!
//! `POLYSYSTEMS_<SECTION>__<NAME>` overrides `[section] name`, and `POLYSYSTEMS_<SECTION>__<NAME>_FILE` names a file that
//! has its text, as containers are given secrets. Every limit and every duration of the server
//! has its name here. What is not known, or not valid, stops the start with one line that names it.

pub mod url;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use domain::pricing::{PriceList, PriceRule, RouteClass};
use domain::{Credits, TokenPrice};

/// What the variables of the environment begin with.
const PREFIX: &str = "POLYSYSTEMS_";
/// What those end with that name a file.
const FILE_SUFFIX: &str = "_FILE";

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The environment's reader takes a secret of digits for a number.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Scalar {
            Text(String),
            Whole(u128),
        }
        Ok(Secret(match Scalar::deserialize(deserializer)? {
            Scalar::Text(text) => text,
            Scalar::Whole(number) => number.to_string(),
        }))
    }
}

/// Everything that can be set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the database and generated secrets lie, unless set otherwise.
    pub data_dir: PathBuf,
    /// The HTTP server.
    pub server: ServerSettings,
    /// The database.
    pub database: DatabaseSettings,
    /// Passwords, session tokens and keys.
    pub auth: AuthSettings,
    /// Mail to users.
    pub email: EmailSettings,
    /// Rate limits.
    pub rate_limit: RateLimitSettings,
    /// Who serves the paid calls.
    pub upstreams: UpstreamsSettings,
    /// What is reserved for calls that run.
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
    /// Logs.
    pub log: LogSettings,
    /// Traces.
    pub traces: TraceSettings,
    /// Prices beside or instead of the default list, by method and path.
    pub prices: Vec<PriceSetting>,
    /// Begin with the default price list?
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

/// `[server]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// The address to listen on.
    pub bind: SocketAddr,
    /// HTTP threads; 0 is one for each core.
    pub workers: usize,
    /// The largest request body, in bytes.
    pub body_max_bytes: usize,
    /// How long an idle connection is kept, in seconds.
    pub keep_alive_seconds: u64,
    /// How long a request's head may take, in seconds.
    pub head_timeout_seconds: u64,
    /// How long a request's body may take, in seconds.
    pub body_timeout_seconds: u64,
    /// How long calls may run on after a signal to stop, in seconds. Then they are ended in good order.
    pub drain_seconds: u64,
    /// How long the server says that it is not ready before it stops taking calls, in seconds: as long as a load
    /// balancer takes to notice.
    pub drain_delay_seconds: u64,
    /// Connections at once; more wait to be accepted.
    pub connections_max: NonZeroUsize,
    /// Requests being handled at once; above it, 503.
    pub requests_max: NonZeroUsize,
    /// Paid calls at once, streams included; above it, 503.
    pub calls_max: NonZeroUsize,
    /// Bytes of request bodies in memory, all together; above it, 503.
    pub bodies_max_bytes: NonZeroUsize,
    /// Where the figures for monitoring are served, at `/metrics`, beside the API. Unset: with the API where
    /// `metrics_token` is set, else nowhere.
    pub metrics_bind: Option<SocketAddr>,
    /// What they are asked with, as `Authorization: Bearer`; at least 16 characters.
    pub metrics_token: Option<Secret>,
    /// Reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// The certificate chain (PEM) of TLS; with `tls_key` the server speaks HTTPS alone. Read anew when it changes.
    pub tls_certificate: Option<PathBuf>,
    /// The private key (PEM) of `tls_certificate`.
    pub tls_key: Option<PathBuf>,
    /// Origins whose pages may read answers, such as `https://app.example.com`; `*` is any. Empty: none.
    pub cors_origins: Vec<String>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        ServerSettings {
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
            workers: 0,
            body_max_bytes: 10 * 1024 * 1024,
            keep_alive_seconds: 75,
            head_timeout_seconds: 5,
            body_timeout_seconds: 60,
            drain_seconds: 30,
            drain_delay_seconds: 0,
            connections_max: NonZeroUsize::MIN.saturating_add(49_999),
            requests_max: NonZeroUsize::MIN.saturating_add(8_191),
            calls_max: NonZeroUsize::MIN.saturating_add(16_383),
            bodies_max_bytes: NonZeroUsize::MIN.saturating_add(512 * 1024 * 1024 - 1),
            metrics_bind: None,
            metrics_token: None,
            trusted_proxies: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            cors_origins: Vec::new(),
        }
    }
}

/// `[database]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseSettings {
    /// `sqlite://...` or `postgres://...`; unset is a SQLite file in the data directory.
    pub url: Option<Secret>,
    /// Connections of the pool.
    pub connections_max: NonZeroU32,
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        DatabaseSettings { url: None, connections_max: NonZeroU32::MIN.saturating_add(7) }
    }
}

/// `[auth]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// Signs session tokens; unset is made once in the data directory.
    pub jwt_secret: Option<Secret>,
    /// What signed session tokens before `jwt_secret`; what it signed is read until it expires.
    pub jwt_previous_secret: Option<Secret>,
    /// Keys the digests of API keys; unset is made once in the data directory.
    pub key_pepper: Option<Secret>,
    /// How long a session token is good for, in seconds (Chapter 2: 24 hours).
    pub jwt_lifetime_seconds: NonZeroU32,
    /// How long a session lasts that is not renewed, in days.
    pub session_days: NonZeroU32,
    /// Sessions of one user; the oldest ones above it end.
    pub sessions_per_user_max: u64,
    /// The shortest password, in characters.
    pub password_length_min: usize,
    /// Passwords hashed at the same time, by threads that give way to all others; each takes 19 MiB. 0 is one for every
    /// two cores: one for each core makes paid calls wait.
    pub password_hashes_max: usize,
    /// Password hashes waiting for their turn; above it, 503.
    pub password_queue_max: usize,
    /// API keys of one account.
    pub keys_per_account_max: usize,
    /// API keys remembered between calls.
    pub key_cache_max: u64,
    /// How long before an API key ends its owner is warned, in days.
    pub key_expiry_warning_days: u32,
    /// Must an email address be verified before its user pays or makes an API key?
    pub require_verified_email: bool,
    /// How long a token that verifies an address is good for, in hours.
    pub verification_hours: NonZeroU32,
    /// How long a token that sets another password is good for, in minutes.
    pub password_reset_minutes: NonZeroU32,
    /// Logins, registrations and other attempts a minute from one address; IPv6 counts by /64.
    pub attempts_per_address: NonZeroU32,
    /// Attempts a minute to log in to one account from one address.
    pub attempts_per_account: NonZeroU32,
    /// Attempts an hour to log in to one account from addresses where nobody has a session of it, all together; a
    /// tenth of them at once.
    pub attempts_per_account_from_strangers: NonZeroU32,
}

impl Default for AuthSettings {
    fn default() -> Self {
        AuthSettings {
            jwt_secret: None,
            jwt_previous_secret: None,
            key_pepper: None,
            jwt_lifetime_seconds: NonZeroU32::MIN.saturating_add(86_399),
            session_days: NonZeroU32::MIN.saturating_add(29),
            sessions_per_user_max: 100,
            password_length_min: 12,
            password_hashes_max: 0,
            password_queue_max: 64,
            keys_per_account_max: 1_000,
            key_cache_max: 1_000_000,
            key_expiry_warning_days: 7,
            require_verified_email: false,
            verification_hours: NonZeroU32::MIN.saturating_add(47),
            password_reset_minutes: NonZeroU32::MIN.saturating_add(59),
            attempts_per_address: NonZeroU32::MIN.saturating_add(59),
            attempts_per_account: NonZeroU32::MIN.saturating_add(9),
            attempts_per_account_from_strangers: NonZeroU32::MIN.saturating_add(99),
        }
    }
}

/// `[email]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmailSettings {
    /// Where messages go: `smtp`, `folder` or `log`. Unset is `smtp` where `smtp_url` is set, else `folder`.
    pub transport: Option<EmailTransport>,
    /// `smtps://user:password@host` (TLS), or `smtp://...?tls=required` (STARTTLS).
    pub smtp_url: Option<Secret>,
    /// Who they come from.
    pub from: String,
    /// Where they are written without SMTP, one `.eml` file each; unset is `mail` in the data directory.
    pub folder: Option<PathBuf>,
    /// The page where an address is verified, with `{token}` in it. Unset: the message tells of the API.
    pub verify_url: Option<String>,
    /// The page where another password is set, with `{token}` in it. Unset: the message tells of the API.
    pub reset_url: Option<String>,
}

/// Where messages to users go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmailTransport {
    /// To a mail server.
    Smtp,
    /// Into a folder: for development.
    Folder,
    /// Into the log, tokens and all: for development.
    Log,
}

impl Default for EmailSettings {
    fn default() -> Self {
        EmailSettings {
            transport: None,
            smtp_url: None,
            from: "Polysystems <no-reply@localhost>".into(),
            folder: None,
            verify_url: None,
            reset_url: None,
        }
    }
}

impl EmailSettings {
    /// Where messages go.
    #[must_use]
    pub fn transport(&self) -> EmailTransport {
        let is_smtp = self.smtp_url.is_some();
        let otherwise = if is_smtp { EmailTransport::Smtp } else { EmailTransport::Folder };
        self.transport.unwrap_or(otherwise)
    }
}

/// `[rate_limit]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimitSettings {
    /// False switches every rate limit off.
    pub enabled: bool,
    /// The tier of accounts that have none of their own.
    pub default_tier: String,
    /// Requests a second from one address, before authentication; IPv6 counts by /64.
    pub address_per_second: NonZeroU32,
    /// Percent of the tier's figures for reads.
    pub read_percent: NonZeroU32,
    /// Percent of the tier's figures for writes.
    pub write_percent: NonZeroU32,
    /// Percent of the tier's figures for text generation.
    pub generation_percent: NonZeroU32,
    /// Percent of the tier's figures for heavy processing.
    pub heavy_percent: NonZeroU32,
    /// The tiers by name. A figure left out does not bind.
    pub tiers: BTreeMap<String, TierSettings>,
}

/// Requests in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TierSettings {
    /// In a second.
    pub second: Option<NonZeroU32>,
    /// In a minute.
    pub minute: Option<NonZeroU32>,
    /// In an hour.
    pub hour: Option<NonZeroU32>,
    /// In a day.
    pub day: Option<NonZeroU32>,
}

impl Default for RateLimitSettings {
    fn default() -> Self {
        let count = NonZeroU32::new;
        let tier = |second, minute, hour, day| TierSettings {
            second: count(second),
            minute: count(minute),
            hour: count(hour),
            day: count(day),
        };
        let percent = |percent: u32| NonZeroU32::MIN.saturating_add(percent - 1);
        RateLimitSettings {
            enabled: true,
            default_tier: "pro".into(),
            address_per_second: NonZeroU32::MIN.saturating_add(999),
            read_percent: percent(100),
            write_percent: percent(50),
            generation_percent: percent(20),
            heavy_percent: percent(10),
            tiers: BTreeMap::from([
                ("free".to_owned(), tier(1, 10, 100, 1_000)),
                ("basic".to_owned(), tier(5, 100, 1_000, 10_000)),
                ("pro".to_owned(), tier(20, 1_000, 10_000, 100_000)),
                ("enterprise".to_owned(), tier(200, 10_000, 100_000, 1_000_000)),
                ("unlimited".to_owned(), TierSettings::default()),
            ]),
        }
    }
}

/// `[upstreams]`: one for each route group.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamsSettings {
    /// How long connecting to any of them may take, in seconds.
    pub connect_timeout_seconds: NonZeroU64,
    /// `/api/hub/*`
    pub hub: UpstreamSettings,
    /// `/api/omm/*`
    pub omm: UpstreamSettings,
    /// `/api/yggdrasil/*`
    pub yggdrasil: UpstreamSettings,
    /// `/v1/*`
    pub v1: UpstreamSettings,
}

impl Default for UpstreamsSettings {
    fn default() -> Self {
        UpstreamsSettings {
            connect_timeout_seconds: NonZeroU64::MIN.saturating_add(4),
            hub: UpstreamSettings::default(),
            omm: UpstreamSettings::default(),
            yggdrasil: UpstreamSettings::default(),
            v1: UpstreamSettings::default(),
        }
    }
}

/// `[upstreams.<group>]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamSettings {
    /// Where the group's calls go, path and query appended; unset is the built-in sandbox.
    pub url: Option<String>,
    /// Sent to the upstream as `Authorization: Bearer`.
    pub api_key: Option<Secret>,
    /// Where failed calls go; unset is nowhere.
    pub fallback_url: Option<String>,
    /// Sent to the fallback as `Authorization: Bearer`.
    pub fallback_api_key: Option<Secret>,
    /// How often a call that failed before its first byte is tried again, before the fallback.
    pub retries: u32,
    /// How long the whole answer may take, or the first byte of a stream, in seconds.
    pub timeout_seconds: NonZeroU64,
    /// How long a stream may say nothing, in seconds.
    pub stream_idle_seconds: NonZeroU64,
    /// What becomes of a stream whose client leaves.
    pub on_disconnect: OnDisconnect,
    /// The one name under which a chat's upstream knows its token limit: `max_tokens` or
    /// `max_completion_tokens`. Unset is the request's own name for it, and `max_tokens` where it names none.
    pub token_limit_field: Option<TokenLimitField>,
    /// The largest answer, in bytes.
    pub response_max_bytes: usize,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        UpstreamSettings {
            url: None,
            api_key: None,
            fallback_url: None,
            fallback_api_key: None,
            retries: 0,
            timeout_seconds: NonZeroU64::MIN.saturating_add(299),
            stream_idle_seconds: NonZeroU64::MIN.saturating_add(119),
            on_disconnect: OnDisconnect::Cancel,
            token_limit_field: None,
            response_max_bytes: 64 * 1024 * 1024,
        }
    }
}

/// What becomes of a stream whose client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// The upstream is cancelled; what was delivered is billed.
    Cancel,
    /// The upstream is heard to its end; the whole is billed.
    Drain,
}

/// The name of a token limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenLimitField {
    /// `max_tokens`
    MaxTokens,
    /// `max_completion_tokens`
    MaxCompletionTokens,
}

impl TokenLimitField {
    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            TokenLimitField::MaxTokens => "max_tokens",
            TokenLimitField::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// `[holds]`: what is reserved of a balance for calls whose price is known only after them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HoldSettings {
    /// A call that the balance or a limit covers only in part is begun with the token limit that is covered.
    pub lower_token_limit: bool,
    /// Tokens of each completion that must be covered for such a call, and for a stream, to begin.
    pub start_tokens: NonZeroU64,
    /// Tokens of each completion that a stream holds at first, and extends its hold by; twice as many each
    /// time, up to `step_tokens_max`.
    pub step_tokens: NonZeroU64,
    /// See `step_tokens`.
    pub step_tokens_max: NonZeroU64,
    /// How long a stream may take altogether, in seconds.
    pub stream_seconds_max: NonZeroU64,
    /// How long a client may read nothing of a stream, in seconds. Then it counts as gone.
    pub reader_seconds: NonZeroU64,
}

impl Default for HoldSettings {
    fn default() -> Self {
        let number = |number: u64| NonZeroU64::MIN.saturating_add(number.saturating_sub(1));
        HoldSettings {
            lower_token_limit: true,
            start_tokens: number(16),
            step_tokens: number(512),
            step_tokens_max: number(8_192),
            stream_seconds_max: number(3_600),
            reader_seconds: number(120),
        }
    }
}

/// `[idempotency]`: requests with an `Idempotency-Key`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdempotencySettings {
    /// How long an answer is kept for repeats, in days.
    pub keep_days: NonZeroU32,
    /// The largest answer that is kept, in bytes; a repeat of a larger one gets 409.
    pub answer_max_bytes: usize,
}

impl Default for IdempotencySettings {
    fn default() -> Self {
        IdempotencySettings {
            keep_days: NonZeroU32::MIN.saturating_add(6),
            answer_max_bytes: 1024 * 1024,
        }
    }
}

/// `[usage]`: what each call did. The ledger, which says what it cost, is kept for ever.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsageSettings {
    /// How long a usage record is kept, in days. Unset: for ever.
    pub keep_days: Option<NonZeroU32>,
}

/// `[payments]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PaymentSettings {
    /// The provider that confirms at once and takes no money. Unset: on while the server listens on a
    /// loopback address only.
    pub sandbox: Option<bool>,
    /// The largest payment, in USD.
    pub amount_max: String,
    /// What a user's test account begins with, in USD.
    pub test_credits: String,
    /// Cards and whatever else Stripe takes.
    pub stripe: StripeSettings,
    /// Stablecoins, by the protocol of x402.
    pub x402: X402Settings,
}

impl Default for PaymentSettings {
    fn default() -> Self {
        PaymentSettings {
            sandbox: None,
            amount_max: "100000.00".into(),
            test_credits: "100.00".into(),
            stripe: StripeSettings::default(),
            x402: X402Settings::default(),
        }
    }
}

/// `[payments.stripe]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StripeSettings {
    /// Stripe's secret key (`sk_...` or `rk_...`); unset: no payments by Stripe.
    pub secret_key: Option<Secret>,
    /// What Stripe signs its webhooks with (`whsec_...`).
    pub webhook_secret: Option<Secret>,
    /// Where Stripe's API is.
    pub url: String,
    /// The page to which a payer comes back who has paid. `{CHECKOUT_SESSION_ID}` is filled in by Stripe.
    pub success_url: String,
    /// The page to which a payer comes back who has not.
    pub cancel_url: String,
    /// How long a payer may take to pay, in minutes: from 30 to 1,440.
    pub checkout_minutes: u32,
    /// The smallest payment, in USD.
    pub amount_min: String,
}

impl Default for StripeSettings {
    fn default() -> Self {
        StripeSettings {
            secret_key: None,
            webhook_secret: None,
            url: "https://api.stripe.com".into(),
            success_url: "https://localhost/paid".into(),
            cancel_url: "https://localhost/not-paid".into(),
            checkout_minutes: 60,
            amount_min: "1.00".into(),
        }
    }
}

/// `[payments.x402]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct X402Settings {
    /// The facilitator that verifies and settles payments; unset: no payments by x402.
    pub facilitator_url: Option<String>,
    /// Sent to the facilitator as `Authorization: Bearer`.
    pub facilitator_api_key: Option<Secret>,
    /// The address that is paid.
    pub pay_to: String,
    /// The network, by its CAIP-2 name: Base, unless set otherwise.
    pub network: String,
    /// The token's contract: USDC on Base, unless set otherwise. A token is a dollar, and has six decimals.
    pub asset: String,
    /// The token's name, as its EIP-712 domain has it.
    pub asset_name: String,
    /// The token's version, likewise.
    pub asset_version: String,
    /// What a call that the balance does not cover asks for, in USD; a dearer call asks for its price.
    pub amount: String,
    /// How long a payment may take to be settled, in seconds.
    pub timeout_seconds: NonZeroU32,
}

impl Default for X402Settings {
    fn default() -> Self {
        X402Settings {
            facilitator_url: None,
            facilitator_api_key: None,
            pay_to: String::new(),
            network: "eip155:8453".into(),
            asset: "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913".into(),
            asset_name: "USD Coin".into(),
            asset_version: "2".into(),
            amount: "1.00".into(),
            timeout_seconds: NonZeroU32::MIN.saturating_add(59),
        }
    }
}

/// `[webhooks]`: events to account holders.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookSettings {
    /// May endpoints be in private networks, and without TLS? For development: whoever may make endpoints could then
    /// have this server speak to its own network.
    pub allow_private_addresses: bool,
    /// How long one try may take, in seconds.
    pub timeout_seconds: NonZeroU64,
    /// Endpoints to which something is under way at the same time.
    pub at_once_max: NonZeroUsize,
    /// Endpoints of one account.
    pub endpoints_per_account_max: u64,
    /// How long a former secret signs as well, in hours.
    pub former_secret_hours: u32,
    /// How long events and their deliveries are kept, in days; more than the three that they are tried for.
    pub keep_days: NonZeroU32,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        WebhookSettings {
            allow_private_addresses: false,
            timeout_seconds: NonZeroU64::MIN.saturating_add(14),
            at_once_max: NonZeroUsize::MIN.saturating_add(31),
            endpoints_per_account_max: 20,
            former_secret_hours: 24,
            keep_days: NonZeroU32::MIN.saturating_add(29),
        }
    }
}

/// `[accounts]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccountSettings {
    /// Accounts kept in memory; above it the longest idle ones are passivated.
    pub resident_max: usize,
    /// An account idle this long is passivated, in seconds.
    pub idle_seconds: NonZeroU64,
    /// Calls of one account at the same time; above it, 429.
    pub in_flight_max: NonZeroU32,
}

impl Default for AccountSettings {
    fn default() -> Self {
        AccountSettings {
            resident_max: 100_000,
            idle_seconds: NonZeroU64::MIN.saturating_add(299),
            in_flight_max: NonZeroU32::MIN.saturating_add(1_023),
        }
    }
}

/// `[ledger]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerSettings {
    /// Writes waiting for their commit; above it new charges get 503.
    pub queue_max: NonZeroUsize,
    /// What they may cost in memory all together, recorded answers included, in bytes; above it likewise.
    pub queue_bytes_max: NonZeroUsize,
    /// How long the oldest of them may have waited, in milliseconds; above it likewise, until it is written.
    pub age_max_ms: NonZeroU64,
    /// Writes in one transaction.
    pub batch_max: NonZeroUsize,
    /// What they may cost in memory, in bytes.
    pub batch_bytes_max: NonZeroUsize,
    /// Do batches of paid calls go to the journal first, which is faster, and from there into the tables? What an
    /// earlier process left in the journal is checkpointed either way.
    pub journal: bool,
    /// Writes in the journal from which on they are checkpointed; fewer are checkpointed when nothing comes for 10 ms. On SQLite it is
    /// put off, up to four times as many writes or 16,384, until each account has eight of them on average.
    pub checkpoint_from: NonZeroUsize,
    /// How long one attempt to commit may take, in milliseconds. Then its outcome counts as unknown, and it is
    /// looked for on another connection. A write to SQLite's journal ends when its disk answers.
    pub attempt_max_ms: NonZeroU64,
    /// How long a call waits for its commit before it is answered 503, in seconds. Its charge stays decided.
    pub commit_timeout_seconds: NonZeroU64,
    /// How often the server verifies every ledger by itself, in hours, as `polysystems verify` does; unset is never.
    pub verify_hours: Option<NonZeroU32>,
}

impl Default for LedgerSettings {
    fn default() -> Self {
        LedgerSettings {
            queue_max: NonZeroUsize::MIN.saturating_add(65_535),
            queue_bytes_max: NonZeroUsize::MIN.saturating_add(256 * 1024 * 1024 - 1),
            age_max_ms: NonZeroU64::MIN.saturating_add(999),
            batch_max: NonZeroUsize::MIN.saturating_add(1_023),
            batch_bytes_max: NonZeroUsize::MIN.saturating_add(16 * 1024 * 1024 - 1),
            journal: true,
            checkpoint_from: NonZeroUsize::MIN.saturating_add(4_095),
            attempt_max_ms: NonZeroU64::MIN.saturating_add(4_999),
            commit_timeout_seconds: NonZeroU64::MIN.saturating_add(29),
            verify_hours: None,
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter of `tracing-subscriber`'s `EnvFilter`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// `[traces]`: OpenTelemetry traces, by OTLP over HTTP.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceSettings {
    /// The collector's base URL, such as `http://127.0.0.1:4318`; `/v1/traces` is added. Unset: no traces.
    pub otlp_url: Option<String>,
    /// How many of a thousand calls are traced.
    pub per_mille: u16,
    /// Are traces of callers continued, who then say by themselves whether they are recorded? For callers that can be
    /// trusted with that.
    pub continue_callers: bool,
    /// `service.name`
    pub service: String,
}

impl Default for TraceSettings {
    fn default() -> Self {
        TraceSettings {
            otlp_url: None,
            per_mille: 10,
            continue_callers: false,
            service: "polysystems".into(),
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// For programs: one JSON object a line.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { level: "info".into(), format: LogFormat::Human }
    }
}

/// `[[prices]]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceSetting {
    /// The method; unset is any.
    pub method: Option<String>,
    /// An exact path, or a prefix that ends in `/*`.
    pub path: String,
    /// For rate limits: `health`, `read`, `write`, `generation` or `heavy`.
    pub class: PriceClass,
    /// USD a call.
    pub base: String,
    /// USD a token on top; unset is a fixed price.
    pub per_token: Option<String>,
    /// Completion tokens that an answer may have where the request names no limit.
    #[serde(default = "default_max_tokens")]
    pub default_max_tokens: u64,
    /// The same for single models.
    #[serde(default)]
    pub default_max_tokens_of: BTreeMap<String, u64>,
}

/// [`RouteClass`] in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "named as in RouteClass")]
pub enum PriceClass {
    Health,
    Read,
    Write,
    Generation,
    Heavy,
}

const fn default_max_tokens() -> u64 {
    4_096
}

/// The published list (Chapter 7), and beside it our own choice of routes for its categories and prices for
/// the routes it does not name: method, path, class, base, price a token.
const DEFAULT_PRICES: [(&str, &str, PriceClass, &str, Option<&str>); 18] = [
    ("GET", "/api/hub/health", PriceClass::Health, "0", None),
    ("POST", "/api/hub/agents/chat", PriceClass::Generation, "0.0020", Some("0.00001")),
    ("POST", "/api/hub/agents/generate", PriceClass::Generation, "0.0020", Some("0.00001")),
    ("POST", "/api/omm/generate", PriceClass::Generation, "0.0030", Some("0.00002")),
    ("POST", "/api/yggdrasil/process", PriceClass::Generation, "0.0040", Some("0.00002")),
    ("POST", "/v1/chat/completions", PriceClass::Generation, "0.0020", Some("0.00001")),
    ("POST", "/api/hub/rag/index", PriceClass::Write, "0.0005", None),
    ("POST", "/api/hub/memory", PriceClass::Write, "0.0001", None),
    ("GET", "/api/hub/memory/*", PriceClass::Read, "0.0001", None),
    ("POST", "/api/hub/search/index", PriceClass::Write, "0.0002", None),
    ("POST", "/api/hub/documents", PriceClass::Heavy, "0.0005", None),
    // Not in the published list.
    ("POST", "/v1/completions", PriceClass::Generation, "0.0020", Some("0.00001")),
    ("POST", "/v1/responses", PriceClass::Generation, "0.0020", Some("0.00001")),
    ("POST", "/v1/embeddings", PriceClass::Write, "0.0002", Some("0.0000001")),
    ("GET", "/v1/models", PriceClass::Read, "0", None),
    ("GET", "/v1/models/*", PriceClass::Read, "0", None),
    ("POST", "/api/hub/rag/query", PriceClass::Read, "0.0005", None),
    ("POST", "/api/hub/tasks", PriceClass::Write, "0.0001", None),
];

impl From<PriceClass> for RouteClass {
    fn from(class: PriceClass) -> Self {
        match class {
            PriceClass::Health => RouteClass::Health,
            PriceClass::Read => RouteClass::Read,
            PriceClass::Write => RouteClass::Write,
            PriceClass::Generation => RouteClass::Generation,
            PriceClass::Heavy => RouteClass::Heavy,
        }
    }
}

impl Settings {
    /// Reads the file, if one is named, and the environment.
    ///
    /// # Errors
    /// One line that names what is wrong and where it stands.
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
        // The command line's own.
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

    fn check(&self) -> anyhow::Result<()> {
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
                    "server.cors_origins: {origin:?} is no origin such as https://app.example.com"
                );
            }
        }
        self.check_observation()?;
        if self.auth.sessions_per_user_max == 0 {
            bail!("auth.sessions_per_user_max must be at least 1");
        }
        for (name, secret) in [
            ("jwt_secret", &self.auth.jwt_secret),
            ("jwt_previous_secret", &self.auth.jwt_previous_secret),
            ("key_pepper", &self.auth.key_pepper),
        ] {
            if secret.as_ref().is_some_and(|secret| secret.expose().len() < 32) {
                bail!("auth.{name} must have at least 32 characters");
            }
        }
        let upstreams = [
            ("hub", &self.upstreams.hub),
            ("omm", &self.upstreams.omm),
            ("yggdrasil", &self.upstreams.yggdrasil),
            ("v1", &self.upstreams.v1),
        ];
        for (group, upstream) in upstreams {
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
        self.payment_amount_max()?;
        self.test_credits()?;
        self.price_list()?;
        self.payments.check()
    }

    fn check_observation(&self) -> anyhow::Result<()> {
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

    /// Where the database is.
    #[must_use]
    pub fn database_url(&self) -> String {
        match &self.database.url {
            Some(url) => url.expose().to_owned(),
            None => format!("sqlite://{}?mode=rwc", self.data_dir.join("polysystems.db").display()),
        }
    }

    /// May the sandbox provider confirm payments?
    #[must_use]
    pub fn sandbox_payments(&self) -> bool {
        self.payments.sandbox.unwrap_or(self.server.bind.ip().is_loopback())
    }

    /// The largest payment.
    ///
    /// # Errors
    /// A line that names the setting.
    pub fn payment_amount_max(&self) -> anyhow::Result<Credits> {
        amount("payments.amount_max", &self.payments.amount_max)
    }

    /// What a user's test account begins with.
    ///
    /// # Errors
    /// A line that names the setting.
    pub fn test_credits(&self) -> anyhow::Result<Credits> {
        amount("payments.test_credits", &self.payments.test_credits)
    }

    /// The prices in force.
    ///
    /// # Errors
    /// A line that names the price that is wrong.
    pub fn price_list(&self) -> anyhow::Result<PriceList> {
        let defaults = DEFAULT_PRICES.iter().filter(|_| self.default_prices).map(
            |(method, path, class, base, per_token)| PriceSetting {
                method: Some((*method).to_owned()),
                path: (*path).to_owned(),
                class: *class,
                base: (*base).to_owned(),
                per_token: per_token.map(str::to_owned),
                default_max_tokens: default_max_tokens(),
                default_max_tokens_of: BTreeMap::new(),
            },
        );
        let rules = defaults.chain(self.prices.iter().cloned()).map(|price| {
            let name = format!("prices: {}", price.path);
            if !price.path.starts_with('/') {
                bail!("{name}: a path must begin with /");
            }
            // It is part of what usage is found by.
            if price.path.len() > 512 {
                bail!("{name}: a path must have at most 512 bytes");
            }
            let per_token = price.per_token.as_deref().map(str::parse::<TokenPrice>).transpose();
            Ok(PriceRule {
                method: price.method.as_deref().map(|method| method.to_ascii_uppercase().into()),
                path: price.path.as_str().into(),
                class: price.class.into(),
                base: amount(&format!("{name}: base"), &price.base)?,
                per_token: per_token.with_context(|| format!("{name}: per_token"))?,
                default_max_tokens: price.default_max_tokens,
                default_max_tokens_of: price.default_max_tokens_of,
            })
        });
        Ok(PriceList::new(rules.collect::<anyhow::Result<_>>()?))
    }
}

impl PaymentSettings {
    fn check(&self) -> anyhow::Result<()> {
        let url = |name: &str, text: &str| {
            let parsed = reqwest::Url::parse(text).ok();
            let is_http = parsed.is_some_and(|url| matches!(url.scheme(), "http" | "https"));
            if is_http { Ok(()) } else { bail!("payments.{name} is no URL of http: or https:") }
        };
        let StripeSettings { secret_key, webhook_secret, checkout_minutes, .. } = &self.stripe;
        if secret_key.is_some() != webhook_secret.is_some() {
            bail!(
                "payments.stripe.secret_key and payments.stripe.webhook_secret are set together or not at all"
            );
        }
        if secret_key.is_some() {
            url("stripe.url", &self.stripe.url)?;
            url("stripe.success_url", &self.stripe.success_url)?;
            url("stripe.cancel_url", &self.stripe.cancel_url)?;
            // Stripe takes half an hour at least, counted from when it is asked.
            if !(31..=1_440).contains(checkout_minutes) {
                bail!("payments.stripe.checkout_minutes must be from 31 to 1440");
            }
        }
        amount("payments.stripe.amount_min", &self.stripe.amount_min)?;
        amount("payments.x402.amount", &self.x402.amount)?;
        if let Some(facilitator) = &self.x402.facilitator_url {
            url("x402.facilitator_url", facilitator)?;
            if !self.x402.network.starts_with("eip155:") {
                bail!("payments.x402.network must be of EVM, such as eip155:8453");
            }
            if self.x402.pay_to.is_empty() {
                bail!("payments.x402.pay_to must be set where payments.x402.facilitator_url is");
            }
        }
        Ok(())
    }

    /// The smallest payment by Stripe.
    ///
    /// # Errors
    /// A line that names the setting.
    pub fn stripe_amount_min(&self) -> anyhow::Result<Credits> {
        amount("payments.stripe.amount_min", &self.stripe.amount_min)
    }

    /// What a call that the balance does not cover asks for, by x402.
    ///
    /// # Errors
    /// A line that names the setting.
    pub fn x402_amount(&self) -> anyhow::Result<Credits> {
        amount("payments.x402.amount", &self.x402.amount)
    }
}

/// A setting whose text is in a file, as containers are given secrets.
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

fn amount(name: &str, text: &str) -> anyhow::Result<Credits> {
    let amount: Credits = text.parse().map_err(|error| anyhow::anyhow!("{name} {error}"))?;
    if amount.is_negative() {
        bail!("{name} must not be negative");
    }
    Ok(amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_prices_are_the_published_ones() {
        let list = Settings::default().price_list().unwrap();
        for (method, path, base, per_token) in [
            ("POST", "/api/hub/agents/chat", "0.0020", Some("0.00001")),
            ("POST", "/api/omm/generate", "0.0030", Some("0.00002")),
            ("POST", "/api/yggdrasil/process", "0.0040", Some("0.00002")),
            ("POST", "/v1/chat/completions", "0.0020", Some("0.00001")),
            ("POST", "/api/hub/rag/index", "0.0005", None),
            ("GET", "/api/hub/health", "0", None),
        ] {
            let rule = list.find(method, path).unwrap();
            assert_eq!(rule.base, base.parse().unwrap(), "{path}");
            assert_eq!(rule.per_token, per_token.map(|price| price.parse().unwrap()), "{path}");
        }
        assert!(list.find("POST", "/api/hub/unknown").is_none());
    }

    #[test]
    fn only_a_loopback_server_gives_credits_away_unasked() {
        let mut settings = Settings::default();
        assert!(settings.sandbox_payments());
        for (bind, asked, on) in [
            ("0.0.0.0:8080", None, false),
            ("192.0.2.1:8080", None, false),
            ("[::]:8080", None, false),
            ("[::1]:8080", None, true),
            ("0.0.0.0:8080", Some(true), true),
            ("127.0.0.1:8080", Some(false), false),
        ] {
            settings.server.bind = bind.parse().unwrap();
            settings.payments.sandbox = asked;
            assert_eq!(settings.sandbox_payments(), on, "{bind} {asked:?}");
        }
    }

    #[test]
    fn secrets_are_never_printed() {
        let mut settings = Settings::default();
        settings.auth.jwt_secret = Some(Secret("hush".into()));
        let shown = format!("{settings:?}{}", serde_json::to_string(&settings).unwrap());
        assert!(!shown.contains("hush") && shown.contains("[redacted]"));
    }
}
