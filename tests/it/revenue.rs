//! What operators see of the money of all accounts: revenue, liability, usage and payments.
#![expect(clippy::print_stdout, reason = "a seed that failed is run again")]

use std::collections::BTreeMap;

use domain::{
    AccountId, ChargeId, Credits, Ending, EntryKind, KeyId, LedgerEntry, Link, MICROS_PER_DAY,
    NewPayment, PaymentId, Tally, Timestamp, UsageRecord,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::stripe::Stripe;
use crate::support::{Database, NOON, Server, User, on_both, seed};

on_both!(
    revenue_usage_and_margins_are_the_fold_of_the_entries,
    payments_of_all_users_are_listed_and_asked_about_again,
    usage_of_all_accounts_is_grouped_by_user_and_tier,
);

/// Accounts, and how many entries each has. The first one is read in pieces; the last one has been
/// idle for long.
const ENTRIES: [usize; 6] = [4_300, 1_900, 1_500, 1_200, 600, 100];
/// Those of a test account, which nothing counts.
const OF_TEST: usize = 600;
/// The days that the entries are of, before the present one.
const DAYS: i64 = 70;
const PROVIDERS: [&str; 3] = ["sandbox", "stripe", "x402"];
const MODELS: [&str; 3] = ["one", "two", ""];

/// A charge or capture, and what of it was given back.
struct Charged {
    id: Uuid,
    kind: EntryKind,
    amount: i64,
    is_refunded: bool,
}

/// What an account has had.
struct History {
    account: AccountId,
    /// How many entries.
    made: usize,
    paid: Vec<(PaymentId, i64)>,
    charged: Vec<Charged>,
}

/// The entries of accounts, made at random.
struct Making {
    random: StdRng,
    entries: Vec<LedgerEntry>,
    payments: Vec<NewPayment>,
    usage: Vec<UsageRecord>,
}

impl Making {
    fn id(&mut self) -> Uuid {
        Uuid::from_u128(self.random.random())
    }

    /// What may come next on an account: its kind, amount and reference.
    fn any(
        &mut self,
        of: &mut History,
        owner: Uuid,
        balance: i64,
        now: Timestamp,
    ) -> Option<(EntryKind, i64, Uuid)> {
        let History { account, made, paid, charged } = of;
        let (account, made) = (*account, *made);
        let any = self.random.random_range(1..3_000_000_000_i64);
        let entry = match self.random.random_range(0..20) {
            0..=2 => {
                let id = PaymentId(self.id());
                let provider = PROVIDERS[self.random.random_range(0..3)];
                let amount = any * 7 + 1;
                let credits = Credits::from_nanos(amount);
                self.payments.push(NewPayment { id, account, provider, amount: credits, at: now });
                paid.push((id, amount));
                (EntryKind::TopUp, amount, id.0)
            }
            3 => (EntryKind::Grant, any, owner),
            4 => (EntryKind::Deduction, -any.min(balance / 2), owner),
            5 => match charged
                .last_mut()
                .filter(|one| one.kind == EntryKind::Charge && !one.is_refunded)
            {
                Some(one) => {
                    one.is_refunded = true;
                    (EntryKind::Refund, one.amount, one.id)
                }
                None => return None,
            },
            6 | 7 if !charged.is_empty() => {
                let one = &charged[self.random.random_range(0..charged.len())];
                if self.random.random_bool(0.6) {
                    (EntryKind::Grant, one.amount / 3, one.id)
                } else {
                    (EntryKind::Deduction, -(one.amount / 5).min(balance), one.id)
                }
            }
            8 | 9 if !paid.is_empty() => {
                let (id, amount) = paid[self.random.random_range(0..paid.len())];
                match self.random.random_range(0..3) {
                    0 => (EntryKind::PaymentRefund, -(amount / 3).min(balance), id.0),
                    1 => (EntryKind::Dispute, -(amount / 2).min(balance), id.0),
                    _ => (EntryKind::Reinstatement, amount / 4, id.0),
                }
            }
            number => {
                let kind = if number % 3 == 0 { EntryKind::Charge } else { EntryKind::Capture };
                let (id, amount) = (self.id(), (any / 9).min(balance));
                if amount > 0 {
                    charged.push(Charged { id, kind, amount, is_refunded: false });
                    self.call(account, id, made, amount, now.micros());
                }
                (kind, -amount, id)
            }
        };
        Some(entry)
    }

    /// The entries of an account from its first day to its last one.
    fn account(
        &mut self,
        account: AccountId,
        owner: Uuid,
        count: usize,
        (from, until): (i64, i64),
    ) {
        let (mut balance, mut link) = (0_i64, Link::START);
        let mut of = History { account, made: 0, paid: vec![], charged: vec![] };
        let step = (until - from) / i64::try_from(count).unwrap();
        let mut at = from;
        while of.made < count {
            at += self.random.random_range(0..2 * step);
            // Many at the very beginning or end of a day.
            let midnight = at.div_euclid(MICROS_PER_DAY) * MICROS_PER_DAY;
            at = match self.random.random_range(0..12) {
                0 if midnight + MICROS_PER_DAY < until => midnight + MICROS_PER_DAY,
                1 if midnight + MICROS_PER_DAY < until => midnight + MICROS_PER_DAY - 1,
                // A clock goes back a little.
                2 => at - 1_500,
                _ => at,
            }
            .min(until - 1);
            let now = Timestamp::from_micros(at);
            let Some((kind, amount, reference)) = self.any(&mut of, owner, balance, now) else {
                continue;
            };
            if amount == 0 {
                continue;
            }
            balance += amount;
            of.made += 1;
            let entry = LedgerEntry {
                account,
                seq: i64::try_from(of.made).unwrap(),
                epoch: 0,
                kind,
                amount: Credits::from_nanos(amount),
                balance_after: Credits::from_nanos(balance),
                reference,
                key: None,
                day: now.day(),
                month: now.day().month(),
                at: now,
                bill: None,
                link,
            };
            let entry = entry.after(link);
            link = entry.link;
            self.entries.push(entry);
        }
    }

    /// The usage record of a call that entry number `before` + 1 is of.
    fn call(&mut self, account: AccountId, id: Uuid, before: usize, amount: i64, at: i64) {
        let latency_micros = self.random.random_range(1_000..4_000_000);
        self.usage.push(UsageRecord {
            id: ChargeId(id),
            account,
            seq: i64::try_from(before + 1).ok(),
            key: KeyId(Uuid::from_u128(7)),
            method: "POST".into(),
            route: "/v1/chat/completions".into(),
            model: MODELS[self.random.random_range(0..3)].into(),
            upstream: "v1".into(),
            status: if self.random.random_bool(0.1) { 500 } else { 200 },
            cost: Credits::from_nanos(amount),
            prompt_tokens: self.random.random_range(0..5_000),
            completion_tokens: self.random.random_range(0..2_000),
            ending: Ending::Completed,
            tally: Tally::Reported,
            started_at: Timestamp::from_micros(at - latency_micros),
            latency_micros,
        });
    }
}

/// What entries come to, folded here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Folded(BTreeMap<&'static str, i64>);

const SUMS: [&str; 13] = [
    "entries",
    "credited",
    "refunded",
    "disputed",
    "reinstated",
    "paid",
    "granted",
    "taken",
    "spent",
    "returned",
    "corrected",
    "earned",
    "net",
];

impl Folded {
    fn add(&mut self, name: &'static str, amount: i64) {
        *self.0.entry(name).or_default() += amount;
    }

    fn entry(&mut self, entry: &LedgerEntry, owner: Uuid) {
        let amount = entry.amount.nanos();
        self.add("entries", 1);
        self.add("net", amount);
        let is_own = entry.reference == owner;
        match entry.kind {
            EntryKind::TopUp => self.add("credited", amount),
            EntryKind::PaymentRefund => self.add("refunded", -amount),
            EntryKind::Dispute => self.add("disputed", -amount),
            EntryKind::Reinstatement => self.add("reinstated", amount),
            EntryKind::Grant if is_own => self.add("granted", amount),
            EntryKind::Deduction if is_own => self.add("taken", -amount),
            EntryKind::Grant | EntryKind::Deduction => self.add("corrected", amount),
            EntryKind::Charge | EntryKind::Capture => self.add("spent", -amount),
            EntryKind::Refund => self.add("returned", amount),
        }
        let is_of_payment = matches!(
            entry.kind,
            EntryKind::TopUp
                | EntryKind::PaymentRefund
                | EntryKind::Dispute
                | EntryKind::Reinstatement
        );
        if is_of_payment {
            self.add("paid", amount);
        } else if !is_own {
            self.add("earned", -amount);
        }
    }

    fn of(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Is this what the server says?
    fn is(&self, body: &Value, what: &str) {
        for name in SUMS {
            let said =
                if name == "entries" { body[name].as_i64().unwrap() } else { exact(body, name) };
            assert_eq!(said, self.of(name), "{what}: {name}");
        }
    }
}

/// An amount of an answer by its text, so that no digit is lost.
fn exact(body: &Value, name: &str) -> i64 {
    let text = body[format!("{name}_decimal")].as_str().unwrap_or_else(|| panic!("{name}: {body}"));
    text.parse::<Credits>().unwrap().nanos()
}

fn period(at: Timestamp, interval: &str) -> String {
    let day = if interval == "month" { at.day().month().starts_at() } else { at.day().starts_at() };
    day.to_rfc3339()
}

async fn ask(operator: &User<'_>, path: &str, query: &str) -> Value {
    operator.get(&format!("/api/admin/{path}?{query}")).expect(200).await.body
}

/// What the test has written.
struct Written {
    live: Vec<LedgerEntry>,
    owners: BTreeMap<i64, Uuid>,
    providers: BTreeMap<Uuid, &'static str>,
    usage: Vec<UsageRecord>,
}

impl Written {
    async fn into_database(database: &Database) -> Written {
        let ids = seed::users(database, "seeded", ENTRIES.len()).await;
        let mut owners = BTreeMap::new();
        for AccountId(id) in &ids {
            let hex = if database.is_postgres() {
                "REPLACE(CAST(user_id AS TEXT), '-', '')"
            } else {
                "HEX(user_id)"
            };
            let owner = database.query(&format!("SELECT {hex} FROM account WHERE id = {id}")).await;
            owners.insert(*id, Uuid::parse_str(&owner).unwrap());
        }
        let seed = rand::random();
        println!("seed {seed}");
        let random = StdRng::seed_from_u64(seed);
        let mut making = Making { random, entries: vec![], payments: vec![], usage: vec![] };
        let begin = NOON - DAYS * MICROS_PER_DAY;
        for (place, (account, count)) in ids.iter().zip(ENTRIES).enumerate() {
            let until = if place + 1 == ENTRIES.len() { NOON - 40 * MICROS_PER_DAY } else { NOON };
            making.account(*account, owners[&account.0], count, (begin, until));
        }
        let (live, of_live) = (making.entries.clone(), making.usage.clone());
        // The test account of the first user.
        let test = format!(
            "SELECT CAST(other.id AS TEXT) FROM account AS other
            INNER JOIN account ON account.user_id = other.user_id
            WHERE other.environment = 2 AND account.id = {}",
            ids[0].0
        );
        let test = AccountId(database.query(&test).await.parse().unwrap());
        making.account(test, owners[&ids[0].0], OF_TEST, (begin, NOON));
        seed::rows(database, &making.entries, &making.payments, &making.usage).await;
        let providers =
            making.payments.iter().map(|payment| (payment.id.0, payment.provider)).collect();
        Written { live, owners, providers, usage: of_live }
    }

    fn fold<'e>(&self, entries: impl Iterator<Item = &'e LedgerEntry>) -> Folded {
        let mut folded = Folded::default();
        entries.for_each(|entry| folded.entry(entry, self.owners[&entry.account.0]));
        folded
    }

    /// The group of an entry as the server names it.
    fn group(&self, by: &str, entry: &LedgerEntry) -> String {
        let is_correction = matches!(entry.kind, EntryKind::Grant | EntryKind::Deduction)
            && entry.reference != self.owners[&entry.account.0];
        match by {
            "provider" => self.providers.get(&entry.reference).copied().unwrap_or("").to_owned(),
            _ if is_correction => "correction".to_owned(),
            _ => entry.kind.name().to_owned(),
        }
    }

    /// Compares the report with the fold, to the nano-dollar.
    fn is(&self, report: &Value, interval: &str, by: Option<&str>) {
        let time = |name: &str| Timestamp::parse_rfc3339(report[name].as_str().unwrap()).unwrap();
        let (from, until) = (time("from"), time("until"));
        let of_span: Vec<&LedgerEntry> =
            self.live.iter().filter(|entry| entry.at >= from && entry.at < until).collect();
        let balance = |end: Timestamp| -> i64 {
            self.live.iter().filter(|one| one.at < end).map(|one| one.amount.nanos()).sum()
        };
        let total = self.fold(of_span.iter().copied());
        total.is(&report["totals"], "all");
        assert_eq!(exact(report, "opening_liability"), balance(from));
        assert_eq!(exact(report, "closing_liability"), balance(until));
        let series = report["series"].as_array().unwrap();
        let mut counted = 0;
        for row in series {
            let begins = row["period"].as_str().unwrap();
            let ends = Timestamp::parse_rfc3339(row["ends_at"].as_str().unwrap()).unwrap();
            let of_row =
                || of_span.iter().copied().filter(|one| period(one.at, interval) == begins);
            self.fold(of_row()).is(row, begins);
            counted += of_row().count();
            assert_eq!(exact(row, "liability"), balance(ends), "{begins}");
            let groups = row["groups"].as_array().unwrap();
            let Some(by) = by else {
                assert!(groups.is_empty(), "{begins}");
                continue;
            };
            for group in groups {
                let name = group["group"].as_str().unwrap();
                let entries = of_row().filter(|entry| self.group(by, entry) == name);
                self.fold(entries).is(group, &format!("{begins} {name}"));
            }
            let of_groups: i64 = groups.iter().map(|group| exact(group, "net")).sum();
            assert_eq!(of_groups, exact(row, "net"), "{begins}");
        }
        assert_eq!(counted, of_span.len(), "an entry is in one interval");
        for group in report["groups"].as_array().unwrap() {
            let name = group["group"].as_str().unwrap();
            let entries =
                of_span.iter().copied().filter(|one| self.group(by.unwrap(), one) == name);
            self.fold(entries).is(group, name);
        }
    }

    /// The same of usage, by when calls arrived.
    fn is_usage(&self, report: &Value, by: &str, group_of: impl Fn(&UsageRecord) -> String) {
        let time = |name: &str| Timestamp::parse_rfc3339(report[name].as_str().unwrap()).unwrap();
        let (from, until) = (time("from"), time("until"));
        let sums = |calls: &mut dyn Iterator<Item = &UsageRecord>| {
            calls.fold([0_i64; 5], |[count, cost, prompt, completion, errors], call| {
                [
                    count + 1,
                    cost + call.cost.nanos(),
                    prompt + i64::try_from(call.prompt_tokens).unwrap(),
                    completion + i64::try_from(call.completion_tokens).unwrap(),
                    errors + i64::from(call.status != 200),
                ]
            })
        };
        let said = |body: &Value| {
            let number = |name: &str| body[name].as_i64().unwrap();
            let tokens = [number("prompt_tokens"), number("completion_tokens")];
            [number("calls"), exact(body, "cost"), tokens[0], tokens[1], number("errors")]
        };
        let of_span: Vec<&UsageRecord> = self
            .usage
            .iter()
            .filter(|call| call.started_at >= from && call.started_at < until)
            .collect();
        let all = |filter: &dyn Fn(&UsageRecord) -> bool| {
            sums(&mut of_span.iter().copied().filter(|call| filter(call)))
        };
        assert_eq!(said(&report["totals"]), all(&|_| true), "{by}");
        let groups = report["groups"].as_array().unwrap();
        assert!(!groups.is_empty());
        for group in groups {
            let name = group["group"].as_str().unwrap();
            assert_eq!(said(group), all(&|call| group_of(call) == name), "{by} {name}");
        }
        let calls: i64 = groups.iter().map(|group| group["calls"].as_i64().unwrap()).sum();
        assert_eq!(calls, i64::try_from(of_span.len()).unwrap(), "{by}");
        for row in report["series"].as_array().unwrap() {
            let (begins, name) = (row["period"].as_str().unwrap(), row["group"].as_str().unwrap());
            let of_row = |call: &UsageRecord| {
                period(call.started_at, "day") == begins && group_of(call) == name
            };
            assert_eq!(said(row), all(&of_row), "{by} {begins} {name}");
        }
    }
}

async fn revenue_usage_and_margins_are_the_fold_of_the_entries(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let written = Written::into_database(&database).await;
    assert!(written.live.len() + OF_TEST >= 10_000);
    for kind in EntryKind::ALL {
        let count = written.live.iter().filter(|entry| entry.kind == kind).count();
        assert!(count > 20, "{kind:?}: {count}");
    }
    // From before the first entry, from the middle of the days, and of a span that is over.
    let whole = "from=2023-10-01T00:00:00Z";
    let old = "from=2023-11-20T07:00:00Z&until=2023-12-10T00:00:00Z";
    for (query, interval) in [
        (String::new(), "day"),
        (whole.to_owned(), "day"),
        (format!("{whole}&interval=month"), "month"),
        ("from=2023-12-20T00:00:00.5Z".to_owned(), "day"),
        (old.to_owned(), "day"),
    ] {
        for by in [None, Some("kind"), Some("provider")] {
            let group = by.map(|by| format!("&group_by={by}")).unwrap_or_default();
            let report = ask(&operator, "revenue", &format!("{query}{group}")).await;
            assert_eq!(report["interval"], interval);
            written.is(&report, interval, by);
        }
    }
    let all = ask(&operator, "revenue", whole).await;
    let balances = "SELECT CAST(SUM(balance) AS TEXT) FROM account WHERE environment = 1";
    assert_eq!(database.query(balances).await, exact(&all, "closing_liability").to_string());
    margins_are_what_was_earned(&operator, whole, &all).await;
    // Usage, before and after it is folded.
    let owner = |call: &UsageRecord| {
        let owner = domain::UserId(written.owners[&call.account.0]);
        owner.to_string()
    };
    for _ in 0..2 {
        for query in [whole, old] {
            let of =
                async |by: &str| ask(&operator, "usage", &format!("{query}&group_by={by}")).await;
            written.is_usage(&of("user").await, "user", owner);
            written.is_usage(&of("model").await, "model", |call| call.model.to_string());
            written.is_usage(&of("status").await, "status", |call| call.status.to_string());
            written.is_usage(&of("tier").await, "tier", |_| String::new());
        }
        database.fold().await;
    }
    spreadsheets_have_the_same_numbers(&operator, whole, &all).await;
}

/// By day too.
async fn margins_are_what_was_earned(operator: &User<'_>, whole: &str, all: &Value) {
    let to = "to=2024-01-16T00:00:00Z";
    let margins = ask(operator, "margins", &format!("by=day&{whole}&{to}")).await;
    assert_eq!(exact(&margins["total"], "revenue"), exact(&all["totals"], "earned"));
    let days = margins["groups"].as_array().unwrap();
    for row in all["series"].as_array().unwrap() {
        let day = days
            .iter()
            .find(|day| row["period"].as_str().unwrap().starts_with(day["name"].as_str().unwrap()));
        assert_eq!(day.map_or(0, |day| exact(day, "revenue")), exact(row, "earned"), "{row}");
    }
}

async fn spreadsheets_have_the_same_numbers(operator: &User<'_>, whole: &str, all: &Value) {
    let csv = operator.get(&format!("/api/admin/revenue?{whole}&format=csv")).expect(200).await;
    assert!(csv.text.starts_with("from,until,entries,credited,refunded,"), "{}", csv.text);
    let last = csv.text.trim_end().rsplit("\r\n").next().unwrap();
    let closing = all["closing_liability_decimal"].as_str().unwrap();
    assert!(
        last.starts_with("2024-01-15,2024-01-16,") && last.ends_with(&format!(",{closing},USD"))
    );
    let csv = operator.get("/api/admin/revenue?group_by=provider&format=csv").expect(200).await;
    assert!(csv.text.contains(",stripe,") && csv.text.contains(",(total),"), "{}", csv.text);
    for wrong in [
        "interval=hour",
        "group_by=user",
        "format=xml",
        "from=x",
        "from=2030-01-01T00:00:00Z",
        "from=2020-01-01T00:00:00Z",
    ] {
        operator.get(&format!("/api/admin/revenue?{wrong}")).expect(400).await;
    }
}

async fn usage_of_all_accounts_is_grouped_by_user_and_tier(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let users = [server.user("first").await, server.user("second").await];
    for (place, user) in users.iter().enumerate() {
        user.pay("1.00").await;
        let key = user.key().await;
        for _ in 0..=place {
            server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
        }
        let test = user.key_of(&json!({ "name": "test", "environment": "test" })).await;
        server.post("/api/hub/rag/index", &json!({})).key(&test).expect(200).await;
    }
    database.execute("UPDATE users SET tier = 'pro' WHERE username = 'second'").await.unwrap();
    let calls = |report: &Value| -> BTreeMap<String, i64> {
        let groups = report["groups"].as_array().unwrap().iter();
        groups
            .map(|one| (one["group"].as_str().unwrap().to_owned(), one["calls"].as_i64().unwrap()))
            .collect()
    };
    let by = async |query: &str| ask(&operator, "usage", query).await;
    let of_users = by("group_by=user").await;
    assert_eq!(of_users["totals"]["calls"], 3);
    let expected = BTreeMap::from([(users[0].id.clone(), 1), (users[1].id.clone(), 2)]);
    assert_eq!(calls(&of_users), expected);
    // By hour, only of one route, and of test credits.
    let by_hour =
        by("group_by=user&interval=hour&endpoint=%2Fapi%2Fhub%2Frag%2Findex&fill=zero").await;
    assert_eq!(calls(&by_hour), expected);
    assert_eq!(by_hour["series"].as_array().unwrap().len(), 2 * 24);
    let tiers = BTreeMap::from([(String::new(), 1), ("pro".to_owned(), 2)]);
    assert_eq!(calls(&by("group_by=tier").await), tiers);
    assert_eq!(by("group_by=tier&environment=test").await["totals"]["calls"], 2);
    assert_eq!(by("endpoint=%2Fnowhere").await["totals"]["calls"], 0);
    for wrong in ["group_by=nobody", "interval=week", "status=7", "from=2030-01-01T00:00:00Z"] {
        operator.get(&format!("/api/admin/usage?{wrong}")).expect(400).await;
    }
    users[0].get("/api/admin/usage").expect(403).await;
    // A customer's own has no such groups.
    users[0].get("/api/monitoring/usage?group_by=user").expect(400).await;
}

async fn payments_of_all_users_are_listed_and_asked_about_again(database: Database) {
    let stripe = Stripe::start();
    let server = crate::stripe::start(&database, &stripe).await;
    let operator = server.operator(&database, "operator").await;
    let users = [server.user("first").await, server.user("second").await];
    for user in &users {
        user.pay("3.00").await;
        server.advance(60);
    }
    let body = json!({ "amount": 25.00, "provider": "stripe" });
    let begun = users[0].post("/api/payments/payments", &body).expect(201).await.body;
    let id = begun["id"].as_str().unwrap();
    let list = async |query: &str| {
        let page = ask(&operator, "payments", query).await;
        let ids: Vec<String> = page["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect();
        (ids, page)
    };
    let (all, page) = list("").await;
    assert_eq!((all.len(), &page["next_cursor"]), (3, &Value::Null));
    assert_eq!((&all[0][..], &page["data"][0]["user_id"]), (id, &json!(users[0].id)));
    // Page by page.
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let (ids, page) = list(&format!("limit=1{cursor}")).await;
        paged.extend(ids);
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, all);
    for (query, count) in [
        ("status=confirmed", 2),
        ("status=created", 1),
        ("provider=stripe", 1),
        ("provider=x402", 0),
        (&format!("user_id={}", users[0].id), 2),
        (&format!("user_id={}&provider=sandbox", users[1].id), 1),
        ("from=2024-01-15T12:01:00Z", 2),
        ("until=2024-01-15T12:01:00Z", 1),
    ] {
        assert_eq!(list(query).await.0.len(), count, "{query}");
    }
    for wrong in ["status=odd", "provider=odd", "user_id=odd", "limit=0", "cursor=odd", "from=odd"]
    {
        operator.get(&format!("/api/admin/payments?{wrong}")).expect(400).await;
    }
    let nobody = "user-00000000-0000-4000-8000-000000000000";
    operator.get(&format!("/api/admin/payments?user_id={nobody}")).expect(404).await;
    let sandbox = list("provider=sandbox").await.0;
    a_payment_is_asked_about_again(&server, &operator, &users, &stripe, (id, &sandbox[0])).await;
}

async fn a_payment_is_asked_about_again(
    server: &Server,
    operator: &User<'_>,
    users: &[User<'_>; 2],
    stripe: &Stripe,
    (id, of_sandbox): (&str, &str),
) {
    // The provider has the money, and no webhook has come.
    let path = format!("/api/admin/payments/{id}");
    let seen = operator.get(&path).expect(200).await.body;
    assert_eq!((&seen["status"], &seen["reversals"]), (&json!("created"), &json!([])));
    assert!(seen["provider_ref"].as_str().is_some(), "{seen}");
    stripe.submit(id, "succeeded");
    let rechecked = operator.post(&format!("{path}/recheck"), &json!({})).expect(200).await.body;
    assert_eq!(rechecked["status"], "confirmed", "{rechecked}");
    assert_eq!(users[0].balance().await, "28.0000");
    // Again: it is credited once.
    operator.post(&format!("{path}/recheck"), &json!({})).expect(200).await;
    assert_eq!(users[0].balance().await, "28.0000");
    // The sandbox has nobody to ask, and another's payment is not a customer's business.
    let path = format!("/api/admin/payments/{of_sandbox}");
    operator.get(&path).expect(200).await;
    let refused = operator.post(&format!("{path}/recheck"), &json!({})).expect(409).await;
    assert!(
        refused.body["message"].as_str().unwrap().contains("nothing to ask"),
        "{}",
        refused.text
    );
    for who in [&users[0], &users[1]] {
        who.get("/api/admin/payments").expect(403).await;
        who.post(&format!("{path}/recheck"), &json!({})).expect(403).await;
    }
    for absent in ["pay-00000000-0000-4000-8000-000000000000", "odd"] {
        operator.get(&format!("/api/admin/payments/{absent}")).expect(404).await;
        operator
            .post(&format!("/api/admin/payments/{absent}/recheck"), &json!({}))
            .expect(404)
            .await;
    }
    // All of it is in the audit log, and the user reads it.
    let acts = users[0].get("/api/auth/audit-log").expect(200).await.text;
    for part in ["payment.rechecked", "created before", "in a list of payments"] {
        assert!(acts.contains(part), "{part}: {acts}");
    }
    // A recheck needs a fresh proof.
    server.advance(3_600);
    let refused = operator.post(&format!("{path}/recheck"), &json!({})).expect(403).await;
    assert!(refused.text.contains("confirmation_required"), "{}", refused.text);
}
