//! Comma-separated values (RFC 4180).

/// Quotes a text that a user chose, so that no spreadsheet runs it as a formula.
#[must_use]
pub fn text(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if is_formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n']) || is_formula {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_a_formula_in_csv() {
        for (name, written) in [
            ("/v1/chat", "/v1/chat"),
            ("=HYPERLINK(\"x\")", "\"'=HYPERLINK(\"\"x\"\")\""),
            ("@SUM(1,2)", "\"'@SUM(1,2)\""),
            ("a,b", "\"a,b\""),
        ] {
            assert_eq!(text(name), written);
        }
    }
}
