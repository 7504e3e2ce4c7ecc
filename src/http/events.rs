//! `GET /api/admin/events`: what happens now, as Server-Sent Events.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};
use utoipa::{IntoParams, ToSchema};

use super::amount::{Amount, to_json};
use super::connection::ConnectionState;
use super::docs::id;
use super::environment::EnvironmentName;
use super::error::{ApiError, ErrorBody};
use super::extract::AdminUser;
use super::page::query;
use super::{App, uncancelled};
use crate::live::{LiveSample, Slowest};
use crate::metrics::live::LiveCall;

const INTERVAL: Duration = Duration::from_secs(1);
const SECONDS_MAX: u32 = 900;
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const KIND: &str = "text/event-stream";

/// For how long.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// How many events, from 1 to 900; 900 if absent.
    #[param(minimum = 1, maximum = 900)]
    seconds: Option<u32>,
}

/// A call that has ended. Nothing of what was said in it.
#[derive(Serialize, ToSchema)]
pub(super) struct LiveCallBody {
    #[schema(pattern = "^req-[0-9a-f-]{36}$")]
    request_id: String,
    #[schema(format = DateTime)]
    started_at: String,
    /// Whose key was used.
    #[schema(value_type = id::UserId)]
    user_id: String,
    /// `live` or `test`
    #[schema(value_type = EnvironmentName)]
    environment: &'static str,
    endpoint: String,
    /// The model that was asked for; null if none was.
    model: Option<String>,
    /// The deployment or the upstream that was asked last.
    upstream: String,
    status: u16,
    cost: Amount,
    /// From its arrival to its end.
    #[schema(minimum = 0)]
    duration_ms: i64,
}

impl From<LiveCall> for LiveCallBody {
    fn from(LiveCall { user, environment, usage, cost, .. }: LiveCall) -> Self {
        LiveCallBody {
            request_id: usage.id.to_string(),
            started_at: usage.started_at.to_rfc3339_micros(),
            user_id: user.to_string(),
            environment: environment.name(),
            endpoint: usage.route.to_string(),
            model: Some(usage.model.to_string()).filter(|model| !model.is_empty()),
            upstream: usage.upstream.to_string(),
            status: usage.status,
            cost: Amount(cost),
            duration_ms: usage.latency_micros.max(0) / 1_000,
        }
    }
}

/// Who is slowest.
#[derive(Serialize, ToSchema)]
pub(super) struct SlowestBody {
    name: String,
    /// To the first byte of the answer, on average.
    #[schema(minimum = 0)]
    first_byte_ms: i64,
}

impl From<Slowest> for SlowestBody {
    fn from(Slowest { name, micros }: Slowest) -> Self {
        SlowestBody { name, first_byte_ms: micros.max(0) / 1_000 }
    }
}

/// What has happened since the event before: the data of an event `second`.
#[derive(Serialize, ToSchema)]
pub(super) struct SecondBody {
    #[schema(format = DateTime)]
    at: String,
    /// Paid calls that were answered.
    #[schema(minimum = 0)]
    calls: u64,
    /// Requests of all kinds that were answered with 500 or above.
    #[schema(minimum = 0)]
    errors: u64,
    /// Calls that were refused, by reason.
    refusals: BTreeMap<&'static str, u64>,
    /// What calls of live accounts have come to in the last minute.
    spent_in_minute: Amount,
    /// The same of test accounts.
    test_spent_in_minute: Amount,
    /// How many seconds of that minute were watched, up to 60.
    #[schema(minimum = 0)]
    seconds: usize,
    /// Calls that run with live keys.
    #[schema(minimum = 0)]
    running: usize,
    /// Calls that run with test keys.
    #[schema(minimum = 0)]
    test_running: usize,
    /// The deployment that is slowest, by its last calls; null if none was asked yet.
    slowest_deployment: Option<SlowestBody>,
    /// The upstream that is slowest, by the calls of the last minute; null if none was asked.
    slowest_upstream: Option<SlowestBody>,
    /// The calls that have ended, the last first, at most 50.
    latest: Vec<LiveCallBody>,
}

impl From<LiveSample> for SecondBody {
    fn from(sample: LiveSample) -> Self {
        let [spent, test_spent] = sample.spent.map(Amount);
        let [running, test_running] = sample.running;
        SecondBody {
            at: sample.at.to_rfc3339_micros(),
            calls: sample.calls,
            errors: sample.errors,
            refusals: sample.refusals.into_iter().collect(),
            spent_in_minute: spent,
            test_spent_in_minute: test_spent,
            seconds: sample.seconds,
            running,
            test_running,
            slowest_deployment: sample.slowest_deployment.map(SlowestBody::from),
            slowest_upstream: sample.slowest_upstream.map(SlowestBody::from),
            latest: sample.latest.into_iter().map(LiveCallBody::from).collect(),
        }
    }
}

/// What happens now, an event `second` each second. The last event is `end`: its data has the
/// `reason`, which is `session_ended`, `not_operator`, `server_stops`, `time_over` (ask again) or
/// `not_known` (the database does not answer). At most eight may watch. The audit log says that
/// the operator does.
#[utoipa::path(get, path = "/api/admin/events", tag = "admin", security(("jwt" = [])),
    params(EventsQuery), responses(
    (status = 200, description = "The events", content((SecondBody = "text/event-stream"))),
    (status = 400, description = "A parameter is wrong", body = ErrorBody),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
    (status = 409, description = "As many as may watch already", body = ErrorBody),
))]
pub(super) async fn watch(
    AdminUser { id, session, origin, .. }: AdminUser,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let EventsQuery { seconds } = query(&request)?;
    if seconds.is_some_and(|seconds| !(1..=SECONDS_MAX).contains(&seconds)) {
        return Err(ApiError::field("seconds", format!("must be from 1 to {SECONDS_MAX}")));
    }
    if *request.method() == Method::HEAD {
        return Ok(HttpResponse::Ok().content_type(KIND).finish());
    }
    let beginning = async move { app.live.watch((id, session), seconds, origin).await };
    let watch = uncancelled(beginning).await?;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Or it would be closed as one that is idle.
    let busy = ConnectionState::of(&request).map(ConnectionState::busy);
    let state = Some((watch, ticks, busy));
    let events = stream::unfold(state, |state| async {
        let (mut watch, mut ticks, busy) = state?;
        ticks.tick().await;
        match watch.check().await {
            Ok(()) => {
                let second = to_json(&SecondBody::from(watch.sample()));
                Some((Ok(event("second", &second)), Some((watch, ticks, busy))))
            }
            Err(end) => {
                let reason = format!("{{\"reason\":\"{}\"}}", end.name());
                Some((Ok::<_, actix_web::Error>(event("end", &reason)), None))
            }
        }
    });
    let mut response = HttpResponse::Ok().content_type(KIND).streaming(events);
    // Proxies must not buffer.
    response.headers_mut().insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

fn event(name: &str, data: &str) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}
