//! The rules of money by themselves: what a charge costs before any thread, socket or database.
//!
//! `cargo bench -p domain`
#![expect(clippy::unwrap_used, reason = "a measurement that fails by a panic has said so")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use domain::api_key::{ApiKey, Pepper};
use domain::pricing::{PriceList, PriceRule, RouteClass};
use domain::{
    Account, AccountId, AccountStatus, Charge, ChargeId, Credits, Environment, KeyId, KeyState,
    Link, LoadedAccount, Outcome, Price, PriceBounds, SpendingLimits, StoredAccount, Timestamp,
    TokenPrice,
};
use uuid::Uuid;

const NOW: Timestamp = Timestamp::from_micros(1_705_320_000_000_000);

fn account(limits: SpendingLimits) -> Account {
    let key = KeyState::new(KeyId(Uuid::from_u128(1)), limits);
    let stored = StoredAccount {
        id: AccountId(1),
        environment: Environment::Live,
        status: AccountStatus::Open,
        balance: Credits::MAX,
        seq: 0,
        link: Link::START,
    };
    let loaded = LoadedAccount { stored, epoch: 1, keys: vec![key], holds: Vec::new() };
    Account::load(loaded, Arc::default())
}

/// Limits that every charge is compared with, and that none reaches.
fn unreached() -> SpendingLimits {
    let limit = Some(Credits::MAX);
    SpendingLimits { per_request: limit, daily: limit, monthly: limit, total: limit }
}

fn charge(price: Price) -> Charge {
    let (id, key) = (ChargeId(Uuid::from_u128(7)), KeyId(Uuid::from_u128(1)));
    Charge { id, key, price, bill: None, expires_at: NOW, is_durable: false }
}

/// As many routes as a server has unless its settings say otherwise.
fn prices() -> PriceList {
    let rule = |number: u32| PriceRule {
        method: Some("POST".into()),
        path: format!("/api/hub/agents/{number}").into(),
        class: RouteClass::Write,
        card_number: 0,
        base: Credits::from_nanos(1_000_000),
        per_token: None,
        default_max_tokens: 1024,
        default_max_tokens_of: BTreeMap::new(),
        context_tokens: 400_000,
        context_tokens_of: BTreeMap::new(),
        sells: Vec::new(),
    };
    PriceList::new((0..40).map(rule).collect())
}

fn domain(criterion: &mut Criterion) {
    let cost = Credits::from_nanos(2_260_000);
    let hold = Price::UpTo(PriceBounds::whole(cost, Credits::from_nanos(12_770_000)));
    for (name, price) in [("fixed price", Price::Fixed(cost)), ("hold and capture", hold)] {
        criterion.bench_function(&format!("charge and settle, {name}"), |bencher| {
            let delivered = Outcome::Delivered { cost, bill: None };
            bencher.iter_batched_ref(
                || account(unreached()),
                |account| {
                    let order = charge(price);
                    account.charge(black_box(&order), NOW).unwrap();
                    black_box(account.settle(order.id, delivered, NOW, None, None).unwrap());
                },
                BatchSize::SmallInput,
            );
        });
    }
    let over = charge(Price::Fixed(cost));
    let limit = Some(Credits::from_nanos(1));
    let limits = SpendingLimits { daily: limit, monthly: limit, ..SpendingLimits::default() };
    let mut limited = account(limits);
    criterion.bench_function("charge refused by a spending limit", |bencher| {
        bencher.iter(|| limited.charge(black_box(&over), NOW).unwrap_err());
    });
    let prices = prices();
    criterion.bench_function("price of a route", |bencher| {
        bencher.iter(|| prices.find(black_box("POST"), black_box("/api/hub/agents/7")).unwrap());
    });
    let key = ApiKey::from_symbols(Environment::Live, [7; 30]);
    let pepper = Pepper::new(&[7; 32]).unwrap();
    criterion.bench_function("key: parse and checksum", |bencher| {
        bencher.iter(|| ApiKey::parse(black_box(key.expose())));
    });
    criterion
        .bench_function("key: digest", |bencher| bencher.iter(|| black_box(&key).digest(&pepper)));
    let per_token: TokenPrice = "0.00001".parse().unwrap();
    criterion.bench_function("cost of a call", |bencher| {
        bencher.iter(|| per_token.cost(black_box(cost), black_box(1_000)));
    });
}

criterion_group!(benches, domain);
criterion_main!(benches);
