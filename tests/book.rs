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

/// The tables that the migrations make, and that no later one drops.
fn tables(migrations: &Path) -> Vec<String> {
    let (mut found, mut dropped) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(migrations).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let lists = text.split("tables: &[").skip(1).filter_map(|rest| rest.split(']').next());
        found.extend(lists.flat_map(|list| list.split('"').skip(1).step_by(2)).map(String::from));
        let drops = text.split("\"DROP TABLE ").skip(1).filter_map(|rest| rest.split('"').next());
        dropped.extend(drops.map(String::from));
    }
    found.retain(|table| !dropped.contains(table));
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
