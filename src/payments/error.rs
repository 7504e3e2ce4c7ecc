//! Why payments fail.

use super::provider::ProviderError;
use crate::access::AccessError;
use crate::idempotency::IdempotencyError;
use domain::Credits;

/// Why a payment was not made, or not found.
#[derive(Debug, thiserror::Error)]
pub enum PaymentsError {
    /// The provider is switched off, or there is none of this name.
    #[error("the payment provider {provider} is off")]
    ProviderOff {
        /// Its name.
        provider: &'static str,
    },
    /// Payments move money of a test, and models of real providers are sold.
    #[error("payments move money of a test, because {setting}")]
    TestMoney {
        /// The setting, and what it is.
        setting: &'static str,
    },
    /// The amount is outside the provider's bounds, or not in whole cents.
    #[error("the amount is not one that {provider} takes")]
    AmountOfProvider {
        /// Its name.
        provider: &'static str,
        /// The smallest payment by it.
        min: Credits,
    },
    /// The provider said no.
    #[error("the payment provider refused: {0}")]
    Refused(String),
    /// The provider did not answer. The payment is recorded and will be retried.
    #[error("the payment provider did not answer: {0}")]
    Unreachable(String),
    /// The header is not a valid payment; says why.
    #[error("not a payment: {0}")]
    NotPayable(String),
    /// The user has no such saved payment method.
    #[error("no such payment method")]
    NoMethod,
    /// Not between nothing and the largest payment.
    #[error("the amount is not between 0 and {max}")]
    Amount {
        /// The largest payment.
        max: Credits,
    },
    /// The account is suspended.
    #[error("the account is suspended")]
    AccountClosed,
    /// The user has no such payment.
    #[error("no such payment")]
    NotFound,
    /// There is no such user.
    #[error("no such user")]
    NoUser,
    /// There is no provider that can be asked about the payment.
    #[error("{provider} cannot be asked about a payment")]
    NotAsked {
        /// The provider of the payment.
        provider: String,
        /// Is it switched off? Otherwise there is nothing to ask.
        is_off: bool,
    },
    /// See [`IdempotencyError`].
    #[error(transparent)]
    Repeat(IdempotencyError),
    /// The account cannot be reached; see [`AccessError`].
    #[error(transparent)]
    Account(AccessError),
}

impl<E: Into<AccessError>> From<E> for PaymentsError {
    fn from(error: E) -> Self {
        PaymentsError::Account(error.into())
    }
}

impl From<ProviderError> for PaymentsError {
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::Refused(why) => PaymentsError::Refused(why),
            ProviderError::Unreachable(why) => PaymentsError::Unreachable(why),
        }
    }
}
