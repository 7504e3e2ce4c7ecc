//! The console's files, and what its pages know before anybody has logged in.

use reqwest::Method;
use serde_json::json;

use crate::email::{letters_of, token};
use crate::support::{Database, PASSWORD, Server, run};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

#[test]
fn a_browser_is_led_to_the_console_and_a_program_is_not() {
    run(async {
        let database = Database::sqlite();
        let server = Server::start(&database).await;
        let client = reqwest::Client::builder().no_proxy();
        let client = client.redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let accepts = "text/html,application/xhtml+xml,*/*;q=0.8";
        let answer = client.get(server.url("/")).header("Accept", accepts).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["location"]),
            (302, &"/console/".parse().unwrap())
        );
        let told = server.get("/").header("Accept", "*/*").expect(200).await;
        assert_eq!(told.body, json!({ "status": "ok" }));
        let answer = client.get(server.url("/console")).send().await.unwrap();
        assert!(answer.status().is_redirection());
        assert_eq!(answer.headers()["location"], "/console/");
    });
}

#[test]
fn the_pages_of_the_console_are_served_with_their_policy() {
    run(async {
        let database = Database::sqlite();
        let server = Server::start(&database).await;
        let index = std::fs::read_to_string(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/console/dist/index.html"
        ));
        let index = index.unwrap();
        for path in ["/console/", "/console/index.html", "/console/keys", "/console/keys/key-1"] {
            let page = server.get(path).expect(200).await;
            assert_eq!(page.text, index, "{path}");
            for (name, value) in [
                ("content-type", "text/html; charset=utf-8"),
                ("content-security-policy", POLICY),
                ("cross-origin-opener-policy", "same-origin"),
                ("cross-origin-resource-policy", "same-origin"),
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "DENY"),
                ("referrer-policy", "no-referrer"),
                ("cache-control", "no-cache"),
                ("vary", "Accept-Encoding"),
            ] {
                assert_eq!(page.header(name), value, "{path}: {name}");
            }
            assert!(!page.headers.contains_key("content-encoding"));
            assert!(!page.headers.contains_key("set-cookie"));
        }
        let page = server.get("/console/").expect(200).await;
        let tag = page.header("etag").to_owned();
        let again = server.get("/console/").header("If-None-Match", &tag).expect(304).await;
        assert_eq!((again.text.as_str(), again.header("etag")), ("", tag.as_str()));
        assert_eq!(again.header("cache-control"), "no-cache");
        server.get("/console/").header("If-None-Match", "\"x\"").expect(200).await;
        let other = server.get("/console/").header("Accept-Encoding", "br, gzip;q=0").expect(200);
        assert_eq!(other.await.text, index);

        let small = server.get("/console/").header("Accept-Encoding", "br, gzip").0.send().await;
        let small = small.unwrap();
        assert_eq!(small.headers()["content-encoding"], "gzip");
        assert_ne!(small.headers()["etag"], tag.as_str());
        assert_eq!(unzipped(&small.bytes().await.unwrap()), index);

        let head = server.request(Method::HEAD, "/console/").expect(200).await;
        assert_eq!((head.text.as_str(), head.header("etag")), ("", tag.as_str()));
        assert_eq!(head.header("content-length"), index.len().to_string());
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let refused = server.request(method, "/console/").expect(405).await;
            assert_eq!(refused.header("allow"), "GET, HEAD");
        }
        for path in ["/console/assets/app.js", "/console/../src/lib.rs", "/console/x.css"] {
            let gone = server.get(path).expect(404).await;
            assert_eq!(gone.header("cache-control"), "no-store", "{path}");
        }
    });
}

fn unzipped(bytes: &[u8]) -> String {
    use std::io::Read as _;
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn everybody_may_know_how_to_register() {
    run(async {
        let database = Database::sqlite();
        let server = Server::start_with(&database, |settings| {
            settings.server.public_url = Some("https://api.example.com".into());
            settings.auth.registration = polysystems::config::RegistrationPolicy::Closed;
            settings.auth.require_verified_email = true;
        })
        .await;
        let told = server.get("/api/console/settings").expect(200).await.body;
        let provider = |name: &str, is_enabled: bool| {
            json!({
                "name": name, "is_enabled": is_enabled, "is_test": name == "sandbox",
                "amount_min": null, "amount_max": told["payments"]["providers"][0]["amount_max"],
                "currency": "USD",
            })
        };
        let expected = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "public_url": "https://api.example.com",
            "registration": "closed",
            "email_verification_required": true,
            "operators_need_second_factor": true,
            "password_length_min": 12,
            "password_length_max": 1_024,
            "cookie_is_secure": true,
            "is_demo": false,
            "payments": {
                "providers": [
                    provider("sandbox", true), provider("stripe", false), provider("x402", false),
                ],
                "default_provider": "sandbox",
            },
        });
        assert_eq!(told, expected);
        let body =
            json!({ "email": "user@example.com", "password": PASSWORD, "username": "myusername" });
        let refused = server.post("/api/auth/register", &body).expect(403).await;
        assert_eq!(refused.body["error"], "Registration closed");
    });
}

#[test]
fn letters_lead_to_the_console_where_that_is_known() {
    run(async {
        let database = Database::sqlite();
        let server = Server::start_with(&database, |settings| {
            settings.server.public_url = Some("https://api.example.com".into());
        })
        .await;
        let user = server.user("someone").await;
        let proof = letters_of(&database, 1).await.remove(0);
        assert!(proof.contains("https://api.example.com/console/verify#token=pse_"), "{proof}");
        server.post("/api/auth/verify-email", &json!({ "token": token(&proof) })).expect(200).await;
        let forgotten = json!({ "email": "someone@example.com" });
        server.post("/api/auth/forgot-password", &forgotten).expect(202).await;
        let reset = letters_of(&database, 2).await.remove(1);
        assert!(reset.contains("https://api.example.com/console/reset#token=pse_"), "{reset}");
        user.get("/api/auth/me").expect(401).await;
    });
}
