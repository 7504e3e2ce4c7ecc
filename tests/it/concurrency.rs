//! Many calls at once on one account: what is worth ten admits exactly ten.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Answer, Database, Key, Server, on_both};

on_both!(a_balance_worth_ten_admits_ten, limits_worth_ten_admit_ten, holds_never_overspend);

const ROUNDS: i64 = 100;
const CALLS: usize = 64;
const WORTH: i64 = 10;
/// Of `/api/hub/rag/index`.
const PRICE: i64 = 500_000;

async fn at_once(server: &Server, key: &Key, path: &str, body: &Value) -> Vec<Answer> {
    join_all((0..CALLS).map(|_| server.post(path, body).key(key).send())).await
}

/// How many were served; all others were refused with this error.
fn served(answers: &[Answer], error: &str) -> i64 {
    let mut served = 0;
    for answer in answers {
        match answer.status.as_u16() {
            200 => served += 1,
            402 => {
                let told = &answer.body["error"];
                assert_eq!(if told.is_object() { &told["code"] } else { told }, error);
            }
            _ => panic!("{}", answer.text),
        }
    }
    served
}

async fn a_balance_worth_ten_admits_ten(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    for round in 0..ROUNDS {
        user.pay("0.0050").await;
        let answers = at_once(&server, &key, "/api/hub/rag/index", &json!({})).await;
        assert_eq!(served(&answers, "Insufficient credits"), WORTH, "round {round}");
        assert_eq!(user.balance().await, "0.0000");
    }
    assert_eq!(user.folded().await, 0);
    assert_eq!(i64::try_from(user.ledger().await.len()).unwrap(), ROUNDS * (WORTH + 1));
}

async fn limits_worth_ten_admit_ten(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let mut paid = 0;
    for (limits, admitted) in [
        (json!({ "daily_limit": 0.0050 }), WORTH),
        (json!({ "monthly_limit": 0.0050 }), WORTH),
        // Two limits: the tighter one decides.
        (
            json!({ "daily_limit": 0.0100, "monthly_limit": 0.0050, "per_request_limit": 0.0005 }),
            WORTH,
        ),
        (json!({ "per_request_limit": 0.0004 }), 0),
    ] {
        for round in 0..ROUNDS {
            // A new key each round; the balance covers every call.
            let key = user.key().await;
            user.limit(&key, &limits).await;
            user.pay("0.0320").await;
            paid += 32_000_000;
            let answers = at_once(&server, &key, "/api/hub/rag/index", &json!({})).await;
            assert_eq!(
                served(&answers, "Spending limit exceeded"),
                admitted,
                "{limits} round {round}"
            );
            paid -= admitted * PRICE;
            user.delete(&format!("/api/keys/{}", key.id)).expect(204).await;
        }
    }
    assert_eq!(user.folded().await, paid);
}

/// Token prices: the sum of what is held never exceeds the balance, whatever the answers cost in
/// the end.
async fn holds_never_overspend(database: Database) {
    let server = Server::start(&database).await;
    let user = server.user("someone").await;
    let key = user.key().await;
    let body = json!({ "messages": [{ "role": "user", "content": "Hello!" }], "max_tokens": 20 });
    for round in 0..20 {
        user.pay("0.0300").await;
        let before = user.folded().await;
        let answers = at_once(&server, &key, "/v1/chat/completions", &body).await;
        let served = served(&answers, "insufficient_quota");
        let costs = answers.iter().filter(|answer| answer.status == 200).map(|answer| {
            let cost: domain::Credits = answer.header("x-polysystems-cost").parse().unwrap();
            cost.nanos()
        });
        assert_eq!(user.folded().await, before - costs.sum::<i64>(), "round {round}");
        assert!(served >= 8, "round {round}: {served}");
        let balance = user.get("/api/payments/credits/balance").expect(200).await;
        assert_eq!(balance.number("held"), "0.0000");
        assert_eq!(balance.number("available"), balance.number("balance"));
    }
}
