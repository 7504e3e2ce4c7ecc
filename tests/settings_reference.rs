//! `docs/src/reference/settings.md` is generated: the texts are the doc comments of `src/config/`,
//! the defaults are those of `Settings::default()`. This test fails if the committed page differs;
//! `UPDATE_BOOK=1 cargo test --test settings_reference` writes it.
#![expect(clippy::unwrap_used, reason = "a test that fails by a panic has done its work")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use polysystems::config::Settings;
use toml::{Table, Value};

const PAGE: &str = "docs/src/reference/settings.md";

const MEBIBYTE: i64 = 1024 * 1024;

/// The upstream whose settings stand for those of every route group.
const FIRST_UPSTREAM: &str = "upstreams.hub";

const HEAD: &str = "# Settings

Generated from `src/config/`; edit the doc comments there.

Settings are read once, when the server starts: first the file that `--config` names (TOML), then
the environment. The variable `POLYSYSTEMS_<SECTION>__<NAME>` overrides the setting `name` in
`[section]`, and `POLYSYSTEMS_<SECTION>__<NAME>_FILE` names a file that contains its value.
In a variable a list is written with commas (`10.0.0.1,10.0.0.2`), and an amount of USD without
quotes. `polysystems config show` prints all settings, without secrets, and where each comes from.
`polysystems config check` only checks them. An unknown or invalid setting stops the start with one
line that names the variable or the file, and exit code 78.

*unset* means that the setting has no default value; its meaning says what happens then.
";

/// A struct of the settings: its first doc line, and its fields.
struct Section {
    text: String,
    fields: Vec<Field>,
}

struct Field {
    name: String,
    kind: String,
    text: String,
}

/// The public structs of a source file, with their doc comments.
fn sections(source: &str, found: &mut BTreeMap<String, Section>) {
    let (mut text, mut current) = (Vec::new(), None::<String>);
    for line in source.lines() {
        let trimmed = line.trim();
        if let Some(doc) = trimmed.strip_prefix("///") {
            text.push(doc.trim());
        } else if let Some(name) =
            line.strip_prefix("pub struct ").and_then(|rest| rest.strip_suffix(" {"))
        {
            let name = name.to_owned();
            let section = Section { text: text.join(" "), fields: Vec::new() };
            found.insert(name.clone(), section);
            current = Some(name);
            text.clear();
        } else if line == "}" {
            current = None;
        } else if let (Some(current), Some(field)) = (&current, trimmed.strip_prefix("pub ")) {
            let (name, kind) = field.trim_end_matches(',').split_once(": ").unwrap();
            let field = Field { name: name.into(), kind: kind.into(), text: text.join(" ") };
            found.get_mut(current).unwrap().fields.push(field);
            text.clear();
        } else if !trimmed.starts_with("#[") {
            text.clear();
        }
    }
}

fn variable(path: &str) -> String {
    format!("POLYSYSTEMS_{}", path.to_uppercase().replace('.', "__"))
}

/// What a number of bytes is in MiB, for those who read it.
fn mebibytes(name: &str, value: &Value) -> String {
    match value.as_integer() {
        Some(bytes) if name.contains("bytes") && bytes % MEBIBYTE == 0 => {
            format!(" ({} MiB)", bytes / MEBIBYTE)
        }
        _ => String::new(),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The sections below `name`, each with a table of its settings.
fn write_section(
    page: &mut String,
    found: &BTreeMap<String, Section>,
    (name, path): (&str, &str),
    defaults: &Table,
) {
    // The groups of upstreams have the same settings: they are written once.
    if name == "UpstreamSettings" && path != FIRST_UPSTREAM {
        return;
    }
    let section = &found[name];
    let (nested, own): (Vec<_>, Vec<_>) =
        section.fields.iter().partition(|field| found.contains_key(&field.kind));
    if !own.is_empty() {
        if path.is_empty() {
            page.push_str("\n## Outside the sections\n\n");
        } else {
            let text = section.text.split_once(": ").unwrap().1;
            let (first, rest) = text.split_at(1);
            let title = section.text.split('`').nth(1).unwrap();
            write!(page, "\n## `{title}`\n\n{}{rest}\n\n", first.to_uppercase()).unwrap();
        }
        page.push_str("| Setting | Variable | Default | Meaning |\n| --- | --- | --- | --- |\n");
        for field in own {
            let path =
                if path.is_empty() { field.name.clone() } else { format!("{path}.{}", field.name) };
            let default = match defaults.get(&field.name) {
                None => "*unset*".to_owned(),
                Some(Value::Table(tiers)) => {
                    let names: Vec<_> = tiers.keys().map(|name| format!("`{name}`")).collect();
                    format!("{}: see below", names.join(", "))
                }
                Some(value) => format!("`{value}`{}", mebibytes(&field.name, value)),
            };
            let variable = variable(&path.replace(FIRST_UPSTREAM, "upstreams.<group>"));
            let name = &field.name;
            let text = cell(&field.text);
            writeln!(page, "| `{name}` | `{variable}` | {} | {text} |", cell(&default)).unwrap();
        }
    }
    if name == "RateLimitSettings" {
        tiers(page, &found["TierSettings"], defaults["tiers"].as_table().unwrap());
    }
    for field in nested {
        let path =
            if path.is_empty() { field.name.clone() } else { format!("{path}.{}", field.name) };
        let table = defaults[&field.name].as_table().unwrap();
        write_section(page, found, (&field.kind, &path), table);
    }
}

fn tiers(page: &mut String, section: &Section, tiers: &Table) {
    page.push_str("\n### `[rate_limit.tiers.<name>]`\n\n");
    page.push_str("Requests in each window. *unset* means no limit.\n\n");
    let names: Vec<_> = section.fields.iter().map(|field| format!("`{}`", field.name)).collect();
    writeln!(page, "| Tier | {} |", names.join(" | ")).unwrap();
    writeln!(page, "| --- |{}", " --- |".repeat(names.len())).unwrap();
    for (tier, limits) in tiers {
        let limit = |field: &Field| {
            limits.get(&field.name).map_or("*unset*".to_owned(), |limit| format!("`{limit}`"))
        };
        let limits: Vec<_> = section.fields.iter().map(limit).collect();
        writeln!(page, "| `{tier}` | {} |", limits.join(" | ")).unwrap();
    }
}

fn prices(page: &mut String, section: &Section) {
    page.push_str("\n## `[[prices]]`\n\nThe price of a route; one table for each.\n\n");
    page.push_str("| Setting | Meaning |\n| --- | --- |\n");
    for Field { name, text, .. } in &section.fields {
        writeln!(page, "| `{name}` | {} |", cell(text)).unwrap();
    }
    page.push_str("\nThe default prices, in USD (`default_prices = true`):\n\n");
    page.push_str("| Method | Path | Class | Call | Token |\n| --- | --- | --- | --- | --- |\n");
    for rule in Settings::default().price_list().unwrap().rules() {
        let method = rule.method.as_deref().unwrap_or("any");
        let token = rule.per_token.map(|price| price.to_string()).unwrap_or_default();
        let (path, class, base) = (&rule.path, rule.class.name(), rule.base);
        writeln!(page, "| {method} | `{path}` | {class} | {base} | {token} |").unwrap();
    }
}

/// The structs of all files of `src/config/`.
fn all_sections() -> BTreeMap<String, Section> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config");
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        sections(&std::fs::read_to_string(entry.unwrap().path()).unwrap(), &mut found);
    }
    found
}

fn page() -> String {
    let found = all_sections();
    let defaults = Table::try_from(Settings::default()).unwrap();
    let mut page = HEAD.to_owned();
    write_section(&mut page, &found, ("Settings", ""), &defaults);
    prices(&mut page, found.get("PriceSetting").unwrap());
    page
}

#[test]
fn the_settings_page_is_up_to_date() {
    let (file, page) = (Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE), page());
    if std::env::var_os("UPDATE_BOOK").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    let update = "UPDATE_BOOK=1 cargo test --test settings_reference";
    assert!(committed == page, "{PAGE} is out of date; `{update}` writes it");
}

#[test]
fn every_setting_has_a_meaning() {
    for (name, section) in all_sections().iter().filter(|(name, _)| name.contains("Setting")) {
        for Field { name: field, text, .. } in &section.fields {
            assert!(text.ends_with('.'), "{name}.{field}: {text:?}");
        }
    }
}
