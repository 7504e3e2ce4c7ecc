//! `polysystems prices import --with-models`: the models of a price file in the catalogue.

use anyhow::{Context as _, bail};
use polysystems::cli::Console;
use polysystems::price_import::{self, Choice, ChosenModel};
use reqwest::Method;
use serde_json::{Value, json};

use super::print;
use domain::{Multiplier, Timestamp};

/// Most models that are added at once: each of them changes the catalogue.
const MODELS_MAX: usize = 100;

const DEPLOYMENTS: &str = "/api/admin/deployments";
const MODELS: &str = "/api/admin/models";

/// What is sent for a model that is served by this credential: where, and what.
///
/// # Errors
/// Why it cannot be added.
fn requests(
    name: &str,
    model: &ChosenModel,
    credential: &str,
) -> Result<Vec<(&'static str, Value)>, &'static str> {
    let ChosenModel { model: sold, imported, .. } = model;
    if !imported.is_callable {
        return Err("is called by a protocol that is not sold");
    }
    if sold.max_input == 0 || sold.max_output == 0 {
        return Err("has no context window or no longest answer in the file; add it by hand");
    }
    let mut requests = Vec::new();
    let target = if imported.upstream == name {
        json!({ "credential": credential })
    } else {
        let deployment = format!("{name}/{credential}");
        let body = json!({
            "name": deployment, "credential": credential, "upstream_model": imported.upstream,
        });
        requests.push((DEPLOYMENTS, body));
        json!({ "deployment": deployment })
    };
    let modalities: Vec<&str> = sold.modalities.iter().map(|modality| modality.name()).collect();
    let body = json!({
        "name": name,
        "max_input": sold.max_input,
        "max_output": sold.max_output,
        "modalities": modalities,
        "tokenizer_permille": sold.tokenizer_permille,
        "hides_thoughts": sold.hides_thoughts,
        "targets": [target],
    });
    requests.push((MODELS, body));
    Ok(requests)
}

/// Adds the models that are chosen and that the catalogue does not have.
pub(super) async fn add(
    console: &Console<'_>,
    text: &str,
    choice: Choice,
    at: Timestamp,
    credential: &str,
) -> anyhow::Result<()> {
    let (_, imported) = price_import::read(text, None, at)?;
    // The prices are the server's business.
    let chosen = Choice { markup: Multiplier::ONE, ..choice }.of(imported);
    let there = console.ask(Method::GET, MODELS, &[], None).await?;
    let there: Value = serde_json::from_str(&there).context("the server's answer")?;
    let there = there.get("models").and_then(Value::as_array).cloned().unwrap_or_default();
    let is_there = |name: &str| {
        there.iter().any(|model| model.get("name").and_then(Value::as_str) == Some(name))
    };
    let mut wanted = Vec::new();
    for (name, model) in &chosen.models {
        match requests(name, model, credential) {
            _ if is_there(name) => {
                print(&format!("{name} is in the catalogue already; it stays as it is."))?;
            }
            Ok(requests) => wanted.push((name, requests)),
            Err(why) => print(&format!("{name} is not added to the catalogue: it {why}."))?,
        }
    }
    if wanted.len() > MODELS_MAX {
        bail!(
            "{} models would be added to the catalogue, and at most {MODELS_MAX} are at once; name fewer of them \
             with --models",
            wanted.len()
        );
    }
    let mut added: usize = 0;
    for (name, requests) in wanted {
        for (path, body) in requests {
            let sent = console.ask(Method::POST, path, &[], Some(body.to_string())).await;
            sent.with_context(|| {
                format!("{added} models were added to the catalogue, and then {name} was refused")
            })?;
        }
        added = added.saturating_add(1);
    }
    print(&format!("Added {added} models to the catalogue, by the credential {credential}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The requests that add a model, or why it cannot be added.
    type Requests = Result<Vec<(&'static str, Value)>, &'static str>;

    fn chosen(text: &str, only: &str) -> Vec<(String, Requests)> {
        let at = Timestamp::parse_rfc3339("2026-11-30T00:00:00Z").unwrap();
        let (_, imported) = price_import::read(text, None, at).unwrap();
        let choice = Choice { only: vec![only.to_owned()], ..Choice::default() };
        let models = choice.of(imported).models;
        models
            .iter()
            .map(|(name, model)| (name.to_string(), requests(name, model, "main")))
            .collect()
    }

    #[test]
    fn a_model_is_sent_as_the_catalogue_takes_it() {
        let text = r#"{"GPT-X": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-6,
                "max_input_tokens": 200000, "max_output_tokens": 64000, "supports_vision": true},
            "gpt-y": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-6,
                "max_input_tokens": 9, "max_output_tokens": 8, "supports_reasoning": true},
            "gpt-z": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-6},
            "sora": {"litellm_provider": "openai", "mode": "video_generation", "output_cost_per_second": 0.1}}"#;
        let sent = chosen(text, "openai");
        let names: Vec<&str> = sent.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["gpt-x", "gpt-y", "gpt-z", "sora"]);
        let x = sent[0].1.as_ref().unwrap();
        assert_eq!(
            x[0],
            (
                DEPLOYMENTS,
                json!({ "name": "gpt-x/main", "credential": "main", "upstream_model": "GPT-X" })
            )
        );
        assert_eq!(
            x[1],
            (
                MODELS,
                json!({ "name": "gpt-x", "max_input": 200_000, "max_output": 64_000, "modalities": ["text", "image"],
                    "tokenizer_permille": 1_000, "hides_thoughts": false, "targets": [{ "deployment": "gpt-x/main" }] })
            )
        );
        let y = sent[1].1.as_ref().unwrap();
        assert_eq!(y.len(), 1);
        assert_eq!(
            (&y[0].1["targets"], &y[0].1["hides_thoughts"]),
            (&json!([{ "credential": "main" }]), &json!(true))
        );
        assert!(sent[2].1.as_ref().unwrap_err().contains("no context window"));
        assert!(sent[3].1.as_ref().unwrap_err().contains("protocol"));
    }
}
