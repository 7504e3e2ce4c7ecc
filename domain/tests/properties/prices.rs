//! Prices by dimension: bounds that hold, sums that are exact, bills of one form.

use std::collections::BTreeMap;

use domain::dim::SCALE;
use domain::pricing::{PriceRule, RouteClass};
use domain::{
    Bill, Card, Credits, Dim, DimSet, Envelope, Quantities, Rates, Service, ServiceSet, Side,
    TokenPrice, UnitPrice,
};
use proptest::array::{uniform2, uniform24};
use proptest::prelude::*;

use crate::config;
use crate::some::{bill, card, envelope, multiplier, number, price, quantities, rates, within};

/// The exact cost, as whole nano-dollars and what is left of each over the dimension's `per`.
/// `None` if it does not fit into [`Credits`].
fn reference(rates: &Rates, quantities: &Quantities) -> Option<i64> {
    let (mut whole, mut left) = (0_u128, 0_u128);
    for (dim, quantity) in quantities.parts() {
        let price = u128::try_from(rates.price(dim)?.nanos()).unwrap();
        let (exact, per) = (price * u128::from(quantity), u128::from(dim.per()));
        whole = whole.checked_add(exact / per)?;
        left += (exact % per) * (u128::try_from(SCALE).unwrap() / per);
    }
    let scale = u128::try_from(SCALE).unwrap();
    i64::try_from(whole.checked_add((left + scale / 2) / scale)?).ok()
}

/// The rows that may price a call of so long a prompt, and the service tiers of the envelope.
fn rows<'a>(card: &'a Card, envelope: &Envelope, input: u64) -> Vec<&'a domain::CardRow> {
    let services = Service::ALL.into_iter().filter(|tier| envelope.services.contains(*tier));
    services.filter_map(|service| Some(card.row(service, input)?.1)).collect()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_call_costs_more_than_its_bound(
        card in card(), envelope in envelope(), minutes in number(24),
        shares in uniform24(any::<u32>()), totals in uniform2(any::<u32>()),
    ) {
        let beside = envelope.beside.with(Dim::Character, minutes);
        let envelope = Envelope { beside, ..envelope };
        let usage = within(&envelope, shares, totals);
        // Characters may have no price, and then there is no bound.
        let Some(bound) = card.bound(&envelope) else { return Ok(()) };
        for row in rows(&card, &envelope, usage.sum(Side::In)) {
            prop_assert!(row.rates.cost(&usage).unwrap() <= bound);
        }
    }

    #[test]
    fn some_call_costs_its_bound(card in card(), envelope in envelope()) {
        let bound = card.bound(&envelope).unwrap();
        let thresholds = card.rows().iter().map(|row| row.over).chain([envelope.input]);
        let longest = thresholds.filter(|input| *input <= envelope.input);
        let costs = longest.flat_map(|input| {
            rows(&card, &envelope, input).into_iter().map(move |row| {
                let most = |side| {
                    let of_side = envelope.may.dims().filter(|dim| dim.side() == side);
                    of_side.max_by_key(|dim| row.rates.price(*dim)).unwrap()
                };
                let usage = envelope.beside.with(most(Side::In), input);
                row.rates.cost(&usage.with(most(Side::Out), envelope.output)).unwrap()
            })
        });
        prop_assert_eq!(costs.max(), Some(bound));
    }

    #[test]
    fn the_output_within_is_the_most_that_fits(
        rates in rates(), envelope in envelope(), input in number(20), held in 0..1_i64 << 40,
    ) {
        let held = Credits::from_nanos(held);
        let fixed = envelope.beside.with(Dim::Input, input);
        let out = |dim: &Dim| dim.side() == Side::Out;
        let most = envelope.may.dims().filter(out).max_by_key(|dim| rates.price(*dim)).unwrap();
        let cost = |tokens| rates.cost(&fixed.with(most, tokens));
        match rates.output_within(held, &fixed, envelope.may) {
            None => prop_assert!(cost(0).unwrap() > held),
            Some(u64::MAX) => prop_assert_eq!(rates.price(most), Some(UnitPrice::ZERO)),
            Some(tokens) => {
                prop_assert!(cost(tokens).unwrap() <= held);
                prop_assert!(cost(tokens + 1).unwrap() > held);
            }
        }
    }

    #[test]
    fn the_output_within_a_card_is_the_most_that_its_bound_allows(
        card in card(), envelope in envelope(), held in 0..1_i64 << 38,
    ) {
        let held = Credits::from_nanos(held);
        let bound = |output| card.bound(&Envelope { output, ..envelope });
        match card.output_within(held, &envelope) {
            None => prop_assert!(bound(0).unwrap() > held),
            Some(u64::MAX) => prop_assert_eq!(bound(1 << 40), bound(0)),
            Some(tokens) => {
                prop_assert!(bound(tokens).unwrap() <= held);
                prop_assert!(bound(tokens + 1).unwrap() > held);
            }
        }
    }

    #[test]
    fn a_bill_reads_back_from_its_bytes(bill in bill()) {
        let bytes = bill.bytes();
        prop_assert_eq!(Bill::read(&bytes), Some(bill));
        prop_assert!(bytes.len() <= Bill::BYTES_MAX);
    }

    #[test]
    fn a_bill_has_one_form(
        bill in bill(), place: prop::sample::Index, byte: u8, kind in 0..4, any: Vec<u8>,
    ) {
        let mut bytes = bill.bytes();
        let at = place.index(bytes.len());
        match kind {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            2 => {
                bytes.remove(at);
            }
            _ => bytes.splice(at.., any).for_each(drop),
        }
        if let Some(other) = Bill::read(&bytes) {
            prop_assert_eq!(other.bytes(), bytes);
        }
    }

    #[test]
    fn more_costs_more_within_a_row(
        rates in rates(), quantities in quantities(30), dim in 0..24_usize, more in number(30),
    ) {
        let dim = Dim::ALL[dim];
        let Some(cost) = rates.cost(&quantities) else { return Ok(()) };
        let Some(price) = rates.price(dim) else { return Ok(()) };
        // A sum that does not fit is more, too.
        if let Some(dearer) = rates.cost(&quantities.with(dim, quantities.of(dim) + more)) {
            prop_assert!(cost <= dearer);
            let is_more = price > UnitPrice::ZERO && more >= u64::from(dim.per());
            prop_assert!(!is_more || cost < dearer);
        }
    }

    /// A customer who computes with the prices that he is shown gets what he pays.
    #[test]
    fn the_prices_shown_are_the_prices_paid(
        rates in rates(), quantities in quantities(24), multiplier in multiplier(),
    ) {
        let paid = rates.times(multiplier).unwrap();
        let shown: Vec<(Dim, String)> =
            paid.named().map(|(dim, price)| (dim, price.to_string())).collect();
        let shown: Rates =
            shown.iter().map(|(dim, text)| (*dim, text.parse().unwrap())).collect();
        prop_assert_eq!(shown, paid);
        prop_assert_eq!(shown.cost(&quantities), paid.cost(&quantities));
        for (dim, price) in rates.named() {
            let exact = i128::from(price.nanos()) * i128::from(multiplier.millionths());
            let twice = i128::from(paid.price(dim).unwrap().nanos()) * 2_000_000 - 2 * exact;
            prop_assert!((-999_999..=1_000_000).contains(&twice), "half up: {}", twice);
        }
    }

    #[test]
    fn a_cost_is_exact_or_none(
        rates in rates(), highest in uniform24(any::<bool>()), quantities in quantities(63),
        small in quantities(20), is_small: bool,
    ) {
        let most = UnitPrice::from_nanos(i64::MAX).unwrap();
        let any = Dim::ALL.into_iter().zip(highest).filter(|(_, highest)| *highest && !is_small);
        let rates = any.fold(rates, |rates, (dim, _)| rates.with(dim, most));
        let quantities = if is_small { small } else { quantities };
        let cost = rates.cost(&quantities).map(Credits::nanos);
        prop_assert_eq!(cost, reference(&rates, &quantities));
    }

    #[test]
    fn a_price_does_not_depend_on_the_order_of_naming(
        rates in rates(), other in rates(), dim in 0..24_usize, price in price(),
    ) {
        let backwards: Vec<_> = rates.named().collect();
        prop_assert_eq!(backwards.into_iter().rev().collect::<Rates>(), rates);
        // What one names binds, and the rest is as it was.
        let both = rates.overridden_by(&other);
        for (dim, price) in other.named() {
            prop_assert_eq!(both.price(dim), Some(price));
        }
        prop_assert_eq!(both.overridden_by(&other), both);
        let dim = Dim::ALL[dim];
        prop_assert_eq!(rates.with(dim, price).price(dim), Some(price));
    }

    /// What a route costs today, it costs as a card.
    #[test]
    fn a_rule_and_its_card_cost_the_same(
        price in token_price(), base in number(40), prompt in number(40), completion in number(40),
        ceiling in 0..1_i64 << 50, is_fixed: bool,
    ) {
        let base = Credits::from_nanos(i64::try_from(base).unwrap());
        let rule = rule(base, (!is_fixed).then_some(price));
        let card = rule.card().unwrap();
        let rates = card.numbered(0).unwrap().rates;
        let used = Quantities::NONE.with(Dim::Request, 1);
        if is_fixed {
            prop_assert_eq!(rates.cost(&used), rule.cost(prompt));
            return Ok(());
        }
        let used = used.with(Dim::Input, prompt);
        let all = used.with(Dim::Output, completion);
        prop_assert_eq!(rates.cost(&all), rule.cost(prompt + completion));
        prop_assert_eq!(rates.cost(&all), price.cost(base, prompt + completion));

        let (ceiling, may) = (Credits::from_nanos(ceiling), DimSet::EMPTY.with(Dim::Output));
        let request = Quantities::NONE.with(Dim::Request, 1);
        prop_assert_eq!(
            rates.output_within(ceiling, &request, may),
            price.tokens_within(base, ceiling)
        );
        let within = price.tokens_within(base, ceiling);
        let is_endless = within == Some(u64::MAX);
        let after = within.and_then(|all| all.checked_sub(prompt));
        prop_assert!(is_endless || rates.output_within(ceiling, &used, may) == after);

        let envelope = Envelope {
            input: prompt,
            output: completion,
            may: may.with(Dim::Input),
            beside: request,
            services: ServiceSet::EMPTY.with(Service::Standard),
        };
        prop_assert_eq!(card.bound(&envelope), rule.cost(prompt + completion));
    }
}

fn token_price() -> impl Strategy<Value = TokenPrice> {
    number(44).prop_map(|femtos| {
        let (whole, fraction) = (femtos / 1_000_000_000_000_000, femtos % 1_000_000_000_000_000);
        format!("{whole}.{fraction:015}").parse().unwrap()
    })
}

fn rule(base: Credits, per_token: Option<TokenPrice>) -> PriceRule {
    PriceRule {
        method: Some("POST".into()),
        path: "/v1/responses".into(),
        class: RouteClass::Generation,
        card_number: 0,
        base,
        per_token,
        default_max_tokens: 0,
        default_max_tokens_of: BTreeMap::new(),
        context_tokens: 0,
        context_tokens_of: BTreeMap::new(),
        sells: Vec::new(),
    }
}
