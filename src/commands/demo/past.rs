//! The made-up past of a demo, request by request.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::Method;
use reqwest::blocking::{Client, RequestBuilder};
use serde_json::{Value, json};

use super::{DAY_MICROS, DAYS, DemoUser};

const MINUTE_MICROS: i64 = 60_000_000;

/// What the customer asks for: path, model, and how many of 100 calls it is.
const ASKED: [(&str, &str, u64); 7] = [
    ("/v1/chat/completions", "gpt-4o", 26),
    ("/v1/chat/completions", "gpt-4o-mini", 34),
    ("/v1/messages", "claude-sonnet-4", 16),
    ("/v1/embeddings", "text-embedding-3-small", 10),
    ("/api/hub/agents/chat", "hub-agent", 8),
    ("/v1/chat/completions", "sandbox-error", 3),
    ("/v1/chat/completions", "sandbox-overloaded", 3),
];

/// A model that is sold: its name, who serves it, what a million tokens cost customers (prompt and
/// answer), and what they cost the operator.
type Sold = (&'static str, &'static str, [&'static str; 2], [&'static str; 2]);

/// The last two are models of the sandbox that misbehave.
const SOLD: [Sold; 6] = [
    ("gpt-4o", "demo-openai", ["3", "12"], ["2.5", "10"]),
    ("gpt-4o-mini", "demo-openai", ["0.2", "0.8"], ["0.15", "0.6"]),
    ("claude-sonnet-4", "demo-anthropic", ["3.5", "17"], ["3", "15"]),
    ("text-embedding-3-small", "demo-openai", ["0.03", "0.03"], ["0.02", "0.02"]),
    ("sandbox-error", "demo-openai", ["1", "1"], ["1", "1"]),
    ("sandbox-overloaded", "demo-openai", ["1", "1"], ["1", "1"]),
];

/// Prompts, in turn.
const PROMPTS: [&str; 5] = [
    "Summarise this week's support tickets in five lines.",
    "Write a product description of a waterproof hiking jacket.",
    "Translate to French: the parcel has left our warehouse.",
    "Which of these three invoices is overdue, and by how many days?",
    "Explain to a new colleague how our refunds work.",
];

/// Numbers that look like chance and are the same each time.
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        // Knuth's MMIX generator; its upper bits are the good ones.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33).checked_rem(sides).unwrap_or_default()
    }
}

/// Ends the ticks of the clock when it is dropped.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A client of the server, and the hands of its clock.
pub(super) struct Past {
    client: Client,
    url: String,
    time: Arc<AtomicI64>,
    now: i64,
    dice: Dice,
}

impl Past {
    pub(super) fn new(address: SocketAddr, time: Arc<AtomicI64>, now: i64) -> anyhow::Result<Self> {
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
        Ok(Past { client, url: format!("http://{address}"), time, now, dice: Dice(20) })
    }

    /// Sends a request. `None` if it is refused.
    fn try_send(
        request: RequestBuilder,
        body: Option<&Value>,
    ) -> anyhow::Result<Result<Value, String>> {
        let request = request.header("Content-Type", "application/json");
        let request = match body {
            Some(body) => request.body(body.to_string()),
            None => request,
        };
        let answer = request.send().map_err(reqwest::Error::without_url)?;
        let (status, text) = (answer.status(), answer.text()?);
        if !status.is_success() {
            return Ok(Err(format!("{status} {text}")));
        }
        Ok(Ok(serde_json::from_str(&text).unwrap_or_default()))
    }

    fn ask(&self, method: &Method, path: &str, token: &str, body: &Value) -> anyhow::Result<Value> {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.url));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if path == "/api/admin/catalogue" {
            request = request.header("If-Match", "\"rev-0\"");
        }
        match Self::try_send(request, (*method != Method::GET).then_some(body))? {
            Ok(answer) => Ok(answer),
            Err(refused) => bail!("{method} {path}: {refused}"),
        }
    }

    fn post(&self, path: &str, token: &str, body: &Value) -> anyhow::Result<Value> {
        self.ask(&Method::POST, path, token, body)
    }

    /// A paid call. Some are refused, as in life.
    fn call(&self, path: &str, key: &str, body: &Value) -> anyhow::Result<()> {
        let request = self.client.post(format!("{}{path}", self.url)).header("X-API-Key", key);
        drop(Self::try_send(request, Some(body))?);
        Ok(())
    }

    fn register(&self, user: &DemoUser) -> anyhow::Result<()> {
        let DemoUser { email, username, password, .. } = user;
        let body = json!({ "email": email, "username": username, "password": password });
        self.post("/api/auth/register", "", &body).map(drop)
    }

    /// Verifies the address of who has just registered, by the letter that the server wrote.
    fn verify(&self, mail: &Path, user: &DemoUser) -> anyhow::Result<()> {
        for _ in 0..500 {
            let files = std::fs::read_dir(mail).into_iter().flatten().flatten();
            for file in files {
                let letter = std::fs::read_to_string(file.path()).unwrap_or_default();
                // A long line of a letter ends with `=` and goes on.
                let letter = letter.replace("=\r\n", "");
                let is_theirs = letter.contains(&format!("To: {}", user.email));
                let token = letter.split_whitespace().find(|word| word.starts_with("pse_"));
                if let Some(token) = token.filter(|_| is_theirs) {
                    let body = json!({ "token": token });
                    return self.post("/api/auth/verify-email", "", &body).map(drop);
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("{} got no letter", user.email)
    }

    fn log_in(&self, user: &DemoUser) -> anyhow::Result<String> {
        let body = json!({ "email": user.email, "password": user.password });
        text(&self.post("/api/auth/login", "", &body)?, "token")
    }

    fn key(&self, token: &str, body: &Value) -> anyhow::Result<(String, String)> {
        let key = self.post("/api/keys", token, body)?;
        Ok((text(&key, "id")?, text(&key, "key_value")?))
    }

    /// Lets the clock go on during calls, 40 times as fast as it is, so that they take their time.
    fn tick(&self) -> Over {
        let (time, is_over) = (Arc::clone(&self.time), Arc::new(AtomicBool::new(false)));
        let over = Over(Arc::clone(&is_over));
        std::thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
                time.fetch_add(40_000, Ordering::SeqCst);
            }
        });
        over
    }

    fn set_time(&self, micros: i64) {
        self.time.fetch_max(micros.min(self.now), Ordering::SeqCst);
    }

    /// Makes all of it. Letters are in the folder `mail`. `promote` makes the first user an
    /// operator.
    pub(super) fn make(
        &mut self,
        [operator, customer, newcomer]: &[DemoUser; 3],
        mail: &Path,
        promote: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let begun = self.time.load(Ordering::SeqCst);
        let _ticks = self.tick();
        self.register(operator)?;
        self.verify(mail, operator)?;
        promote()?;
        let operators = self.log_in(operator)?;
        self.sell(&operators)?;
        self.register(customer)?;
        self.verify(mail, customer)?;
        let token = self.log_in(customer)?;
        let id = text(&self.ask(&Method::GET, "/api/auth/me", &token, &json!(null))?, "id")?;
        self.post("/api/payments/payments", &token, &json!({ "amount": 10 }))?;
        let (_, production) = self.key(&token, &json!({ "name": "Production" }))?;
        let limits = json!({ "daily_limit": 0.05, "monthly_limit": 5 });
        let (_, staging) = self.key(&token, &json!({ "name": "Staging", "limits": limits }))?;
        let (old, _) = self.key(&token, &json!({ "name": "Old laptop" }))?;
        let (_, test) = self.key(&token, &json!({ "name": "Tests", "environment": "test" }))?;
        for day in 0..DAYS {
            self.set_time(begun.saturating_add(day.saturating_mul(DAY_MICROS)));
            // Fewer calls at weekends, and more each week.
            let calls = if day % 7 > 4 { 4 } else { 10_u64.saturating_add(day.unsigned_abs() / 3) };
            for _ in 0..calls {
                let pause = self.dice.roll(40).saturating_add(5);
                let pause = i64::try_from(pause)?.saturating_mul(MINUTE_MICROS);
                self.set_time(self.time.load(Ordering::SeqCst).saturating_add(pause));
                let key = match self.dice.roll(10) {
                    0 => &test,
                    1 | 2 => &staging,
                    _ => &production,
                };
                self.any_call(key)?;
            }
            match day {
                3 => drop(self.post(&format!("/api/keys/{old}/revoke"), &token, &json!({}))?),
                9 | 21 => {
                    drop(self.post("/api/payments/payments", &token, &json!({ "amount": 5 }))?);
                }
                16 => {
                    let refund = json!({ "amount": 1.5, "reason": "refund of ticket 42" });
                    self.post(&format!("/api/admin/users/{id}/credits"), &operators, &refund)?;
                }
                24 => {
                    let taken =
                        json!({ "amount": -2.5, "reason": "payment was refunded, ticket 57" });
                    self.post(&format!("/api/admin/users/{id}/credits"), &operators, &taken)?;
                }
                _ => {}
            }
        }
        self.set_time(self.now.saturating_sub(MINUTE_MICROS));
        self.register(newcomer)?;
        for token in [token, operators] {
            self.post("/api/auth/logout", &token, &json!({}))?;
        }
        Ok(())
    }

    /// A call as the customer makes them.
    fn any_call(&mut self, key: &str) -> anyhow::Result<()> {
        let mut left = self.dice.roll(100);
        let mut asked = None;
        for (path, model, share) in ASKED {
            asked = Some((path, model));
            let Some(rest) = left.checked_sub(share) else { break };
            left = rest;
        }
        let (path, model) = asked.context("nothing is asked for")?;
        // What it is about, up to some thousand tokens.
        let about =
            "The parcel was delivered on time. ".repeat(usize::try_from(self.dice.roll(700))?);
        let prompt = PROMPTS.iter().cycle().nth(usize::try_from(self.dice.roll(5))?);
        let prompt = format!("{about}{}", prompt.copied().unwrap_or_default());
        let is_stream = path.starts_with("/v1/chat") && self.dice.roll(3) == 0;
        let body = if path == "/v1/embeddings" {
            json!({ "model": model, "input": prompt })
        } else {
            let limit = self.dice.roll(600).saturating_add(30);
            let messages = json!([{ "role": "user", "content": prompt }]);
            json!({ "model": model, "messages": messages, "max_tokens": limit,
                "stream": is_stream })
        };
        self.call(path, key, &body)
    }

    /// Sells models by their names: a catalogue whose providers are this server, with a test key,
    /// prices, and what they cost.
    fn sell(&self, operator: &str) -> anyhow::Result<()> {
        let cards = |of: fn(&Sold) -> [&'static str; 2]| -> Value {
            let card = |sold: &Sold| {
                let [input, output] = of(sold);
                json!({ "model": sold.0, "input": input, "output": output })
            };
            SOLD.iter().map(card).collect()
        };
        let lists = "/api/admin/price-lists";
        self.post(lists, operator, &json!({ "name": "demo-cost" }))?;
        let cost = json!({ "cards": cards(|sold| sold.3), "publish": true });
        self.post(&format!("{lists}/demo-cost/versions"), operator, &cost)?;
        let prices = json!({ "cards": cards(|sold| sold.2), "merge": true, "publish": true });
        self.post(&format!("{lists}/default/versions"), operator, &prices)?;
        let provider = |name: &str, dialect: &str| {
            json!({ "name": name, "dialect": dialect, "url": format!("{}/v1", self.url),
                "allow_private": true, "cost": "demo-cost" })
        };
        let deployment = |(name, provider, ..): &Sold| {
            json!({ "name": format!("{provider}-{name}"), "credential": format!("{provider}-key"),
                "upstream_model": name })
        };
        let model = |(name, provider, ..): &Sold| {
            json!({ "name": name, "max_input": 128_000, "max_output": 16_000,
                "targets": [{ "deployment": format!("{provider}-{name}") }] })
        };
        let names = ["demo-openai", "demo-anthropic"];
        let credential = |name: &str| json!({ "name": format!("{name}-key"), "provider": name });
        let catalogue = json!({
            "providers": [
                provider("demo-openai", "openai"), provider("demo-anthropic", "anthropic"),
            ],
            "credentials": names.map(credential),
            "deployments": SOLD.iter().map(deployment).collect::<Value>(),
            "models": SOLD.iter().map(model).collect::<Value>(),
            "wildcards": [],
        });
        self.ask(&Method::PUT, "/api/admin/catalogue", operator, &catalogue)?;
        let key = json!({ "name": "Of the demo's providers", "environment": "test" });
        let (_, key) = self.key(operator, &key)?;
        for name in names {
            let secret = json!({ "provider": name, "secret": key });
            let path = format!("/api/admin/credentials/{name}-key");
            self.ask(&Method::PUT, &path, operator, &secret)?;
        }
        // The versions are in force from a second on.
        self.set_time(self.time.load(Ordering::SeqCst).saturating_add(MINUTE_MICROS));
        Ok(())
    }
}

/// A text of an answer.
fn text(answer: &Value, name: &str) -> anyhow::Result<String> {
    let found = answer.get(name).and_then(Value::as_str);
    Ok(found.with_context(|| format!("the answer has no {name}"))?.to_owned())
}
