//! Filters as OpenAI's clients send them.
#![expect(clippy::unwrap_used, reason = "a test that fails by a panic has done its work")]

use retrieval::filter::{Attributes, Filter};
use serde_json::{Value, json};

fn filter(value: Value) -> Result<Filter, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn matches(value: Value) -> bool {
    let attributes = json!({"lang": "en", "year": 2024, "draft": false});
    let attributes: Attributes = serde_json::from_value(attributes).unwrap();
    filter(value).unwrap().matches(&attributes)
}

#[test]
fn each_operator_does_what_its_name_says() {
    let cases = [
        ("eq", json!("en"), true),
        ("eq", json!("de"), false),
        ("ne", json!("de"), true),
        ("ne", json!("en"), false),
        ("in", json!(["de", "en"]), true),
        ("in", json!(["de"]), false),
        ("nin", json!(["de"]), true),
        ("nin", json!(["en"]), false),
        ("gt", json!("de"), true),
    ];
    for (kind, value, expected) in cases {
        let text = format!("{kind} {value}");
        assert_eq!(
            matches(json!({"type": kind, "key": "lang", "value": value})),
            expected,
            "{text}"
        );
    }
    for (kind, below, equal, above) in [
        ("gt", true, false, false),
        ("gte", true, true, false),
        ("lt", false, false, true),
        ("lte", false, true, true),
    ] {
        for (value, expected) in [(2023.5, below), (2024.0, equal), (2025.0, above)] {
            let condition = json!({"type": kind, "key": "year", "value": value});
            assert_eq!(matches(condition), expected, "{kind} {value}");
        }
    }
}

#[test]
fn what_is_missing_or_of_another_type_equals_nothing() {
    for (key, value) in [("none", json!("en")), ("year", json!("2024")), ("lang", json!(true))] {
        for (kind, expected) in [("eq", false), ("ne", true), ("gt", false), ("lte", false)] {
            let condition = json!({"type": kind, "key": key, "value": value});
            assert_eq!(matches(condition), expected, "{kind} {key}");
        }
        assert!(matches(json!({"type": "nin", "key": key, "value": [value]})));
    }
}

#[test]
fn conditions_are_joined() {
    let yes = json!({"type": "eq", "key": "draft", "value": false});
    let no = json!({"type": "eq", "key": "draft", "value": true});
    assert!(!matches(json!({"type": "and", "filters": [yes, no]})));
    assert!(matches(json!({"type": "or", "filters": [yes, no]})));
}

#[test]
fn too_much_is_refused_with_a_reason() {
    let leaf = json!({"type": "eq", "key": "a", "value": 1});
    let nested = |levels: usize| {
        (1..levels).fold(leaf.clone(), |inner, _| json!({"type": "and", "filters": [inner]}))
    };
    assert!(filter(nested(8)).is_ok());
    assert!(filter(nested(9)).unwrap_err().contains("8 levels"));
    let wide = |count: usize| json!({"type": "or", "filters": vec![leaf.clone(); count]});
    assert!(filter(wide(63)).is_ok());
    assert!(filter(wide(64)).unwrap_err().contains("64 conditions"));
    assert!(filter(wide(10_000)).is_err());
    let list = json!({"type": "in", "key": "a", "value": vec![1; 257]});
    assert!(filter(list).unwrap_err().contains("256 values"));
    assert!(filter(json!({"type": "like", "key": "a", "value": 1})).is_err());
    assert!(filter(json!({"type": "eq", "key": "a", "value": [1]})).is_err());
}

#[test]
fn attributes_have_limits() {
    let attributes = |value: Value| serde_json::from_value::<Attributes>(value);
    let many = |count: usize| -> Value {
        (0..count).map(|number| (number.to_string(), json!(number))).collect()
    };
    assert!(attributes(many(16)).is_ok());
    assert!(attributes(many(17)).is_err());
    assert!(attributes(json!({"": 1})).is_err());
    assert!(attributes(json!({"a": "é".repeat(512)})).is_ok());
    assert!(attributes(json!({"a": "é".repeat(513)})).is_err());
    assert!(attributes(json!({"a": {"b": 1}})).is_err());
}

#[test]
fn a_filter_is_written_as_it_was_read() {
    let value =
        json!({"type": "and", "filters": [{"type": "in", "key": "a", "value": ["x", 2.5, true]}]});
    assert_eq!(serde_json::to_value(filter(value.clone()).unwrap()).unwrap(), value);
}
