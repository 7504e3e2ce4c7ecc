//! What answers of a kind have in common: where a new thing is, and where the next page is.

use actix_web::http::header::{HeaderValue, LINK, LOCATION};
use actix_web::web::Query;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All but what no part of a query needs to have encoded.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Made: the new thing is at `location` (RFC 9110).
pub(super) fn created(location: &str) -> HttpResponseBuilder {
    let mut answer = HttpResponse::Created();
    if let Ok(location) = HeaderValue::from_str(location) {
        answer.insert_header((LOCATION, location));
    }
    answer
}

/// The path of a thing that is made: `folder` with `name` below it.
pub(super) fn path_of(folder: &str, name: &str) -> String {
    format!("{folder}/{}", utf8_percent_encode(name, QUERY))
}

/// A page of a list. If there is a next one, `Link` leads to it (RFC 8288).
pub(super) fn page_of(request: &HttpRequest, next_cursor: Option<&str>) -> HttpResponseBuilder {
    let mut answer = HttpResponse::Ok();
    let link = next_cursor.map(|cursor| next(request.path(), request.query_string(), cursor));
    if let Some(Ok(link)) = link.map(HeaderValue::try_from) {
        answer.insert_header((LINK, link));
    }
    answer
}

/// The link to the next page: the same query with another cursor.
fn next(path: &str, query: &str, cursor: &str) -> String {
    let pairs = Query::<Vec<(String, String)>>::from_query(query).map(Query::into_inner);
    let mut link = format!("<{path}?");
    for (name, value) in pairs.unwrap_or_default() {
        if name != "cursor" {
            let [name, value] = [&name, &value].map(|text| utf8_percent_encode(text, QUERY));
            link.extend([&name.to_string(), "=", &value.to_string(), "&"]);
        }
    }
    format!("{link}cursor={}>; rel=\"next\"", utf8_percent_encode(cursor, QUERY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_asked_for_as_the_first_was() {
        for (query, link) in [
            ("", "</a?cursor=7>; rel=\"next\""),
            ("limit=2&cursor=9", "</a?limit=2&cursor=7>; rel=\"next\""),
            ("q=a%20b%26c&limit=2", "</a?q=a%20b%26c&limit=2&cursor=7>; rel=\"next\""),
        ] {
            assert_eq!(next("/a", query, "7"), link);
        }
        assert_eq!(path_of("/api/lists", "a/b c"), "/api/lists/a%2Fb%20c");
    }
}
