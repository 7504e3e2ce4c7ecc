//! Stripe: hosted Checkout, saved payment methods, signed webhooks; by its REST API, of the version
//! that is pinned here.
//!
//! Amounts are whole cents. Every POST has an idempotency key derived from its subject, so that one
//! repeated after a crash is the same request.

mod objects;

use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::Value;
use sha2::Sha256;
use tokio::runtime::Handle;

use super::provider::{
    Order, Progress, Provider, ProviderAnswer, ProviderError, SeenReversal, Stage, at,
};
use crate::config::{Secret, StripeSettings};
use crate::store::payments::Payment;
use domain::{PaymentId, ReversalKind, Timestamp, UserId};
use objects::{
    REVERSAL_EVENTS, cents, escaped, failure_of, hint_of, id_of, metadata, payment_of, reversal,
    saved_method, stage_of, text,
};

pub use objects::{Hint, SavedMethod, is_whole_cents};

/// Its name in the API.
pub const NAME: &str = "stripe";

/// The version of Stripe's API that this was written for.
const VERSION: &str = "2025-08-27.basil";
/// How far the time of a webhook's signature may be from the server's clock, in seconds (Stripe's
/// own tolerance).
const TOLERANCE_SECONDS: i64 = 300;
/// How long one request may take.
const REQUEST_MAX: Duration = Duration::from_secs(20);
/// The largest answer that is read, in bytes.
const ANSWER_MAX: usize = 4 * 1024 * 1024;
/// Pages of a list of refunds or disputes that are read.
const PAGES_MAX: usize = 50;
/// See the module.
pub struct Stripe {
    client: reqwest::Client,
    runtime: Handle,
    secret_key: Secret,
    webhook_secret: Secret,
    url: String,
    success_url: String,
    cancel_url: String,
    checkout_seconds: i64,
    is_live: bool,
}

/// A webhook that is not Stripe's, or not of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// The header is missing, or cannot be read.
    #[error("the Stripe-Signature header is missing or malformed")]
    Malformed,
    /// Signed too long ago, or in the future.
    #[error("the signature's time is too far from now")]
    Stale,
    /// Signed with another secret, or of another body.
    #[error("the signature does not match")]
    Wrong,
}

impl Stripe {
    /// The client of the settings; `None` if Stripe is not used. Requests run on `runtime`.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(settings: &StripeSettings, runtime: Handle) -> anyhow::Result<Option<Self>> {
        let (Some(secret_key), Some(webhook_secret)) =
            (&settings.secret_key, &settings.webhook_secret)
        else {
            return Ok(None);
        };
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST_MAX)
            .build()?;
        Ok(Some(Stripe {
            client,
            runtime,
            secret_key: secret_key.clone(),
            webhook_secret: webhook_secret.clone(),
            url: settings.url.trim_end_matches('/').to_owned(),
            success_url: settings.success_url.clone(),
            cancel_url: settings.cancel_url.clone(),
            checkout_seconds: i64::from(settings.checkout_minutes).saturating_mul(60),
            is_live: settings.is_live(),
        }))
    }

    /// Does it move real money?
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// How long a payer may take to pay, in seconds.
    #[must_use]
    pub fn checkout_seconds(&self) -> i64 {
        self.checkout_seconds
    }

    /// Is this webhook Stripe's, and of now? (Stripe, "Verify webhook signatures manually")
    pub fn verify(
        &self,
        header: Option<&str>,
        body: &[u8],
        now: Timestamp,
    ) -> Result<(), BadSignature> {
        let mut time = None;
        let mut signatures = Vec::new();
        for part in header.ok_or(BadSignature::Malformed)?.split(',') {
            match part.trim().split_once('=') {
                Some(("t", text)) => time = text.parse::<i64>().ok(),
                Some(("v1", text)) => signatures.push(text),
                _ => {}
            }
        }
        let time = time.filter(|_| !signatures.is_empty()).ok_or(BadSignature::Malformed)?;
        if now.seconds().abs_diff(time) > TOLERANCE_SECONDS.unsigned_abs() {
            return Err(BadSignature::Stale);
        }
        let secret = self.webhook_secret.expose().as_bytes();
        let mut mac =
            Hmac::<Sha256>::new_from_slice(secret).map_err(|_| BadSignature::Malformed)?;
        mac.update(time.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        let is_ours = |text: &&str| {
            // In constant time.
            hex::decode(text).is_ok_and(|bytes| mac.clone().verify_slice(&bytes).is_ok())
        };
        if signatures.iter().any(is_ours) { Ok(()) } else { Err(BadSignature::Wrong) }
    }

    /// The subject of a webhook; `None` if it is not an event. Its object is an old snapshot, so
    /// nothing but the ids is read from it.
    #[must_use]
    pub fn hint(body: &[u8]) -> Option<Hint> {
        hint_of(&serde_json::from_slice(body).ok()?)
    }

    /// Refunds and disputes since a time, from Stripe's list of events, which it keeps for 30 days.
    /// It makes up for lost webhooks.
    pub async fn reversals_since(&self, since: Timestamp) -> Result<Vec<Hint>, ProviderError> {
        let since = since.seconds().to_string();
        let mut filter = vec![("created[gte]", since.as_str())];
        filter.extend(REVERSAL_EVENTS.map(|kind| ("types[]", kind)));
        let mut hints: Vec<Hint> = Vec::new();
        for hint in self.list("/v1/events", &filter).await?.iter().filter_map(hint_of) {
            if !hints.contains(&hint) {
                hints.push(hint);
            }
        }
        Ok(hints)
    }

    /// The payment that a payment intent is of.
    pub async fn payment_of_intent(
        &self,
        intent: &str,
    ) -> Result<Option<PaymentId>, ProviderError> {
        let intent = self.get(&format!("/v1/payment_intents/{}", escaped(intent)), &[]).await?;
        Ok(payment_of(&intent))
    }

    /// Makes a customer of a user; the same one, asked again within a day. A user whose address is
    /// proved gets another one than before the proof.
    pub async fn make_customer(
        &self,
        user: UserId,
        email: &str,
        is_proved: bool,
    ) -> Result<String, ProviderError> {
        let once = format!("customer-{user}{}", if is_proved { "-proved" } else { "" });
        let form = [("email".to_owned(), email.to_owned()), metadata("", "user_id", &user)];
        let customer = self.post("/v1/customers", &form, &once).await?;
        text(&customer, "id")
    }

    /// The payment methods that a customer has saved; none if the customer is gone.
    pub async fn methods(&self, customer: &str) -> Result<Vec<SavedMethod>, ProviderError> {
        let path = format!("/v1/customers/{}/payment_methods", escaped(customer));
        let limit = [("limit".to_owned(), "100".to_owned())];
        let list = match self.send(Method::GET, &path, &limit, None).await? {
            Reply::Refused(error) if is_gone(&error) => return Ok(Vec::new()),
            reply => done(reply)?,
        };
        let methods = at(&list, "data").as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(methods.iter().filter_map(saved_method).collect())
    }

    /// Lets go of a customer's payment method; is it theirs?
    pub async fn detach(&self, customer: &str, method: &str) -> Result<bool, ProviderError> {
        if !self.methods(customer).await?.iter().any(|saved| saved.id == method) {
            return Ok(false);
        }
        let path = format!("/v1/payment_methods/{}/detach", escaped(method));
        self.post(&path, &[], &format!("detach-{method}")).await?;
        Ok(true)
    }

    /// Deletes a customer, with the address and the payment methods that Stripe has. One who is
    /// gone is deleted.
    pub async fn delete_customer(&self, customer: &str) -> Result<(), ProviderError> {
        let path = format!("/v1/customers/{}", escaped(customer));
        match self.send(Method::DELETE, &path, &[], None).await? {
            Reply::Refused(error) if is_gone(&error) => Ok(()),
            reply => done(reply).map(drop),
        }
    }

    /// A page on which a customer saves a payment method without paying. `once` names the request.
    pub async fn setup_url(&self, customer: &str, once: &str) -> Result<String, ProviderError> {
        let form = [
            ("mode", "setup"),
            ("currency", "usd"),
            ("customer", customer),
            ("success_url", &self.success_url),
            ("cancel_url", &self.cancel_url),
        ];
        let form = form.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let session = self.post("/v1/checkout/sessions", &form, &format!("setup-{once}")).await?;
        text(&session, "url")
    }

    async fn check_out(&self, order: &Order) -> Result<Progress, ProviderError> {
        let payment = &order.payment;
        let cents = cents(payment.amount)?.to_string();
        let expires_at =
            payment.created_at.seconds().saturating_add(self.checkout_seconds).to_string();
        let mut form: Vec<(String, String)> = [
            ("mode", "payment"),
            ("line_items[0][quantity]", "1"),
            ("line_items[0][price_data][currency]", "usd"),
            ("line_items[0][price_data][unit_amount]", &cents),
            ("line_items[0][price_data][product_data][name]", "API credits"),
            ("payment_intent_data[setup_future_usage]", "off_session"),
            ("success_url", &self.success_url),
            ("cancel_url", &self.cancel_url),
            ("expires_at", &expires_at),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        form.push(metadata("", "payment_id", &payment.id));
        form.push(metadata("payment_intent_data", "payment_id", &payment.id));
        if let Some(customer) = &order.customer {
            form.push(("customer".into(), customer.clone()));
        }
        let session = self.post("/v1/checkout/sessions", &form, &payment.id.to_string()).await?;
        let provider_ref = Some(text(&session, "id")?);
        let checkout_url = at(&session, "url").as_str().map(str::to_owned);
        Ok(Progress { provider_ref, checkout_url, ..Progress::at(Stage::Waiting) })
    }

    /// Charges a saved payment method, without its owner being there.
    async fn charge(&self, order: &Order, method: &str) -> Result<Progress, ProviderError> {
        let payment = &order.payment;
        let customer = order.customer.as_deref().unwrap_or_default();
        let form = [
            ("amount".to_owned(), cents(payment.amount)?.to_string()),
            ("currency".to_owned(), "usd".to_owned()),
            ("customer".to_owned(), customer.to_owned()),
            ("payment_method".to_owned(), method.to_owned()),
            ("off_session".to_owned(), "true".to_owned()),
            ("confirm".to_owned(), "true".to_owned()),
            ("description".to_owned(), "API credits".to_owned()),
            metadata("", "payment_id", &payment.id),
        ];
        let path = "/v1/payment_intents";
        let answer = self.send(Method::POST, path, &form, Some(&payment.id.to_string())).await?;
        match answer {
            Reply::Done(intent) => {
                let provider_ref = Some(text(&intent, "id")?);
                Ok(Progress { provider_ref, ..Progress::at(stage_of(&intent, true)) })
            }
            Reply::Refused(error) => {
                let intent = at(&error, "payment_intent");
                let provider_ref = id_of(intent).map(str::to_owned);
                let failure = Stage::Failed(failure_of(&error));
                Ok(Progress { provider_ref, ..Progress::at(failure) })
            }
        }
    }

    async fn progress(
        &self,
        payment: &Payment,
        hint: Option<&str>,
    ) -> Result<Progress, ProviderError> {
        let reference = payment.provider_ref.as_deref().or(hint);
        let Some(reference) = reference else { return Ok(Progress::at(Stage::Waiting)) };
        let mut intent = None;
        let mut is_complete = false;
        if reference.starts_with("cs_") {
            let path = format!("/v1/checkout/sessions/{}", escaped(reference));
            let session = self.get(&path, &[]).await?;
            intent = id_of(at(&session, "payment_intent")).map(str::to_owned);
            let is_over = *at(&session, "status") == "expired";
            is_complete = *at(&session, "status") == "complete";
            if intent.is_none() || (is_over && *at(&session, "payment_status") != "paid") {
                return Ok(Progress::at(if is_over { Stage::Expired } else { Stage::Waiting }));
            }
        }
        let intent = intent.as_deref().unwrap_or(reference);
        let path = format!("/v1/payment_intents/{}", escaped(intent));
        let found = self.get(&path, &[("expand[]", "latest_charge")]).await?;
        if payment_of(&found) != Some(payment.id) {
            return Err(ProviderError::Refused(format!("{intent} is of another payment")));
        }
        // A payment that failed after the payer left the page cannot be retried there.
        let is_over = is_complete && *at(&found, "status") == "requires_payment_method";
        let stage = stage_of(&found, payment.method.is_some() || is_over);
        let reversals = match stage {
            Stage::Paid(_) => self.reversals(intent).await?,
            _ => Vec::new(),
        };
        Ok(Progress { reversals, ..Progress::at(stage) })
    }

    async fn reversals(&self, intent: &str) -> Result<Vec<SeenReversal>, ProviderError> {
        let mut seen = Vec::new();
        for refund in self.list("/v1/refunds", &[("payment_intent", intent)]).await? {
            let is_nothing = matches!(at(&refund, "status").as_str(), Some("failed" | "canceled"));
            seen.push(reversal(&refund, ReversalKind::Refund, is_nothing)?);
        }
        for dispute in self.list("/v1/disputes", &[("payment_intent", intent)]).await? {
            // An inquiry takes nothing; a won dispute is credited back.
            let status = at(&dispute, "status").as_str().unwrap_or_default();
            let is_nothing = status.starts_with("warning") || matches!(status, "won" | "prevented");
            seen.push(reversal(&dispute, ReversalKind::Dispute, is_nothing)?);
        }
        Ok(seen)
    }

    async fn list(&self, path: &str, filter: &[(&str, &str)]) -> Result<Vec<Value>, ProviderError> {
        let mut all: Vec<Value> = Vec::new();
        for _ in 0..PAGES_MAX {
            let last = all.last().and_then(|last| at(last, "id").as_str()).map(str::to_owned);
            let mut query = filter.to_vec();
            query.push(("limit", "100"));
            query.extend(last.as_deref().map(|last| ("starting_after", last)));
            let page = self.get(path, &query).await?;
            all.extend(at(&page, "data").as_array().cloned().unwrap_or_default());
            if *at(&page, "has_more") != true {
                return Ok(all);
            }
        }
        Err(ProviderError::Unreachable(format!("{path} does not end")))
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, ProviderError> {
        let query: Vec<(String, String)> =
            query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        done(self.send(Method::GET, path, &query, None).await?)
    }

    async fn post(
        &self,
        path: &str,
        form: &[(String, String)],
        once: &str,
    ) -> Result<Value, ProviderError> {
        done(self.send(Method::POST, path, form, Some(once)).await?)
    }

    /// One request. A final refusal is an answer; every other failure can be retried.
    async fn send(
        &self,
        method: Method,
        path: &str,
        fields: &[(String, String)],
        once: Option<&str>,
    ) -> Result<Reply, ProviderError> {
        let unreachable = |why: String| ProviderError::Unreachable(why);
        let mut url = reqwest::Url::parse(&format!("{}{path}", self.url))
            .map_err(|error| ProviderError::Refused(error.to_string()))?;
        let mut form = url::form(fields);
        if method == Method::GET {
            url.set_query((!form.is_empty()).then_some(form.as_str()));
            form.clear();
        }
        let mut request = self
            .client
            .request(method.clone(), url)
            .bearer_auth(self.secret_key.expose())
            .header("Stripe-Version", VERSION);
        if let Some(once) = once {
            request = request
                .header("Idempotency-Key", once)
                .header("Content-Type", "application/x-www-form-urlencoded")
                .body(form);
        }
        // On the runtime of the client's connections, and to its end even if the caller leaves.
        let exchange = self.runtime.spawn(async move {
            let answer = request.send().await.map_err(|error| error.without_url().to_string())?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            let body = super::http::read_body(answer, ANSWER_MAX).await?;
            Ok::<_, String>((status, headers, body))
        });
        let exchanged = exchange.await.map_err(|error| unreachable(error.to_string()))?;
        let (status, headers, body) = exchanged.map_err(unreachable)?;
        let mut value: Value = serde_json::from_slice(&body)
            .map_err(|_| ProviderError::Unreachable(format!("{status} without JSON")))?;
        if status.is_success() {
            return Ok(Reply::Done(value));
        }
        let error = value.get_mut("error").map(Value::take).unwrap_or_default();
        let may_pass = match headers.get("stripe-should-retry").map(HeaderValue::as_bytes) {
            Some(b"true") => true,
            Some(b"false") => false,
            _ => {
                status.is_server_error()
                    // A wrong API key, a conflict, a failed dependency at Stripe, too many
                    // requests.
                    || matches!(status.as_u16(), 401 | 403 | 409 | 424 | 429)
            }
        };
        if may_pass {
            let failure = failure_of(&error);
            return Err(ProviderError::Unreachable(format!("{status}: {failure}")));
        }
        Ok(Reply::Refused(error))
    }
}

impl Provider for Stripe {
    fn name(&self) -> &'static str {
        NAME
    }

    fn begin<'p>(&'p self, order: &'p Order) -> ProviderAnswer<'p, Progress> {
        Box::pin(async move {
            match order.payment.method.as_deref() {
                Some(method) => self.charge(order, method).await,
                None => self.check_out(order).await,
            }
        })
    }

    fn check<'p>(
        &'p self,
        payment: &'p Payment,
        hint: Option<&'p str>,
        _: Timestamp,
    ) -> ProviderAnswer<'p, Progress> {
        Box::pin(self.progress(payment, hint))
    }
}

/// What Stripe says.
enum Reply {
    Done(Value),
    /// No, for good.
    Refused(Value),
}

/// Does a refusal say that there is no such object?
fn is_gone(error: &Value) -> bool {
    *at(error, "code") == "resource_missing"
}

fn done(reply: Reply) -> Result<Value, ProviderError> {
    match reply {
        Reply::Done(value) => Ok(value),
        Reply::Refused(error) => Err(ProviderError::Refused(failure_of(&error))),
    }
}

/// Forms, as browsers send them.
mod url {
    /// The fields as `application/x-www-form-urlencoded`.
    pub(super) fn form(fields: &[(String, String)]) -> String {
        let Ok(mut url) = reqwest::Url::parse("form:?") else { return String::new() };
        if !fields.is_empty() {
            url.query_pairs_mut().extend_pairs(fields);
        }
        url.query().unwrap_or_default().trim_start_matches('&').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::objects::credits;
    use super::*;

    fn stripe() -> Stripe {
        let secret = |text: &str| serde_json::from_value::<Secret>(text.into()).ok();
        let settings = StripeSettings {
            secret_key: secret("sk_test"),
            webhook_secret: secret("whsec_test"),
            ..StripeSettings::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Stripe::new(&settings, runtime.handle().clone()).unwrap().unwrap()
    }

    #[test]
    fn only_what_stripe_has_signed_now_is_stripes() {
        let (stripe, body) = (stripe(), br#"{"type":"a.b"}"#);
        let signed = "e37060f161a3f56d3055efa90a45c205a2c605ccacd7b63c1bf0018e07dff786";
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let now = at(1_492_774_577);
        let verify = |header: &str, now| stripe.verify(Some(header), body, now);
        let header = format!("t=1492774577,v1={signed}");
        assert_eq!(verify(&header, now), Ok(()));
        // A rolled secret signs beside the new one; other schemes do not count.
        assert_eq!(verify(&format!("t=1492774577,v1={},v1={signed}", "0".repeat(64)), now), Ok(()));
        assert_eq!(verify(&header, at(1_492_774_577 + 300)), Ok(()));
        for far in [-301, 301] {
            assert_eq!(verify(&header, at(1_492_774_577 + far)), Err(BadSignature::Stale));
        }
        for (header, error) in [
            (format!("t=1492774578,v1={signed}"), BadSignature::Wrong),
            (format!("t=1492774577,v1={}0", &signed[..63]), BadSignature::Wrong),
            (format!("t=1492774577,v0={signed}"), BadSignature::Malformed),
            (format!("v1={signed}"), BadSignature::Malformed),
            ("t=1492774577,v1=".to_owned(), BadSignature::Wrong),
            ("t=1492774577,v1=üü".to_owned(), BadSignature::Wrong),
            (String::new(), BadSignature::Malformed),
        ] {
            assert_eq!(verify(&header, now), Err(error), "{header}");
        }
        assert_eq!(stripe.verify(None, body, now), Err(BadSignature::Malformed));
        assert_eq!(stripe.verify(Some(&header), b"{}", now), Err(BadSignature::Wrong));
    }

    #[test]
    fn forms_are_written_as_browsers_write_them() {
        let fields = [("a[b]".to_owned(), "c d&e".to_owned()), ("f".to_owned(), "ü".to_owned())];
        assert_eq!(url::form(&fields), "a%5Bb%5D=c+d%26e&f=%C3%BC");
        assert_eq!(url::form(&[]), "");
    }

    #[test]
    fn ids_are_one_segment_of_a_path() {
        assert_eq!(escaped("pi_1/../../v1/x?y"), "pi_1v1xy");
    }

    #[test]
    fn amounts_are_whole_cents() {
        assert_eq!(cents("12.34".parse().unwrap()), Ok(1_234));
        assert!(cents("12.345".parse().unwrap()).is_err());
        assert_eq!(credits(&Value::from(1_234)), Some("12.34".parse().unwrap()));
        assert_eq!(credits(&Value::from(1.5)), None);
    }
}
