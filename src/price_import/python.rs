//! Price lists that are written as constructors of Python, as a wheel of genai-prices has them.
//! They are read as data; nothing is run.
//!
//! `Name(key=value, ...)` becomes an object, `Decimal('1.5')` a number, `datetime.date(2026, 1, 2)`
//! the text `2026-01-02`. Whatever else a program may say is refused.

use super::ImportError;
use super::tree::{Budget, DEPTH_MAX, Tree};

/// What follows this is the list.
const BEGINS: &str = "providers: list[Provider] = ";

/// Is the text such a list?
pub(super) fn is_one(text: &str) -> bool {
    text.contains(BEGINS)
}

/// Reads it.
pub(super) fn read(text: &str) -> Result<Tree, ImportError> {
    let rest = text.split_once(BEGINS).map_or("", |(_, rest)| rest);
    let mut reader = Reader { rest, budget: Budget::new() };
    let read = reader.value(DEPTH_MAX);
    read.map_err(|what| {
        let line = text.get(..text.len().saturating_sub(reader.rest.len()));
        let line = line.map_or(0, |before| before.lines().count());
        ImportError::NotPython { line, what }
    })
}

struct Reader<'t> {
    rest: &'t str,
    budget: Budget,
}

type Read<T> = Result<T, &'static str>;

impl<'t> Reader<'t> {
    /// Skips spaces and comments.
    fn skip(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            match self.rest.strip_prefix('#') {
                Some(comment) => self.rest = comment.split_once('\n').map_or("", |(_, rest)| rest),
                None => return,
            }
        }
    }

    fn takes(&mut self, token: char) -> bool {
        self.skip();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn must(&mut self, token: char, what: &'static str) -> Read<()> {
        if self.takes(token) { Ok(()) } else { Err(what) }
    }

    /// The longest beginning of such characters.
    fn word(&mut self, is_part: impl Fn(char) -> bool) -> &'t str {
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        word
    }

    fn value(&mut self, depth: u32) -> Read<Tree> {
        self.skip();
        self.budget.take().ok_or("it has too many values")?;
        match self.rest.chars().next().ok_or("it ends too early")? {
            '\'' | '"' => self.texts().map(Tree::Text),
            '[' | '(' | '{' => self.many(deeper(depth)?),
            first if first.is_ascii_digit() || first == '-' => {
                let number = self.word(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
                Ok(Tree::Number(number.replace('_', "")))
            }
            first if first.is_ascii_alphabetic() || first == '_' => self.named(depth),
            _ => Err("there is no value here"),
        }
    }

    /// One text, or several beside each other, which are one.
    fn texts(&mut self) -> Read<String> {
        let mut whole = String::new();
        loop {
            self.skip();
            let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
                return Ok(whole);
            };
            let is_long = self.rest.starts_with(if quote == '"' { "\"\"\"" } else { "'''" });
            let quotes = if is_long { 3 } else { 1 };
            self.rest = self.rest.get(quotes..).unwrap_or_default();
            self.text(quote, is_long, &mut whole)?;
        }
    }

    fn text(&mut self, quote: char, is_long: bool, whole: &mut String) -> Read<()> {
        const END: &str = "a text does not end";
        let closing = quote.to_string().repeat(if is_long { 3 } else { 1 });
        loop {
            if let Some(rest) = self.rest.strip_prefix(&closing) {
                self.rest = rest;
                return Ok(());
            }
            let mut chars = self.rest.chars();
            match chars.next().ok_or(END)? {
                '\\' => {
                    let escaped = chars.next().ok_or(END)?;
                    self.rest = chars.as_str();
                    match escaped {
                        '\n' => {}
                        'n' => whole.push('\n'),
                        't' => whole.push('\t'),
                        'r' => whole.push('\r'),
                        '\\' | '\'' | '"' => whole.push(escaped),
                        'x' => whole.push(self.code(2)?),
                        'u' => whole.push(self.code(4)?),
                        'U' => whole.push(self.code(8)?),
                        other => whole.extend(['\\', other]),
                    }
                }
                '\n' if !is_long => return Err(END),
                other => {
                    whole.push(other);
                    self.rest = chars.as_str();
                }
            }
        }
    }

    /// The character whose code has so many hexadecimal digits.
    fn code(&mut self, digits: usize) -> Read<char> {
        let (code, rest) = self.rest.split_at_checked(digits).ok_or("an escape is too short")?;
        self.rest = rest;
        let code = u32::from_str_radix(code, 16).ok().and_then(char::from_u32);
        code.ok_or("an escape is no character")
    }

    /// A list, a tuple or a dictionary.
    fn many(&mut self, depth: u32) -> Read<Tree> {
        if self.takes('{') {
            let mut object = Vec::new();
            while !self.takes('}') {
                self.skip();
                let key = self.texts()?;
                self.must(':', "a colon is missing")?;
                object.push((key, self.value(depth)?));
                self.next('}')?;
            }
            return Ok(Tree::Object(object));
        }
        let closing = if self.takes('[') { ']' } else { ')' };
        if closing == ')' {
            self.must('(', "a parenthesis is missing")?;
        }
        let mut list = Vec::new();
        while !self.takes(closing) {
            list.push(self.value(depth)?);
            self.next(closing)?;
        }
        Ok(Tree::List(list))
    }

    /// A comma, or nothing before the end.
    fn next(&mut self, closing: char) -> Read<()> {
        if self.takes(',') {
            return Ok(());
        }
        self.skip();
        if self.rest.starts_with(closing) { Ok(()) } else { Err("a comma is missing") }
    }

    /// A constant, or a constructor with its arguments.
    fn named(&mut self, depth: u32) -> Read<Tree> {
        let name = self.word(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        match name {
            "None" => return Ok(Tree::Null),
            "True" => return Ok(Tree::Bool(true)),
            "False" => return Ok(Tree::Bool(false)),
            "datetime.UTC" => return Ok(Tree::Text("UTC".into())),
            _ => {}
        }
        self.must('(', "it has a name that is no value")?;
        let depth = deeper(depth)?;
        let (mut plain, mut object) = (Vec::new(), Vec::new());
        while !self.takes(')') {
            self.skip();
            let before = self.rest;
            let key = self.word(|c| c.is_ascii_alphanumeric() || c == '_');
            self.skip();
            if !key.is_empty() && self.rest.starts_with('=') && !self.rest.starts_with("==") {
                self.takes('=');
                object.push((key.to_owned(), self.value(depth)?));
            } else {
                self.rest = before;
                plain.push(self.value(depth)?);
            }
            self.next(')')?;
        }
        match (name, plain.as_slice()) {
            ("Decimal", [Tree::Text(number) | Tree::Number(number)]) => {
                Ok(Tree::Number(number.clone()))
            }
            ("datetime.date" | "datetime.datetime", [year, month, day, ..]) => {
                let part = |part: &Tree| part.whole().ok_or("a date has a part that is no number");
                let (year, month, day) = (part(year)?, part(month)?, part(day)?);
                Ok(Tree::Text(format!("{year:04}-{month:02}-{day:02}")))
            }
            ("datetime.time", _) => Ok(Tree::Text("time".into())),
            (_, []) => Ok(Tree::Object(object)),
            _ => Err("it calls something that is not known"),
        }
    }
}

fn deeper(depth: u32) -> Read<u32> {
    depth.checked_sub(1).ok_or("it has too many levels")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Result<Tree, ImportError> {
        read(&format!("from x import *\n\n{BEGINS}{value}\n"))
    }

    #[test]
    fn constructors_become_data() {
        let tree = of(r#"[
            Provider(id='open\'ai', description="a 'b'\n" 'c', tags={'x': 1, "y": None}, # remark
                at=datetime.date(2026, 1, 2), t=datetime.time(0, 30, tzinfo=datetime.UTC),
                price=ModelPrice(input_mtok=Decimal('0.15'), n=200_000, flags=[True, False,],),
            ),
        ]"#)
        .unwrap();
        let provider = &tree.items()[0];
        assert_eq!(provider.text_of("id"), Some("open'ai"));
        assert_eq!(provider.text_of("description"), Some("a 'b'\nc"));
        assert_eq!(provider.text_of("at"), Some("2026-01-02"));
        let price = provider.get("price").unwrap();
        assert_eq!(price.get("input_mtok"), Some(&Tree::Number("0.15".into())));
        assert_eq!(price.get("n").unwrap().whole(), Some(200_000));
        assert_eq!(price.get("flags").unwrap().items().len(), 2);
        assert_eq!(provider.get("tags").unwrap().get("y"), Some(&Tree::Null));
    }

    /// Nothing is called that a price list does not have.
    #[test]
    fn a_program_is_refused_with_its_line() {
        for value in [
            "[os.system('rm -rf /')]",
            "[__import__('os')]",
            "[open]",
            "[1 + 1]",
            "[x for x in y]",
            "['a",
            "[",
            "",
            "[Decimal('1', '2')]",
            "[Provider(id='a' b='c')]",
            "['\\xzz']",
        ] {
            let error = of(value).unwrap_err();
            assert!(matches!(error, ImportError::NotPython { line: 1..=4, .. }), "{value} {error}");
        }
        let deep = "[".repeat(100_000);
        assert!(of(&deep).unwrap_err().to_string().contains("levels"));
    }
}
