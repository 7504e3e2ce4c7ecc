//! `/api/auth/export`: everything that the server has of a user, in one file. `DELETE /api/auth/me`
//! erases the user.

use std::future::{Future, ready};

use actix_web::HttpResponse;
use actix_web::web::Data;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::admin::AccountBody;
use super::amount::{Amount, WithAmounts as _, to_json};
use super::audit_log::ActBody;
use super::auth::{SessionBody, UserBody};
use super::calls::CallBody;
use super::cookie::without_cookie;
use super::error::{ApiError, ErrorBody};
use super::extract::{ConfirmedSession, WithBody};
use super::keys::KeyBody;
use super::methods::{AutoTopUpAnswer, MethodBody};
use super::notices::NoticesAnswer;
use super::payments::PaymentAnswer;
use super::transactions::{TransactionBody, disposition};
use super::webhooks::EndpointAnswer;
use super::{App, uncancelled};
use crate::auth::sessions::CurrentSession;
use crate::auth::users::Device;
use crate::erasure::{self, ErasureRequest};
use crate::store::ledger::EntryFilter;
use crate::store::payments::PaymentFilter;
use crate::store::reports::CallFilter;
use domain::{Act, Environment, Refusal, UserId};

/// Items of a list in memory at once.
const PAGE: u64 = 500;
const ENVIRONMENTS: [Environment; 2] = [Environment::Live, Environment::Test];

/// What there are few of, and what is bounded.
#[derive(Serialize, ToSchema)]
struct ExportHead {
    #[schema(format = DateTime)]
    exported_at: String,
    user: UserBody,
    has_two_factor: bool,
    /// The rate limit tier; null is the default one.
    tier: Option<String>,
    accounts: Vec<AccountBody>,
    /// Sessions that have not ended.
    sessions: Vec<SessionBody>,
    /// Without their values, which are not stored.
    api_keys: Vec<KeyBody>,
    /// Without their secrets.
    webhooks: Vec<EndpointAnswer>,
    notices: Vec<NoticesAnswer>,
    auto_top_up: AutoTopUpAnswer,
    /// Saved at Stripe.
    payment_methods: Vec<MethodBody>,
}

/// Everything that the server has of a user. Lists are as in the routes of the same name.
#[derive(Serialize, ToSchema)]
pub(super) struct ExportAnswer {
    #[serde(flatten)]
    head: ExportHead,
    /// Latest first.
    payments: Vec<PaymentAnswer>,
    /// The ledger of the live account, oldest first.
    transactions_live: Vec<TransactionBody>,
    /// The ledger of the test account, oldest first.
    transactions_test: Vec<TransactionBody>,
    /// Calls of the live account, latest first, as long as they are kept.
    calls_live: Vec<CallBody>,
    /// Calls of the test account, latest first, as long as they are kept.
    calls_test: Vec<CallBody>,
    /// Latest first.
    audit_log: Vec<ActBody>,
}

/// Everything that the server has of the user, as a file that is written while it is read: no
/// secrets, and no bodies of calls, which are not stored.
#[utoipa::path(get, path = "/api/auth/export", tag = "auth", security(("jwt" = [])), responses(
    (status = 200, description = "Everything", body = ExportAnswer),
    (status = 402, description = "Stripe refused to name the saved payment methods", body = ErrorBody),
    (status = 429, description = "Too many exports", body = ErrorBody),
))]
pub(super) async fn export(
    ConfirmedSession(current): ConfirmedSession,
    device: Device,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let checked = app.gateway.rate_limits.check_export(current.user.id, app.clock.now());
    checked.map_err(|retry_after| Refusal::RateLimited { retry_after })?;
    let user = current.user.id;
    let beginning = {
        let app = Data::clone(&app);
        async move {
            let head = head(&app, &current).await?;
            app.users.record_export(&current.user, &device).await?;
            Ok::<_, ApiError>(head)
        }
    };
    let head = to_json(&uncancelled(beginning).await?);
    // The lists follow in the same object.
    let head = head.strip_suffix('}').unwrap_or(&head).to_owned();
    let [live, test] = ENVIRONMENTS;
    let body = text(head)
        .chain(member("payments", payments(&app, user)))
        .chain(member("transactions_live", transactions(&app, user, live).await?))
        .chain(member("transactions_test", transactions(&app, user, test).await?))
        .chain(member("calls_live", calls(&app, user, live)))
        .chain(member("calls_test", calls(&app, user, test)))
        .chain(member("audit_log", acts(&app, user)))
        .chain(text("}".to_owned()));
    let mut response = HttpResponse::Ok().content_type("application/json").streaming(body);
    disposition(&mut response, "polysystems-export.json");
    Ok(response)
}

/// What erases a user.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct EraseBody {
    /// The user's password once more.
    #[schema(format = Password)]
    password: String,
    /// Six digits from the authenticator, or a recovery code; needed if two-factor authentication
    /// is on.
    #[serde(default)]
    #[schema(example = "123456")]
    code: Option<String>,
    /// Must be true if there is money on the live account: it is given up.
    #[serde(default)]
    give_up_balance: bool,
}

/// An erased user.
#[derive(Serialize, ToSchema)]
pub(super) struct EraseAnswer {
    message: &'static str,
    /// The balance that was given up.
    given_up: Amount,
    /// `USD`
    currency: &'static str,
}

/// Erases the user, for good. Sessions, API keys, webhooks and saved payment methods end, name and
/// address are replaced, and nobody can sign in. The ledger stays.
#[utoipa::path(delete, path = "/api/auth/me", tag = "auth", security(("jwt" = [])),
    request_body = EraseBody, responses(
    (status = 200, description = "Erased", body = EraseAnswer),
    (status = 401, description = "No valid JWT, or the password or the code is wrong", body = ErrorBody),
    (status = 409, description = "There is money on the account that is not given up, a payment is on its \
        way, calls are running, the account is suspended, or the user is an operator", body = ErrorBody),
    (status = 429, description = "Too many requests", body = ErrorBody),
))]
pub(super) async fn erase(
    WithBody(current, body): WithBody<CurrentSession>,
    device: Device,
    app: Data<App>,
) -> Result<HttpResponse, ApiError> {
    let EraseBody { password, code, give_up_balance } = body.json()?;
    let request = ErasureRequest { password, code, gives_up_balance: give_up_balance };
    let (kind, all) = (current.kind, Data::clone(&app));
    let erasing =
        async move { erasure::erase(&all.users, &all.payments, &current, request, &device).await };
    let given_up = Amount(uncancelled(erasing).await?);
    let message = "The account was erased";
    let answer = HttpResponse::Ok().amounts(EraseAnswer { message, given_up, currency: "USD" });
    without_cookie(answer, kind, &app)
}

async fn head(app: &App, current: &CurrentSession) -> Result<ExportHead, ApiError> {
    let CurrentSession { user, session, .. } = current;
    let (mut accounts, mut notices) = (Vec::new(), Vec::new());
    for environment in ENVIRONMENTS {
        let (account, _) = app.reports.balance(user.id, environment).await?;
        accounts.push(AccountBody::from(&(environment, account)));
        let low = app.webhooks.balance_low(user.id, environment).await?;
        notices.push(NoticesAnswer::new(low, environment));
    }
    let sessions = app.users.sessions_of(user.id).await?;
    let keys = app.keys.list(user.id).await?;
    let methods = app.payments.methods_if_any(user.id).await?;
    let (webhooks, soon) = (app.webhooks.list(user.id).await?, app.keys.soon());
    Ok(ExportHead {
        exported_at: app.clock.now().to_rfc3339(),
        user: UserBody::from(user),
        has_two_factor: user.has_two_factor(),
        tier: user.tier.clone(),
        accounts,
        sessions: sessions.into_iter().map(|one| SessionBody::new(one, *session)).collect(),
        api_keys: keys.into_iter().map(|key| KeyBody::new(key, soon)).collect(),
        webhooks: webhooks.into_iter().map(EndpointAnswer::from).collect(),
        notices,
        auto_top_up: app.payments.auto_top_up(user.id).await?.into(),
        payment_methods: methods.into_iter().map(MethodBody::from).collect(),
    })
}

/// A list of the export, page by page.
type Page<T> = Result<Vec<T>, ApiError>;

fn payments(app: &Data<App>, user: UserId) -> impl Stream<Item = Page<PaymentAnswer>> + use<> {
    let app = Data::clone(app);
    pages(None, move |before| {
        let app = Data::clone(&app);
        async move {
            let page = app.payments.list(user, before, PAGE, PaymentFilter::default()).await?;
            let next = page.last().filter(|_| is_full(&page)).map(|last| Some(last.id));
            Ok::<_, ApiError>((page.into_iter().map(PaymentAnswer::from).collect(), next))
        }
    })
}

async fn transactions(
    app: &App,
    user: UserId,
    environment: Environment,
) -> Result<impl Stream<Item = Page<TransactionBody>> + use<>, ApiError> {
    let pages = app.reports.export(user, environment, EntryFilter::default()).await?;
    Ok(pages.map(move |page| -> Page<TransactionBody> {
        Ok(page?.into_iter().map(|entry| TransactionBody::new(entry, user)).collect())
    }))
}

fn calls(
    app: &Data<App>,
    user: UserId,
    environment: Environment,
) -> impl Stream<Item = Page<CallBody>> + use<> {
    let app = Data::clone(app);
    pages(None, move |before| {
        let app = Data::clone(&app);
        async move {
            let filter = CallFilter::default();
            let page = app.reports.calls(user, environment, before, PAGE, filter).await?;
            let (calls, next) = page;
            Ok::<_, ApiError>((calls.into_iter().map(CallBody::from).collect(), next.map(Some)))
        }
    })
}

fn acts(app: &Data<App>, user: UserId) -> impl Stream<Item = Page<ActBody>> + use<> {
    let app = Data::clone(app);
    pages(None, move |before| {
        let app = Data::clone(&app);
        async move {
            let page: Vec<Act> = app.admin.acts(Some(user), before, PAGE).await?;
            let next = page.last().filter(|_| is_full(&page)).map(|last| Some(last.id));
            let page = page.into_iter().map(|act| ActBody::for_user(act, user));
            Ok::<_, ApiError>((page.collect(), next))
        }
    })
}

fn is_full<T>(page: &[T]) -> bool {
    u64::try_from(page.len()).is_ok_and(|length| length >= PAGE)
}

/// Pages of a list. The next one is read when the client has taken the one before. It ends after
/// an error, which breaks the connection off, so that nobody takes a part for the whole.
fn pages<T, C, P>(first: C, read: impl Fn(C) -> P) -> impl Stream<Item = Page<T>>
where
    P: Future<Output = Result<(Vec<T>, Option<C>), ApiError>>,
{
    stream::unfold(Some(first), move |cursor| {
        let page = cursor.map(&read);
        async move {
            Some(match page?.await {
                Ok((items, next)) => (Ok(items), next),
                Err(error) => (Err(error), None),
            })
        }
    })
}

fn text(text: String) -> impl Stream<Item = Result<Bytes, ApiError>> {
    stream::iter([Ok(Bytes::from(text))])
}

/// A list as a member of the object.
fn member<T: Serialize>(
    name: &str,
    pages: impl Stream<Item = Page<T>>,
) -> impl Stream<Item = Result<Bytes, ApiError>> {
    let items = pages
        .scan(false, |has_items, page| ready(Some(page.map(|items| joined(&items, has_items)))));
    // An empty chunk would end a chunked body.
    let items = items.filter(|items| ready(!items.as_ref().is_ok_and(Bytes::is_empty)));
    text(format!(",\"{name}\":[")).chain(items).chain(text("]".to_owned()))
}

fn joined<T: Serialize>(items: &[T], has_items: &mut bool) -> Bytes {
    let mut joined = Vec::new();
    for item in items {
        if std::mem::replace(has_items, true) {
            joined.push(b',');
        }
        joined.extend_from_slice(to_json(item).as_bytes());
    }
    Bytes::from(joined)
}
