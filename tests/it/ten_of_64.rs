//! Money for ten of 64 calls at once: whichever models are called, whichever deployments answer,
//! whatever is thought unseen and whatever becomes of the prices in between, the sum is exact, the
//! balance never negative, and no bill says that less was taken than the call cost, but of streams
//! that ended because no more credits were there.
//!
//! `TEN_ROUNDS` and `TEN_SEED` lengthen or repeat a run.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::bills::{bills, read};
use crate::support::process::verify;
use crate::support::shop::{cards, chat, obey};
use crate::support::upstream::{Script, Upstream};
use crate::support::{Answer, Database, Key, Server, User, nanos, on_both};
use domain::dim::Dim;
use domain::{Bill, Credits, Flags};

on_both!(money_for_ten_of_64_is_spent_to_the_last);

const CALLS: usize = 64;
const WORTH: i64 = 10;
/// All streams have fewer words than this, and all other answers have more tokens.
const WORDS_MAX: u64 = 60;
/// Nano-dollars of a token at one dollar for a million.
const DOLLAR: i64 = 1_000;
const VERSIONS: &str = "/api/admin/price-lists/default/versions";

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// What all calls of a round are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Whole answers that cost all that is held.
    Whole,
    /// The same, by a model that is five times as dear: the prompt is too long for the one asked.
    Dearer,
    /// Whole answers that cost all that is held, while prices are published.
    Repriced,
    /// Thoughts that nobody sees, in answers and in streams.
    Unseen,
    /// Streams that are held for in steps, of which some fail or break off.
    Streams,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Whole, Kind::Dearer, Kind::Repriced, Kind::Unseen, Kind::Streams];

    /// Does a call cost what is held for it when it begins?
    fn costs_what_is_held(self) -> bool {
        matches!(self, Kind::Whole | Kind::Dearer)
    }
}

/// The price of a plain token of a completion, in dollars for a million.
fn output_price(dollars: u32) -> u32 {
    8 + dollars
}

/// The body of a call. If plain tokens are not the dearest ones, all of it is thought.
fn body(kind: Kind, dollars: u32, random: &mut StdRng) -> Value {
    let thoughts = if output_price(dollars) < 10 { 1_000_000 } else { 0 };
    let mut plan = json!({ "pause": 150, "thoughts": thoughts });
    match kind {
        Kind::Whole | Kind::Repriced => {}
        Kind::Dearer => plan["long"] = json!(["a", "b"]),
        Kind::Unseen => plan["pause"] = json!(random.random_range(0..100)),
        Kind::Streams => {
            let words = random.random_range(1..WORDS_MAX);
            plan = json!({ "words": words, "output": words, "pause": random.random_range(0..4) });
            match random.random_range(0..10) {
                0 => plan["ends"] = json!("cut"),
                1 => plan["fails"] = json!(["a"]),
                _ => {}
            }
        }
    }
    let mut body = chat(if kind == Kind::Unseen { "thinker" } else { "chat" }, &plan);
    if kind == Kind::Unseen {
        body["max_tokens"] = json!(random.random_range(100..3_000));
    }
    body["stream"] = json!(kind == Kind::Streams || (kind == Kind::Unseen && random.random()));
    body
}

/// What an answer says that it cost; a stream says it in the comment at its end.
fn cost(answer: &Answer) -> i64 {
    if let Some(cost) = answer.headers.get("x-polysystems-cost") {
        return cost.to_str().unwrap().parse::<Credits>().unwrap().nanos();
    }
    let (_, bill) = answer.text.rsplit_once(": polysystems ").expect("no bill at the end");
    let bill: Value = serde_json::from_str(bill.lines().next().unwrap()).unwrap();
    nanos(&bill["cost"])
}

struct Round<'s> {
    operator: &'s User<'s>,
    user: &'s User<'s>,
    key: &'s Key,
    kind: Kind,
    seed: u64,
}

impl Round<'_> {
    async fn publish(&self, dollars: u32) -> (u64, u32) {
        let body = json!({ "publish": true, "cards": cards(dollars) });
        let published = self.operator.post(VERSIONS, &body).expect(201).await.body;
        (published["versions"][0]["id"].as_u64().unwrap(), dollars)
    }

    async fn balance(&self) -> i64 {
        let answer = self.user.get("/api/payments/credits/balance").expect(200).await;
        let of = |name: &str| answer.number(name).parse::<Credits>().unwrap().nanos();
        assert_eq!(of("held"), 0, "seed {} {:?}: something is still held", self.seed, self.kind);
        assert_eq!(of("available"), of("balance"));
        of("balance")
    }

    async fn run(&self) {
        let (server, seed, kind) = (self.user.server, self.seed, self.kind);
        let mut random = StdRng::seed_from_u64(seed);
        // So that nothing is cooling, and each round has its retries.
        server.advance(61);
        self.operator.confirm().await;
        let low = if kind == Kind::Repriced { 2 } else { 0 };
        let dollars = random.random_range(low..6);
        let mut versions = BTreeMap::from([self.publish(dollars).await]);
        let mut asked = body(kind, dollars, &mut random);
        let path = "/v1/chat/completions";
        let quote = server.post(path, &asked).key(self.key).header("x-dry-run", "true");
        let quote = quote.expect(200).await.body;
        let price = output_price(dollars).max(10);
        let most = 1_000_000
            + 9 * i64::from(2 + dollars) * DOLLAR
            + asked["max_tokens"].as_i64().unwrap() * i64::from(price) * DOLLAR;
        assert_eq!(nanos(&quote["cost"]["most"]), most, "seed {seed} {kind:?}: {quote}");
        let (wanted, there) = (WORTH * most, self.balance().await);
        if wanted > there {
            self.user.pay(&Credits::from_nanos(wanted - there).to_string()).await;
        }
        let before = self.balance().await;
        let calls = (0..CALLS).map(|_| {
            if !kind.costs_what_is_held() && kind != Kind::Repriced {
                asked = body(kind, dollars, &mut random);
            }
            server.post(path, &asked).key(self.key).send()
        });
        let calls = join_all(calls.collect::<Vec<_>>());
        let prices: Vec<u32> = (0..3).map(|_| random.random_range(2..6)).collect();
        let publishing = async {
            let mut published = Vec::new();
            for dollars in prices.into_iter().filter(|_| kind == Kind::Repriced) {
                published.push(self.publish(dollars).await);
            }
            published
        };
        let (answers, published) = futures_util::future::join(calls, publishing).await;
        versions.extend(published);
        let after = self.check(&answers, &versions, before).await;
        if kind.costs_what_is_held() {
            let served = answers.iter().filter(|answer| answer.status == 200).count();
            assert_eq!((served, after), (10, 0), "seed {seed} {kind:?}");
        }
    }

    /// All that is said to be taken is gone, and nothing else. Returns what is left.
    async fn check(&self, answers: &[Answer], versions: &BTreeMap<u64, u32>, before: i64) -> i64 {
        let (seed, kind) = (self.seed, self.kind);
        let mut paid = 0;
        for answer in answers {
            match answer.status.as_u16() {
                200 => {}
                402 => continue,
                // A deployment failed, and as many calls were tried again as may be.
                502 | 503 if kind == Kind::Streams => continue,
                status => panic!("seed {seed} {kind:?}: {status}: {}", answer.text),
            }
            let version = answer.header("x-polysystems-price-version").parse::<u64>().unwrap();
            let dollars = *versions.get(&version).unwrap_or_else(|| panic!("version {version}"));
            let cost = cost(answer);
            paid += cost;
            if kind.costs_what_is_held() || kind == Kind::Repriced {
                let price = output_price(dollars).max(10);
                let expected = 1_000_000
                    + 9 * i64::from(2 + dollars) * DOLLAR
                    + 100 * i64::from(price) * DOLLAR;
                assert_eq!(cost, expected, "seed {seed} {kind:?}: version {version}");
            }
        }
        let after = self.balance().await;
        assert_eq!(after, before - paid, "seed {seed} {kind:?}: {before} - {paid}");
        assert!(after >= 0, "seed {seed} {kind:?}");
        let dearest = versions.values().map(|dollars| output_price(*dollars).max(10)).max();
        let (refused, dearest) =
            (answers.iter().any(|answer| answer.status == 402), i64::from(dearest.unwrap()));
        if refused && kind == Kind::Repriced {
            let one = 1_000_000 + (9 * dearest + 100 * dearest) * DOLLAR;
            assert!(after < one, "seed {seed} {kind:?}: {after} is left, and a call was refused");
        }
        after
    }
}

async fn money_for_ten_of_64_is_spent_to_the_last(database: Database) {
    let upstream = Upstream::start(Script::Asked(obey)).await;
    let server = Server::start_with(&database, |settings| {
        settings.pricing.notice_seconds = 0;
        settings.holds.step_tokens = 8.try_into().unwrap();
        settings.holds.start_tokens = 4.try_into().unwrap();
    })
    .await;
    let operator = server.operator(&database, "operator").await;
    operator.open_shop(&upstream.url()).await;
    let mut users = Vec::new();
    for kind in Kind::ALL {
        let user = server.user(&format!("{kind:?}").to_lowercase()).await;
        let key = user.key().await;
        users.push((kind, user, key));
    }
    let (rounds, first) = (setting("TEN_ROUNDS", 50), setting("TEN_SEED", 0));
    for seed in first..first + rounds {
        let place = usize::try_from(seed).unwrap() % Kind::ALL.len();
        let (kind, user, key) = &users[place];
        Round { operator: &operator, user, key, kind: *kind, seed }.run().await;
    }
    for (kind, user, _) in &users {
        let folded = user.folded().await;
        assert!(folded >= 0, "{kind:?}");
    }
    drop(users);
    drop(operator);
    server.stop();
    // The end of a stream may be there at once with text that the balance does not cover. The text
    // is not shown, but the upstream has generated it, and its report says so.
    let ended = "SELECT CAST(COUNT(*) AS TEXT) FROM usage_record WHERE ending = 6";
    let ended: usize = database.query(ended).await.parse().unwrap();
    let bills = bills(&database).await;
    let bills = bills.iter().map(|bill| read(bill).1);
    let clamped: Vec<Bill> = bills.filter(|bill| bill.flags.has(Flags::CLAMPED)).collect();
    assert!(clamped.len() <= ended, "{ended} streams ended for want of credits: {clamped:?}");
    for bill in clamped {
        assert!(bill.quantities.of(Dim::Output) < WORDS_MAX, "{bill:?}");
    }
    verify(&database);
}
