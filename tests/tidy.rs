//! The rules of the house that no lint knows. Each is a function from files to what is wrong with
//! them, so that a test at the end sees it fail on a planted violation.
//!
//! Lists of exceptions are ratchets: an entry may be taken out or made smaller. One that is not
//! needed any more fails.
#![expect(clippy::unwrap_used, reason = "a test that fails by a panic has done its work")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use test_support::sources::{Kind, Source, read};

/// The layers. A module may import modules of lower layers, and those of its own without a circle.
/// The longest path that a module begins with counts.
const LAYERS: &[(&str, u8)] = &[
    ("main", 8),
    ("lib", 8),
    ("app", 8),
    ("cli", 8),
    ("commands", 8),
    ("http", 7),
    ("access", 6),
    ("admin", 6),
    ("auth", 6),
    ("catalogue", 6),
    ("bills", 6),
    ("deployments", 6),
    ("erasure", 6),
    ("health", 6),
    ("imports", 6),
    ("keys", 6),
    ("live", 6),
    ("payments", 6),
    ("pipeline", 6),
    ("price_lists", 6),
    ("reports", 6),
    ("verify", 6),
    ("webhooks", 6),
    ("actors", 5),
    ("idempotency", 5),
    ("key_cache", 4),
    ("models", 4),
    ("actors::ledger", 4),
    ("mail", 3),
    ("rate_limits", 3),
    ("secrets", 3),
    ("store", 3),
    ("telemetry", 3),
    ("upstream", 3),
    ("config", 2),
    ("metrics", 2),
    ("price_import", 1),
    ("clock", 0),
    ("exit", 0),
    ("failpoint", 0),
    ("json", 0),
    ("seal", 0),
    ("tls", 0),
    ("tokens", 0),
];

/// Lines of production code in a file.
const LINES_MAX: usize = 600;
/// Larger files, and how large they may be.
const LARGE: &[(&str, usize)] = &[];

/// Names that more than one public type has.
const TWICE: &[&str] = &["Document"];

/// Columns of a comment, and of a line of Markdown.
const COLUMNS_MAX: usize = 100;
/// Folders in which so many files have wider lines.
const WIDE: &[(&str, usize)] = &[];

/// Words that say nothing to a customer or an operator, and what does.
const BANNED: &[(&str, &str)] = &[
    ("chapter", "say what it says, or link it"),
    ("whoever", "if somebody, or the one who is meant"),
    ("whomever", "the one who is meant"),
    ("out of use", "revoked, or deleted"),
    ("bursar", "payment jobs"),
    ("courier", "webhook dispatcher"),
    ("key ring", "key cache"),
    ("keyring", "key cache"),
    ("dearest", "the most expensive, or top by cost"),
    ("small letters", "lowercase"),
    ("nonetheless", "anyway"),
    ("as many requests as it can take", "at capacity"),
];
/// How many files have such words in a text that somebody sees.
const BANNED_FILES: usize = 0;

/// How many lines of handlers name the store.
const STORE_IN_HANDLERS: usize = 0;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn code() -> Vec<Source> {
    read(root(), &["src", "domain/src", "retrieval/src"], "rs")
}

/// What readers are given: the front page, and the book.
fn documents() -> Vec<Source> {
    let pages = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "ASVS.md", "docs"];
    let pages: Vec<&str> = pages.into_iter().filter(|page| root().join(page).exists()).collect();
    read(root(), &pages, "md")
}

#[track_caller]
fn passes(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Fails if there are more than `max`, and if there are fewer: then the constant must follow.
#[track_caller]
fn counted_down(count: usize, max: usize, found: &[String]) {
    assert_eq!(
        count,
        max,
        "an exception too many, or one that is not needed:\n{}",
        found.join("\n")
    );
}

/// Fails where a file outside `except` has one of the words in its code; comments may speak of
/// them.
fn banned(folder: &str, words: &[&str], except: &str, reason: &str) {
    for file in read(root(), &[folder], "rs") {
        if !except.is_empty() && file.path.contains(except) {
            continue;
        }
        let code = file.text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for word in words {
                assert!(!line.contains(word), "{}: {word:?} in {line}: {reason}", file.path);
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
    let words: Vec<&str> =
        words.into_iter().filter(|word| !matches!(*word, "f64" | "f32")).collect();
    let reason = "the same documents and query give the same hits";
    banned("retrieval/src", &words, "", reason);
}

#[test]
fn sql_stays_in_the_store() {
    let words = ["sea_orm::", "entity::", "INSERT INTO", "SELECT ", "DELETE FROM"];
    let reason = "SQL and the ORM stay in src/store";
    for file in read(root(), &["src"], "rs") {
        if file.path.contains("/store/") {
            continue;
        }
        // Unit tests may look behind the scenes.
        for (_, line) in file.outside_tests(&file.text) {
            let is_comment = line.trim_start().starts_with("//");
            for word in words.iter().filter(|_| !is_comment) {
                assert!(!line.contains(word), "{}: {line}: {reason}", file.path);
            }
        }
    }
}

#[test]
fn statuses_of_errors_stay_in_one_map() {
    let words =
        ["UNAUTHORIZED", "PAYMENT_REQUIRED", "FORBIDDEN", "SERVICE_UNAVAILABLE", "Unauthorized()"];
    banned("src", &words, "http/error", "http/error is the one map from errors to statuses");
}

#[test]
fn nothing_is_left_undone_or_nameless() {
    for folder in ["src", "domain", "entity", "migration", "retrieval", "benches"] {
        banned(folder, &["todo!", "unimplemented!", "FIXME", "XXX"], "", "finish it");
        for file in read(root(), &[folder], "rs") {
            let name = Path::new(&file.path).file_stem().unwrap().to_str().unwrap();
            let vague = ["utils", "util", "helpers", "helper", "common", "manager", "misc"];
            assert!(!vague.contains(&name), "{}: a name that says nothing", file.path);
        }
    }
}

/// The unit that a module belongs to, and its layer.
fn unit(module: &[&str]) -> Option<(&'static str, u8)> {
    let path = module.join("::");
    let starts = |unit: &str| path == unit || path.starts_with(&format!("{unit}::"));
    LAYERS.iter().filter(|(unit, _)| starts(unit)).max_by_key(|(unit, _)| unit.len()).copied()
}

/// Every path within the crate that this code names, from the crate's root, two parts of it.
fn named(file: &Source) -> Vec<Vec<String>> {
    let code = file.production();
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    for start in ["crate::", "super::", "polysystems::"] {
        for (at, _) in code.match_indices(start) {
            if code[..at].ends_with(|letter| is_word(letter) || letter == ':' || letter == '$') {
                continue;
            }
            let mut base: Vec<String> = Vec::new();
            let mut rest = &code[at..];
            if start == "super::" {
                base = file.module().into_iter().map(String::from).collect();
                while let Some(after) = rest.strip_prefix("super::") {
                    base.pop();
                    rest = after;
                }
            } else {
                rest = &rest[start.len()..];
            }
            follow(rest, &base, &mut found);
        }
    }
    found
}

/// Goes on from `base` along `a::b`, or each of `{a::b, c}`.
fn follow(rest: &str, base: &[String], found: &mut Vec<Vec<String>>) {
    if base.len() == 2 {
        found.push(base.to_vec());
        return;
    }
    let Some(group) = rest.strip_prefix('{') else {
        let letters = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, rest) = rest.split_at(letters);
        let mut path = base.to_vec();
        path.push(name.into());
        match rest.strip_prefix("::") {
            Some(rest) => follow(rest, &path, found),
            None => found.push(path),
        }
        return;
    };
    let (mut depth, mut start) = (0, 0);
    for (at, sign) in group.char_indices() {
        match sign {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                let part = group[start..at].trim();
                if !part.is_empty() {
                    follow(part, base, found);
                }
                start = at + 1;
                if sign == '}' {
                    return;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

/// Imports of a higher layer, modules without a layer, and circles across top-level modules.
fn layers(files: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut arrows: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/")) {
        let Some((from, height)) = unit(&file.module()) else {
            wrong.push(format!("{}: no layer: add it to LAYERS", file.path));
            continue;
        };
        // The root of the crate names every module.
        if from == "lib" {
            continue;
        }
        for path in named(file) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let Some((to, layer)) = unit(&path) else { continue };
            if layer > height {
                let path = path.join("::");
                wrong.push(format!("{} ({from}, {height}) imports {path} ({layer})", file.path));
            }
            let top = |unit: &'static str| unit.split("::").next().unwrap_or(unit);
            if top(from) != top(to) {
                arrows.entry(top(from)).or_default().insert(top(to), &file.path);
            }
        }
    }
    for start in arrows.keys() {
        let mut seen = BTreeSet::new();
        let mut waiting = vec![(*start, Vec::new())];
        while let Some((at, way)) = waiting.pop() {
            for (to, file) in arrows.get(at).into_iter().flatten() {
                let mut way: Vec<String> = way.clone();
                way.push(format!("{at} -> {to} ({file})"));
                // Told once, by its first module in the alphabet.
                if to == start {
                    if way.iter().any(|arrow| arrow.as_str() < *start) {
                        continue;
                    }
                    wrong.push(format!("a circle: {}", way.join(", ")));
                } else if seen.insert(*to) {
                    waiting.push((*to, way));
                }
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    wrong
}

#[test]
fn imports_point_down() {
    passes(&layers(&code()));
}

/// Public types of one name, but for those in `twice`.
fn names(files: &[Source], twice: &[&str]) -> Vec<String> {
    let mut places: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for file in files {
        for line in file.production().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [public, kind, name, ..] = words[..] else { continue };
            let kinds = ["struct", "enum", "trait", "type", "union"];
            // A type within an `impl` is not public by itself.
            if line.starts_with("pub") && public.starts_with("pub") && kinds.contains(&kind) {
                let end = name.find(|c: char| !c.is_alphanumeric()).unwrap_or(name.len());
                places.entry(name[..end].into()).or_default().push(&file.path);
            }
        }
    }
    let mut wrong = Vec::new();
    for (name, files) in &places {
        if files.len() > 1 && !twice.contains(&name.as_str()) {
            wrong.push(format!("{} public types have the name {name}: {files:?}", files.len()));
        }
    }
    for name in twice {
        if places.get(*name).is_none_or(|files| files.len() < 2) {
            wrong.push(format!("TWICE need not have {name} any more"));
        }
    }
    wrong
}

#[test]
fn a_name_is_of_one_type() {
    passes(&names(&code(), TWICE));
}

/// Files with more production code than they may have.
fn sizes(files: &[Source], large: &[(&str, usize)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in files {
        let lines = file.outside_tests(&file.text).len();
        match large.iter().find(|(path, _)| *path == file.path) {
            Some(_) if lines <= LINES_MAX => {
                wrong.push(format!("LARGE need not have {} any more", file.path));
            }
            Some((path, max)) if lines > *max => {
                wrong.push(format!("{path} has grown from {max} lines to {lines}"));
            }
            None if lines > LINES_MAX => {
                wrong.push(format!("{} has {lines} lines of production code", file.path));
            }
            _ => {}
        }
    }
    let gone = large.iter().filter(|(path, _)| files.iter().all(|file| file.path != *path));
    wrong.extend(gone.map(|(path, _)| format!("LARGE has {path}, which is not there")));
    wrong
}

#[test]
fn files_are_of_a_size_to_read() {
    passes(&sizes(&code(), LARGE));
}

/// Comments of Rust, and lines of Markdown, that are too wide: the file, and the number of the
/// first.
fn wide(files: &[Source]) -> Vec<String> {
    let is_wide = |line: &str| line.trim_end().chars().count() > COLUMNS_MAX;
    let mut wrong = Vec::new();
    for file in files {
        let found = if file.is_rust() {
            let comments = file.only(Kind::Comment);
            // A table stands in a comment of documentation.
            let is_table =
                |line: &str| line.trim_start().trim_start_matches(['/', '!', ' ']).starts_with('|');
            comments
                .lines()
                .position(|line| is_wide(line) && !is_table(line) && !line.contains("://"))
        } else {
            let mut is_code = false;
            file.text.lines().position(|line| {
                is_code ^= line.trim_start().starts_with("```");
                let is_free = is_code || line.trim_start().starts_with('|');
                is_wide(line) && !is_free && !line.contains("](") && !line.contains("://")
            })
        };
        wrong.extend(found.map(|line| format!("{}:{}: wider than 100", file.path, line + 1)));
    }
    wrong
}

#[test]
fn lines_are_of_a_width_to_read() {
    let folders = ["src", "domain", "entity", "migration", "retrieval", "tests", "benches"];
    let mut wrong = Vec::new();
    for folder in folders {
        let found = wide(&read(root(), &[folder], "rs"));
        ratchet(&mut wrong, folder, found);
    }
    ratchet(&mut wrong, "documents", wide(&documents()));
    passes(&wrong);
}

/// Holds what was found against what may be.
fn ratchet(wrong: &mut Vec<String>, folder: &str, found: Vec<String>) {
    let max = WIDE.iter().find(|(of, _)| *of == folder).map_or(0, |(_, max)| *max);
    if found.len() > max {
        wrong.push(format!("{folder}: {} files are too wide, not {max}", found.len()));
        wrong.extend(found);
    } else if found.len() < max {
        wrong.push(format!("WIDE may say {} for {folder} instead of {max}", found.len()));
    }
}

/// Texts that customers and operators see, and that have a banned word.
fn words(files: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in files {
        let seen = if file.is_rust() {
            // What clap and the book of settings take from the code are its comments.
            let is_help = ["src/main.rs", "src/cli.rs"].contains(&file.path.as_str())
                || file.path.starts_with("src/config/");
            let mut lines = vec![file.only(Kind::Literal)];
            if is_help {
                lines.push(file.only(Kind::Comment));
            }
            let texts: Vec<String> = lines
                .iter()
                .flat_map(|text| file.outside_tests(text))
                .map(|(_, line)| line.to_lowercase())
                .collect();
            texts.join("\n")
        } else {
            file.text.to_lowercase()
        };
        for (word, instead) in BANNED {
            if seen.contains(word) {
                wrong.push(format!("{}: {word:?}: say {instead}", file.path));
            }
        }
    }
    wrong
}

#[test]
fn texts_say_it_in_standard_terms() {
    let seen = ["src/http", "src/main.rs", "src/cli.rs", "src/config", "src/mail.rs"];
    let mut files = read(root(), &[&seen[..], &["src/auth", "src/metrics.rs"]].concat(), "rs");
    files.extend(documents());
    let wrong = words(&files);
    let of: BTreeSet<&str> = wrong.iter().map(|text| text.split(':').next().unwrap()).collect();
    counted_down(of.len(), BANNED_FILES, &wrong);
}

/// A front page that is read in a minute.
fn front(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.lines().count() > 150 {
        wrong.push(format!("README.md has {} lines, not 150", text.lines().count()));
    }
    if text.len() > 8 * 1_024 {
        wrong.push(format!("README.md has {} bytes, not 8 KB", text.len()));
    }
    wrong
}

#[test]
fn the_front_page_is_short() {
    passes(&front(&std::fs::read_to_string(root().join("README.md")).unwrap()));
}

/// Lines of handlers that name the store. They call a service, which has the rules.
fn stores(files: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in files {
        for (number, line) in file.production().lines().enumerate() {
            if line.contains("app.store") {
                wrong.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    wrong
}

#[test]
fn handlers_do_not_name_the_store() {
    let found = stores(&read(root(), &["src/http"], "rs"));
    counted_down(found.len(), STORE_IN_HANDLERS, &found);
}

/// Handlers that take a body beside a session. A body can take a minute, and the session may end
/// meanwhile: `WithBody` looks at it again.
fn bodies_beside_sessions(files: &[Source]) -> Vec<String> {
    const SESSIONS: [&str; 6] = [
        ": CurrentSession",
        ": ConfirmedSession",
        ": SessionUser",
        ": AuditedUser",
        ": AdminUser",
        ": ConfirmedAdmin",
    ];
    let mut wrong = Vec::new();
    for file in files {
        let code = file.production();
        let handlers = code.split("#[utoipa::path(").skip(1);
        for head in handlers.filter_map(|text| text.split("async fn ").nth(1)?.split("->").next()) {
            let has = |words: &[&str]| words.iter().any(|word| head.contains(word));
            if has(&[": Body", ": Payload"]) && has(&SESSIONS) {
                let name = head.split('(').next().unwrap_or_default();
                wrong.push(format!("{}: {name}: say WithBody", file.path));
            }
        }
    }
    wrong
}

#[test]
fn a_session_is_looked_at_after_the_body_too() {
    let handlers = read(root(), &["src/http"], "rs");
    passes(&bodies_beside_sessions(&handlers));
    let with = handlers.iter().filter(|file| file.text.contains("WithBody<")).count();
    assert!(with > 5, "{with}");
}

/// What documents name between backticks and is not there: files, folders, and functions as `file:
/// function`.
fn missing(pages: &[Source], root: &Path) -> Vec<String> {
    let folders =
        ["src/", "domain/", "tests/", "benches/", "entity/", "migration/", "docs/", "ops/"];
    let mut wrong = Vec::new();
    for page in pages {
        // Code samples name what they make.
        let mut is_code = false;
        for line in page.text.lines() {
            is_code ^= line.trim_start().starts_with("```");
            if is_code {
                continue;
            }
            for name in line.split('`').skip(1).step_by(2) {
                let (path, function) = name.split_once(": ").unwrap_or((name, ""));
                let is_path = folders.iter().any(|folder| path.starts_with(folder))
                    && !path.contains(['*', '{', ' ', '<']);
                let path = path.split(':').next().unwrap_or(path);
                if !is_path {
                    continue;
                }
                let text = std::fs::read_to_string(root.join(path)).unwrap_or_default();
                if !root.join(path).exists() {
                    wrong.push(format!("{}: there is no {path}", page.path));
                } else if !function.is_empty() && !text.contains(&format!("fn {function}(")) {
                    wrong.push(format!("{}: {path} has no {function}", page.path));
                }
            }
        }
    }
    wrong
}

#[test]
fn documents_name_files_that_are_there() {
    passes(&missing(&documents(), root()));
}

/// Counts that a document may tell, and how many there are.
fn counted() -> Vec<(&'static str, usize)> {
    let text = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let states = text("domain/tests/simulation.rs");
    let (_, states) = states.split_once("SOMETIMES: [&str; ").unwrap();
    let bugs = text("tests/planted.py").matches("\n    Bug(\"").count();
    let members = text("entity/src/lib.rs").matches("\npub mod ").count();
    vec![
        ("rare states", states.split(']').next().unwrap().parse().unwrap()),
        ("failpoints", polysystems::failpoint::ALL.len()),
        ("planted bugs", bugs),
        ("bugs", bugs),
        ("entities", members),
    ]
}

/// Counts in documents that are not so.
fn counts(pages: &[Source], counted: &[(&str, usize)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for page in pages {
        let text = page.text.split_whitespace().collect::<Vec<_>>().join(" ");
        for (what, count) in counted {
            for (at, _) in text.match_indices(&format!(" {what}")) {
                let before = text[..at].rsplit([' ', '(', '*']).next().unwrap_or_default();
                if before.parse::<usize>().is_ok_and(|told| told != *count) {
                    wrong.push(format!("{}: {before} {what}, but there are {count}", page.path));
                }
            }
        }
    }
    wrong
}

#[test]
fn documents_tell_counts_as_they_are() {
    // The record of measurements says what was so on its day.
    let is_diary = |page: &Source| page.path.contains("benchmarks/") || page.path.contains("diary");
    let pages: Vec<Source> = documents().into_iter().filter(|page| !is_diary(page)).collect();
    passes(&counts(&pages, &counted()));
}

/// A checklist that names tests which are not there would be worth nothing.
#[test]
fn the_checklist_names_tests_that_are_there() {
    let places = ["docs/src/security/asvs.md", "ASVS.md"];
    let place = places.iter().find(|place| root().join(place).exists()).unwrap();
    let list = std::fs::read_to_string(root().join(place)).unwrap();
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
            let text = std::fs::read_to_string(root().join(file));
            let text = text.unwrap_or_else(|_| panic!("{id}: there is no {file}"));
            assert!(text.contains(&format!("fn {function}(")), "{id}: {file} has no {function}");
            of_row += 1;
        }
        assert!(status != "test" || of_row > 0, "{id} names no test: {row}");
        named += of_row;
    }
    assert!(named > 50, "{named}");
}

/// A bug that cannot be planted any more finds nothing out about the tests.
#[test]
fn every_known_bug_can_be_planted() {
    let output =
        Command::new("python3").arg(root().join("tests/planted.py")).arg("--check").output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Each rule sees its violation.
mod planted {
    use super::*;

    #[track_caller]
    fn fails(wrong: &[String], what: &str) {
        assert!(wrong.iter().any(|text| text.contains(what)), "{what:?} is not in {wrong:?}");
    }

    #[test]
    fn an_import_upward() {
        let at = |path: &str, text: &str| layers(&[Source::new(path, text)]);
        fails(&at("src/store/users.rs", "use crate::http::App;"), "imports http::App (7)");
        fails(&at("src/config/url.rs", "use crate::{clock, upstream::check};"), "upstream::check");
        fails(&at("src/store/mod.rs", "fn a() { crate::auth::b(); }"), "auth::b");
        fails(&at("src/store/mod.rs", "fn a() { super::auth::b(); }"), "auth::b");
        fails(&at("src/actors/ledger/mod.rs", "use super::account::Lease;"), "account");
        fails(&at("src/new/mod.rs", ""), "no layer");
        for fine in [
            "use crate::clock::Clock;",
            "// use crate::http::App;",
            "const A: &str = \"crate::http::App\";",
            "#[cfg(test)]\nmod tests {\n    use crate::http::App;\n}",
        ] {
            assert_eq!(at("src/store/users.rs", fine), Vec::<String>::new(), "{fine}");
        }
    }

    #[test]
    fn a_circle() {
        let files = [
            Source::new("src/auth/mod.rs", "use crate::keys::{Keys};"),
            Source::new("src/keys/mod.rs", "use crate::pipeline::Gateway;"),
            Source::new("src/pipeline/mod.rs", "use crate::auth::User;"),
        ];
        fails(&layers(&files), "a circle: auth -> keys");
        assert_eq!(layers(&files[..2]), Vec::<String>::new());
    }

    #[test]
    fn a_name_of_two_types() {
        let files = [
            Source::new("src/a.rs", "pub struct Session {"),
            Source::new("src/b.rs", "pub(crate) enum Session<T> {"),
        ];
        fails(&names(&files, &[]), "Session");
        assert_eq!(names(&files, &["Session"]), Vec::<String>::new());
        fails(&names(&files[..1], &["Session"]), "need not have Session");
    }

    #[test]
    fn a_large_file() {
        let file = |lines: usize| Source::new("src/a.rs", &"fn a() {}\n".repeat(lines));
        assert_eq!(sizes(&[file(600)], &[]), Vec::<String>::new());
        fails(&sizes(&[file(601)], &[]), "601 lines");
        fails(&sizes(&[file(700)], &[("src/a.rs", 650)]), "has grown");
        fails(&sizes(&[file(600)], &[("src/a.rs", 650)]), "need not");
        fails(&sizes(&[], &[("src/a.rs", 650)]), "not there");
        let tests =
            "#[cfg(test)]\nmod tests {\n".to_owned() + &"    fn a() {}\n".repeat(700) + "}\n";
        assert_eq!(sizes(&[Source::new("src/a.rs", &tests)], &[]), Vec::<String>::new());
    }

    #[test]
    fn a_wide_line() {
        let x = "x".repeat(100);
        fails(&wide(&[Source::new("src/a.rs", &format!("// {x}"))]), "src/a.rs:1");
        fails(&wide(&[Source::new("a.md", &format!("\n{x}x"))]), "a.md:2");
        let fine = format!("| {x} |\n```\n{x}x\n```\n[{x}](a.md)");
        assert_eq!(wide(&[Source::new("a.md", &fine)]), Vec::<String>::new());
        let code = format!("const A: &str = \"{x}\";");
        assert_eq!(wide(&[Source::new("src/a.rs", &code)]), Vec::<String>::new());
        let mut wrong = Vec::new();
        ratchet(&mut wrong, "nowhere", vec![x]);
        fails(&wrong, "not 0");
    }

    #[test]
    fn a_banned_word() {
        let code = "const A: &str = \"This key is out of use.\"; // whoever";
        fails(&words(&[Source::new("src/http/error.rs", code)]), "revoked");
        assert_eq!(words(&[Source::new("src/http/error.rs", code)]).len(), 1);
        fails(&words(&[Source::new("src/config/mod.rs", "/// Whoever asks.")]), "whoever");
        fails(&words(&[Source::new("README.md", "As the chapter says.")]), "chapter");
    }

    #[test]
    fn a_long_front_page() {
        fails(&front(&"\n".repeat(151)), "151 lines");
        fails(&front(&"x".repeat(8_193)), "8193 bytes");
        assert_eq!(front("A front page."), Vec::<String>::new());
    }

    #[test]
    fn a_handler_that_names_the_store() {
        let code = "async fn get() {\n    app.store.users().await;\n}";
        fails(&stores(&[Source::new("src/http/a.rs", code)]), "src/http/a.rs:2");
    }

    #[test]
    fn a_body_beside_a_session() {
        let code = |parameters: &str| {
            let text = format!("#[utoipa::path(get)]\nasync fn get({parameters}) -> A {{}}");
            bodies_beside_sessions(&[Source::new("src/http/a.rs", &text)])
        };
        fails(&code("current: CurrentSession, body: Body"), "src/http/a.rs: get");
        fails(&code("body: Body, ConfirmedAdmin(admin): ConfirmedAdmin,"), "get");
        let fine = "WithBody(current, body): WithBody<CurrentSession>, app: Data<App>";
        assert_eq!(code(fine), Vec::<String>::new());
        assert_eq!(code("request: HttpRequest, body: Body"), Vec::<String>::new());
    }

    #[test]
    fn a_file_that_is_not_there() {
        let page = |text| missing(&[Source::new("docs/a.md", text)], root());
        fails(&page("See `src/nowhere.rs`."), "src/nowhere.rs");
        fails(&page("See `tests/tidy.rs: nothing_of_this_name`."), "has no nothing");
        let fine = "See `src/lib.rs`, `tests/tidy.rs: imports_point_down` and `src/http/*.rs`.";
        assert_eq!(page(fine), Vec::<String>::new());
    }

    #[test]
    fn a_count_that_is_not_so() {
        let page = |text| counts(&[Source::new("docs/a.md", text)], &[("rare states", 36)]);
        fails(&page("It reaches 28\nrare states."), "28 rare states, but there are 36");
        assert_eq!(
            page("It reaches 36 rare states, and no other rare states."),
            Vec::<String>::new()
        );
    }
}
