use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::bill::Flags;
use crate::card::Service;
use crate::card_document::{CardEdit, CardEdits};
use crate::dim::Dim;
use crate::metering::Convention;
use crate::quantities::Quantities;
use crate::rates::UnitPrice;

const A: ListId = ListId(2);
const B: ListId = ListId(3);
const C: ListId = ListId(4);

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn rates(input: i64) -> Rates {
    Rates::NONE.with(Dim::Input, UnitPrice::from_nanos(input).unwrap())
}

fn set(name: &str, input: i64) -> (Arc<str>, CardEdit) {
    (name.into(), CardEdit::Set(Arc::new(Card::flat(rates(input)).unwrap())))
}

fn publication(list: ListId, effective: i64, edits: CardEdits) -> Publication {
    Publication {
        list,
        parent: None,
        usual_parent: None,
        multiplier: None,
        effective_from: at(effective),
        edits,
        keeps_others: false,
    }
}

fn child(list: ListId, parent: ListId, millionths: u32, effective: i64) -> Publication {
    Publication {
        parent: Some(Some(parent)),
        multiplier: Multiplier::from_millionths(millionths),
        ..publication(list, effective, Vec::new())
    }
}

/// Publishes it; how many versions that were.
fn publish(book: &mut PriceBook, new: &Publication) -> Result<usize, PublicationError> {
    let next = book.versions.keys().next_back().map_or(1, |last| last.number() + 1);
    let made = book.publication(new, VersionId::new(next).unwrap())?;
    for (place, version) in made.iter().enumerate() {
        let version = Arc::clone(version);
        if place == 0 { book.add(version) } else { book.add_follower(version) }.unwrap();
    }
    Ok(made.len())
}

fn input(book: &PriceBook, list: ListId, name: &str, when: i64) -> Option<i64> {
    let priced = book.find(list, name, at(when))?;
    let (_, row) = priced.card.row(Service::Standard, 0)?;
    Some(row.rates.price(Dim::Input)?.nanos())
}

#[test]
fn a_list_follows_the_one_that_it_inherits_from() {
    let mut book = PriceBook::default();
    publish(&mut book, &publication(A, 100, vec![set("m", 1_000)])).unwrap();
    assert_eq!(publish(&mut book, &child(B, A, 900_000, 200)), Ok(1));
    assert_eq!(publish(&mut book, &child(C, B, 500_000, 200)), Ok(1));
    assert_eq!(input(&book, C, "m", 200), Some(450));
    // From 300 on, and both that inherit with it.
    assert_eq!(publish(&mut book, &publication(A, 300, vec![set("m", 2_000)])), Ok(3));
    assert_eq!(input(&book, C, "m", 299), Some(450));
    assert_eq!([B, C].map(|list| input(&book, list, "m", 300)), [Some(1_800), Some(900)]);
    // What is published for earlier does not change what comes later.
    assert_eq!(publish(&mut book, &publication(A, 250, vec![set("m", 1_500)])), Ok(3));
    assert_eq!(input(&book, C, "m", 250), Some(675));
    assert_eq!(input(&book, C, "m", 300), Some(900));
    // A list that is new follows what its parent will be.
    let fourth = ListId(5);
    assert_eq!(publish(&mut book, &child(fourth, A, 100_000, 220)), Ok(3));
    let seen = [220, 250, 300].map(|when| input(&book, fourth, "m", when));
    assert_eq!(seen, [Some(100), Some(150), Some(200)]);
}

#[test]
fn what_cannot_be_published_is_refused_by_a_sentence() {
    let mut book = PriceBook::default();
    let error = |book: &mut PriceBook, new: Publication| publish(book, &new).unwrap_err();
    assert_eq!(error(&mut book, child(B, A, 900_000, 1)), PublicationError::NoParentVersion);
    assert_eq!(error(&mut book, publication(A, 1, Vec::new())), PublicationError::Empty);
    publish(&mut book, &publication(A, 100, vec![set("m", 1_000)])).unwrap();
    assert_eq!(error(&mut book, child(A, A, 900_000, 200)), PublicationError::Circle);
    publish(&mut book, &child(B, A, 900_000, 200)).unwrap();
    assert_eq!(error(&mut book, child(A, B, 900_000, 300)), PublicationError::Circle);
    let times = Multiplier::from_millionths(1).unwrap();
    let alone = Publication { multiplier: Some(times), ..publication(A, 300, vec![set("m", 1)]) };
    assert_eq!(error(&mut book, alone), PublicationError::Multiplier);
    for (list, parent) in [(C, B), (ListId(5), C)] {
        publish(&mut book, &child(list, parent, 900_000, 200)).unwrap();
    }
    // The fifth of a chain.
    let deep = error(&mut book, child(ListId(6), ListId(5), 900_000, 200));
    assert!(matches!(deep, PublicationError::Book(BookError::Depth(_))), "{deep}");
    // Also if the chain grows at its other end.
    publish(&mut book, &publication(ListId(7), 150, vec![set("m", 1)])).unwrap();
    let deep = error(&mut book, child(A, ListId(7), 900_000, 200));
    assert!(matches!(deep, PublicationError::Book(BookError::Depth(_))), "{deep}");
    let gone = vec![("x".into(), CardEdit::Remove)];
    assert_eq!(error(&mut book, publication(A, 300, gone)), PublicationError::NoCard("x".into()));
}

#[test]
fn edits_keep_the_cards_that_they_do_not_name() {
    let mut book = PriceBook::default();
    publish(&mut book, &publication(A, 100, vec![set("a", 1), set("b", 2)])).unwrap();
    let edits = vec![set("c", 3), ("a".into(), CardEdit::Remove)];
    let merge = Publication { keeps_others: true, ..publication(A, 200, edits) };
    publish(&mut book, &merge).unwrap();
    let seen = ["a", "b", "c"].map(|name| input(&book, A, name, 200));
    assert_eq!(seen, [None, Some(2), Some(3)]);
    let own = Rates::NONE.with(Dim::Output, UnitPrice::from_nanos(7).unwrap());
    let edits = vec![("b".into(), CardEdit::Override(Box::new(own)))];
    let new = Publication { edits, ..child(B, A, 2_000_000, 300) };
    publish(&mut book, &new).unwrap();
    let row = book.find(B, "b", at(300)).unwrap().card.rows()[0];
    assert_eq!(row.rates.price(Dim::Input), UnitPrice::from_nanos(4));
    assert_eq!(row.rates.price(Dim::Output), UnitPrice::from_nanos(7));
    let edits = vec![("x".into(), CardEdit::Override(Box::new(own)))];
    let new = Publication { edits, ..child(B, A, 2_000_000, 300) };
    assert_eq!(publish(&mut book, &new), Err(PublicationError::NoParentCard("x".into())));
    // Who keeps the others keeps the parent and the multiplier as well, unless they are named.
    let kept = Publication { keeps_others: true, ..publication(B, 400, vec![set("d", 9)]) };
    publish(&mut book, &kept).unwrap();
    assert_eq!(["c", "d"].map(|name| input(&book, B, name, 400)), [Some(6), Some(9)]);
    let other = Multiplier::from_millionths(3_000_000);
    publish(&mut book, &Publication { multiplier: other, edits: Vec::new(), ..kept }).unwrap();
    assert_eq!(["c", "d"].map(|name| input(&book, B, name, 400)), [Some(9), Some(9)]);
    // And a list without a version has its usual parent.
    let usual = Publication { usual_parent: Some(A), ..publication(C, 400, Vec::new()) };
    publish(&mut book, &usual).unwrap();
    assert_eq!(input(&book, C, "c", 400), Some(3));
}

#[test]
fn a_withdrawal_takes_what_followed_with_it() {
    let mut book = PriceBook::default();
    let id = |number| VersionId::new(number).unwrap();
    publish(&mut book, &publication(A, 100, vec![set("m", 1_000)])).unwrap();
    publish(&mut book, &child(B, A, 900_000, 200)).unwrap();
    publish(&mut book, &publication(A, 300, vec![set("m", 2_000)])).unwrap();
    assert_eq!(book.withdrawal(id(1), at(250)), Err(WithdrawalError::InForce(at(100))));
    assert_eq!(book.withdrawal(id(3), at(300)), Err(WithdrawalError::InForce(at(300))));
    assert_eq!(book.withdrawal(id(9), at(250)), Err(WithdrawalError::NoVersion));
    // The follower alone would leave its list at what is not in force.
    assert_eq!(book.withdrawal(id(4), at(250)), Err(WithdrawalError::Followed(id(2))));
    assert!(book.is_follower(id(4)) && !book.is_follower(id(3)));
    assert_eq!(book.withdrawal(id(3), at(250)), Ok(vec![id(3), id(4)]));
    // A version of the other list's own would be lost.
    publish(&mut book, &child(B, A, 500_000, 350)).unwrap();
    assert_eq!(book.withdrawal(id(3), at(250)), Err(WithdrawalError::Followed(id(5))));
    for withdrawn in [5, 3] {
        for gone in book.withdrawal(id(withdrawn), at(250)).unwrap() {
            book.withdraw(gone);
        }
    }
    assert_eq!(input(&book, B, "m", 400), Some(900));
    assert_eq!(book.withdrawal(id(3), at(250)), Err(WithdrawalError::Withdrawn));
}

#[test]
fn who_publishes_at_once_is_in_force_no_earlier_than_who_just_did() {
    let mut book = PriceBook::default();
    for effective in [100, 120, 500] {
        publish(&mut book, &publication(A, effective, vec![set("m", 1)])).unwrap();
    }
    let soonest = |earliest| book.soonest(A, at(earliest), 10);
    assert_eq!([99, 110, 115, 121].map(|at| soonest(at).micros()), [100, 120, 120, 121]);
    assert_eq!(book.soonest(B, at(7), 10), at(7));
    let spans: Vec<_> =
        book.terms(A).map(|(version, until)| (version.id().number(), until)).collect();
    assert_eq!(spans, [(1, Some(at(120))), (2, Some(at(500))), (3, None)]);
}

/// What a list says of itself from an instant on.
#[derive(Clone, Debug)]
struct Said {
    effective: i64,
    parent: Option<ListId>,
    millionths: u32,
    price: Option<i64>,
}

/// The price by what the lists say of themselves, looked up anew.
fn model(said: &BTreeMap<ListId, Vec<Said>>, list: ListId, when: i64) -> Option<i64> {
    let of_list = said.get(&list)?;
    let last = of_list.iter().enumerate().filter(|(_, said)| said.effective <= when);
    let (_, last) = last.max_by_key(|(place, said)| (said.effective, *place))?;
    if last.price.is_some() {
        return last.price;
    }
    let price = UnitPrice::from_nanos(model(said, last.parent?, when)?).unwrap();
    Some(Multiplier::from_millionths(last.millionths)?.apply(price)?.nanos())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn at_every_instant_each_list_inherits_from_what_is_in_force(
        steps in proptest::collection::vec(
            (0_u32..4, 0_u32..5, 1_i64..20, 1_u32..3_000_000, proptest::option::of(0_i64..10_000),
                proptest::bool::weighted(0.2)),
            1..25,
        ),
    ) {
        let mut book = PriceBook::default();
        let mut said: BTreeMap<ListId, Vec<Said>> = BTreeMap::new();
        for (list, parent, effective, millionths, price, withdraws) in steps {
            let list = ListId(list + 2);
            let parent = (parent < 4).then_some(ListId(parent + 2));
            let millionths = if parent.is_none() { 1_000_000 } else { millionths };
            let edits = price.iter().map(|price| set("m", *price)).collect();
            let new = Publication {
                parent: Some(parent),
                multiplier: Multiplier::from_millionths(millionths),
                ..publication(list, effective, edits)
            };
            if publish(&mut book, &new).is_ok() {
                said.entry(list).or_default().push(Said { effective, parent, millionths, price });
                let last = book.versions.values().rev().find(|one| !book.is_follower(one.id()));
                let last = last.cloned().unwrap();
                // Sometimes it is withdrawn again, and leaves nothing behind.
                if withdraws && let Ok(gone) = book.withdrawal(last.id(), at(0)) {
                    for gone in gone {
                        book.withdraw(gone);
                    }
                    said.get_mut(&list).unwrap().pop();
                }
            }
            for list in (2..6).map(ListId) {
                for when in 0..21 {
                    prop_assert_eq!(input(&book, list, "m", when), model(&said, list, when));
                    prop_assert!(book.misled(list, at(when)).is_none());
                }
            }
        }
    }

    #[test]
    fn the_arithmetic_of_a_bill_comes_to_its_cost(
        prices in proptest::collection::vec(0_i64..1_000_000_000, 24),
        amounts in proptest::collection::vec(0_u64..3_000_000, 24),
        millionths in 1_u32..3_000_000,
    ) {
        let rates: Rates = Dim::ALL.into_iter().zip(prices)
            .map(|(dim, nanos)| (dim, UnitPrice::from_nanos(nanos).unwrap())).collect();
        let quantities: Quantities = Dim::ALL.into_iter().zip(amounts).collect();
        let mut book = PriceBook::default();
        let card = ("m".into(), CardEdit::Set(Arc::new(Card::flat(rates).unwrap())));
        publish(&mut book, &publication(A, 1, vec![card])).unwrap();
        publish(&mut book, &child(B, A, millionths, 1)).unwrap();
        let priced = book.find(B, "m", at(1)).unwrap();
        let bill = Bill {
            version: priced.version,
            card: priced.number,
            row: 0,
            convention: Convention::default(),
            flags: Flags::NONE,
            quantities,
        };
        let arithmetic = bill.arithmetic(&book).unwrap();
        prop_assert_eq!(Some(arithmetic.cost), bill.cost(&book));
        prop_assert_eq!(arithmetic.sum.checked_add(arithmetic.rounding).unwrap(),
            ExactAmount::of(arithmetic.cost));
        // By hand: with decimals, as it is shown.
        let decimal = |text: &str| text.trim_end_matches("...").parse::<rust_decimal::Decimal>();
        let mut sum = rust_decimal::Decimal::ZERO;
        for part in &arithmetic.parts {
            let by_hand = decimal(&part.price.to_string()).unwrap()
                * rust_decimal::Decimal::from(part.quantity) / rust_decimal::Decimal::from(part.dim.per());
            let shown = decimal(&part.amount.to_string()).unwrap();
            prop_assert!((by_hand - shown).abs() < rust_decimal::Decimal::new(1, 17), "{:?}", part);
            sum += shown;
        }
        let shown = decimal(&arithmetic.sum.to_string()).unwrap();
        prop_assert!((sum - shown).abs() < rust_decimal::Decimal::new(24, 18));
        let half = rust_decimal::Decimal::new(5, 10);
        prop_assert!(decimal(&arithmetic.rounding.to_string()).unwrap().abs() <= half);
    }
}

#[test]
fn an_exact_amount_shows_all_its_decimals() {
    let third = crate::dim::SCALE / 9;
    for (exact, text) in [
        (0, "0.0000"),
        (crate::dim::SCALE * 1_500_000_000, "1.5000"),
        (18, "0.000000000000001"),
        (-18, "-0.000000000000001"),
        (third, "0.000000000111111111..."),
        (crate::dim::SCALE / 2, "0.0000000005"),
    ] {
        assert_eq!(ExactAmount(exact).to_string(), text);
    }
    for (exact, rounded) in [(crate::dim::SCALE / 2, 1), (crate::dim::SCALE / 2 - 1, 0)] {
        assert_eq!(ExactAmount(exact).rounded(), Some(Credits::from_nanos(rounded)));
    }
}

/// A cache of 100 of 1,000 tokens, counted within or beside.
#[test]
fn a_bill_is_computed_as_if_its_provider_had_counted_otherwise() {
    let mut book = PriceBook::default();
    let price = |nanos| UnitPrice::from_nanos(nanos).unwrap();
    let rates = rates(1_000_000).with(Dim::CacheRead, price(100_000));
    let card = ("m".into(), CardEdit::Set(Arc::new(Card::flat(rates).unwrap())));
    publish(&mut book, &publication(A, 1, vec![card.clone()])).unwrap();
    publish(&mut book, &publication(A, 2, vec![set("m", 2_000_000)])).unwrap();
    let bill = Bill {
        version: VersionId::FIRST,
        card: 0,
        row: 0,
        convention: Convention::OPENAI,
        flags: Flags::NONE,
        quantities: [(Dim::Input, 900), (Dim::CacheRead, 100)].into_iter().collect(),
    };
    let cost = |version: Option<u32>, convention| {
        bill.cost_by(&book, version.and_then(VersionId::new), convention).map(Credits::nanos)
    };
    assert_eq!(cost(None, None), Some(910));
    assert_eq!(cost(None, Some(Convention::OPENAI)), Some(910));
    // 1,000 beside the 100.
    assert_eq!(cost(None, Some(Convention::ANTHROPIC)), Some(1_010));
    // The other version has no price of its own for the cache.
    assert_eq!(cost(Some(2), None), Some(2_000));
    assert_eq!(cost(Some(9), None), None);
}

#[test]
fn what_differs_is_told_by_model_and_dimension() {
    let mut book = PriceBook::default();
    publish(&mut book, &publication(A, 1, vec![set("a", 1_000), set("b", 5)])).unwrap();
    publish(&mut book, &publication(A, 2, vec![set("a", 1_125), set("c", 7)])).unwrap();
    let (first, second) = (VersionId::FIRST, VersionId::new(2).unwrap());
    let told = |from, to| -> Vec<_> {
        let all = book.differences(from, to);
        let nanos = |price: Option<UnitPrice>| price.map(UnitPrice::nanos);
        let row = |one: &PriceDifference| {
            let percent = one.percent().map(|percent| percent.to_string());
            (one.model.to_string(), nanos(one.old), nanos(one.new), percent)
        };
        all.iter().map(row).collect()
    };
    assert_eq!(
        told(Some(first), second),
        [
            ("a".to_owned(), Some(1_000), Some(1_125), Some("+12.50".to_owned())),
            ("b".to_owned(), Some(5), None, None),
            ("c".to_owned(), None, Some(7), None),
        ]
    );
    assert_eq!(told(Some(second), first)[0].3.as_deref(), Some("-11.11"));
    assert_eq!(told(None, first).len(), 2);
    assert_eq!(told(Some(second), second), []);
}

#[test]
fn the_longest_pattern_of_a_version_and_those_that_it_inherits_fits() {
    let mut book = PriceBook::default();
    publish(&mut book, &publication(A, 1, vec![set("open/*", 1), set("open/large", 2)])).unwrap();
    let follower = Publication { edits: vec![set("open/la*", 3)], ..child(B, A, 2_000_000, 2) };
    publish(&mut book, &follower).unwrap();
    let pattern = |list, model| {
        let version = book.in_force(list, at(5)).unwrap().id();
        book.pattern_of(version, model).map(ToString::to_string)
    };
    assert_eq!(pattern(A, "open/late").as_deref(), Some("open/*"));
    assert_eq!(pattern(B, "open/late").as_deref(), Some("open/la*"));
    assert_eq!(pattern(B, "open/x").as_deref(), Some("open/*"));
    // A pattern is for names that go on; the star itself is none.
    for none in ["open/", "open", "", "closed/x"] {
        assert_eq!(pattern(B, none), None, "{none}");
    }
}
