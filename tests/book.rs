//! The book: every page is in its table of contents, and every relative link leads to a file.
#![expect(clippy::unwrap_used, reason = "a test that fails by a panic has done its work")]

use std::fs;
use std::path::{Path, PathBuf};

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The targets of the relative links of a text, without anchors.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.filter_map(|target| target.split('#').next());
    files.filter(|file| !file.is_empty() && !file.contains("://")).collect()
}

#[test]
fn every_page_is_in_the_summary() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src");
    let summary = fs::read_to_string(source.join("SUMMARY.md")).unwrap();
    let listed: Vec<PathBuf> = links(&summary).into_iter().map(|link| source.join(link)).collect();
    let mut found = Vec::new();
    pages(&source, &mut found);
    assert!(found.len() > 20, "{}", found.len());
    for page in found.iter().filter(|page| !page.ends_with("SUMMARY.md")) {
        assert!(listed.contains(page), "{} is not in SUMMARY.md", page.display());
    }
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
        .map(|name| root.join(name))
        .into();
    pages(&root.join("docs/src"), &mut found);
    for page in found {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            assert!(page.parent().unwrap().join(link).exists(), "{}: {link}", page.display());
        }
    }
}

/// The phrases that errors are known by: the text after each status of the one map.
fn phrases(map: &str) -> Vec<&str> {
    let statuses = map.split("StatusCode::").skip(1);
    statuses.filter_map(|rest| rest.split('"').nth(1)).collect()
}

#[test]
fn every_error_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("src/http/error/texts.rs")).unwrap();
    let page = fs::read_to_string(root.join("docs/src/account/errors.md")).unwrap();
    let found = phrases(&map);
    assert!(found.len() > 30, "{found:?}");
    for phrase in found {
        assert!(page.contains(&format!("`{phrase}`")), "{phrase:?} is not in account/errors.md");
    }
}

/// The tables that the migrations make.
fn tables(migrations: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(migrations).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let lists = text.split("tables: &[").skip(1).filter_map(|rest| rest.split(']').next());
        found.extend(lists.flat_map(|list| list.split('"').skip(1).step_by(2)).map(String::from));
    }
    found
}

#[test]
fn every_table_is_on_the_page_of_the_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/src/internals/schema.md")).unwrap();
    let tables = tables(&root.join("migration/src"));
    assert!(tables.len() > 25, "{}", tables.len());
    for table in tables {
        assert!(page.contains(&format!("\n| `{table}` |")), "{table} is not on the page");
    }
}
