//! Calls priced by the card of their model: what they are billed for is within what was bounded.

use proptest::prelude::*;

use super::*;
use crate::card::{Card, CardRow, Service};
use crate::dim::{DimSet, Side};
use crate::price_book::Priced;
use crate::rates::{Rates, UnitPrice};
use crate::tally::{Evidence, Heard, Reported};
use crate::usage::Tally;
use crate::{Convention, Counted, ProviderUsage, VersionId};

/// Dollars for a million tokens.
fn rates(prices: &[(Dim, &str)]) -> Rates {
    let price = |text: &str| text.parse::<UnitPrice>().unwrap();
    prices.iter().fold(Rates::NONE, |rates, (dim, text)| rates.with(*dim, price(text)))
}

fn row(service: Service, over: u64, prices: &[(Dim, &str)]) -> CardRow {
    CardRow { service, over, rates: rates(prices) }
}

fn priced(rows: Vec<CardRow>) -> Priced {
    let card = Arc::new(Card::new(rows).unwrap());
    Priced { version: VersionId::FIRST, number: 3, card }
}

/// A model with a cache, a tier over 200,000 tokens and a price of the request.
fn claude() -> Priced {
    let (input, output) = (Dim::Input, Dim::Output);
    let (read, write, hour) = (Dim::CacheRead, Dim::CacheWrite, Dim::CacheWrite1h);
    let prices = [(input, "3"), (output, "15"), (read, "0.3"), (write, "3.75"), (hour, "6")];
    let long = [(input, "6"), (output, "22.5"), (read, "0.6"), (write, "7.5"), (hour, "12")];
    let request = (Dim::Request, "0.001");
    let with = |prices: &[(Dim, &'static str)]| [prices, &[request]].concat();
    priced(vec![
        row(Service::Standard, 0, &with(&prices)),
        row(Service::Standard, 200_000, &with(&long)),
        row(Service::Priority, 0, &[(input, "9"), (output, "40")]),
    ])
}

fn standard(priced: Priced) -> ModelPricing {
    ModelPricing::new(priced, Service::Standard, DimSet::EMPTY, 0).unwrap()
}

const ASKED: Demand = Demand {
    prompt_tokens_max: 20_000,
    completion_tokens_max: 1_000,
    choices: 1,
    start_tokens: 10,
    first_tokens: 100,
    context_tokens: 400_000,
    is_counted: true,
};

fn end(usage: &ProviderUsage, by: Convention) -> CallEnd {
    let told = ToldParts::new(usage, by, None);
    CallEnd {
        evidence: Evidence {
            reported: Reported::Given(told.tokens()),
            counted: TokenUsage::default(),
            heard: Heard::ToItsEnd,
            may_hide: false,
        },
        told,
        limit: ASKED.completion_tokens_max,
        is_delivered: true,
        held: Credits::MAX,
    }
}

fn nanos(text: &str) -> Credits {
    text.parse().unwrap()
}

#[test]
fn a_call_costs_what_its_parts_cost_in_the_row_of_its_whole_prompt() {
    let model = standard(claude());
    let usage = ProviderUsage {
        input: Some(812),
        cache_read: Some(150_000),
        cache_write: Some(9_000),
        cache_write_1h: Some(4_000),
        output: Some(431),
        ..ProviderUsage::default()
    };
    let billed = model.settle(&ASKED, &end(&usage, Convention::ANTHROPIC));
    // 812 x 3 + 150,000 x 0.3 + 5,000 x 3.75 + 4,000 x 6 + 431 x 15, in millionths.
    let cost =
        nanos("0.001").nanos() + 2_436_000 + 45_000_000 + 18_750_000 + 24_000_000 + 6_465_000;
    assert_eq!((billed.row, billed.whole.nanos(), billed.cost), (0, cost, billed.whole));
    assert_eq!((billed.flags, billed.tally), (Flags::NONE, Tally::Reported));
    assert_eq!(billed.tokens, TokenUsage::new(159_812, 431));
    // With 50,000 more that were written to the cache the whole prompt is over 200,000 tokens.
    let longer = ProviderUsage { cache_write: Some(59_000), ..usage };
    assert_eq!(model.settle(&ASKED, &end(&longer, Convention::ANTHROPIC)).row, 1);
    // The tier that has served is billed if it may serve, and else the one that was asked for.
    let served = |model: &ModelPricing| {
        let mut end = end(&usage, Convention::ANTHROPIC);
        end.told.served = Some(Service::Priority);
        model.settle(&ASKED, &end).row
    };
    let any = ModelPricing::of_any_service(claude(), DimSet::EMPTY, 0);
    let asked = ModelPricing::new(claude(), Service::Priority, DimSet::EMPTY, 0).unwrap();
    assert_eq!((served(&model), served(&any), served(&asked)), (0, 2, 2));
    assert_eq!(asked.settle(&ASKED, &end(&usage, Convention::ANTHROPIC)).row, 2);
    assert_eq!(ModelPricing::new(claude(), Service::Flex, DimSet::EMPTY, 0), None);
}

#[test]
fn what_cannot_be_true_is_cut_back_and_no_cheaper_than_plain() {
    let model = standard(claude());
    let usage = |input: u64, read: u64, hour: u64, output: u64| ProviderUsage {
        input: Some(input),
        cache_read: Some(read),
        cache_write_1h: Some(hour),
        output: Some(output),
        ..ProviderUsage::default()
    };
    let settle = |usage| model.settle(&ASKED, &end(&usage, Convention::ANTHROPIC));
    // The window has 400,000 tokens.
    let billed = settle(usage(0, 500_000, 100_000, 1));
    let parts: Vec<_> = billed.quantities.parts().collect();
    let expected =
        [(Dim::Input, 300_000), (Dim::CacheWrite1h, 100_000), (Dim::Output, 1), (Dim::Request, 1)];
    assert_eq!((parts.as_slice(), billed.flags), (&expected[..], Flags::ODD));
    // The upstream was told 1,000 tokens.
    let billed = settle(usage(1, 0, 0, 1_064));
    assert_eq!((billed.quantities.of(Dim::Output), billed.flags), (1_064, Flags::NONE));
    let billed = settle(usage(1, 0, 0, 1_065));
    assert_eq!((billed.quantities.of(Dim::Output), billed.flags), (1_064, Flags::ODD));
}

#[test]
fn what_is_not_told_is_counted_and_a_told_prompt_keeps_its_parts() {
    let model = standard(claude());
    let told =
        ProviderUsage { input: Some(10), cache_read: Some(9_000), ..ProviderUsage::default() };
    let told = ToldParts::new(&told, Convention::ANTHROPIC, None);
    let earned = model.earned(&ASKED, TokenUsage::new(9_010, 50), told);
    let expected =
        [(Dim::Input, 10), (Dim::CacheRead, 9_000), (Dim::Output, 50), (Dim::Request, 1)];
    assert_eq!(earned.quantities, expected.into_iter().collect());
    assert_eq!(earned.flags, Flags::COUNTED.and(Flags::EARLY));
    // Nothing was told.
    let untold = ToldParts::default();
    let earned = model.earned(&ASKED, TokenUsage::new(9_010, 50), untold);
    let expected = [(Dim::Input, 9_010), (Dim::Output, 50), (Dim::Request, 1)];
    assert_eq!(earned.quantities, expected.into_iter().collect());
    // What the upstream was told bounds what was counted, twice if it was delivered.
    let missing = |is_delivered| {
        let usage = ProviderUsage::default();
        let mut end = CallEnd { is_delivered, ..end(&usage, Convention::OPENAI) };
        end.evidence.reported = Reported::Missing;
        end.evidence.counted = TokenUsage::new(9, 5_000);
        model.settle(&ASKED, &end).tokens
    };
    assert_eq!(missing(true), TokenUsage::new(9, 2_064));
    assert_eq!(missing(false), TokenUsage::new(9, 1_000));
}

#[test]
fn nobody_knows_what_was_thought_unseen_so_all_that_is_held_is_paid() {
    let model = standard(claude());
    let held = |held: &str, counted: u64| {
        let mut end = end(&ProviderUsage::default(), Convention::OPENAI);
        end.held = nanos(held);
        end.evidence = Evidence {
            reported: Reported::Missing,
            counted: TokenUsage::new(1_000, counted),
            heard: Heard::UntilCancelled,
            may_hide: true,
        };
        model.settle(&ASKED, &end)
    };
    // 0.001 and 0.003 for the prompt, 0.000015 a token.
    let exact = held("0.0190", 1);
    assert_eq!((exact.cost, exact.whole), (nanos("0.0190"), nanos("0.0190")));
    assert_eq!(exact.quantities.of(Dim::Output), 1_000);
    let uneven = held("0.019001", 1);
    assert_eq!((uneven.cost, uneven.whole), (nanos("0.019001"), nanos("0.019015")));
    assert_eq!(uneven.tokens, TokenUsage::new(1_000, 1));
    // What was seen costs more already.
    assert_eq!(held("0.0041", 100).cost, nanos("0.0055"));
}

#[test]
fn a_part_without_a_price_is_told_and_takes_no_more_than_is_held() {
    let model = standard(claude());
    let usage = ProviderUsage {
        input: Some(1_000),
        output: Some(100),
        web_searches: Some(3),
        ..ProviderUsage::default()
    };
    let held = nanos("0.0050");
    let billed = model.settle(&ASKED, &CallEnd { held, ..end(&usage, Convention::OPENAI) });
    assert_eq!(billed.unpriced.dims().collect::<Vec<_>>(), [Dim::WebSearch]);
    assert_eq!((billed.cost, billed.whole), (held, nanos("0.0055")));
    assert!(billed.flags.has(Flags::ODD));
    // With a price it is paid.
    let search = rates(&[(Dim::Input, "3"), (Dim::Output, "15"), (Dim::WebSearch, "0.01")]);
    let card = CardRow { service: Service::Standard, over: 0, rates: search };
    let billed = standard(priced(vec![card])).settle(&ASKED, &end(&usage, Convention::OPENAI));
    assert_eq!((billed.cost, billed.flags), (nanos("0.0345"), Flags::NONE));
}

#[test]
fn what_is_paid_is_on_record_of_what_was_counted() {
    let model = standard(claude());
    let earned = model.earned(&ASKED, TokenUsage::new(1_000, 200), ToldParts::default());
    assert_eq!(model.paid(&earned, earned.whole), TokenUsage::new(1_000, 200));
    assert_eq!(model.paid(&earned, nanos("0.0055")), TokenUsage::new(1_000, 100));
    assert_eq!(model.paid(&earned, nanos("0.0001")), TokenUsage::new(1_000, 0));
}

#[test]
fn what_the_request_rules_out_is_not_held_for() {
    let most = |ruled_out| {
        let model = ModelPricing::new(claude(), Service::Standard, ruled_out, 0).unwrap();
        model.bounds(ASKED).unwrap()
    };
    let hour = DimSet::EMPTY.with(Dim::CacheWrite1h).with(Dim::CacheWrite12h);
    // 20,000 tokens at 6, 3.75 and 3, and 1,000 at 15.
    assert_eq!(most(DimSet::EMPTY).most, nanos("0.1360"));
    assert_eq!(most(hour.without(Dim::CacheWrite12h)).most, nanos("0.1360"));
    assert_eq!(most(hour).most, nanos("0.0910"));
    let bounds = most(hour.with(Dim::CacheWrite));
    assert_eq!(bounds.most, nanos("0.0760"));
    assert_eq!((bounds.least, bounds.start), (nanos("0.001"), nanos("0.06115")));
    assert_eq!(bounds.first, nanos("0.0625"));
}

#[test]
fn what_has_a_price_of_its_own_is_told_from_what_has_its_parents() {
    let model = standard(claude());
    assert!(model.names(Dim::CacheWrite1h) && !model.names(Dim::CacheWrite12h));
    // One of the rows that may price the call has none.
    let priority = ModelPricing::new(claude(), Service::Priority, DimSet::EMPTY, 0).unwrap();
    assert!(!priority.names(Dim::CacheWrite1h) && priority.may_name(Dim::CacheWrite1h));
    let prices = [(Dim::Input, "3"), (Dim::Output, "15"), (Dim::OutputImage, "60")];
    let image = priced(vec![row(Service::Standard, 0, &prices)]);
    let draws = |priced: &Priced, ruled_out| {
        ModelPricing::new(priced.clone(), Service::Standard, ruled_out, 0).unwrap().draws()
    };
    assert!(draws(&image, DimSet::EMPTY) && !draws(&claude(), DimSet::EMPTY));
    assert!(!draws(&image, DimSet::EMPTY.with(Dim::OutputImage)));
}

#[test]
fn searches_that_may_be_made_are_held_for() {
    let search = [(Dim::Input, "3"), (Dim::Output, "15"), (Dim::WebSearch, "0.01")];
    let model = standard(priced(vec![row(Service::Standard, 0, &search)]));
    let bounds = |model: &ModelPricing| model.bounds(ASKED).unwrap();
    let three = model.clone().with_searches(3);
    assert_eq!(three.searches(), 3);
    // 20,000 tokens at 3, and 10 and 1,000 at 15.
    assert_eq!(bounds(&model).start, nanos("0.06015"));
    assert_eq!((bounds(&three).start, bounds(&three).most), (nanos("0.09015"), nanos("0.1050")));
    assert_eq!((bounds(&model).least, bounds(&three).least), (nanos("0"), nanos("0")));
    assert_eq!(three.tokens_within(nanos("0.1050"), ASKED), 1_000);
    // Without a price of them nothing bounds the cost.
    assert!(!standard(claude()).with_searches(1).is_sold(&ASKED));
}

#[test]
fn a_model_whose_card_misses_what_a_request_needs_is_not_sold() {
    let sold = |prices: &[(Dim, &str)], completion| {
        let model = standard(priced(vec![row(Service::Standard, 0, prices)]));
        model.is_sold(&Demand { completion_tokens_max: completion, ..ASKED })
    };
    assert!(sold(&[(Dim::Input, "1")], 0));
    assert!(!sold(&[(Dim::Input, "1")], 1));
    assert!(!sold(&[(Dim::Output, "1")], 1));
    assert!(!sold(&[(Dim::Request, "1")], 0));
    assert!(sold(&[(Dim::Input, "0"), (Dim::Output, "0")], 1));
}

#[test]
fn a_service_tier_that_the_card_does_not_have_has_no_price() {
    let card = || priced(vec![row(Service::Standard, 0, &[(Dim::Input, "1")])]);
    let asked = |service| ModelPricing::new(card(), service, DimSet::EMPTY, 0);
    assert!(asked(Service::Standard).is_some());
    assert_eq!(asked(Service::Flex), None);
}

fn price() -> impl Strategy<Value = UnitPrice> {
    let nanos = prop_oneof![Just(0_i64), 0..1_000_i64, 0..100_000_000_000_i64];
    nanos.prop_map(|nanos| UnitPrice::from_nanos(nanos).unwrap())
}

fn any_row(service: Service, over: u64) -> impl Strategy<Value = CardRow> {
    let more = proptest::collection::vec((proptest::sample::select(&Dim::ALL[..]), price()), 0..8);
    (price(), price(), more).prop_map(move |(input, output, more)| {
        let rates = Rates::NONE.with(Dim::Input, input).with(Dim::Output, output);
        let rates = more.into_iter().fold(rates, |rates, (dim, price)| rates.with(dim, price));
        CardRow { service, over, rates }
    })
}

fn any_card() -> impl Strategy<Value = Priced> {
    let rows = (
        any_row(Service::Standard, 0),
        any_row(Service::Standard, 1_000),
        any_row(Service::Standard, 50_000),
        any_row(Service::Priority, 0),
    );
    rows.prop_map(|(a, b, c, d)| priced(vec![a, b, c, d]))
}

fn any_demand() -> impl Strategy<Value = Demand> {
    let tokens = || prop_oneof![0..200_u64, 0..100_000_u64];
    (tokens(), tokens(), 1..4_u64, tokens(), tokens(), tokens(), any::<bool>()).prop_map(
        |(prompt, completion, choices, start, first, context, is_counted)| Demand {
            prompt_tokens_max: prompt,
            completion_tokens_max: completion,
            choices,
            start_tokens: start,
            first_tokens: first,
            context_tokens: context.max(prompt),
            is_counted,
        },
    )
}

fn any_convention() -> impl Strategy<Value = Convention> {
    proptest::sample::select(&Convention::ALL[..])
}

/// A usage in which everything is told.
fn any_usage(tokens: u64) -> impl Strategy<Value = ProviderUsage> {
    proptest::collection::vec(proptest::option::of(0..=tokens), 12).prop_map(|of| ProviderUsage {
        input: Some(of[0].unwrap_or(0)),
        output: Some(of[1].unwrap_or(0)),
        total: of[2],
        cache_read: of[3],
        cache_write: of[4],
        cache_write_5m: of[5],
        cache_write_1h: of[6],
        input_audio: of[7],
        input_image: of[8],
        thoughts: of[9],
        output_audio: of[10],
        tool_input: of[11],
        ..ProviderUsage::default()
    })
}

proptest! {
    /// No usage within what a request may use costs more than its bound, whatever the row.
    #[test]
    fn a_bill_is_within_the_bound(
        card in any_card(),
        demand in any_demand(),
        usage in any_usage(5_000),
        by in any_convention(),
        service in proptest::option::of(proptest::sample::select(&Service::ALL[..])),
        thinking in 0..500_u64,
    ) {
        let model = ModelPricing::of_any_service(card, DimSet::EMPTY, thinking);
        let bounds = model.bounds(demand).unwrap();
        prop_assert!(bounds.least <= bounds.start && bounds.start <= bounds.first);
        prop_assert!(bounds.first <= bounds.most);
        let mut end = end(&usage, by);
        end.told.served = service;
        end.limit = demand.completion_tokens_max;
        let billed = model.settle(&demand, &end);
        let allowed = (end.limit + thinking) * demand.choices;
        let is_within = billed.tokens.prompt <= demand.prompt_tokens_max
            && billed.tokens.completion <= allowed
            && demand.completion_tokens_max > 0;
        if is_within {
            prop_assert!(billed.whole <= bounds.most, "{billed:?} {bounds:?}");
        }
        // It is the cost of what it says.
        let bill = model.bill(&billed);
        let row = model.priced().card.numbered(bill.row).unwrap();
        prop_assert_eq!(row.rates.cost(&bill.quantities), Some(billed.whole));
        prop_assert_eq!(billed.quantities.sum(Side::In), billed.tokens.prompt);
    }

    /// What is held pays for the tokens that the upstream is told, and for none more.
    #[test]
    fn what_is_told_is_what_is_held_for(
        card in any_card(),
        demand in any_demand(),
        held in 0..10_000_000_000_i64,
    ) {
        let model = Pricing::Model(Box::new(standard(card)));
        let held = Credits::from_nanos(held);
        let within = model.tokens_within(held, demand);
        let cost = |tokens| model.cost_with(demand, tokens);
        if cost(0).unwrap() <= held {
            prop_assert!(within > 1 << 40 || cost(within).unwrap() <= held);
            prop_assert!(within > 1 << 40 || cost(within + 1).unwrap() > held);
        } else {
            prop_assert_eq!(within, 0);
        }
        let of_each = model.completion_tokens_within(held, demand);
        prop_assert!(of_each <= demand.completion_tokens_max);
        prop_assert!(of_each * demand.choices <= within);
    }

    /// A provider that tells more never makes a bill smaller.
    #[test]
    fn a_larger_report_never_costs_less(
        input in price(),
        dear in price(),
        cheap in price(),
        output in price(),
        demand in any_demand(),
        smaller in any_usage(200_000),
        more in any_usage(200_000),
        by in any_convention(),
    ) {
        // One row, and of each side one part dearer than plain tokens and one cheaper.
        let (low, mid) = (input.min(dear).min(cheap), input.max(dear.min(cheap)));
        let high = input.max(dear).max(cheap);
        let flat = Rates::NONE
            .with(Dim::Input, mid)
            .with(Dim::CacheRead, low)
            .with(Dim::CacheWrite, high)
            .with(Dim::Output, output);
        let model = standard(priced(vec![CardRow {
            service: Service::Standard, over: 0, rates: flat,
        }]));
        // ToldParts parts that are larger than their whole are odd; here they are of the whole.
        let whole = |usage: ProviderUsage| ProviderUsage {
            input: Some(usage.input.unwrap_or(0)),
            cache_read: usage.cache_read,
            cache_write: usage.cache_write,
            output: usage.output,
            ..ProviderUsage::default()
        };
        let (smaller, more) = (whole(smaller), whole(more));
        let add = |a: Option<u64>, b: Option<u64>| Some(a.unwrap_or(0) + b.unwrap_or(0));
        let larger = ProviderUsage {
            input: add(smaller.input, more.input),
            cache_read: add(smaller.cache_read, more.cache_read),
            cache_write: add(smaller.cache_write, more.cache_write),
            output: add(smaller.output, more.output),
            ..ProviderUsage::default()
        };
        // Within a prompt more cached tokens are fewer plain ones.
        let by = Convention { cache: Counted::Beside, ..by };
        let cost = |usage| model.settle(&demand, &end(&usage, by)).whole;
        prop_assert!(cost(smaller) <= cost(larger), "{smaller:?} {larger:?}");
    }
}
