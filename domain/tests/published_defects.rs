//! Defects of billing that other gateways have published, each as what is right here. The name of
//! the repository and the number of its issue stand above each test. Prices are dollars a million.
#![expect(clippy::unwrap_used, reason = "a test that fails by a panic has done its work")]

use std::sync::Arc;

use domain::ledger::Link;
use domain::metering::split;
use domain::{
    Bill, Card, CardRow, Convention, Credits, Dim, DimSet, Envelope, Evidence, Flags, Heard,
    ListId, Multiplier, PriceBook, PriceVersion, ProviderUsage, Quantities, Rates, Reported,
    SeenAnswer, Service, ServiceSet, Side, Timestamp, TokenUsage, VersionId, VersionTerms,
};

const NOTHING: ProviderUsage = ProviderUsage {
    input: None,
    tool_input: None,
    output: None,
    total: None,
    cache_read: None,
    cache_write: None,
    cache_write_5m: None,
    cache_write_1h: None,
    cache_write_12h: None,
    input_audio: None,
    cache_read_audio: None,
    input_image: None,
    cache_read_image: None,
    input_video: None,
    thoughts: None,
    output_audio: None,
    output_image: None,
    audio_in_ms: None,
    audio_out_ms: None,
    video_ms: None,
    images: None,
    web_searches: None,
    rerank_units: None,
    pages: None,
    tool_sessions: None,
};

fn rates(prices: &[(Dim, &str)]) -> Rates {
    prices.iter().map(|(dim, price)| (*dim, price.parse().unwrap())).collect()
}

fn opus() -> Rates {
    rates(&[
        (Dim::Input, "5"),
        (Dim::CacheWrite, "6.25"),
        (Dim::CacheWrite1h, "10"),
        (Dim::CacheRead, "0.50"),
        (Dim::Output, "25"),
    ])
}

fn amount(text: &str) -> Credits {
    text.parse().unwrap()
}

/// The cost of a usage whose numbers agree with each other.
#[track_caller]
fn cost(rates: &Rates, usage: &ProviderUsage, by: Convention) -> Option<Credits> {
    let (quantities, odd) = split(usage, by);
    assert!(odd.is_empty(), "{quantities:?}");
    rates.cost(&quantities)
}

/// maximhq/bifrost#3451: billed 1.85984625, &the cache's writing twice.
#[test]
fn what_is_written_to_the_cache_is_billed_once() {
    let usage = ProviderUsage {
        input: Some(6),
        cache_write: Some(159_217),
        output: Some(2_745),
        ..NOTHING
    };
    assert_eq!(cost(&opus(), &usage, Convention::ANTHROPIC), Some(amount("1.06376125")));
}

/// langwatch/langwatch#7018: cached tokens billed in full.
#[test]
fn cached_tokens_are_not_billed_in_full() {
    let usage = ProviderUsage {
        input: Some(100_000),
        cache_read: Some(99_000),
        output: Some(0),
        ..NOTHING
    };
    let rates = rates(&[(Dim::Input, "3"), (Dim::CacheRead, "0.30"), (Dim::Output, "15")]);
    assert_eq!(cost(&rates, &usage, Convention::OPENAI), Some(amount("0.0327")));
}

/// earendil-works/pi#2148: billed 0.0137, cached tokens subtracted at the wrong place.
#[test]
fn cached_tokens_are_taken_from_the_prompt() {
    let usage = ProviderUsage {
        input: Some(20_212),
        cache_read: Some(16_298),
        output: Some(931),
        ..NOTHING
    };
    let rates = rates(&[(Dim::Input, "0.50"), (Dim::CacheRead, "0.05"), (Dim::Output, "3")]);
    assert_eq!(cost(&rates, &usage, Convention::OPENAI), Some(amount("0.0055649")));
}

/// quill-router#55 and CLIProxyAPIHome#20: without a price of their own, cached tokens were free.
#[test]
fn a_missing_price_is_never_nothing() {
    let rates = rates(&[(Dim::Input, "3"), (Dim::Output, "15")]);
    let usage =
        ProviderUsage { input: Some(1_000), cache_read: Some(9_000), output: Some(100), ..NOTHING };
    assert_eq!(cost(&rates, &usage, Convention::ANTHROPIC), Some(amount("0.0315")));
    let within = ProviderUsage { input: Some(10_000), ..usage };
    assert_eq!(cost(&rates, &within, Convention::OPENAI), Some(amount("0.0315")));
}

/// axonhub#607, maximhq/bifrost#2899: negative quantities, and so negative costs.
#[test]
fn no_quantity_is_negative() {
    let usage =
        ProviderUsage { input: Some(100), cache_read: Some(150), output: Some(0), ..NOTHING };
    let (quantities, odd) = split(&usage, Convention::OPENAI);
    assert_eq!((quantities.of(Dim::Input), quantities.of(Dim::CacheRead)), (0, 100));
    assert!(!odd.is_empty());
    assert_eq!(opus().cost(&quantities), Some(amount("0.00005")));
}

fn by_length() -> Card {
    let long = rates(&[(Dim::Input, "6"), (Dim::CacheWrite, "7.50"), (Dim::Output, "22.50")]);
    let short = rates(&[(Dim::Input, "3"), (Dim::CacheWrite, "3.75"), (Dim::Output, "15")]);
    Card::new(vec![
        CardRow { service: Service::Standard, over: 0, rates: short },
        CardRow { service: Service::Standard, over: 200_000, rates: long },
    ])
    .unwrap()
}

/// openscience#121: the tier was chosen without what is written to the cache.
#[test]
fn the_whole_prompt_chooses_the_tier() {
    let usage =
        ProviderUsage { input: Some(10), cache_write: Some(200_000), output: Some(0), ..NOTHING };
    let (quantities, _) = split(&usage, Convention::ANTHROPIC);
    let card = by_length();
    let (number, row) = card.row(Service::Standard, quantities.sum(Side::In)).unwrap();
    assert_eq!((number, row.rates.cost(&quantities)), (1, Some(amount("1.50006"))));
}

/// 9router#2762: thoughts billed within the completion and again.
#[test]
fn thoughts_within_the_completion_are_billed_once() {
    let usage = ProviderUsage { input: Some(0), output: Some(500), thoughts: Some(300), ..NOTHING };
    let rates = rates(&[(Dim::Input, "1"), (Dim::Output, "10"), (Dim::Reasoning, "20")]);
    assert_eq!(cost(&rates, &usage, Convention::OPENAI), Some(amount("0.008")));
}

/// new-api#1014, crewAI#5699: thoughts beside the completion were not billed.
#[test]
fn thoughts_beside_the_completion_are_billed() {
    let usage = ProviderUsage {
        input: Some(10),
        output: Some(100),
        thoughts: Some(400),
        total: Some(510),
        ..NOTHING
    };
    let rates = rates(&[(Dim::Input, "1"), (Dim::Output, "10")]);
    assert_eq!(cost(&rates, &usage, Convention::GEMINI), Some(amount("0.00501")));
    // In the dialect of OpenAI only the total has them.
    let hidden = ProviderUsage { thoughts: None, ..usage };
    assert_eq!(cost(&rates, &hidden, Convention::OPENAI), Some(amount("0.00501")));
}

/// ding113/claude-code-hub#663: the image of an answer at the price of text, 7.6 times too little.
#[test]
fn the_image_of_an_answer_has_a_price_of_its_own() {
    let usage = ProviderUsage {
        input: Some(326),
        output: Some(2_340),
        output_image: Some(2_000),
        thoughts: Some(337),
        ..NOTHING
    };
    let rates = rates(&[(Dim::Input, "2"), (Dim::Output, "12"), (Dim::OutputImage, "120")]);
    assert_eq!(cost(&rates, &usage, Convention::GEMINI), Some(amount("0.248776")));
}

/// BerriAI/litellm#31142: an answer that is an image, without details, at the price of text. That
/// the server bills so is in `tests/it/model_prices.rs`.
#[test]
fn an_image_answer_without_details_is_all_image() {
    let usage =
        ProviderUsage { input: Some(50), output: Some(4_160), total: Some(4_210), ..NOTHING };
    let rates = rates(&[(Dim::Input, "5"), (Dim::Output, "10"), (Dim::OutputImage, "40")]);
    let seen = SeenAnswer { text: 0, images: 3_000 };
    let image = usage.of_image_answer(Convention::OPENAI, seen);
    assert_eq!(cost(&rates, &image, Convention::OPENAI), Some(amount("0.16665")));
    // With details they count.
    let detailed = ProviderUsage { output_image: Some(4_000), ..usage };
    assert_eq!(detailed.of_image_answer(Convention::OPENAI, seen), detailed);
}

/// one-api-pro#13: the usage at the start and that at the end were summed.
#[test]
fn the_reports_of_one_answer_are_not_summed() {
    let start = ProviderUsage { input: Some(25), output: Some(1), ..NOTHING };
    let end = ProviderUsage { input: Some(25), output: Some(15), ..NOTHING };
    assert_eq!(cost(&opus(), &start.merged(end), Convention::ANTHROPIC), Some(amount("0.0005")));
}

/// Dstack-TEE#194: a zero at the end took the prompt away. pi#9210: writes for an hour came at the
/// end only.
#[test]
fn a_later_zero_takes_nothing_away_and_a_later_part_counts() {
    let start = ProviderUsage {
        input: Some(1_000),
        cache_read: Some(2_000),
        cache_write: Some(4_000),
        output: Some(1),
        ..NOTHING
    };
    let end = ProviderUsage {
        input: Some(0),
        cache_read: Some(0),
        cache_write_5m: Some(1_000),
        cache_write_1h: Some(3_000),
        output: Some(100),
        ..NOTHING
    };
    let usage = start.merged(end);
    assert_eq!(cost(&opus(), &usage, Convention::ANTHROPIC), Some(amount("0.04475")));
}

fn by_service() -> Card {
    let standard = rates(&[(Dim::Input, "1"), (Dim::Output, "10")]);
    let priority = rates(&[(Dim::Input, "2"), (Dim::Output, "20")]);
    Card::new(vec![
        CardRow { service: Service::Standard, over: 0, rates: standard },
        CardRow { service: Service::Priority, over: 0, rates: priority },
    ])
    .unwrap()
}

/// BerriAI/litellm#31837, pi#3307: one service tier asked for, another served.
#[test]
fn the_tier_that_served_is_billed_within_the_bound_of_both() {
    let card = by_service();
    let used = Quantities::NONE.with(Dim::Output, 1_000);
    let asked = ServiceSet::EMPTY.with(Service::Priority).with(Service::Standard);
    let may = DimSet::EMPTY.with(Dim::Output);
    let envelope = Envelope { output: 1_000, may, services: asked, ..Envelope::default() };
    assert_eq!(card.bound(&envelope), Some(amount("0.02")));
    let served = card.row(Service::Standard, 0).unwrap().1;
    assert_eq!(served.rates.cost(&used), Some(amount("0.01")));
}

/// experiential#812: a service tier without a price was billed as the standard one.
#[test]
fn a_tier_without_a_price_is_not_sold() {
    assert_eq!(by_service().row(Service::Flex, 9), None);
    let services = ServiceSet::EMPTY.with(Service::Flex);
    assert_eq!(by_service().bound(&Envelope { services, ..Envelope::default() }), None);
}

/// envoyproxy/ai-gateway#2185, langwatch#7021: audio was free where it had no price.
#[test]
fn audio_is_never_free() {
    let text = rates(&[(Dim::Input, "2.50"), (Dim::Output, "10")]);
    let usage = ProviderUsage {
        input: Some(1_000),
        input_audio: Some(800),
        output: Some(500),
        output_audio: Some(400),
        ..NOTHING
    };
    assert_eq!(cost(&text, &usage, Convention::OPENAI), Some(amount("0.0075")));
    // Audio that is measured in time has no parent: it is not sold.
    let by_time = ProviderUsage { audio_in_ms: Some(3_400), ..NOTHING };
    assert_eq!(cost(&text, &by_time, Convention::OPENAI), None);
    let whisper = rates(&[(Dim::AudioIn, "0.36")]);
    assert_eq!(cost(&whisper, &by_time, Convention::OPENAI), Some(amount("0.00034")));
}

/// any-llm#994, ccusage#1636, CPA-Manager#848, agentsview#1540, maxx#574: a new price rewrote what
/// old calls had cost.
#[test]
fn a_new_price_leaves_old_bills_as_they_are() {
    let mut book = PriceBook::default();
    for (number, input) in [(1, "10"), (2, "30")] {
        let card = Card::flat(rates(&[(Dim::Input, input)])).unwrap();
        let list = ListId(1);
        let terms = VersionTerms {
            id: VersionId::new(number).unwrap(),
            list,
            parent: None,
            multiplier: Multiplier::ONE,
            effective_from: Timestamp::from_micros(i64::from(number) * 100),
            cards: vec![("model".into(), Arc::new(card))],
        };
        let before = if number == 1 { Link::START } else { book.last_link(list) };
        book.add(Arc::new(PriceVersion::new(terms, before).unwrap())).unwrap();
    }
    let bill = |at| {
        let priced = book.find(ListId(1), "model", Timestamp::from_micros(at)).unwrap();
        Bill {
            version: priced.version,
            card: priced.number,
            row: 0,
            convention: Convention::OPENAI,
            flags: Flags::NONE,
            quantities: Quantities::NONE.with(Dim::Input, 1_000),
        }
    };
    assert_eq!(
        (bill(199).cost(&book), bill(200).cost(&book)),
        (Some(amount("0.01")), Some(amount("0.03")))
    );
}

/// control-layer, August 2026: cached tokens were subtracted twice, in 1,044 rows.
#[test]
fn cached_tokens_are_subtracted_once_and_a_wrong_convention_is_odd() {
    let usage = ProviderUsage {
        input: Some(31_036),
        cache_read: Some(26_164),
        output: Some(200),
        total: Some(31_236),
        ..NOTHING
    };
    let (quantities, odd) = split(&usage, Convention::OPENAI);
    assert_eq!((quantities.sum(Side::In), odd.is_empty()), (31_036, true));
    assert_eq!(quantities.of(Dim::Input), 4_872);
    assert!(!split(&usage, Convention::ANTHROPIC).1.is_empty(), "seen on the first call");
    // And the other way round, without a total.
    let beside = ProviderUsage { input: Some(4_872), total: None, ..usage };
    assert!(!split(&beside, Convention::OPENAI).1.is_empty());
    assert!(split(&beside, Convention::ANTHROPIC).1.is_empty());
}

/// control-layer, July 2026: `"usage": null` was billed as nothing.
#[test]
fn a_missing_usage_is_counted_and_not_free() {
    assert!(NOTHING.is_missing());
    let counted = TokenUsage::new(100, 200);
    for heard in [Heard::ToItsEnd, Heard::UntilItBroke] {
        let evidence = Evidence { reported: Reported::Missing, counted, heard, may_hide: false };
        let usage = ProviderUsage::from(evidence.tally().0);
        assert_eq!(cost(&opus(), &usage, Convention::ANTHROPIC), Some(amount("0.0055")));
    }
}

/// maximhq/bifrost#7089: the tokens of a transcription by the wrong modality.
#[test]
fn a_transcription_is_billed_by_its_audio() {
    let rates = rates(&[(Dim::Input, "2.50"), (Dim::InputAudio, "6"), (Dim::Output, "10")]);
    let usage = ProviderUsage {
        input: Some(29),
        input_audio: Some(28),
        output: Some(14),
        total: Some(43),
        ..NOTHING
    };
    assert_eq!(cost(&rates, &usage, Convention::OPENAI), Some(amount("0.0003105")));
}
