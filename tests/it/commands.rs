//! The command line and the settings: what works, and what is refused with one clear line.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::database::Cluster;
use crate::support::process::{Customer, Process, command, finished, free_port, verify};
use crate::support::{Database, on_both};

on_both!(
    an_operator_is_made_by_command,
    session_tokens_get_another_secret_and_sessions_go_on,
    verify_finds_what_was_tampered_with,
    an_account_that_does_not_agree_with_its_ledger_takes_no_calls,
    migrating_twice_is_migrating_once,
    operators_have_a_command_for_what_they_do,
    a_log_has_one_line_for_each_request_and_no_secret,
    only_serve_and_migrate_make_anything,
    verify_says_if_it_could_not_look,
    a_process_that_was_taken_over_ends,
    a_newer_schema_is_left_to_its_program,
    a_start_is_told_in_five_lines,
);

async fn an_operator_is_made_by_command(database: Database) {
    let create = |email: &str, password: &str| {
        let mut child = command(&database)
            .args(["user", "create", "--email", email, "--username", "root", "--admin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    assert_eq!(finished(command(&database).arg("migrate")).0, Some(0));
    let (code, out, error) = create("root@example.com", "A password of an operator\n");
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(out.starts_with("user-") && out.contains(" admin\nOperators need two-factor"), "{out}");
    assert!(out.lines().last().unwrap().starts_with("pse_"), "{out}");
    let (code, _, error) = create("ROOT@example.com", "A password of an operator\n");
    assert_eq!(code, Some(1));
    assert!(error.starts_with("polysystems: the ") && error.ends_with(" is taken\n"), "{error}");
    let (code, _, error) = create("other@example.com", "short");
    assert_eq!(code, Some(1));
    assert!(error.contains("12 to 1024 characters"), "{error}");
    assert_eq!(create("other@example.com", "").0, Some(1));

    let process = Process::start(&database).await;
    let login = json!({ "email": "root@example.com", "password": "A password of an operator" });
    let (status, session) = process.call("POST", "/api/auth/login", "", &login).await;
    assert_eq!((status, &session["user"]["role"]), (200, &json!("admin")));
}

async fn session_tokens_get_another_secret_and_sessions_go_on(database: Database) {
    let kid = |token: &str| token.split('.').next().unwrap().to_owned();
    let rotate = || finished(command(&database).args(["secret", "rotate-jwt"]));
    assert_eq!(rotate().0, Some(78));
    let mut process = Process::start(&database).await;
    let customer = process.customer("someone", 1).await;
    assert_eq!(process.terminate(), Some(0));
    let (code, _, error) = rotate();
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let mut process = Process::start(&database).await;
    let (status, _) = process.call("GET", "/api/auth/me", &customer.token, &json!({})).await;
    assert_eq!(status, 200);
    let other = process.customer("other", 1).await;
    assert_ne!(kid(&other.token), kid(&customer.token));
    assert_eq!(process.terminate(), Some(0));
    // What was replaced twice is gone.
    assert_eq!(rotate().0, Some(0));
    let process = Process::start(&database).await;
    for (token, expected) in [(&customer.token, 401), (&other.token, 200)] {
        let (status, _) = process.call("GET", "/api/auth/me", token, &json!({})).await;
        assert_eq!(status, expected);
    }
}

/// A customer whose ledger has a top-up and three charges, and a server that has stopped in good
/// order.
pub(crate) async fn a_small_ledger(database: &Database) -> Customer {
    let mut process = Process::start(database).await;
    let customer = process.customer("someone", 1).await;
    for _ in 0..3 {
        let (status, _) =
            process.call("POST", "/api/hub/rag/index", &customer.key, &json!({})).await;
        assert_eq!(status, 200);
    }
    assert_eq!(process.terminate(), Some(0));
    customer
}

/// The ledger itself resists; who is determined enough takes its guard away.
pub(crate) async fn unlock(database: &Database) {
    let unlock = if database.is_postgres() {
        "ALTER TABLE ledger_entry DISABLE TRIGGER ALL"
    } else {
        "DROP TRIGGER ledger_entry_no_update; DROP TRIGGER ledger_entry_no_delete"
    };
    database.execute(unlock).await.unwrap();
}

#[expect(clippy::too_many_lines, reason = "the table of what can be tampered with is one table")]
async fn verify_finds_what_was_tampered_with(database: Database) {
    a_small_ledger(&database).await;
    verify(&database);
    unlock(&database).await;
    let swap = |one: i64, other: i64| {
        format!(
            "UPDATE ledger_entry SET seq = 99 WHERE seq = {one};
            UPDATE ledger_entry SET seq = {one} WHERE seq = {other};
            UPDATE ledger_entry SET seq = {other} WHERE seq = 99"
        )
    };
    let swapped = swap(2, 3);
    let cases = [
        (
            "UPDATE account SET balance = balance + 1 WHERE seq = 4",
            "UPDATE account SET balance = balance - 1 WHERE seq = 4",
            "stands at entry 4 with $0.998500001",
        ),
        (
            "UPDATE key_spend SET day_spent = day_spent - 1",
            "UPDATE key_spend SET day_spent = day_spent + 1",
            "by its counters",
        ),
        (
            "UPDATE usage_record SET cost = cost + 1 WHERE number = 1",
            "UPDATE usage_record SET cost = cost - 1 WHERE number = 1",
            "is recorded to cost $0.000500001, but $0.0005 was taken for it",
        ),
        (
            "UPDATE ledger_entry SET amount = amount - 1 WHERE seq = 3",
            "UPDATE ledger_entry SET amount = amount + 1 WHERE seq = 3",
            "entry 3 takes $0.9995 by $-0.000500001 to $0.9990",
        ),
        (
            "UPDATE usage_hour SET cost = cost + 1",
            "UPDATE usage_hour SET cost = cost - 1",
            "1 hours of usage are not what their calls come to",
        ),
        (
            "UPDATE usage_day SET calls = calls + 1",
            "UPDATE usage_day SET calls = calls - 1",
            "1 days of usage are not what their hours come to",
        ),
        // What no sum shows, the chain does.
        (
            "UPDATE ledger_entry SET at = at + 1 WHERE seq = 3",
            "UPDATE ledger_entry SET at = at - 1 WHERE seq = 3",
            "entry 3 is not the one that was written",
        ),
        (
            "UPDATE ledger_entry SET epoch = epoch + 1 WHERE seq = 4",
            "UPDATE ledger_entry SET epoch = epoch - 1 WHERE seq = 4",
            "has entries of epoch 2, but leases went up to 1 only",
        ),
        (
            "UPDATE ledger_entry SET epoch = 0 WHERE seq = 4",
            "UPDATE ledger_entry SET epoch = 1 WHERE seq = 4",
            "entry 4 is of epoch 0, after one of epoch 1",
        ),
        (swapped.as_str(), swapped.as_str(), "entry 2 is not the one that was written"),
        (
            "UPDATE ledger_entry SET seq = 9 WHERE seq = 4",
            "UPDATE ledger_entry SET seq = 4 WHERE seq = 9",
            "entry 9 follows entry 3",
        ),
        (
            "UPDATE ledger_entry SET account_id = 2 WHERE account_id = 1 AND seq = 4",
            "UPDATE ledger_entry SET account_id = 1 WHERE account_id = 2 AND seq = 4",
            "entry 4 follows entry 1",
        ),
        (
            "UPDATE payment SET amount = amount + 1",
            "UPDATE payment SET amount = amount - 1",
            "1 payments have no ledger entry, or one of another amount",
        ),
        (
            "UPDATE payment SET account_id = 2",
            "UPDATE payment SET account_id = 1",
            "or credits have no payment",
        ),
        (
            "UPDATE ledger_entry SET kind = 4 WHERE seq = 3",
            "UPDATE ledger_entry SET kind = 2 WHERE seq = 3",
            "1 calls were charged twice, or given back what was not taken",
        ),
        (
            "CREATE TABLE kept AS SELECT reference FROM ledger_entry WHERE seq = 3;
            UPDATE ledger_entry SET reference = (SELECT reference FROM ledger_entry WHERE seq = 2) WHERE seq = 3",
            "UPDATE ledger_entry SET reference = (SELECT reference FROM kept) WHERE seq = 3; DROP TABLE kept",
            "1 calls were charged twice",
        ),
        (
            "CREATE TABLE kept AS SELECT * FROM key_spend; DELETE FROM key_spend",
            "INSERT INTO key_spend SELECT * FROM kept; DROP TABLE kept",
            "which has no counters",
        ),
        (
            "UPDATE api_key SET account_id = 2",
            "UPDATE api_key SET account_id = 1",
            "which is not a key of its own",
        ),
        (
            "UPDATE ledger_entry SET account_id = 99 WHERE account_id = 1 AND seq = 4",
            "UPDATE ledger_entry SET account_id = 1 WHERE account_id = 99",
            "account 99: entries, holds or usage records name it",
        ),
        (
            "UPDATE account SET environment = 3 - environment WHERE id = 1",
            "UPDATE account SET environment = 3 - environment WHERE id = 1",
            "entry 1 pays real money into a test account",
        ),
        (
            "UPDATE account SET status = 9 WHERE id = 1",
            "UPDATE account SET status = 1 WHERE id = 1",
            "account 1 has an unknown status",
        ),
    ];
    // Two accounts of one user may not be of one kind otherwise.
    database.execute("DROP INDEX account_user_id").await.unwrap();
    for (tamper, mend, expected) in cases {
        for statement in tamper.split(';') {
            database.execute(statement).await.unwrap();
        }
        let (code, out, _) = finished(command(&database).arg("verify"));
        assert_eq!(code, Some(1), "{tamper}: {out}");
        assert!(out.contains(expected), "{tamper}: {out}");
        for statement in mend.split(';') {
            database.execute(statement).await.unwrap();
        }
        verify(&database);
    }
    // The end of a ledger cut off, and the account set back to fit: its last link tells.
    for statement in [
        "DELETE FROM ledger_entry WHERE seq = 4",
        "UPDATE account SET seq = 3, balance = 999000000 WHERE id = 1",
    ] {
        database.execute(statement).await.unwrap();
    }
    let (code, out, error) = finished(command(&database).args(["verify", "--json"]));
    assert_eq!((code, error.as_str()), (Some(1), ""));
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["what"].as_str().unwrap().contains("stands at entry 3"), "{out}");
    let last = lines.last().unwrap();
    assert_eq!((&last["accounts"], &last["entries"]), (&json!(2), &json!(4)));
    assert!(last["findings"].as_u64().unwrap() >= 2, "{out}");
}

async fn an_account_that_does_not_agree_with_its_ledger_takes_no_calls(database: Database) {
    let customer = a_small_ledger(&database).await;
    unlock(&database).await;
    let pay = async |process: &Process| {
        process.call("POST", "/api/hub/rag/index", &customer.key, &json!({})).await
    };
    let cases = [
        (
            "UPDATE account SET balance = balance + 1000000 WHERE id = 1",
            "UPDATE account SET balance = balance - 1000000 WHERE id = 1",
        ),
        (
            "UPDATE ledger_entry SET amount = amount - 1 WHERE seq = 4",
            "UPDATE ledger_entry SET amount = amount + 1 WHERE seq = 4",
        ),
        (
            "UPDATE ledger_entry SET seq = 9 WHERE seq = 3",
            "UPDATE ledger_entry SET seq = 3 WHERE seq = 9",
        ),
    ];
    for (tamper, mend) in cases {
        database.execute(tamper).await.unwrap();
        let last = "SELECT CAST(MAX(seq) AS TEXT) FROM ledger_entry WHERE account_id = 1";
        let before = database.query(last).await;
        let port = free_port();
        let mut process = Process::start_with(&database, |command| {
            command.env("POLYSYSTEMS_SERVER__METRICS_BIND", format!("127.0.0.1:{port}"));
        })
        .await;
        let (status, refused) = pay(&process).await;
        assert_eq!(status, 503, "{tamper}: {refused}");
        assert_eq!(refused["error"], "Account quarantined");
        assert_eq!(refused["outcome"], "not-attempted");
        // Its owner can neither pay in nor make a key, but others go on.
        let payment = json!({ "amount": 1 });
        let (status, refused) =
            process.call("POST", "/api/payments/payments", &customer.token, &payment).await;
        assert_eq!((status, &refused["error"]), (503, &json!("Account quarantined")));
        let other = process.customer(&format!("other{port}"), 1).await;
        let (status, _) = process.call("POST", "/api/hub/rag/index", &other.key, &json!({})).await;
        assert_eq!(status, 200);
        let metrics = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.unwrap();
        let metrics = metrics.text().await.unwrap();
        assert!(metrics.contains("\npolysystems_accounts_quarantined 1\n"), "{metrics}");
        assert_eq!(process.terminate(), Some(0));
        // Nothing was mended, nothing was written.
        assert_eq!(database.query(last).await, before);
        database.execute(mend).await.unwrap();
        let mut process = Process::start(&database).await;
        assert_eq!(pay(&process).await.0, 200);
        assert_eq!(process.terminate(), Some(0));
        database
            .execute("DELETE FROM ledger_entry WHERE account_id = 1 AND seq = 5")
            .await
            .unwrap();
        let back = "UPDATE account SET seq = 4, balance = balance + 500000,
            link = (SELECT link FROM ledger_entry WHERE account_id = 1 AND seq = 4) WHERE id = 1";
        database.execute(back).await.unwrap();
    }
}

async fn migrating_twice_is_migrating_once(database: Database) {
    for _ in 0..2 {
        let (code, out, error) = finished(command(&database).arg("migrate"));
        assert_eq!(
            (code, out.as_str(), error.as_str()),
            (Some(0), "The database is up to date.\n", "")
        );
    }
    // Two at the same time on an empty database.
    let other = if database.is_postgres() { Database::postgres() } else { Database::sqlite() };
    let both: Vec<_> = (0..2).map(|_| command(&other).arg("migrate").spawn().unwrap()).collect();
    for mut child in both {
        assert!(child.wait().unwrap().success());
    }
}

/// Environment, arguments, exit code, words of the line.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], i32, &'a [&'a str]);

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_is_wrong_is_told_in_one_line_that_names_it() {
    let database = Database::sqlite();
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = busy.local_addr().unwrap().to_string();
    let file = |name: &str, text: &str| {
        let file = database.folder().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let misspelt = file("misspelt.toml", "[server]\nbnid = \"127.0.0.1:1\"\n");
    let broken = file("broken.toml", "[server]\n\nbind = \n");
    let mistyped = file("mistyped.toml", "[payments]\ntest_credits = true\n");
    let no_folder = file("a file", "");
    let nowhere = format!("postgres://someone:hush@127.0.0.1:{}/db", free_port());
    let port =
        format!("127.0.0.1:{}/db", nowhere.rsplit(':').next().unwrap().split('/').next().unwrap());
    let in_a_file = format!("sqlite://{no_folder}/x.db");
    let cases: [Case; 50] = [
        // Names.
        (
            &[("POLYSYSTEMS_SERVER__BNID", "x")],
            &[],
            78,
            &["POLYSYSTEMS_SERVER__BNID", "POLYSYSTEMS_SERVER__BIND?"],
        ),
        (
            &[("POLYSYSTEMS_SERVER_BIND", "x")],
            &[],
            78,
            &["POLYSYSTEMS_SERVER_BIND", "POLYSYSTEMS_SERVER__BIND?"],
        ),
        (&[("POLYSYSTEMS_PAYMENT__SANDBOX", "true")], &[], 78, &["POLYSYSTEMS_PAYMENTS__SANDBOX?"]),
        (&[("POLYSYSTEMS_DATABASE__URI", "x")], &[], 78, &["POLYSYSTEMS_DATABASE__URL?"]),
        (&[("POLYSYSTEMS_SERVER", "x")], &[], 78, &["POLYSYSTEMS_SERVER__<NAME>"]),
        (
            &[("POLYSYSTEMS_RATE_LIMIT__TIERS__GOLD__SECOMD", "1")],
            &[],
            78,
            &["POLYSYSTEMS_RATE_LIMIT__TIERS__GOLD__SECOND?"],
        ),
        (
            &[("POLYSYSTEMS_AUTH__JWT_SECRET_FILE", "/nowhere")],
            &[],
            78,
            &["POLYSYSTEMS_AUTH__JWT_SECRET_FILE", "/nowhere"],
        ),
        (
            &[("POLYSYSTEMS_DATABASE__URL_FILE", "/nowhere")],
            &[],
            78,
            &["POLYSYSTEMS_DATABASE__URL_FILE and POLYSYSTEMS_DATABASE__URL"],
        ),
        // The file.
        (&[], &["--config", &misspelt], 78, &["misspelt.toml", "server.bnid", "server.bind?"]),
        (&[], &["--config", &broken], 78, &["broken.toml, line 3"]),
        (
            &[],
            &["--config", &mistyped],
            78,
            &["mistyped.toml", "payments.test_credits", "amount of USD"],
        ),
        (&[], &["--config", "/nowhere.toml"], 78, &["/nowhere.toml", "--config"]),
        (
            &[("POLYSYSTEMS_CONFIG", "/nowhere.toml")],
            &["verify"],
            78,
            &["/nowhere.toml", "POLYSYSTEMS_CONFIG"],
        ),
        // Types.
        (
            &[("POLYSYSTEMS_SERVER__BIND", "nowhere")],
            &[],
            78,
            &["POLYSYSTEMS_SERVER__BIND", "127.0.0.1:8080"],
        ),
        (
            &[("POLYSYSTEMS_SERVER__BIND", "8080")],
            &[],
            78,
            &["POLYSYSTEMS_SERVER__BIND", "127.0.0.1:8080"],
        ),
        (
            &[("POLYSYSTEMS_SERVER__WORKERS", "many")],
            &[],
            78,
            &["POLYSYSTEMS_SERVER__WORKERS", "whole number"],
        ),
        (
            &[("POLYSYSTEMS_SERVER__CALLS_MAX", "0")],
            &[],
            78,
            &["POLYSYSTEMS_SERVER__CALLS_MAX", "from 1"],
        ),
        (
            &[("POLYSYSTEMS_SERVER__WORKERS", "-1")],
            &[],
            78,
            &["POLYSYSTEMS_SERVER__WORKERS", "whole number"],
        ),
        (
            &[("POLYSYSTEMS_PAYMENTS__SANDBOX", "perhaps")],
            &[],
            78,
            &["POLYSYSTEMS_PAYMENTS__SANDBOX", "true or false"],
        ),
        (
            &[("POLYSYSTEMS_LOG__FORMAT", "xml")],
            &[],
            78,
            &["POLYSYSTEMS_LOG__FORMAT", "human", "json"],
        ),
        (
            &[("POLYSYSTEMS_SERVER__TRUSTED_PROXIES", "10.0.0.1,proxy")],
            &[],
            78,
            &["POLYSYSTEMS_SERVER__TRUSTED_PROXIES", "IP address"],
        ),
        (
            &[("POLYSYSTEMS_PAYMENTS__AMOUNT_MAX", "a lot")],
            &[],
            78,
            &["payments.amount_max", "POLYSYSTEMS_PAYMENTS__AMOUNT_MAX"],
        ),
        (
            &[("POLYSYSTEMS_PAYMENTS__TEST_CREDITS", "-1")],
            &[],
            78,
            &["POLYSYSTEMS_PAYMENTS__TEST_CREDITS", "negative"],
        ),
        // Values.
        (
            &[("POLYSYSTEMS_LOG__LEVEL", "verbose")],
            &[],
            78,
            &["POLYSYSTEMS_LOG__LEVEL", "verbose", "info"],
        ),
        (&[("POLYSYSTEMS_LOG__LEVEL", "hyper=loud")], &[], 78, &["POLYSYSTEMS_LOG__LEVEL", "info"]),
        (
            &[("POLYSYSTEMS_DATABASE__URL", "mysql://x")],
            &[],
            78,
            &["database.url", "sqlite", "POLYSYSTEMS_DATABASE__URL"],
        ),
        (
            &[("POLYSYSTEMS_AUTH__JWT_SECRET", "hush")],
            &[],
            78,
            &["POLYSYSTEMS_AUTH__JWT_SECRET", "32"],
        ),
        (
            &[("POLYSYSTEMS_RATE_LIMIT__DEFAULT_TIER", "gold")],
            &[],
            78,
            &["default_tier", "gold", "pro", "POLYSYSTEMS_RATE_LIMIT__DEFAULT_TIER"],
        ),
        (
            &[("POLYSYSTEMS_UPSTREAMS__V1__URL", "ftp://x")],
            &[],
            78,
            &["POLYSYSTEMS_UPSTREAMS__V1__URL", "http"],
        ),
        (
            &[("POLYSYSTEMS_UPSTREAMS__V1__FALLBACK_URL", "http://x")],
            &[],
            78,
            &["upstreams.v1.url", "POLYSYSTEMS_UPSTREAMS__V1__FALLBACK_URL"],
        ),
        (
            &[("POLYSYSTEMS_SERVER__TLS_KEY", "/nowhere")],
            &[],
            78,
            &["server.tls_certificate", "POLYSYSTEMS_SERVER__TLS_KEY"],
        ),
        (
            &[
                ("POLYSYSTEMS_SERVER__TLS_KEY", "/nowhere"),
                ("POLYSYSTEMS_SERVER__TLS_CERTIFICATE", "/nowhere"),
            ],
            &["config", "check"],
            78,
            &["server.tls_certificate", "/nowhere"],
        ),
        (
            &[("POLYSYSTEMS_SERVER__CORS_ORIGINS", "app.example.com")],
            &[],
            78,
            &["POLYSYSTEMS_SERVER__CORS_ORIGINS", "https://app.example.com"],
        ),
        (
            &[("POLYSYSTEMS_EMAIL__SMTP_URL", "hush")],
            &[],
            78,
            &["POLYSYSTEMS_EMAIL__SMTP_URL", "smtps://"],
        ),
        (
            &[("POLYSYSTEMS_EMAIL__SMTP_URL", "smtp://user:hush@mail.example.com")],
            &[],
            78,
            &["POLYSYSTEMS_EMAIL__SMTP_URL", "without TLS", "?tls=required"],
        ),
        (
            &[("POLYSYSTEMS_EMAIL__TRANSPORT", "smtp")],
            &["config", "check"],
            78,
            &["email.smtp_url", "POLYSYSTEMS_EMAIL__TRANSPORT"],
        ),
        (
            &[("POLYSYSTEMS_PAYMENTS__STRIPE__SECRET_KEY", "sk_live_hush")],
            &[],
            78,
            &["payments.stripe.webhook_secret", "POLYSYSTEMS_PAYMENTS__STRIPE__SECRET_KEY"],
        ),
        (
            &[
                ("POLYSYSTEMS_PAYMENTS__STRIPE__SECRET_KEY", "sk_live_hush"),
                ("POLYSYSTEMS_PAYMENTS__STRIPE__WEBHOOK_SECRET", "hush"),
            ],
            &[],
            78,
            &["payments.sandbox", "live key", "POLYSYSTEMS_PAYMENTS__SANDBOX"],
        ),
        (
            &[("POLYSYSTEMS_TRACES__PER_MILLE", "1001")],
            &[],
            78,
            &["POLYSYSTEMS_TRACES__PER_MILLE", "1000"],
        ),
        // What is not there.
        (
            &[("POLYSYSTEMS_SERVER__BIND", &busy)],
            &["serve"],
            1,
            &["cannot listen on", &busy, "in use"],
        ),
        // Before it asks the database, and so before it takes anything over.
        (
            &[("POLYSYSTEMS_SERVER__METRICS_BIND", &busy), ("POLYSYSTEMS_DATABASE__URL", &nowhere)],
            &["serve"],
            1,
            &["cannot listen on", &busy, "in use"],
        ),
        (
            &[("POLYSYSTEMS_DATABASE__URL", &nowhere)],
            &["serve"],
            69,
            &[&port, "refused", "POLYSYSTEMS_DATABASE__URL"],
        ),
        (
            &[("POLYSYSTEMS_DATABASE__URL", &in_a_file)],
            &["migrate"],
            78,
            &["a file/x.db", "as user", "POLYSYSTEMS_DATA_DIR"],
        ),
        (&[], &["verify"], 78, &["test.db", "POLYSYSTEMS_DATA_DIR", "polysystems migrate"]),
        (&[], &["secret", "rotate-jwt"], 78, &["jwt_secret", "POLYSYSTEMS_DATA_DIR"]),
        // Arguments.
        (&[], &["sevre"], 2, &["'sevre'", "'serve'", "--help"]),
        (&[], &["verify", "--jsno"], 2, &["--jsno", "--json", "polysystems verify --help"]),
        (
            &[],
            &["user", "credit", "x", "lots", "--reason", "x", "--as", "x"],
            2,
            &["lots", "<AMOUNT>", "polysystems user credit --help"],
        ),
        (&[], &["user", "list"], 2, &["--as", "polysystems user list --help"]),
        (&[], &["audit-log", "--as", "x", "--limit", "all"], 2, &["--limit", "all"]),
    ];
    for (environment, arguments, expected, words) in cases {
        let mut command = command(&database);
        command.env("POLYSYSTEMS_SERVER__BIND", "127.0.0.1:0");
        command.env("POLYSYSTEMS_DATABASE__WAIT_SECONDS", "0");
        command.envs(environment.iter().copied()).args(arguments);
        let (code, out, error) = finished(&mut command);
        assert_eq!(code, Some(expected), "{environment:?} {arguments:?} {error}");
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} not in {error}");
        assert_eq!((error.lines().count(), out.as_str()), (1, ""), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
    assert!(!database.folder().join("test.db").exists());
}

#[test]
fn other_programs_variables_are_fallbacks() {
    let database = Database::sqlite();
    let mut command = command(&database);
    command.env_remove("POLYSYSTEMS_DATABASE__URL").env_remove("POLYSYSTEMS_LOG__LEVEL");
    command.args(["config", "show"]);
    let variables =
        [("PORT", "8081"), ("DATABASE_URL", "postgres://u:hush@h/d"), ("RUST_LOG", "debug")];
    let (code, out, error) = finished(command.envs(variables));
    assert_eq!((code, error.as_str()), (Some(0), ""));
    for line in [
        "bind = \"0.0.0.0:8081\" # PORT\n",
        "url = \"[redacted]\" # DATABASE_URL\n",
        "level = \"debug\" # RUST_LOG\n",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert!(!out.contains("hush"));
}

#[test]
fn settings_can_be_checked_before_anything_is_made() {
    let database = Database::sqlite();
    let (code, out, error) = finished(command(&database).args(["config", "check"]));
    assert_eq!((code, out.as_str(), error.as_str()), (Some(0), "The settings are valid.\n", ""));
    assert_eq!(std::fs::read_dir(database.folder()).unwrap().count(), 0);
}

#[test]
fn a_reader_that_leaves_ends_a_command_quietly() {
    let database = Database::sqlite();
    let mut command = command(&database);
    command.args(["config", "show"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

async fn only_serve_and_migrate_make_anything(database: Database) {
    let boss = ["--as", "boss@example.com"];
    let create = ["user", "create", "--email", "boss@example.com", "--username", "boss"];
    let copy = tempfile::tempdir().unwrap();
    let copy = copy.path().join("copy");
    let commands: [&[&str]; 8] = [
        &["verify"],
        &["verify", "--json"],
        &["user", "list", boss[0], boss[1]],
        &["user", "set-role", "boss@example.com", "admin"],
        &["audit-log", boss[0], boss[1]],
        &["secret", "rotate-jwt"],
        &["backup", copy.to_str().unwrap()],
        &create,
    ];
    let run = |arguments: &[&str]| {
        let mut command = command(&database);
        command.args(arguments);
        if arguments == create {
            let file = tempfile::tempfile().unwrap();
            let mut password = &file;
            password.write_all(b"A password of an operator").unwrap();
            std::io::Seek::rewind(&mut password).unwrap();
            command.stdin(file);
        }
        finished(&mut command)
    };
    let seen = || std::fs::read_dir(database.folder()).unwrap().count();
    for arguments in commands {
        let (code, out, error) = run(arguments);
        assert_eq!((code, out.as_str()), (Some(78), ""), "{arguments:?}: {error}");
        assert_eq!((error.lines().count(), seen()), (1, 0), "{arguments:?}: {error}");
        assert!(!copy.exists());
    }
    if database.is_postgres() {
        let tables = "SELECT COUNT(*) || '' FROM pg_tables WHERE schemaname = 'public'";
        assert_eq!(database.query(tables).await, "0");
    }
    // A database of somebody else stays as it is.
    database.execute("CREATE TABLE theirs (id INTEGER)").await.unwrap();
    let file = database.folder().join("test.db");
    let before = std::fs::read(&file).ok();
    let (code, _, error) = run(&["verify"]);
    assert!(code == Some(78) && error.contains("no tables of polysystems"), "{error}");
    assert_eq!(std::fs::read(&file).ok(), before);
    // Made by one command, and then each has what it needs.
    assert_eq!(run(&["migrate"]).0, Some(0));
    assert_eq!(run(&["verify"]).0, Some(0));
    assert_eq!(run(&create).0, Some(0));
    assert_eq!(run(&["secret", "rotate-jwt"]).0, Some(0));
    // An older schema is not touched either.
    let last = "DELETE FROM seaql_migrations WHERE version LIKE '%_program'";
    database.execute(last).await.unwrap();
    let (code, _, error) = run(&["verify"]);
    assert!(code == Some(78) && error.contains("older than"), "{error}");
    database.execute("DROP TABLE schema_program").await.unwrap();
    assert_eq!(run(&["migrate"]).0, Some(0));
    verify(&database);
}

async fn verify_says_if_it_could_not_look(database: Database) {
    assert_eq!(finished(command(&database).arg("migrate")).0, Some(0));
    database.execute("ALTER TABLE usage_record RENAME TO gone").await.unwrap();
    let (code, _, error) = finished(command(&database).arg("verify"));
    assert_eq!((code, error.lines().count()), (Some(2), 1), "{error}");
}

async fn a_process_that_was_taken_over_ends(database: Database) {
    let mut first = Process::start(&database).await;
    let customer = first.customer("someone", 1).await;
    let mut second = Process::start(&database).await;
    assert_eq!(first.wait().await, Some(75));
    let (status, _) = second.call("POST", "/api/hub/rag/index", &customer.key, &json!({})).await;
    assert_eq!(status, 200);
    assert_eq!(second.terminate(), Some(0));
    verify(&database);
}

#[test]
fn the_server_waits_for_a_database_that_comes_late() {
    let cluster = Cluster::own();
    let database = Database::of(&cluster, None);
    cluster.stop();
    let starting = std::thread::scope(|scope| {
        let starting = scope.spawn(|| {
            let mut started = None;
            crate::support::run(async {
                started = Some(Process::start(&database).await);
            });
            started
        });
        // Time for some tries in vain; if there was none, the start succeeds all the same.
        std::thread::sleep(std::time::Duration::from_secs(2));
        cluster.start_again();
        starting.join().unwrap()
    });
    assert_eq!(starting.unwrap().terminate(), Some(0));
}

async fn a_newer_schema_is_left_to_its_program(database: Database) {
    assert_eq!(finished(command(&database).arg("migrate")).0, Some(0));
    for statement in [
        "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m29991231_000001_future', 0)",
        "UPDATE schema_program SET version = '9.8.7'",
    ] {
        database.execute(statement).await.unwrap();
    }
    for arguments in ["serve", "migrate", "verify"] {
        let mut command = command(&database);
        command.env("POLYSYSTEMS_SERVER__BIND", "127.0.0.1:0").arg(arguments);
        let (code, _, error) = finished(&mut command);
        assert_eq!((code, error.lines().count()), (Some(78), 1), "{error}");
        for words in ["version 9.8.7", concat!("version ", env!("CARGO_PKG_VERSION")), "start"] {
            assert!(error.contains(words), "{error}");
        }
    }
}

async fn a_start_is_told_in_five_lines(database: Database) {
    let log = database.folder().join("log");
    let file = std::fs::File::create(&log).unwrap();
    let mut process = Process::start_with(&database, |command| {
        command.env("POLYSYSTEMS_LOG__LEVEL", "info").env("POLYSYSTEMS_LOG__FORMAT", "json");
        command.stderr(file);
    })
    .await;
    let told = std::fs::read_to_string(&log).unwrap();
    let told = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<Value> = told.filter(|line| line["message"] != "request").collect();
    let begins = ["polysystems ", "database: ", "calls go to ", "payments by ", "listening on "];
    assert_eq!(told.len(), begins.len(), "{told:?}");
    for (line, begin) in told.iter().zip(begins) {
        assert!(line["message"].as_str().unwrap().starts_with(begin), "{line}");
    }
    // The settings for tests have none, and that is told.
    let last = told[4].to_string();
    assert!(last.contains("rate limits are off") && last.contains("WARN"), "{last}");
    assert_eq!(process.terminate(), Some(0));
}

#[test]
fn the_settings_in_force_are_shown_without_secrets() {
    let database = Database::sqlite();
    let settings = database.folder().join("settings.toml");
    std::fs::write(
        &settings,
        "[auth]\njwt_secret = \"0123456789012345678901234567890123456789\"\n[rate_limit.tiers.gold]\nsecond = 7\n",
    )
    .unwrap();
    let mut command = command(&database);
    command.args(["config", "show", "--config"]).arg(&settings);
    command.env("POLYSYSTEMS_AUTH__KEY_PEPPER", "987654321098765432109876543210987654321");
    command.env("POLYSYSTEMS_RATE_LIMIT__DEFAULT_TIER", "gold");
    let (code, out, error) = finished(&mut command);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(!out.contains("0123456789") && !out.contains("9876543210"), "{out}");
    let shown: Value = serde_json::to_value(toml::from_str::<toml::Value>(&out).unwrap()).unwrap();
    assert_eq!(shown["rate_limit"]["default_tier"], "gold");
    assert_eq!(shown["rate_limit"]["tiers"]["gold"]["second"], 7);
    assert_eq!(shown["rate_limit"]["tiers"]["pro"]["second"], 20);
    assert_eq!(shown["auth"]["jwt_secret"], "[redacted]");
    for line in [
        "jwt_secret = \"[redacted]\" # ",
        "default_tier = \"gold\" # POLYSYSTEMS_RATE_LIMIT__DEFAULT_TIER\n",
        "bind = \"127.0.0.1:8080\" # default\n",
        "# smtp_url is not set\n",
        "path = \"/v1/chat/completions\"\n",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
}

async fn a_log_has_one_line_for_each_request_and_no_secret(database: Database) {
    let log = database.folder().join("log");
    let file = std::fs::File::create(&log).unwrap();
    let mut process = Process::start_with(&database, |command| {
        command.env("POLYSYSTEMS_LOG__LEVEL", "info").env("POLYSYSTEMS_LOG__FORMAT", "json");
        command.stderr(file);
    })
    .await;
    let customer = process.customer("someone", 1).await;
    for (body, status) in
        [(json!({ "messages": [{ "content": "a private question" }] }), 200), (json!("hush"), 400)]
    {
        let answer = process.call("POST", "/api/hub/agents/chat", &customer.key, &body).await;
        assert_eq!(answer.0, status);
    }
    process.call("POST", "/api/auth/login", "", &json!("hush")).await;
    process.call("GET", "/api/keys?token=hush", &customer.key, &Value::Null).await;
    assert_eq!(process.terminate(), Some(0));
    let log = std::fs::read_to_string(log).unwrap();
    let secrets = [
        customer.token.as_str(),
        &customer.key,
        crate::support::PASSWORD,
        "someone@",
        "private",
        "hush",
    ];
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let requests: Vec<_> = lines.iter().filter(|line| line["message"] == "request").collect();
    let of = |path: &str| requests.iter().filter(|line| line["path"] == path).count();
    assert_eq!(
        (of("/api/auth/register"), of("/api/auth/login"), of("/api/hub/agents/chat")),
        (1, 2, 2)
    );
    let paid = requests.iter().find(|line| line["cost"].is_string()).unwrap();
    for field in ["request_id", "account", "key", "status", "latency_us", "method"] {
        assert!(!paid[field].is_null(), "{field}: {paid}");
    }
    assert!(
        lines
            .iter()
            .any(|line| line["message"].as_str().unwrap().contains("hub, omm, yggdrasil, v1"))
    );
}

#[expect(clippy::too_many_lines, reason = "the log at the end is of all the commands before")]
async fn operators_have_a_command_for_what_they_do(database: Database) {
    let mut process = Process::start_with(&database, |command| {
        command.env("POLYSYSTEMS_PAYMENTS__GRANT_MAX", "200000000");
        command.env("POLYSYSTEMS_PAYMENTS__GRANTS_PER_DAY_MAX", "200000000");
    })
    .await;
    let url = process.url.clone();
    let run = |arguments: &[&str]| {
        finished(command(&database).args(arguments).env("POLYSYSTEMS_URL", &url))
    };
    let ok = |arguments: &[&str]| {
        let (code, out, error) = run(arguments);
        assert_eq!((code, error.as_str()), (Some(0), ""), "{arguments:?}");
        out
    };
    let read = |out: String| serde_json::from_str::<Value>(&out).unwrap();
    let customer = process.customer("someone", 1).await;
    let boss_session = process.customer("boss", 1).await;
    let (boss, someone) = (["--as", "boss@example.com"], "someone@example.com");
    let (code, _, error) = run(&["user", "list", boss[0], boss[1]]);
    assert!(code == Some(1) && error.contains("is not an operator"), "{error}");
    let made = ok(&["user", "set-role", "boss@example.com", "admin"]);
    assert!(made.contains(" admin\n") && made.contains("POST /api/auth/2fa/enroll"), "{made}");
    let (code, _, error) = run(&["user", "list", boss[0], boss[1]]);
    assert!(code == Some(1) && error.contains("403") && error.contains("two-factor"), "{error}");
    let token = made.lines().last().unwrap();
    process.set_up_second_factor(&boss_session.token, token).await;
    let made = ok(&["user", "set-role", "boss@example.com", "admin"]);
    assert!(made.ends_with(" admin\n"), "{made}");
    let listed = read(ok(&["user", "list", "--search", "SOME", boss[0], boss[1]]));
    assert_eq!(listed["users"][0]["email"], someone);
    // To the last digit.
    let most = "123456789.123456789";
    let given = ok(&["user", "credit", someone, most, "--reason", "a present", boss[0], boss[1]]);
    assert!(given.contains(&format!("\"amount\":{most},")), "{given}");
    ok(&["user", "credit", someone, "-0.000000001", "--reason", "too much", boss[0], boss[1]]);
    let shown = ok(&["user", "show", someone, boss[0], boss[1]]);
    let id = read(shown)["user"]["id"].as_str().unwrap().to_owned();
    let balance = process.client.get(format!("{url}/api/payments/credits/balance"));
    let balance = balance.bearer_auth(&customer.token).send().await.unwrap();
    assert!(balance.text().await.unwrap().contains("\"balance\":123456790.123456788,"));
    let (code, _, error) =
        run(&["user", "credit", someone, "-999999999", "--reason", "x", boss[0], boss[1]]);
    assert!(code == Some(1) && error.contains("no more can be taken"), "{error}");
    ok(&["user", "suspend", &id, "--reason", "too loud", boss[0], boss[1]]);
    let call = async || process.call("POST", "/api/hub/rag/index", &customer.key, &json!({})).await;
    assert_eq!(call().await.0, 403);
    ok(&["user", "resume", &id, boss[0], boss[1]]);
    assert_eq!(call().await.0, 200);
    assert_eq!(read(ok(&["user", "tier", &id, "basic", boss[0], boss[1]]))["tier"], "basic");
    let log = read(ok(&["audit-log", "--user", &id, boss[0], boss[1]]));
    let acts: Vec<&str> =
        log["acts"].as_array().unwrap().iter().map(|act| act["action"].as_str().unwrap()).collect();
    let expected = [
        "tier.set",
        "accounts.resumed",
        "accounts.resumed",
        "sessions.ended",
        "accounts.suspended",
        "accounts.suspended",
        "user.read",
        "credits.taken",
        "credits.granted",
        "user.read",
        "key.created",
        "payment.confirmed",
        "session.begun",
        "user.registered",
    ];
    assert_eq!(acts, expected);
    assert!(log["acts"][0]["user_agent"].as_str().unwrap().ends_with(" command line"));
    ok(&["user", "disable2fa", &id]);
    let (code, _, error) = run(&["user", "show", "nobody@example.com", boss[0], boss[1]]);
    assert!(code == Some(1) && error.contains("there is no user nobody@example.com"), "{error}");
    // Each command ends its session.
    let sessions =
        "SELECT COUNT(*) || '' FROM session WHERE ended_at IS NULL AND agent LIKE '%command line'";
    assert_eq!(database.query(sessions).await.trim(), "0");
    // And makes this machine no place that logins are known from.
    let places = "SELECT MAX(login_address) || '.' FROM session WHERE agent LIKE '%command line'";
    assert_eq!(database.query(places).await, ".");
    process.terminate();
    let (code, _, error) = run(&["user", "list", boss[0], boss[1]]);
    assert!(code == Some(69) && error.contains("it must be running"), "{error}");
    verify(&database);
}
