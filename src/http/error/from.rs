//! The errors of other modules as answers. A cause that the client must not see goes to the log
//! here, once.

use super::ApiError;
use crate::access::AccessError;
use crate::admin::AdminError;
use crate::auth::password::{LENGTH_MAX, PasswordError};
use crate::auth::throttle::TooManyAttempts;
use crate::auth::users::UsersError;
use crate::erasure::ErasureError;
use crate::keys::KeysError;
use crate::payments::PaymentsError;
use crate::reports::ReportsError;
use crate::store::StoreError;
use crate::webhooks::WebhooksError;
use domain::{NotErasable, Refusal};

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the database failed a request");
        match error {
            StoreError::OutcomeUnknown(_) => ApiError::OutcomeUnknown,
            StoreError::Quarantined { .. } => Refusal::Quarantined.into(),
            _ => ApiError::Unavailable,
        }
    }
}

impl From<PasswordError> for ApiError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => ApiError::Unavailable,
            PasswordError::Broken => {
                tracing::error!(%error, "passwords");
                ApiError::Internal
            }
        }
    }
}

impl From<UsersError> for ApiError {
    fn from(error: UsersError) -> Self {
        match error {
            UsersError::EmailTaken => {
                ApiError::Conflict("A user with this email already exists".into())
            }
            UsersError::SameEmail => ApiError::field("email", "is your address already"),
            UsersError::UsernameTaken => ApiError::Conflict("This username is taken".into()),
            UsersError::PasswordLength { field, min } => ApiError::field(
                field,
                format!("must have between {min} and {LENGTH_MAX} characters"),
            ),
            UsersError::CommonPassword { field } => {
                ApiError::field(field, "is too common; choose another password")
            }
            UsersError::GuessablePassword { field } => ApiError::field(
                field,
                "is too easy to guess; use three or four words that do not go together",
            ),
            UsersError::TooManyAttempts(TooManyAttempts { retry_after }) => {
                Refusal::RateLimited { retry_after }.into()
            }
            UsersError::InvalidEmailToken => ApiError::InvalidEmailToken,
            UsersError::Unconfirmed => ApiError::NotConfirmed,
            UsersError::Unverified => ApiError::EmailNotVerified,
            UsersError::OperatorWithoutSecondFactor => ApiError::SecondFactorRequired,
            UsersError::InvalidChallenge => ApiError::InvalidChallenge,
            UsersError::WrongCode => ApiError::WrongCode,
            UsersError::CodeMissing => {
                ApiError::field("code", "is needed, since two-factor authentication is on")
            }
            UsersError::HasSecondFactor => {
                ApiError::Conflict("Two-factor authentication is already on".into())
            }
            UsersError::NoSecondFactor => {
                ApiError::Conflict("Two-factor authentication is not set up".into())
            }
            UsersError::WrongCredentials => ApiError::WrongCredentials,
            UsersError::InvalidSession => ApiError::InvalidSession,
            UsersError::ExpiredSession => ApiError::ExpiredSession,
            UsersError::InvalidRefresh => ApiError::InvalidRefresh,
            UsersError::NoSession => ApiError::NotFound("session"),
            UsersError::Password(error) => error.into(),
            UsersError::Store(error) => error.into(),
            UsersError::Account(error) => error.into(),
            UsersError::Unsigned | UsersError::Unsealed => {
                tracing::error!(%error, "sessions");
                ApiError::Internal
            }
        }
    }
}

impl From<KeysError> for ApiError {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::NotFound => ApiError::NotFound("API key"),
            KeysError::NotActive => {
                ApiError::Conflict("This API key has been revoked. Create a new one.".into())
            }
            KeysError::Changed => ApiError::Conflict(
                "This API key was changed at the same time. Reload the key and try again.".into(),
            ),
            KeysError::TooMany(_) => ApiError::Conflict(
                "This account has reached its limit of API keys. Delete one first.".into(),
            ),
            KeysError::Repeat(error) => Refusal::from(error).into(),
            KeysError::Account(error) => error.into(),
        }
    }
}

impl From<AccessError> for ApiError {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Suspended => ApiError::AccessDenied,
            AccessError::SessionEnded => ApiError::InvalidSession,
            AccessError::Busy => Refusal::TooManyInFlight.into(),
            AccessError::Quarantined => Refusal::Quarantined.into(),
            AccessError::NotWritten => ApiError::Unavailable,
            AccessError::Unknown => Refusal::OutcomeUnknown("the account's owner died").into(),
            AccessError::Store(error) => error.into(),
        }
    }
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::NoUser => ApiError::NotFound("user"),
            AdminError::NoTier { known } => {
                ApiError::field("tier", format!("must be null or one of: {known}"))
            }
            AdminError::Amount { available: Some(available) } => ApiError::Conflict(
                format!("The account has ${available} available; no more can be taken.").into(),
            ),
            AdminError::Amount { available: None } => ApiError::Conflict(
                "The balance would come so near to the most that an account can hold that payments might not fit."
                    .into(),
            ),
            AdminError::GrantTooLarge { max } => {
                ApiError::field("amount", format!("must be at most {max}, the largest grant"))
            }
            AdminError::DaysGrants { max, granted } => ApiError::Conflict(
                format!(
                    "You have granted ${granted} today, and at most ${max} may be granted in a day. Please grant \
                     less, or wait for the next day (UTC)."
                )
                .into(),
            ),
            AdminError::Erased => ApiError::Conflict("The user has erased the account.".into()),
            AdminError::AccountClosed => {
                ApiError::Conflict("The account is suspended; resume it first.".into())
            }
            AdminError::Repeat(error) => Refusal::from(error).into(),
            AdminError::Store(error) => error.into(),
            AdminError::Account(error) => error.into(),
        }
    }
}

impl From<ErasureError> for ApiError {
    fn from(error: ErasureError) -> Self {
        let conflict = |text: &'static str| ApiError::Conflict(text.into());
        match error {
            ErasureError::Operator => conflict(
                "Operators cannot erase their account. Please have somebody make you an ordinary user first.",
            ),
            ErasureError::PaymentOpen => conflict(
                "A payment is on its way. Please wait until GET /api/payments/payments shows none that is created or \
                 confirming.",
            ),
            ErasureError::Changed => {
                conflict("The account was changed at the same time. Please try again in a minute.")
            }
            ErasureError::NotErasable(NotErasable::Suspended) => {
                conflict("The account is suspended. Please write to the operator of this server.")
            }
            ErasureError::NotErasable(NotErasable::Busy) => conflict(
                "Calls of the account are running, or credits are on their way. Please try again when they have ended.",
            ),
            ErasureError::NotErasable(NotErasable::Balance(balance)) => ApiError::Conflict(
                format!(
                    "The account has ${balance}. Please spend it first, or give it up: send \"give_up_balance\": true."
                )
                .into(),
            ),
            ErasureError::Users(error) => error.into(),
            ErasureError::Store(error) => error.into(),
            ErasureError::Account(error) => error.into(),
        }
    }
}

impl From<WebhooksError> for ApiError {
    fn from(error: WebhooksError) -> Self {
        match error {
            WebhooksError::NotFound => ApiError::NotFound("webhook"),
            WebhooksError::NoDelivery => ApiError::NotFound("delivery"),
            WebhooksError::TooMany => ApiError::Conflict(
                "This account has reached its limit of webhooks. Delete one first.".into(),
            ),
            WebhooksError::Url(why) => ApiError::field(
                "url",
                format!("must be an https URL on the public internet: {why}"),
            ),
            WebhooksError::NoEvent(name) => ApiError::field(
                "events",
                format!(
                    "{name:?} matches no event; payment.confirmed and payment.* are examples of what does"
                ),
            ),
            WebhooksError::Unsealed => {
                tracing::error!(%error, "webhooks");
                ApiError::Internal
            }
            WebhooksError::Store(error) => error.into(),
            WebhooksError::Account(error) => error.into(),
        }
    }
}

impl From<PaymentsError> for ApiError {
    fn from(error: PaymentsError) -> Self {
        match error {
            PaymentsError::ProviderOff { provider } => ApiError::ProviderOff { provider },
            PaymentsError::AmountOfProvider { provider, min } => ApiError::field(
                "amount",
                format!("must be at least {min}, and in whole cents, for {provider}"),
            ),
            PaymentsError::Refused(why) => ApiError::PaymentRefused(why),
            PaymentsError::Unreachable(why) => {
                tracing::error!(why, "a payment provider does not answer");
                ApiError::ProviderUnreachable
            }
            PaymentsError::NotPayable(why) => ApiError::NotPayable(why),
            PaymentsError::NoMethod => ApiError::NotFound("payment method"),
            PaymentsError::Amount { max } => {
                ApiError::field("amount", format!("must be more than 0 and at most {max}"))
            }
            PaymentsError::AccountClosed => ApiError::AccessDenied,
            PaymentsError::NotFound => ApiError::NotFound("payment"),
            PaymentsError::Repeat(error) => Refusal::from(error).into(),
            PaymentsError::Account(error) => error.into(),
        }
    }
}

impl From<ReportsError> for ApiError {
    fn from(error: ReportsError) -> Self {
        match error {
            ReportsError::NoPayment => ApiError::NotFound("payment"),
            ReportsError::NotConfirmed => {
                ApiError::Conflict("The payment is not confirmed, so there is no receipt.".into())
            }
            ReportsError::Account(error) => error.into(),
        }
    }
}
