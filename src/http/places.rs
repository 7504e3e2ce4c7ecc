//! The places that requests have among those that run at the same time.

use std::sync::Arc;

use actix_web::dev::ServiceRequest;
use actix_web::{HttpMessage as _, HttpRequest};

use super::App;
use super::error::ApiError;
use crate::pipeline::{Admission, BodyOf, Permit};
use domain::route_group::RouteGroup;

/// Where payment providers send their events.
const PROVIDERS_PATH: &str = "/api/payments/stripe/webhook";

/// Whose request it is, as far as its head tells.
#[derive(Clone, Copy)]
enum Of {
    /// A user with a session.
    Session,
    /// Anybody without a credential.
    Stranger,
    /// A payment provider. Whether it is one is seen by the signature of its body.
    Provider,
}

/// A request's place.
struct Place {
    of: Of,
    /// `None` while the body is on its way.
    permit: Option<Permit>,
}

impl Place {
    fn take(of: Of, admission: &Arc<Admission>) -> Result<Self, ApiError> {
        let permit = match of {
            Of::Session => admission.admit_session(),
            Of::Stranger => admission.admit_stranger(),
            Of::Provider => admission.admit_provider(),
        };
        Ok(Place { of, permit: Some(permit.ok_or(ApiError::Overloaded)?) })
    }
}

/// Does the request get its place from the edge? A paid call gets one when its key is known and its
/// body is there. Health and metrics must answer also at full load.
fn is_counted(path: &str) -> bool {
    let is_paid = || RouteGroup::of(path).is_some();
    let is_health = || matches!(path, "/livez" | "/readyz" | "/healthz" | "/metrics");
    !path.starts_with("/health/") && !is_health() && !is_paid()
}

/// Whose body a request that is no call has.
pub(super) fn body_of(request: &HttpRequest) -> BodyOf {
    if request.path() == PROVIDERS_PATH { BodyOf::Provider } else { BodyOf::Account }
}

/// Gives a request the place that it has from its beginning.
///
/// # Errors
/// [`ApiError::Overloaded`] if there is none left.
pub(super) fn take_first_place(
    request: &ServiceRequest,
    app: &App,
    has_session: impl FnOnce() -> bool,
) -> Result<(), ApiError> {
    if !is_counted(request.path()) {
        return Ok(());
    }
    let of = match request.path() {
        PROVIDERS_PATH => Of::Provider,
        _ if has_session() => Of::Session,
        _ => Of::Stranger,
    };
    request.extensions_mut().insert(Place::take(of, &app.readiness)?);
    Ok(())
}

/// Gives the place of a request back whose body is on its way: its sender could keep it for as long
/// as a body may take.
pub(super) fn step_out(request: &HttpRequest) {
    if let Some(place) = request.extensions_mut().get_mut::<Place>() {
        place.permit = None;
    }
}

/// Gives a request a place again whose body is there.
///
/// # Errors
/// [`ApiError::Overloaded`] if there is none left.
pub(super) fn step_in(request: &HttpRequest, app: &App) -> Result<(), ApiError> {
    if let Some(place) = request.extensions_mut().get_mut::<Place>()
        && place.permit.is_none()
    {
        *place = Place::take(place.of, &app.readiness)?;
    }
    Ok(())
}

/// Gives the place of a request that has its answer back.
pub(super) fn leave_place(request: &HttpRequest) {
    drop(request.extensions_mut().remove::<Place>());
}
