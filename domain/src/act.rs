//! Acts: what a person did that matters to security or to money, as the audit log has it.
//!
//! An act is written in the same transaction as its effect, if the effect is a write: neither is on
//! record without the other.

use uuid::Uuid;

use super::coded::coded_enum;
use super::ids::UserId;
use super::window::Timestamp;

/// The longest detail that is kept, in characters.
pub const DETAIL_MAX: usize = 2_000;

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The user, or a holder of the user's secret.
    User(UserId),
    /// An operator.
    Operator(UserId),
    /// A person at the server's command line.
    CommandLine,
    /// The server, by itself.
    Server,
}

impl Actor {
    /// The number that stands for the kind of actor in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Actor::User(_) => 1,
            Actor::Operator(_) => 2,
            Actor::CommandLine => 3,
            Actor::Server => 4,
        }
    }

    /// The word for the kind of actor in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Actor::User(_) => "user",
            Actor::Operator(_) => "operator",
            Actor::CommandLine => "command_line",
            Actor::Server => "server",
        }
    }

    /// The person, if it is one.
    #[must_use]
    pub const fn person(self) -> Option<UserId> {
        match self {
            Actor::User(user) | Actor::Operator(user) => Some(user),
            Actor::CommandLine | Actor::Server => None,
        }
    }

    /// What a number of the database stands for.
    #[must_use]
    pub const fn from_code(code: i16, person: Option<UserId>) -> Option<Self> {
        match (code, person) {
            (1, Some(user)) => Some(Actor::User(user)),
            (2, Some(user)) => Some(Actor::Operator(user)),
            (3, None) => Some(Actor::CommandLine),
            (4, None) => Some(Actor::Server),
            _ => None,
        }
    }
}

/// Who does something, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Who.
    pub actor: Actor,
    /// From which address; empty if there is none.
    pub address: String,
    /// What the client calls itself.
    pub agent: String,
}

impl Origin {
    /// From no address.
    #[must_use]
    pub fn local(actor: Actor) -> Self {
        Origin { actor, address: String::new(), agent: String::new() }
    }

    /// An act of this origin at `at`. `id` is made once for each act.
    #[must_use]
    pub fn act(self, id: Uuid, user: UserId, kind: ActKind, at: Timestamp) -> Act {
        Act { id, at, user, origin: self, kind, subject: String::new(), detail: String::new() }
    }
}

coded_enum! {
    /// What was done.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ActKind {
        /// Registered.
        UserRegistered => "user.registered",
        /// Logged in.
        LoggedIn => "session.begun",
        /// Gave a wrong password or a wrong code.
        LoginFailed => "login.failed",
        /// Ended one session.
        SessionEnded => "session.ended",
        /// Ended every session.
        SessionsEnded => "sessions.ended",
        /// A refresh token came twice, which ended its session.
        RefreshTokenReused => "session.refresh_token_reused",
        /// Changed the password.
        PasswordChanged => "password.changed",
        /// Asked for another password by email.
        PasswordResetAsked => "password.reset_asked",
        /// Set another password by a token that came by email.
        PasswordReset => "password.reset",
        /// Proved an email address.
        EmailVerified => "email.verified",
        /// Switched two-factor authentication on.
        TwoFactorEnabled => "two_factor.enabled",
        /// Switched two-factor authentication off.
        TwoFactorDisabled => "two_factor.disabled",
        /// Logged in by a recovery code, which is used up.
        RecoveryCodeUsed => "two_factor.recovery_code_used",
        /// Made new recovery codes in place of all before.
        RecoveryCodesMade => "two_factor.recovery_codes_made",
        /// Made an API key.
        KeyCreated => "key.created",
        /// Changed what an API key is called or may do.
        KeyChanged => "key.changed",
        /// Set the spending limits of an API key.
        KeyLimitsSet => "key.limits_set",
        /// Gave an API key another value.
        KeyRotated => "key.rotated",
        /// Put an API key out of use.
        KeyRevoked => "key.revoked",
        /// Put an API key out of use and out of the list.
        KeyDeleted => "key.deleted",
        /// Told the owner that an API key ends soon.
        KeyExpiryTold => "key.expiry_told",
        /// Paid.
        PaymentConfirmed => "payment.confirmed",
        /// Began a payment.
        PaymentBegun => "payment.begun",
        /// A provider took a payment back, or a part of it, or gave it again.
        PaymentReversed => "payment.reversed",
        /// Let go of a saved payment method.
        PaymentMethodRemoved => "payment_method.removed",
        /// Set after which rule the account tops itself up.
        AutoTopUpSet => "auto_top_up.set",
        /// Made a webhook endpoint.
        WebhookAdded => "webhook.added",
        /// Changed a webhook endpoint.
        WebhookChanged => "webhook.changed",
        /// Gave a webhook endpoint another secret.
        WebhookSecretRotated => "webhook.secret_rotated",
        /// Deleted a webhook endpoint.
        WebhookDeleted => "webhook.deleted",
        /// Set below which balance the account counts as low.
        BalanceLowSet => "balance_low.set",
        /// Brought the test account back to what it began with.
        TestCreditsReset => "test_credits.reset",
        /// Gave credits without a payment.
        CreditsGranted => "credits.granted",
        /// Took credits.
        CreditsTaken => "credits.taken",
        /// Suspended the accounts.
        AccountsSuspended => "accounts.suspended",
        /// Opened the accounts again.
        AccountsResumed => "accounts.resumed",
        /// Set the rate limit tier.
        TierSet => "tier.set",
        /// Made somebody an operator, or made them one no longer.
        RoleSet => "role.set",
    }
}

/// One entry of the audit log. Never changed, never deleted. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Made once; later ones are greater, as far as clocks agree.
    pub id: Uuid,
    /// When.
    pub at: Timestamp,
    /// Whose accounts it concerns, who may read it.
    pub user: UserId,
    /// Who did it, from where.
    pub origin: Origin,
    /// What was done.
    pub kind: ActKind,
    /// To what: the id of a key, of a session, of a payment; empty if it is the user.
    pub subject: String,
    /// Its result or its reason; empty if the kind says it all.
    pub detail: String,
}

impl Act {
    /// With this subject.
    #[must_use]
    pub fn to(self, subject: impl Into<String>) -> Self {
        Act { subject: subject.into(), ..self }
    }

    /// With this result or reason, cut at [`DETAIL_MAX`] characters.
    #[must_use]
    pub fn with(self, detail: impl Into<String>) -> Self {
        let mut detail: String = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(DETAIL_MAX) {
            detail.truncate(end);
        }
        Act { detail, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actors_read_back_from_their_codes() {
        let user = UserId(Uuid::from_u128(1));
        for actor in [Actor::User(user), Actor::Operator(user), Actor::CommandLine, Actor::Server] {
            assert_eq!(Actor::from_code(actor.code(), actor.person()), Some(actor));
        }
    }
}
