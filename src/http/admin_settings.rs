//! `GET /api/admin/settings`.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, ErrorBody};
use super::extract::AdminUser;
use crate::config::{ListedSetting, Source};

/// A setting in force.
#[derive(Serialize, ToSchema)]
pub(super) struct SettingBody {
    /// Its section and name, such as `server.bind`.
    name: String,
    /// null: it is not set. `[redacted]` stands for a secret, and for a credential in a URL.
    #[schema(value_type = Value, nullable)]
    value: Value,
    /// What follows from that it is not set, if that is not obvious.
    consequence: Option<String>,
    /// Where the value comes from.
    #[schema(pattern = "^(default|file|environment)$")]
    source: &'static str,
    /// The path of the file, or the name of the variable.
    source_name: Option<String>,
    /// When a change counts. `restart`: from the next start on. `restart_or_file`: so does another
    /// path, but the running server follows what is in the file.
    #[schema(pattern = "^(restart|restart_or_file)$")]
    change: &'static str,
}

impl From<&ListedSetting> for SettingBody {
    fn from(setting: &ListedSetting) -> Self {
        let (source, source_name) = match &setting.source {
            None => ("default", None),
            Some(Source::File(path)) => ("file", Some(path.clone())),
            Some(Source::Variable(name)) => ("environment", Some(name.clone())),
        };
        let is_followed = setting.names_followed_file() && !setting.value.is_null();
        SettingBody {
            name: setting.path(),
            value: setting.value.clone(),
            consequence: setting.consequence.clone(),
            source,
            source_name,
            change: if is_followed { "restart_or_file" } else { "restart" },
        }
    }
}

/// The settings in force.
#[derive(Serialize, ToSchema)]
pub(super) struct SettingsAnswer {
    settings: Vec<SettingBody>,
    /// Always null: these are all.
    next_cursor: Option<String>,
}

/// The settings in force and where each comes from, without secrets. Prices are in
/// `GET /api/pricing`.
#[utoipa::path(get, path = "/api/admin/settings", tag = "admin", security(("jwt" = [])), responses(
    (status = 200, description = "The settings", body = SettingsAnswer),
    (status = 403, description = "Not an operator, or one without a second factor", body = ErrorBody),
))]
pub(super) async fn settings(_: AdminUser, app: Data<App>) -> Result<HttpResponse, ApiError> {
    let settings = app.settings.iter().map(SettingBody::from).collect();
    Ok(HttpResponse::Ok().json(SettingsAnswer { settings, next_cursor: None }))
}
