use serde_json::{Value, json};

use super::file::{CatalogueFile, SecretPlace, is_secret};
use super::*;
use domain::catalogue::TargetAt;

const LEAST: &str = r#"
[[providers]]
name = "anthropic"
dialect = "anthropic"
[[credentials]]
name = "anthropic-main"
provider = "anthropic"
secret = "env:ANTHROPIC_API_KEY"
[[models]]
name = "claude-opus-5-5"
max_input = 200_000
max_output = 128_000
targets = [{ credential = "anthropic-main" }]
[[cards]]
model = "claude-opus-5-5"
input = "4.60"
output = "23"
"#;

const MORE: &str = r#"
[[providers]]
name = "openai"
dialect = "openai"
[[providers]]
name = "azure-eu"
dialect = "azure"
url = "https://x.openai.azure.com"
region = "eu"
[[providers]]
name = "own-gpus"
dialect = "openai"
url = "http://10.0.0.7:8000/v1"
allow_private = true
convention = { cache = "within", thoughts = "beside" }

[[credentials]]
name = "openai-a"
provider = "openai"
secret = "file:/run/secrets/openai-a"
quota_group = "org-1"
[[credentials]]
name = "azure"
provider = "azure-eu"
[[credentials]]
name = "openrouter"
provider = "openai"

[[deployments]]
name = "gpt-6-astra/openai-a"
credential = "openai-a"
upstream_model = "gpt-6-astra-2026-10-01"
rpm = 10_000
tpm = 4_000_000
concurrency = 400
service_tier = "served"
[[deployments]]
name = "gpt-6-astra/azure-eu"
credential = "azure"
disabled = true
service_tier = "requested"

[[models]]
name = "gpt-6-astra"
aliases = ["gpt-astra", "gpt-6"]
max_input = 1_050_000
max_output = 128_000
modalities = ["text", "image"]
tokenizer_permille = 1000
image_tokens_max = 1_600
hides_thoughts = true
targets = [
  { deployment = "gpt-6-astra/openai-a", weight = 8, priority = 1 },
  { deployment = "gpt-6-astra/azure-eu", weight = 2, priority = 1 },
  { credential = "openrouter", priority = 2 },
]
on_context = ["gpt-6-astra-long"]
retires = { at = "2027-06-01", successor = "gpt-6-astra-long" }
sells = ["file_url"]
[[models]]
name = "gpt-6-astra-long"
max_input = 4_000_000
max_output = 128_000
targets = [{ credential = "openai-a" }]

[[wildcards]]
pattern = "openrouter/*"
target = { credential = "openrouter", upstream_model = "$1" }
max_input = 1_000_000
max_output = 100_000
"#;

fn toml(text: &str) -> CatalogueFile {
    CatalogueFile::read(text, false).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn faults(document: Value) -> Vec<String> {
    let faults = match read(document) {
        Ok(document) => check(&document).unwrap_err(),
        Err(faults) => faults,
    };
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn the_least_that_sells_a_model_is_read() {
    let CatalogueFile { document, secrets, cards } = toml(LEAST);
    let variable = SecretPlace::Variable("ANTHROPIC_API_KEY".into());
    assert_eq!(secrets, [("anthropic-main".into(), variable)]);
    assert_eq!(cards[0]["input"], "4.60");
    let model = &document.models[0];
    assert_eq!((model.max_input, model.tokenizer_permille), (200_000, 1_000));
    assert_eq!(model.targets[0].at, TargetAt::Credential("anthropic-main".into()));
    assert_eq!((model.targets[0].weight, model.targets[0].priority), (1, 0));
}

#[test]
fn a_document_is_written_as_it_is_read() {
    for text in [LEAST, MORE, ""] {
        let document = toml(text).document;
        let written = write(&document);
        assert_eq!(read(written.clone()).unwrap(), document);
        // In TOML too, as `polysystems catalogue show --toml` prints it.
        let again = toml(&toml::to_string(&written).unwrap()).document;
        assert_eq!(again, document);
        let json = CatalogueFile::read(&written.to_string(), true).unwrap();
        assert_eq!((json.document, json.secrets.len()), (document, 0));
    }
}

#[test]
fn every_name_of_a_file_has_its_meaning() {
    use domain::catalogue::{BilledService, Modality};
    use domain::metering::Counted;
    let CatalogueFile { document, secrets, .. } = toml(MORE);
    let [_, azure, own] = &document.providers[..] else { panic!("{document:?}") };
    assert_eq!((azure.region.as_deref(), azure.allows_private), (Some("eu"), false));
    assert_eq!((own.cache, own.thoughts), (Some(Counted::Within), Some(Counted::Beside)));
    assert!(own.allows_private);
    assert_eq!(document.credentials[0].quota_group.as_deref(), Some("org-1"));
    assert_eq!(secrets[0].1, SecretPlace::File("/run/secrets/openai-a".into()));
    let [first, second] = &document.deployments[..] else { panic!("{document:?}") };
    assert_eq!((first.rpm, first.tpm), (Some(10_000), Some(4_000_000)));
    assert_eq!((first.concurrency, first.is_disabled), (Some(400), false));
    assert_eq!((second.service, second.is_disabled), (BilledService::Requested, true));
    let model = &document.models[0];
    assert_eq!(model.modalities, [Modality::Text, Modality::Image]);
    assert_eq!(model.retires_at.unwrap().to_rfc3339(), "2027-06-01T00:00:00Z");
    assert_eq!(model.successor.as_deref(), Some("gpt-6-astra-long"));
    assert_eq!(model.sells, [domain::pricing::Extra::FileUrl]);
    assert_eq!((model.image_tokens_max, model.hides_thoughts), (Some(1_600), true));
    let targets: Vec<_> = model.targets.iter().map(|one| (one.weight, one.priority)).collect();
    assert_eq!(targets, [(8, 1), (2, 1), (1, 2)]);
    assert_eq!(document.wildcards[0].upstream_model.as_deref(), Some("$1"));
}

#[test]
fn all_that_is_wrong_is_told_at_once_and_no_value_is() {
    let document = json!({
        "providers": [
            { "name": "a", "dialect": "hush" },
            { "name": 7, "dialect": "openai" },
            { "name": "b", "dialect": "openai", "convention": ["within"] },
            ["c", "openai"],
        ],
        "credentials": [{ "name": "main", "provider": "a", "secret": "hush" }],
        "deployments": { "name": "x" },
        "models": [
            { "name": "m", "max_input": -1, "max_output": 1, "targets": [] },
            { "name": "m", "max_input": 1, "max_output": 1, "targets": [{}] },
            { "name": "m", "max_input": 1, "max_output": 1,
              "targets": [{ "credential": "a", "deployment": "b" }] },
            { "name": "m", "max_input": 1, "max_output": 1, "targets": [{ "credential": "main" }],
              "retires": { "at": "soon" } },
            { "name": "m", "max_output": 1, "targets": [], "modalities": ["smell"] },
        ],
        "model": [],
    });
    let found = faults(document);
    let places: Vec<&str> = found.iter().map(|one| one.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "providers[0].dialect",
            "providers[1].name",
            "providers[2].convention",
            "providers[3]",
            "credentials[0].secret",
            "deployments",
            "models[0].max_input",
            "models[1].targets[0]",
            "models[2].targets[0]",
            "models[3].retires.at",
            "models[4].modalities[0]",
            "model",
        ],
        "{found:#?}"
    );
    assert!(!found.iter().any(|one| one.contains("hush") || one.contains("smell")), "{found:?}");
    assert!(found[0].contains("openai, anthropic, gemini, azure"), "{}", found[0]);
    assert_eq!(faults(json!([])), [": must be an object"]);
}

#[test]
fn addresses_and_names_are_checked_together() {
    let found = faults(json!({
        "providers": [
            { "name": "a", "dialect": "openai", "url": "http://10.0.0.7" },
            { "name": "b", "dialect": "openai", "url": "http://example.com" },
        ],
        "credentials": [{ "name": "main", "provider": "c" }],
    }));
    assert_eq!(
        found,
        [
            "providers[0].url: is a private address; if it is meant, set allow_private = true",
            "providers[1].url: must begin with https: the secret would be sent in the clear",
            "credentials[0].provider: there is no provider c",
        ]
    );
}

#[test]
fn a_file_has_no_secret_itself() {
    for secret in ["sk-secret", "env:", "file:secret", "exec:cat"] {
        let text = LEAST.replace("env:ANTHROPIC_API_KEY", secret);
        let faults = CatalogueFile::read(&text, false).unwrap_err();
        assert_eq!(faults[0].path, "credentials[0].secret");
        assert!(!faults[0].problem.contains("sk-secret"));
    }
    for (text, is_json, words) in
        [("[[models", false, "is no TOML: line 1"), ("{", true, "is no JSON: line 1")]
    {
        let faults = CatalogueFile::read(text, is_json).unwrap_err();
        assert!(faults[0].problem.starts_with(words), "{faults:?}");
    }
    assert!(is_secret("sk-a_b") && !is_secret("") && !is_secret("a b") && !is_secret("a\n"));
    assert!(SecretPlace::File("/does/not/exist".into()).read().is_err());
}
