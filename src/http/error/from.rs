//! The errors of other modules as answers. A cause that the client must not see goes to the log
//! here, once.

use super::{ApiError, FieldError};
use crate::access::AccessError;
use crate::admin::AdminError;
use crate::auth::password::{LENGTH_MAX, PasswordError};
use crate::auth::throttle::TooManyAttempts;
use crate::auth::users::UsersError;
use crate::bills::BillsError;
use crate::catalogue::CatalogueError;
use crate::deployments::DeploymentsError;
use crate::erasure::ErasureError;
use crate::imports::ImportsError;
use crate::keys::KeysError;
use crate::live::WatchError;
use crate::payments::PaymentsError;
use crate::price_lists::{PriceListRefusal, PriceListsError, SoldBelowCost};
use crate::reports::ReportsError;
use crate::store::StoreError;
use crate::verify::quarantine::ReleaseError;
use crate::verify::runs::StartError;
use crate::webhooks::WebhooksError;
use domain::card_document::{CardFault, price_text};
use domain::catalogue::CatalogueFault;
use domain::price_book::{BookError, PublicationError};
use domain::{NotErasable, Refusal, UnitPrice};

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Busy) {
            return ApiError::Overloaded;
        }
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
            UsersError::RegistrationClosed => ApiError::RegistrationClosed,
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
            UsersError::NoEnrolmentToken => ApiError::EnrolmentTokenRequired,
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
            AdminError::NoCharge => ApiError::NotFound("charge"),
            AdminError::CorrectedOtherwise { before } => ApiError::Conflict(
                format!(
                    "The charge was corrected for this reason by {before}. Please give another reason to correct it \
                     once more."
                )
                .into(),
            ),
            AdminError::AboveCharge { left } => ApiError::field(
                "amount",
                format!("must be at most {left}, which is what the charge has taken"),
            ),
            AdminError::LastOperator => ApiError::Conflict(
                "Nobody else is an operator who can act. Make another user an operator first.".into(),
            ),
            AdminError::OfOperator => ApiError::Conflict(
                "The user is an operator, whose second factor only the command line switches off: \
                 `polysystems user disable2fa`."
                    .into(),
            ),
            AdminError::Verified => ApiError::Conflict("The address is proved already.".into()),
            AdminError::NotVerified => ApiError::Conflict(
                "An operator must have proved the address. Ask the user to prove it, or mark it as proved.".into(),
            ),
            AdminError::Users(error) => error.into(),
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

impl From<BillsError> for ApiError {
    fn from(error: BillsError) -> Self {
        match error {
            BillsError::NoCharge => ApiError::NotFound("charge"),
            BillsError::NoVersion => ApiError::NotFound("price version"),
            BillsError::NoBill => ApiError::Conflict(
                "The charge was made before charges had bills, so there is none to show.".into(),
            ),
            BillsError::NotComputable { .. } => {
                tracing::error!(alert = "bill", %error, "a bill cannot be computed");
                ApiError::Internal
            }
            BillsError::Access(error) => error.into(),
            BillsError::Store(error) => error.into(),
        }
    }
}

/// The faults of cards as those of fields.
fn faults(faults: Vec<CardFault>) -> ApiError {
    let detail = |CardFault { path, problem }| FieldError { field: path, message: problem };
    ApiError::Validation(faults.into_iter().map(detail).collect())
}

impl From<PriceListsError> for ApiError {
    fn from(error: PriceListsError) -> Self {
        match error {
            PriceListsError::NoList(None) => ApiError::NotFound("price list"),
            PriceListsError::NoList(Some(field)) => {
                ApiError::field(field, "must be the name of a price list; there is none of this name")
            }
            PriceListsError::Name => ApiError::field(
                "name",
                "must be 1 to 64 of a-z, 0-9, . _ and -, and begin with a letter or a digit",
            ),
            PriceListsError::OfSettings => ApiError::Conflict(
                "The list routes has the prices of routes. They are set by [[prices]] in the settings.".into(),
            ),
            PriceListsError::NoVersion => ApiError::NotFound("price version"),
            PriceListsError::NoCard => ApiError::NotFound("price of this model"),
            PriceListsError::NotPriced => ApiError::field(
                "usage",
                "has a dimension or a service tier that is not sold, or comes to more than an amount can be",
            ),
            PriceListsError::Cards(list) => faults(list),
            PriceListsError::Refused(refusal) => refusal.into(),
            PriceListsError::Access(error) => error.into(),
            PriceListsError::Store(error) => error.into(),
        }
    }
}

/// How many prices below their cost an error names.
const BELOW_COST_TOLD: usize = 3;

/// What would be sold at a loss, and what to do about it.
fn below_cost(below: &[SoldBelowCost]) -> String {
    let one = |SoldBelowCost { list, price: one }: &SoldBelowCost| {
        let (model, dim, deployment) = (&one.model, one.dim.name(), &one.deployment);
        let (price, cost) = (price_text(one.price), price_text(one.cost));
        format!("{model}, {dim}: {price} in {list}, but {cost} at {deployment}")
    };
    let told: Vec<String> = below.iter().take(BELOW_COST_TOLD).map(one).collect();
    let more = match below.len().saturating_sub(told.len()) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!(
        "Models would be sold below their cost ({}{more}). Raise the prices, or name the models in allow_loss \
         (--allow-loss) if this is meant.",
        told.join("; ")
    )
}

impl From<PriceListRefusal> for ApiError {
    fn from(refusal: PriceListRefusal) -> Self {
        match refusal {
            PriceListRefusal::NoList => ApiError::NotFound("price list"),
            PriceListRefusal::NameTaken => ApiError::Conflict(
                "Another price list has this name. Please choose another.".into(),
            ),
            PriceListRefusal::Used(uses) => ApiError::Conflict(
                format!("The price list cannot be deleted, because there are {uses}.").into(),
            ),
            PriceListRefusal::NoDraft => ApiError::NotFound("draft of prices"),
            PriceListRefusal::TooEarly { earliest } => ApiError::field(
                "effective_from",
                format!(
                    "must be {} or later, so that every process has the prices before they are in force",
                    earliest.to_rfc3339_micros()
                ),
            ),
            PriceListRefusal::Cards(list) => faults(list),
            PriceListRefusal::Publication(error) => {
                let field = match &error {
                    PublicationError::NoParentVersion
                    | PublicationError::Circle
                    | PublicationError::Book(BookError::Depth(_)) => "parent",
                    PublicationError::Multiplier => "multiplier",
                    PublicationError::NoParentCard(_) => "overrides",
                    PublicationError::NoCard(_)
                    | PublicationError::Empty
                    | PublicationError::Version(_)
                    | PublicationError::Book(_)
                    | PublicationError::NoNumber => "cards",
                };
                ApiError::field(field, error.to_string())
            }
            PriceListRefusal::Withdrawal(error) => {
                ApiError::Conflict(format!("It cannot be withdrawn: {error}.").into())
            }
            PriceListRefusal::BelowCost(below) => ApiError::Conflict(below_cost(&below).into()),
            PriceListRefusal::NoUser => ApiError::NotFound("user"),
        }
    }
}

impl From<DeploymentsError> for ApiError {
    fn from(error: DeploymentsError) -> Self {
        match error {
            DeploymentsError::NoDeployment => ApiError::NotFound("deployment"),
            DeploymentsError::NoModel => ApiError::NotFound("model"),
            DeploymentsError::NoUser => ApiError::NotFound("user"),
            DeploymentsError::Store(error) => error.into(),
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

impl From<WatchError> for ApiError {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::TooMany => ApiError::Conflict(
                "As many pages as may watch do so already. Close one of them, then try again."
                    .into(),
            ),
            WatchError::Store(error) => error.into(),
        }
    }
}

impl From<StartError> for ApiError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Runs => ApiError::Conflict(
                "A verification runs already. Wait until it has ended; GET /api/admin/verify says how far it is."
                    .into(),
            ),
            StartError::Store(error) => error.into(),
        }
    }
}

impl From<ReleaseError> for ApiError {
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::NotQuarantined => ApiError::NotFound("quarantined account"),
            ReleaseError::Disagrees { first, more } => {
                let others = match more {
                    0 => String::new(),
                    _ => format!(" (and {more} more things)"),
                };
                let message = format!(
                    "The account stays blocked, because its records do not agree: {first}{others}. Repair them, then \
                     release it again."
                );
                ApiError::Conflict(message.into())
            }
            ReleaseError::Store(error) => error.into(),
            ReleaseError::Account(error) => error.into(),
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

impl From<CatalogueError> for ApiError {
    fn from(error: CatalogueError) -> Self {
        match error {
            CatalogueError::Faults(faults) => {
                let details = faults.into_iter().map(|CatalogueFault { path, problem }| {
                    let field = if path.is_empty() { "body".to_owned() } else { path };
                    FieldError { field, message: problem }
                });
                ApiError::Validation(details.collect())
            }
            CatalogueError::Stale { current } => ApiError::RevisionStale { current },
            CatalogueError::IsAFile => ApiError::CatalogueIsAFile,
            CatalogueError::NotFound(what) => ApiError::NotFound(what),
            CatalogueError::Exists(what) => ApiError::Conflict(
                format!("There is a {what} with this name. To change it, use PUT.").into(),
            ),
            CatalogueError::Used(places) => ApiError::Conflict(
                format!("It is used: {}. Please change these first.", places.join(", ")).into(),
            ),
            CatalogueError::Unsealed => {
                tracing::error!(%error, "catalogue");
                ApiError::Internal
            }
            CatalogueError::Store(error) => error.into(),
        }
    }
}

impl From<ImportsError> for ApiError {
    fn from(error: ImportsError) -> Self {
        match error {
            ImportsError::File(error) => ApiError::field("body", error.to_string()),
            ImportsError::NothingChosen { passed_over, refused } => ApiError::field(
                "only",
                format!(
                    "nothing of the file is taken: {passed_over} of its models do not have a provider of `only` and \
                     a name of `models`, and {refused} that do cannot be taken; with dry_run=true and without both \
                     the report names them"
                ),
            ),
            ImportsError::Lists(error) => error.into(),
            ImportsError::ChangesTooMuch { count, largest } => {
                let text = |price: Option<UnitPrice>| {
                    price.map_or_else(|| "nothing".to_owned(), |price| price.to_string())
                };
                let (old, new) = (text(largest.old), text(largest.new));
                let (model, dim) = (&largest.model, largest.dim.name());
                ApiError::Conflict(
                    format!(
                        "{count} prices change by more than max_change, the most that of {model}, {dim}: from {old} to \
                         {new}. See them with dry_run=true, then send force=true, or a larger max_change."
                    )
                    .into(),
                )
            }
            ImportsError::Busy => ApiError::Overloaded,
            ImportsError::Broken => {
                tracing::error!(%error, "a price import failed");
                ApiError::Internal
            }
        }
    }
}

impl From<PaymentsError> for ApiError {
    fn from(error: PaymentsError) -> Self {
        match error {
            PaymentsError::ProviderOff { provider } => ApiError::ProviderOff { provider },
            PaymentsError::TestMoney { setting } => ApiError::TestMoney { setting },
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
            PaymentsError::NoUser => ApiError::NotFound("user"),
            PaymentsError::NotAsked { provider, is_off: true } => ApiError::Conflict(
                format!("{provider} is switched off. Switch it on to ask about its payments.")
                    .into(),
            ),
            PaymentsError::NotAsked { provider, is_off: false } => ApiError::Conflict(
                format!("There is nothing to ask: {provider} confirms a payment at once.").into(),
            ),
            PaymentsError::Repeat(error) => Refusal::from(error).into(),
            PaymentsError::Account(error) => error.into(),
        }
    }
}

impl From<ReportsError> for ApiError {
    fn from(error: ReportsError) -> Self {
        match error {
            ReportsError::NoCall => ApiError::NotFound("call"),
            ReportsError::NoPayment => ApiError::NotFound("payment"),
            ReportsError::NotConfirmed => {
                ApiError::Conflict("The payment is not confirmed, so there is no receipt.".into())
            }
            ReportsError::Account(error) => error.into(),
        }
    }
}
