//! The repository's source text, for tests of its rules.

use std::path::Path;

/// A file: its path from the root of the repository, with `/`, and its text.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: String,
    pub text: String,
}

/// The kind of a piece of Rust text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Code,
    Comment,
    Literal,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Source { path: path.into(), text: text.into() }
    }

    pub fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "rs")
    }

    /// The module path, from the folders and the file name: `src/http/error/mod.rs` is `http`,
    /// `error`.
    pub fn module(&self) -> Vec<&str> {
        let path = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        path.split('/').skip_while(|part| *part != "src").skip(1).filter(|p| *p != "mod").collect()
    }

    /// The text with spaces in place of all pieces of other kinds. Line breaks stay.
    pub fn only(&self, kind: Kind) -> String {
        let mut only = String::with_capacity(self.text.len());
        for (of, piece) in pieces(&self.text) {
            for letter in piece.chars() {
                only.push(if of == kind || letter == '\n' { letter } else { ' ' });
            }
        }
        only
    }

    /// The lines of `text` outside test items, with their numbers. `text` is a result of
    /// [`Source::only`].
    pub fn outside_tests<'t>(&self, text: &'t str) -> Vec<(usize, &'t str)> {
        if self.path.ends_with("/tests.rs") {
            return Vec::new();
        }
        let code = self.only(Kind::Code);
        let mut is_test = false;
        let (mut depth, mut has_body) = (0_usize, false);
        let mut kept = Vec::new();
        for (number, (line, code)) in text.lines().zip(code.lines()).enumerate() {
            if !is_test && code.trim_start().starts_with("#[cfg(test)]") {
                (is_test, depth, has_body) = (true, 0, false);
            }
            if !is_test {
                kept.push((number + 1, line));
                continue;
            }
            let after = code.trim_start().trim_start_matches("#[cfg(test)]");
            for sign in after.chars() {
                match sign {
                    '{' => (depth, has_body) = (depth + 1, true),
                    '}' => depth = depth.saturating_sub(1),
                    ';' if depth == 0 => has_body = true,
                    _ => {}
                }
            }
            is_test = !has_body || depth > 0;
        }
        kept
    }

    /// The code without tests.
    pub fn production(&self) -> String {
        let code = self.only(Kind::Code);
        let lines = self.outside_tests(&code);
        lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("\n")
    }
}

/// Every file in `folders` whose name ends in `extension`. A folder may also be a file.
pub fn read(root: &Path, folders: &[&str], extension: &str) -> Vec<Source> {
    let mut waiting: Vec<_> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|of| of == extension) && path.exists() {
            let text = std::fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            found.push(Source { path, text });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Splits Rust text into pieces. Joined, they are the text again.
fn pieces(text: &str) -> Vec<(Kind, &str)> {
    let mut pieces = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        let Some((kind, length)) = special(rest, text[..at].chars().next_back()) else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        if start < at {
            pieces.push((Kind::Code, &text[start..at]));
        }
        pieces.push((kind, &text[at..at + length]));
        at += length;
        start = at;
    }
    pieces.push((Kind::Code, &text[start..]));
    pieces
}

/// The comment or literal at the start of `rest`, and its length.
fn special(rest: &str, before: Option<char>) -> Option<(Kind, usize)> {
    let until = |end: &str, from: usize| {
        rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len())
    };
    if rest.starts_with("//") {
        return Some((Kind::Comment, rest.find('\n').unwrap_or(rest.len())));
    }
    if rest.starts_with("/*") {
        return Some((Kind::Comment, until("*/", 2)));
    }
    if rest.starts_with('"') {
        return Some((Kind::Literal, closed(rest, '"')));
    }
    let is_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    if !is_word && rest.starts_with('r') {
        let hashes = rest[1..].chars().take_while(|sign| *sign == '#').count();
        if rest[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            return Some((Kind::Literal, until(&end, 2 + hashes)));
        }
    }
    // A character literal. A lifetime has no closing quote after its first letter.
    if let Some(inner) = rest.strip_prefix('\'') {
        let letter = inner.chars().next()?;
        if letter == '\\' {
            return Some((Kind::Literal, closed(rest, '\'')));
        }
        if inner[letter.len_utf8()..].starts_with('\'') {
            return Some((Kind::Literal, letter.len_utf8() + 2));
        }
    }
    None
}

/// The length of a literal that begins and ends with `quote`.
fn closed(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            letter if letter == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}
