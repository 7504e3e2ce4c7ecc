use super::*;
use crate::card::{CardError, Service};
use crate::dim::Dim;
use crate::metering::Convention;
use crate::quantities::Quantities;
use crate::rates::UnitPrice;
use crate::{Counted, Flags};

const DEFAULT: ListId = ListId(1);
const OWN: ListId = ListId(2);

fn id(number: u32) -> VersionId {
    VersionId::new(number).unwrap()
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn card(input: &str, output: &str) -> Arc<Card> {
    let price = |text: &str| text.parse::<UnitPrice>().unwrap();
    let rates = Rates::NONE.with(Dim::Input, price(input)).with(Dim::Output, price(output));
    Arc::new(Card::flat(rates).unwrap())
}

fn terms(number: u32, list: ListId, effective: i64) -> VersionTerms {
    VersionTerms {
        id: id(number),
        list,
        parent: None,
        multiplier: Multiplier::ONE,
        effective_from: at(effective),
        cards: vec![("b".into(), card("10", "50")), ("a".into(), card("4", "20"))],
    }
}

fn add(book: &mut PriceBook, terms: VersionTerms) -> Result<(), BookError> {
    let before = book.last_link(terms.list);
    book.add(Arc::new(PriceVersion::new(terms, before).unwrap()))
}

fn bill(priced: &Priced) -> Bill {
    Bill {
        version: priced.version,
        card: priced.number,
        row: 0,
        convention: Convention { cache: Counted::Within, thoughts: Counted::Within },
        flags: Flags::NONE,
        quantities: Quantities::NONE.with(Dim::Input, 1_000_000).with(Dim::Reasoning, 1_000_000),
    }
}

#[test]
fn the_price_is_that_in_force_at_the_instant() {
    let mut book = PriceBook::default();
    add(&mut book, terms(1, DEFAULT, 100)).unwrap();
    let dearer = vec![("a".into(), card("5", "25"))];
    add(&mut book, VersionTerms { cards: dearer, ..terms(2, DEFAULT, 200) }).unwrap();
    // Published later, in force earlier.
    add(&mut book, terms(3, DEFAULT, 150)).unwrap();
    for (micros, version) in
        [(99, None), (100, Some(1)), (149, Some(1)), (150, Some(3)), (199, Some(3)), (200, Some(2))]
    {
        let found = book.find(DEFAULT, "a", at(micros)).map(|priced| priced.version);
        assert_eq!(found, version.map(id), "{micros}");
    }
    // What a new version does not have is not sold any more; old bills cost what they cost.
    assert_eq!(book.find(DEFAULT, "b", at(200)), None);
    assert_eq!(book.find(OWN, "a", at(200)), None);
    let old = bill(&book.find(DEFAULT, "b", at(199)).unwrap());
    assert_eq!(old.cost(&book), Some("60".parse().unwrap()));
    assert_eq!(book.card_name(&old).map(|name| &**name), Some("b"));
    // Of two for the same instant the later number counts; withdrawn, it is never in force.
    add(&mut book, terms(4, DEFAULT, 200)).unwrap();
    assert_eq!(book.in_force(DEFAULT, at(300)).unwrap().id(), id(4));
    book.withdraw(id(4));
    assert_eq!(book.in_force(DEFAULT, at(300)).unwrap().id(), id(2));
    assert!(book.by_id(id(4)).is_some());
    assert_eq!(add(&mut book, terms(4, DEFAULT, 300)), Err(BookError::Number(id(4))));
    assert_eq!(add(&mut book, terms(5, DEFAULT, 300)), Ok(()), "chained to the withdrawn one");
}

#[test]
fn a_list_inherits_the_cards_that_it_does_not_have() {
    let mut book = PriceBook::default();
    add(&mut book, terms(1, DEFAULT, 0)).unwrap();
    let child = VersionTerms {
        parent: Some(id(1)),
        multiplier: "0.9".parse().unwrap(),
        cards: vec![("c".into(), card("1", "1")), ("a".into(), card("3", "15"))],
        ..terms(2, OWN, 0)
    };
    add(&mut book, child).unwrap();
    let find = |name| book.find(OWN, name, at(9)).unwrap();
    for (name, number, cost) in [("a", 0, "18"), ("c", 1, "2"), ("b", 3, "54")] {
        let priced = find(name);
        assert_eq!((priced.version, priced.number), (id(2), number), "{name}");
        assert_eq!(bill(&priced).cost(&book), Some(cost.parse().unwrap()), "{name}");
        let quantities = bill(&priced).quantities;
        assert_eq!(priced.card.rows()[0].rates.cost(&quantities), Some(cost.parse().unwrap()));
        assert_eq!(book.card_name(&bill(&priced)).map(|name| &**name), Some(name));
    }
    // A number between: the parent's card, though the list has one of that name.
    let hidden = Bill { card: 2, ..bill(&find("a")) };
    assert_eq!(hidden.cost(&book), Some("21.6".parse().unwrap()));
    assert_eq!(Bill { card: 4, ..hidden }.cost(&book), None);
    assert_eq!(Bill { row: 1, ..hidden }.cost(&book), None);
    assert_eq!(Bill { version: id(3), ..hidden }.cost(&book), None);
}

#[test]
fn a_version_that_does_not_follow_is_refused() {
    let mut book = PriceBook::default();
    let child = |number: u32, parent: u32| VersionTerms {
        parent: Some(id(parent)),
        ..terms(number, ListId(number), 0)
    };
    assert_eq!(
        add(&mut book, child(2, 1)),
        Err(BookError::Parent { version: id(2), parent: id(1) })
    );
    add(&mut book, terms(1, ListId(1), 0)).unwrap();
    for number in 2..=4 {
        add(&mut book, child(number, number - 1)).unwrap();
    }
    assert_eq!(add(&mut book, child(5, 4)), Err(BookError::Depth(id(5))));
    assert_eq!(add(&mut book, child(5, 5)), Err(BookError::Number(id(5))));
    assert_eq!(add(&mut book, terms(1, ListId(9), 0)), Err(BookError::Number(id(1))));
    // Made as if it were the first.
    let forged = PriceVersion::new(terms(6, ListId(1), 0), Link::START).unwrap();
    assert_eq!(book.add(Arc::new(forged)), Err(BookError::Link(id(6))));
    assert!(book.by_id(id(6)).is_none());
    let many: Vec<_> = (0..65_535).map(|n| (format!("{n:05}").into(), card("1", "1"))).collect();
    let many = VersionTerms { cards: many, ..child(7, 1) };
    assert_eq!(add(&mut book, many), Err(BookError::Cards(id(7))));
}

/// Stored documents, and digests, and so links, are these.
#[test]
fn the_document_of_a_version_never_changes() {
    let priority = CardRow {
        service: Service::Priority,
        over: 0,
        rates: Rates::NONE.with(Dim::Input, "1.5".parse().unwrap()),
    };
    let long = CardRow { service: Service::Standard, over: 200_000, ..priority };
    let rows = [card("4", "20").rows(), &[priority, long]].concat();
    let terms = VersionTerms {
        parent: Some(id(6)),
        multiplier: "0.9".parse().unwrap(),
        effective_from: at(1_797_292_800_000_001),
        cards: vec![
            ("POST /v1/\"x\"".into(), card("0", "0.000000001")),
            ("a".into(), Arc::new(Card::new(rows).unwrap())),
        ],
        ..terms(7, OWN, 0)
    };
    let version = PriceVersion::new(terms, Link::START).unwrap();
    let text = concat!(
        r#"{"id":7,"list":2,"parent":6,"multiplier":900000,"#,
        r#""effective_from":"2026-12-15T00:00:00.000001Z","cards":["#,
        r#"{"name":"POST /v1/\"x\"","rows":[{"service":"standard","over":0,"#,
        r#""rates":{"input":0,"output":1}}]},"#,
        r#"{"name":"a","rows":[{"service":"standard","over":0,"#,
        r#""rates":{"input":4000000000,"output":20000000000}},"#,
        r#"{"service":"standard","over":200000,"rates":{"input":1500000000}},"#,
        r#"{"service":"priority","over":0,"rates":{"input":1500000000}}]}]}"#,
    );
    assert_eq!(version.document(), text);
    assert_eq!(PriceVersion::read(text, Link::START), Ok(version));
}

#[test]
fn a_document_says_what_is_wrong_with_it() {
    let version = PriceVersion::new(terms(1, DEFAULT, 0), Link::START).unwrap();
    let text = version.document();
    for (from, to, error) in [
        ("{\"id\"", "{{\"id\"", "document: is no JSON"),
        (&*text, "[]", "document: must be an object"),
        ("\"id\":1,", "", "id: is missing"),
        ("\"id\":1,", "\"id\":0,", "id: must be a number from 1"),
        ("\"id\":1,", "\"id\":1.5,", "id: must be a number from 1"),
        ("null", "0", "parent: must be a number from 1, or null"),
        ("1000000,", "900000,", "multiplier: must be 1000000 without a parent"),
        ("1000000,", "0,", "multiplier: must be a number of millionths from 1"),
        ("1970-", "197-", "effective_from: must be an instant in UTC"),
        ("\"a\"", "\"\"", "cards[0].name: must be 1 to 1024 bytes without control characters"),
        ("\"a\"", "\"b\"", "cards[1].name: another card has this name"),
        ("\"standard\"", "\"slow\"", "cards[0].rows[0].service: is no service tier"),
        ("\"over\":0", "\"over\":-1", "cards[0].rows[0].over: must be a number of tokens"),
        (
            "4000000000",
            "-4",
            "cards[0].rows[0].rates.input: must be a whole number of nano-dollars, not negative",
        ),
        (
            "4000000000",
            "4e9",
            "cards[0].rows[0].rates.input: must be a whole number of nano-dollars, not negative",
        ),
        ("\"input\"", "\"inputs\"", "cards[0].rows[0].rates.inputs: is no dimension"),
        ("\"standard\"", "\"flex\"", "cards[0]: has no row of the service tier \"standard\""),
        ("\"id\":1,", "\"id\": 1,", "document: is not in canonical form"),
        ("\"id\":1,", "\"id\":1,\"more\":1,", "document: is not in canonical form"),
        ("\"id\":1,\"list\":1,", "\"list\":1,\"id\":1,", "document: is not in canonical form"),
        ("000000Z", "000000+00:00", "document: is not in canonical form"),
    ] {
        assert!(text.contains(from), "{from}");
        let other = text.replacen(from, to, 1);
        let found = PriceVersion::read(&other, Link::START).map_err(|error| error.to_string());
        assert_eq!(found, Err(error.to_owned()), "{other}");
    }
    let error = VersionError::new("cards[0]", VersionProblem::Card(CardError::NoStandard));
    assert_eq!(error.to_string(), "cards[0]: has no row of the service tier \"standard\"");
}

#[test]
fn a_link_ties_a_version_to_all_before_it() {
    let make =
        |effective, before| PriceVersion::new(terms(1, DEFAULT, effective), before).unwrap().link();
    let (one, other) = (make(1, Link::START), make(2, Link::START));
    assert_ne!(one, other);
    assert_ne!(make(3, one), make(3, other));
}
