//! The data of genai-prices: providers with models, with prices in dollars for a million, a
//! thousand or an hour, and with the dates from which they are.

use domain::catalogue::SoldModel;
use domain::{Dim, Service};

use super::model::{Imported, ImportedModel, public_name, tokenizer_permille};
use super::sheet::{Sheet, exact, is_zero};
use super::tree::Tree;

/// The providers of such a file. `None`: it is none.
pub(super) fn providers(tree: &Tree) -> Option<&[Tree]> {
    let providers = tree.get("providers").unwrap_or(tree).items();
    let is_one = |provider: &Tree| {
        matches!(provider.get("models"), Some(Tree::List(_))) && provider.text_of("id").is_some()
    };
    providers.iter().any(is_one).then_some(providers)
}

/// Reads it, with the prices of this day, such as `2026-11-30`.
pub(super) fn read(providers: &[Tree], day: &str) -> Imported {
    let mut imported = Imported::default();
    for provider in providers {
        let id = provider.text_of("id").unwrap_or_default();
        for model in provider.get("models").map(Tree::items).unwrap_or_default() {
            let name = model.text_of("id").unwrap_or_default();
            imported.add(&format!("{id}/{name}"), id, read_model(id, name, model, day));
        }
    }
    imported
}

fn read_model(
    provider: &str,
    name: &str,
    model: &Tree,
    day: &str,
) -> Result<ImportedModel, String> {
    let mut sheet = Sheet::default();
    let mut source_dates = Vec::new();
    let prices = model.get("prices").ok_or("has no price")?;
    let prices = match prices {
        Tree::List(dated) => in_force(dated, day, &mut sheet, &mut source_dates)?,
        prices => prices,
    };
    read_prices(&mut sheet, Service::Standard, prices)?;
    for variant in model.get("price_variants").map(Tree::items).unwrap_or_default() {
        read_variant(&mut sheet, variant, day)?;
    }
    if model.is("deprecated") {
        sheet.note("the provider has ended it");
    }
    let public = public_name(name).ok_or("has a name that is too long or empty")?;
    // This file has no capabilities beside the context window.
    let max_input = model.get("context_window").and_then(Tree::whole).unwrap_or_default();
    let sold = SoldModel {
        name: public.into(),
        max_input,
        tokenizer_permille: tokenizer_permille(name),
        ..SoldModel::default()
    };
    let (card, notes) = sheet.finish()?;
    let is_callable = card.rows().iter().any(|row| row.rates.price(Dim::Input).is_some());
    Ok(ImportedModel {
        name: format!("{provider}/{name}"),
        provider: provider.to_owned(),
        upstream: name.to_owned(),
        card,
        model: sold,
        is_callable,
        source_dates,
        notes,
    })
}

/// The prices that are in force on a day: the last ones whose condition holds.
fn in_force<'t>(
    dated: &'t [Tree],
    day: &str,
    sheet: &mut Sheet,
    dates: &mut Vec<String>,
) -> Result<&'t Tree, String> {
    let mut found = None;
    for conditional in dated {
        let prices = conditional.get("prices").ok_or("has a condition without prices")?;
        let constraint = conditional.get("constraint").filter(|tree| **tree != Tree::Null);
        let Some(constraint) = constraint else {
            found = Some((prices, None));
            continue;
        };
        let Some(from) = constraint.text_of("start_date") else {
            return Err("has prices by the hour of the day".to_owned());
        };
        if from <= day {
            found = Some((prices, Some(from)));
        } else {
            sheet.note(format!("its prices change on {from}; import it again then"));
            dates.push(format!("other prices from {from}"));
        }
    }
    let (prices, from) = found.ok_or("has prices of the future only")?;
    dates.extend(from.map(|from| format!("prices from {from}")));
    Ok(prices)
}

/// Prices of another service tier, in place of those that they name.
fn read_variant(sheet: &mut Sheet, variant: &Tree, day: &str) -> Result<(), String> {
    let conditions = variant.get("when").map(Tree::entries).unwrap_or_default();
    let service = match conditions {
        [(key, value)] => match (key.as_str(), value.text().unwrap_or_default()) {
            ("processing", "batch") => Some(Service::Batch),
            ("service_tier", "priority") => Some(Service::Priority),
            ("service_tier", "flex") => Some(Service::Flex),
            ("service_tier" | "speed", "fast") => Some(Service::Fast),
            // Just the prices that the model has anyway.
            ("service_tier", "default") => return Ok(()),
            _ => None,
        },
        _ => None,
    };
    let Some(service) = service else {
        let words: Vec<String> = conditions
            .iter()
            .map(|(key, value)| format!("{key} {}", value.text().unwrap_or_default()))
            .collect();
        sheet.note(format!("prices for {} are left out", words.join(" and ")));
        return Ok(());
    };
    let constraint = variant.get("constraint").filter(|tree| **tree != Tree::Null);
    let from = constraint.map(|constraint| constraint.text_of("start_date").unwrap_or("z"));
    if from.is_some_and(|from| from > day) {
        sheet.note(format!("the service tier {} has a price later only", service.name()));
        return Ok(());
    }
    read_prices(sheet, service, variant.get("prices").unwrap_or(&Tree::Null))
}

fn read_prices(sheet: &mut Sheet, service: Service, prices: &Tree) -> Result<(), String> {
    for (field, value) in prices.entries() {
        if *value == Tree::Null {
            continue;
        }
        let Some((dim, of, to)) = meaning(field) else {
            if is_zero(value) {
                continue;
            }
            if is_tool(field) {
                sheet.note(format!("{field} is left out: the tool is not sold"));
                continue;
            }
            return Err(format!("{field} has no dimension here"));
        };
        if value.is_object() {
            let base =
                value.get("base").ok_or_else(|| format!("{field} has tiers without a base"))?;
            sheet.set_field((service, 0), dim, field, base, |exact| exact.price(of, to))?;
            for tier in value.get("tiers").map(Tree::items).unwrap_or_default() {
                let start = tier.get("start").and_then(Tree::whole);
                let over = start.ok_or_else(|| format!("{field} has a tier without a start"))?;
                let price = tier.get("price").unwrap_or(&Tree::Null);
                sheet.set_field((service, over), dim, field, price, |exact| exact.price(of, to))?;
            }
        } else {
            sheet.set_field((service, 0), dim, field, value, |exact| exact.price(of, to))?;
            if service == Service::Standard {
                continue;
            }
            // It takes the place of the price of prompts of every length.
            let (price, _) =
                exact(field, value)?.price(of, to).map_err(|why| why.reason().to_owned())?;
            for over in sheet.thresholds() {
                sheet.set(service, over, dim, price);
            }
        }
    }
    Ok(())
}

/// The dimension of a price, for how many units the file has it, and for how many we have it.
fn meaning(field: &str) -> Option<(Dim, u32, u32)> {
    let token = |dim| Some((dim, 1, 1));
    match field {
        "input_mtok" => token(Dim::Input),
        "output_mtok" => token(Dim::Output),
        "cache_read_mtok" => token(Dim::CacheRead),
        "cache_write_mtok" | "cache_write_5m_mtok" => token(Dim::CacheWrite),
        "cache_write_1h_mtok" => token(Dim::CacheWrite1h),
        "input_audio_mtok" => token(Dim::InputAudio),
        "cache_audio_read_mtok" => token(Dim::CacheReadAudio),
        "output_audio_mtok" => token(Dim::OutputAudio),
        "input_image_mtok" => token(Dim::InputImage),
        "cache_image_read_mtok" => token(Dim::CacheReadImage),
        "output_image_mtok" => token(Dim::OutputImage),
        "input_video_mtok" => token(Dim::InputVideo),
        "output_reasoning_mtok" => token(Dim::Reasoning),
        "input_mchars" => token(Dim::Character),
        "audio_hours" | "input_audio_hours" => token(Dim::AudioIn),
        "output_audio_hours" => token(Dim::AudioOut),
        "requests_kcount" => Some((Dim::Request, 1_000, 1)),
        "web_searches_kcount" => Some((Dim::WebSearch, 1_000, 1)),
        "rerank_searches_kcount" => Some((Dim::RerankUnit, 1_000, 1)),
        "code_executions_kcount" => Some((Dim::ToolSession, 1_000, 1)),
        "input_document_kpages" | "input_annotated_document_kpages" => Some((Dim::Page, 1_000, 1)),
        _ => None,
    }
}

/// Tools of a provider that are billed by use and that are not sold here.
fn is_tool(field: &str) -> bool {
    matches!(field, "storage_searches_kcount" | "social_searches_kcount")
}

#[cfg(test)]
mod tests {
    use super::super::python;
    use super::super::tests::{lines, refusals};
    use super::super::tree::json;
    use super::*;

    const JSON: &str = r#"[{"id": "anthropic", "models": [
        {"id": "claude-x", "context_window": 200000, "prices": [
            {"prices": {"input_mtok": 30, "output_mtok": 150}},
            {"constraint": {"start_date": "2026-03-13"}, "prices": {
                "input_mtok": {"base": 3, "tiers": [{"start": 200000, "price": 6}]},
                "output_mtok": 15, "cache_write_mtok": 3.75, "web_searches_kcount": 10}},
            {"constraint": {"start_date": "2027-01-01"}, "prices": {"input_mtok": 1}}],
         "price_variants": [
            {"when": {"processing": "batch"}, "prices": {"input_mtok": 1.5}},
            {"when": {"speed": "fast"}, "prices": {"input_mtok": 9}, "constraint": {"start_date": "2027-01-01"}},
            {"when": {"route": "eu"}, "prices": {"input_mtok": 9}}]},
        {"id": "by-hour", "prices": [{"constraint": {"start_time": "00:30:00Z", "end_time": "16:30:00Z"},
            "prices": {"input_mtok": 1}}]},
        {"id": "later", "prices": [{"constraint": {"start_date": "2027-01-01"}, "prices": {"input_mtok": 1}}]},
        {"id": "cites", "prices": {"input_mtok": 1, "output_citation_mtok": 1}},
        {"id": "free", "prices": {}}]}]"#;

    const PYTHON: &str = "providers: list[Provider] = [Provider(id='anthropic', models=[
        ModelInfo(id='claude-x', context_window=200000, prices=[
            ConditionalPrice(prices=ModelPrice(input_mtok=Decimal('30'), output_mtok=Decimal('150'))),
            ConditionalPrice(constraint=StartDateConstraint(start_date=datetime.date(2026, 3, 13)),
                prices=ModelPrice(input_mtok=TieredPrices(base=Decimal('3'),
                    tiers=[Tier(start=200000, price=Decimal('6'))]), output_mtok=Decimal('15'),
                    cache_write_mtok=Decimal('3.75'), web_searches_kcount=Decimal('10'))),
            ConditionalPrice(constraint=StartDateConstraint(start_date=datetime.date(2027, 1, 1)),
                prices=ModelPrice(input_mtok=Decimal('1')))],
         price_variants=[
            PriceVariant(when={'processing': 'batch'}, prices=ModelPrice(input_mtok=Decimal('1.5'))),
            PriceVariant(when={'speed': 'fast'}, prices=ModelPrice(input_mtok=Decimal('9')),
                constraint=StartDateConstraint(start_date=datetime.date(2027, 1, 1))),
            PriceVariant(when={'route': 'eu'}, prices=ModelPrice(input_mtok=Decimal('9')))]),
        ModelInfo(id='by-hour', prices=[ConditionalPrice(constraint=TimeOfDateConstraint(
            start_time=datetime.time(0, 30), end_time=datetime.time(16, 30)),
            prices=ModelPrice(input_mtok=Decimal('1')))]),
        ModelInfo(id='later', prices=[ConditionalPrice(
            constraint=StartDateConstraint(start_date=datetime.date(2027, 1, 1)),
            prices=ModelPrice(input_mtok=Decimal('1')))]),
        ModelInfo(id='cites', prices=ModelPrice(input_mtok=Decimal('1'), output_citation_mtok=Decimal('1'))),
        ModelInfo(id='free', prices=ModelPrice())])]";

    #[test]
    fn both_forms_say_the_same() {
        for tree in [json(JSON).unwrap(), python::read(PYTHON).unwrap()] {
            let imported = read(providers(&tree).unwrap(), "2026-11-30");
            assert_eq!(
                lines(&imported),
                [
                    "anthropic/claude-x: standard 0: input 3.0000 cache_write 3.7500 output 15.0000 \
                     web_search 0.0100",
                    "anthropic/claude-x: standard 200000: input 6.0000 cache_write 3.7500 output \
                     15.0000 web_search 0.0100",
                    // A variant without tiers has none.
                    "anthropic/claude-x: batch 0: input 1.5000 cache_write 3.7500 output 15.0000 \
                     web_search 0.0100",
                ]
            );
            assert_eq!(
                refusals(&imported),
                [
                    "anthropic/by-hour has prices by the hour of the day",
                    "anthropic/later has prices of the future only",
                    "anthropic/cites output_citation_mtok has no dimension here",
                    "anthropic/free has no price",
                ]
            );
            let model = &imported.models[0];
            assert_eq!(model.upstream, "claude-x");
            assert_eq!(&*model.model.name, "claude-x");
            assert_eq!(
                model.source_dates,
                ["other prices from 2027-01-01", "prices from 2026-03-13"]
            );
            assert_eq!(model.notes.len(), 3, "{:?}", model.notes);
        }
    }

    /// The day decides, not the order of the file alone.
    #[test]
    fn prices_are_those_of_the_day() {
        let tree = json(JSON).unwrap();
        for (day, input) in
            [("2026-03-12", "30.0000"), ("2026-03-13", "3.0000"), ("2027-01-01", "1.0000")]
        {
            let imported = read(providers(&tree).unwrap(), day);
            assert!(lines(&imported)[0].contains(&format!("input {input}")), "{day}");
        }
    }
}
