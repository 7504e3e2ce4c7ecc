//! Schemathesis against the running server and its own OpenAPI document: requests that fit the
//! document and requests that do not, in every phase the tool has, by strangers and by people with
//! credentials. The server must never fail, never answer what the document does not tell of, and
//! refuse what the document forbids.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::clients::installed;
use crate::support::{Database, Key, PASSWORD, Server, User};

/// So many cases are the least that prove anything, all runs together.
const CASES_MIN: u64 = 20_000;
/// Cases of an operation in the run that has most of them; `CONFORMANCE_EXAMPLES` says another
/// number, and `CONFORMANCE_DATABASE=postgres` another database. Texts have control characters and
/// NUL among them.
const EXAMPLES: u32 = 100;
/// Checks that are not fair to a server that is right.
const UNFAIR: [&str; 2] = [
    // No schema says that a name is free, that an amount has nine decimals or that a balance is
    // enough.
    "positive_data_acceptance",
    // A repeat with the same Idempotency-Key gets the answer that made a key, deleted meanwhile or
    // not.
    "ensure_resource_availability",
];
/// Each of these costs a password's hash, so they have a run of their own, with fewer cases.
/// Or it needs what only a message or an authenticator tells, or answers very much.
const HASHING: &str = "^/api/auth/(register|login|login/2fa|2fa/.*|confirm|email|email/confirm|me|export|change-password|reset-password|verify-email)$";
const ENDING: &str = r"^/api/auth/(logout|logout-all|sessions/)|/end-sessions$";
/// A run of its own has keys that nobody else revokes or deletes before they get another value.
const ROTATING: &str = r"^/api/keys(/[^/]*/rotate)?$";
const ROTATE: &str = "^/api/keys/[^/]*/rotate$";
/// Events have no end by themselves.
const OPERATORS: &str = "^/api/admin/(?!.*/end-sessions$|events$)";
/// What operators do with models and prices is tried at night only (`CONFORMANCE_EXAMPLES`).
const USUAL_OPERATORS: &str =
    "^/api/admin/(users|audit-log)(?!.*/(end-sessions|price-list|corrections)$)";
const PAID: &str =
    r"^/(api/(hub|omm|yggdrasil)|v1(?!/models/[^/]*:)|v1beta(?!.*:streamGenerateContent))/";
/// Gemini's methods below `/v1` are those of `/v1beta`; the tool reads its stream as JSON.
const TWICE: &str = r"^/v1/models/[^/]*:|:streamGenerateContent$";
/// Nothing is sold by its name and no call has a bill here, so these are never accepted.
const WITHOUT_MODELS: &str = r"^/api/(models/|pricing/quote$|monitoring/requests/)|/bill$";

/// One run of the tool.
struct Run<'r> {
    name: &'static str,
    /// The option that chooses the operations, and its pattern.
    only: (&'static str, String),
    session: Option<&'r User<'r>>,
    key: Option<&'r Key>,
    /// Cases of an operation.
    examples: u32,
}

#[test]
fn the_server_is_as_its_document_says() {
    let is_postgres = std::env::var("CONFORMANCE_DATABASE").is_ok_and(|name| name == "postgres");
    let database = if is_postgres { Database::postgres() } else { Database::sqlite() };
    crate::support::run(everyone(database));
}

async fn everyone(database: Database) {
    let server = Server::start_with(&database, |settings| {
        // Or the tool would spend its time on reading long lists.
        settings.auth.keys_per_account_max = 50;
    })
    .await;
    // The keys that calls are paid with are not those of the user whose keys come and go.
    let (manager, payer, poor) =
        (server.user("manager").await, server.user("payer").await, server.user("poor").await);
    let (leaver, rotator) = (server.user("leaver").await, server.user("rotator").await);
    // Wrong proofs end its session.
    let prover = server.user("prover").await;
    for _ in 0..3 {
        payer.pay("10000").await;
    }
    let (rich, broke) = (payer.key().await, poor.key().await);
    poor.set_up_second_factor().await;
    database.promote("poor").await;
    let operator = &poor;
    let examples =
        std::env::var("CONFORMANCE_EXAMPLES").map_or(EXAMPLES, |own| own.parse().unwrap());
    let is_night = std::env::var("CONFORMANCE_EXAMPLES").is_ok();
    let operators = if is_night { OPERATORS } else { USUAL_OPERATORS };
    let few = (examples / 10).max(1);
    let but = |patterns: &[&str]| ("--exclude-path-regex", patterns.join("|"));
    let of = |pattern: &str| ("--include-path-regex", pattern.to_owned());
    let run = |name, only, session, key, examples| Run { name, only, session, key, examples };
    let customer = [run(
        "customer",
        but(&[HASHING, OPERATORS, ENDING, ROTATE, TWICE, WITHOUT_MODELS]),
        Some(&manager),
        Some(&rich),
        examples,
    )];
    let others = [
        run("stranger", but(&[HASHING, OPERATORS, TWICE]), None, None, examples / 2),
        run("operator", of(operators), Some(operator), None, examples),
        run("passwords", of(HASHING), Some(&prover), None, few),
        run("rotator", of(ROTATING), Some(&rotator), Some(&rich), few),
        run("leaver", of(ENDING), Some(&leaver), None, few),
        run("poor", of(PAID), None, Some(&broke), few),
    ];
    let (customer, others) =
        tokio::join!(all(&server, &database, &customer), all(&server, &database, &others));
    let cases = customer + others;
    assert!(cases >= CASES_MIN, "{cases} cases are too few");
    // It still works, and the accounts still add up.
    manager.folded().await;
    let login = json!({ "email": "manager@example.com", "password": PASSWORD });
    server.post("/api/auth/login", &login).expect(200).await;
}

async fn all(server: &Server, database: &Database, runs: &[Run<'_>]) -> u64 {
    let mut cases = 0;
    for run in runs {
        cases += run.pass(server, database).await;
    }
    cases
}

impl Run<'_> {
    /// Runs it to its end; the number of its cases. Fails with what the tool says, its curl lines
    /// among it.
    async fn pass(&self, server: &Server, database: &Database) -> u64 {
        let started = std::time::Instant::now();
        let (settings, report) = (self.file(database, "toml"), self.file(database, "json"));
        std::fs::write(&settings, self.settings()).unwrap();
        let mut command = Command::new(installed().join("venv/bin/schemathesis"));
        command.arg("--config-file").arg(&settings).arg("run").arg(server.url("/api/openapi.json"));
        command.arg(self.only.0).arg(&self.only.1);
        command.args(["--checks", "all", "--exclude-checks", &UNFAIR.join(",")]);
        command.args(["--phases", "examples,coverage,fuzzing,stateful"]);
        command.args(["--max-examples", &self.examples.to_string(), "--seed", "20240115"]);
        command.args(["--no-shrink", "--continue-on-failure", "--generation-database", "none"]);
        // Its threads get in each other's way; runs side by side do not.
        command.args(["--workers", "1", "--request-timeout", "60", "--no-color"]);
        command.args(["--suppress-health-check", "all", "--output-sanitize", "false"]);
        command.args(["--report", "json", "--report-json-path"]).arg(&report);
        let output = command.current_dir(database.folder()).kill_on_drop(true).output().await;
        let output = output.unwrap_or_else(|error| {
            panic!("schemathesis: {error}; run tests/run, which installs it")
        });
        let name = self.name;
        let said = || {
            let [out, error] =
                [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
            format!("{name}:\n{out}\n{error}")
        };
        assert!(output.status.success(), "{}", said());
        let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        assert_eq!(report["complete"], true, "{}", said());
        for nothing in ["failures", "errors"] {
            assert_eq!(report[nothing], json!([]), "{}", said());
        }
        let operations = &report["operations"];
        assert_eq!(operations["tested"], operations["selected"], "{}", said());
        if self.session.is_some() && self.key.is_some() {
            // Refusals alone would prove little. The tool takes identifiers from answers, so a few
            // operations may have been asked for what was gone by then, or for nothing.
            let rates = report["valid_rates"].as_object().unwrap();
            let is_accepted = |phases: &Value| {
                let phases = phases.as_object().unwrap().values();
                phases.filter_map(|phase| phase["accepted"].as_u64()).sum::<u64>() > 0
            };
            let refused = rates.iter().filter(|(_, phases)| !is_accepted(phases));
            let refused: Vec<&String> = refused.map(|(operation, _)| operation).collect();
            let plain = refused.iter().filter(|operation| !operation.contains('{'));
            assert_eq!(plain.count(), 0, "{name}: some were never accepted: {refused:?}");
            let few = rates.len() / 10;
            assert!(refused.len() <= few, "{name}: too many were never accepted: {refused:?}");
        }
        let cases = report["test_cases"]["generated"].as_u64().unwrap();
        self.say(operations, cases, started.elapsed());
        cases
    }

    #[expect(clippy::print_stdout, reason = "counts for a reader of the test's output")]
    fn say(&self, operations: &Value, cases: u64, time: Duration) {
        println!("{}: {} operations, {cases} cases, {time:.0?}", self.name, operations["tested"]);
    }

    fn file(&self, database: &Database, extension: &str) -> std::path::PathBuf {
        database.folder().join(format!("{}.{extension}", self.name))
    }

    /// The tool's settings: the credentials, by the document's names of them.
    fn settings(&self) -> String {
        let mut settings = String::from("[generation]\nallow-x00 = true\n");
        if self.session.is_some() || self.key.is_some() {
            settings.push_str("[auth.openapi]\n");
        }
        if let Some(user) = self.session {
            let _ = writeln!(settings, "jwt = {{ bearer = {:?} }}", user.token);
        }
        if let Some(Key { value, .. }) = self.key {
            let _ = writeln!(settings, "api_key = {{ api_key = {value:?} }}");
            let _ = writeln!(settings, "api_key_bearer = {{ bearer = {value:?} }}");
        }
        settings
    }
}
