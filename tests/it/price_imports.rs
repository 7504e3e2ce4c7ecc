//! Public price files become drafts and versions of a price list.

use serde_json::{Value, json};

use crate::support::process::{Process, command, finished};
use crate::support::{Answer, Database, Request, Server, User, on_both};

on_both!(
    a_price_file_is_compared_with_a_list,
    an_import_makes_a_draft_or_a_version,
    who_may_not_import_sends_nothing,
    the_command_line_imports,
);

/// In the form of LiteLLM. `input` is dollars a token of `gpt-x`.
fn file(input: &str) -> String {
    format!(
        r#"{{"gpt-x": {{"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": {input},
            "output_cost_per_token": 5e-05, "cache_read_input_token_cost": 1e-06}},
        "gpt-video": {{"litellm_provider": "openai", "mode": "video_generation", "output_cost_per_pixel": 1e-08}},
        "gpt-free": {{"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 0.0}},
        "azure/gpt-x": {{"litellm_provider": "azure", "mode": "chat", "input_cost_per_token": 9e-06}}}}"#
    )
}

fn import(operator: &User<'_>, query: &str, file: impl Into<reqwest::Body>) -> Request {
    operator.post(&format!("/api/admin/prices/import?{query}"), &json!({})).body(file)
}

fn names(answer: &Answer, key: &str) -> Vec<String> {
    let list = answer.body[key].as_array().unwrap();
    list.iter().map(|one| one["name"].as_str().or(one.as_str()).unwrap().to_owned()).collect()
}

async fn a_price_file_is_compared_with_a_list(database: Database) {
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let query = "only=openai,azure&markup=15%25&dry_run=true&cards=true";
    let answer = import(&operator, query, file("1.0e-05")).expect(200).await;
    assert_eq!((&answer.body["format"], &answer.body["taken"]), (&json!("litellm"), &json!(1)));
    assert_eq!(names(&answer, "added"), ["gpt-x"]);
    assert_eq!(names(&answer, "refused"), ["gpt-free", "azure/gpt-x", "gpt-video"]);
    // Exactly 15 % more, as texts.
    let card = json!({ "model": "gpt-x", "input": "11.5", "cache_read": "1.15", "output": "57.5" });
    assert_eq!(answer.body["cards"], json!([card]));
    assert_eq!((&answer.body["draft"], &answer.body["version"]), (&json!(null), &json!(null)));
    // Without `only` names are those of the file.
    let answer = import(&operator, "dry_run=true&free=true", file("1e-5")).expect(200).await;
    assert_eq!(names(&answer, "added"), ["azure/gpt-x", "gpt-free", "gpt-x"]);
    assert!(answer.body.get("cards").is_none());
    // A file may be larger than other bodies.
    let large = format!("{}{}", " ".repeat(1024 * 1024), file("1e-05"));
    import(&operator, "dry_run=true", large).expect(200).await;

    let wrong = async |query: &str, body: &str, text: &str| {
        let answer = import(&operator, query, body.to_owned()).expect(400).await;
        assert!(answer.body["message"].as_str().unwrap().contains(text), "{}", answer.text);
    };
    wrong("", "{}", "expected LiteLLM's").await;
    wrong("", "hello", "not JSON").await;
    wrong("format=models.dev", &file("1e-5"), "of the form litellm, not models.dev").await;
    wrong("format=csv", &file("1e-5"), "format: must be").await;
    wrong("markup=much", &file("1e-5"), "markup: must be a percentage").await;
    wrong("max_change=-1%25", &file("1e-5"), "max_change").await;
    wrong("effective=soon", &file("1e-5"), "effective").await;
    wrong("only=nobody", &file("1e-5"), "nothing of the file is taken").await;
    wrong("unknown=1", &file("1e-5"), "unknown").await;
    let answer = import(&operator, "list=none&dry_run=true", file("1e-5")).expect(404).await;
    assert_eq!(answer.body["error"], "Not found");
    import(&operator, "list=routes", file("1e-5")).expect(409).await;
    // A small file that becomes a large one.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut gzip, &vec![b' '; 65 * 1024 * 1024]).unwrap();
    let bomb = gzip.finish().unwrap();
    let answer = import(&operator, "", bomb).expect(400).await;
    assert!(answer.text.contains("grows beyond measure"), "{}", answer.text);
}

async fn who_may_not_import_sends_nothing(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("somebody").await;
    import(&user, "", file("1e-5")).expect(403).await;
    let stranger = server.post("/api/admin/prices/import", &Value::Null).body(file("1e-5"));
    stranger.expect(401).await;
}

async fn input(server: &Server, model: &str) -> String {
    let body = server.get(&format!("/api/pricing?model={model}")).expect(200).await.body;
    body["models"][0]["card"]["input"].as_str().unwrap_or("-").to_owned()
}

async fn an_import_makes_a_draft_or_a_version(database: Database) {
    const LIST: &str = "/api/admin/price-lists/default/versions";
    let server = Server::start(&database).await;
    let operator = server.operator(&database, "operator").await;
    let own =
        json!({ "cards": [{ "model": "own", "input": "3", "output": "4" }], "publish": true });
    operator.post(LIST, &own).expect(201).await;
    server.advance(11);
    // A draft changes no price.
    let drafted = import(&operator, "only=openai", file("1e-5")).expect(201).await;
    assert_eq!((&drafted.body["draft"], &drafted.body["kept"]), (&json!("draft-1"), &json!(1)));
    server.advance(11);
    assert_eq!(input(&server, "gpt-x").await, "-");
    operator.post(&format!("{LIST}/draft-1/publish"), &json!({})).expect(201).await;
    server.advance(11);
    assert_eq!(input(&server, "gpt-x").await, "10");
    // What is there already changes nothing.
    let same = import(&operator, "only=openai&dry_run=true", file("0.00001")).expect(200).await;
    assert_eq!((&same.body["unchanged"], &same.body["changes"]), (&json!(1), &json!([])));
    // A large change is refused whole, told if it is only tried, and taken if it is meant.
    let refused = import(&operator, "only=openai&publish=true", file("2e-5")).expect(409).await;
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.contains("gpt-x, input: from 10.0000 to 20.0000"), "{message}");
    let tried = import(&operator, "only=openai&dry_run=true", file("2e-5")).expect(200).await;
    let change = json!({ "model": "gpt-x", "service": "standard", "over": 0, "dimension": "input",
        "old": "10", "new": "20", "percent": "+100.00", "is_beyond": true });
    assert_eq!(tried.body["changes"], json!([change]));
    let query = "only=openai&max_change=100%25&publish=true";
    let published = import(&operator, query, file("2e-5")).expect(201).await;
    assert!(published.body["version"].is_u64(), "{}", published.text);
    assert_eq!(input(&server, "gpt-x").await, "10");
    server.advance(11);
    assert_eq!(input(&server, "gpt-x").await, "20");
    // The other card of the list has stayed.
    assert_eq!(input(&server, "own").await, "3");
    let query = "only=openai&force=true&publish=true";
    import(&operator, query, file("9e-5")).expect(201).await;
    let acts = operator.get("/api/admin/audit-log").expect(200).await.body;
    let acts: Vec<_> = acts["acts"].as_array().unwrap().iter().map(|act| &act["action"]).collect();
    let published = acts.iter().filter(|act| ***act == "prices.published").count();
    assert_eq!((acts.contains(&&json!("prices.drafted")), published), (true, 4), "{acts:?}");
}

async fn the_command_line_imports(database: Database) {
    let process = Process::start(&database).await;
    let boss = process.customer("boss", 1).await;
    let made = finished(command(&database).args(["user", "set-role", "boss@example.com", "admin"]));
    process.set_up_second_factor(&boss.token, made.1.lines().last().unwrap()).await;
    let path = database.folder().join("prices.json");
    std::fs::write(&path, file("1e-5")).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = command(&database);
        command.args(["prices", "import", path.to_str().unwrap(), "--only", "openai"]);
        finished(
            command
                .args(arguments)
                .args(["--as", "boss@example.com"])
                .env("POLYSYSTEMS_URL", &process.url),
        )
    };
    let (code, out, error) = run(&["--markup", "15%", "--dry-run"]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(out.contains("\nNEW\ngpt-x\n") && out.contains("gpt-video: output_cost"), "{out}");
    assert!(!out.contains("To publish"), "{out}");
    let (code, out, error) = run(&["--markup", "15%"]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(out.contains("polysystems prices publish default draft-1"), "{out}");
    let (code, _, error) = run(&["--markup", "dear"]);
    assert!(code == Some(1) && error.contains("must be a percentage"), "{error}");
    std::fs::write(&path, "hello").unwrap();
    let (code, _, error) = run(&[]);
    assert!(code == Some(1) && error.contains("not JSON"), "{error}");
}
