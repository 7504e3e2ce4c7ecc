//! Crashes while models are sold: at calls that go to another deployment, streams that are held for
//! in steps, changes of the catalogue and of the prices, corrections, and bills that are computed
//! again. Nothing is lost or doubled, and every bill can be computed again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use polysystems::failpoint;

use crate::Plan;
use crate::cases::{customers, settings};
use crate::ledger::{Ledger, Zeros};
use crate::load::{Log, Mix, join, load};
use crate::support::Database;
use crate::support::process::{Customer, Process, verify};
use crate::support::shop::{cards, catalogue, chat, obey};
use crate::support::upstream::{Script, Upstream};

/// Where calls of models crash, besides the failpoints that only they reach.
const OF_CALLS: [&str; 9] = [
    "charge-accepted",
    "upstream-answered",
    "stream-hold-on-record",
    "stream-extended",
    "settle-decided",
    "settle-on-record",
    "stream-settled",
    "journal-before",
    "journal-sent",
];
const CHAT: &str = "/v1/chat/completions";
/// What each correction gives back, in dollars.
const CORRECTION: f64 = 0.0001;

/// Who changes prices and models, and corrects charges of one customer.
#[derive(Clone)]
struct Operator {
    token: String,
    user: String,
    customer: Customer,
    upstream: String,
}

/// A charge that was to be corrected, whatever came of it.
type Corrected = Vec<String>;

async fn call(
    process: &Calls,
    method: &str,
    path: &str,
    token: &str,
    revision: Option<u64>,
    body: &Value,
) -> Option<(u16, Value)> {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let request = process.client.request(method, format!("{}{path}", process.url));
    let request = request.bearer_auth(token).body(body.to_string());
    let request = match revision {
        Some(revision) => request.header("if-match", format!("\"rev-{revision}\"")),
        None => request,
    };
    let answer = request.send().await.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.json().await.unwrap_or(Value::Null)))
}

/// Where a process is called.
#[derive(Clone)]
struct Calls {
    client: reqwest::Client,
    url: String,
}

impl Operator {
    fn path(&self) -> String {
        format!("/api/admin/users/{}/corrections", self.user)
    }

    /// Makes a call of the customer that is corrected; the id of its charge.
    async fn charge(&self, process: &Calls) -> Option<String> {
        let request = process.client.post(format!("{}{CHAT}", process.url));
        let body = chat("chat", &json!({ "output": 20 })).to_string();
        let answer =
            request.header("x-api-key", &self.customer.key).body(body).send().await.ok()?;
        let id = answer.headers().get("x-polysystems-charge")?.to_str().unwrap().to_owned();
        answer.status().is_success().then_some(id)
    }

    fn correction(charge: &str) -> Value {
        json!({ "charge": charge, "amount": CORRECTION, "reason": "it was too much" })
    }

    /// Changes one thing after the other until the process is gone.
    async fn work(self, process: Calls, log: Arc<Log>) -> Corrected {
        let mut corrected = Corrected::new();
        for round in 0_u32.. {
            if log.stopped.load(std::sync::atomic::Ordering::SeqCst)
                || self.change(&process, round, &mut corrected).await.is_none()
            {
                break;
            }
        }
        corrected
    }

    /// `None`: the process is gone.
    async fn change(&self, process: &Calls, round: u32, corrected: &mut Corrected) -> Option<()> {
        let token = &self.token;
        let status = "/api/admin/catalogue/status";
        let (_, sold) = call(process, "GET", status, token, None, &json!(null)).await?;
        let mut document = catalogue(&self.upstream);
        document["deployments"][0]["rpm"] = json!(100_000 + round);
        let stored = sold["stored"].as_u64();
        let path = "/api/admin/catalogue";
        let put = call(process, "PUT", path, token, stored, &document).await?;
        assert!([200, 503].contains(&put.0), "{}", put.1);
        let publish = json!({ "publish": true, "cards": cards(round % 5) });
        let path = "/api/admin/price-lists/default/versions";
        let published = call(process, "POST", path, token, None, &publish).await?;
        assert!([201, 503].contains(&published.0), "{}", published.1);
        let charge = self.charge(process).await?;
        corrected.push(charge.clone());
        let body = Self::correction(&charge);
        let made = call(process, "POST", &self.path(), token, None, &body).await?;
        assert!([201, 503].contains(&made.0), "{}", made.1);
        let span = json!({ "from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z" });
        let path = "/api/admin/bills/recompute";
        let (status, report) = call(process, "POST", path, token, None, &span).await?;
        assert_eq!((status, &report["not_computable"]), (200, &json!(0)), "{report}");
        assert_eq!(report["differing"], 0, "{report}");
        Some(())
    }

    /// Each charge that was to be corrected is corrected once, however often that is asked for.
    async fn check(&self, process: &Process, corrected: &Corrected) {
        let calls = Calls { client: process.client.clone(), url: process.url.clone() };
        for charge in corrected {
            for _ in 0..2 {
                let body = Self::correction(charge);
                let made = call(&calls, "POST", &self.path(), &self.token, None, &body).await;
                let (status, answer) = made.unwrap();
                assert!([200, 201].contains(&status), "{charge}: {answer}");
            }
        }
        let (mut path, mut grants) =
            ("/api/payments/transactions?limit=100".to_owned(), Vec::new());
        loop {
            let (status, page) =
                process.call("GET", &path, &self.customer.token, &Value::Null).await;
            assert_eq!(status, 200, "{page}");
            for entry in page["transactions"].as_array().unwrap() {
                if entry["kind"] == "grant" {
                    grants.push(entry["reference"].as_str().unwrap().to_owned());
                    assert_eq!(entry["amount"].as_f64(), Some(CORRECTION), "{entry}");
                }
            }
            let Some(next) = page["next_cursor"].as_str() else { break };
            path = format!("/api/payments/transactions?limit=100&cursor={next}");
        }
        for charge in corrected {
            let count = grants.iter().filter(|grant| *grant == charge).count();
            assert_eq!(count, 1, "{charge} was corrected {count} times");
        }
    }
}

async fn start(database: &Database, order: Option<&str>) -> Option<Process> {
    Process::try_start_with(database, |command| {
        settings(command);
        command
            .env("POLYSYSTEMS_PRICING__NOTICE_SECONDS", "0")
            .env("POLYSYSTEMS_HOLDS__START_TOKENS", "4")
            // Otherwise a rich account holds all at once.
            .env("POLYSYSTEMS_HOLDS__VISIBLE_SHARE", "1000000000")
            .env("POLYSYSTEMS_HOLDS__VISIBLE_MODELS", "*");
        if let Some(order) = order {
            command.env("FAILPOINTS", order);
        }
    })
    .await
}

/// What operators change is changed a few times a second; calls are hundreds.
fn skipped(point: &str, round: usize, random: &mut StdRng) -> usize {
    let rare = ["catalogue", "prices", "correction", "bills"];
    if rare.iter().any(|rare| point.starts_with(rare)) {
        round % 4
    } else {
        random.random_range(0..60)
    }
}

pub(crate) async fn crashes(plan: Plan, database: Database) {
    let rounds = plan.rounds(1, 20);
    let upstream = Upstream::start(Script::Asked(obey)).await;
    let process = start(&database, None).await.unwrap();
    let token = process.operator(&database, "opener").await;
    process.open_shop(&token, &upstream.url()).await;
    let (customers, names) = customers(&process, "bill", 8, 1_000).await;
    let mut ledger = Ledger::of(&database, &names).await;
    drop(process);
    let of_models = failpoint::OF_CATALOGUE.iter().chain(failpoint::OF_MODELS);
    let points: Vec<&str> = of_models.map(|(point, _)| *point).chain(OF_CALLS).collect();
    let mut random = StdRng::seed_from_u64(1);
    let (mut zeros, mut crashes) = (Zeros::default(), 0);
    for (place, point) in points.iter().enumerate() {
        // Of each point anew: a session ends.
        let process = start(&database, None).await.unwrap();
        let customer = process.customer(&format!("corrected{place}"), 1_000).await;
        let (_, me) = process.call("GET", "/api/auth/me", &customer.token, &Value::Null).await;
        let operator = Operator {
            token: process.operator(&database, &format!("operator{place}")).await,
            user: me["id"].as_str().unwrap().to_owned(),
            customer,
            upstream: upstream.url(),
        };
        drop(process);
        let mut reached = 0;
        for round in 0..rounds + 5 {
            if round >= rounds && reached > 0 {
                break;
            }
            let order = match skipped(point, round, &mut random) {
                0 => format!("{point}=return"),
                count => format!("{point}={count}*off->return"),
            };
            let (compared, is_reached) =
                crash(&database, &order, &customers, &operator, &mut ledger).await;
            compared.check();
            zeros.add(compared);
            reached += usize::from(is_reached);
        }
        assert!(reached > 0, "the failpoint {point} was never reached");
        crashes += reached;
        verify(&database);
    }
    println!(
        "  {} failpoints x {rounds}: {crashes} crashes, {} acknowledged, {} lost, {} doubled, {} charged and not \
         answered; every bill was computed again",
        points.len(),
        zeros.acknowledged,
        zeros.lost,
        zeros.doubled,
        zeros.unanswered
    );
}

/// Load and changes until the process is gone, or for four seconds.
async fn crash(
    database: &Database,
    order: &str,
    customers: &[Customer],
    operator: &Operator,
    ledger: &mut Ledger,
) -> (Zeros, bool) {
    let log = Arc::new(Log::default());
    let (mut is_reached, mut corrected) = (true, Corrected::new());
    if let Some(mut process) = start(database, Some(order)).await {
        let tasks = load(process.address(), customers, 12, Mix::Models, false, &log);
        let calls = Calls { client: process.client.clone(), url: process.url.clone() };
        let work: JoinHandle<Corrected> =
            tokio::spawn(operator.clone().work(calls, Arc::clone(&log)));
        let deadline = Instant::now() + Duration::from_secs(4);
        while !process.has_ended() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        log.stop();
        if !process.has_ended() {
            is_reached = process.terminate() != Some(0);
        }
        join(tasks).await;
        corrected = work.await.unwrap();
    }
    let mut process = start(database, None).await.expect("it starts again");
    database.no_hold_is_open().await;
    let compared = ledger.compare(database, &log).await;
    operator.check(&process, &corrected).await;
    // What is sold is what is on record.
    let path = "/api/admin/catalogue/status";
    let (_, sold) = process.call("GET", path, &operator.token, &Value::Null).await;
    assert_eq!(sold["stored"], sold["selling"], "{sold}");
    let calls = Calls { client: process.client.clone(), url: process.url.clone() };
    assert!(operator.charge(&calls).await.is_some(), "a model is not sold any more");
    process.kill();
    (compared, is_reached)
}
