//! Acts: what a person did that matters to security or to money. Each act is an entry of the audit
//! log.
//!
//! If an act changes the database, it is written in the same transaction as the change. So neither
//! is on record without the other.

use uuid::Uuid;

use super::coded::coded_enum;
use super::ids::UserId;
use super::window::Timestamp;

/// Longest detail that is stored, in characters.
pub const DETAIL_MAX: usize = 2_000;

/// Who did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A user, proved by the user's password, token or key.
    User(UserId),
    /// An operator.
    Operator(UserId),
    /// A person at the command line of the server.
    CommandLine,
    /// The server itself.
    Server,
}

impl Actor {
    /// The number of the kind of actor in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Actor::User(_) => 1,
            Actor::Operator(_) => 2,
            Actor::CommandLine => 3,
            Actor::Server => 4,
        }
    }

    /// The name of the kind of actor in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Actor::User(_) => "user",
            Actor::Operator(_) => "operator",
            Actor::CommandLine => "command_line",
            Actor::Server => "server",
        }
    }

    /// The user or operator; `None` for the others.
    #[must_use]
    pub const fn person(self) -> Option<UserId> {
        match self {
            Actor::User(user) | Actor::Operator(user) => Some(user),
            Actor::CommandLine | Actor::Server => None,
        }
    }

    /// The actor with this number and person; `None` if they do not fit.
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
    /// Who does it.
    pub actor: Actor,
    /// The client's address; empty if there is none.
    pub address: String,
    /// The client's `User-Agent`.
    pub agent: String,
}

impl Origin {
    /// An origin without an address.
    #[must_use]
    pub fn local(actor: Actor) -> Self {
        Origin { actor, address: String::new(), agent: String::new() }
    }

    /// An act of this origin at `at`. `id` must be new for each act.
    #[must_use]
    pub fn act(self, id: Uuid, user: UserId, kind: ActKind, at: Timestamp) -> Act {
        Act { id, at, user, origin: self, kind, subject: String::new(), detail: String::new() }
    }
}

coded_enum! {
    /// The kind of an act.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ActKind {
        /// Registered.
        UserRegistered => "user.registered",
        /// Logged in.
        LoggedIn => "session.begun",
        /// Entered a wrong password or a wrong code.
        LoginFailed => "login.failed",
        /// Proved again who they are, by the password or a code.
        SessionConfirmed => "session.confirmed",
        /// Ended one session.
        SessionEnded => "session.ended",
        /// Ended every session.
        SessionsEnded => "sessions.ended",
        /// A refresh token was used a second time. This ended its session.
        RefreshTokenReused => "session.refresh_token_reused",
        /// Changed the password.
        PasswordChanged => "password.changed",
        /// Asked for an email that resets the password.
        PasswordResetAsked => "password.reset_asked",
        /// Reset the password with a token that came by email.
        PasswordReset => "password.reset",
        /// Confirmed an email address.
        EmailVerified => "email.verified",
        /// Asked to change the email address.
        EmailChangeAsked => "email.change_asked",
        /// Changed the email address.
        EmailChanged => "email.changed",
        /// Switched two-factor authentication on.
        TwoFactorEnabled => "two_factor.enabled",
        /// Switched two-factor authentication off.
        TwoFactorDisabled => "two_factor.disabled",
        /// Logged in with a recovery code, which cannot be used again.
        RecoveryCodeUsed => "two_factor.recovery_code_used",
        /// Created new recovery codes; the earlier ones are deleted.
        RecoveryCodesMade => "two_factor.recovery_codes_made",
        /// Made a token with which an operator may set two-factor authentication up.
        EnrolmentTokenMade => "two_factor.enrolment_token_made",
        /// Created an API key.
        KeyCreated => "key.created",
        /// Changed an API key's name or policy.
        KeyChanged => "key.changed",
        /// Set the spending limits of an API key.
        KeyLimitsSet => "key.limits_set",
        /// Rotated an API key: gave it a new value.
        KeyRotated => "key.rotated",
        /// Revoked an API key.
        KeyRevoked => "key.revoked",
        /// Deleted an API key: revoked it, and removed it from the list.
        KeyDeleted => "key.deleted",
        /// Notified the owner that an API key expires soon.
        KeyExpiryTold => "key.expiry_told",
        /// A payment was confirmed.
        PaymentConfirmed => "payment.confirmed",
        /// Began a payment.
        PaymentBegun => "payment.begun",
        /// A provider took back a payment, or a part of it, or returned it.
        PaymentReversed => "payment.reversed",
        /// Had the provider asked about a payment.
        PaymentRechecked => "payment.rechecked",
        /// Removed a saved payment method.
        PaymentMethodRemoved => "payment_method.removed",
        /// Set the rule for automatic top-ups.
        AutoTopUpSet => "auto_top_up.set",
        /// Created a webhook endpoint.
        WebhookAdded => "webhook.added",
        /// Changed a webhook endpoint.
        WebhookChanged => "webhook.changed",
        /// Gave a webhook endpoint a new secret.
        WebhookSecretRotated => "webhook.secret_rotated",
        /// Deleted a webhook endpoint.
        WebhookDeleted => "webhook.deleted",
        /// Set the balance below which the account counts as low.
        BalanceLowSet => "balance_low.set",
        /// Reset the test account to its initial balance.
        TestCreditsReset => "test_credits.reset",
        /// Gave credits without a payment.
        CreditsGranted => "credits.granted",
        /// Took credits.
        CreditsTaken => "credits.taken",
        /// Suspended the accounts.
        AccountsSuspended => "accounts.suspended",
        /// Resumed the accounts.
        AccountsResumed => "accounts.resumed",
        /// Set the rate limit tier.
        TierSet => "tier.set",
        /// Set the price list that a user pays by.
        PriceListSet => "price_list.set",
        /// Made a price list.
        PriceListCreated => "price_list.created",
        /// Deleted a price list.
        PriceListDeleted => "price_list.deleted",
        /// Wrote a draft of prices.
        PricesDrafted => "prices.drafted",
        /// Deleted a draft of prices.
        PriceDraftDeleted => "prices.draft_deleted",
        /// Published prices.
        PricesPublished => "prices.published",
        /// Withdrew prices that were published and not in force yet.
        PricesWithdrawn => "prices.withdrawn",
        /// Gave or took credits to correct a charge.
        ChargeCorrected => "charge.corrected",
        /// Read what the server knows of the user.
        UserRead => "user.read",
        /// Erased themselves.
        UserErased => "user.erased",
        /// Took a copy of everything that the server has of the user.
        DataExported => "data.exported",
        /// Gave a user the operator role, or took it away.
        RoleSet => "role.set",
        /// Changed the catalogue of models.
        CatalogueChanged => "catalogue.changed",
        /// Set the secret of a provider's credential.
        CredentialSet => "credential.set",
        /// Gave a provider's credential a new secret.
        CredentialRotated => "credential.rotated",
        /// Let a provider's credential be used again.
        CredentialEnabled => "credential.enabled",
        /// Stopped the use of a provider's credential.
        CredentialDisabled => "credential.disabled",
        /// Deleted a provider's credential.
        CredentialDeleted => "credential.deleted",
        /// Had a deployment asked again that was off or busy.
        DeploymentReset => "deployment.reset",
        /// Made a test call at a deployment.
        DeploymentTested => "deployment.tested",
        /// Had every ledger verified.
        VerificationStarted => "verification.started",
        /// Let an account be used again that was blocked, after its records agreed.
        QuarantineEnded => "quarantine.ended",
    }
}

/// One entry of the audit log. It never changes and is never deleted. It contains no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Made once. A later act has a greater id, as far as clocks agree.
    pub id: Uuid,
    /// When it was done.
    pub at: Timestamp,
    /// The user whose accounts it concerns. The user may read it.
    pub user: UserId,
    /// Who did it, and from where.
    pub origin: Origin,
    /// What was done.
    pub kind: ActKind,
    /// What it was done to: the id of a key, session, payment and so on. Empty if it concerns the
    /// user.
    pub subject: String,
    /// Its result or reason; empty if the kind says everything.
    pub detail: String,
}

impl Act {
    /// The act with this subject.
    #[must_use]
    pub fn to(self, subject: impl Into<String>) -> Self {
        Act { subject: subject.into(), ..self }
    }

    /// The act with this result or reason, cut at [`DETAIL_MAX`] characters.
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
