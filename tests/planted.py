#!/usr/bin/env python3
"""Plants known bugs, one at a time, and sees that a test finds each.

    tests/planted.py            every bug
    tests/planted.py NAME...    those whose names begin so
    tests/planted.py --list     the bugs
    tests/planted.py --check    only that each bug can be planted and its test exists; compiles nothing

A bug is a piece of code and its replacement. The piece is looked for in all of src/ and domain/src/ and must
be there exactly once, or once in the function that the bug names. Whitespace, comments and trailing commas do
not count, so a bug survives when code moves to another file or is formatted anew. A test is looked for by its
name in the same way. If the code itself has changed, write the bug anew.

Works on a copy of the committed tree, in target/planted. A bug that does not compile is not found. The last
line counts: what passed is a bug that was found.
"""

import os
import pathlib
import re
import subprocess
import sys
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
TREE = ROOT / "target/planted/tree"
CODE = ("src", "domain/src")
TESTS = ("src", "domain/src", "domain/tests", "tests")


@dataclass
class Test:
    """A test by its name or how that begins, with the database before it if it has one."""
    name: str

    def command(self, tree):
        """How to run it, from where it stands; None if it is not there."""
        function = re.compile(rf"\bfn {self.name.rsplit('::', 1)[-1]}\w*\(")
        for path in files(tree, TESTS):
            if function.search(path.read_text()):
                return f"cargo test {target(path.relative_to(tree))} {self.name}"
        return None


@dataclass
class Command:
    """A command that fails if the bug is there."""
    text: str

    def command(self, _):
        return self.text


def target(path):
    """The options of cargo that build the tests of a file."""
    parts = path.parts
    if parts[0] == "domain":
        return "-p domain " + ("--lib" if parts[1] == "src" else f"--test {parts[2].removesuffix('.rs')}")
    options = "-p polysystems --features failpoints "
    return options + ("--lib" if parts[0] == "src" else f"--test {parts[1].removesuffix('.rs')}")


SIMULATION = Command("SIM_SEEDS=2000 cargo test -p domain --test simulation")
MODEL = Command("cargo test -p domain --test account_model")
WRITER = Command("cargo test -p domain --lib writer::")


def test(name):
    return Test(name)


def chaos(case):
    return Command(f"cargo test -p polysystems --features failpoints --test chaos -- {case}")


@dataclass
class Bug:
    name: str
    text: str
    planted: str
    found_by: object
    # The function that has the text, if the text alone is in more than one place.
    function: str = ""


BUGS = [
    Bug("a-link-leaves-the-bill-out",
        "input.extend_from_slice(bill.bytes());",
        "",
        test("whatever_an_entry_says_is_in_its_link")),
    Bug("a-bill-does-not-say-that-less-was-taken",
        "let bill = bill.map(|bill| bill.taken(owed, cost));",
        "",
        test("each_entry_of_a_call_has_the_bill_of_what_was_taken")),
    Bug("what-is-owed-forgets-what-was-earned",
        "if let Some((cost, bill)) = earned {",
        "{ let (cost, bill) = earned.unwrap_or_default();",
        test("each_entry_of_a_call_has_the_bill_of_what_was_taken")),
    Bug("a-refund-has-the-bill-of-its-charge",
        "(EntryKind::Refund, price, price, Credits::ZERO, None)",
        "(EntryKind::Refund, price, price, Credits::ZERO, match outcome { "
        "Outcome::Delivered { bill, .. } => bill, _ => crate::StoredBill::from_columns(Some(1), Some(&[])) })",
        MODEL),
    Bug("less-than-a-bill-is-never-found",
        "(taken == cost && !is_clamped)",
        "(taken <= cost && !is_clamped)",
        test("a_bill_that_was_tampered_with_is_found_without_the_chain")),
    Bug("a-bill-that-is-gone-is-not-missed",
        "self.bills > 0 && !may_be_older && is_of_call(entry.kind)",
        "self.bills > 0 && !may_be_older && !is_of_call(entry.kind) && entry.seq == 0",
        test("a_bill_that_was_tampered_with_is_found_without_the_chain")),
    Bug("a-bill-of-all-that-is-held-comes-to-less",
        "_ => self.payable(within.saturating_add(1))",
        "_ => self.payable(within)",
        test("what_a_call_is_billed_for_costs_what_is_taken")),
    Bug("a-row-is-chosen-without-the-cache",
        "of_prompt.tokens(&told.quantities));",
        "told.quantities.of(Dim::Input));",
        test("a_call_costs_what_its_parts_cost_in_the_row_of_its_whole_prompt")),
    Bug("what-cannot-be-true-is-cheap",
        "!self.is_cut(told) || rates.price(*dim) > plain_price",
        "!self.is_cut(told) || rates.price(*dim) >= Some(crate::UnitPrice::ZERO).min(plain_price)",
        test("what_cannot_be_true_is_cut_back_and_no_cheaper_than_plain")),
    Bug("a-prompt-that-was-told-is-plain",
        "ToldParts { quantities: prompt.collect(), ..told }",
        "ToldParts { quantities: prompt.take(0).collect(), ..told }",
        test("what_is_not_told_is_counted_and_a_told_prompt_keeps_its_parts")),
    Bug("a-part-without-a-price-is-not-told",
        "is_cut || unpriced != DimSet::EMPTY || (is_told_oddly && is_reported)",
        "is_cut || (is_told_oddly && is_reported)",
        test("a_part_without_a_price_is_told_and_takes_no_more_than_is_held")),
    Bug("a-correction-costs-us-again",
        "Ok(cost) if is_call => self.cost",
        "Ok(cost) if is_call || cost > Credits::ZERO => self.cost",
        test("each_entry_counts_and_each_call_costs_once")),
    Bug("a-loss-on-long-prompts-is-not-seen",
        "let input = if over == 0 { 0 } else { over.saturating_add(1) };",
        "let input = over.min(0);",
        test("what_is_sold_below_its_cost_is_named")),
    Bug("a-cost-is-of-today",
        "self.card(list, &served.upstream_model, call.started_at)",
        "self.card(list, &served.upstream_model, call.started_at.plus_micros(600_000_000))",
        test("sqlite::margins_are_the_ledgers_entries_less_what_the_calls_cost")),
    Bug("a-requested-tier-is-not-billed",
        "by.is_none_or(|by| by.deployment.service == BilledService::Served)",
        "by.is_none_or(|by| by.deployment.service == BilledService::Served) || true",
        test("sqlite::the_tier_that_served_is_billed_within_what_was_asked_for")),
    Bug("a-retired-model-is-sold",
        "is_some_and(|at| at <= arrival.at)",
        "is_some_and(|at| at > arrival.at)",
        test("sqlite::what_is_not_sold_is_refused")),
    Bug("another-model-answers-as-long-as-it-likes",
        "Some(other.limit).filter(|limit| generation.request.token_limit != Some(*limit))",
        "charged.token_limit().filter(|_| generation.demand.choices > 0 && other.limit > 0)",
        test("on_sqlite::another_model_is_told_how_long_its_answer_may_be")),
    Bug("a-model-that-thinks-answers-for-one-that-shows-all",
        "(may_hide || !thinks(gateway, dialect, other))",
        "(may_hide || !thinks(gateway, dialect, &call.found))",
        test("on_sqlite::a_model_that_thinks_unseen_is_not_asked_if_that_is_not_held_for")),
    Bug("a-model-that-is-known-to-think-is-held-for-as-one-that-shows-all",
        "|| gateway.thinking.has(Some(&found.name)) || found.served.iter().any(",
        "|| found.served.iter().any(",
        test("on_sqlite::a_model_that_is_known_to_think_is_held_for_as_one_that_does")),
    Bug("an-unreadable-catalogue-sells-by-the-routes",
        "Err(fault) if is_first => {",
        "Err(fault) if is_first && fault.is_empty() => {",
        test("sqlite::a_catalogue_that_cannot_be_read_stops_the_start")),
    Bug("a-model-sells-what-its-route-sells",
        "call.found.model.sells.contains(&asked.extra) || by_model::is_of_service(asked)",
        "rule.sells.contains(&asked.extra) || call.found.model.sells.contains(&asked.extra)",
        test("sqlite::what_a_model_sells_is_held_for_and_charged_and_nothing_else_is_sold")),
    Bug("another-model-is-not-held-for",
        "let held = if want > held {",
        "let held = if want > held && need > want {",
        test("sqlite::a_prompt_that_costs_more_there_is_held_for_before_it_is_asked")),
    Bug("another-models-prompt-is-that-of-the-first",
        "let demand = demand_of(gateway, dialect, model, request, may_hide);",
        "let demand = generation.demand;",
        test("sqlite::a_prompt_that_costs_more_there_is_held_for_before_it_is_asked")),
    Bug("another-model-is-asked-though-it-is-not-covered",
        "return Some(held).filter(|held| *held >= need)",
        "return Some(held).filter(|held| *held >= need || need > *held)",
        test("sqlite::a_prompt_that_costs_more_there_is_held_for_before_it_is_asked")),
    Bug("the-model-that-answers-is-not-billed",
        "self.quoted.set_fallback(&fallback);",
        "let _ = fallback;",
        test("sqlite::the_price_of_the_model_that_answers_counts_if_the_operator_says_so")),
    Bug("a-key-pays-for-a-model-that-it-may-not-call",
        "if !other.is_permitted(&key.policy) { return None; }",
        "",
        test("sqlite::the_price_of_the_model_that_answers_counts_if_the_operator_says_so")),
    Bug("an-alias-opens-a-model",
        "Some(call) if call.found.is_permitted(&key.policy) => {}",
        "Some(_) if models_named(&arrival).iter().all(|name| key.policy.permits_model(name.as_deref())) => {}",
        test("on_sqlite::a_key_is_for_models_and_not_for_what_they_are_called_by")),
    Bug("a-tier-is-billed-that-the-deployment-does-not-say",
        "let served = served.filter(|_| charged.bills_served_tier());",
        "",
        test("on_sqlite::the_tier_that_is_billed_is_the_one_that_the_deployment_says")),
    Bug("a-thought-is-held-for-by-no-share",
        "self.first.max(part.min(self.most))",
        "self.first.max(part.min(self.first))",
        test("a_call_that_is_not_seen_holds_a_share")),
    Bug("each-start-publishes-its-prices",
        "version.cards() == new.cards() && version.parent().is_none()",
        "version.cards() == new.cards() && version.parent().is_some()",
        test("sqlite::equal_prices_are_one_version")),
    Bug("a-tampered-price-list-is-not-told",
        "if row.digest != version.digest() {",
        "if row.digest.is_empty() {",
        test("sqlite::each_tampering_is_found")),
    # ---- models, prices and bills
    Bug("another-parent-prices-what-has-no-price",
        "Dim::CacheWrite1h => Some(Dim::CacheWrite),",
        "Dim::CacheWrite1h => Some(Dim::CacheRead),",
        test("codes_and_parents_never_change")),
    Bug("a-missing-price-is-free",
        "let price = i128::from(self.price(dim)?.0);",
        "let price = i128::from(self.price(dim).map_or(0, |price| price.0));",
        test("audio_is_never_free"), function="exact"),
    Bug("a-part-without-a-price-has-none-of-its-parent",
        "self.set(child, child.parent().and_then(|parent| self.price(parent)));",
        "self.set(child, None);",
        test("a_missing_price_is_the_parents")),
    Bug("reports-of-one-answer-are-summed",
        "self.$field.max(other.$field)",
        "self.$field.map(|one| one + other.$field.unwrap_or(0)).or(other.$field)",
        test("the_reports_of_one_answer_are_not_summed")),
    Bug("a-later-zero-takes-away",
        "self.$field.max(other.$field)",
        "other.$field.or(self.$field)",
        test("a_later_zero_takes_nothing_away_and_a_later_part_counts")),
    Bug("a-cache-beside-the-prompt-is-within",
        "(Some(input), Counted::Beside) => input.saturating_add(cached),",
        "(Some(input), Counted::Beside) => input,",
        test("what_is_written_to_the_cache_is_billed_once")),
    Bug("thoughts-beside-the-completion-are-within",
        "(Some(output), Counted::Beside) => output.saturating_add(thought),",
        "(Some(output), Counted::Beside) => output,",
        test("thoughts_beside_the_completion_are_billed")),
    Bug("thoughts-within-the-completion-are-beside",
        "pub const OPENAI: Convention = Convention { cache: Counted::Within, thoughts: Counted::Within };",
        "pub const OPENAI: Convention = Convention { cache: Counted::Within, thoughts: Counted::Beside };",
        test("thoughts_within_the_completion_are_billed_once")),
    Bug("a-part-stays-in-the-whole",
        "self.left = self.left.saturating_sub(taken);",
        "",
        test("cached_tokens_are_not_billed_in_full")),
    Bug("audio-of-a-prompt-is-text",
        "rest.take(Dim::InputAudio, audio);",
        "",
        test("cached_parts_of_a_modality_are_taken_once")),
    Bug("an-image-that-is-the-answer-is-text",
        "ProviderUsage { output, output_image: Some(image), ..self }",
        "{ let _ = image; self }",
        test("an_image_answer_without_details_is_all_image")),
    Bug("what-is-kept-for-an-hour-is-kept-for-minutes",
        "rest.take(Dim::CacheWrite, written.saturating_sub(hour.saturating_add(hours)));",
        "rest.take(Dim::CacheWrite, written); let _ = hour;",
        test("writes_are_told_apart_by_their_time")),
    Bug("a-prompt-of-tools-is-free",
        "let whole = whole.saturating_add(named(usage.tool_input));",
        "",
        test("the_parts_are_the_whole")),
    Bug("a-surplus-of-the-total-is-free",
        "rest.begin(whole.saturating_add(surplus));",
        "rest.begin(whole);",
        test("a_surplus_of_the_total_is_output")),
    Bug("a-long-prompt-begins-at-its-threshold",
        "self.over == 0 || self.over < input",
        "self.over <= input",
        test("a_call_is_priced_by_the_row_of_its_tier_and_its_prompt")),
    Bug("a-long-prompt-costs-what-a-short-one-does",
        ".enumerate().rfind(|(_, row)| is_it(row))?",
        ".enumerate().find(|(_, row)| is_it(row))?",
        test("a_call_is_priced_by_the_row_of_its_tier_and_its_prompt")),
    Bug("only-the-first-row-is-held-for",
        "for (row, input) in self.reachable(*envelope) { let fixed = row.fixed(input, envelope)?; let output",
        "for (row, input) in self.reachable(*envelope).take(1) { let fixed = row.fixed(input, envelope)?; let output",
        test("no_call_costs_more_than_its_bound")),
    Bug("the-tier-that-was-asked-for-is-billed",
        "served.filter(|served| self.services.contains(*served)).unwrap_or(self.service)",
        "{ let _ = served; self.service }",
        test("a_call_costs_what_its_parts_cost_in_the_row_of_its_whole_prompt")),
    Bug("a-tier-without-a-price-is-sold",
        "if !priced.card.services().contains(service) { return None; }",
        "",
        test("a_service_tier_that_the_card_does_not_have_has_no_price")),
    Bug("each-part-is-rounded",
        "sum = sum.checked_add(part)?;",
        "sum = sum.checked_add(part.checked_add(SCALE / 2)? / SCALE * SCALE)?;",
        test("a_cost_is_exact_or_none"), function="exact"),
    Bug("a-cost-is-rounded-down",
        "self.exact(quantities)?.checked_add(SCALE / 2)?.checked_div(SCALE)?",
        "self.exact(quantities)?.checked_div(SCALE)?",
        test("a_cost_is_exact_or_none")),
    Bug("a-multiplied-price-is-rounded-down",
        "exact.checked_add(500_000)?.checked_div(1_000_000)?",
        "exact.checked_div(1_000_000)?",
        test("a_multiplier_rounds_each_price_half_up")),
    Bug("a-bill-forgets-the-multiplier",
        "times(&card.numbered(bill.row)?.rates, &multipliers)",
        "Some(card.numbered(bill.row)?.rates).filter(|_| multipliers.len() < 9)",
        test("a_list_inherits_the_cards_that_it_does_not_have")),
    Bug("a-price-forgets-the-multiplier",
        "let rates = times(&row.rates, &multipliers)?;",
        "let rates = row.rates;",
        test("a_list_inherits_the_cards_that_it_does_not_have")),
    Bug("the-price-of-the-call-itself-is-forgotten",
        "let beside = with_all(call(), &beside.collect());",
        "let beside: Quantities = beside.collect();",
        test("a_call_costs_what_its_parts_cost_in_the_row_of_its_whole_prompt")),
    Bug("a-price-is-in-force-after-its-instant",
        "listed.in_force.range(..=(at, VersionId::LAST))",
        "listed.in_force.range(..(at, VersionId::FIRST))",
        test("the_price_is_that_in_force_at_the_instant")),
    Bug("a-withdrawn-price-is-in-force",
        "listed.in_force.remove(&(version.effective_from(), id));",
        "let _ = listed;",
        test("the_price_is_that_in_force_at_the_instant"), function="withdraw"),
    Bug("a-pattern-goes-before-a-name",
        "if let Some(public) = self.names.get(name) {",
        "let is_of = |pattern: &str| pattern.strip_suffix('*').is_some_and(|start| name.starts_with(start)); "
        "if let Some(public) = self.names.get(name).filter(|_| "
        "!self.wildcards.iter().any(|(wildcard, _)| is_of(&wildcard.pattern))) {",
        test("a_name_of_its_own_goes_before_a_pattern"), function="find"),
    Bug("an-alias-is-priced-as-its-own",
        "return self.models.get(public).cloned();",
        "return self.models.get(public).map(|found| Arc::new(FoundModel { card: name.into(), "
        "..FoundModel::clone(found) }));",
        test("a_model_is_found_by_its_name_its_alias_or_a_pattern")),
    Bug("everybody-pays-by-the-same-list",
        "selling.price(list_of(key), &found, arrival.at)",
        "selling.price({ let _ = list_of(key); domain::ListId::DEFAULT }, &found, arrival.at)",
        test("sqlite::each_tampering_with_a_bill_is_found")),
    Bug("a-fallback-is-billed-at-its-own-price",
        "selling.price(list_of(key), &found, arrival.at)",
        "selling.price(list_of(key), &found.model.on_context.first().and_then(|name| selling.catalogue.find(name))"
        ".unwrap_or_else(|| std::sync::Arc::clone(&found)), arrival.at)",
        test("sqlite::each_tampering_with_a_bill_is_found")),
    Bug("a-bill-is-by-the-price-at-its-end",
        "charged.by_model().and_then(|(model, _)| StoredBill::of(&model.bill(&billed)))",
        "charged.by_model().and_then(|(model, _)| { let now = gateway.models.selling(); "
        "let now = now.book.in_force(domain::ListId::DEFAULT, gateway.clock.now()); "
        "let bill = model.bill(&billed); "
        "StoredBill::of(&domain::Bill { version: now.map_or(bill.version, |now| now.id()), ..bill }) })",
        test("sqlite::a_target_that_vanishes_finishes_its_call")),
    Bug("another-model-is-told-no-limit",
        "Some(other.limit).filter(|limit| generation.request.token_limit != Some(*limit))",
        "Some(other.limit).filter(|_| false)",
        test("sqlite::each_tampering_with_a_bill_is_found")),
    Bug("work-that-was-given-up-is-not-owed",
        "*given_up = given_up.or(by_our_limit.copied());",
        "*given_up = given_up.or(by_our_limit.copied().filter(|_| false));",
        test("on_sqlite::work_that_was_given_up_is_paid_if_nobody_answers")),
    Bug("a-correction-is-made-each-time-it-is-asked-for",
        "if of != reason { continue; }",
        "if of.len() < 99 || of != reason { continue; }",
        test("sqlite::a_charge_is_corrected_once_for_a_reason")),
    Bug("more-is-given-back-than-was-taken",
        "_ if amount > left => return Err(AdminError::AboveCharge { left }),",
        "_ if amount > Credits::MAX => return Err(AdminError::AboveCharge { left }),",
        test("sqlite::a_charge_is_corrected_once_for_a_reason")),
    Bug("a-bill-may-be-that-of-another-call",
        "if !is_of_other && !names(card, call) {",
        "if !is_of_other && !names(card, call) && call.model.len() > 199 {",
        test("a_bill_is_of_its_call")),
    Bug("a-bill-may-be-by-any-version",
        "check_version(bill, call, book)?;",
        "check_version(bill, call, book).or(Ok::<(), String>(()))?;",
        test("a_bill_is_by_the_version_that_was_in_force")),
    Bug("the-bill-of-a-stream-may-be-gone",
        "is_of_hold && opened(entry).is_none_or(|at| at < self.billed_since)",
        "is_of_hold && opened(entry).is_none_or(|at| at < self.billed_since.max(at.plus_micros(1)))",
        test("a_hold_has_no_bill_only_if_it_is_older_than_bills")),
    Bug("verify-leaves-the-calls-of-bills-out",
        "flat_map(|usage| [check_usage(usage), prices.check_call(usage)])",
        "flat_map(|usage| [check_usage(usage), prices.check_call(usage).filter(|_| false)])",
        test("sqlite::each_tampering_with_a_bill_is_found")),
    # ---- the rest
    Bug("a-former-journal-is-not-read",
        "(&former::FORMAT, bytes) => read(former::read(bytes)?),",
        "",
        test("a_batch_of_the_former_format_is_read")),
    Bug("a-payment-is-credited-each-time-it-is-told",
        "if payment.status == PaymentStatus::Confirmed { return Ok(()); } let lease",
        "let lease",
        test("sqlite::a_checkout_is_credited_once")),
    Bug("an-answer-that-is-cut-off-is-whole",
        "Some(Err(_)) => return Poll::Ready(Some(Err(BROKEN)))",
        "Some(Err(_)) => return Poll::Ready(None)",
        test("an_answer_that_is_cut_off_has_no_end")),
    Bug("only-a-closed-connection-is-kept",
        "&& link.is_ready(context)",
        "&& !link.is_ready(context)",
        test("a_connection_is_used_again_when_its_answer_has_been_read")),
    Bug("what-is-won-is-not-given-again",
        "if self.taken > self.wanted {",
        "if self.taken > Credits::MAX {",
        test("a_reversal_takes_what_is_there")),
    Bug("a-reversal-moves-on-from-anywhere",
        "ReversalStep::Take(amount) => self.taken.checked_add(amount).unwrap_or(self.taken)",
        "ReversalStep::Take(amount) => amount",
        test("sqlite::what_is_spent_already_is_taken_from_what_comes")),
    Bug("a-webhook-of-stripe-is-never-stale",
        "> TOLERANCE_SECONDS.unsigned_abs()",
        "> u64::MAX - 1",
        test("only_what_stripe_has_signed_now")),
    Bug("a-suspended-account-loses-its-payment",
        "self.state.credit(EntryKind::TopUp, payment.0, amount, now)?",
        "self.state.top_up(EntryKind::TopUp, payment.0, amount, now)?",
        test("sqlite::a_suspended_account_gets_what_was_paid")),
    Bug("checkpoints-tell-nobody",
        "outbox::write_batch(&self.outbox, &transaction, &taken).await?",
        "{ let _ = &taken; false }",
        test("sqlite::every_event_is_told_once")),
    Bug("a-balance-is-told-as-it-first-was",
        "events.iter().partition(|event| event.kind == EventKind::BalanceUpdated);",
        "events.iter().partition(|_| false);",
        test("sqlite::an_endpoint_made_anew_is_told_the_balance")),
    Bug("a-name-is-connected-to-wherever-it-points",
        ".filter(|address| is_private_allowed || is_public(*address))",
        ".filter(|_| true)",
        test("a_name_that_turns_private_reaches_nothing")),
    Bug("the-last-microsecond-counts-in-the-next-hour",
        "at.micros().div_euclid(MICROS_PER_HOUR)",
        "(at.micros() + 1).div_euclid(MICROS_PER_HOUR)",
        test("hours_and_days_change_on_the_microsecond")),
    Bug("rollups-forget-what-was-there",
        "= {table}.{name} + excluded.{name}",
        "= excluded.{name}",
        test("sqlite::totals_are_the_ledgers_at_every_edge")),
    Bug("calls-count-before-and-behind-the-mark",
        '&format!("{BEYOND_MARK} AND +{whose}")',
        '&format!("number > $1 - 9 AND +{whose}")',
        test("sqlite::totals_are_the_ledgers_at_every_edge")),
    Bug("a-statement-ends-a-call-early",
        "rest = others;",
        "rest = others.get(1..).unwrap_or_default();",
        test("usage_is_written_to_sqlite_as_it_was")),
    Bug("a-checkpoint-leaves-its-last-piece-out",
        "for place in 0..pieces {",
        "for place in 0..pieces.saturating_sub(1).max(1) {",
        test("postgres::a_checkpoint_of_many_calls_writes_all_of_them_and_leaves_no_journal")),
    Bug("a-piece-ends-an-account-early",
        "let moves = piece(&moves, place, pieces);",
        "let moves = piece(&moves[..moves.len() - 1], place, pieces);",
        test("postgres::a_checkpoint_of_many_accounts_is_whole")),
    Bug("a-piece-counts-other-keys",
        "let spends = piece(&spends, place, pieces);",
        "let spends = piece(&spends, place / 2, pieces);",
        test("postgres::a_checkpoint_of_many_accounts_is_whole")),
    Bug("a-write-that-did-not-begin-may-have-happened",
        "DbErr::Query(error) | DbErr::Exec(error) => DbErr::Conn(error)",
        "DbErr::Exec(error) => DbErr::Conn(error)",
        test("a_write_that_did_not_begin_did_not_happen")),
    Bug("connections-are-trusted-for-ever",
        "const TRUSTED_MAX: Duration = Duration::from_millis(250);",
        "const TRUSTED_MAX: Duration = Duration::from_hours(250);",
        test("a_database_that_cut_its_connections_is_read_from_at_once")),
    Bug("what-is-checkpointed-stays-in-the-journal",
        "let first = forgotten.saturating_add(1);",
        "let first = checkpoint.first;",
        test("postgres::a_checkpoint_of_many_calls_writes_all_of_them_and_leaves_no_journal")),
    Bug("memory-is-believed-over-the-records",
        "sums.filter(|sums| [sums.calls, sums.cost, sums.latency_micros] == found)",
        "sums.filter(|_| found[0] > 0)",
        test("sqlite::what_memory_knows_is_what_the_database_finds")),
    Bug("an-authorization-pays-whom-it-likes",
        "if signed.accepted != self.requirements(amount) {",
        "if signed.accepted.amount.is_empty() {",
        test("only_what_was_asked_is_a_payment_to_us")),
    Bug("a-login-outlives-its-password",
        "WHERE id = $1 AND token_version = $2 AND",
        "WHERE id = $1 AND $2 >= 0 AND",
        test("sqlite::a_login_that_overlaps_a_new_password_begins_nothing")),
    Bug("a-guessable-password-is-taken",
        "(estimate.score() < Score::Three).then_some(",
        "(estimate.score() < Score::One).then_some(",
        test("sqlite::common_passwords_are_refused")),
    Bug("a-session-is-renewed-for-ever",
        ".min(began.plus_micros(self.longest_micros))",
        ".min(now.plus_micros(self.longest_micros).max(began))",
        test("sqlite::a_session_ends_however_often_it_is_renewed")),
    Bug("a-proof-never-ends",
        "if until > self.clock.now() { Ok(()) }",
        "if until >= until.min(self.clock.now()) { Ok(()) }",
        test("sqlite::what_cannot_be_taken_back_needs_a_fresh_proof")),
    Bug("a-change-of-address-takes-anybodys-token",
        "let used = used.filter(|token| token.user_id == user.0);",
        "let used = used.filter(|token| token.purpose > 0);",
        test("sqlite::a_token_of_a_change_is_good_for_nothing_else")),
    Bug("an-old-address-keeps-its-sessions",
        "session::Column::UserId.eq(user.0).and(session::Column::Id.ne(session.0))",
        "session::Column::UserId.eq(user.0).and(session::Column::Id.eq(user.0))",
        test("sqlite::an_address_is_changed_by_what_was_sent_to_the_new_one")),
    Bug("every-place-is-known",
        "address == Ok(here) && family(agent) == program",
        "address == Ok(here) || family(agent) == program",
        test("sqlite::a_login_from_a_new_place_is_told")),
    Bug("a-suspension-leaves-sessions",
        "if status == AccountStatus::Suspended { self.end_sessions(",
        "if status == AccountStatus::Suspended && user.0.is_nil() { self.end_sessions(",
        test("sqlite::a_suspension_ends_every_session")),
    Bug("an-operator-takes-what-is-held",
        "let available = self.available(); if amount > available { return "
        "Err(Decline::InsufficientCredits { price: amount, available });",
        "let available = self.balance; if amount > available { return "
        "Err(Decline::InsufficientCredits { price: amount, available });",
        MODEL),
    Bug("the-total-is-set-and-not-added",
        'total_spent = key_spend.total_spent + excluded.total_spent";',
        'total_spent = excluded.total_spent";',
        test("sqlite::a_key_may_spend_so_much_in_all")),
    Bug("a-refund-stays-in-the-total",
        "self.total.take((), captured, held);",
        "",
        MODEL),
    Bug("a-changed-key-is-remembered-as-it-was",
        "self.remembered.invalidate(&digest);",
        "let _ = digest;",
        test("sqlite::a_key_is_for_what_its_owner_says_alone"), function="forget"),
    Bug("a-code-by-time-is-good-again",
        "TotpStep.lt(step)",
        "TotpStep.lte(step)",
        test("sqlite::of_a_thousand_uses_of_a_code_one_wins")),
    Bug("a-recovery-code-is-good-again",
        ".filter(recovery_code::Column::UsedAt.is_null()) .col_expr(",
        ".col_expr(",
        test("sqlite::of_a_thousand_uses_of_a_code_one_wins")),
    Bug("a-reset-token-is-good-again",
        ".filter(email_token::Column::UsedAt.is_null()) "
        ".filter(email_token::Column::ExpiresAt.gt(now.micros())) .col_expr(",
        ".filter(email_token::Column::ExpiresAt.gt(now.micros())) .col_expr(",
        test("sqlite::of_a_thousand_uses_of_a_reset_token_one_wins")),
    Bug("a-foreign-key-is-told-from-none",
        "let listing = self.find(user, key).await?; let act = self.act(origin, user, "
        "ActKind::KeyRevoked, key).with(reason);",
        "let listing = match self.find(user, key).await { Err(KeysError::NotFound) if user.0 "
        "!= key.0 => return Err(KeysError::NotActive), found => found?, }; let act = "
        "self.act(origin, user, ActKind::KeyRevoked, key).with(reason);",
        test("sqlite::what_is_not_ones_own")),
    Bug("whoever-is-in-an-operators-way-is-one",
        "if current.user.role != Role::Admin { return Err(ApiError::AccessDenied); }",
        "",
        test("sqlite::every_operation_answers_everyone")),
    Bug("an-operator-needs-no-second-factor",
        "app.users.assert_operators_factor(&current.user)?;",
        "",
        test("sqlite::an_operator_without_a_second_factor")),
    Bug("the-first-grant-of-a-day-is-the-only-one-counted",
        "SET granted = operator_grant.granted + excluded.granted "
        "WHERE operator_grant.granted <= $4\";",
        "SET granted = operator_grant.granted\";",
        test("sqlite::of_many_grants_at_once")),
    Bug("what-an-operator-reads-is-forgotten",
        'self.record_reads([id].into_iter(), "user, accounts and API keys", &origin).await?;',
        "",
        test("sqlite::what_operators_read")),
    Bug("an-erasure-does-not-wait-for-payments",
        "if !query(&transaction, OPEN, vec![id.into()]).await?.is_empty() {",
        "if query(&transaction, OPEN, vec![id.into()]).await.is_err() {",
        test("sqlite::money_and_payments_hold_an_erasure_up")),
    Bug("writer-sleeps-through-a-write",
        "self.handed().writes.is_empty() || self.is_awake.swap(true, Ordering::AcqRel)",
        "true",
        test("no_write_is_slept_through")),
    Bug("acknowledge-before-commit",
        "if batch.is_empty() {",
        "if batch.is_empty() || batch.entries.len() == 1 {",
        SIMULATION),
    Bug("unknown-counts-as-committed",
        "CommitOutcome::Durable => { work.is_unavailable = false; self.finish(lane, Ok(())); } "
        "CommitOutcome::Fenced => {",
        "CommitOutcome::Durable | CommitOutcome::Unknown => { work.is_unavailable = false; "
        "self.finish(lane, Ok(())); } CommitOutcome::Fenced => {",
        SIMULATION, function="committed"),
    Bug("fenced-counts-as-committed",
        "self.finish(lane, Err(WriteError::Fenced)); } self.is_fenced = true;",
        "self.finish(lane, Ok(())); } self.is_fenced = true;",
        SIMULATION),
    Bug("missing-rows-count-as-written",
        "(Some(false), _) => current.pause_before(Step::Commit)",
        "(Some(false), _) => self.finish(lane, Ok(()))",
        SIMULATION),
    Bug("resent-without-a-look",
        "current.go(Step::LookUp); work.is_unavailable = outcome == CommitOutcome::Unknown;",
        "current.go(if outcome == CommitOutcome::Unknown { Step::Commit } else { Step::LookUp }); "
        "work.is_unavailable = outcome == CommitOutcome::Unknown;",
        SIMULATION),
    Bug("failed-writes-do-not-poison",
        "pending.flags.poison();",
        "let _ = pending;",
        SIMULATION),
    Bug("a-barrier-overtakes-a-split-batch",
        "AccountId(i64::MAX)",
        "AccountId(0)",
        WRITER),
    Bug("a-change-without-trace-counts-as-fenced",
        "if current.may_be_there && !current.work.leaves_trace() =>",
        "if false =>",
        WRITER),
    Bug("let-go-while-its-write-is-not-handed-over",
        "let settled = self.state.settle(charge, outcome, now)?;",
        "let settled = self.state.settle(charge, outcome, now)?; self.publish();",
        SIMULATION),
    Bug("the-tables-overtake-the-journal",
        "*after < backlog_from;",
        "*after < backlog_from || true;",
        SIMULATION),
    Bug("the-journal-overtakes-the-tables",
        "&& is_plain && is_free {",
        "&& is_plain {",
        SIMULATION),
    Bug("a-changed-key-waits-for-the-tables",
        "waiting.is_none_or(|waiting| waiting.may_be_overtaken_by(&pending.write))",
        "waiting.is_none()",
        WRITER),
    Bug("a-changed-key-overtakes-a-new-one",
        "is_some_and(|key| !self.keys.contains(&key))",
        "is_some()",
        WRITER),
    Bug("a-changed-key-waits-for-a-full-journal",
        "self.take_key_change()",
        "Vec::new()",
        WRITER),
    Bug("what-overtook-a-full-journal-hides-what-waits",
        "self.journal_ordinal = ordinal;",
        "self.journal_ordinal = ordinal.saturating_add(1);",
        WRITER),
    Bug("other-limits-do-not-end-a-checkpoint",
        "!std::mem::replace(&mut is_over, journaled.batch.ends_with_limits())",
        "!std::mem::replace(&mut is_over, false)",
        WRITER),
    Bug("a-journaled-change-of-a-key-is-not-seen",
        "self.journaled_keys.note(number, batch); Ok(())",
        "Ok(())",
        test("sqlite::a_key_is_changed_while_a_checkpoint_stalls")),
    Bug("acknowledged-before-it-counts-as-backlog",
        "if flags.backlog_writes.fetch_add(1, Ordering::AcqRel) == 0 {",
        "if flags.backlog_writes.load(Ordering::Acquire) == 0 {",
        SIMULATION),
    Bug("accounts-are-never-counted-out-of-the-journal",
        "if flags.backlog_writes.fetch_sub(1, Ordering::AcqRel) == 1 {",
        "if flags.backlog_writes.fetch_sub(1, Ordering::AcqRel) == 0 {",
        WRITER),
    Bug("who-refuses-counts-as-gone",
        "work.is_unavailable = outcome == CommitOutcome::Unknown;",
        "work.is_unavailable |= outcome == CommitOutcome::Unknown;",
        WRITER),
    Bug("a-checkpoint-found-leaves-the-writer-unavailable",
        "CheckpointOutcome::Done { refused } => { self.tables.is_unavailable = false;",
        "CheckpointOutcome::Done { refused } => {",
        WRITER),
    Bug("a-checkpoint-found-too-late-is-as-large-the-next-time",
        "if found != CheckpointOutcome::Unknown {",
        "if found == CheckpointOutcome::NotDone {",
        WRITER),
    Bug("a-checkpoint-is-put-off-for-ever",
        "wanted.min(multiple(checkpoint_from, PUT_OFF, PUT_OFF_MAX))",
        "wanted",
        WRITER),
    Bug("a-trickle-is-never-checkpointed",
        "writer.restless >= RESTLESS_MAX",
        "writer.restless == u32::MAX",
        test("a_trickle_is_checkpointed")),
    Bug("a-page-of-what-was-left-is-passed-over",
        "let of_epoch: Vec<&(Position, Batch)> = rows.iter()",
        "let of_epoch: Vec<&(Position, Batch)> = rows.iter().skip(rows.len() / 65)",
        test("all_that_a_process_left")),
    Bug("who-cannot-be-brought-to-an-end-is-loaded",
        "if is_open && self.resources.decide(&mut owner, expire).is_none() {",
        "if is_open && self.resources.decide(&mut owner, expire).is_none() && account.0 < 0 {",
        test("sqlite::who_cannot_be_brought_to_an_end")),
    Bug("a-checkpoint-of-unknown-outcome-is-forgotten",
        "CheckpointOutcome::NotDone => {",
        "CheckpointOutcome::NotDone if true => self.finish_checkpoint(&[]), CheckpointOutcome::NotDone => {",
        SIMULATION, function="looked_up_checkpoint"),
    Bug("poisoned-writes-are-written",
        "partition(|pending| pending.flags.is_poisoned())",
        "partition(|_| false)",
        SIMULATION),
    Bug("durable-one-entry-early",
        "fetch_max(entry.seq, Ordering::AcqRel)",
        "fetch_max(entry.seq + 1, Ordering::AcqRel)",
        SIMULATION),
    Bug("declined-without-asking-while-credits-come-back",
        "&& self.unconfirmed.is_empty()",
        "",
        SIMULATION),
    Bug("declined-without-asking-over-another-reason",
        "&& self.keys.iter().all(|key| key.limits.per_request.is_none());",
        ";",
        MODEL),
    Bug("credits-spendable-too-early",
        "self.state.confirm(self.flags.durable_seq.load(Ordering::Acquire));",
        "self.state.confirm(self.state.seq());",
        SIMULATION),
    Bug("the-end-of-a-free-stream-is-not-awaited",
        "|| answer.is_some() || hold.is_some();",
        "|| answer.is_some();",
        SIMULATION),
    Bug("a-settlement-is-not-awaited",
        "let is_awaited = settled.entry.is_some() || answer.is_some() || hold.is_some();",
        "let is_awaited = false;",
        SIMULATION),
    Bug("counters-are-not-written",
        "let key_spend = Some(charged.key_spend);",
        "let key_spend = None;",
        SIMULATION),
    Bug("let-go-before-it-is-written",
        "&& self.pending_writes.load(Ordering::Acquire) == 0",
        "",
        SIMULATION),
    Bug("let-go-before-it-is-checkpointed",
        "&& self.is_quiet() && self.is_checkpointed()",
        "&& self.is_quiet()",
        SIMULATION),
    Bug("let-go-while-somebody-holds-it",
        "self.in_flight.load(Ordering::Acquire) == 0 && self.is_quiet() && "
        "self.is_checkpointed()",
        "self.is_quiet() && self.is_checkpointed()",
        test("what_is_open_or_not_durable_stays")),
    Bug("put-to-sleep-in-the-middle-of-a-call",
        "if slot.marks.may_sleep() {",
        "if slot.marks.is_quiet() {",
        test("an_account_that_sleeps_is_as_it_was")),
    Bug("what-a-dead-owner-has-left-is-used-again",
        "if !slot.has_panicked() && !slot.marks.is_poisoned() {",
        "if !slot.marks.is_poisoned() {",
        test("what_a_dead_owner_has_left_is_not_used")),
    Bug("a-poisoned-owner-goes-on-for-old-leases",
        "if self.has_panicked() || owner.flags().is_poisoned() {",
        "if self.has_panicked() {",
        test("a_poisoned_owner_decides_nothing_for_old_leases")),
    Bug("a-panic-within-a-panic-is-missed",
        "if answer.is_none() {",
        "if answer.is_none() && !std::thread::panicking() {",
        test("a_panic_within_a_panic_ends_the_owner_as_well")),
    Bug("who-finds-the-owner-at-work-is-not-heard",
        "Err(decide) => self.slot.send(decide).await.ok()",
        "Err(_) => None",
        test("who_finds_the_owner_at_work_waits_in_the_mailbox")),
    Bug("a-client-that-leaves-ends-the-work",
        "drop(actix_web::rt::spawn(work.map(drop).in_current_span()));",
        "drop(work);",
        test("sqlite::who_leaves_is_settled_all_the_same")),
    Bug("a-whole-body-is-on-its-way",
        "let mut has_waited = false;",
        "let mut has_waited = true;",
        test("sqlite::half_bodies_keep_nobody_out")),
    Bug("half-a-record-counts",
        "let is_whole = checksum(count, body) == u32::from_le_bytes(*sum);",
        "let is_whole = checksum(count, body) == u32::from_le_bytes(*sum) || count > 0;",
        test("a_record_that_is_not_whole")),
    Bug("room-that-is-not-free-is-written-over",
        "let is_free = |last: &u64| *last <= self.head.forgotten;",
        "let is_free = |last: &u64| *last <= self.head.forgotten.saturating_add(3);",
        test("it_has_what_was_appended_and_not_forgotten")),
    Bug("what-is-forgotten-is-not-noted",
        "state.write_head(|head| head.forgotten = last)?;",
        "state.head.forgotten = last;",
        chaos("power-cut")),
    Bug("room-is-never-used-again",
        "let first = free.unwrap_or(self.segments.len());",
        "let free = free.filter(|_| false); let first = free.unwrap_or(self.segments.len());",
        test("it_has_what_was_appended_and_not_forgotten")),
    Bug("the-journal-runs-ahead-of-checkpoints",
        "self.writes.saturating_sub(free)",
        "self.writes.saturating_sub(max)",
        test("the_journal_takes_its_time")),
    Bug("what-failed-counts-later",
        "self.file.write_all_at(&[0; BLOCK], place)?; sync",
        "let _ = place; sync",
        test("a_write_that_failed_does_not_count")),
    Bug("a-hole-in-the-journal-is-passed-over",
        "if *sequence != expected {",
        "if *sequence < expected {",
        test("a_record_that_is_missing_before_others")),
    Bug("the-older-head-counts",
        ".max_by_key(|head| head.generation)",
        ".min_by_key(|head| head.generation)",
        test("of_two_heads")),
    Bug("another-files-records-count",
        "(record.salt == salt).then_some(",
        "(record.salt.len() == salt.len()).then_some(",
        test("a_record_of_another_file")),
    Bug("one-account-takes-all",
        "if running <= running_max / 2 {",
        "if running <= running_max {",
        test("one_account_cannot_take_the_whole_process")),
    Bug("a-hold-is-released-twice",
        "let open = self.open.remove(&charge).ok_or(NotOpen)?;",
        "let open = *self.open.get(&charge).ok_or(NotOpen)?;",
        MODEL),
    Bug("holds-are-spent-again",
        "self.balance.less(self.held).less(self.unconfirmed_sum)",
        "self.balance.less(self.unconfirmed_sum)",
        MODEL),
    Bug("what-came-back-is-spent-at-once",
        "self.balance.less(self.held).less(self.unconfirmed_sum)",
        "self.balance.less(self.held)",
        SIMULATION),
    Bug("the-balance-is-not-checked",
        "if more > self.available() { return",
        "if more > Credits::MAX { return",
        MODEL),
    Bug("a-revoked-key-pays",
        "let Some(key) = self.key(key).filter(|key| !key.is_revoked) else {",
        "let Some(key) = self.key(key) else {",
        MODEL),
    Bug("a-limit-counted-in-the-wrong-window",
        "self.entry(kind, amount, charge.0, Some(open.key), open.day, open.month, now, bill)",
        "self.entry(kind, amount, charge.0, Some(open.key), now.day(), now.day().month(), "
        "now, bill)",
        test("a_call_counts_in_the_window_it_began_in")),
    Bug("yesterday-opens-again",
        "self.window.max(now)",
        "now",
        test("a_call_counts_in_the_window_it_began_in")),
    Bug("holds-do-not-count-against-limits",
        "_ if at == self.window => self.captured.checked_add(self.held)",
        "_ if at == self.window => Some(self.captured)",
        MODEL),
    Bug("a-charge-outlives-its-time",
        "open.expires_at <= now",
        "open.expires_at < now",
        test("expired_charges_are_told")),
    Bug("an-amount-outside-of-the-chain",
        "input.extend_from_slice(&entry.amount.nanos().to_le_bytes());",
        "",
        test("whatever_an_entry_says_is_in_its_link")),
    Bug("verify-passes-over-the-chain",
        "must(entry.link == self.link.next(entry)",
        "must(true || entry.link == self.link.next(entry)",
        test("verify_finds_what_was_tampered_with")),
    Bug("an-account-is-loaded-whatever-it-says",
        ".map_err(|what| StoreError::Quarantined { account: id, what })?;",
        ".unwrap_or_default();",
        test("an_account_that_does_not_agree_with_its_ledger_takes_no_calls")),
    Bug("the-epoch-is-not-checked",
        "Ok(usize::try_from(held).is_ok_and(|held| held == shards.len()))",
        "Ok(usize::try_from(held).is_ok())",
        test("who_was_taken_over_writes_nothing")),
    Bug("the-journal-is-not-taken-over",
        "state.write_head(|head| (head.owner, head.epoch) = (owner, lease.epoch))?;",
        "let _ = owner;",
        test("who_was_taken_over_writes_nothing")),
    Bug("a-late-takeover-steals-the-journal",
        "if head.epoch >= lease.epoch {",
        "if head.epoch >= i64::MAX {",
        test("who_was_overtaken_leaves_the_journal_alone")),
    Bug("what-is-left-in-the-journal-is-checkpointed-twice",
        "let mut after = mark(&self.write).await?;",
        "let mut after = (i64::MIN, 0);",
        chaos("failpoints --database sqlite")),
    Bug("what-is-left-in-the-journal-is-not-checkpointed",
        "self.checkpoint_refused(lease).await?;",
        "return self.checkpoint_refused(lease).await; #[allow(unreachable_code)]",
        test("what_is_left_in_the_journal")),
    Bug("answered-before-it-is-on-record",
        "if debit.is_none() && end.is_none() {",
        "if debit.is_none() || end.is_none() {",
        chaos("kill --rounds 5 --database sqlite")),
    Bug("a-broken-connection-is-used-again",
        "return Ok(!connection.is_in_transaction());",
        "return Ok(true);",
        chaos("outage-disk-full-without-journal")),
    Bug("commits-are-not-synced",
        '!failpoint::is_ordered("sqlite-synchronous-normal")',
        'failpoint::is_ordered("sqlite-synchronous-normal")',
        chaos("power-cut")),
    Bug("a-database-that-hangs-is-not-noticed",
        "if is_full || self.age() > self.age_max {",
        "if is_full {",
        chaos("outage-frozen")),
    Bug("a-drain-forgets-the-streams",
        "() = gateway.readiness.stopped() => End::Stopped",
        "() = std::future::pending() => End::Stopped",
        chaos("terminate --rounds 2 --database sqlite")),
    Bug("a-panic-answers-nobody",
        "if let Ok(answered) = AssertUnwindSafe(next.call(request)).catch_unwind().await {",
        "if let Ok::<_, ()>(answered) = Ok(next.call(request).await) {",
        chaos("panics --database sqlite")),
    Bug("no-bound-on-requests",
        "(before.saturating_add(amount) <= max).then_some(permit)",
        "(before <= usize::MAX - max).then_some(permit)",
        test("no_more_is_let_in_than_may")),
    Bug("a-tier-of-geminis-is-the-standard-one",
        "let tier = tier.map_or(Some(Service::Standard), |tier| tier_named(&tier));",
        "let tier = tier.map_or(Some(Service::Standard), |tier| "
        "tier_named(&tier).map(|_| Service::Standard));",
        test("sqlite::the_tier_that_gemini_has_served_is_billed")),
    Bug("a-fast-call-is-as-slow-as-its-tier",
        "if self.service != Some(Service::Fast) {",
        "if self.service != Some(Service::Batch) {",
        test("a_fast_call_is_fast_whatever_its_tier_is_called")),
    Bug("an-image-is-held-for-as-text",
        "if self.is_anthropic() { out = out.with(Dim::OutputImage);",
        "if !has(&[\"image\"]) { out = out.with(Dim::OutputImage);",
        test("what_a_request_shows_in_capitals_and_what_a_model_draws_unasked_is_not_ruled_out")),
    Bug("what-is-drawn-is-held-for-later",
        "pricing.draws() && !dialect.only_reads()",
        "false",
        test("sqlite::an_image_is_held_for_whatever_the_request_says")),
    Bug("an-image-without-details-is-text",
        "parts = parts.of_image_answer(convention, told.seen);",
        "let _ = told.seen;",
        test("sqlite::an_image_answer_is_billed_as_images")),
    Bug("an-hour-is-sold-at-the-price-of-five-minutes",
        "&& !pricing.names(Dim::CacheWrite1h)",
        "&& !pricing.may_name(Dim::Input)",
        test("sqlite::a_prompt_kept_for_an_hour_costs_an_hour")),
    Bug("what-is-kept-for-an-hour-is-billed-as-kept-for-minutes",
        "parts = parts.kept_for_an_hour();",
        "",
        test("sqlite::a_prompt_kept_for_an_hour_costs_an_hour")),
    Bug("searches-of-a-response-are-free",
        "told.search(searches_of_output(fields.get(\"output\")));",
        "",
        test("searches_are_read_where_each_protocol_shows_them")),
    Bug("searches-are-not-held-for",
        "let beside = call().with(Dim::WebSearch, self.searches);",
        "let beside = call();",
        test("searches_that_may_be_made_are_held_for")),
    Bug("a-search-that-nobody-tells-is-free",
        "parts.web_searches = parts.web_searches.or(Some(1));",
        "",
        test("sqlite::searches_are_held_for_and_billed")),
    Bug("a-dispute-is-a-refund",
        "(EntryKind::Dispute, _) => &mut self.disputed,",
        "(EntryKind::Dispute, _) => &mut self.refunded,",
        test("revenue_usage_and_margins_are_the_fold_of_the_entries")),
    Bug("a-day-has-the-first-entries-of-the-next",
        "days.next_if(|((day, _), _)| day.starts_at() < interval.ends_at)",
        "days.next_if(|((day, _), _)| day.starts_at() <= interval.ends_at)",
        test("revenue_usage_and_margins_are_the_fold_of_the_entries")),
    Bug("nothing-is-owed-to-who-is-idle",
        "adding.opening = sum(adding.opening, page.idle);",
        "",
        test("revenue_usage_and_margins_are_the_fold_of_the_entries")),
    Bug("what-test-accounts-do-is-revenue",
        "AND account.seq <= {FEW} AND account.updated_at >= $5",
        "AND account.seq <= {FEW} AND account.updated_at >= $5 OR account.environment = 2",
        test("revenue_usage_and_margins_are_the_fold_of_the_entries")),
    Bug("usage-of-all-has-test-calls",
        "(SELECT id FROM account WHERE environment = $2)",
        "(SELECT id FROM account WHERE environment >= $2)",
        test("revenue_usage_and_margins_are_the_fold_of_the_entries")),
]


def files(tree, folders):
    return [path for folder in folders for path in sorted((tree / folder).rglob("*.rs"))]


# Comments, and what may look like one or hold a brace but is text.
LEXICAL = re.compile(
    r"""//[^\n]*|/\*.*?\*/|b?r(?P<hashes>#*)".*?"(?P=hashes)|b?"(?:\\.|[^"\\])*"|b?'(?:\\.[^']*|[^'\\\n])'""",
    re.DOTALL)


def blank(text, is_blank):
    """The text with spaces in the place of the comments or texts that `is_blank` picks."""
    def replace(match):
        found = match.group()
        return re.sub(r"[^\n]", " ", found) if is_blank(found) else found
    return LEXICAL.sub(replace, text)


def is_comment(text):
    return text.startswith(("//", "/*"))


def words(text):
    """What counts of a text, each with where it begins and ends: words and signs."""
    found = [(match.group(), match.start(), match.end()) for match in re.finditer(r"\w+|[^\w\s]", text)]
    return [word for word, following in zip(found, found[1:] + [("", 0, 0)])
            if word[0] != "," or following[0] not in (")", "]", "}")]


def bodies(text, function):
    """Where each function of this name begins and ends."""
    bare = blank(text, lambda _: True)
    for match in re.finditer(rf"\bfn {function}\b", bare):
        depth = 0
        for place in range(match.end(), len(bare)):
            if bare[place] == ";" and depth == 0 and "{" not in bare[match.end():place]:
                break
            depth += {"{": 1, "}": -1}.get(bare[place], 0)
            if bare[place] == "}" and depth == 0:
                yield match.start(), place + 1
                break


def places(tree):
    """Looks for a bug's text: every file and span that has it."""
    sources = []
    for path in files(tree, CODE):
        text = path.read_text()
        found = words(blank(text, is_comment))
        sources.append((path, text, found, " " + " ".join(word for word, *_ in found) + " "))

    def look(bug):
        wanted = [word for word, *_ in words(bug.text)]
        joined = " " + " ".join(wanted) + " "
        for path, text, found, line in sources:
            at = line.find(joined)
            while at != -1:
                first = line.count(" ", 0, at)
                start, end = found[first][1], found[first + len(wanted) - 1][2]
                if not bug.function or any(begin <= start and end <= stop
                                           for begin, stop in bodies(text, bug.function)):
                    yield path, start, end
                at = line.find(joined, at + 1)
    return look


def check():
    """Fails if a bug cannot be planted, or the test that finds it is not there."""
    look, failed, names = places(ROOT), [], set()
    for bug in BUGS:
        found = [path.relative_to(ROOT) for path, *_ in look(bug)]
        if len(found) != 1:
            failed.append(f"{bug.name}: its text is {len(found)} times in the code {[*map(str, found)]}")
        if bug.found_by.command(ROOT) is None:
            failed.append(f"{bug.name}: there is no test {bug.found_by.name}")
        if bug.name in names:
            failed.append(f"{bug.name}: two bugs have this name")
        names.add(bug.name)
    print("\n".join(failed) if failed else f"{len(BUGS)} bugs can be planted")
    return 1 if failed else 0


def find(bug):
    """Whether the bug is found, and if not, why not."""
    found, command = list(places(TREE)(bug)), bug.found_by.command(TREE)
    if len(found) != 1 or command is None:
        return False, "it cannot be planted: see --check"
    path, start, end = found[0]
    before = path.read_text()
    path.write_text(before[:start] + bug.planted + before[end:])
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target/planted/target"))
    environment = dict(os.environ, CARGO_TARGET_DIR=target, RUST_BACKTRACE="0")
    try:
        result = subprocess.run(command, shell=True, cwd=TREE, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, env=environment, timeout=900)
    except subprocess.TimeoutExpired:
        # A server that hangs is noticed as well.
        return True, ""
    finally:
        path.write_text(before)
    if "could not compile" in result.stdout:
        return False, "it does not compile:\n" + result.stdout[-2000:]
    if result.returncode == 0:
        return False, f"`{command}` passes"
    # A command that did not get as far as a test has found nothing.
    if "error: test failed" not in result.stdout:
        return False, f"`{command}` fails without a test:\n" + result.stdout[-2000:]
    return True, ""


def main():
    arguments = sys.argv[1:]
    if "--check" in arguments:
        return check()
    if "--list" in arguments:
        for bug in BUGS:
            print(f"{bug.name:55} {bug.found_by.command(ROOT)}")
        return 0
    chosen = [bug for bug in BUGS
              if not arguments or any(bug.name.startswith(name) for name in arguments)]
    subprocess.run(f"rm -rf {TREE} && mkdir -p {TREE} && git archive HEAD | tar -x -C {TREE}",
                   shell=True, cwd=ROOT, check=True)
    failed = 0
    for bug in chosen:
        is_found, why = find(bug)
        failed += not is_found
        print(f"{bug.name:55} {'found' if is_found else 'NOT FOUND: ' + why}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
