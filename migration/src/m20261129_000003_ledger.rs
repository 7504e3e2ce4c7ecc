//! The ledger, holds, recorded answers, usage records with their rollups, the journal, and the
//! leases that fence their writer.

use crate::{Dialect, Step, texts};

pub(crate) const STEP: Step = Step {
    name: "m20261129_000003_ledger",
    up,
    undo: &[],
    tables: &[
        "shard_lease",
        "ledger_entry",
        "hold",
        "hold_end",
        "recorded_answer",
        "usage_record",
        "usage_hour",
        "usage_day",
        "usage_mark",
        "journal",
        "journal_mark",
        "journal_refused",
    ],
    functions: &["refuse_change"],
};

/// Columns of the latency histogram. `domain::rollup` defines their bounds.
const BUCKETS: usize = 24;

fn up(dialect: &Dialect) -> Vec<String> {
    let parts = [leases(), ledger(dialect), holds(), usage(), journal(dialect)];
    parts.into_iter().flatten().collect()
}

fn leases() -> Vec<String> {
    texts(&[
        "CREATE TABLE shard_lease (
            shard INTEGER NOT NULL PRIMARY KEY,
            owner {uuid},
            epoch BIGINT NOT NULL
        )",
        "INSERT INTO shard_lease (shard, epoch)
            WITH RECURSIVE shards (shard) AS (
                SELECT 0 UNION ALL SELECT shard + 1 FROM shards WHERE shard < 127
            )
            SELECT shard, 0 FROM shards",
    ])
}

fn ledger(dialect: &Dialect) -> Vec<String> {
    // SQLite has a default for rows that are inserted by hand. PostgreSQL has none.
    let none = "0".repeat(64);
    let no_link = if dialect.is_postgres { String::new() } else { format!(" DEFAULT X'{none}'") };
    let entries = format!(
        "CREATE TABLE ledger_entry (
            account_id BIGINT NOT NULL,
            seq BIGINT NOT NULL CHECK (seq > 0),
            epoch BIGINT NOT NULL,
            kind SMALLINT NOT NULL,
            amount BIGINT NOT NULL,
            balance_after BIGINT NOT NULL CHECK (balance_after >= 0),
            reference {{uuid}} NOT NULL,
            key_id {{uuid}},
            day INTEGER NOT NULL,
            month INTEGER NOT NULL,
            at BIGINT NOT NULL,
            link {{bytes}} NOT NULL{no_link},
            PRIMARY KEY (account_id, seq)
        ) {{clustered}}"
    );
    // The ledger is append-only for every database user.
    let append_only: &[&str] = if dialect.is_postgres {
        &[
            "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
                     BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$",
            "CREATE TRIGGER ledger_entry_append_only
                BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entry
                FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
        ]
    } else {
        &[
            "CREATE TRIGGER ledger_entry_no_update BEFORE UPDATE ON ledger_entry
             BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
            "CREATE TRIGGER ledger_entry_no_delete BEFORE DELETE ON ledger_entry
             BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
        ]
    };
    let tables = texts(&[
        &entries,
        // A payment is credited once and a charge refunded once, even if the server has an error.
        // The index is partial, so that the many charges and captures do not need it.
        "CREATE UNIQUE INDEX ledger_entry_credit_once
            ON ledger_entry (account_id, kind, reference) WHERE kind IN (1, 4)",
        // Finds top-ups and other kinds that are rare among the charges and captures.
        "CREATE INDEX ledger_entry_of_money ON ledger_entry (account_id, kind, seq)
            WHERE kind NOT IN (2, 3)",
    ]);
    [tables, texts(append_only)].concat()
}

fn holds() -> Vec<String> {
    texts(&[
        // Has only open holds, so the table stays small. A row is deleted when its end is written.
        "CREATE TABLE hold (
            id {uuid} NOT NULL PRIMARY KEY,
            account_id BIGINT NOT NULL,
            key_id {uuid} NOT NULL,
            epoch BIGINT NOT NULL,
            day INTEGER NOT NULL,
            month INTEGER NOT NULL,
            amount BIGINT NOT NULL CHECK (amount >= 0),
            earned BIGINT NOT NULL CHECK (earned >= 0 AND earned <= amount),
            opened_at BIGINT NOT NULL,
            expires_at BIGINT NOT NULL
        ) {clustered}",
        "CREATE INDEX hold_account_id ON hold (account_id)",
        // The key ensures that a hold has one end, and the check that no more was captured than
        // held. The epoch says which process ended it, so that a process does not take another
        // one's end for its own.
        "CREATE TABLE hold_end (
            account_id BIGINT NOT NULL,
            hold_id {uuid} NOT NULL,
            kind SMALLINT NOT NULL,
            held BIGINT NOT NULL,
            captured BIGINT NOT NULL CHECK (captured >= 0 AND captured <= held),
            at BIGINT NOT NULL,
            epoch BIGINT NOT NULL DEFAULT 0,
            PRIMARY KEY (account_id, hold_id)
        ) {clustered}",
        // Answers to requests with an Idempotency-Key. NULL is an answer that was too large to
        // store.
        "CREATE TABLE recorded_answer (
            account_id BIGINT NOT NULL,
            key_digest {bytes} NOT NULL,
            fingerprint {bytes} NOT NULL,
            reference {uuid} NOT NULL,
            answer {bytes},
            created_at BIGINT NOT NULL,
            expires_at BIGINT NOT NULL,
            PRIMARY KEY (account_id, key_digest)
        )",
        "CREATE INDEX recorded_answer_expires_at ON recorded_answer (expires_at)",
    ])
}

fn usage() -> Vec<String> {
    let (hours, days) = (rollup("usage_hour"), rollup("usage_day"));
    texts(&[
        // Numbered in the order of writing. `seq` is the number of the call's last ledger entry.
        "CREATE TABLE usage_record (
            number {serial},
            id {uuid} NOT NULL,
            account_id BIGINT NOT NULL,
            seq BIGINT,
            key_id {uuid} NOT NULL,
            method TEXT NOT NULL,
            route TEXT NOT NULL,
            upstream TEXT NOT NULL,
            status SMALLINT NOT NULL,
            cost BIGINT NOT NULL,
            prompt_tokens BIGINT NOT NULL,
            completion_tokens BIGINT NOT NULL,
            started_at BIGINT NOT NULL,
            latency_micros BIGINT NOT NULL,
            ending SMALLINT NOT NULL DEFAULT 1,
            tally SMALLINT NOT NULL DEFAULT 1,
            model TEXT NOT NULL DEFAULT ''
        )",
        // Finds the recent calls of an account, and the call of a ledger entry. Ids rise with time.
        // Another index would make each paid call write another page.
        "CREATE INDEX usage_record_account_id ON usage_record (account_id, id)",
        &hours,
        &days,
        // The number of the last record that is in the rollups.
        "CREATE TABLE usage_mark (number BIGINT NOT NULL)",
        "INSERT INTO usage_mark VALUES (0)",
    ])
}

fn rollup(name: &str) -> String {
    let buckets =
        (0..BUCKETS).map(|bucket| format!("l{bucket} BIGINT NOT NULL,")).collect::<Vec<_>>();
    format!(
        "CREATE TABLE {name} (
            account_id BIGINT NOT NULL,
            period INTEGER NOT NULL,
            key_id {{uuid}} NOT NULL,
            method TEXT NOT NULL,
            route TEXT NOT NULL,
            model TEXT NOT NULL,
            upstream TEXT NOT NULL,
            status SMALLINT NOT NULL,
            calls BIGINT NOT NULL,
            cost BIGINT NOT NULL,
            prompt_tokens BIGINT NOT NULL,
            completion_tokens BIGINT NOT NULL,
            latency_micros BIGINT NOT NULL,
            {buckets}
            PRIMARY KEY (account_id, period, key_id, method, route, model, upstream, status)
        ) {{clustered}}",
        buckets = buckets.concat(),
    )
}

fn journal(dialect: &Dialect) -> Vec<String> {
    // On SQLite the journal is a separate file, which the server creates.
    let table: &[&str] = if dialect.is_postgres {
        &[
            // One row for each batch and only one index, because every paid call waits for this
            // write. A row is written to one page if it fits.
            "CREATE TABLE journal (
                epoch BIGINT NOT NULL,
                number BIGINT NOT NULL,
                writes BYTEA NOT NULL,
                PRIMARY KEY (epoch, number)
            ) WITH (toast_tuple_target = 8160)",
            // Rows live for a short time and consist mostly of ids and links. Compressing them
            // costs each call more than it saves.
            "ALTER TABLE journal ALTER COLUMN writes SET STORAGE EXTERNAL",
        ]
    } else {
        &[]
    };
    let others = texts(&[
        // The only row says up to which batch the journal is checkpointed. Batches above it are
        // valid. Those up to it are in the tables and may be deleted.
        "CREATE TABLE journal_mark (
            id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
            epoch BIGINT NOT NULL,
            number BIGINT NOT NULL
        )",
        "INSERT INTO journal_mark (id, epoch, number) VALUES (1, 0, 0)",
        // Entries of the journal that the tables refused. They stay until an operator repairs the
        // account.
        "CREATE TABLE journal_refused (
            epoch BIGINT NOT NULL,
            number BIGINT NOT NULL,
            account_id BIGINT NOT NULL,
            writes {bytes} NOT NULL,
            PRIMARY KEY (epoch, number, account_id)
        ) {clustered}",
        "CREATE INDEX journal_refused_account_id ON journal_refused (account_id)",
    ]);
    [texts(table), others].concat()
}
