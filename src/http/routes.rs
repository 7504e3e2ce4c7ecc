//! The route table. A handler stands in it once: method, path and documentation come from its
//! `#[utoipa::path]`.

use actix_web::http::Method;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{HttpResponse, Resource, Route};
use utoipa::OpenApi;
use utoipa::openapi::path::PathItem;

use super::error::ApiError;
use super::{
    App, admin, admin_acts, admin_health, admin_payments, admin_settings, admin_usage, admin_user,
    admin_webhooks, audit_log, auth, bills, calls, catalogue, console_settings, deliveries,
    deployments, docs, email, events, gateway, imports, keys, margins, meta, methods, metrics,
    models, monitoring, notices, oddities, payment_providers, payments, personal, price_lists,
    price_preview, price_versions, pricing, revenue, statements, transactions, two_factor,
    verification, webhooks,
};
use crate::metrics::requests::Requests;
use domain::route_group::RouteGroup;

/// Makes the route of a handler: actix wants a new one for each thread.
type MakeRoute = fn() -> Route;

/// A handler, and what its `#[utoipa::path]` says of it.
struct Endpoint {
    /// The `operationId`: what the function is called in a generated client. It stays.
    id: &'static str,
    route: MakeRoute,
    document: fn() -> utoipa::openapi::OpenApi,
}

macro_rules! endpoints {
    ($($id:ident: $($segment:ident)::+,)*) => {
        [$({
            #[derive(OpenApi)]
            #[openapi(paths($($segment)::+))]
            struct Documented;
            Endpoint {
                id: stringify!($id),
                route: || web::to($($segment)::+),
                document: Documented::openapi,
            }
        },)*]
    };
}

const ENDPOINTS: &[Endpoint] = &endpoints![
    accountsRegister: auth::register,
    accountsLogIn: auth::login,
    accountsLogInWithCode: two_factor::log_in,
    twoFactorGet: two_factor::status,
    twoFactorEnroll: two_factor::enroll,
    twoFactorConfirm: two_factor::confirm,
    twoFactorDisable: two_factor::disable,
    twoFactorRenewRecoveryCodes: two_factor::recovery_codes,
    emailVerify: email::verify,
    emailChange: email::change,
    emailConfirmChange: email::confirm_change,
    emailResendVerification: email::resend,
    passwordForget: email::forgot,
    passwordReset: email::reset,
    accountsGet: auth::me,
    sessionsRefresh: auth::refresh,
    sessionsLogOut: auth::logout,
    sessionsLogOutAll: auth::logout_all,
    sessionsList: auth::sessions,
    sessionsEnd: auth::end_session,
    passwordChange: auth::change_password,
    sessionsConfirm: auth::confirm,
    accountsExport: personal::export,
    accountsErase: personal::erase,
    keysList: keys::list,
    keysCreate: keys::create,
    keysGet: keys::get,
    keysUpdate: keys::change,
    keysDelete: keys::delete,
    keysRotate: keys::rotate,
    keysRevoke: keys::revoke,
    keysGetLimits: keys::limits::limits,
    keysSetLimits: keys::limits::set_limits,
    paymentsListProviders: payment_providers::providers,
    creditsGetBalance: payments::balance,
    paymentsList: payments::list,
    paymentsCreate: payments::pay,
    paymentsGet: payments::get,
    creditsResetTest: payments::reset_test,
    paymentsGetReceipt: statements::receipt,
    paymentMethodsList: methods::list,
    paymentMethodsAdd: methods::add,
    paymentMethodsRemove: methods::remove,
    autoTopUpGet: methods::auto_top_up,
    autoTopUpSet: methods::set_auto_top_up,
    stripeReceiveEvent: methods::handle_stripe_event,
    statementsGet: statements::statement,
    transactionsExport: transactions::export,
    transactionsList: transactions::list,
    transactionsGetBill: bills::own_bill,
    usageGet: monitoring::usage,
    callsList: calls::list,
    callsGet: calls::get,
    usageGetLimits: monitoring::limits,
    usageGetForecast: monitoring::forecast_balance,
    noticesGet: notices::notices,
    noticesSet: notices::set_notices,
    // Before the one of an endpoint, whose id it would be.
    webhooksListEventTypes: deliveries::event_types,
    webhooksList: webhooks::list,
    webhooksCreate: webhooks::add,
    webhooksGet: webhooks::get,
    webhooksUpdate: webhooks::change,
    webhooksDelete: webhooks::delete,
    webhooksRotateSecret: webhooks::rotate_secret,
    webhooksTest: webhooks::test,
    webhooksListDeliveries: deliveries::list,
    webhooksGetDelivery: deliveries::get,
    webhooksRedeliver: deliveries::redeliver,
    auditLogListOwn: audit_log::own_acts,
    auditLogList: audit_log::all_acts,
    healthGetForOperators: admin_health::health,
    usersSearch: admin_user::search,
    usersList: admin::users,
    usersGet: admin::user,
    usersListTransactions: admin_user::transactions,
    usersListPayments: admin_user::payments,
    usersListCalls: admin_user::requests,
    usersGetUsage: admin_user::usage,
    usersGetLimits: admin_user::limits,
    usersListSessions: admin_user::sessions,
    usersListWebhooks: admin_user::webhooks,
    usersChangeCredits: admin::change_credits,
    usersSetTier: admin::set_tier,
    usersSetPriceList: price_lists::set_users_list,
    usersUnsetPriceList: price_lists::unset_users_list,
    priceListsList: price_lists::list,
    priceListsCreate: price_lists::create,
    priceListsGet: price_lists::get,
    priceListsDelete: price_lists::delete,
    priceListsPreview: price_preview::preview,
    priceVersionsList: price_versions::versions,
    priceVersionsCreate: price_versions::add_version,
    priceVersionsGet: price_versions::version,
    priceVersionsDeleteDraft: price_versions::delete_draft,
    priceVersionsPublish: price_versions::publish,
    priceVersionsWithdraw: price_versions::withdraw,
    priceVersionsDiff: price_versions::diff,
    priceListsGetCard: price_lists::card,
    priceListsQuote: price_lists::quote,
    // Before the one by charge, which would take its path.
    billsRecompute: bills::recompute,
    billsGet: bills::bill,
    usersCorrectCharge: bills::correct,
    marginsGet: margins::margins,
    revenueGet: revenue::revenue,
    usageGetOfAll: admin_usage::usage,
    paymentsListOfAll: admin_payments::list,
    paymentsGetOfAny: admin_payments::get,
    paymentsRecheck: admin_payments::recheck,
    usageListOddities: oddities::oddities,
    eventsWatch: events::watch,
    settingsList: admin_settings::settings,
    webhooksListFailing: admin_webhooks::failing,
    verificationGet: verification::seen,
    verificationStart: verification::start,
    quarantineList: verification::quarantine,
    quarantineRelease: verification::release,
    usersEndSessions: admin::end_sessions,
    usersRevokeKey: admin_acts::revoke_key,
    usersDisableTwoFactor: admin_acts::disable_two_factor,
    usersVerifyEmail: admin_acts::verify_email,
    usersResetPassword: admin_acts::reset_password,
    usersSetRole: admin_acts::set_role,
    usersSuspend: admin::suspend,
    usersResume: admin::resume,
    // Before those of one deployment, whose name could be `health`.
    deploymentsListHealth: deployments::health,
    deploymentsReset: deployments::reset,
    deploymentsTest: deployments::test,
    deploymentsPlan: deployments::plan,
    deploymentsListAttempts: deployments::attempts,
    catalogueGet: catalogue::get,
    catalogueReplace: catalogue::put,
    cataloguePatch: catalogue::patch,
    catalogueGetStatus: catalogue::status,
    catalogueRevisionsList: catalogue::revisions::list,
    catalogueRevisionsGet: catalogue::revisions::get,
    catalogueRevisionsDiff: catalogue::revisions::diff,
    catalogueRevisionsRestore: catalogue::revisions::restore,
    providersList: catalogue::parts::providers::list,
    providersCreate: catalogue::parts::providers::add,
    providersGet: catalogue::parts::providers::get,
    providersSet: catalogue::parts::providers::set,
    providersDelete: catalogue::parts::providers::remove,
    deploymentsList: catalogue::parts::deployments::list,
    deploymentsCreate: catalogue::parts::deployments::add,
    deploymentsGet: catalogue::parts::deployments::get,
    deploymentsSet: catalogue::parts::deployments::set,
    deploymentsDelete: catalogue::parts::deployments::remove,
    catalogueModelsList: catalogue::parts::models::list,
    catalogueModelsCreate: catalogue::parts::models::add,
    catalogueModelsGet: catalogue::parts::models::get,
    catalogueModelsSet: catalogue::parts::models::set,
    catalogueModelsDelete: catalogue::parts::models::remove,
    credentialsList: catalogue::credentials::list,
    credentialsSet: catalogue::credentials::set,
    credentialsDelete: catalogue::credentials::delete,
    credentialsRotate: catalogue::credentials::rotate,
    credentialsEnable: catalogue::credentials::enable,
    credentialsDisable: catalogue::credentials::disable,
    priceListsImport: imports::import,
    pricingGet: pricing::pricing,
    pricingGetHistory: pricing::history,
    pricingQuote: pricing::quote,
    consoleGetSettings: console_settings::settings,
    documentationGetOpenApi: meta::openapi,
    modelsList: models::list,
    modelsGet: models::get,
    healthHello: meta::hello,
    healthRoot: meta::root,
    healthLive: meta::live,
    healthReady: meta::ready,
    healthLivez: meta::livez,
    healthReadyz: meta::readyz,
    healthHealthz: meta::healthz,
    versionGet: meta::version,
];

/// Pages, which are no operations of the document.
const PAGES: [&str; 2] = ["/docs/errors", "/docs/{path:.*}"];
/// The pages of the console.
const CONSOLE: &str = "/console/{path:.*}";

/// All routes and their documentation. Made once; each HTTP thread configures itself with it.
pub struct Routes {
    paths: Vec<Path>,
    documents: Data<meta::Documents>,
    has_metrics: bool,
}

/// The methods of one path.
struct Path {
    path: String,
    methods: Vec<(Method, fn() -> Route)>,
}

impl Routes {
    /// The routes, with `GET /metrics` if `has_metrics`. The document depends on the settings of
    /// `app`.
    #[must_use]
    pub fn new(app: &App, has_metrics: bool) -> Self {
        let mut handlers = utoipa::openapi::OpenApi::default();
        let mut paths: Vec<Path> = Vec::new();
        for endpoint in ENDPOINTS {
            let mut own = (endpoint.document)();
            for operation in own.paths.paths.values_mut().flat_map(docs::operations) {
                operation.operation_id = Some(endpoint.id.to_owned());
            }
            for (path, item) in &own.paths.paths {
                let methods = methods_of(item).map(|method| (method, endpoint.route));
                match paths.iter_mut().find(|known| known.path == *path) {
                    Some(known) => known.methods.extend(methods),
                    None => {
                        paths.push(Path { path: path.clone(), methods: methods.collect() });
                    }
                }
            }
            handlers.merge(own);
        }
        // A path with a name in it would take what is meant for one without, if it came first.
        paths.sort_by_key(|path| path.path.contains('{'));
        // They are the same if they are made twice.
        let _ = app.gateway.metrics.requests.set(Requests::new(
            paths.iter().map(|path| path.path.as_str()).chain(PAGES).chain([CONSOLE]),
        ));
        let documents = meta::Documents::new(&docs::document(app, handlers));
        Routes { paths, documents: Data::new(documents), has_metrics }
    }

    /// Registers every route.
    pub fn configure(&self, config: &mut ServiceConfig) {
        // First and by prefix: a paid call must not be matched against every pattern below.
        for group in RouteGroup::ALL {
            for path in group.paths() {
                config.service(web::scope(path).default_service(web::to(gateway::call)));
            }
        }
        if self.has_metrics {
            let route: fn() -> Route = || web::to(metrics::metrics);
            config.service(resource("/metrics", &[(Method::GET, route)]));
        }
        config.app_data(Data::clone(&self.documents));
        let pages: [fn() -> Route; PAGES.len()] =
            [|| web::to(meta::errors), || web::to(meta::docs)];
        let pages = PAGES.into_iter().zip(pages.map(|page| vec![(Method::GET, page)]));
        let paths = self.paths.iter().map(|path| (path.path.as_str(), path.methods.clone()));
        config.service(web::redirect("/docs", "/docs/"));
        for (index, (path, methods)) in paths.chain(pages).enumerate() {
            config.service(resource(path, &methods).app_data(Requests::index(index)));
        }
        #[cfg(feature = "console")]
        {
            let file: fn() -> Route = || web::to(super::console::file);
            let index = Requests::index(self.paths.len().saturating_add(PAGES.len()));
            config
                .service(web::redirect("/console", "/console/"))
                .service(resource(CONSOLE, &[(Method::GET, file)]).app_data(index));
        }
        config.default_service(web::to(no_route));
    }
}

fn methods_of(item: &PathItem) -> impl Iterator<Item = Method> {
    let PathItem { get, head, put, post, patch, delete, .. } = item;
    [
        (get, Method::GET),
        (head, Method::HEAD),
        (put, Method::PUT),
        (post, Method::POST),
        (patch, Method::PATCH),
        (delete, Method::DELETE),
    ]
    .into_iter()
    .filter_map(|(operation, method)| operation.is_some().then_some(method))
}

/// A path with its methods; with GET it has HEAD (RFC 9110). Any other method is answered with 405
/// and `Allow`.
fn resource(path: &str, methods: &[(Method, MakeRoute)]) -> Resource {
    let head = methods.iter().find(|(method, _)| *method == Method::GET);
    let head = head.map(|(_, route)| (Method::HEAD, *route));
    let methods: Vec<(Method, MakeRoute)> = methods.iter().cloned().chain(head).collect();
    let names: Vec<&str> = methods.iter().map(|(method, _)| method.as_str()).collect();
    let allow = names.join(", ");
    let refuse = move || {
        let allow = allow.clone().into();
        async move { Err::<HttpResponse, _>(ApiError::MethodNotAllowed { allow }) }
    };
    let mut resource = web::resource(path);
    for (method, route) in methods {
        resource = resource.route(route().method(method));
    }
    resource.default_service(web::to(refuse))
}

async fn no_route() -> Result<HttpResponse, ApiError> {
    Err(ApiError::NoRoute)
}
