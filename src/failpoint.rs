//! Failpoints: places where a test can make the server crash, panic or wait.
//!
//! They exist only in builds with the feature `failpoints`, which no release has. Each has a name,
//! and does what the variable `FAILPOINTS` says, in the syntax of the crate `fail`:
//! `FAILPOINTS='writer-commit-sent=5%return'`. Here `return` has the effect of `kill -9`: the
//! process is gone, with all that it had not handed to the operating system.

/// The failpoints and what each stands between. `tests/chaos` crashes at each of them.
pub const ALL: &[(&str, &str)] = &[
    ("migrate-before", "before the schema is migrated"),
    ("migrate-step", "between two migrations"),
    ("migrate-after", "after the last migration"),
    ("takeover-before", "before the leases are taken"),
    ("takeover-raised", "the epoch is raised, and not committed"),
    ("takeover-after", "the leases are taken, and the process does not know yet"),
    ("release-before", "before the leases are given back"),
    ("load-before", "before an account is loaded"),
    ("load-read", "an account is read, and not in memory yet"),
    ("load-started", "an account is in memory, and not announced"),
    ("passivate", "an idle account is unloaded"),
    ("account-decided", "a decision is made, and not handed to the writer"),
    ("account-handed-over", "a decision is handed to the writer, and not answered"),
    ("sweep-expired", "an orphaned charge is ended, and not handed to the writer"),
    ("writer-gathered", "a write has reached the writer"),
    ("writer-before-begin", "before a transaction begins"),
    ("writer-begun", "a transaction has begun"),
    ("writer-lease-checked", "the lease is checked"),
    ("writer-changes-written", "keys, limits and payments are written"),
    ("writer-rows-written", "entries, balances, counters and usage are written"),
    ("writer-holds-written", "holds are written"),
    ("writer-answers-written", "recorded answers are written"),
    ("writer-commit-sent", "COMMIT is on its way"),
    ("writer-committed", "COMMIT is done, and not acknowledged"),
    ("writer-half-acknowledged", "half of a batch is acknowledged"),
    ("writer-acknowledged", "all of a batch is acknowledged"),
    ("journal-before", "before a batch is journaled"),
    ("journal-sent", "a batch is on its way into the journal"),
    ("checkpoint-before-begin", "batches are only in the journal"),
    ("checkpoint-rows-written", "a checkpoint has written the tables"),
    ("checkpoint-marked", "a checkpoint has moved the mark, and is not committed"),
    (
        "checkpoint-committed",
        "a checkpoint is committed, and the journal still has what is checkpointed",
    ),
    (
        "checkpoint-deleted",
        "what is checkpointed is deleted from the journal, and the process does not know yet",
    ),
    ("takeover-journal", "the lease of the tables is taken, and the journal not taken over"),
    ("checkpoint-left", "the leases are taken, and what the last process left is not checkpointed"),
    ("handler-entered", "a paid call has arrived"),
    ("charge-accepted", "a call is charged, and not sent to the upstream"),
    ("upstream-answered", "the upstream has answered, and nothing is settled"),
    ("settle-decided", "a call is settled, and its commit awaited"),
    ("settle-on-record", "a call is committed, and not answered"),
    ("stream-hold-on-record", "a stream's hold is committed, and no byte sent"),
    ("stream-extended", "a stream's hold is extended"),
    ("stream-settled", "a stream's bill is committed, and its last frames not sent"),
    ("register-written", "a user is written, and not committed"),
];

/// The failpoints that only SQLite has.
pub const OF_SQLITE: &[(&str, &str)] = &[(
    "journal-head-written",
    "the journal's head has a new owner or a new start, not synced yet",
)];

/// The failpoints that only payments and events reach. `tests/it/stripe.rs` and `tests/it/x402.rs`
/// crash at each of them.
pub const OF_PAYMENTS: &[(&str, &str)] = &[
    ("payment-opened", "a payment is committed, and not sent to its provider"),
    ("payment-decided", "a payment's credit is decided, and its commit awaited"),
    ("payment-credited", "a payment is credited, and not acknowledged"),
    ("payment-reversed", "a part of a payment is reversed, and not acknowledged"),
    ("payment-begun", "a payment has begun at its provider, and its money not moved"),
    ("payment-settled", "a payment's money has moved, and is not credited"),
    ("writer-events-written", "events are written, and not committed"),
];

/// The failpoints that only an erasure reaches. `tests/it/personal.rs` crashes at each of them.
pub const OF_ERASURES: &[(&str, &str)] = &[
    ("erasure-begun", "no payment of the user begins any more, and nothing is decided"),
    ("erasure-written", "the erasure is written, and not committed"),
    ("erasure-on-record", "the erasure is committed, and not in memory everywhere"),
];

/// The failpoints that only a change of the catalogue reaches. `tests/it/catalogue.rs` and
/// `tests/chaos` crash at each of them.
pub const OF_CATALOGUE: &[(&str, &str)] = &[
    ("catalogue-written", "a revision is written, and not committed"),
    ("catalogue-on-record", "a revision is committed, and not sold yet"),
];

/// The failpoints that only calls to models and what operators do about their money reach, besides
/// those of the catalogue. `tests/chaos` crashes at each of them.
pub const OF_MODELS: &[(&str, &str)] = &[
    ("attempt-failed", "a deployment has failed, and the next one is not asked"),
    ("prices-written", "a change of the price lists is written, and not committed"),
    ("prices-on-record", "a change of the price lists is committed, and not sold yet"),
    ("correction-decided", "a correction is decided, and its commit awaited"),
    ("correction-on-record", "a correction is committed, and not answered"),
    ("bills-recomputed", "bills are computed again, and not all of them"),
];

/// Does what `FAILPOINTS` says for this place; nothing in a build without failpoints.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::reach($name);
    };
}

/// Reads `FAILPOINTS`. Called once, at start.
#[cfg(feature = "failpoints")]
pub fn listen() {
    std::mem::forget(fail::FailScenario::setup());
}

/// See [`failpoint!`].
#[cfg(feature = "failpoints")]
pub fn reach(name: &str) {
    // `abort` runs no destructor, closes no connection and flushes nothing.
    let _: Option<()> = fail::eval(name, |_| std::process::abort());
}

/// Is the failpoint set to `return`? For failpoints that change what the server does.
#[must_use]
pub fn is_ordered(name: &str) -> bool {
    #[cfg(feature = "failpoints")]
    return fail::eval(name, |_| true).unwrap_or(false);
    #[cfg(not(feature = "failpoints"))]
    {
        let _ = name;
        false
    }
}
