//! The yardsticks that the server is compared with. Each is a separate process: this benchmark,
//! started with `--serve`.

use std::net::TcpListener;
use std::process::Command;

use actix_web::web::{self, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use sea_orm::sqlx::sqlite::SqliteJournalMode;
use sea_orm::{
    ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, DbErr,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait as _,
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use test_support::bench::Running;
use test_support::free_port;

const WORKERS: usize = 2;
const ROW_LOCK_ACCOUNTS: usize = 10_000;
/// A little fewer than PostgreSQL's default limit of connections.
const ROW_LOCK_CONNECTIONS: u32 = 64;

/// The sandbox's answer to [`super::HELLO`].
const ANSWER: &str = concat!(
    r#"{"created":1795476412,"finish_reason":"stop","id":"chat-01a20abbd9d476398bd0156e1b066777","#,
    r#""message":{"content":"This is a simulated answer of the Polysystems sandbox. You wrote: Hello!","#,
    r#""role":"assistant"},"model":"polysystems-sandbox","object":"agent.chat","simulated":true,"#,
    r#""usage":{"completion_tokens":17,"prompt_tokens":9,"total_tokens":26}}"#
);

/// Starts a yardstick; [`serve`] defines the values of `what`.
pub(crate) fn start(what: &str, database: &str) -> Running {
    let port = free_port();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--serve", what, &port.to_string(), database]);
    Running::start(command, port).expect("a yardstick did not start")
}

/// Runs a yardstick until the process is killed.
pub(crate) fn serve(what: &str, port: u16, database: &str) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    match what {
        "bare" => bare(listener),
        "upstream" => upstream(listener),
        "row-lock" => row_lock(listener, database),
        other => panic!("{other} is no yardstick"),
    }
}

fn respond() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(("x-polysystems-upstream", "sandbox"))
        .insert_header(("x-polysystems-cost", "0.00226"))
        .insert_header(("x-polysystems-balance", "99999.99774"))
        .insert_header(("x-request-id", "req-01a20abb-d9d4-7639-8bd0-156e1b066777"))
        .content_type("application/json")
        .body(ANSWER)
}

/// A bare actix-web handler with the same answer.
fn bare(listener: TcpListener) {
    actix_web::rt::System::new().block_on(async move {
        let app = || App::new().default_service(web::to(|_: web::Bytes| async { respond() }));
        let server = HttpServer::new(app).workers(WORKERS).listen(listener).unwrap();
        server.run().await.unwrap();
    });
}

/// The usual way to charge: lock the account's row for each charge.
fn row_lock(listener: TcpListener, url: &str) {
    let url = url.to_owned();
    actix_web::rt::System::new().block_on(async move {
        let mut options = ConnectOptions::new(&url);
        let is_sqlite = url.starts_with("sqlite");
        let connections = if is_sqlite { 1 } else { ROW_LOCK_CONNECTIONS };
        options.max_connections(connections).sqlx_logging(false).test_before_acquire(false);
        options.map_sqlx_sqlite_opts(|sqlite| {
            sqlite
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(sea_orm::sqlx::sqlite::SqliteSynchronous::Full)
        });
        let database = Database::connect(options).await.unwrap();
        for sql in [
            "CREATE TABLE charged (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, seq BIGINT NOT NULL)",
            "CREATE TABLE charge (account BIGINT NOT NULL, seq BIGINT NOT NULL, amount BIGINT NOT NULL,
                balance_after BIGINT NOT NULL, PRIMARY KEY (account, seq))",
            "WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < 9999)
                INSERT INTO charged SELECT n, 100000000000000, 0 FROM s",
        ] {
            database.execute_unprepared(sql).await.unwrap();
        }
        let app = move || {
            let data = Data::new(database.clone());
            App::new().app_data(data).default_service(web::to(charge))
        };
        let server = HttpServer::new(app).workers(WORKERS).listen(listener).unwrap();
        server.run().await.unwrap();
    });
}

async fn charge(
    request: HttpRequest,
    database: Data<DatabaseConnection>,
    _: web::Bytes,
) -> HttpResponse {
    let account = request.headers().get("x-api-key").and_then(|key| key.to_str().ok());
    let account: i64 = account.and_then(|account| account.parse().ok()).unwrap();
    match charge_one(&database, account).await {
        Ok(()) => respond(),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

async fn charge_one(database: &DatabaseConnection, account: i64) -> Result<(), DbErr> {
    let backend = database.get_database_backend();
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..Default::default()
    };
    let transaction = database.begin_with_options(options).await?;
    let lock = match backend {
        sea_orm::DbBackend::Postgres => "SELECT balance, seq FROM charged WHERE id = $1 FOR UPDATE",
        _ => "SELECT balance, seq FROM charged WHERE id = $1",
    };
    let statement = Statement::from_sql_and_values(backend, lock, [account.into()]);
    let row = transaction.query_one_raw(statement).await?.unwrap();
    let (balance, seq): (i64, i64) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
    let (amount, seq) = (2_260_000_i64, seq + 1);
    for (sql, values) in [
        (
            "UPDATE charged SET balance = $2, seq = $3 WHERE id = $1",
            vec![account.into(), (balance - amount).into(), seq.into()],
        ),
        (
            "INSERT INTO charge VALUES ($1, $2, $3, $4)",
            vec![account.into(), seq.into(), amount.into(), (balance - amount).into()],
        ),
    ] {
        transaction.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
    }
    transaction.commit().await
}

/// The callers of the row lock: account numbers.
pub(crate) fn row_lock_callers(count: usize) -> Vec<String> {
    assert!(count <= ROW_LOCK_ACCOUNTS);
    (0..count).map(|number| number.to_string()).collect()
}

/// A model that answers at once: with a chat completion or, if the request asks for a stream, with
/// a stream of five pieces.
fn upstream(listener: TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let whole = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{ "index": 0, "finish_reason": "stop",
            "message": { "role": "assistant", "content": "Hello! How can I help you today?" } }],
        "usage": { "prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18 },
    })
    .to_string();
    let whole = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{whole}",
        whole.len()
    );
    let piece = |event: &str| {
        let frame = format!("data: {event}\n\n");
        format!("{:x}\r\n{frame}\r\n", frame.len())
    };
    let word = json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{ "index": 0, "delta": { "content": " word" }, "finish_reason": null }],
    });
    let usage = json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [],
        "usage": { "prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12 } });
    let mut pieces = vec![
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_owned(),
    ];
    pieces.extend((0..3).map(|_| piece(&word.to_string())));
    pieces.push(piece(&usage.to_string()));
    pieces.push(format!("{}0\r\n\r\n", piece("[DONE]")));
    let answers: &'static (String, Vec<String>) = Box::leak(Box::new((whole, pieces)));
    test_support::run(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, answers));
        }
    });
}

async fn answer(mut stream: TcpStream, (whole, pieces): &(String, Vec<String>)) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::with_capacity(4_096);
    loop {
        let Some(length) = length(&buffer) else {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
            continue;
        };
        let is_stream = buffer[..length].windows(13).any(|bytes| bytes == b"\"stream\":true");
        buffer.drain(..length);
        let written = if is_stream {
            let mut written = Ok(());
            for piece in pieces {
                written = written.and(stream.write_all(piece.as_bytes()).await);
            }
            written
        } else {
            stream.write_all(whole.as_bytes()).await
        };
        if written.is_err() {
            return;
        }
    }
}

/// The length of the first request in the buffer, if it is complete.
fn length(buffer: &[u8]) -> Option<usize> {
    let mut headers = [httparse::EMPTY_HEADER; 48];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(end) = request.parse(buffer).ok()? else { return None };
    let header =
        request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length: usize =
        header.map_or(0, |header| std::str::from_utf8(header.value).unwrap().parse().unwrap());
    (buffer.len() >= end + length).then_some(end + length)
}
