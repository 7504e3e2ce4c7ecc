//! The places that requests have among those that run at the same time.

use actix_web::dev::{Payload, ServiceRequest};
use actix_web::{HttpMessage as _, HttpRequest};

use super::App;
use super::error::ApiError;
use crate::pipeline::Permit;
use domain::route_group::RouteGroup;

/// A request's place.
struct Place {
    has_session: bool,
    /// Held until it is dropped.
    _permit: Permit,
}

/// Does the request get its place from the edge? A paid call gets one when its key is known and its
/// body is there. Health and metrics must answer also at full load.
fn is_counted(path: &str) -> bool {
    let is_paid = || RouteGroup::ALL.into_iter().any(|group| path.starts_with(group.path()));
    !path.starts_with("/health/") && path != "/metrics" && !is_paid()
}

/// Gives a request the place that it has from its beginning: by whether it has a session, and
/// whether its body is on its way.
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
    let (_, payload) = request.parts();
    let is_whole = matches!(payload, Payload::None);
    let (has_session, admission) = (has_session(), &app.readiness);
    let permit = match (has_session, is_whole) {
        (true, true) => admission.admit_session(),
        (true, false) => admission.admit_receiving(),
        (false, _) => admission.admit_stranger(),
    };
    let place = Place { has_session, _permit: permit.ok_or(ApiError::Overloaded)? };
    request.extensions_mut().insert(place);
    Ok(())
}

/// Gives a request whose body is there a place among those of users with a session, if it has one.
/// A stranger's keeps its place.
///
/// # Errors
/// [`ApiError::Overloaded`] if there is none left.
pub(super) fn take_place(request: &HttpRequest, app: &App) -> Result<(), ApiError> {
    let mut extensions = request.extensions_mut();
    if extensions.get::<Place>().is_some_and(|place| place.has_session) {
        let permit = app.readiness.admit_session().ok_or(ApiError::Overloaded)?;
        extensions.insert(Place { has_session: true, _permit: permit });
    }
    Ok(())
}

/// Gives the place of a request that has its answer back.
pub(super) fn leave_place(request: &HttpRequest) {
    drop(request.extensions_mut().remove::<Place>());
}
