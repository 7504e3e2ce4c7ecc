//! `verify` finds whatever is changed of a bill or of the prices, also by somebody who computes the
//! chains anew: calls of every kind, a table of what is done to them in the database, and what is
//! said of it.

use sea_orm::{ConnectionTrait as _, QueryResult, Statement};
use serde_json::{Value, json};

use crate::support::process::{command, finished, verify};
use crate::support::shop::{cards, chat, obey};
use crate::support::upstream::{Script, Upstream};
use crate::support::{Database, Server, on_both};
use domain::{
    AccountId, Bill, Convention, Credits, Day, Dim, EntryKind, Flags, KeyId, LedgerEntry, Link,
    Month, PriceVersion, StoredBill, Timestamp,
};

on_both!(each_tampering_with_a_bill_is_found);

/// What the calls are, each with the number of its entry.
const WHOLE: i64 = 2;
const STREAMED: i64 = 3;
const FLEX: i64 = 4;
const ROUTE: i64 = 9;
const LATER: i64 = 11;
const LATER_WILD: i64 = 12;
const PLAIN: i64 = 13;
const THOUGHT: i64 = 14;

/// Version 1 is that of the routes. The first prices of the list `default` and of `gold`, nine
/// tenths of them; and the second ones.
const DEFAULT: i64 = 2;
const GOLD: i64 = 3;
const LATER_DEFAULT: i64 = 4;

/// A customer of the list `gold` who has made calls of every kind, and a server that has stopped.
async fn calls(database: &Database) {
    let upstream = Upstream::start(Script::Asked(obey)).await;
    let server = Server::start_with(database, |settings| settings.pricing.notice_seconds = 0).await;
    let operator = server.operator(database, "operator").await;
    operator.open_shop(&upstream.url()).await;
    let lists = "/api/admin/price-lists";
    operator.post(lists, &json!({ "name": "gold", "parent": "default" })).expect(201).await;
    let publish = async |list: &str, mut body: Value| {
        body["publish"] = json!(true);
        operator.post(&format!("{lists}/{list}/versions"), &body).expect(201).await;
    };
    publish("gold", json!({ "multiplier": "0.90" })).await;
    let user = server.user("someone").await;
    let list = format!("/api/admin/users/{}/price-list", user.id);
    operator.put(&list, &json!({ "list": "gold" })).expect(200).await;
    user.pay("10.00").await;
    let key = user.key().await;
    server.advance(60);
    let call = async |path: &str, body: Value| {
        let answer = server.post(path, &body).key(&key).expect(200).await;
        user.get("/api/payments/transactions").expect(200).await;
        answer
    };
    let v1 = "/v1/chat/completions";
    let with = |mut body: Value, name: &str, value: Value| {
        body[name] = value;
        body
    };
    let cached = json!({ "input": 1_000, "cached": 600, "output": 50, "thoughts": 30 });
    call(v1, chat("chat", &cached)).await;
    let streamed = json!({ "input": 9, "output": 3, "words": 3 });
    call(v1, with(chat("chat", &streamed), "stream", json!(true))).await;
    let tier = json!({ "input": 1_000, "cached": 600, "output": 50, "tier": "flex" });
    call(v1, with(chat("chat", &tier), "service_tier", json!("flex"))).await;
    let long = json!({ "input": 10, "cached": 150_000, "written": 60_000, "output": 70 });
    call("/v1/messages", chat("claude", &long)).await;
    let failing = json!({ "input": 9, "output": 20, "fails": ["a"] });
    let answer = call(v1, chat("chat", &failing)).await;
    assert_eq!(answer.header("x-polysystems-attempts"), "2");
    let too_long = json!({ "input": 9, "output": 20, "long": ["a", "b"] });
    let mut unlimited = chat("chat", &too_long);
    unlimited.as_object_mut().unwrap().remove("max_tokens");
    let answer = call(v1, unlimited).await;
    // The other model is told how much the one that was asked for may answer, and is held for.
    let told: Value = serde_json::from_str(upstream.texts.lock().unwrap().last().unwrap()).unwrap();
    let limit = told["max_tokens"].as_u64().or(told["max_completion_tokens"].as_u64());
    assert_eq!((&told["model"], limit), (&json!("theirs-c"), Some(20_000)));
    assert_eq!(answer.header("x-polysystems-attempts"), "2");
    call(v1, chat("open/x", &json!({ "input": 900, "output": 100 }))).await;
    call("/api/hub/rag/index", json!({})).await;
    call("/api/hub/agents/chat", chat("m", &json!({}))).await;
    // The price of a plain token of `chat` changes; that of `open/*` does not.
    publish("default", json!({ "cards": cards(1) })).await;
    server.advance(60);
    call(v1, chat("chat", &cached)).await;
    call(v1, chat("open/x", &json!({ "input": 900, "output": 100 }))).await;
    // Two that cost the same: 100 plain tokens at 8.1, and 90 thoughts at 9.
    call(v1, chat("chat", &json!({ "output": 100 }))).await;
    call(v1, chat("chat", &json!({ "output": 90, "thoughts": 90 }))).await;
    assert_eq!(user.ledger().await.len(), 14);
    server.stop();
}

fn bytes(database: &Database, of: &[u8]) -> String {
    let digits = hex::encode(of);
    if database.is_postgres() { format!("'\\x{digits}'::BYTEA") } else { format!("X'{digits}'") }
}

/// The bill of an entry.
async fn bill(database: &Database, seq: i64) -> Bill {
    let digits = if database.is_postgres() { "ENCODE(bill, 'hex')" } else { "LOWER(HEX(bill))" };
    let sql = format!("SELECT {digits} FROM ledger_entry WHERE seq = {seq}");
    Bill::read(&hex::decode(database.query(&sql).await).unwrap()).unwrap()
}

/// What can be changed is kept, and nothing is in the way of changing it.
async fn unlock(database: &Database) {
    let mut statements: Vec<String> = ["ledger_entry", "price_version", "account"]
        .map(|table| format!("CREATE TABLE kept_{table} AS SELECT * FROM {table}"))
        .into();
    for table in ["ledger_entry", "price_version"] {
        if database.is_postgres() {
            statements.push(format!("ALTER TABLE {table} DISABLE TRIGGER ALL"));
        } else {
            for what in ["update", "delete"] {
                statements.push(format!("DROP TRIGGER {table}_no_{what}"));
            }
        }
    }
    for statement in statements {
        database.execute(&statement).await.unwrap();
    }
}

async fn mend(database: &Database) {
    for statement in [
        "DELETE FROM ledger_entry",
        "INSERT INTO ledger_entry SELECT * FROM kept_ledger_entry",
        "DELETE FROM price_version",
        "INSERT INTO price_version SELECT * FROM kept_price_version",
        "UPDATE account SET balance = kept.balance, link = kept.link
            FROM kept_account AS kept WHERE kept.id = account.id",
    ] {
        database.execute(statement).await.unwrap();
    }
}

fn read_entry(row: &QueryResult) -> LedgerEntry {
    let long = |place| row.try_get_by_index::<i64>(place).unwrap();
    let version: Option<i32> = row.try_get_by_index(10).unwrap();
    let bytes: Option<Vec<u8>> = row.try_get_by_index(11).unwrap();
    LedgerEntry {
        account: AccountId(long(0)),
        seq: long(1),
        epoch: long(2),
        kind: EntryKind::from_code(row.try_get_by_index(3).unwrap()).unwrap(),
        amount: Credits::from_nanos(long(4)),
        balance_after: Credits::ZERO,
        reference: row.try_get_by_index(5).unwrap(),
        key: row.try_get_by_index::<Option<uuid::Uuid>>(6).unwrap().map(KeyId),
        day: Day(row.try_get_by_index(7).unwrap()),
        month: Month(row.try_get_by_index(8).unwrap()),
        at: Timestamp::from_micros(long(9)),
        bill: StoredBill::from_columns(version.map(i64::from), bytes.as_deref()),
        link: Link::START,
    }
}

/// Computes balances, digests and every chain anew, as somebody can who writes the database.
async fn compute_anew(database: &Database) {
    const ENTRIES: &str = "SELECT account_id, seq, epoch, kind, amount, reference, key_id, day,
        month, at, price_version, bill FROM ledger_entry ORDER BY account_id, seq";
    const VERSIONS: &str =
        "SELECT CAST(id AS BIGINT), CAST(list AS BIGINT), document FROM price_version ORDER BY id";
    let connection = database.connect().await;
    let backend = connection.get_database_backend();
    let rows = async |sql: &str| {
        connection.query_all_raw(Statement::from_string(backend, sql)).await.unwrap()
    };
    let mut changes = Vec::new();
    let (mut account, mut link, mut balance) = (AccountId(0), Link::START, Credits::ZERO);
    for row in rows(ENTRIES).await {
        let entry = read_entry(&row);
        if entry.account != account {
            (account, link, balance) = (entry.account, Link::START, Credits::ZERO);
        }
        balance = balance.checked_add(entry.amount).unwrap();
        let entry = LedgerEntry { balance_after: balance, ..entry }.after(link);
        link = entry.link;
        let (nanos, link) = (balance.nanos(), bytes(database, &link.0));
        let (id, seq) = (account.0, entry.seq);
        changes.push(format!(
            "UPDATE ledger_entry SET balance_after = {nanos}, link = {link}
            WHERE account_id = {id} AND seq = {seq}"
        ));
        changes.push(format!(
            "UPDATE account SET balance = {nanos}, link = {link} WHERE id = {id} AND seq = {seq}"
        ));
    }
    let mut links = std::collections::BTreeMap::new();
    for row in rows(VERSIONS).await {
        let (id, list): (i64, i64) =
            (row.try_get_by_index(0).unwrap(), row.try_get_by_index(1).unwrap());
        let document: String = row.try_get_by_index(2).unwrap();
        let before = links.get(&list).copied().unwrap_or(Link::START);
        let version = PriceVersion::read(&document, before).unwrap();
        links.insert(list, version.link());
        changes.push(format!(
            "UPDATE price_version SET digest = {}, link = {} WHERE id = {id}",
            bytes(database, &version.digest()),
            bytes(database, &version.link().0)
        ));
    }
    for change in changes {
        connection.execute_unprepared(&change).await.unwrap();
    }
    connection.close().await.unwrap();
}

/// Something that is done to the database.
struct Tampering {
    what: &'static str,
    statements: Vec<String>,
    /// What is found of it, and what is found of it if all chains were computed anew.
    found: &'static str,
    found_anew: &'static str,
}

/// Only what no chain could be computed for.
const NOTHING: &str = "";

#[expect(clippy::too_many_lines, reason = "a table of what can be tampered with")]
async fn tamperings(database: &Database) -> Vec<Tampering> {
    let entry = |seq: i64, set: &str| format!("UPDATE ledger_entry SET {set} WHERE seq = {seq}");
    let billed = |seq: i64, bill: Bill| {
        let (version, bill) = (bill.version, bytes(database, &bill.bytes()));
        entry(seq, &format!("price_version = {version}, bill = {bill}"))
    };
    let version = |id: i64, set: &str| format!("UPDATE price_version SET {set} WHERE id = {id}");
    let document = |id: i64, from: &str, to: &str| {
        version(id, &format!("document = REPLACE(document, '{from}', '{to}')"))
    };
    let (whole, streamed, flex) =
        (bill(database, WHOLE).await, bill(database, STREAMED).await, bill(database, FLEX).await);
    let (later, wild) = (bill(database, LATER).await, bill(database, LATER_WILD).await);
    let (plain, thought) = (bill(database, PLAIN).await, bill(database, THOUGHT).await);
    let more = |bill: &Bill, dim| bill.quantities.with(dim, bill.quantities.of(dim) + 1);
    let first = domain::VersionId::new(u32::try_from(GOLD).unwrap()).unwrap();
    let of_default = domain::VersionId::new(u32::try_from(LATER_DEFAULT).unwrap()).unwrap();
    let case =
        |what, statements, found, found_anew| Tampering { what, statements, found, found_anew };
    let of = "entry 2 takes $0.002304, but its bill comes to $";
    vec![
        case(
            "amount",
            vec![entry(WHOLE, "amount = amount - 1")],
            "entry 2 takes $0.002304001, but its bill comes to $0.002304",
            "entry 2 takes $0.002304001, but its bill comes to $0.002304",
        ),
        case(
            "quantity of one dimension",
            vec![billed(WHOLE, Bill { quantities: more(&whole, Dim::CacheRead), ..whole })],
            of,
            of,
        ),
        case(
            "quantity of a stream",
            vec![billed(STREAMED, Bill { quantities: more(&streamed, Dim::Output), ..streamed })],
            "entry 3 takes $",
            "entry 3 takes $",
        ),
        case("row", vec![billed(WHOLE, Bill { row: 1, ..whole })], of, of),
        case(
            "service tier",
            vec![billed(FLEX, Bill { row: 0, ..flex })],
            "entry 4 takes $",
            "entry 4 takes $",
        ),
        case("card", vec![billed(WHOLE, Bill { card: whole.card + 1, ..whole })], of, of),
        case(
            "card that is not there",
            vec![billed(LATER_WILD, bill_of_other_card(&wild))],
            "the bill of entry 12 has no price",
            "the bill of entry 12 has no price",
        ),
        case(
            "version",
            vec![billed(LATER, Bill { version: first, ..later })],
            "entry 11 takes $",
            "entry 11 takes $",
        ),
        case(
            "version with the same price",
            vec![billed(LATER_WILD, Bill { version: first, ..wild })],
            "entry 12 is not the one that was written",
            "the bill of entry 12, of req-",
        ),
        case(
            "version of another list",
            vec![billed(LATER, Bill { version: of_default, ..later })],
            "entry 11 takes $",
            "entry 11 takes $",
        ),
        case(
            "version in the column alone",
            vec![entry(WHOLE, "price_version = 2")],
            "the bill of entry 2 is not one that was written",
            "the bill of entry 2 is not one that was written",
        ),
        case(
            "bytes of a price document",
            vec![document(DEFAULT, r#""input":2000000000"#, r#""input":3000000000"#)],
            "prices: version 2: its document is not the one that was published",
            of,
        ),
        case(
            "list",
            vec![version(DEFAULT, "list = 3")],
            "prices: version 2: its row says something else than its document",
            "prices: version 2: its row says something else than its document",
        ),
        case(
            "link of the chain of versions",
            vec![version(LATER_DEFAULT, &format!("link = {}", bytes(database, &[7; 32])))],
            "prices: version 4: the chain of its list is broken",
            NOTHING,
        ),
        case(
            "a version that is gone",
            vec!["DELETE FROM price_version WHERE id = 3".to_owned()],
            "the bill of entry 2 has no price: version 3",
            "the bill of entry 2 has no price: version 3",
        ),
        case(
            "multiplier",
            vec![version(GOLD, "multiplier = 950000")],
            "prices: version 3: its row says something else than its document",
            "prices: version 3: its row says something else than its document",
        ),
        case(
            "multiplier in the document as well",
            vec![
                version(GOLD, "multiplier = 950000"),
                document(GOLD, r#""multiplier":900000"#, r#""multiplier":950000"#),
            ],
            "prices: version 3: its document is not the one that was published",
            of,
        ),
        case(
            "base price of a route",
            vec![document(1, r#""request":500000}"#, r#""request":600000}"#)],
            "prices: version 1: its document is not the one that was published",
            "entry 9 takes $0.0005, but its bill comes to $0.0006",
        ),
        case(
            "a bill that is gone",
            vec![entry(ROUTE, "bill = NULL, price_version = NULL")],
            "entry 9 is of a call and has no bill",
            "entry 9 is of a call and has no bill",
        ),
        case(
            "the bill of a stream that is gone",
            vec![entry(STREAMED, "bill = NULL, price_version = NULL")],
            "entry 3 is of a call and has no bill",
            "entry 3 is of a call and has no bill",
        ),
        case(
            "the bill of another call",
            vec![billed(WHOLE, streamed)],
            "entry 2 takes $0.002304, but its bill comes to $",
            "entry 2 takes $0.002304, but its bill comes to $",
        ),
        case(
            "the bill of another call that cost the same",
            vec![billed(PLAIN, thought), billed(THOUGHT, plain)],
            "entry 13 is not the one that was written",
            "is for 9 tokens of the prompt and 90 of the completion, but the call is recorded with 9 and 100",
        ),
        case(
            "flags",
            vec![billed(WHOLE, Bill { flags: Flags::CLAMPED, ..whole })],
            "its bill comes to $0.002304, less than which was taken",
            "its bill comes to $0.002304, less than which was taken",
        ),
        case(
            "convention",
            vec![billed(WHOLE, Bill { convention: Convention::ALL[3], ..whole })],
            "entry 2 is not the one that was written",
            NOTHING,
        ),
        case(
            "a withdrawal",
            vec![version(GOLD, "withdrawn_at = 1")],
            "is by version 3 of the prices, which was withdrawn",
            "is by version 3 of the prices, which was withdrawn",
        ),
    ]
}

/// A bill by a number of a card that the version does not have.
fn bill_of_other_card(bill: &Bill) -> Bill {
    Bill { card: bill.card + 100, ..*bill }
}

async fn each_tampering_with_a_bill_is_found(database: Database) {
    calls(&database).await;
    verify(&database);
    let (_, out, _) = finished(command(&database).arg("verify"));
    assert!(out.contains("16 ledger entries, 13 bills, 13 usage records: 0 findings"), "{out}");
    unlock(&database).await;
    // What is computed anew is what was written: the table below tells nothing else apart.
    compute_anew(&database).await;
    verify(&database);
    let cases = tamperings(&database).await;
    assert!(cases.len() >= 12, "{}", cases.len());
    for Tampering { what, statements, found, found_anew } in cases {
        for statement in statements {
            database.execute(&statement).await.unwrap();
        }
        for (is_anew, expected) in [(false, found), (true, found_anew)] {
            if expected == NOTHING {
                continue;
            }
            if is_anew {
                compute_anew(&database).await;
            }
            let (code, out, _) = finished(command(&database).arg("verify"));
            assert_eq!(code, Some(1), "{what}, computed anew: {is_anew}: {out}");
            assert!(out.contains(expected), "{what}, computed anew: {is_anew}: {out}");
        }
        mend(&database).await;
        verify(&database);
    }
}
