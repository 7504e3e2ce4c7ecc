//! The paid call that benchmarks and component tests use.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use actix_web::web::Bytes;
use polysystems::clock::Clock;
use polysystems::pipeline::{self, Arrival, Gateway, Served};
use polysystems::upstream::Client;
use uuid::Uuid;

use domain::route_group::RouteGroup;
use domain::{AccountId, ChargeId, Credits, Ending, KeyId, Tally, Timestamp, UsageRecord};

/// What it costs.
pub const COST: Credits = Credits::from_nanos(2_260_000);

/// Its usage record.
pub fn usage(account: AccountId, key: KeyId, id: ChargeId, started_at: Timestamp) -> UsageRecord {
    UsageRecord {
        id,
        account,
        seq: None,
        key,
        method: "POST".into(),
        route: "/api/hub/agents/chat".into(),
        model: "".into(),
        upstream: "sandbox".into(),
        status: 200,
        cost: COST,
        prompt_tokens: 9,
        completion_tokens: 17,
        ending: Ending::Completed,
        tally: Tally::Reported,
        started_at,
        latency_micros: 100,
    }
}

fn arrival(key: &str) -> Box<Arrival> {
    Box::new(Arrival {
        id: ChargeId(Uuid::now_v7()),
        group: RouteGroup::Hub,
        method: Method::POST,
        path: "/api/hub/agents/chat".into(),
        query: None,
        credential: Some(key.into()),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        idempotency_key: None,
        running: None,
        client_left: None,
        paying: None,
        at: Clock::System.now(),
    })
}

/// Makes the call through the pipeline, from its arrival to its departure. Is it answered?
pub async fn is_answered(gateway: Arc<Gateway>, client: Client, key: String) -> bool {
    let Served { result, context } = pipeline::identify(&gateway, arrival(&key)).await;
    let Ok(caller) = result else { return false };
    let body = r#"{"messages": [{"role": "user", "content": "Hello!"}]}"#;
    let received = caller.receive(Bytes::from_static(body.as_bytes()));
    pipeline::serve(gateway, client, received, context).await.result.is_ok()
}
