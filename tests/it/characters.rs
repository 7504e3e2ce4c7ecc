//! Control characters in texts: nowhere an error of the server, and refused where a text is stored
//! or sent on.

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::operators::operator;
use crate::support::{Database, Server, on_both};

on_both!(control_characters_are_refused_everywhere, public_addresses_alone_register);

const BAD: [&str; 3] = ["\u{0}", "\r\n", "\u{85}"];
/// Hashed, and never stored or sent on.
const SECRETS: [&str; 3] = ["password", "current_password", "new_password"];

/// The schema that a reference stands for.
fn resolved<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return &document["components"]["schemas"][reference.rsplit('/').next().unwrap()];
    }
    let nested = schema["oneOf"].as_array().into_iter().flatten();
    nested
        .filter(|one| one["type"] != "null")
        .map(|one| resolved(document, one))
        .next()
        .unwrap_or(schema)
}

/// The fields of a body, with the values that text in them would have: a text, or a list of one.
fn fields(document: &Value, schema: &Value) -> Vec<(String, bool)> {
    let schema = resolved(document, schema);
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    let is = |schema: &Value, name: &str| {
        schema["type"] == name
            || schema["type"].as_array().is_some_and(|all| all.contains(&json!(name)))
    };
    let fields = properties.into_iter().filter_map(|(name, own)| {
        let own = resolved(document, &own);
        let is_list = is(own, "array");
        (is_list || is(own, "string")).then_some((name, is_list))
    });
    fields.collect()
}

async fn control_characters_are_refused_everywhere(database: Database) {
    let server = Server::start(&database).await;
    let operator = operator(&server, &database).await;
    let document = server.get("/api/openapi.json").expect(200).await.body;
    let (mut bodies, mut queries, mut paths) = (0, 0, 0);
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = format!("{method} {path}");
            let method: Method = method.to_uppercase().parse().unwrap();
            // A log-out would end the session of the rest.
            if path.starts_with("/api/auth/logout") {
                continue;
            }
            let id = "00000000-0000-4000-8000-000000000000";
            let mut at = path.clone();
            while let Some((before, rest)) = at.split_once('{') {
                at = format!("{before}{id}{}", rest.split_once('}').unwrap().1);
            }
            let request = |at: &str| server.request(method.clone(), at).bearer(&operator.token);
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let is_paid = path.starts_with("/v1") || schema["type"] == "string";
            for (field, is_list) in fields(&document, schema) {
                for bad in BAD {
                    let text = json!(format!("a{bad}b"));
                    let value = if is_list { json!([text]) } else { text };
                    let body = json!({ field.as_str(): value }).to_string();
                    let answer = request(&at).body(body).send().await;
                    let status = answer.status.as_u16();
                    assert!(status < 500, "{name} {field}: {status} {}", answer.text);
                    if !is_paid && !SECRETS.contains(&field.as_str()) {
                        assert!((400..500).contains(&status), "{name} {field}: {status}");
                        bodies += 1;
                    }
                }
            }
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            for parameter in parameters {
                let shared = parameter["$ref"].as_str().and_then(|own| own.strip_prefix('#'));
                let parameter = shared.map_or(&parameter, |own| document.pointer(own).unwrap());
                let field = parameter["name"].as_str().unwrap();
                for bad in ["%00", "%0d%0a"] {
                    let (at, count) = match parameter["in"].as_str() {
                        Some("query") => (format!("{at}?{field}=a{bad}b"), &mut queries),
                        Some("path") => (at.replace(id, &format!("a{bad}b")), &mut paths),
                        _ => continue,
                    };
                    let answer = request(&at).body("{}").send().await;
                    let status = answer.status.as_u16();
                    assert!((400..500).contains(&status), "{name} {at}: {status} {}", answer.text);
                    *count += 1;
                }
            }
        }
    }
    assert!(bodies > 60 && queries > 20 && paths > 20, "{bodies} {queries} {paths}");
    whole_bodies_are_refused(&server).await;
}

/// A body that is right but for the character would be stored, or fail the database.
async fn whole_bodies_are_refused(server: &Server) {
    let person = server.user("someone").await;
    let hook = "https://a.example.com/";
    let top_up = json!({ "enabled": false, "threshold": 1, "amount": 5, "monthly_cap": 9 });
    for bad in BAD {
        let whole: [(&str, Value, &str); 5] = [
            ("/api/webhooks", json!({ "url": hook }), "description"),
            ("/api/webhooks", json!({ "url": hook, "description": "" }), "url"),
            ("/api/payments/auto-top-up", top_up.clone(), "payment_method"),
            ("/api/keys", json!({ "name": "" }), "name"),
            ("/api/auth/forgot-password", json!({ "email": "" }), "email"),
        ];
        for (path, body, field) in whole {
            let mut body: Map<String, Value> = body.as_object().unwrap().clone();
            let text = if field == "url" { format!("{hook}{bad}") } else { format!("pm_{bad}") };
            body.insert(field.to_owned(), json!(text));
            let method = if path.ends_with("top-up") { Method::PUT } else { Method::POST };
            let request = server.request(method, path).bearer(&person.token);
            let refused = request.body(Value::Object(body).to_string()).expect(400).await;
            let detail = &refused.body["details"][0];
            assert_eq!(detail["field"], field, "{path}: {}", refused.text);
            assert_eq!(detail["message"], "must not have control characters");
        }
    }
}

async fn public_addresses_alone_register(database: Database) {
    let server = Server::start(&database).await;
    let register = |email: &str| {
        let body = json!({ "email": email, "password": "A long enough one", "username": "a" });
        server.post("/api/auth/register", &body)
    };
    for email in [
        "a@localhost",
        "a@[127.0.0.1]",
        "a@127.0.0.1",
        "a@[IPv6:::1]",
        "a@example.",
        "root@x.internal",
        "a@X.Local",
        "a@x.localhost",
        "a@mail.localdomain",
        "a@x.home.arpa",
    ] {
        let refused = register(email).expect(400).await;
        assert_eq!(refused.body["details"][0]["field"], "email", "{email}");
    }
    register("a@example.com").expect(201).await;
}
