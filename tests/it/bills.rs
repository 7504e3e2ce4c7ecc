//! Every charge names what it was priced by, and can be computed again from the ledger alone.

use serde_json::json;

use crate::commands::a_small_ledger;
use crate::support::process::{Process, command, finished, verify};
use crate::support::upstream::{Script, Upstream};
use crate::support::{Database, Server, hello, on_both};
use domain::{
    AccountId, Bill, Convention, Credits, Day, Dim, EntryKind, Flags, KeyId, LedgerEntry, Link,
    Month, Timestamp,
};
use futures_util::future::join_all;
use migration::{Migrator, MigratorTrait as _};
use uuid::Uuid;

on_both!(
    a_charge_names_what_it_was_priced_by,
    each_tampering_is_found,
    equal_prices_are_one_version_and_others_another,
    each_server_charges_by_the_prices_that_it_has,
    a_former_database_goes_on,
    servers_that_start_at_once_publish_once,
);

/// The bills of the charges, as hexadecimal digits, by number of the entry.
pub(crate) async fn bills(database: &Database) -> Vec<String> {
    let sql = if database.is_postgres() {
        "SELECT COALESCE(STRING_AGG(price_version || ':' || ENCODE(bill, 'hex'), ' ' ORDER BY account_id, seq), '')
        FROM ledger_entry WHERE bill IS NOT NULL"
    } else {
        "SELECT COALESCE(GROUP_CONCAT(price_version || ':' || LOWER(HEX(bill)), ' '), '')
        FROM (SELECT * FROM ledger_entry WHERE bill IS NOT NULL ORDER BY account_id, seq)"
    };
    let all = database.query(sql).await;
    all.split_whitespace().map(str::to_owned).collect()
}

/// A bill by its digits, and the version in its column.
pub(crate) fn read(digits: &str) -> (u32, Bill) {
    let (version, bytes) = digits.split_once(':').unwrap();
    (version.parse().unwrap(), Bill::read(&hex::decode(bytes).unwrap()).unwrap())
}

const VERSIONS: &str = "SELECT CAST(COUNT(*) AS TEXT) FROM price_version";

async fn a_charge_names_what_it_was_priced_by(database: Database) {
    let usage = |prompt: u64, completion: u64, total: u64| {
        json!({ "id": "c", "choices": [{ "message": { "content": "hi" } }], "usage": {
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total } })
        .to_string()
    };
    let upstream = Upstream::start(Script::Answer(200, usage(9, 3, 12))).await;
    let url = upstream.url();
    let server = Server::start_with(&database, |settings| {
        settings.upstreams.v1.url = Some(url);
    })
    .await;
    let user = server.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    for (answer, quantities, flags) in [
        (usage(9, 3, 12), [(Dim::Input, 9), (Dim::Output, 3)], Flags::NONE),
        // The surplus of a total is of the completion.
        (usage(9, 3, 20), [(Dim::Input, 9), (Dim::Output, 11)], Flags::ODD),
    ] {
        upstream.script(Script::Answer(200, answer));
        server.post("/v1/chat/completions", &hello()).key(&key).expect(200).await;
        user.get("/api/payments/transactions").expect(200).await;
        let (version, bill) = read(bills(&database).await.last().unwrap());
        assert_eq!((version, bill.version.number(), bill.row), (1, 1, 0));
        assert_eq!((bill.flags, bill.convention), (flags, Convention::default()));
        let parts = quantities.into_iter().chain([(Dim::Request, 1)]).collect();
        assert_eq!(bill.quantities, parts);
    }
    // A fixed price: debited, and held for a request that may be repeated.
    server.post("/api/hub/rag/index", &json!({})).key(&key).expect(200).await;
    let keyed = server.post("/api/hub/rag/index", &json!({})).header("idempotency-key", "k");
    keyed.key(&key).expect(200).await;
    user.get("/api/payments/transactions").expect(200).await;
    let all = bills(&database).await;
    assert_eq!(all.len(), 4);
    for digits in &all[2..] {
        let (_, bill) = read(digits);
        assert_eq!(bill.quantities, [(Dim::Request, 1)].into_iter().collect());
    }
    assert_eq!(all[2], all[3]);
    server.stop();
    verify(&database);
    let (_, out, _) = finished(command(&database).arg("verify"));
    assert!(out.contains("6 ledger entries, 4 bills, "), "{out}");
}

async fn unlock(database: &Database) {
    let unlock: &[&str] = if database.is_postgres() {
        &[
            "ALTER TABLE ledger_entry DISABLE TRIGGER ALL",
            "ALTER TABLE price_version DISABLE TRIGGER ALL",
        ]
    } else {
        &[
            "DROP TRIGGER ledger_entry_no_update",
            "DROP TRIGGER ledger_entry_no_delete",
            "DROP TRIGGER price_version_no_update",
            "DROP TRIGGER price_version_no_delete",
        ]
    };
    for statement in unlock {
        database.execute(statement).await.unwrap();
    }
}

#[expect(clippy::too_many_lines, reason = "the table of what can be tampered with is one table")]
async fn each_tampering_is_found(database: Database) {
    a_small_ledger(&database).await;
    for statement in [
        "UPDATE price_version SET document = 'x'",
        "UPDATE price_version SET effective_from = 0",
        "DELETE FROM price_version",
    ] {
        assert!(database.execute(statement).await.is_err(), "{statement}");
    }
    verify(&database);
    unlock(&database).await;
    let bytes = |hex: &str| {
        if database.is_postgres() { format!("'\\x{hex}'::BYTEA") } else { format!("X'{hex}'") }
    };
    let all = bills(&database).await;
    let (_, bill) = read(&all[1]);
    let written = bytes(all[1].split_once(':').unwrap().1);
    let set = |set: &str| format!("UPDATE ledger_entry SET {set} WHERE kind = 2 AND seq = 3");
    let with = |bill: Bill| set(&format!("bill = {}", bytes(&hex::encode(bill.bytes()))));
    let as_it_was = set(&format!("bill = {written}"));
    let two = "CREATE TABLE kept AS SELECT * FROM price_version";
    let back =
        "DELETE FROM price_version; INSERT INTO price_version SELECT * FROM kept; DROP TABLE kept";
    let prices = |change: &str| format!("{two}; UPDATE price_version SET {change}");
    let convention = Convention::ALL[3];
    let cases = [
        (
            "amount",
            set("amount = amount - 1"),
            set("amount = amount + 1"),
            "entry 3 takes $0.000500001, but its bill comes to $0.0005",
        ),
        (
            "quantity",
            with(Bill { quantities: bill.quantities.with(Dim::Request, 2), ..bill }),
            as_it_was.clone(),
            "entry 3 takes $0.0005, but its bill comes to $0.0010",
        ),
        (
            "row",
            with(Bill { row: 1, ..bill }),
            as_it_was.clone(),
            "the bill of entry 3 has no price",
        ),
        (
            "card",
            with(Bill { card: 0, ..bill }),
            as_it_was.clone(),
            "entry 3 takes $0.0005, but its bill comes to $",
        ),
        (
            "version",
            set("price_version = 2"),
            set("price_version = 1"),
            "the bill of entry 3 is not one that was written",
        ),
        (
            "convention",
            with(Bill { convention, ..bill }),
            as_it_was.clone(),
            "entry 3 is not the one that was written",
        ),
        (
            "flags",
            with(Bill { flags: Flags::CLAMPED, ..bill }),
            as_it_was.clone(),
            "its bill comes to $0.0005, less than which was taken",
        ),
        (
            "document",
            prices("document = REPLACE(document, '500000', '500001')"),
            back.to_owned(),
            "prices: version 1",
        ),
        (
            "digest",
            prices(&format!("digest = {}", bytes(&"00".repeat(32)))),
            back.to_owned(),
            "prices: version 1",
        ),
        (
            "link",
            prices(&format!("link = {}", bytes(&"00".repeat(32)))),
            back.to_owned(),
            "prices: version 1",
        ),
        (
            "a bill that is gone",
            set("bill = NULL, price_version = NULL"),
            set(&format!("bill = {written}, price_version = 1")),
            "entry 3 is of a call and has no bill",
        ),
        (
            "a bill too many",
            format!("UPDATE ledger_entry SET bill = {written}, price_version = 1 WHERE kind = 1"),
            "UPDATE ledger_entry SET bill = NULL, price_version = NULL WHERE kind = 1".to_owned(),
            "entry 1 is a top_up and has a bill",
        ),
        // And what nobody can have written.
        (
            "bytes that are none",
            set(&format!("bill = {}", bytes("40"))),
            as_it_was.clone(),
            "the bill of entry 3 is not one that was written",
        ),
        (
            "too many bytes",
            set(&format!("bill = {}", bytes(&"00".repeat(300)))),
            as_it_was.clone(),
            "the bill of entry 3 is not one that was written",
        ),
        (
            "a version that is gone",
            format!("{two}; DELETE FROM price_version"),
            back.to_owned(),
            "the bill of entry 3 has no price: version 1",
        ),
        (
            "a time at which it was not in force",
            prices("effective_from = effective_from + 1"),
            back.to_owned(),
            "prices: version 1",
        ),
    ];
    for (what, tamper, mend, expected) in cases {
        for statement in tamper.split(';') {
            database.execute(statement).await.unwrap();
        }
        let (code, out, _) = finished(command(&database).arg("verify"));
        assert_eq!(code, Some(1), "{what}: {out}");
        assert!(out.contains(expected), "{what}: {out}");
        for statement in mend.split(';') {
            database.execute(statement).await.unwrap();
        }
        verify(&database);
    }
}

/// Starts a server whose `/api/hub/rag/index` costs so much.
async fn priced(database: &Database, base: &str) -> Server {
    let rule =
        json!({ "method": "POST", "path": "/api/hub/rag/index", "class": "write", "base": base });
    Server::start_with(database, |settings| {
        settings.prices.push(serde_json::from_value(rule).unwrap());
    })
    .await
}

async fn equal_prices_are_one_version_and_others_another(database: Database) {
    for (base, versions) in [("0.1", "1"), ("0.1", "1"), ("0.2", "2"), ("0.2", "2"), ("0.1", "3")] {
        priced(&database, base).await.stop();
        assert_eq!(database.query(VERSIONS).await, versions, "{base}");
    }
    verify(&database);
}

async fn servers_that_start_at_once_publish_once(database: Database) {
    assert_eq!(finished(command(&database).arg("migrate")).0, Some(0));
    let stores = join_all((0..4).map(|_| store(&database))).await;
    let settings = polysystems::config::Settings::default();
    let clock = polysystems::clock::Clock::System;
    let publish = |store| polysystems::app::publish_prices(&settings, &clock, store);
    let published = join_all(stores.iter().map(publish)).await;
    for version in published {
        assert_eq!(version.unwrap().id().number(), 1);
    }
    assert_eq!(database.query(VERSIONS).await, "1");
    for store in stores {
        store.close().await;
    }
}

pub(crate) async fn store(database: &Database) -> polysystems::store::Store {
    let settings = polysystems::config::DatabaseSettings::default();
    let runtime = tokio::runtime::Handle::current();
    polysystems::store::Store::open_existing(&settings, database.url(), runtime).await.unwrap()
}

/// While one server takes over from another with other prices, each charges by its own, and both
/// bills can be computed again.
async fn each_server_charges_by_the_prices_that_it_has(database: Database) {
    let first = priced(&database, "0.1").await;
    let user = first.user("someone").await;
    user.pay("1.00").await;
    let key = user.key().await;
    let path = "/api/hub/rag/index";
    first.post(path, &json!({})).key(&key).expect(200).await;
    // The prices of the next one are published before it takes over.
    let store = store(&database).await;
    let mut settings = polysystems::config::Settings::default();
    let rule = json!({ "method": "POST", "path": path, "class": "write", "base": "0.3" });
    settings.prices.push(serde_json::from_value(rule).unwrap());
    let clock = polysystems::clock::Clock::System;
    let version = polysystems::app::publish_prices(&settings, &clock, &store).await.unwrap();
    assert_eq!(version.id().number(), 2);
    store.close().await;
    first.post(path, &json!({})).key(&key).expect(200).await;
    first.stop();
    let second = priced(&database, "0.3").await;
    second.post(path, &json!({})).key(&key).expect(200).await;
    second.stop();
    assert_eq!(database.query(VERSIONS).await, "3");
    let versions: Vec<u32> = bills(&database).await.iter().map(|bill| read(bill).0).collect();
    assert_eq!(versions, [1, 1, 3]);
    let amounts = "SELECT CAST(SUM(amount) AS TEXT) FROM ledger_entry WHERE kind = 2";
    assert_eq!(database.query(amounts).await, "-500000000");
    verify(&database);
}

/// One field of each entry of the ledger, in order.
async fn field(database: &Database, sql: &str) -> Vec<String> {
    let count = "SELECT CAST(COUNT(*) AS TEXT) FROM ledger_entry";
    let count: usize = database.query(count).await.parse().unwrap();
    let mut found = Vec::new();
    for place in 0..count {
        let sql = format!(
            "SELECT {sql} FROM ledger_entry ORDER BY account_id, seq LIMIT 1 OFFSET {place}"
        );
        found.push(database.query(&sql).await);
    }
    found
}

/// The migrations of the server before bills.
const MIGRATIONS_BEFORE: usize = 7;

/// Makes of a database what the server before bills would have left: no bills, and links without
/// them, in the schema of that server.
async fn set_back(database: &Database) {
    unlock(database).await;
    let digits = |column: &str| {
        if database.is_postgres() {
            format!("COALESCE(REPLACE(CAST({column} AS TEXT), '-', ''), '')")
        } else {
            format!("COALESCE(LOWER(HEX({column})), '')")
        }
    };
    let mut columns = Vec::new();
    for column in
        ["account_id", "seq", "epoch", "kind", "amount", "balance_after", "day", "month", "at"]
    {
        let values = field(database, &format!("CAST({column} AS TEXT)")).await;
        columns.push(values.iter().map(|value| value.parse::<i64>().unwrap()).collect::<Vec<_>>());
    }
    let references = field(database, &digits("reference")).await;
    let keys = field(database, &digits("key_id")).await;
    let bytes = |link: Link| {
        if database.is_postgres() { format!("'\\x{link}'::BYTEA") } else { format!("X'{link}'") }
    };
    let mut before = (0, Link::START);
    for place in 0..references.len() {
        let number = |column: usize| columns[column][place];
        let entry = LedgerEntry {
            account: AccountId(number(0)),
            seq: number(1),
            epoch: number(2),
            kind: EntryKind::from_code(number(3).try_into().unwrap()).unwrap(),
            amount: Credits::from_nanos(number(4)),
            balance_after: Credits::from_nanos(number(5)),
            reference: Uuid::parse_str(&references[place]).unwrap(),
            key: Uuid::parse_str(&keys[place]).ok().map(KeyId),
            day: Day(number(6).try_into().unwrap()),
            month: Month(number(7).try_into().unwrap()),
            at: Timestamp::from_micros(number(8)),
            bill: None,
            link: Link::START,
        };
        let last = if before.0 == entry.account.0 { before.1 } else { Link::START };
        let link = entry.after(last).link;
        before = (entry.account.0, link);
        let (account, seq, link) = (entry.account.0, entry.seq, bytes(link));
        for statement in [
            format!(
                "UPDATE ledger_entry SET link = {link} WHERE account_id = {account} AND seq = {seq}"
            ),
            format!("UPDATE account SET link = {link} WHERE id = {account} AND seq = {seq}"),
        ] {
            database.execute(&statement).await.unwrap();
        }
    }
    let connection = database.connect().await;
    // Also what was added later.
    let later = Migrator::migrations().len() - MIGRATIONS_BEFORE;
    Migrator::down(&connection, Some(later.try_into().unwrap())).await.unwrap();
    connection.close().await.unwrap();
}

async fn a_former_database_goes_on(database: Database) {
    let customer = a_small_ledger(&database).await;
    set_back(&database).await;
    let (code, _, error) = finished(command(&database).arg("verify"));
    assert_eq!(code, Some(78), "{error}");
    assert!(error.contains("its schema is older than version"), "{error}");
    assert_eq!(finished(command(&database).arg("migrate")).0, Some(0));
    verify(&database);
    assert_eq!(bills(&database).await.len(), 0);
    let mut process = Process::start(&database).await;
    let (status, _) = process.call("POST", "/api/hub/rag/index", &customer.key, &json!({})).await;
    assert_eq!(status, 200);
    assert_eq!(process.terminate(), Some(0));
    assert_eq!(bills(&database).await.len(), 1);
    verify(&database);
    let entries = "SELECT CAST(COUNT(*) AS TEXT) FROM ledger_entry";
    assert_eq!(database.query(entries).await, "6");
}
