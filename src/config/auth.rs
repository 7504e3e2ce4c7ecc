//! `[auth]` and `[email]`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Secret, non_zero};

/// `[auth]`: passwords, sessions and API keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// Secret that signs session tokens; at least 32 characters. If it is unset, one is generated
    /// in the data directory.
    pub jwt_secret: Option<Secret>,
    /// The `jwt_secret` used before. Tokens that it signed stay valid until they expire.
    pub jwt_previous_secret: Option<Secret>,
    /// Secret with which API keys are hashed and stored secrets are encrypted; at least 32
    /// characters. If it changes, every API key is invalid. If it is unset, one is generated in the
    /// data directory.
    pub key_pepper: Option<Secret>,
    /// The `key_pepper` used before. API keys that were hashed with it stay valid, and what was
    /// encrypted with it can be read.
    pub key_previous_pepper: Option<Secret>,
    /// Lifetime of a session token, in seconds. The default is 24 hours.
    pub jwt_lifetime_seconds: NonZeroU32,
    /// How long a login session lasts if it is not renewed, in days.
    pub session_days: NonZeroU32,
    /// How long a login session lasts however often it is renewed, in days. Then its user logs in
    /// again.
    pub session_days_max: NonZeroU32,
    /// How long a login, a password or a code counts as a fresh proof of who somebody is, in
    /// minutes. Some requests need a fresh one, such as a change of the email address.
    pub confirmation_minutes: NonZeroU32,
    /// Largest number of login sessions of one user. A further login ends the oldest one.
    pub sessions_per_user_max: u64,
    /// Shortest password, in characters.
    pub password_length_min: usize,
    /// Largest number of passwords that are hashed at the same time, on low-priority threads. Each
    /// takes 19 MiB of memory. 0 means one for every two cores, which leaves processor time for
    /// paid calls.
    pub password_hashes_max: usize,
    /// Largest number of passwords that wait to be hashed. Further logins are refused with 503.
    /// Half of the places are for users who are known where they are, and one address of anybody
    /// else has an eighth of all.
    pub password_queue_max: usize,
    /// Largest number of API keys of one account. A further one is refused with 409.
    pub keys_per_account_max: usize,
    /// Largest number of API keys kept in memory. Others are read from the database when they are
    /// used.
    pub key_cache_max: u64,
    /// How many days before an API key expires its owner is warned.
    pub key_expiry_warning_days: u32,
    /// Who may register: `open` is everybody, `closed` nobody. `polysystems user create` works in
    /// both.
    pub registration: RegistrationPolicy,
    /// If true, users must verify their email address before they pay, create an API key, add a
    /// webhook or set up two-factor authentication.
    pub require_verified_email: bool,
    /// If true, operators must set up two-factor authentication before they can use what is for
    /// operators alone. Until then it is answered with 403.
    pub operators_need_second_factor: bool,
    /// Lifetime of a token that verifies an email address, also a new one, in hours.
    pub verification_hours: NonZeroU32,
    /// Lifetime of a token that resets a password, in minutes.
    pub password_reset_minutes: NonZeroU32,
    /// Largest number of logins, registrations and similar attempts from one address, per minute. A
    /// sixth of them may come at once, but at least 10. IPv6 addresses count by /64, and by the /56
    /// and the /48 that these are of, which may have four and eight times as many.
    pub attempts_per_address: NonZeroU32,
    /// Largest number of attempts to log in to one account from one address, per minute.
    pub attempts_per_account: NonZeroU32,
    /// Largest number of attempts to log in to one account, per hour, from all addresses together
    /// that have no session of the account. A tenth of them may come at once.
    pub attempts_per_account_from_strangers: NonZeroU32,
}

impl Default for AuthSettings {
    fn default() -> Self {
        AuthSettings {
            jwt_secret: None,
            jwt_previous_secret: None,
            key_pepper: None,
            key_previous_pepper: None,
            jwt_lifetime_seconds: non_zero::u32(86_400),
            session_days: non_zero::u32(30),
            session_days_max: non_zero::u32(90),
            confirmation_minutes: non_zero::u32(10),
            sessions_per_user_max: 100,
            password_length_min: 12,
            password_hashes_max: 0,
            password_queue_max: 64,
            keys_per_account_max: 1_000,
            key_cache_max: 1_000_000,
            key_expiry_warning_days: 7,
            registration: RegistrationPolicy::Open,
            require_verified_email: false,
            operators_need_second_factor: true,
            verification_hours: non_zero::u32(48),
            password_reset_minutes: non_zero::u32(60),
            attempts_per_address: non_zero::u32(60),
            attempts_per_account: non_zero::u32(10),
            attempts_per_account_from_strangers: non_zero::u32(100),
        }
    }
}

/// Who may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistrationPolicy {
    /// Everybody.
    Open,
    /// Nobody: operators make users by the command line.
    Closed,
}

/// `[email]`: messages to users.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmailSettings {
    /// How messages are sent: `smtp` (to a mail server), or for development `folder` (one file
    /// each) or `log`. If it is unset, `smtp` if `smtp_url` is set, and otherwise `folder`.
    pub transport: Option<EmailTransport>,
    /// The mail server: `smtps://user:password@host` (TLS), or `smtp://...?tls=required`
    /// (STARTTLS). Without TLS it must be on this machine, such as `smtp://127.0.0.1`.
    pub smtp_url: Option<Secret>,
    /// Sender of the messages.
    pub from: String,
    /// Folder for the transport `folder`, which writes one `.eml` file for each message. If it is
    /// unset, `mail` in the data directory.
    pub folder: Option<PathBuf>,
    /// Your page that verifies an email address. `{token}` in it is replaced by the token of the
    /// message. If it is unset, the page is the console's if `server.public_url` is set; otherwise
    /// the message explains the API call.
    pub verify_url: Option<String>,
    /// Your page that confirms a change of address; its user must be logged in. `{token}` in it is
    /// replaced by the token of the message. If it is unset, as `verify_url`.
    pub change_url: Option<String>,
    /// Your page that resets a password. `{token}` in it is replaced by the token of the message.
    /// If it is unset, as `verify_url`.
    pub reset_url: Option<String>,
}

/// How messages to users are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmailTransport {
    /// To a mail server.
    Smtp,
    /// Into a folder, for development.
    Folder,
    /// Into the log, tokens included, for development.
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
            change_url: None,
            reset_url: None,
        }
    }
}

impl EmailSettings {
    /// The transport of the settings. If it is not set, it follows from `smtp_url`.
    #[must_use]
    pub fn transport(&self) -> EmailTransport {
        let has_server = self.smtp_url.is_some();
        let default = if has_server { EmailTransport::Smtp } else { EmailTransport::Folder };
        self.transport.unwrap_or(default)
    }
}
