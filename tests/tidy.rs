//! The rules of the house that no lint knows.
#![expect(clippy::unwrap_used, reason = "a test that fails by a panic has done its work")]

use std::path::{Path, PathBuf};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// Fails where a file outside `except` has one of the words in its code; comments may speak of them.
fn banned(folder: &str, words: &[&str], except: &str, reason: &str) {
    for (path, text) in sources(folder) {
        if !except.is_empty() && path.to_str().unwrap().contains(except) {
            continue;
        }
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (number, line) in code.enumerate() {
            for word in words {
                assert!(!line.contains(word), "{}: {word:?} ({number}): {reason}", path.display());
            }
        }
    }
}

#[test]
fn the_domain_is_pure() {
    let words = [
        "async ",
        ".await",
        "tokio",
        "actix",
        "sea_orm",
        "entity::",
        "reqwest",
        "tracing",
        "rand::",
        "Utc::now",
        "SystemTime",
        "Instant::now",
        "std::fs",
        "std::net",
        "std::env",
        "f64",
        "f32",
    ];
    banned("domain/src", &words, "", "the domain has no I/O, no clock, no randomness and no float");
}

#[test]
fn sql_stays_in_the_store() {
    let words = ["sea_orm::", "entity::", "INSERT INTO", "SELECT ", "DELETE FROM"];
    let reason = "SQL and the ORM stay in src/store";
    for (path, text) in sources("src") {
        if path.to_str().unwrap().contains("/store/") {
            continue;
        }
        // Unit tests at the end of a file may look behind the scenes.
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for word in words {
                assert!(!line.contains(word), "{}: {line}: {reason}", path.display());
            }
        }
    }
}

#[test]
fn statuses_of_errors_stay_in_one_map() {
    let words =
        ["UNAUTHORIZED", "PAYMENT_REQUIRED", "FORBIDDEN", "SERVICE_UNAVAILABLE", "Unauthorized()"];
    banned("src", &words, "http/error.rs", "http/error.rs is the one map from errors to statuses");
}

#[test]
fn nothing_is_left_undone_or_nameless() {
    for folder in ["src", "domain", "entity", "migration", "benches"] {
        banned(folder, &["todo!", "unimplemented!", "FIXME", "XXX"], "", "finish it");
        for (path, _) in sources(folder) {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let vague = ["utils", "util", "helpers", "helper", "common", "manager", "misc"];
            assert!(
                !vague.contains(&name.as_str()),
                "{}: a name that says nothing",
                path.display()
            );
        }
    }
}

/// A checklist that names tests which are not there would be worth nothing.
#[test]
fn the_checklist_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = std::fs::read_to_string(root.join("docs/src/security/asvs.md")).unwrap();
    let mut named = 0;
    for row in list.lines().filter(|line| line.starts_with("| V")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (id, status, how) = (cells[1], cells[3], cells[4]);
        let known = ["test", "build", "code", "deployment", "not met", "n/a"];
        assert!(known.contains(&status) && !how.is_empty(), "{row}");
        let mut of_row = 0;
        // Every other piece between backticks is a name: `file: function`.
        for name in how.split('`').skip(1).step_by(2) {
            let Some((file, function)) = name.split_once(": ") else { continue };
            let text = std::fs::read_to_string(root.join(file));
            let text = text.unwrap_or_else(|_| panic!("{id}: there is no {file}"));
            assert!(text.contains(&format!("fn {function}(")), "{id}: {file} has no {function}");
            of_row += 1;
        }
        assert!(status != "test" || of_row > 0, "{id} names no test: {row}");
        named += of_row;
    }
    assert!(named > 50, "{named}");
}
