//! A webhook endpoint that accepts, refuses or ignores deliveries, and records them.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::{Value, json};

/// A delivery as received.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub path: String,
    pub id: String,
    pub timestamp: i64,
    pub signature: String,
    pub text: String,
    pub body: Value,
}

impl Delivery {
    pub fn kind(&self) -> &str {
        self.body["type"].as_str().unwrap()
    }

    /// The delivery in the format of the test for the standard's libraries.
    pub fn for_library(&self, secret: &str) -> String {
        json!({ "secret": secret, "body": self.text, "headers": {
            "webhook-id": self.id, "webhook-timestamp": self.timestamp.to_string(),
            "webhook-signature": self.signature } })
        .to_string()
    }
}

#[derive(Default)]
struct Shared {
    deliveries: Mutex<Vec<Delivery>>,
    /// The status to answer; 0 is no answer.
    status: AtomicU16,
}

/// A webhook endpoint. It runs until the test's process ends.
pub struct Receiver {
    pub url: String,
    shared: Arc<Shared>,
}

impl Receiver {
    pub fn start() -> Self {
        let shared = Arc::new(Shared { status: AtomicU16::new(200), ..Shared::default() });
        let of_server = Data::from(Arc::clone(&shared));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let app = move || App::new().app_data(of_server.clone()).default_service(web::to(take));
            let server = HttpServer::new(app).workers(1).disable_signals();
            actix_web::rt::System::new().block_on(server.listen(listener).unwrap().run())
        });
        Receiver { url, shared }
    }

    pub fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::SeqCst);
    }

    pub fn all(&self) -> Vec<Delivery> {
        self.shared.deliveries.lock().unwrap().clone()
    }

    /// All deliveries of one kind so far.
    pub fn of(&self, kind: &str) -> Vec<Delivery> {
        self.all().into_iter().filter(|delivery| delivery.kind() == kind).collect()
    }

    /// Waits until there are `count` deliveries of a kind.
    #[track_caller]
    pub fn wait(&self, kind: &'static str, count: usize) -> impl Future<Output = Vec<Delivery>> {
        self.wait_for(kind, count, 600)
    }

    /// Waits longer, for events that the server checks for periodically.
    #[track_caller]
    pub fn wait_long(
        &self,
        kind: &'static str,
        count: usize,
    ) -> impl Future<Output = Vec<Delivery>> {
        self.wait_for(kind, count, 2_000)
    }

    #[track_caller]
    fn wait_for(
        &self,
        kind: &'static str,
        count: usize,
        looks: usize,
    ) -> impl Future<Output = Vec<Delivery>> {
        let caller = std::panic::Location::caller();
        async move {
            for _ in 0..looks {
                let found = self.of(kind);
                if found.len() >= count {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            let kinds: Vec<String> = self.all().iter().map(|one| one.kind().to_owned()).collect();
            panic!("{caller}: there are no {count} of {kind}, but {kinds:?}");
        }
    }
}

async fn take(request: HttpRequest, body: Bytes, shared: Data<Shared>) -> HttpResponse {
    let header = |name: &str| {
        let value = request.headers().get(name).unwrap_or_else(|| panic!("no {name}"));
        value.to_str().unwrap().to_owned()
    };
    let text = String::from_utf8(body.to_vec()).unwrap();
    let status = shared.status.load(Ordering::SeqCst);
    shared.deliveries.lock().unwrap().push(Delivery {
        path: request.path().to_owned(),
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp").parse().unwrap(),
        signature: header("webhook-signature"),
        body: serde_json::from_str(&text).unwrap(),
        text,
    });
    match status {
        0 => {
            tokio::time::sleep(Duration::from_mins(1)).await;
            HttpResponse::Ok().finish()
        }
        307 => HttpResponse::TemporaryRedirect().insert_header(("Location", "/elsewhere")).finish(),
        status => {
            let status = actix_web::http::StatusCode::from_u16(status).unwrap();
            HttpResponse::build(status).body("x".repeat(100_000))
        }
    }
}
