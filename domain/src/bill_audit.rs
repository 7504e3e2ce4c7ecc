//! The check of a bill against the record of its call: that it is the bill of this call, and by a
//! price that was in force when the call arrived. What a bill comes to is checked in [`audit`].
//!
//! [`audit`]: super::audit

use super::bill::{Bill, Flags};
use super::dim::Side;
use super::price_book::{ListId, PriceBook};
use super::usage::{OTHER_MODELS, Tally, UNREPORTED, kept_tokens, model_name};
use super::window::Timestamp;

/// How much the clocks of two processes may differ, and how long one may go on by prices that
/// another has replaced, in microseconds.
pub const CLOCKS_APART_MICROS: i64 = 5_000_000;

/// What the record of a call says, as far as its bill must agree with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedCall {
    /// The HTTP method.
    pub method: String,
    /// The priced route.
    pub route: String,
    /// The model; empty if there is none.
    pub model: String,
    /// Tokens of the prompt and of the completion.
    pub tokens: (i64, i64),
    /// Where their numbers come from. `None`: the record is damaged.
    pub tally: Option<Tally>,
    /// When the call arrived.
    pub started_at: Timestamp,
}

/// Is it the bill of this call?
///
/// # Errors
/// A text that says what disagrees.
pub fn check_call(bill: &Bill, call: &RecordedCall, book: &PriceBook) -> Result<(), String> {
    check_version(bill, call, book)?;
    if call.route == UNREPORTED {
        return Ok(());
    }
    // A card that is not there is found with the cost.
    let Some(card) = book.card_name(bill) else { return Ok(()) };
    let is_of_route = card.contains(' ');
    // A model that answers for another one may give the price; the bill says so.
    let is_of_other = !is_of_route && bill.flags.has(Flags::OTHER_MODEL);
    if !is_of_other && !names(card, call) {
        let asked = if is_of_route || call.model.is_empty() {
            format!("{} {}", call.method, call.route)
        } else {
            call.model.clone()
        };
        return Err(format!("is priced by the card of {card}, but the call was of {asked}"));
    }
    // A route's tokens are recorded as they were told; a model's as they are billed, unless less
    // was taken or all that was held.
    let is_recorded = !is_of_route && call.tally.is_some_and(|tally| tally != Tally::Held);
    let billed = [Side::In, Side::Out].map(|side| kept_tokens(bill.quantities.sum(side)));
    let [prompt, completion] = billed;
    if is_recorded && !bill.flags.has(Flags::CLAMPED) && (prompt, completion) != call.tokens {
        let (of_prompt, of_completion) = call.tokens;
        return Err(format!(
            "is for {prompt} tokens of the prompt and {completion} of the completion, but the call is recorded with \
             {of_prompt} and {of_completion}"
        ));
    }
    Ok(())
}

/// Was the version in force when the call arrived?
fn check_version(bill: &Bill, call: &RecordedCall, book: &PriceBook) -> Result<(), String> {
    let Some(version) = book.by_id(bill.version) else { return Ok(()) };
    let (id, arrived) = (bill.version, call.started_at);
    if book.is_withdrawn(version) {
        return Err(format!("is by version {id} of the prices, which was withdrawn"));
    }
    if version.effective_from() > arrived.plus_micros(CLOCKS_APART_MICROS) {
        let from = version.effective_from().to_rfc3339_micros();
        let arrived = arrived.to_rfc3339_micros();
        return Err(format!(
            "is by version {id} of the prices, in force from {from} on, but the call arrived at {arrived}"
        ));
    }
    // Each process keeps the prices of the routes that its settings say.
    if version.list() == ListId::ROUTES {
        return Ok(());
    }
    let before = arrived.plus_micros(CLOCKS_APART_MICROS.saturating_neg());
    let of = |version: &super::price_book::PriceVersion| (version.effective_from(), version.id());
    match book.in_force(version.list(), before) {
        Some(later) if of(later) > of(version) => Err(format!(
            "is by version {id} of the prices, but version {} was in force when the call arrived",
            later.id()
        )),
        _ => Ok(()),
    }
}

/// Is it the card that prices such a call?
fn names(card: &str, call: &RecordedCall) -> bool {
    if let Some((method, path)) = card.split_once(' ') {
        return path == call.route && (method == "*" || method == call.method);
    }
    if call.model == OTHER_MODELS {
        return true;
    }
    match card.strip_suffix('*') {
        Some(start) => call.model.starts_with(&*model_name(start)),
        None => call.model == *model_name(card),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        Card, Convention, Dim, Multiplier, PriceVersion, Quantities, Rates, UnitPrice, VersionId,
        VersionTerms,
    };

    const SECOND: i64 = 1_000_000;

    /// Versions 1 of the routes, and 2, 3 and 4 of the models, from 100, 200 and 300 seconds on;
    /// the last one is withdrawn. All have the same prices.
    fn book() -> PriceBook {
        let mut book = PriceBook::default();
        let price = UnitPrice::from_nanos(5_000_000).unwrap();
        let rates = [Dim::Request, Dim::Input, Dim::Output];
        let rates = rates.into_iter().fold(Rates::NONE, |rates, dim| rates.with(dim, price));
        let card = Arc::new(Card::flat(rates).unwrap());
        let routes = ["* /b/*", "POST /a"];
        let models = ["chat", "other", "open/*"];
        for (id, list, seconds) in [(1, 1, 0), (2, 2, 100), (3, 2, 200), (4, 2, 300)] {
            let names = if list == 1 { &routes[..] } else { &models[..] };
            let list = ListId(list);
            let terms = VersionTerms {
                id: VersionId::new(id).unwrap(),
                list,
                parent: None,
                multiplier: Multiplier::ONE,
                effective_from: Timestamp::from_micros(seconds * SECOND),
                cards: names.iter().map(|name| ((*name).into(), Arc::clone(&card))).collect(),
            };
            let version = PriceVersion::new(terms, book.last_link(list)).unwrap();
            book.add(Arc::new(version)).unwrap();
        }
        book.withdraw(VersionId::new(4).unwrap());
        book
    }

    fn bill(version: u32, name: &str) -> Bill {
        let id = VersionId::new(version).unwrap();
        let place = book().by_id(id).unwrap().place(name).unwrap();
        let quantities = [(Dim::Request, 1), (Dim::Input, 7), (Dim::CacheRead, 2)];
        let quantities: Quantities = quantities.into_iter().chain([(Dim::Output, 3)]).collect();
        let (convention, flags) = (Convention::default(), Flags::NONE);
        let card = u16::try_from(place).unwrap();
        Bill { version: id, card, row: 0, convention, flags, quantities }
    }

    fn call(model: &str, seconds: i64) -> RecordedCall {
        RecordedCall {
            method: "POST".into(),
            route: "/a".into(),
            model: model.into(),
            tokens: (9, 3),
            tally: Some(Tally::Reported),
            started_at: Timestamp::from_micros(seconds * SECOND),
        }
    }

    #[track_caller]
    fn finds(bill: &Bill, call: &RecordedCall, what: Option<&str>) {
        let found = check_call(bill, call, &book());
        match what {
            None => assert_eq!(found, Ok(()), "{call:?}"),
            Some(what) => {
                assert!(found.as_ref().is_err_and(|said| said.contains(what)), "{found:?}");
            }
        }
    }

    #[test]
    fn a_bill_is_of_its_call() {
        let long = "m".repeat(150);
        for (version, card, model, found) in [
            (3, "chat", "chat", None),
            (3, "other", "chat", Some("by the card of other, but the call was of chat")),
            (3, "open/*", "open/gpt", None),
            (3, "open/*", "chat", Some("by the card of open/*, but the call was of chat")),
            (3, "chat", OTHER_MODELS, None),
            (3, "chat", "", Some("by the card of chat, but the call was of POST /a")),
            (1, "POST /a", "", None),
            (1, "POST /a", "chat", None),
            (1, "* /b/*", "", Some("by the card of * /b/*, but the call was of POST /a")),
        ] {
            finds(&bill(version, card), &call(model, 250), found);
        }
        let other = RecordedCall { route: "/b/*".into(), ..call("", 250) };
        finds(&bill(1, "* /b/*"), &other, None);
        finds(
            &bill(1, "POST /a"),
            &RecordedCall { method: "GET".into(), ..other },
            Some("GET /b/*"),
        );
        // A name is cut where it is recorded.
        assert!(names(&long, &RecordedCall { model: long[..128].into(), ..call("", 0) }));
    }

    #[test]
    fn a_bill_is_for_the_tokens_of_its_call() {
        let fewer = RecordedCall { tokens: (9, 2), ..call("chat", 250) };
        finds(&bill(3, "chat"), &fewer, Some("9 tokens of the prompt and 3 of the completion"));
        let prompt = RecordedCall { tokens: (7, 3), ..call("chat", 250) };
        finds(&bill(3, "chat"), &prompt, Some("recorded with 7 and 3"));
        // Of what less was taken for, what is paid is recorded; so of what was held.
        finds(&Bill { flags: Flags::CLAMPED, ..bill(3, "chat") }, &fewer, None);
        let held = RecordedCall { tally: Some(Tally::Held), ..fewer.clone() };
        finds(&bill(3, "chat"), &held, None);
        finds(&bill(1, "POST /a"), &fewer, None);
        // Nobody has reported this one.
        finds(&bill(3, "chat"), &RecordedCall { route: UNREPORTED.into(), ..fewer }, None);
    }

    #[test]
    fn a_bill_is_by_the_version_that_was_in_force() {
        for (version, seconds, found) in [
            (2, 94, Some("in force from 1970-01-01T00:01:40.000000Z on")),
            (2, 95, None),
            (2, 199, None),
            (2, 204, None),
            (2, 205, Some("by version 2 of the prices, but version 3 was in force")),
            (3, 194, Some("by version 3 of the prices, in force from")),
            (3, 195, None),
            (3, 900, None),
            (4, 900, Some("by version 4 of the prices, which was withdrawn")),
        ] {
            finds(&bill(version, "chat"), &call("chat", seconds), found);
            let unreported = RecordedCall { route: UNREPORTED.into(), ..call("", seconds) };
            finds(&bill(version, "chat"), &unreported, found);
        }
        // A process goes on by the prices of routes that it has.
        finds(&bill(1, "POST /a"), &call("", 9_000), None);
    }
}
