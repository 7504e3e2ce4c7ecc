//! The paid routes: HTTP request to [`Arrival`], [`pipeline::serve`],
//! [`crate::pipeline::Departure`] to HTTP response.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use futures_util::{FutureExt as _, Stream};
use serde::Serialize;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::amount::{Amount, WithAmounts as _};
use super::bodies::discard;
use super::connection::{Aside, Busy, ConnectionState};
use super::error::{ApiError, ErrorBody, FieldError};
use super::extract::{bearer, client_address};
use super::origin::one_spelling;
use super::repeat::{REPLAYED, idempotency_key};
use super::{App, models, uncancelled};
use crate::pipeline::{
    self, Arrival, BodyOf, Departure, Gateway, Paying, Permit, Quote, Received, RequestContext,
    Running, Served, StreamBody,
};
use crate::rate_limits::RateLimitStatus;
use crate::upstream::Client;
use crate::upstream::dialect::gemini::priced_path;
use domain::route_group::RouteGroup;
use domain::{AccountId, Credits, Environment, Refusal};

/// Headers with an API key: ours and Anthropic's, Azure's, Google's.
pub(super) const KEY_HEADERS: [&str; 3] = ["x-api-key", "api-key", "x-goog-api-key"];
const DRY_RUN: HeaderName = HeaderName::from_static("x-dry-run");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const KEY_EXPIRES_AT: HeaderName = HeaderName::from_static("x-polysystems-key-expires-at");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const WINDOW: HeaderName = HeaderName::from_static("x-ratelimit-window");

/// Any method on any path of a route group. The caller is known before the body is read, and the
/// call takes its places when the body is there.
pub(super) async fn call(
    request: HttpRequest,
    app: Data<App>,
    client: Data<Client>,
    payload: Payload,
) -> HttpResponse {
    failpoint!("handler-entered");
    let read = arrival(&request, &app).and_then(|read| Ok((read, is_dry_run(&request)?)));
    let mut payload = payload.into_inner();
    let (arrival, is_dry_run) = match read {
        Ok(read) => read,
        Err(error) => {
            discard(&request, &mut payload).await;
            return refuse(&request, &app, error);
        }
    };
    let gateway = app.gateway.clone();
    let Served { result, context } = pipeline::identify(&gateway, Box::new(arrival)).await;
    let caller = match result {
        Ok(caller) => caller,
        Err(refusal) => {
            discard(&request, &mut payload).await;
            return answer(HttpResponse::from_error(ApiError::from(refusal)), context);
        }
    };
    if !is_dry_run && let Some(answered) = models::answer(&request, &gateway, &caller) {
        discard(&request, &mut payload).await;
        return answer(answered.unwrap_or_else(HttpResponse::from_error), context);
    }
    let environment = caller.environment();
    let of = match environment {
        Environment::Live => BodyOf::PayingCaller,
        Environment::Test => BodyOf::TestCaller,
    };
    let account = Some(caller.account());
    let received = match app.bodies.receive(&request, &mut payload, of, account).await {
        Ok(body) => caller.receive(body),
        Err(error) => return answer(HttpResponse::from_error(error), context),
    };
    let (_place, running) = match places(&app, environment) {
        Ok(places) => places,
        Err(refusal) => {
            gateway.metrics.refuse(&refusal);
            return answer(HttpResponse::from_error(ApiError::from(refusal)), context);
        }
    };
    if is_dry_run {
        let quoted = Box::pin(pipeline::quote(&gateway, received, context)).await;
        drop(running);
        return respond(quoted, |quote| quoted_response(&request, &app, &quote));
    }
    let is_paid = environment == Environment::Live && !received.is_free();
    let copy = app.payments.x402.is_some() && environment == Environment::Live;
    let copy = copy.then(|| Box::new(received.copy()));
    let client = Client::clone(&client);
    let connection = ConnectionState::of(&request).filter(|_| is_paid);
    let stranger = connection.filter(|state| state.is_strangers()).zip(account);
    let mut aside = None;
    let call = (received, running);
    let served = serve(&gateway, client.clone(), call, context, stranger, &mut aside).await;
    if let Some(connection) = connection.filter(|_| aside.is_none() && has_cost(&served)) {
        connection.note_paid();
    }
    match copy {
        Some(copy) if served.needs_credits().is_some() => {
            Box::pin(pay_and_serve(&request, &app, client, served, copy)).await
        }
        _ => respond(served, |departure| depart(&request, departure, aside)),
    }
}

/// Serves a call. While it is charged or held for, its connection counts for nobody: `aside` has
/// its share.
async fn serve(
    gateway: &Arc<Gateway>,
    client: Client,
    (received, running): (Received, Running),
    context: RequestContext,
    stranger: Option<(&Rc<ConnectionState>, AccountId)>,
    aside: &mut Option<Aside>,
) -> Served<Departure> {
    // Dropped with the handler, when the client leaves or has its answer.
    let (_here, client_left) = oneshot::channel();
    let Some((connection, account)) = stranger else {
        let received = received.run(running, client_left, None);
        return uncancelled(pipeline::serve(gateway.clone(), client, received, context)).await;
    };
    let paying = Arc::<Paying>::default();
    let aside = aside.insert(Aside::new(connection, account, Arc::clone(&paying)));
    let received = received.run(running, client_left, Some(paying));
    let mut serving = uncancelled(pipeline::serve(gateway.clone(), client, received, context));
    // The call is charged inside of a poll.
    poll_fn(|context| {
        let polled = serving.poll_unpin(context);
        aside.follow();
        polled
    })
    .await
}

/// Has a call cost something? A stream is held for.
fn has_cost(served: &Served<Departure>) -> bool {
    let is_stream =
        |departure: &Departure| matches!(departure.body, pipeline::ServedBody::Stream(_));
    served.context.cost.is_some_and(|cost| cost > Credits::ZERO)
        || served.result.as_ref().is_ok_and(is_stream)
}

/// The places of a call: one among the requests that are handled, until it has its answer, and one
/// among the running calls. Test calls have places of their own, and none among the requests.
fn places(app: &App, environment: Environment) -> Result<(Option<Permit>, Running), Refusal> {
    let admission = &app.readiness;
    let place = match environment {
        Environment::Live => Some(admission.admit().ok_or(Refusal::Overloaded)?),
        Environment::Test => None,
    };
    match admission.enter(environment) {
        Some(running) => Ok((place, running)),
        None if admission.is_ready() => Err(Refusal::Overloaded),
        None => Err(Refusal::Unavailable("shutting down")),
    }
}

/// Serves a call again that its balance did not cover, if it brings a payment by x402 along.
/// Otherwise the refusal says what to pay.
async fn pay_and_serve(
    request: &HttpRequest,
    app: &Data<App>,
    client: Client,
    served: Served<Departure>,
    copy: Box<Received>,
) -> HttpResponse {
    let depart = |departure| depart(request, departure, None);
    let Some((account, price)) = served.needs_credits() else { return respond(served, depart) };
    let payment = match super::x402::pay_for_call(request, app, account, price).await {
        Some(Ok(payment)) => payment,
        paid => {
            let mut response = match paid {
                Some(Err(error)) => HttpResponse::from_error(error),
                _ => respond(served, depart),
            };
            super::x402::ask(&mut response, request, app, price);
            return response;
        }
    };
    let Some(running) = app.readiness.enter(Environment::Live) else {
        app.gateway.metrics.refuse(&Refusal::Overloaded);
        return HttpResponse::from_error(ApiError::from(Refusal::Overloaded));
    };
    let (_here, client_left) = oneshot::channel();
    let received = copy.run(running, client_left, None);
    let serving = pipeline::serve(app.gateway.clone(), client, received, served.context);
    let mut response = respond(uncancelled(serving).await, depart);
    super::x402::add_response(&mut response, app, &payment);
    response
}

/// `X-Dry-Run: true` asks for the price alone.
fn is_dry_run(request: &HttpRequest) -> Result<bool, ApiError> {
    match request.headers().get(DRY_RUN).map(HeaderValue::as_bytes) {
        None | Some(b"false") => Ok(false),
        Some(b"true") => Ok(true),
        Some(_) => Err(ApiError::Validation(vec![FieldError {
            field: "X-Dry-Run".into(),
            message: "must be true or false".into(),
        }])),
    }
}

/// Refuses a request before the pipeline. It counts against the rate limit of its address all the
/// same.
fn refuse(request: &HttpRequest, app: &App, error: ApiError) -> HttpResponse {
    let address = client_address(request, &app.trusted_proxies);
    let (error, status) = match app.gateway.rate_limits.check_address(address, app.clock.now()) {
        Ok(status) => (error, status),
        Err((status, retry_after)) => {
            let refusal = Refusal::RateLimited { retry_after };
            app.gateway.metrics.refuse(&refusal);
            (refusal.into(), Some(status))
        }
    };
    let mut response = HttpResponse::from_error(error);
    if let Some(status) = status {
        rate_limit_headers(response.headers_mut(), status);
    }
    response
}

/// The request as far as its head tells of it.
fn arrival(request: &HttpRequest, app: &App) -> Result<Arrival, ApiError> {
    let uri = request.uri();
    let path = one_spelling(uri.path()).ok_or(ApiError::NoRoute)?;
    let path = path.as_ref();
    let group = RouteGroup::of(path).ok_or(ApiError::NoRoute)?;
    // Only to answer 405. The pipeline looks the price up itself, so that no `Arrival` can bring
    // the price of another path.
    let prices = &app.gateway.prices;
    let priced = priced_path(path);
    if prices.find(request.method().as_str(), &priced).is_none() {
        let allow = prices.methods(&priced).join(", ");
        // Without any, the path has no price at all; the pipeline refuses that in its turn.
        if !allow.is_empty() {
            return Err(ApiError::MethodNotAllowed { allow: allow.into() });
        }
    }
    let headers = request.headers();
    if headers
        .get_all(CONTENT_ENCODING)
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        // What it asks for could not be read, and not be priced.
        return Err(ApiError::ContentEncoding);
    }
    if has_key_in_query(group, uri.query().unwrap_or_default()) {
        return Err(ApiError::KeyInQuery);
    }
    let credential = credential(request)?;
    let has_models = group == RouteGroup::V1 && app.gateway.models.selling().has_models();
    let wants_headers = has_models || app.gateway.upstreams.wants_headers(group);
    Ok(Arrival {
        id: super::edge::request_id(request),
        group,
        method: request.method().clone(),
        path: path.to_owned(),
        query: uri.query().map(str::to_owned),
        credential: credential.map(str::to_owned),
        address: client_address(request, &app.trusted_proxies),
        headers: if wants_headers { headers.clone() } else { HeaderMap::new() },
        body: Bytes::new(),
        idempotency_key: idempotency_key(request)?,
        running: None,
        client_left: None,
        paying: None,
        at: app.clock.now(),
    })
}

/// The API key of a request: that of a header for keys, else the bearer of `Authorization`.
pub(super) fn credential(request: &HttpRequest) -> Result<Option<&str>, ApiError> {
    let values = KEY_HEADERS.into_iter().flat_map(|name| request.headers().get_all(name));
    // A header that is not text counts as an invalid key.
    let mut keys = values.map(|value| value.to_str().unwrap_or_default().trim());
    let Some(first) = keys.next() else { return Ok(bearer(request)) };
    if keys.all(|key| key == first) { Ok(Some(first)) } else { Err(ApiError::DifferentKeys) }
}

/// Beginnings of API keys.
const KEY_PREFIXES: [&str; 2] = ["ps_live_", "ps_test_"];

/// Is there an API key in the query? Google's clients once sent it as `key`.
fn has_key_in_query(group: RouteGroup, query: &str) -> bool {
    query.split('&').any(|field| {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        let is_of_protocol = group == RouteGroup::V1 && name == "key" && !value.is_empty();
        is_of_protocol || KEY_PREFIXES.iter().any(|prefix| value.starts_with(prefix))
    })
}

fn respond<T>(served: Served<T>, encode: impl FnOnce(T) -> HttpResponse) -> HttpResponse {
    let Served { result, context } = served;
    let response = match result {
        Ok(result) => encode(result),
        Err(refusal) => HttpResponse::from_error(ApiError::from(refusal)),
    };
    answer(response, context)
}

/// The response with what is known of its request.
fn answer(mut response: HttpResponse, context: RequestContext) -> HttpResponse {
    if let Some(status) = context.rate_limit {
        rate_limit_headers(response.headers_mut(), status);
    }
    if let Some(expires_at) = context.expires_at
        && let Ok(value) = HeaderValue::from_str(&expires_at.to_rfc3339())
    {
        response.headers_mut().insert(KEY_EXPIRES_AT, value);
    }
    response.extensions_mut().insert(context);
    response
}

fn depart(request: &HttpRequest, departure: Departure, aside: Option<Aside>) -> HttpResponse {
    let Departure { status, headers: theirs, body, money, is_replayed } = departure;
    let mut builder = HttpResponseBuilder::new(status);
    let is_stream = matches!(body, pipeline::ServedBody::Stream(_));
    let mut response = match body {
        pipeline::ServedBody::Whole(body) => builder.body(body),
        pipeline::ServedBody::Stream(stream) => {
            let busy = ConnectionState::of(request).map(ConnectionState::busy);
            builder.streaming(OnConnection { stream, _busy: busy, _aside: aside })
        }
    };
    let headers = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    for (name, value) in theirs {
        headers.append(name, value);
    }
    for (name, text) in money {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if is_stream {
        // Proxies must not buffer.
        headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    }
    if is_replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// A stream that is on its way on a connection.
struct OnConnection {
    stream: StreamBody,
    _busy: Option<Busy>,
    /// What the stream costs is known at its end.
    _aside: Option<Aside>,
}

impl Stream for OnConnection {
    type Item = <StreamBody as Stream>::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.stream).poll_next(context)
    }
}

/// The answer to a dry run.
#[derive(Serialize, ToSchema)]
pub(super) struct QuoteBody {
    dry_run: bool,
    currency: &'static str,
    environment: &'static str,
    /// The public name of the model, if the call is priced by that.
    model: Option<String>,
    /// The number of the version of the price list that prices the call.
    price_version: u32,
    cost: CostBody,
    hold: Option<Amount>,
    prompt_tokens: Option<u64>,
    /// The most tokens that the prompt can have, as it is held for.
    prompt_tokens_max: Option<u64>,
    max_tokens: Option<u64>,
    admitted: bool,
    reason: Option<ErrorBody>,
    balance: Amount,
    available: Amount,
    remaining: RemainingBody,
}

/// From the least to the most.
#[derive(Serialize, ToSchema)]
struct CostBody {
    least: Amount,
    most: Amount,
}

/// What the key may spend; null is no limit.
#[derive(Serialize, ToSchema)]
struct RemainingBody {
    per_request: Option<Amount>,
    daily: Option<Amount>,
    monthly: Option<Amount>,
    total: Option<Amount>,
}

fn quoted_response(request: &HttpRequest, app: &App, quote: &Quote) -> HttpResponse {
    let reason = quote.refusal.clone().map(|refusal| {
        let id = super::edge::request_id(request).to_string();
        ApiError::from(refusal).body(id, app.clock.now().to_rfc3339())
    });
    HttpResponse::Ok().amounts(QuoteBody {
        dry_run: true,
        currency: "USD",
        environment: quote.environment.name(),
        model: quote.model.as_ref().map(ToString::to_string),
        price_version: quote.price_version.number(),
        cost: CostBody { least: Amount(quote.least), most: Amount(quote.most) },
        hold: quote.hold.map(Amount),
        prompt_tokens: quote.prompt_tokens,
        prompt_tokens_max: quote.prompt_tokens_max,
        max_tokens: quote.max_tokens,
        admitted: reason.is_none(),
        reason,
        balance: Amount(quote.balance),
        available: Amount(quote.available),
        remaining: RemainingBody {
            per_request: quote.left.per_request.map(Amount),
            daily: quote.left.daily.map(Amount),
            monthly: quote.left.monthly.map(Amount),
            total: quote.left.total.map(Amount),
        },
    })
}

/// The status of the rate limit that is closest to refusing the caller.
fn rate_limit_headers(headers: &mut HeaderMap, status: RateLimitStatus) {
    headers.insert(LIMIT, HeaderValue::from(status.limit));
    headers.insert(REMAINING, HeaderValue::from(status.remaining));
    headers.insert(RESET, HeaderValue::from(status.reset));
    headers.insert(WINDOW, HeaderValue::from(status.window));
    // The same after draft-ietf-httpapi-ratelimit-headers-10.
    let RateLimitStatus { policy, limit, remaining, window, reset_in, .. } = status;
    let texts = [
        (RATE_LIMIT_POLICY, format!("\"{policy}\";q={limit};w={window}")),
        (RATE_LIMIT, format!("\"{policy}\";r={remaining};t={reset_in}")),
    ];
    for (name, text) in texts {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_the_query_is_seen() {
        for (group, query, is_key) in [
            (RouteGroup::V1, "key=AIza", true),
            (RouteGroup::V1, "beta=true&key=x", true),
            (RouteGroup::V1, "beta=true&keys=x&key=", false),
            (RouteGroup::V1, "", false),
            (RouteGroup::Hub, "key=color", false),
            (RouteGroup::Hub, "q=ps_live_x", true),
        ] {
            assert_eq!(has_key_in_query(group, query), is_key, "{query}");
        }
    }
}
