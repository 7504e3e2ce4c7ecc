//! Any prices, cards and quantities.

use std::collections::BTreeSet;

use domain::{
    Bill, Card, CardRow, Convention, Dim, DimSet, Envelope, Flags, Multiplier, Quantities, Rates,
    Service, ServiceSet, Side, UnitPrice, VersionId,
};
use proptest::array::{uniform5, uniform24};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub(crate) fn price() -> impl Strategy<Value = UnitPrice> {
    // Up to 200 dollars, and a few that round in another way than they look.
    prop_oneof![0..200_000_000_000_i64, 0..20_i64]
        .prop_map(|nanos| UnitPrice::from_nanos(nanos).unwrap())
}

pub(crate) fn multiplier() -> impl Strategy<Value = Multiplier> {
    prop_oneof![1..5_000_000_u32, Just(1_000_000)]
        .prop_map(|millionths| Multiplier::from_millionths(millionths).unwrap())
}

/// Prices of tokens of both sides at least, so that every token has a price.
pub(crate) fn rates() -> impl Strategy<Value = Rates> {
    (uniform24(option::of(price())), price(), price()).prop_map(|(prices, input, output)| {
        let named = Dim::ALL.into_iter().zip(prices);
        let named: Rates = named.filter_map(|(dim, price)| Some((dim, price?))).collect();
        named.with(Dim::Input, input).with(Dim::Output, output)
    })
}

/// Each number of `0..below`, about as often as its order of magnitude.
pub(crate) fn number(bits: u32) -> impl Strategy<Value = u64> {
    (0..=bits, any::<u64>()).prop_map(|(width, number)| match width {
        0 => 0,
        width => number >> (64 - width),
    })
}

pub(crate) fn quantities(bits: u32) -> impl Strategy<Value = Quantities> {
    uniform24(prop_oneof![Just(0), number(bits)])
        .prop_map(|numbers| Dim::ALL.into_iter().zip(numbers).collect())
}

const THRESHOLDS: std::ops::Range<u64> = 1..600_000;

/// A card of the service tier standard and perhaps others, with perhaps some thresholds each.
pub(crate) fn card() -> impl Strategy<Value = Card> {
    let tiers = vec((vec((THRESHOLDS, rates()), 0..3), rates(), any::<bool>()), 3);
    tiers.prop_map(|tiers| {
        let services = [Service::Standard, Service::Priority, Service::Flex];
        let mut rows = Vec::new();
        for (service, (others, rates, is_sold)) in services.into_iter().zip(tiers) {
            if service == Service::Standard || is_sold {
                rows.push(CardRow { service, over: 0, rates });
                let mut seen = BTreeSet::new();
                let others = others.into_iter().filter(|(over, _)| seen.insert(*over));
                rows.extend(others.map(|(over, rates)| CardRow { service, over, rates }));
            }
        }
        Card::new(rows).unwrap()
    })
}

pub(crate) fn envelope() -> impl Strategy<Value = Envelope> {
    let may = uniform24(any::<bool>()).prop_map(|may| {
        let tokens = Dim::ALL.into_iter().zip(may).filter(|(_, may)| *may).map(|(dim, _)| dim);
        let tokens: DimSet = tokens.filter(|dim| dim.side() != Side::Beside).collect();
        tokens.with(Dim::Input).with(Dim::Output)
    });
    let services = uniform5(any::<bool>()).prop_map(|may| {
        let may = Service::ALL.into_iter().zip(may).filter(|(_, may)| *may);
        may.map(|(service, _)| service).collect::<ServiceSet>().with(Service::Standard)
    });
    (0..700_000_u64, 0..200_000_u64, may, services).prop_map(|(input, output, may, services)| {
        let beside = Quantities::NONE.with(Dim::Request, 1);
        Envelope { input, output, may, beside, services }
    })
}

/// A usage within the envelope: of each dimension the share of what is left.
pub(crate) fn within(envelope: &Envelope, shares: [u32; 24], totals: [u32; 2]) -> Quantities {
    let share = |of: u64, share: u32| of * u64::from(share) / u64::from(u32::MAX);
    let mut left = [share(envelope.input, totals[0]), share(envelope.output, totals[1])];
    let mut quantities = envelope.beside;
    for (dim, part) in
        Dim::ALL.into_iter().zip(shares).filter(|(dim, _)| envelope.may.contains(*dim))
    {
        let left = match dim.side() {
            Side::In => &mut left[0],
            Side::Out => &mut left[1],
            Side::Beside => continue,
        };
        let quantity = share(*left, part);
        *left -= quantity;
        quantities = quantities.with(dim, quantity);
    }
    // What is left is of the last one.
    quantities
        .with(Dim::Output, quantities.of(Dim::Output) + left[1])
        .with(Dim::Input, quantities.of(Dim::Input) + left[0])
}

pub(crate) fn bill() -> impl Strategy<Value = Bill> {
    let head = (number(32), number(16), any::<u8>(), 0..4_usize, 0..16_u8);
    (head, quantities(64)).prop_map(|((version, card, row, convention, flags), quantities)| {
        let all = [Flags::CLAMPED, Flags::COUNTED, Flags::ODD, Flags::EARLY];
        let flags = all
            .into_iter()
            .enumerate()
            .fold(Flags::NONE, |all, (place, flag)| all.and_if(flags >> place & 1 == 1, flag));
        Bill {
            version: VersionId::new(u32::try_from(version).unwrap().max(1)).unwrap(),
            card: u16::try_from(card).unwrap(),
            row,
            convention: Convention::ALL[convention],
            flags,
            quantities,
        }
    })
}
