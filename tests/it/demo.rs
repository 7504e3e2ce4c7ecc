//! `polysystems serve --demo`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::process::{finished, free_port};
use crate::support::{binary, run};

fn demo() -> Command {
    let mut command = Command::new(binary());
    command.env_clear().env("POLYSYSTEMS_LOG__LEVEL", "error").args(["serve", "--demo"]);
    command.stdin(Stdio::null());
    command
}

#[test]
fn a_demo_has_something_on_each_page_and_adds_up() {
    run(async {
        let mut command = demo();
        let url = format!("http://127.0.0.1:{}", free_port());
        command.env("POLYSYSTEMS_SERVER__BIND", url.trim_start_matches("http://"));
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut people = BTreeMap::new();
        let mut folder = None;
        for line in lines {
            if let [email, password, ..] = line.split_whitespace().collect::<Vec<_>>()[..]
                && email.ends_with("@demo.example")
            {
                people.insert(email.to_owned(), password.to_owned());
            }
            if let Some(rest) = line.strip_prefix("Its data are in ") {
                folder = rest.split(' ').next().map(str::to_owned);
                break;
            }
        }
        let folder = folder.expect("the demo does not start");
        assert_eq!(people.len(), 3, "{people:?}");
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        while client.get(format!("{url}/health/ready")).send().await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let get = async |path: &str, token: &str| -> Value {
            let answer = client.get(format!("{url}{path}")).bearer_auth(token).send().await;
            let answer = answer.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            answer.json().await.unwrap()
        };
        let settings = client.get(format!("{url}/api/console/settings")).send().await.unwrap();
        assert_eq!(settings.json::<Value>().await.unwrap()["is_demo"], true);
        let mut tokens = BTreeMap::new();
        for (email, password) in &people {
            let login = json!({ "email": email, "password": password }).to_string();
            let answer = client.post(format!("{url}/api/auth/login")).body(login).send().await;
            let session: Value = answer.unwrap().json().await.unwrap();
            let token = session["token"].as_str().unwrap_or_else(|| panic!("{email}: {session}"));
            tokens.insert(email.split('@').next().unwrap(), token.to_owned());
        }
        let customer = &tokens["customer"];
        let usage = get("/api/monitoring/usage?group_by=model", customer).await;
        assert!(usage["totals"]["calls"].as_i64().unwrap() > 200, "{usage}");
        assert!(usage["groups"].as_array().unwrap().len() >= 5, "{usage}");
        assert!(usage["totals"]["errors"].as_i64().unwrap() > 0, "{usage}");
        let payments = get("/api/payments/payments", customer).await;
        assert_eq!(payments["payments"].as_array().unwrap().len(), 3);
        assert_eq!(get("/api/keys", customer).await.as_array().unwrap().len(), 4);
        let none = get("/api/monitoring/usage", &tokens["newcomer"]).await;
        assert_eq!(none["totals"]["calls"], 0);
        let margins = get("/api/admin/margins", &tokens["operator"]).await;
        assert!(!margins["groups"].as_array().unwrap().is_empty(), "{margins}");
        let mut verify = Command::new(binary());
        verify.env_clear().env("POLYSYSTEMS_DATA_DIR", &folder).arg("verify");
        let (code, out, error) = finished(&mut verify);
        assert_eq!(code, Some(0), "{out} {error}");
        assert!(out.contains(": 0 findings"), "{out}");
        let pid = process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert_eq!(process.wait().unwrap().code(), Some(0));
        assert!(!Path::new(&folder).exists(), "{folder} is left");
    });
}

#[test]
fn a_demo_refuses_what_is_real() {
    for (name, value) in [
        ("upstreams.v1.url", "https://api.example.com"),
        ("upstreams.hub.fallback_url", "https://api.example.com"),
        ("payments.stripe.secret_key", "sk_live_abc"),
        ("payments.x402.facilitator_url", "https://x402.example.com"),
        ("database.url", "sqlite:///tmp/real.db"),
        ("server.bind", "0.0.0.0:0"),
        ("server.trusted_proxies", "10.0.0.1"),
        ("server.public_url", "https://api.example.com"),
    ] {
        let mut command = demo();
        command.env("POLYSYSTEMS_SERVER__BIND", "127.0.0.1:0");
        let more: &[(&str, &str)] = match name {
            "upstreams.hub.fallback_url" => &[("UPSTREAMS__HUB__URL", "https://api.example.com")],
            "payments.stripe.secret_key" => &[("PAYMENTS__STRIPE__WEBHOOK_SECRET", "whsec_abc")],
            "payments.x402.facilitator_url" => {
                &[("PAYMENTS__X402__PAY_TO", "0x0000000000000000000000000000000000000001")]
            }
            _ => &[],
        };
        for (name, value) in more {
            command.env(format!("POLYSYSTEMS_{name}"), value);
        }
        let variable = name.to_uppercase().replace('.', "__");
        command.env(format!("POLYSYSTEMS_{variable}"), value);
        let (code, out, error) = finished(&mut command);
        assert_eq!((code, out.as_str()), (Some(78), ""), "{name}: {error}");
        let told = if name.ends_with("fallback_url") { "upstreams.hub.url" } else { name };
        assert!(error.contains(told), "{name}: {error}");
    }
}
