//! Places where a test can make the server fail: crash, panic, or take its time.
//!
//! Only in builds with the feature `failpoints`, which no release has; elsewhere a failpoint is nothing at all.
//! Each has a name, and does what `FAILPOINTS` says, in the language of the crate `fail`:
//! `FAILPOINTS='writer-before-commit=5%return'`. Here `return` is what `kill -9` is: the process is gone, with
//! all it had not handed to the operating system.

/// Every failpoint, with the place where it stands. `tests/chaos` crashes at each of them.
pub const ALL: &[(&str, &str)] = &[
    ("migrate-before", "before the schema is brought up to date"),
    ("migrate-step", "between two migrations"),
    ("migrate-after", "after the last migration"),
    ("takeover-before", "before the leases are taken"),
    ("takeover-raised", "the epoch is raised, and not committed"),
    ("takeover-after", "the leases are taken, and nothing is known of it"),
    ("release-before", "before the leases are given back"),
    ("load-before", "before an account is loaded"),
    ("load-read", "an account is read, and not in memory"),
    ("load-started", "an account is in memory, and nobody knows of it"),
    ("passivate", "an idle account is let go"),
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
    ("writer-committed", "COMMIT is done, and nobody is told"),
    ("writer-half-acknowledged", "half of a batch's callers are told"),
    ("writer-acknowledged", "all of a batch's callers are told"),
    ("journal-before", "before a batch is journaled"),
    ("journal-sent", "a batch is on its way into the journal"),
    ("checkpoint-before-begin", "batches are in the journal alone"),
    ("checkpoint-rows-written", "a checkpoint has written the tables"),
    ("checkpoint-marked", "a checkpoint has moved the mark, and is not committed"),
    (
        "checkpoint-committed",
        "a checkpoint is committed, and the journal still has what is checkpointed",
    ),
    (
        "checkpoint-deleted",
        "what is checkpointed is deleted from the journal, and nothing is known of it",
    ),
    ("takeover-journal", "the lease of the tables is taken, and the journal not taken over"),
    ("checkpoint-left", "the leases are taken, and what the last process left is not checkpointed"),
    ("handler-entered", "a paid call has arrived"),
    ("charge-accepted", "a call is charged, and the upstream not asked"),
    ("upstream-answered", "the upstream has answered, and nothing is settled"),
    ("settle-decided", "a call is settled, and its commit awaited"),
    ("settle-on-record", "a call is on record, and not answered"),
    ("stream-hold-on-record", "a stream's hold is on record, and no byte sent"),
    ("stream-extended", "a stream's hold is extended"),
    ("stream-settled", "a stream's bill is on record, and its last frames not sent"),
    ("register-written", "a user is written, and not committed"),
];

/// The failpoints that SQLite alone has.
pub const OF_SQLITE: &[(&str, &str)] = &[(
    "journal-head-written",
    "the journal says otherwise whose it is, or what is forgotten, unsynced",
)];

/// The failpoints that only payments and events reach; `tests/it/stripe.rs` and `tests/it/x402.rs` crash at each of them.
pub const OF_PAYMENTS: &[(&str, &str)] = &[
    ("payment-opened", "a payment is on record, and its provider has not heard of it"),
    ("payment-decided", "a payment's credit is decided, and its commit awaited"),
    ("payment-credited", "a payment is credited, and nobody is told"),
    ("payment-reversed", "a part of a payment is taken back, and nobody is told"),
    ("payment-begun", "a payment is begun at its provider, and its money not moved"),
    ("payment-settled", "a payment's money has moved, and is not credited"),
    ("writer-events-written", "events are written, and not committed"),
];

/// Does what the test has ordered for this place, which is nothing but in a build with failpoints.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::reach($name);
    };
}

/// Reads the orders. Called once, at start.
#[cfg(feature = "failpoints")]
pub fn listen() {
    std::mem::forget(fail::FailScenario::setup());
}

/// See [`failpoint!`].
#[cfg(feature = "failpoints")]
pub fn reach(name: &str) {
    // `abort` runs no destructor, closes no connection politely and flushes nothing.
    let _: Option<()> = fail::eval(name, |_| std::process::abort());
}

/// Is the failpoint ordered to be `return`? For those that change what the server does.
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
