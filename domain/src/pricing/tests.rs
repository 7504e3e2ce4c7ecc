//! Tests of the prices of routes and of models.

mod by_model;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::dim::Dim;
use crate::price_book::{PriceVersion, VersionTerms};
use crate::quantities::Quantities;
use crate::tally::TokenUsage;
use crate::window::Timestamp;
use crate::{Bill, Convention, Flags, Link, ListId, Multiplier, PriceBook, VersionId};

fn rule(method: Option<&str>, path: &str, base: i64) -> PriceRule {
    PriceRule {
        method: method.map(Arc::from),
        path: path.into(),
        class: RouteClass::Read,
        card_number: 0,
        base: Credits::from_nanos(base),
        per_token: None,
        default_max_tokens: 100,
        default_max_tokens_of: BTreeMap::new(),
        context_tokens: 1_000,
        context_tokens_of: BTreeMap::new(),
        sells: Vec::new(),
    }
}

#[test]
fn the_most_specific_rule_prices_the_call() {
    let list = PriceList::new(vec![
        rule(None, "/api/hub/*", 1),
        rule(None, "/api/hub/memory/*", 2),
        rule(Some("POST"), "/api/hub/memory/*", 3),
        rule(None, "/api/hub/memory/all", 4),
        rule(Some("DELETE"), "/api/hub/memory/all", 6),
        rule(Some("DELETE"), "/api/hub/memory/all", 5),
    ]);
    for (method, path, base) in [
        ("GET", "/api/hub/tasks", Some(1)),
        ("GET", "/api/hub", Some(1)),
        ("GET", "/api/hubs", None),
        ("GET", "/api/hub/memory", Some(2)),
        ("GET", "/api/hub/memory/7", Some(2)),
        ("GET", "/api/hub/memory7", Some(1)),
        ("POST", "/api/hub/memory/7", Some(3)),
        ("POST", "/api/hub/memory/all", Some(4)),
        ("DELETE", "/api/hub/memory/all", Some(5)),
        ("GET", "/v1/models", None),
    ] {
        let found = list.find(method, path).map(|rule| rule.base.nanos());
        assert_eq!(found, base, "{method} {path}");
    }
    assert_eq!(list.methods("/api/hub/memory/all"), ["DELETE", "POST"]);
    assert!(list.methods("/api/hub/tasks").is_empty());
}

#[test]
fn a_method_of_a_model_is_no_name_of_a_model() {
    let models = rule(Some("GET"), "/v1beta/models/*", 1);
    let method = "/v1beta/models/*:generateContent";
    let list = PriceList::new(vec![models.clone(), rule(Some("POST"), method, 2)]);
    for (asked, path, base) in [
        ("GET", "/v1beta/models/m", Some(1)),
        ("GET", "/v1beta/models/m:x", Some(1)),
        ("POST", method, Some(2)),
        ("GET", method, None),
        // It has no rule of its own.
        ("GET", "/v1beta/models/*:countTokens", Some(1)),
    ] {
        let found = list.find(asked, path).map(|rule| rule.base.nanos());
        assert_eq!(found, base, "{asked} {path}");
    }
    assert_eq!(list.methods(method), ["POST"]);
    assert_eq!(list.methods("/v1beta/models/m"), ["GET"]);
    assert_eq!(list.methods("/v1beta/models/*:countTokens"), ["GET"]);
}

const ASKED: Demand = Demand {
    prompt_tokens_max: 10,
    completion_tokens_max: 20,
    choices: 2,
    start_tokens: 1,
    first_tokens: 5,
    context_tokens: 1_000,
    is_counted: true,
};
/// The same with a part that only the upstream can count.
const UNSEEN: Demand = Demand { is_counted: false, ..ASKED };

#[test]
fn a_report_is_believed_up_to_the_context_window() {
    for (usage, billed) in [
        (TokenUsage::new(10, 20), 30),
        // More than was counted and asked for, but it may be true.
        (TokenUsage::new(900, 20), 920),
        (TokenUsage { reported_total: 1_040, ..TokenUsage::default() }, 1_040),
        // No window is that large: 10 of the prompt, 2 choices of 20.
        (TokenUsage::new(1_010, 31), 50),
        (TokenUsage::new(u64::MAX, u64::MAX), 50),
    ] {
        assert_eq!(ASKED.believed(usage, 20), billed, "{usage:?}");
        // If only the upstream can count it: 1,000 of the prompt, 2 choices of 20.
        assert_eq!(UNSEEN.believed(usage, 20), usage.total().min(1_040), "{usage:?}");
    }
    let huge = Demand { prompt_tokens_max: 5_000, ..ASKED };
    assert_eq!(huge.believed(TokenUsage::new(10_064, 40), 20), 10_104);
}

#[test]
fn our_own_count_is_bounded_by_what_the_upstream_was_told() {
    for (usage, delivered, unseen) in [
        (TokenUsage::new(10, 20), 30, 30),
        // 10 of the prompt, 2 choices of 20: twice that and 64 more, if it was delivered.
        (TokenUsage::new(10, 100), 110, 50),
        (TokenUsage::new(10, 9_000), 10 + 144, 50),
        // The prompt is reported, and may be true.
        (TokenUsage::new(900, 9_000), 900 + 144, 940),
        (TokenUsage::new(9_000, 9_000), 10 + 144, 50),
    ] {
        assert_eq!(ASKED.counted(usage, 20, true), delivered, "{usage:?}");
        assert_eq!(ASKED.counted(usage, 20, false), unseen, "{usage:?}");
    }
}

proptest! {
    #[test]
    fn a_larger_report_is_never_a_smaller_bill(
        smaller in report(),
        more in report(),
        prompt_tokens_max in 0..2_000_000_u64,
        completion_tokens_max in 0..200_000_u64,
        choices in 1..4_u64,
        context_tokens in 0..2_000_000_u64,
        limit in 0..200_000_u64,
        is_delivered: bool,
    ) {
        let demand = Demand {
            prompt_tokens_max, completion_tokens_max, choices, context_tokens, ..UNSEEN
        };
        let larger = TokenUsage {
            prompt: smaller.prompt.saturating_add(more.prompt),
            completion: smaller.completion.saturating_add(more.completion),
            reported_total: smaller.reported_total.saturating_add(more.reported_total),
        };
        prop_assert!(demand.believed(smaller, limit) <= demand.believed(larger, limit));
        let counted = |usage| demand.counted(usage, limit, is_delivered);
        prop_assert!(counted(smaller) <= counted(larger));
        // What was counted here is believed as far, and then is what it was counted as.
        let known = Demand { is_counted: true, ..demand };
        let most = known.prompt_tokens_believed().saturating_add(limit * choices);
        if larger.total() <= most {
            prop_assert!(known.believed(smaller, limit) <= known.believed(larger, limit));
        }
        prop_assert!(known.believed(larger, limit) <= demand.believed(larger, limit));
    }
}

/// Reports of usage, also of more than there is.
fn report() -> impl Strategy<Value = TokenUsage> {
    let count = || prop_oneof![0..3_000_u64, 0..3_000_000_u64, Just(u64::MAX)];
    (count(), count(), count()).prop_map(|(prompt, completion, reported_total)| TokenUsage {
        prompt,
        completion,
        reported_total,
    })
}

fn by_token() -> PriceRule {
    PriceRule {
        per_token: Some("0.00001".parse().unwrap()),
        base: "0.0020".parse().unwrap(),
        ..rule(None, "/x", 0)
    }
}

#[test]
fn a_token_price_has_bounds() {
    let amount = |text: &str| text.parse().unwrap();
    let bounds = by_token().bounds(ASKED).unwrap().unwrap();
    assert_eq!(
        bounds,
        PriceBounds {
            least: amount("0.0020"),
            start: amount("0.00212"),
            first: amount("0.0022"),
            share: None,
            most: amount("0.0025")
        }
    );
    // A step never exceeds what the request asks for.
    let short = Demand { completion_tokens_max: 0, ..ASKED };
    let bounds = by_token().bounds(short).unwrap().unwrap();
    assert_eq!((bounds.start, bounds.most), (amount("0.0021"), amount("0.0021")));
    let absurd = Demand { completion_tokens_max: u64::MAX, ..ASKED };
    assert_eq!(by_token().bounds(absurd), Err(Unpayable));
    assert_eq!(rule(None, "/x", 7).bounds(absurd), Ok(None));
    assert_eq!(by_token().cost(1_000), Some(amount("0.0120")));
}

#[test]
fn a_ceiling_limits_the_completion_tokens() {
    let within =
        |ceiling: &str| by_token().completion_tokens_within(ceiling.parse().unwrap(), ASKED);
    assert_eq!((within("0.0019"), within("0.0021"), within("0.00215")), (0, 0, 2));
    assert_eq!((within("0.0025"), within("1")), (20, 20));
    assert_eq!(by_token().tokens_within("0.00215".parse().unwrap()), 15);
}

#[test]
fn what_a_call_is_billed_for_costs_what_is_taken() {
    // 0.002 and 0.00001 a token.
    let rule = by_token();
    assert_eq!(rule.payable(26), (26, rule.cost(26).unwrap()));
    let (most, cost) = rule.payable(u64::MAX);
    assert_eq!((rule.cost(most), rule.cost(most + 1)), (Some(cost), None));
    let credits = |text: &str| text.parse::<Credits>().unwrap();
    for (tokens, amount, billed) in [
        (26, "0.002", 26),
        (26, "0.00226", 26),
        (26, "0.00227", 27),
        // No number of tokens costs that: one more, and the bill says that less was taken.
        (26, "0.002270001", 28),
        (0, "0.000001", 0),
    ] {
        let paid = rule.paid_with(tokens, credits(amount));
        assert_eq!(paid, (billed, rule.cost(billed).unwrap()), "{tokens} {amount}");
    }
}

#[test]
fn rules_name_their_cards_as_the_version_numbers_them() {
    let list = PriceList::new(vec![
        rule(Some("POST"), "/b", 1),
        rule(None, "/c/*", 2),
        rule(Some("GET"), "/a/much/longer", 3),
    ]);
    let terms = VersionTerms {
        id: VersionId::FIRST,
        list: ListId(1),
        parent: None,
        multiplier: Multiplier::ONE,
        effective_from: Timestamp::from_micros(0),
        cards: list.cards().unwrap(),
    };
    let version = PriceVersion::new(terms, Link::START).unwrap();
    let mut book = PriceBook::default();
    book.add(Arc::new(version.clone())).unwrap();
    for rule in list.numbered(&version).rules() {
        let bill = Bill {
            version: version.id(),
            card: rule.card_number,
            row: 0,
            convention: Convention::default(),
            flags: Flags::NONE,
            quantities: rule.quantities(9, 9),
        };
        assert_eq!(**book.card_name(&bill).unwrap(), *rule.card_name());
        assert_eq!(bill.cost(&book), rule.cost(18));
    }
}

#[test]
fn a_rule_has_a_card_for_its_calls() {
    assert_eq!(rule(Some("POST"), "/v1/x", 0).card_name(), "POST /v1/x");
    assert_eq!(rule(None, "/v1/*", 0).card_name(), "* /v1/*");
    let used = Quantities::NONE.with(Dim::Request, 1).with(Dim::Input, 400);
    let cost = |rule: PriceRule, used| rule.card().unwrap().numbered(0).unwrap().rates.cost(&used);
    assert_eq!(cost(by_token(), used.with(Dim::Output, 600)), by_token().cost(1_000));
    assert_eq!(
        cost(rule(None, "/x", 7), Quantities::NONE.with(Dim::Request, 1)),
        rule(None, "/x", 7).cost(0)
    );
    // A fixed price sells no tokens, and a free call is sold.
    assert_eq!(cost(rule(None, "/x", 7), used), None);
    assert_eq!(cost(rule(None, "/x", 0), used.with(Dim::Input, 0)), Some(Credits::ZERO));
    assert_eq!(rule(None, "/x", -1).card(), None);
}

#[test]
fn a_model_may_have_a_default_of_its_own() {
    let default_max_tokens_of = BTreeMap::from([("large".to_owned(), 9)]);
    let context_tokens_of = BTreeMap::from([("large".to_owned(), 7)]);
    let rule = PriceRule { default_max_tokens_of, context_tokens_of, ..by_token() };
    assert_eq!(rule.context_tokens(Some("large")), 7);
    assert_eq!(rule.context_tokens(None), 1_000);
    assert_eq!(rule.default_max_tokens(Some("large")), 9);
    assert_eq!(rule.default_max_tokens(Some("small")), 100);
    assert_eq!(rule.default_max_tokens(None), 100);
}
