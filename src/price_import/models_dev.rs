//! The data of models.dev: an object of providers, each with an object of models, with prices in
//! dollars for a million tokens and with what the models can do.

use domain::catalogue::SoldModel;
use domain::{Dim, Service};

use super::model::{Imported, ImportedModel, modality, public_name, tokenizer_permille};
use super::sheet::{Sheet, is_zero};
use super::tree::Tree;

/// Is it such a file?
pub(super) fn is_one(tree: &Tree) -> bool {
    let is_provider = |entry: &Tree| {
        entry.text_of("id").is_some() && entry.get("models").is_some_and(Tree::is_object)
    };
    tree.entries().iter().any(|(_, entry)| is_provider(entry))
}

/// Reads it.
pub(super) fn read(tree: &Tree) -> Imported {
    let mut imported = Imported::default();
    for (provider, entry) in tree.entries() {
        for (name, model) in entry.get("models").map(Tree::entries).unwrap_or_default() {
            let read = read_model(provider, name, model);
            imported.add(&format!("{provider}/{name}"), provider, read);
        }
    }
    imported
}

fn read_model(provider: &str, name: &str, model: &Tree) -> Result<ImportedModel, String> {
    let mut sheet = Sheet::default();
    let cost = model.get("cost").ok_or("has no price")?;
    read_cost(&mut sheet, Service::Standard, 0, cost)?;
    for (mode, entry) in experimental_modes(model) {
        let tier = entry.get("provider").and_then(|provider| provider.get("body"));
        let tier = tier.and_then(|body| body.text_of("service_tier").or(body.text_of("speed")));
        let service = match tier.unwrap_or(mode) {
            "priority" => Service::Priority,
            "flex" => Service::Flex,
            "batch" => Service::Batch,
            "fast" => Service::Fast,
            other => {
                sheet.note(format!("prices of the mode {other} are left out"));
                continue;
            }
        };
        if let Some(cost) = entry.get("cost") {
            read_cost(&mut sheet, service, 0, cost)?;
        }
    }
    if let Some(status) = model.text_of("status") {
        sheet.note(format!("its status is {status}"));
    }
    let sold = sold(name, model)?;
    let (card, notes) = sheet.finish()?;
    let dates = ["release_date", "last_updated"].into_iter().filter_map(|key| {
        let date = model.text_of(key)?;
        Some(format!("{} {date}", key.replace('_', " ")))
    });
    Ok(ImportedModel {
        name: format!("{provider}/{name}"),
        provider: provider.to_owned(),
        upstream: name.to_owned(),
        card,
        model: sold,
        is_callable: true,
        source_dates: dates.collect(),
        notes,
    })
}

/// Ways to ask a model that have prices of their own.
fn experimental_modes(model: &Tree) -> impl Iterator<Item = (&str, &Tree)> {
    let modes = model.get("experimental").and_then(|tree| tree.get("modes"));
    modes.map(Tree::entries).unwrap_or_default().iter().map(|(name, mode)| (name.as_str(), mode))
}

fn read_cost(sheet: &mut Sheet, service: Service, over: u64, cost: &Tree) -> Result<(), String> {
    let tiers = cost.get("tiers").map(Tree::items).unwrap_or_default();
    for (field, value) in cost.entries() {
        let dim = match field.as_str() {
            "input" => Dim::Input,
            "output" => Dim::Output,
            "cache_read" => Dim::CacheRead,
            "cache_write" => Dim::CacheWrite,
            "reasoning" => Dim::Reasoning,
            "input_audio" => Dim::InputAudio,
            "output_audio" => Dim::OutputAudio,
            // Older files have this instead of tiers.
            "context_over_200k" if tiers.is_empty() => {
                read_cost(sheet, service, 200_000, value)?;
                continue;
            }
            "tier" | "tiers" | "context_over_200k" => continue,
            _ if is_zero(value) => continue,
            _ => return Err(format!("{field} has no dimension here")),
        };
        sheet.set_field((service, over), dim, field, value, |exact| exact.price(1, 1))?;
    }
    for tier in tiers {
        let at = tier.get("tier").ok_or("has a tier without a threshold")?;
        let is_context = at.text_of("type") == Some("context");
        let size = at.get("size").and_then(Tree::whole).filter(|_| is_context);
        let over = size.ok_or("has tiers that are not by the length of the prompt")?;
        read_cost(sheet, service, over, tier)?;
    }
    Ok(())
}

fn sold(name: &str, model: &Tree) -> Result<SoldModel, String> {
    let public = public_name(name).ok_or("has a name that is too long or empty")?;
    let limit = |key: &str| model.get("limit").and_then(|limit| limit.get(key)?.whole());
    let mut modalities = Vec::new();
    for side in ["input", "output"] {
        let words = model.get("modalities").and_then(|modalities| modalities.get(side));
        for word in words.map(Tree::items).unwrap_or_default() {
            if let Some(found) = word.text().and_then(modality)
                && !modalities.contains(&found)
            {
                modalities.push(found);
            }
        }
    }
    Ok(SoldModel {
        name: public.into(),
        max_input: limit("context").or(limit("input")).unwrap_or_default(),
        max_output: limit("output").unwrap_or_default(),
        modalities,
        tokenizer_permille: tokenizer_permille(name),
        hides_thoughts: model.is("reasoning"),
        ..SoldModel::default()
    })
}

#[cfg(test)]
mod tests {
    use domain::catalogue::Modality;

    use super::super::tests::{lines, refusals};
    use super::super::tree::json;
    use super::*;

    #[test]
    fn prices_and_capabilities_are_read() {
        let imported = read(
            &json(
                r#"{"lab": {"id": "lab", "models": {
            "X-1": {"id": "X-1", "reasoning": true, "limit": {"context": 1000000, "output": 64000},
                "modalities": {"input": ["text", "image", "pdf"], "output": ["text", "audio"]},
                "release_date": "2026-01-02", "status": "beta",
                "cost": {"input": 5, "output": 2.5e1, "cache_read": 0.5, "reasoning": 30,
                    "context_over_200k": {"input": 1},
                    "tiers": [{"input": 10, "tier": {"size": 200000, "type": "context"}}]},
                "experimental": {"modes": {
                    "fast": {"cost": {"input": 12}, "provider": {"body": {"service_tier": "priority"}}},
                    "slow": {"cost": {"input": 1}}}}},
            "old": {"id": "old", "cost": {"input": 1, "context_over_200k": {"input": 2}}},
            "none": {"id": "none"},
            "odd": {"id": "odd", "cost": {"input": 1, "per_smile": 2}},
            "week": {"id": "week", "cost": {"input": 1, "tiers": [{"input": 2, "tier": {"size": 1, "type": "day"}}]}}
        }}}"#,
            )
            .unwrap(),
        );
        assert_eq!(
            lines(&imported),
            [
                "lab/X-1: standard 0: input 5.0000 cache_read 0.5000 output 25.0000 reasoning 30.0000",
                "lab/X-1: standard 200000: input 10.0000 cache_read 0.5000 output 25.0000 reasoning \
                 30.0000",
                "lab/X-1: priority 0: input 12.0000 cache_read 0.5000 output 25.0000 reasoning 30.0000",
                "lab/old: standard 0: input 1.0000",
                "lab/old: standard 200000: input 2.0000",
            ]
        );
        assert_eq!(
            refusals(&imported),
            [
                "lab/none has no price",
                "lab/odd per_smile has no dimension here",
                "lab/week has tiers that are not by the length of the prompt",
            ]
        );
        let model = &imported.models[0];
        assert_eq!(&*model.model.name, "x-1");
        assert_eq!((model.model.max_input, model.model.max_output), (1_000_000, 64_000));
        let modalities = [Modality::Text, Modality::Image, Modality::File, Modality::Audio];
        assert_eq!(model.model.modalities, modalities);
        assert_eq!(model.notes, ["prices of the mode slow are left out", "its status is beta"]);
        assert_eq!(model.source_dates, ["release date 2026-01-02"]);
    }
}
