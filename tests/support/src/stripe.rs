//! A stub of Stripe: checkout sessions, payment intents, refunds and disputes in the format of its
//! API, and signed webhooks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use actix_web::http::Method;
use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

pub const SECRET_KEY: &str = "sk_test_0123456789";
pub const WEBHOOK_SECRET: &str = "whsec_test_0123456789";

#[derive(Default)]
struct State {
    sessions: BTreeMap<String, Value>,
    intents: BTreeMap<String, Value>,
    refunds: Vec<Value>,
    disputes: Vec<Value>,
    methods: Vec<Value>,
    published: Vec<Value>,
    deleted: Vec<String>,
    /// Answers by idempotency key, which Stripe also stores.
    answers: BTreeMap<String, (u16, Value)>,
    count: u64,
}

#[derive(Default)]
pub struct Shared {
    state: Mutex<State>,
    /// If set, it answers with garbage.
    pub is_down: AtomicBool,
    pub requests: AtomicUsize,
}

/// A stub of Stripe. It runs until the test's process ends.
pub struct Stripe {
    pub url: String,
    pub shared: Arc<Shared>,
}

impl Stripe {
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let of_server = Data::from(Arc::clone(&shared));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let app =
                move || App::new().app_data(of_server.clone()).default_service(web::to(answer));
            let server = HttpServer::new(app).workers(1).disable_signals();
            actix_web::rt::System::new().block_on(server.listen(listener).unwrap().run())
        });
        Stripe { url, shared }
    }

    fn state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.shared.state.lock().unwrap())
    }

    /// The checkout session of a payment.
    fn session_of(&self, payment: &str) -> String {
        self.state(|state| {
            let is_its = |session: &&Value| session["metadata"]["payment_id"] == payment;
            let found = state.sessions.values().find(is_its).expect("no session of the payment");
            found["id"].as_str().unwrap().to_owned()
        })
    }

    /// The intent of a payment, once it exists.
    pub fn intent_of(&self, payment: &str) -> String {
        self.state(|state| {
            let is_its = |intent: &&Value| intent["metadata"]["payment_id"] == payment;
            let found = state.intents.values().find(is_its).expect("no intent of the payment");
            found["id"].as_str().unwrap().to_owned()
        })
    }

    /// The payer submits the page. This creates the intent, in this status.
    pub fn submit(&self, payment: &str, status: &str) {
        let session = self.session_of(payment);
        self.state(|state| {
            let session = state.sessions.get_mut(&session).unwrap();
            let is_paid = status == "succeeded";
            session["status"] = "complete".into();
            session["payment_status"] = if is_paid { "paid" } else { "unpaid" }.into();
            session["url"] = Value::Null;
            let id = match session["payment_intent"].as_str() {
                Some(id) => id.to_owned(),
                None => format!("pi_{}", &session["id"].as_str().unwrap()[3..]),
            };
            session["payment_intent"] = id.clone().into();
            let amount = session["amount_total"].clone();
            let intent = intent(&id, &amount, status, &session["metadata"]);
            state.intents.insert(id, intent);
        });
    }

    pub fn set_intent(&self, payment: &str, field: &str, value: Value) {
        let id = self.intent_of(payment);
        self.state(|state| state.intents.get_mut(&id).unwrap()[field] = value);
    }

    /// Adds an event to the list of past events, whether or not it was delivered.
    pub fn publish(&self, event: &str) {
        let event = serde_json::from_str(event).unwrap();
        self.state(|state| state.published.push(event));
    }

    /// The session expires without a payment.
    pub fn expire(&self, payment: &str) {
        let session = self.session_of(payment);
        self.state(|state| {
            let session = state.sessions.get_mut(&session).unwrap();
            session["status"] = "expired".into();
            session["url"] = Value::Null;
        });
    }

    pub fn refund(&self, payment: &str, id: &str, cents: i64, status: &str) {
        let intent = self.intent_of(payment);
        let refund = json!({
            "id": id, "object": "refund", "amount": cents, "currency": "usd", "status": status,
            "payment_intent": intent, "charge": format!("ch_{}", &intent[3..]),
        });
        self.state(|state| replace(&mut state.refunds, refund));
    }

    pub fn dispute(&self, payment: &str, id: &str, cents: i64, status: &str) {
        let intent = self.intent_of(payment);
        let dispute = json!({
            "id": id, "object": "dispute", "amount": cents, "currency": "usd", "status": status,
            "payment_intent": intent, "charge": format!("ch_{}", &intent[3..]),
        });
        self.state(|state| replace(&mut state.disputes, dispute));
    }

    pub fn save_method(&self, id: &str, last4: &str) {
        self.state(|state| {
            state.methods.push(json!({
                "id": id, "object": "payment_method", "type": "card",
                "card": { "brand": "visa", "last4": last4, "exp_month": 12, "exp_year": 2031 },
            }));
        });
    }

    /// Deletes a customer, as people may do at Stripe.
    pub fn delete_customer(&self, id: &str) {
        self.state(|state| state.deleted.push(id.to_owned()));
    }

    /// The customers that were deleted, and how many saved methods there are.
    pub fn deleted(&self) -> (Vec<String>, usize) {
        self.state(|state| (state.deleted.clone(), state.methods.len()))
    }

    pub fn intents(&self) -> usize {
        self.state(|state| state.intents.len())
    }

    /// The body of a webhook about a payment.
    pub fn event(&self, kind: &str, payment: &str) -> String {
        let object = match kind.split_once('.').unwrap() {
            ("checkout", _) => {
                let session = self.session_of(payment);
                self.state(|state| state.sessions[&session].clone())
            }
            ("payment_intent", _) => {
                let id = self.intent_of(payment);
                self.state(|state| state.intents[&id].clone())
            }
            ("charge", "refunded") => {
                let id = self.intent_of(payment);
                json!({ "id": format!("ch_{}", &id[3..]), "object": "charge", "payment_intent": id,
                    "metadata": { "payment_id": payment } })
            }
            ("refund", _) => self.state(|state| state.refunds.last().unwrap().clone()),
            ("charge", _) => self.state(|state| state.disputes.last().unwrap().clone()),
            other => panic!("{other:?}"),
        };
        let number = self.state(next);
        json!({
            "id": format!("evt_{number}"), "object": "event", "api_version": "2025-08-27.basil",
            "created": 1_705_320_000, "livemode": false, "pending_webhooks": 1,
            "request": { "id": null, "idempotency_key": null }, "type": kind,
            "data": { "object": object },
        })
        .to_string()
    }
}

fn replace(list: &mut Vec<Value>, item: Value) {
    list.retain(|other| other["id"] != item["id"]);
    list.push(item);
}

fn next(state: &mut State) -> u64 {
    state.count += 1;
    state.count
}

/// Signs a webhook as Stripe does.
pub fn sign(body: &str, seconds: i64) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(WEBHOOK_SECRET.as_bytes()).unwrap();
    mac.update(format!("{seconds}.{body}").as_bytes());
    let hex = crate::hex(&mac.finalize().into_bytes());
    format!("t={seconds},v1={hex}")
}

fn intent(id: &str, amount: &Value, status: &str, metadata: &Value) -> Value {
    let is_paid = status == "succeeded";
    json!({
        "id": id, "object": "payment_intent", "amount": amount, "currency": "usd", "status": status,
        "amount_received": if is_paid { amount.clone() } else { 0.into() }, "metadata": metadata,
        "latest_charge": if is_paid { json!({ "id": format!("ch_{}", &id[3..]) }) } else { Value::Null },
        "last_payment_error": null,
    })
}

async fn answer(request: HttpRequest, body: Bytes, shared: Data<Shared>) -> HttpResponse {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    if shared.is_down.load(Ordering::SeqCst) {
        return HttpResponse::InternalServerError().body("<html>sorry</html>");
    }
    let header =
        |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("authorization").unwrap(), format!("Bearer {SECRET_KEY}"));
    assert_eq!(header("stripe-version").as_deref(), Some("2025-08-27.basil"));
    let text = if request.method() == Method::GET {
        request.query_string().to_owned()
    } else {
        String::from_utf8(body.to_vec()).unwrap()
    };
    let parsed = reqwest::Url::parse(&format!("http://x/?{text}")).unwrap();
    let fields: BTreeMap<String, String> = parsed.query_pairs().into_owned().collect();
    let state = &mut *shared.state.lock().unwrap();
    let (status, value) = if request.method() == Method::POST {
        let key = header("idempotency-key").expect("a POST without an idempotency key");
        if let Some(kept) = state.answers.get(&key) {
            kept.clone()
        } else {
            let made = post(state, request.path(), &fields);
            state.answers.insert(key, made.clone());
            made
        }
    } else if request.method() == Method::DELETE {
        let id = request.path().trim_start_matches("/v1/customers/").to_owned();
        no_customer(state, &id).unwrap_or_else(|| {
            state.deleted.push(id.clone());
            (200, json!({ "id": id, "object": "customer", "deleted": true }))
        })
    } else {
        get(state, request.path(), &fields)
    };
    let status = actix_web::http::StatusCode::from_u16(status).unwrap();
    HttpResponse::build(status).json(value)
}

/// The refusal of what names a customer who is deleted.
fn no_customer(state: &State, id: &str) -> Option<(u16, Value)> {
    let is_deleted = state.deleted.iter().any(|deleted| deleted == id);
    let error = json!({ "type": "invalid_request_error", "code": "resource_missing",
        "message": format!("No such customer: '{id}'"), "param": "customer" });
    is_deleted.then(|| (404, json!({ "error": error })))
}

fn post(state: &mut State, path: &str, fields: &BTreeMap<String, String>) -> (u16, Value) {
    let number = next(state);
    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
    if let Some(refusal) = no_customer(state, &field("customer")) {
        return refusal;
    }
    match path {
        "/v1/customers" => {
            assert!(field("email").contains('@'));
            (200, json!({ "id": format!("cus_{number}"), "object": "customer" }))
        }
        "/v1/checkout/sessions" => {
            let id = format!("cs_test_{number}");
            let is_payment = field("mode") == "payment";
            let amount: Value = if is_payment {
                assert_eq!(field("line_items[0][price_data][currency]"), "usd");
                assert_eq!(
                    field("payment_intent_data[metadata][payment_id]"),
                    field("metadata[payment_id]")
                );
                field("line_items[0][price_data][unit_amount]").parse::<i64>().unwrap().into()
            } else {
                assert_eq!((field("mode"), field("currency")), ("setup".into(), "usd".into()));
                Value::Null
            };
            let session = json!({
                "id": id, "object": "checkout.session", "url": format!("https://checkout.test/{id}"),
                "status": "open", "payment_status": "unpaid", "payment_intent": null,
                "amount_total": amount, "mode": field("mode"),
                "metadata": { "payment_id": field("metadata[payment_id]") },
            });
            state.sessions.insert(id, session.clone());
            (200, session)
        }
        "/v1/payment_intents" => {
            assert_eq!((field("off_session"), field("confirm")), ("true".into(), "true".into()));
            assert!(field("customer").starts_with("cus_"));
            let amount = Value::from(field("amount").parse::<i64>().unwrap());
            let metadata = json!({ "payment_id": field("metadata[payment_id]") });
            let id = format!("pi_test_{number}");
            let is_declined = field("payment_method").contains("declined");
            let status = match field("payment_method") {
                _ if is_declined => "requires_payment_method",
                slow if slow.contains("slow") => "processing",
                _ => "succeeded",
            };
            let made = intent(&id, &amount, status, &metadata);
            state.intents.insert(id, made.clone());
            if is_declined {
                let error = json!({
                    "type": "card_error", "code": "card_declined",
                    "decline_code": "insufficient_funds",
                    "message": "Your card has insufficient funds.", "payment_intent": made,
                });
                return (402, json!({ "error": error }));
            }
            (200, made)
        }
        path if path.ends_with("/detach") => {
            let id = path.split('/').nth(3).unwrap();
            state.methods.retain(|method| method["id"] != id);
            (200, json!({ "id": id, "object": "payment_method" }))
        }
        other => (404, json!({ "error": { "type": "invalid_request_error", "message": other } })),
    }
}

fn get(state: &State, path: &str, fields: &BTreeMap<String, String>) -> (u16, Value) {
    let list = |items: Vec<Value>| {
        (200, json!({ "object": "list", "data": items, "has_more": false, "url": path }))
    };
    let missing =
        (404, json!({ "error": { "type": "invalid_request_error", "message": "no such" } }));
    let of_intent = |items: &[Value]| {
        let wanted = &fields["payment_intent"];
        items.iter().filter(|item| item["payment_intent"] == *wanted).cloned().collect::<Vec<_>>()
    };
    let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
    match parts.as_slice() {
        ["checkout", "sessions", id] => match state.sessions.get(*id) {
            Some(session) => (200, session.clone()),
            None => missing,
        },
        ["payment_intents", id] => match state.intents.get(*id) {
            Some(intent) => (200, intent.clone()),
            None => missing,
        },
        ["events"] => {
            assert!(fields["created[gte]"].parse::<i64>().unwrap() > 0);
            list(state.published.clone())
        }
        ["refunds"] => list(of_intent(&state.refunds)),
        ["disputes"] => list(of_intent(&state.disputes)),
        ["customers", id, "payment_methods"] => {
            no_customer(state, id).unwrap_or_else(|| list(state.methods.clone()))
        }
        _ => missing,
    }
}
