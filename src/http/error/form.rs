//! The form of an error's body: the contract's own on `/api/*`, and that of the protocol on the
//! routes of a protocol, whose clients read nothing else. The contract's other fields stand beside.

use std::borrow::Cow;

use actix_web::ResponseError as _;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::UnavailableOutcome;
use super::{ApiError, ErrorBody, FieldError};
use crate::upstream::Dialect;
use domain::Refusal;

/// Who reads the body of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Readers of the contract: `error` is a text.
    Contract,
    /// Clients of OpenAI: `error` is an object with `message`, `type`, `param` and `code`.
    OpenAi,
    /// Clients of Anthropic: `type` is `error`, and `error` an object with `type` and `message`.
    Anthropic,
    /// Clients of Google's Gemini: `error` is an object with `code`, `message` and `status`.
    Gemini,
}

impl Form {
    /// The form of a path's errors.
    pub(crate) fn of(path: &str) -> Self {
        let is_below = |root: &str| {
            path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        // Gemini names the method after the model: `/v1/models/NAME:generateContent`.
        let is_method = Dialect::of(path).is_gemini();
        if is_below("/v1/messages") {
            Form::Anthropic
        } else if is_method || is_below("/v1beta") {
            Form::Gemini
        } else if is_below("/v1") {
            Form::OpenAi
        } else {
            Form::Contract
        }
    }

    /// The same of a request: models are listed for the clients of every protocol, which tell by a
    /// header whose they are.
    pub(crate) fn of_request(path: &str, headers: &HeaderMap) -> Self {
        let rest = path.strip_prefix("/v1/models");
        let is_list = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match Form::of(path) {
            Form::OpenAi if is_list && headers.contains_key("anthropic-version") => Form::Anthropic,
            Form::OpenAi if is_list && headers.contains_key("x-goog-api-key") => Form::Gemini,
            form => form,
        }
    }
}

/// What the contract says of an error, beside `error`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ErrorRest {
    /// What to do about it.
    message: Cow<'static, str>,
    /// As in the header `X-Request-Id`.
    request_id: String,
    /// When it went wrong.
    timestamp: String,
    /// What went wrong, for programs, as in `ErrorBody`.
    #[serde(rename = "code")]
    #[schema(pattern = "^[a-z0-9_]+$")]
    own_code: &'static str,
    /// Where the code is explained, relative to the server.
    #[schema(pattern = "^/docs/errors#[a-z0-9_]+$")]
    doc_url: &'static str,
    /// The fields that are wrong, if any are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<FieldError>,
    /// As in `ErrorBody`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    outcome: Option<UnavailableOutcome>,
}

/// The body of an error on OpenAI's routes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiErrorBody {
    error: OpenAiError,
    #[serde(flatten)]
    rest: ErrorRest,
}

/// An error as OpenAI's clients read it.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct OpenAiError {
    /// What to do about it.
    message: Cow<'static, str>,
    /// Its kind, as OpenAI names it.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The field of the request that is wrong, if it is one.
    param: Option<String>,
    /// A word for programs: OpenAI's if it has one for it, else this server's own.
    code: &'static str,
}

/// The body of an error on Anthropic's routes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AnthropicErrorBody {
    /// Always `error`.
    #[serde(rename = "type")]
    #[schema(pattern = "^error$")]
    kind: &'static str,
    error: AnthropicError,
    #[serde(flatten)]
    rest: ErrorRest,
}

/// An error as Anthropic's clients read it.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct AnthropicError {
    /// Its kind, as Anthropic names it.
    #[serde(rename = "type")]
    kind: &'static str,
    /// What to do about it.
    message: Cow<'static, str>,
}

/// The body of an error on Gemini's routes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct GeminiErrorBody {
    error: GeminiError,
    #[serde(flatten)]
    rest: ErrorRest,
}

/// An error as Google's clients read it.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct GeminiError {
    /// The status of the answer.
    code: u16,
    /// What to do about it.
    message: Cow<'static, str>,
    /// Its kind, as gRPC names it.
    status: &'static str,
}

/// OpenAI's `type` of an error, and its `code` if it has one.
fn open_ai(status: StatusCode) -> (&'static str, Option<&'static str>) {
    let invalid = "invalid_request_error";
    match status.as_u16() {
        401 => (invalid, Some("invalid_api_key")),
        402 => ("insufficient_quota", Some("insufficient_quota")),
        403 => (invalid, Some("permission_denied")),
        404 => (invalid, Some("unknown_url")),
        405 => (invalid, Some("method_not_supported")),
        429 => ("requests", Some("rate_limit_exceeded")),
        // It is no fault of the request.
        424 | 500.. => ("server_error", None),
        _ => (invalid, None),
    }
}

/// Anthropic's `type` of an error. It is `invalid_request_error` for each 4xx without a word of its
/// own.
fn anthropic(status: StatusCode, outcome: Option<UnavailableOutcome>) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 if outcome == Some(UnavailableOutcome::NotAttempted) => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// Google's `status` of an error.
fn gemini(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        // Not to be repeated before the state of things is known (google.rpc.Code).
        402 | 424 => "FAILED_PRECONDITION",
        429 => "RESOURCE_EXHAUSTED",
        502 | 503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        500.. => "INTERNAL",
        _ => "INVALID_ARGUMENT",
    }
}

impl ApiError {
    /// The JSON of the answer, in this form.
    pub(crate) fn json(&self, form: Form, request_id: String, timestamp: String) -> String {
        let body = self.body(request_id, timestamp);
        let status = self.status_code();
        let written = match form {
            Form::Contract => serde_json::to_string(&body),
            Form::OpenAi => {
                let (kind, code) = open_ai(status);
                let code = match self {
                    ApiError::Refused(Refusal::ModelNotSold) => Some("model_not_found"),
                    ApiError::Refused(Refusal::ContextTooLong { .. }) => {
                        Some("context_length_exceeded")
                    }
                    // OpenAI has no words for these: the URL is known.
                    ApiError::Refused(Refusal::ModelNotPriced | Refusal::ModelRetired { .. }) => {
                        None
                    }
                    ApiError::Refused(Refusal::UpstreamBusy { .. }) => Some("upstream_busy"),
                    _ => code,
                };
                let code = code.unwrap_or(body.code);
                let param = match body.details.as_slice() {
                    [FieldError { field, .. }] => Some(field.clone()),
                    _ => None,
                };
                let error = OpenAiError { message: body.message.clone(), kind, param, code };
                serde_json::to_string(&OpenAiErrorBody { error, rest: body.into() })
            }
            Form::Anthropic => {
                let kind = anthropic(status, body.outcome);
                let error = AnthropicError { kind, message: body.message.clone() };
                let body = AnthropicErrorBody { kind: "error", error, rest: body.into() };
                serde_json::to_string(&body)
            }
            Form::Gemini => {
                let (code, message) = (status.as_u16(), body.message.clone());
                let error = GeminiError { code, message, status: gemini(status) };
                serde_json::to_string(&GeminiErrorBody { error, rest: body.into() })
            }
        };
        // This cannot fail: every key is a text.
        written.unwrap_or_default()
    }
}

impl From<ErrorBody> for ErrorRest {
    fn from(body: ErrorBody) -> Self {
        let ErrorBody { message, request_id, timestamp, code, doc_url, details, outcome, .. } =
            body;
        ErrorRest { message, request_id, timestamp, own_code: code, doc_url, details, outcome }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(path: &str, error: &ApiError) -> Value {
        let text = error.json(Form::of(path), "req-1".into(), "now".into());
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_path_has_the_form_of_its_protocol() {
        for (path, form) in [
            ("/api/hub/agents/chat", Form::Contract),
            ("/api/auth/login", Form::Contract),
            ("/", Form::Contract),
            ("/v12/x", Form::Contract),
            ("/v1", Form::OpenAi),
            ("/v1/chat/completions", Form::OpenAi),
            ("/v1/models/gpt-4o", Form::OpenAi),
            ("/v1/messagesx", Form::OpenAi),
            ("/v1/messages", Form::Anthropic),
            ("/v1/messages/count_tokens", Form::Anthropic),
            ("/v1/models/gemini:generateContent", Form::Gemini),
            ("/v1/models/llama3:8b", Form::OpenAi),
            ("/v1beta/models", Form::Gemini),
        ] {
            assert_eq!(Form::of(path), form, "{path}");
        }
    }

    #[test]
    fn a_list_of_models_has_the_form_of_its_client() {
        use actix_web::http::header::{HeaderName, HeaderValue};
        let form = |path: &str, header: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(header), HeaderValue::from_static("x"));
            Form::of_request(path, &headers)
        };
        for (path, header, expected) in [
            ("/v1/models", "accept", Form::OpenAi),
            ("/v1/models", "anthropic-version", Form::Anthropic),
            ("/v1/models/m", "anthropic-version", Form::Anthropic),
            ("/v1/models/m", "x-goog-api-key", Form::Gemini),
            ("/v1beta/models", "anthropic-version", Form::Gemini),
            ("/v1/chat/completions", "anthropic-version", Form::OpenAi),
            ("/v1/messages", "x-goog-api-key", Form::Anthropic),
        ] {
            assert_eq!(form(path, header), expected, "{path} {header}");
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "the table of errors is one table")]
    fn each_protocols_clients_read_its_own_words() {
        let price = "0.002".parse().unwrap();
        for (refusal, open_ai, anthropic, gemini) in [
            (
                Refusal::MissingKey,
                ("invalid_request_error", "invalid_api_key"),
                "authentication_error",
                "UNAUTHENTICATED",
            ),
            (
                Refusal::InsufficientCredits { price },
                ("insufficient_quota", "insufficient_quota"),
                "billing_error",
                "FAILED_PRECONDITION",
            ),
            (
                Refusal::NotPermitted,
                ("invalid_request_error", "permission_denied"),
                "permission_error",
                "PERMISSION_DENIED",
            ),
            (
                Refusal::ModelNotPriced,
                ("invalid_request_error", "model_not_priced"),
                "not_found_error",
                "NOT_FOUND",
            ),
            (
                Refusal::ModelRetired { successor: Some("claude-y".into()) },
                ("invalid_request_error", "model_retired"),
                "not_found_error",
                "NOT_FOUND",
            ),
            (
                Refusal::ServiceTierNotSold,
                ("invalid_request_error", "service_tier_not_sold"),
                "invalid_request_error",
                "INVALID_ARGUMENT",
            ),
            (
                Refusal::ContextTooLong { tokens: 9, max: 5 },
                ("invalid_request_error", "context_length_exceeded"),
                "invalid_request_error",
                "INVALID_ARGUMENT",
            ),
            (
                Refusal::NoPrice,
                ("invalid_request_error", "unknown_url"),
                "not_found_error",
                "NOT_FOUND",
            ),
            (
                Refusal::BadBody("stream: must be true or false".into()),
                ("invalid_request_error", "bad_request"),
                "invalid_request_error",
                "INVALID_ARGUMENT",
            ),
            (
                Refusal::RateLimited { retry_after: 1 },
                ("requests", "rate_limit_exceeded"),
                "rate_limit_error",
                "RESOURCE_EXHAUSTED",
            ),
            (
                Refusal::OutcomeUnknown(""),
                ("server_error", "outcome_unknown"),
                "invalid_request_error",
                "FAILED_PRECONDITION",
            ),
            (
                Refusal::UpstreamGivenUp { cost: price },
                ("server_error", "upstream_given_up"),
                "invalid_request_error",
                "FAILED_PRECONDITION",
            ),
            (
                Refusal::Overloaded,
                ("server_error", "server_overloaded"),
                "overloaded_error",
                "UNAVAILABLE",
            ),
            (
                Refusal::UpstreamBusy { retry_after: 7, is_limit: true },
                ("requests", "upstream_busy"),
                "rate_limit_error",
                "RESOURCE_EXHAUSTED",
            ),
            (
                Refusal::UpstreamBusy { retry_after: 7, is_limit: false },
                ("server_error", "upstream_busy"),
                "overloaded_error",
                "UNAVAILABLE",
            ),
            (
                Refusal::UpstreamTimedOut,
                ("server_error", "upstream_timeout"),
                "timeout_error",
                "DEADLINE_EXCEEDED",
            ),
        ] {
            let error = ApiError::from(refusal);
            let body = serde_json::to_value(error.body("req-1".into(), "now".into())).unwrap();
            let message = &body["message"];
            let mut rest = body.clone();
            for own in ["error", "type"] {
                rest.as_object_mut().unwrap().remove(own);
            }
            let with = |fields: Value| {
                let mut all = rest.clone();
                all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
                all
            };
            assert_eq!(told("/api/hub/x", &error), body);
            let (kind, code) = open_ai;
            let inner = json!({ "message": message, "type": kind, "param": null, "code": code });
            assert_eq!(told("/v1/completions", &error), with(json!({ "error": inner })));
            let inner = json!({ "type": anthropic, "message": message });
            let all = with(json!({ "type": "error", "error": inner }));
            assert_eq!(told("/v1/messages", &error), all);
            let code = error.status_code().as_u16();
            let inner = json!({ "code": code, "message": message, "status": gemini });
            assert_eq!(told("/v1beta/models/m:x", &error), with(json!({ "error": inner })));
        }
    }

    #[test]
    fn one_wrong_field_is_named() {
        let error = ApiError::field("X-Dry-Run", "must be true or false");
        let body = told("/v1/chat/completions", &error);
        assert_eq!(body["error"]["param"], "X-Dry-Run");
        assert_eq!(body["error"]["code"], "validation_error");
        assert_eq!(body["details"][0]["field"], "X-Dry-Run");
    }
}
