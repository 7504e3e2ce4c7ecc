//! LiteLLM's `model_prices_and_context_window.json`: an object of models, each with prices in
//! dollars a token, a second or a piece.

use std::collections::BTreeMap;

use domain::catalogue::{Modality, SoldModel};
use domain::{Dim, Service, Timestamp};

use super::model::{Imported, ImportedModel, modality, public_name, tokenizer_permille};
use super::sheet::{Sheet, exact, is_zero};
use super::tree::Tree;

/// Entries that are no models.
const NO_MODELS: [&str; 2] = ["sample_spec", "fallback_generalizations"];

/// Is it such a file?
pub(super) fn is_one(tree: &Tree) -> bool {
    let has_provider = |entry: &Tree| entry.get("litellm_provider").is_some();
    tree.entries().iter().any(|(_, entry)| has_provider(entry))
}

/// Reads it.
pub(super) fn read(tree: &Tree) -> Imported {
    let entries: BTreeMap<&str, &Tree> =
        tree.entries().iter().map(|(name, entry)| (name.as_str(), entry)).collect();
    let mut imported = Imported::default();
    for (name, entry) in &entries {
        if NO_MODELS.contains(name) {
            continue;
        }
        let target = entry.text_of("alias_of");
        let whole = match target {
            Some(target) => entries.get(target).copied().filter(|to| to.get("alias_of").is_none()),
            None => Some(*entry),
        };
        let mut read = match whole {
            Some(whole) => read_model(name, whole),
            None => Err("is an alias of a model that the file does not have".to_owned()),
        };
        if let (Ok(model), Some(target)) = (&mut read, target) {
            model.notes.push(format!("the file has it as an alias of {target}"));
        }
        let provider = whole.and_then(|whole| whole.text_of("litellm_provider"));
        imported.add(name, provider.unwrap_or_default(), read);
    }
    imported
}

fn read_model(name: &str, entry: &Tree) -> Result<ImportedModel, String> {
    let provider = entry.text_of("litellm_provider").unwrap_or_default();
    let mode = entry.text_of("mode").unwrap_or_default();
    let mut reader = Reader { entry, provider, mode, sheet: Sheet::default(), left: Vec::new() };
    reader.prices()?;
    let Reader { mut sheet, left, .. } = reader;
    for (dim, field, value) in left {
        // Its tokens are counted as those of the dimension, so they are paid if that costs as much.
        let (price, _) = exact(field, value)?.each(dim).map_err(|why| why.reason().to_owned())?;
        let mut counted = Some(dim);
        while counted.is_some_and(|dim| sheet.standard(dim).is_none()) {
            counted = counted.and_then(Dim::parent);
        }
        let is_covered = counted.and_then(|dim| sheet.standard(dim)) >= Some(price);
        let name = counted.unwrap_or(dim).name();
        if !is_covered {
            return Err(format!("{field} costs more than {name}, as which it would be counted"));
        }
        sheet.note(format!("{field} is not told apart; it is sold at the price of {name}"));
    }
    let model = sold(name, entry, mode, &mut sheet)?;
    let (card, notes) = sheet.finish()?;
    let upstream = name.strip_prefix(provider).and_then(|rest| rest.strip_prefix('/'));
    let date = entry.text_of("deprecation_date").map(|date| format!("retires on {date}"));
    Ok(ImportedModel {
        name: name.to_owned(),
        provider: provider.to_owned(),
        upstream: upstream.unwrap_or(name).to_owned(),
        card,
        model,
        is_callable: matches!(mode, "chat" | "responses" | "completion" | "embedding"),
        source_dates: date.into_iter().collect(),
        notes,
    })
}

/// What it can do.
fn sold(name: &str, entry: &Tree, mode: &str, sheet: &mut Sheet) -> Result<SoldModel, String> {
    let public = public_name(name).ok_or("has a name that is too long or empty")?;
    let number = |key: &str| entry.get(key).and_then(Tree::whole).unwrap_or_default();
    let max_input = number("max_input_tokens").max(number("max_tokens"));
    // Embeddings have no completion.
    let max_output = if mode == "embedding" { 1 } else { number("max_output_tokens") };
    let mut modalities = vec![Modality::Text];
    for (key, modality) in [
        ("supports_vision", Modality::Image),
        ("supports_image_input", Modality::Image),
        ("supports_audio_input", Modality::Audio),
        ("supports_audio_output", Modality::Audio),
        ("supports_video_input", Modality::Video),
        ("supports_pdf_input", Modality::File),
    ] {
        if entry.is(key) && !modalities.contains(&modality) {
            modalities.push(modality);
        }
    }
    for key in ["supported_modalities", "supported_output_modalities"] {
        for word in entry.get(key).map(Tree::items).unwrap_or_default() {
            if let Some(found) = word.text().and_then(modality)
                && !modalities.contains(&found)
            {
                modalities.push(found);
            }
        }
    }
    if let Some(successor) = entry.text_of("successor_model") {
        sheet.note(format!("its successor is {successor}"));
    }
    let retires_at = entry.text_of("deprecation_date");
    let retires_at =
        retires_at.and_then(|date| Timestamp::parse_rfc3339(&format!("{date}T00:00:00.000000Z")));
    Ok(SoldModel {
        name: public.into(),
        max_input,
        max_output,
        modalities,
        tokenizer_permille: tokenizer_permille(name),
        hides_thoughts: entry.is("supports_reasoning"),
        retires_at,
        ..SoldModel::default()
    })
}

/// A price field, taken apart.
struct Field<'f> {
    base: &'f str,
    over: u64,
    /// `None`: a service tier that we do not have.
    service: Option<Service>,
}

impl<'f> Field<'f> {
    /// Takes apart a name such as `input_cost_per_token_above_272k_tokens_priority`.
    fn of(name: &'f str) -> Self {
        const SERVICES: [(&str, Option<Service>); 6] = [
            ("_batches", Some(Service::Batch)),
            ("_priority", Some(Service::Priority)),
            ("_flex", Some(Service::Flex)),
            ("_ultrafast", Some(Service::Fast)),
            ("_balanced", None),
            ("_decisions", None),
        ];
        let found = SERVICES
            .into_iter()
            .find_map(|(ending, service)| Some((name.strip_suffix(ending)?, service)));
        let (rest, service) = found.unwrap_or((name, Some(Service::Standard)));
        let tier = rest.strip_suffix("k_tokens").and_then(|rest| rest.rsplit_once("_above_"));
        let tier = tier.and_then(|(base, thousands)| {
            Some((base, thousands.parse::<u64>().ok()?.checked_mul(1_000)?))
        });
        let (base, over) = tier.unwrap_or((rest, 0));
        Field { base, over, service }
    }
}

/// What a field without its endings is.
enum Meaning {
    /// The price of one unit of this dimension.
    Each(Dim),
    /// As that, but its tokens are counted as those of the dimension.
    CountedAs(Dim),
    /// It says the same as another field, or something that is not sold. Why it is left.
    Left(&'static str),
    /// It cannot be billed.
    No(&'static str),
}

struct Reader<'t> {
    entry: &'t Tree,
    provider: &'t str,
    mode: &'t str,
    sheet: Sheet,
    /// Prices without a dimension of their own.
    left: Vec<(Dim, &'t str, &'t Tree)>,
}

impl<'t> Reader<'t> {
    fn has(&self, key: &str) -> bool {
        self.entry.get(key).is_some_and(|value| !is_zero(value))
    }

    fn is_image(&self) -> bool {
        matches!(self.mode, "image_generation" | "image_edit")
    }

    #[expect(clippy::too_many_lines, reason = "a table of the fields")]
    fn meaning(&self, base: &str) -> Meaning {
        use Meaning::{CountedAs, Each, Left, No};
        match base {
            "input_cost_per_token" => Each(Dim::Input),
            "output_cost_per_token" => Each(Dim::Output),
            "cache_read_input_token_cost" | "input_cost_per_token_cache_hit" => {
                Each(Dim::CacheRead)
            }
            "explicit_cache_read_input_token_cost" => CountedAs(Dim::CacheRead),
            "cache_creation_input_token_cost" => Each(Dim::CacheWrite),
            "cache_creation_input_token_cost_above_1hr" => Each(Dim::CacheWrite1h),
            "cache_creation_input_token_cost_above_12hr" => Each(Dim::CacheWrite12h),
            "cache_creation_input_audio_token_cost" => CountedAs(Dim::CacheWrite),
            "input_cost_per_audio_token" => Each(Dim::InputAudio),
            "cache_read_input_audio_token_cost" => Each(Dim::CacheReadAudio),
            "output_cost_per_audio_token" => Each(Dim::OutputAudio),
            "input_cost_per_image_token" => Each(Dim::InputImage),
            "cache_read_input_image_token_cost" => Each(Dim::CacheReadImage),
            "output_cost_per_image_token" => Each(Dim::OutputImage),
            "input_cost_per_video_token" => Each(Dim::InputVideo),
            "output_cost_per_video_token" => CountedAs(Dim::Output),
            "output_cost_per_reasoning_token" => Each(Dim::Reasoning),
            "input_cost_per_request" => Each(Dim::Request),
            "input_cost_per_query" => match self.mode {
                "rerank" => Each(Dim::RerankUnit),
                "search" | "vector_store" | "evaluation" => Each(Dim::Request),
                _ => No("is the price of a query of no known kind"),
            },
            "input_cost_per_character" => match self.mode {
                "audio_speech" | "" => Each(Dim::Character),
                _ if self.has("input_cost_per_token") => Left("the tokens are billed"),
                _ => No("is the price of a character of a prompt"),
            },
            "output_cost_per_character" if self.has("output_cost_per_token") => {
                Left("the tokens are billed")
            }
            "input_cost_per_second" | "input_cost_per_audio_per_second" => match self.mode {
                _ if self.has("input_cost_per_audio_token") => Left("the tokens are billed"),
                "audio_transcription" if self.has("input_cost_per_token") => {
                    Left("the tokens are billed")
                }
                "audio_transcription" | "realtime" | "embedding" => Each(Dim::AudioIn),
                _ => No("is the price of a reserved machine, not of a call"),
            },
            "output_cost_per_second" => match self.mode {
                "audio_transcription" => Each(Dim::AudioIn),
                "audio_speech" if self.has("output_cost_per_audio_token") => {
                    Left("the tokens are billed")
                }
                "audio_speech" | "realtime" => Each(Dim::AudioOut),
                "video_generation" => Each(Dim::Video),
                _ => No("is the price of a reserved machine, not of a call"),
            },
            "output_cost_per_video_per_second" => Each(Dim::Video),
            "input_cost_per_video_per_second" if self.has("input_cost_per_video_token") => {
                Left("the tokens are billed")
            }
            "output_cost_per_image" if self.has("output_cost_per_image_token") => {
                Left("the tokens are billed")
            }
            "output_cost_per_image" => Each(Dim::Image),
            "input_cost_per_image" if self.has("input_cost_per_image_token") => {
                Left("the tokens are billed")
            }
            "input_cost_per_image" if self.is_image() && !self.has("output_cost_per_image") => {
                if self.has("output_cost_per_image_token") {
                    Left("the tokens are billed")
                } else {
                    Each(Dim::Image)
                }
            }
            // Embeddings have it beside the price of a token of text; others in place of tokens.
            "input_cost_per_image"
                if self.mode != "embedding" && self.has("input_cost_per_token") =>
            {
                Left("the tokens are billed")
            }
            "input_cost_per_image" => No("is the price of an image of a prompt"),
            "ocr_cost_per_page" | "annotation_cost_per_page" => Each(Dim::Page),
            "code_interpreter_cost_per_session" => Each(Dim::ToolSession),
            "google_maps_grounding_cost_per_query" => Left("searches of maps are not sold"),
            "input_dbu_cost_per_token" if self.has("input_cost_per_token") => {
                Left("it is the same price in another unit")
            }
            "output_dbu_cost_per_token" if self.has("output_cost_per_token") => {
                Left("it is the same price in another unit")
            }
            "off_peak_pricing" => Left("prices by the hour of the day are not taken"),
            _ if base.contains("pixel") => No("is a price by the size of an image"),
            // By the resolution of the video, or by the size of the image.
            _ if base.starts_with("output_cost_per_second_") => CountedAs(Dim::Video),
            _ if base.starts_with("output_cost_per_image_") => CountedAs(Dim::Image),
            _ if base.contains("video") => No("is the price of a video of a prompt"),
            _ => No("has no dimension here"),
        }
    }

    fn prices(&mut self) -> Result<(), String> {
        for (name, value) in self.entry.entries() {
            let is_price = name.contains("cost") || name.contains("pricing");
            if name == "tiered_pricing" {
                self.tiers(value)?;
            } else if name == "search_context_cost_per_query" {
                self.searches(name, value)?;
            } else if is_price && !name.ends_with("source") {
                self.field(name, value, None)?;
            } else if name.contains("_multiplier") || name == "provider_specific_entry" {
                self.multiplier(name, value);
            }
        }
        Ok(())
    }

    /// One price. `over` is of the range that it stands in.
    fn field(&mut self, name: &'t str, value: &'t Tree, over: Option<u64>) -> Result<(), String> {
        let Field { base, over: own, service } = Field::of(name);
        let over = self.threshold(over.unwrap_or(own));
        let meaning = self.meaning(base);
        if let Meaning::Left(why) = meaning {
            if !is_zero(value) {
                self.sheet.note(format!("{name} is left out: {why}"));
            }
            return Ok(());
        }
        let Some(service) = service else {
            if !is_zero(value) {
                self.sheet.note(format!("{name} is left out: there is no such service tier"));
            }
            return Ok(());
        };
        match meaning {
            Meaning::No(_) | Meaning::CountedAs(_) if is_zero(value) => Ok(()),
            Meaning::No(why) => Err(format!("{name} {why}")),
            Meaning::CountedAs(dim) => {
                self.left.push((dim, name, value));
                Ok(())
            }
            Meaning::Each(Dim::AudioIn) if is_zero(value) && self.mode == "audio_transcription" => {
                // Transcriptions have the price of a second once for each side.
                let other = ["input_cost_per_second", "output_cost_per_second"];
                if other.into_iter().any(|key| self.has(key)) {
                    return Ok(());
                }
                self.sheet.set(service, over, Dim::AudioIn, domain::UnitPrice::ZERO);
                Ok(())
            }
            Meaning::Each(dim) => {
                self.sheet.set_field((service, over), dim, name, value, |exact| exact.each(dim))
            }
            Meaning::Left(_) => Ok(()),
        }
    }

    /// A row of ours is for prompts of more tokens than this.
    fn threshold(&self, over: u64) -> u64 {
        // xAI bills a prompt of just so many tokens as a longer one.
        if self.provider == "xai" { over.saturating_sub(1) } else { over }
    }

    /// Ranges of prompts with prices of their own: `range` is from more than, to at most.
    fn tiers(&mut self, tiers: &'t Tree) -> Result<(), String> {
        for tier in tiers.items() {
            let from = tier.get("range").and_then(|range| range.items().first()?.whole());
            let from = from.ok_or("tiered_pricing is not by the length of the prompt")?;
            for (name, value) in tier.entries().iter().filter(|(name, _)| name != "range") {
                self.field(name, value, Some(from))?;
            }
        }
        Ok(())
    }

    /// Searches of the web, by how much they return.
    fn searches(&mut self, name: &'t str, value: &'t Tree) -> Result<(), String> {
        if !value.is_object() {
            return Err(format!("{name} has another form than is known"));
        }
        for (_, price) in value.entries() {
            let row = (Service::Standard, 0);
            self.sheet
                .set_field(row, Dim::WebSearch, name, price, |exact| exact.each(Dim::WebSearch))?;
        }
        Ok(())
    }

    /// Other regions or speeds cost more. The card is for none of them.
    fn multiplier(&mut self, name: &str, value: &Tree) {
        let is_of_price = |name: &str| ["us", "eu", "fast"].contains(&name);
        if name.contains("_multiplier") {
            self.sheet.note(format!("{name} is left out: the prices are without it"));
        }
        for (key, _) in value.entries().iter().filter(|(key, _)| is_of_price(key)) {
            self.sheet.note(format!("{name}.{key} is left out: the prices are without it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lines, refusals};
    use super::super::tree::json;
    use super::*;

    #[test]
    fn prices_of_every_kind_become_a_card() {
        let imported = read(
            &json(
                r#"{"sample_spec": {"litellm_provider": "x", "input_cost_per_token": 0.0},
            "gpt-x": {"litellm_provider": "openai", "mode": "chat", "max_input_tokens": 272000,
                "max_output_tokens": 128000, "supports_vision": true, "supports_reasoning": true,
                "deprecation_date": "2027-06-01", "input_cost_per_token": 1.0000000000000001e-06,
                "output_cost_per_token": 0.00001, "cache_read_input_token_cost": 1E-7,
                "cache_creation_input_token_cost": "0.00000125",
                "input_cost_per_token_above_272k_tokens": 2e-6,
                "input_cost_per_token_priority": 2.5e-6,
                "input_cost_per_token_above_272k_tokens_priority": 5e-6,
                "output_cost_per_token_batches": 5e-6, "input_cost_per_token_balanced": 1e-6,
                "search_context_cost_per_query": {"search_context_size_low": 0.01,
                    "search_context_size_high": 0.025}, "code_interpreter_cost_per_session": 0.03,
                "regional_processing_uplift_multiplier_eu": 1.1},
            "gpt-y": {"alias_of": "gpt-x"},
            "lost": {"alias_of": "nothing"},
            "xai/grok": {"litellm_provider": "xai", "mode": "chat", "tiered_pricing": [
                {"range": [0, 256000.0], "input_cost_per_token": 5e-8, "output_cost_per_token": 4e-7},
                {"range": [256000.0, 1000000.0], "input_cost_per_token": 2.5e-7}]},
            "whisper": {"litellm_provider": "openai", "mode": "audio_transcription",
                "input_cost_per_second": 0.0001, "output_cost_per_second": 0.0},
            "rerank": {"litellm_provider": "cohere", "mode": "rerank", "input_cost_per_query": 0.002,
                "input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
            "sora": {"litellm_provider": "openai", "mode": "video_generation",
                "output_cost_per_video_per_second": 0.1},
            "draw": {"litellm_provider": "openai", "mode": "image_generation",
                "input_cost_per_image": 0.04},
            "ocr": {"litellm_provider": "mistral", "mode": "ocr", "ocr_cost_per_page": 0.001,
                "annotation_cost_per_page": 0.003}}"#,
            )
            .unwrap(),
        );
        assert_eq!(
            refusals(&imported),
            ["lost is an alias of a model that the file does not have"]
        );
        let rest = "web_search 0.0250 tool_session 0.0300";
        let (cached, whole) = ("cache_read 0.1000 cache_write 1.2500 output", "10.0000");
        let chat = [
            format!("standard 0: input 1.0000 {cached} {whole} {rest}"),
            format!("standard 272000: input 2.0000 {cached} {whole} {rest}"),
            format!("priority 0: input 2.5000 {cached} {whole} {rest}"),
            format!("priority 272000: input 5.0000 {cached} {whole} {rest}"),
            format!("batch 0: input 1.0000 {cached} 5.0000 {rest}"),
            format!("batch 272000: input 2.0000 {cached} 5.0000 {rest}"),
        ];
        let mut expected = vec!["draw: standard 0: image 0.0400".to_owned()];
        for name in ["gpt-x", "gpt-y"] {
            expected.extend(chat.iter().map(|row| format!("{name}: {row}")));
        }
        let others = [
            "ocr: standard 0: page 0.0030",
            "rerank: standard 0: input 0.0000 output 0.0000 rerank_unit 0.0020",
            "sora: standard 0: video 360.0000",
            "whisper: standard 0: audio_in 0.3600",
            "xai/grok: standard 0: input 0.0500 output 0.4000",
            "xai/grok: standard 255999: input 0.2500 output 0.4000",
        ];
        expected.extend(others.map(str::to_owned));
        assert_eq!(lines(&imported), expected);
        let model = imported.models.iter().find(|model| model.name == "gpt-x").unwrap();
        assert_eq!((model.model.max_input, model.model.max_output), (272_000, 128_000));
        assert_eq!(model.model.modalities, [Modality::Text, Modality::Image]);
        assert!(model.model.hides_thoughts && model.model.retires_at.is_some());
        for part in ["rounded", "highest", "balanced", "multiplier"] {
            assert!(model.notes.iter().any(|note| note.contains(part)), "{part} {:?}", model.notes);
        }
        assert_eq!(imported.models.last().unwrap().upstream, "grok");
    }

    #[test]
    fn what_cannot_be_billed_is_refused_with_its_reason() {
        for (fields, reason) in [
            (r#""mode": "chat""#, "has no price"),
            (
                r#""mode": "chat", "input_cost_per_second": 0.01"#,
                "input_cost_per_second is the price of a reserved machine, not of a call",
            ),
            (
                r#""mode": "image_generation", "input_cost_per_pixel": 1e-8"#,
                "input_cost_per_pixel is a price by the size of an image",
            ),
            (
                r#""mode": "video_generation", "output_cost_per_second": 0.05, "output_cost_per_second_720p": 0.07"#,
                "output_cost_per_second_720p costs more than video, as which it would be counted",
            ),
            (
                r#""mode": "embedding", "input_cost_per_token": 1e-6, "input_cost_per_image": 1e-4"#,
                "input_cost_per_image is the price of an image of a prompt",
            ),
            (
                r#""mode": "chat", "input_cost_per_token": 1e-6, "citation_cost_per_token": 1e-6"#,
                "citation_cost_per_token has no dimension here",
            ),
            (
                r#""mode": "chat", "input_cost_per_token": -1e-6"#,
                "input_cost_per_token is negative",
            ),
            (
                r#""mode": "chat", "input_cost_per_token": 1e-17"#,
                "input_cost_per_token is smaller than the smallest price",
            ),
            (
                r#""mode": "chat", "input_cost_per_token": [1]"#,
                "input_cost_per_token is no decimal number",
            ),
            (
                r#""mode": "search", "tiered_pricing": [{"max_results_range": [0, 9], "input_cost_per_query": 1}]"#,
                "tiered_pricing is not by the length of the prompt",
            ),
            (
                r#""mode": "chat", "input_cost_per_token": 1e-6, "cache_creation_input_audio_token_cost": 2e-6"#,
                "cache_creation_input_audio_token_cost costs more than input, as which it would be \
                 counted",
            ),
        ] {
            let text = format!("{{\"m\": {{\"litellm_provider\": \"p\", {fields}}}}}");
            let imported = read(&json(&text).unwrap());
            assert_eq!(refusals(&imported), [format!("m {reason}")], "{fields}");
            assert!(imported.models.is_empty());
        }
        // What costs nothing needs no dimension, what is not dearer than what it is counted as
        // needs none of its own, and of two prices for the same that of the tokens counts.
        for fields in [
            r#""mode": "chat", "citation_cost_per_token": 0.0"#,
            r#""mode": "realtime", "cache_creation_input_audio_token_cost": 1e-6"#,
            r#""mode": "image_generation", "input_cost_per_image": 0.0011"#,
            r#""mode": "video_generation", "output_cost_per_second": 0.2, "output_cost_per_second_720p": 0.1"#,
        ] {
            let text = format!(
                "{{\"m\": {{\"litellm_provider\": \"p\", {fields}, \"input_cost_per_token\": 1e-6}}}}"
            );
            assert_eq!(read(&json(&text).unwrap()).models.len(), 1, "{fields}");
        }
    }
}
