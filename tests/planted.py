#!/usr/bin/env python3
"""Plants known bugs, one at a time, and sees that a test finds each.

    tests/planted.py            every bug
    tests/planted.py NAME...    those whose names begin so
    tests/planted.py --list     the bugs

Works on a copy of the committed tree, in target/planted. A bug is a text of one file and what it is replaced
by; where the text is not there any more, the bug must be written anew. A bug that does not compile is not
found. The last line counts: what passed is a bug that was found.
"""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TREE = ROOT / "target/planted/tree"

SIMULATION = "SIM_SEEDS=2000 cargo test -p domain --test simulation"
MODEL = "cargo test -p domain --test account_model"
CHAOS = "cargo test --features failpoints --test chaos -- "


def unit(name):
    return f"cargo test --features failpoints --lib {name}"


def it(name):
    return f"cargo test --features failpoints --test it {name}"


WRITER = "domain/src/writer.rs"
OWNER = "domain/src/owner.rs"
ACCOUNT = "domain/src/account.rs"
JOURNAL_LOG = "src/store/journal_log.rs"

# Name, file, the text, the bug, what finds it.
BUGS = [
    ("a-payment-is-credited-each-time-it-is-told", "src/payments/reconcile.rs",
     "        if payment.status == PaymentStatus::Confirmed {\n            return Ok(());\n        }\n        let lease",
     "        let lease", it("sqlite::a_checkout_is_credited_once")),
    ("an-answer-that-is-cut-off-is-whole", "src/upstream/http_client.rs",
     "                Some(Err(_)) => return Poll::Ready(Some(Err(BROKEN))),",
     "                Some(Err(_)) => return Poll::Ready(None),",
     unit("an_answer_that_is_cut_off_has_no_end")),
    ("only-a-closed-connection-is-kept", "src/upstream/http_client.rs",
     "                && link.is_ready(context)",
     "                && !link.is_ready(context)",
     unit("a_connection_is_used_again_when_its_answer_has_been_read")),
    ("what-is-won-is-not-given-again", "domain/src/payment.rs",
     "        if self.taken > self.wanted {", "        if self.taken > Credits::MAX {",
     unit("a_reversal_takes_what_is_there")),
    ("a-reversal-moves-on-from-anywhere", "domain/src/payment.rs",
     "            ReversalStep::Take(amount) => self.taken.checked_add(amount).unwrap_or(self.taken),",
     "            ReversalStep::Take(amount) => amount,",
     it("sqlite::what_is_spent_already_is_taken_from_what_comes")),
    ("a-webhook-of-stripe-is-never-stale", "src/payments/stripe.rs",
     "> TOLERANCE_SECONDS.unsigned_abs()", "> u64::MAX - 1", unit("only_what_stripe_has_signed_now")),
    ("a-suspended-account-loses-its-payment", OWNER,
     "self.state.credit(EntryKind::TopUp, payment.0, amount, now)?", "self.state.top_up(EntryKind::TopUp, payment.0, amount, now)?",
     it("sqlite::a_suspended_account_gets_what_was_paid")),
    ("checkpoints-tell-nobody", "src/store/journal.rs",
     "outbox::write_batch(&self.outbox, &transaction, &taken).await?", "{ let _ = &taken; false }",
     it("sqlite::every_event_is_told_once")),
    ("a-balance-is-told-as-it-first-was", "src/store/outbox.rs",
     "events.iter().partition(|event| event.kind == EventKind::BalanceUpdated);", "events.iter().partition(|_| false);",
     it("sqlite::an_endpoint_made_anew_is_told_the_balance")),
    ("a-name-is-connected-to-wherever-it-points", "src/webhooks/deliver.rs",
     ".filter(|address| is_private_allowed || is_public(*address))", ".filter(|_| true)",
     unit("a_name_that_turns_private_reaches_nothing")),
    ("the-last-microsecond-counts-in-the-next-hour", "domain/src/rollup.rs",
     "at.micros().div_euclid(MICROS_PER_HOUR)", "(at.micros() + 1).div_euclid(MICROS_PER_HOUR)",
     unit("hours_and_days_change_on_the_microsecond")),
    ("rollups-forget-what-was-there", "src/store/rollups.rs",
     "= {table}.{name} + excluded.{name}", "= excluded.{name}",
     it("sqlite::totals_are_the_ledgers_at_every_edge")),
    ("calls-count-before-and-behind-the-mark", "src/store/rollups.rs",
     '&format!("{BEYOND_MARK} AND +account_id = $2")', '"number > $1 - 9 AND +account_id = $2"',
     it("sqlite::totals_are_the_ledgers_at_every_edge")),
    ("a-statement-ends-a-call-early", "src/store/batch.rs",
     "            rest = others;", "            rest = others.get(1..).unwrap_or_default();",
     unit("usage_is_written_to_sqlite_as_it_was")),
    ("a-checkpoint-leaves-its-last-piece-out", "src/store/batch.rs",
     "for place in 0..pieces {", "for place in 0..pieces.saturating_sub(1).max(1) {",
     it("postgres::a_checkpoint_of_many_calls_writes_all_of_them_and_leaves_no_journal")),
    ("a-piece-ends-an-account-early", "src/store/batch.rs",
     "let moves = piece(&moves, place, pieces);",
     "let moves = piece(&moves[..moves.len() - 1], place, pieces);",
     it("postgres::a_checkpoint_of_many_accounts_is_whole")),
    ("a-piece-counts-other-keys", "src/store/batch.rs",
     "let spends = piece(&spends, place, pieces);", "let spends = piece(&spends, place / 2, pieces);",
     it("postgres::a_checkpoint_of_many_accounts_is_whole")),
    ("a-write-that-did-not-begin-may-have-happened", "src/store/lease.rs",
     "DbErr::Query(error) | DbErr::Exec(error) => DbErr::Conn(error),", "DbErr::Exec(error) => DbErr::Conn(error),",
     unit("a_write_that_did_not_begin_did_not_happen")),
    ("connections-are-trusted-for-ever", "src/store/mod.rs",
     "const TRUSTED_MAX: Duration = Duration::from_millis(250);",
     "const TRUSTED_MAX: Duration = Duration::from_hours(250);",
     it("a_database_that_cut_its_connections_is_read_from_at_once")),
    ("what-is-checkpointed-stays-in-the-journal", "src/actors/ledger/mod.rs",
     "let first = forgotten.saturating_add(1);", "let first = checkpoint.first;",
     it("postgres::a_checkpoint_of_many_calls_writes_all_of_them_and_leaves_no_journal")),
    ("memory-is-believed-over-the-records", "src/store/rollups.rs",
     "sums.filter(|sums| [sums.calls, sums.cost, sums.latency_micros] == found)", "sums.filter(|_| found[0] > 0)",
     it("sqlite::what_memory_knows_is_what_the_database_finds")),
    ("an-authorization-pays-whom-it-likes", "src/payments/x402.rs",
     "        if signed.accepted != self.requirements(amount) {", "        if signed.accepted.amount.is_empty() {",
     unit("only_what_was_asked_is_a_payment_to_us")),
    ("a-login-outlives-its-password", "src/store/sessions.rs",
     "WHERE id = $1 AND token_version = $2 AND", "WHERE id = $1 AND $2 >= 0 AND",
     it("sqlite::a_login_that_overlaps_a_new_password_begins_nothing")),
    ("an-operator-takes-what-is-held", ACCOUNT,
     "        let available = self.available();\n        if amount > available {\n            return Err(Decline::InsufficientCredits { price: amount, available });",
     "        let available = self.balance;\n        if amount > available {\n            return Err(Decline::InsufficientCredits { price: amount, available });",
     MODEL),
    ("the-total-is-set-and-not-added", "src/store/batch.rs",
     "        total_spent = key_spend.total_spent + excluded.total_spent\",\n);",
     "        total_spent = excluded.total_spent\",\n);", it("sqlite::a_key_may_spend_so_much_in_all")),
    ("a-refund-stays-in-the-total", ACCOUNT,
     "        self.total.take((), captured, held);\n", "", MODEL),
    ("a-changed-key-is-remembered-as-it-was", "src/keys/cache.rs",
     "        self.remembered.invalidate(&digest);\n    }\n\n    /// A new key",
     "        let _ = digest;\n    }\n\n    /// A new key", it("sqlite::a_key_is_for_what_its_owner_says_alone")),
    ("a-code-by-time-is-good-again", "src/store/two_factor.rs",
     "TotpStep.lt(step)", "TotpStep.lte(step)", it("sqlite::of_a_thousand_uses_of_a_code_one_wins")),
    ("a-recovery-code-is-good-again", "src/store/two_factor.rs",
     "                .filter(recovery_code::Column::UsedAt.is_null())\n                .col_expr(",
     "                .col_expr(", it("sqlite::of_a_thousand_uses_of_a_code_one_wins")),
    ("a-reset-token-is-good-again", "src/store/email_tokens.rs",
     "        .filter(email_token::Column::UsedAt.is_null())\n        .filter(email_token::Column::ExpiresAt.gt(now.micros()))\n        .col_expr(",
     "        .filter(email_token::Column::ExpiresAt.gt(now.micros()))\n        .col_expr(",
     it("sqlite::of_a_thousand_uses_of_a_reset_token_one_wins")),
    ("a-foreign-key-is-told-from-none", "src/keys/mod.rs",
     "        let listing = self.get(user, key).await?;\n        let act = self.act(origin, user, ActKind::KeyRevoked, key);",
     "        let listing = match self.get(user, key).await {\n            Err(KeysError::NotFound) if user.0 != key.0 => return Err(KeysError::NotActive),\n            found => found?,\n        };\n        let act = self.act(origin, user, ActKind::KeyRevoked, key);",
     it("sqlite::what_is_not_ones_own")),
    ("whoever-is-in-an-operators-way-is-one", "src/http/extract.rs",
     "            if user.role != Role::Admin {\n                return Err(ApiError::AccessDenied);\n            }\n",
     "", it("sqlite::every_operation_answers_everyone")),
    ("writer-sleeps-through-a-write", "src/actors/ledger/mod.rs",
     "        self.handed().writes.is_empty() || self.is_awake.swap(true, Ordering::AcqRel)\n",
     "        true\n", unit("no_write_is_slept_through")),
    ("acknowledge-before-commit", WRITER,
     "        if batch.is_empty() {\n",
     "        if batch.is_empty() || batch.entries.len() == 1 {\n", SIMULATION),
    ("unknown-counts-as-committed", WRITER,
     "            Attempt::Durable => {\n                work.is_unavailable = false;\n                self.finish(lane, Ok(()));\n            }\n            Attempt::Fenced => {\n                // An",
     "            Attempt::Durable | Attempt::Unknown => {\n                work.is_unavailable = false;\n                self.finish(lane, Ok(()));\n            }\n            Attempt::Fenced => {\n                // An",
     SIMULATION),
    ("fenced-counts-as-committed", WRITER,
     "                    self.finish(lane, Err(WriteError::Fenced));\n                }\n                self.is_fenced = true;",
     "                    self.finish(lane, Ok(()));\n                }\n                self.is_fenced = true;", SIMULATION),
    ("missing-rows-count-as-written", WRITER,
     "(Some(false), _) => current.pause_before(Step::Commit),",
     "(Some(false), _) => self.finish(lane, Ok(())),", SIMULATION),
    ("resent-without-a-look", WRITER,
     "                current.go(Step::Look);\n                // Who refuses has answered.\n                work.is_unavailable = attempt == Attempt::Unknown;",
     "                current.go(if attempt == Attempt::Unknown { Step::Commit } else { Step::Look });\n                // Who refuses has answered.\n                work.is_unavailable = attempt == Attempt::Unknown;",
     SIMULATION),
    ("failed-writes-do-not-poison", WRITER,
     "            pending.marks.poison();\n", "            let _ = pending;\n", SIMULATION),
    ("a-barrier-overtakes-a-split-batch", "domain/src/ids.rs",
     "AccountId(i64::MAX)", "AccountId(0)", unit("domain::writer")),
    ("a-change-without-trace-counts-as-fenced", WRITER,
     "if current.may_be_there && !current.work.leaves_trace() =>", "if false =>", unit("domain::writer")),
    ("let-go-while-its-write-is-not-handed-over", OWNER,
     "        let settled = self.state.settle(charge, outcome, now)?;\n",
     "        let settled = self.state.settle(charge, outcome, now)?;\n        self.publish();\n", SIMULATION),
    ("the-tables-overtake-the-journal", WRITER,
     "*after < backlog_from;", "*after < backlog_from || true;", SIMULATION),
    ("the-journal-overtakes-the-tables", WRITER,
     " && !self.in_tables.contains_key(&account) {", " {", SIMULATION),
    ("acknowledged-before-it-counts-as-backlog", WRITER,
     "            if marks.backlog_writes.fetch_add(1, Ordering::AcqRel) == 0 {",
     "            if marks.backlog_writes.load(Ordering::Acquire) == 0 {", SIMULATION),
    ("accounts-are-never-counted-out-of-the-journal", WRITER,
     "if marks.backlog_writes.fetch_sub(1, Ordering::AcqRel) == 1 {",
     "if marks.backlog_writes.fetch_sub(1, Ordering::AcqRel) == 0 {", unit("domain::writer")),
    ("who-refuses-counts-as-gone", WRITER,
     "work.is_unavailable = attempt == Attempt::Unknown;",
     "work.is_unavailable |= attempt == Attempt::Unknown;", unit("domain::writer")),
    ("a-checkpoint-found-leaves-the-writer-unavailable", WRITER,
     "            Some(Some(refused)) => {\n                self.tables.is_unavailable = false;\n",
     "            Some(Some(refused)) => {\n", unit("domain::writer")),
    ("a-checkpoint-found-too-late-is-as-large-the-next-time", WRITER,
     "        if found.is_some() {\n", "        if found == Some(None) {\n", unit("domain::writer")),
    ("a-checkpoint-is-put-off-for-ever", WRITER,
     "wanted.min(multiple(checkpoint_from, PUT_OFF, PUT_OFF_MAX))", "wanted", unit("domain::writer")),
    ("a-trickle-is-never-checkpointed", "src/actors/ledger/mod.rs",
     "writer.restless >= RESTLESS_MAX", "writer.restless == u32::MAX", unit("a_trickle_is_checkpointed")),
    ("a-page-of-what-was-left-is-passed-over", "src/store/journal.rs",
     "let of_epoch: Vec<&JournalRow> =\n                rows.iter()",
     "let of_epoch: Vec<&JournalRow> =\n                rows.iter().skip(rows.len() / 65)", unit("all_that_a_process_left")),
    ("who-cannot-be-brought-to-an-end-is-loaded", "src/actors/account/directory.rs",
     "if is_open && self.means.decide(&owner, ExpireCharges).is_none() {",
     "if is_open && self.means.decide(&owner, ExpireCharges).is_none() && account.0 < 0 {",
     it("sqlite::who_cannot_be_brought_to_an_end")),
    ("a-checkpoint-of-unknown-outcome-is-forgotten", WRITER,
     "            Some(None) => {\n",
     "            Some(None) if true => self.finish_checkpoint(&[]),\n            Some(None) => {\n", SIMULATION),
    ("poisoned-writes-are-written", WRITER,
     "partition(|pending| pending.marks.is_poisoned())", "partition(|_| false)", SIMULATION),
    ("durable-one-entry-early", WRITER,
     "fetch_max(entry.seq, Ordering::AcqRel)", "fetch_max(entry.seq + 1, Ordering::AcqRel)", SIMULATION),
    ("declined-without-asking-while-credits-come-back", ACCOUNT,
     "            && self.unconfirmed.is_empty()\n", "", SIMULATION),
    ("declined-without-asking-over-another-reason", ACCOUNT,
     "            && self.keys.iter().all(|key| key.limits.per_request.is_none());",
     ";", MODEL),
    ("credits-spendable-too-early", OWNER,
     "self.state.confirm(self.marks.durable_seq.load(Ordering::Acquire));",
     "self.state.confirm(self.state.seq());", SIMULATION),
    ("the-end-of-a-free-stream-is-not-awaited", OWNER,
     " || answer.is_some() || hold.is_some();", " || answer.is_some();", SIMULATION),
    ("a-settlement-is-not-awaited", OWNER,
     "let is_awaited = settled.entry.is_some() || answer.is_some() || hold.is_some();",
     "let is_awaited = false;", SIMULATION),
    ("counters-are-not-written", OWNER,
     "let key_spend = Some(charged.key_spend);", "let key_spend = None;", SIMULATION),
    ("let-go-before-it-is-written", "domain/src/residency.rs",
     "            && self.pending_writes.load(Ordering::Acquire) == 0\n", "", SIMULATION),
    ("let-go-before-it-is-checkpointed", "domain/src/residency.rs",
     "&& self.is_quiet() && self.is_checkpointed()", "&& self.is_quiet()", SIMULATION),
    ("let-go-while-somebody-holds-it", "domain/src/residency.rs",
     "self.in_flight.load(Ordering::Acquire) == 0 && self.is_quiet() && self.is_checkpointed()",
     "self.is_quiet() && self.is_checkpointed()",
     unit("what_is_open_or_not_durable_stays")),
    ("put-to-sleep-in-the-middle-of-a-call", "src/actors/account/directory.rs",
     "if resident.marks.may_sleep() {", "if resident.marks.is_quiet() {",
     unit("an_account_that_sleeps_is_as_it_was")),
    ("what-a-dead-owner-has-left-is-used-again", "src/actors/account/directory.rs",
     "if !owner.has_panicked() && !resident.marks.is_poisoned() {", "if !resident.marks.is_poisoned() {",
     unit("what_a_dead_owner_has_left_is_not_used")),
    ("a-poisoned-owner-goes-on-for-old-leases", "src/actors/account/actor.rs",
     "if cell.has_panicked() || owner.marks().is_poisoned() {", "if cell.has_panicked() {",
     unit("a_poisoned_owner_decides_nothing_for_old_leases")),
    ("a-panic-within-a-panic-is-missed", "src/actors/account/actor.rs",
     "        if answer.is_err() {\n", "        if answer.is_err() && !std::thread::panicking() {\n",
     unit("a_panic_within_a_panic_ends_the_owner_as_well")),
    ("who-finds-the-owner-at-work-is-not-heard", "src/actors/account/actor.rs",
     "Err(request) => self.resident.send(request).await.ok(),", "Err(_) => None,",
     unit("who_finds_the_owner_at_work_waits_in_the_mailbox")),
    ("a-client-that-leaves-ends-the-work", "src/http/mod.rs",
     "drop(actix_web::rt::spawn(work.map(drop)));", "drop(work);", it("sqlite::who_leaves_is_settled_all_the_same")),
    ("half-a-record-counts", JOURNAL_LOG,
     "let is_whole = checksum(count, body) == u32::from_le_bytes(*sum);",
     "let is_whole = checksum(count, body) == u32::from_le_bytes(*sum) || count > 0;",
     unit("a_record_that_is_not_whole")),
    ("room-that-is-not-free-is-written-over", JOURNAL_LOG,
     "let is_free = |last: &u64| *last <= self.head.forgotten;",
     "let is_free = |last: &u64| *last <= self.head.forgotten.saturating_add(3);",
     unit("it_has_what_was_appended_and_not_forgotten")),
    ("what-is-forgotten-is-not-noted", JOURNAL_LOG,
     "            state.write_head(|head| head.forgotten = last)?;\n", "            state.head.forgotten = last;\n",
     CHAOS + "power-cut"),
    ("room-is-never-used-again", JOURNAL_LOG,
     "let first = free.unwrap_or(self.segments.len());", "let free = free.filter(|_| false);\n        let first = free.unwrap_or(self.segments.len());",
     unit("it_has_what_was_appended_and_not_forgotten")),
    ("the-journal-runs-ahead-of-checkpoints", WRITER,
     "self.backlog.saturating_sub(free)", "self.backlog.saturating_sub(max)",
     unit("the_journal_takes_its_time")),
    ("what-failed-counts-later", JOURNAL_LOG,
     "            self.file.write_all_at(&[0; BLOCK], place)?;\n            sync", "            let _ = place;\n            sync",
     unit("a_write_that_failed_does_not_count")),
    ("a-hole-in-the-journal-is-passed-over", JOURNAL_LOG,
     "        if *sequence != expected {", "        if *sequence < expected {",
     unit("a_record_that_is_missing_before_others")),
    ("the-older-head-counts", JOURNAL_LOG,
     ".max_by_key(|head| head.generation)", ".min_by_key(|head| head.generation)",
     unit("of_two_heads")),
    ("another-files-records-count", JOURNAL_LOG,
     "(record.salt == salt).then_some(", "(record.salt.len() == salt.len()).then_some(",
     unit("a_record_of_another_file")),
    ("what-a-former-server-left-is-thrown-away", "src/store/journal.rs",
     "            rows.extend(former.rows().await?);\n", "            former.rows().await?;\n",
     unit("the_journal_of_a_former_server")),
    ("a-former-server-goes-on", "src/store/journal.rs",
     "                former.take(lease).await?;\n", "                let _ = former.epoch().await?;\n",
     unit("the_journal_of_a_former_server")),
    ("one-account-takes-all", "domain/src/residency.rs",
     "    if running <= running_max / 2 {\n", "    if running <= running_max {\n",
     unit("one_account_cannot_take_the_whole_process")),
    ("a-hold-is-released-twice", ACCOUNT,
     "let open = self.open.remove(&charge).ok_or(NotOpen)?;",
     "let open = *self.open.get(&charge).ok_or(NotOpen)?;", MODEL),
    ("holds-are-spent-again", ACCOUNT,
     "self.balance.less(self.held).less(self.unconfirmed_sum)",
     "self.balance.less(self.unconfirmed_sum)", MODEL),
    ("what-came-back-is-spent-at-once", ACCOUNT,
     "self.balance.less(self.held).less(self.unconfirmed_sum)",
     "self.balance.less(self.held)", SIMULATION),
    ("the-balance-is-not-checked", ACCOUNT,
     "        if start > available {\n            return", "        if start > Credits::MAX {\n            return", MODEL),
    ("a-revoked-key-pays", ACCOUNT,
     "let Some(key) = self.key(charge.key).filter(|key| !key.is_revoked) else {",
     "let Some(key) = self.key(charge.key) else {", MODEL),
    ("a-limit-counted-in-the-wrong-window", ACCOUNT,
     "self.entry(kind, amount, charge.0, Some(open.key), open.day, open.month, now)",
     "self.entry(kind, amount, charge.0, Some(open.key), now.day(), now.day().month(), now)",
     unit("a_call_counts_in_the_window_it_began_in")),
    ("yesterday-opens-again", "domain/src/limits.rs",
     "        self.window.max(now)\n", "        now\n",
     unit("a_call_counts_in_the_window_it_began_in")),
    ("holds-do-not-count-against-limits", "domain/src/limits.rs",
     "_ if at == self.window => self.captured.checked_add(self.held),",
     "_ if at == self.window => Some(self.captured),", MODEL),
    ("a-charge-outlives-its-time", ACCOUNT,
     "open.expires_at <= now", "open.expires_at < now", unit("expired_charges_are_told")),
    ("an-amount-outside-of-the-chain", "domain/src/chain.rs",
     "            .chain_update(entry.amount.nanos().to_le_bytes())\n", "",
     unit("whatever_an_entry_says_is_in_its_link")),
    ("verify-passes-over-the-chain", "domain/src/audit.rs",
     "must(entry.link == self.link.next(entry), ", "must(true || entry.link == self.link.next(entry), ",
     it("verify_finds_what_was_tampered_with")),
    ("an-account-is-loaded-whatever-it-says", "src/store/accounts.rs",
     "                .map_err(|what| StoreError::Quarantined { account: id, what })?;\n",
     "                .unwrap_or_default();\n",
     it("an_account_that_does_not_agree_with_its_ledger_takes_no_calls")),
    ("the-epoch-is-not-checked", "src/store/lease.rs",
     "Ok(usize::try_from(held).is_ok_and(|held| held == shards.len()))",
     "Ok(usize::try_from(held).is_ok())",
     unit("who_was_taken_over_writes_nothing")),
    ("the-journal-is-not-taken-over", JOURNAL_LOG,
     "            state.write_head(|head| (head.owner, head.epoch) = (owner, lease.epoch))?;\n",
     "            let _ = owner;\n",
     unit("who_was_taken_over_writes_nothing")),
    ("a-late-takeover-steals-the-journal", JOURNAL_LOG,
     "if head.epoch >= lease.epoch {", "if head.epoch >= i64::MAX {",
     unit("who_was_overtaken_leaves_the_journal_alone")),
    ("what-is-left-in-the-journal-is-checkpointed-twice", "src/store/journal.rs",
     "let mut after = mark(&self.write).await?;", "let mut after = (i64::MIN, 0);",
     CHAOS + "failpoints --database sqlite"),
    ("what-is-left-in-the-journal-is-not-checkpointed", "src/store/journal.rs",
     "        self.checkpoint_refused(lease).await?;\n", "        return self.checkpoint_refused(lease).await;\n        #[allow(unreachable_code)]\n",
     unit("what_is_left_in_the_journal")),
    ("answered-before-it-is-on-record", "src/pipeline/settle.rs",
     "    if debit.is_none() && end.is_none() {\n", "    if debit.is_none() || end.is_none() {\n",
     CHAOS + "kill --rounds 5 --database sqlite"),
    ("a-broken-connection-is-used-again", "src/store/mod.rs",
     "        return Ok(!connection.is_in_transaction());\n", "        return Ok(true);\n",
     CHAOS + "outage-disk-full-without-journal"),
    ("commits-are-not-synced", "src/store/mod.rs",
     "    !failpoint::is_ordered(\"sqlite-synchronous-normal\")\n",
     "    failpoint::is_ordered(\"sqlite-synchronous-normal\")\n",
     CHAOS + "power-cut"),
    ("a-database-that-hangs-is-not-noticed", "src/actors/ledger/mod.rs",
     "if is_full || self.age() > self.age_max {", "if is_full {", CHAOS + "outage-frozen"),
    ("a-drain-forgets-the-streams", "src/pipeline/relay.rs",
     "            () = gateway.readiness.stopped() => End::Stopped,\n",
     "            () = std::future::pending() => End::Stopped,\n", CHAOS + "terminate --rounds 2 --database sqlite"),
    ("a-panic-answers-nobody", "src/http/edge.rs",
     "if let Ok(answered) = AssertUnwindSafe(next.call(request)).catch_unwind().await {",
     "if let Ok::<_, ()>(answered) = Ok(next.call(request).await) {",
     CHAOS + "panics --database sqlite"),
    ("no-bound-on-requests", "src/pipeline/readiness.rs",
     "(before.saturating_add(amount) <= max).then_some(permit)", "(before <= usize::MAX - max).then_some(permit)",
     unit("no_more_is_let_in_than_may")),
]


def run(command, **options):
    return subprocess.run(command, shell=True, cwd=TREE, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **options)


def find(bug):
    """Whether the bug is found, and if not, why not."""
    _, file, text, planted, command = bug
    path = TREE / file
    before = path.read_text()
    if before.count(text) != 1:
        return False, f"the text is {before.count(text)} times in {file}"
    path.write_text(before.replace(text, planted))
    try:
        environment = dict(os.environ, CARGO_TARGET_DIR=str(ROOT / "target/planted/target"),
                           RUST_BACKTRACE="0")
        try:
            result = run(command, env=environment, timeout=900)
        except subprocess.TimeoutExpired:
            # A server that hangs is noticed as well.
            return True, ""
    finally:
        path.write_text(before)
    if "could not compile" in result.stdout:
        return False, "it does not compile:\n" + result.stdout[-2000:]
    if result.returncode == 0:
        return False, f"`{command}` passes"
    return True, ""


def main():
    bugs = BUGS
    if "--list" in sys.argv:
        for name, file, *_, command in bugs:
            print(f"{name:45} {file:32} {command}")
        return 0
    chosen = [bug for bug in bugs
              if len(sys.argv) == 1 or any(bug[0].startswith(name) for name in sys.argv[1:])]
    subprocess.run(f"rm -rf {TREE} && mkdir -p {TREE} && git archive HEAD | tar -x -C {TREE}",
                   shell=True, cwd=ROOT, check=True)
    failed = 0
    for bug in chosen:
        is_found, why = find(bug)
        failed += not is_found
        print(f"{bug[0]:45} {'found' if is_found else 'NOT FOUND: ' + why}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
