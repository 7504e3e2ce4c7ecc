//! HTML pages for printing. They have no scripts or styles, because the server's content security
//! policy allows none.

use std::fmt::Write as _;

use crate::store::users::User;

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A page with a list of facts, followed by `tables`, which is HTML.
pub(super) fn page(title: &str, user: &User, rows: &[[String; 2]], tables: &str) -> String {
    let mut facts = String::new();
    for [name, value] in rows {
        let _ = write!(
            facts,
            "<tr><th align=\"left\">{}</th><td>{}</td></tr>",
            escaped(name),
            escaped(value)
        );
    }
    let (title, name, email) = (escaped(title), escaped(&user.username), escaped(&user.email));
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head><body>\
         <h1>{title}</h1><p>{name}, {email}</p><table cellpadding=\"4\">{facts}</table>{tables}</body></html>\n"
    )
}

pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = String::from("<table border=\"1\" cellspacing=\"0\" cellpadding=\"4\"><tr>");
    for name in head {
        let _ = write!(text, "<th>{}</th>", escaped(name));
    }
    text.push_str("</tr>");
    for row in rows {
        text.push_str("<tr>");
        for cell in row {
            let _ = write!(text, "<td align=\"right\">{}</td>", escaped(cell));
        }
        text.push_str("</tr>");
    }
    text.push_str("</table>");
    text
}
