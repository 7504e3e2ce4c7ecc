//! Events that no write tells of, since only time passes: keys that have ended, and spending that has risen.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::Webhooks;
use crate::store::StoreError;
use crate::store::rollups::{Grain, UsageQuestion};
use domain::event::{Event, EventKind, JsonObject, of_key};
use domain::rollup::hour;
use domain::spike::{HOURS, Spike, spike};
use domain::{AccountId, MICROS_PER_DAY, Timestamp};

const PERIOD: Duration = Duration::from_secs(20);
/// Between two pieces that are forgotten: charges are written meanwhile.
const BREATH: Duration = Duration::from_millis(20);
/// How long the rows of a deleted endpoint stay.
const DELETED_MICROS: i64 = 3_600 * 1_000_000;

/// Watches until it is stopped, while `may_go` says so. What is older than `keep_days` is forgotten.
pub fn start(
    webhooks: Arc<Webhooks>,
    keep_days: i64,
    may_go: impl Fn() -> bool + Send + Sync + 'static,
) -> JoinHandle<()> {
    let runtime = webhooks.store.runtime().clone();
    runtime.spawn(async move {
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            period.tick().await;
            if !may_go() {
                continue;
            }
            if let Err(error) = look(&webhooks, keep_days).await {
                tracing::warn!(%error, "what only time tells was not looked for");
            }
        }
    })
}

async fn look(webhooks: &Webhooks, keep_days: i64) -> Result<(), StoreError> {
    let (store, now) = (&webhooks.store, webhooks.clock.now());
    // As long as the server may have been away.
    let from = now.plus_micros(MICROS_PER_DAY.saturating_neg());
    for (account, key, ended_at) in store.keys_ended(from, now).await? {
        store.tell(of_key(account, key, EventKind::KeyExpired, ended_at, Some(ended_at))).await?;
    }
    for account in store.listeners() {
        tell_of_spike(webhooks, account, now).await?;
    }
    let before = now.plus_micros(MICROS_PER_DAY.saturating_mul(keep_days).saturating_neg());
    while store.forget_events(before).await? {
        tokio::time::sleep(BREATH).await;
    }
    let before = now.plus_micros(DELETED_MICROS.saturating_neg());
    while store.forget_endpoints(before).await? {
        tokio::time::sleep(BREATH).await;
    }
    store.load_listeners().await?;
    Ok(())
}

async fn tell_of_spike(
    webhooks: &Webhooks,
    account: AccountId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let this = hour(now);
    let span = (this.saturating_sub(HOURS), this.saturating_add(1));
    let question = UsageQuestion::by_period(Grain::Hour, span);
    let rows = webhooks.store.usage(account, question).await?;
    let spent: Vec<_> = rows.iter().map(|row| (row.period, row.rollup.cost)).collect();
    let began = hour(webhooks.store.account_created_at(account).await?);
    let Some(Spike { spent, usual }) = spike(&spent, began, this) else { return Ok(()) };
    let kind = EventKind::UsageSpike;
    let facts = JsonObject::default().number("spent", spent).number("usual", usual);
    let data = facts.text("currency", "USD").text("window", "hour").finish();
    // Once a day is enough.
    let once = format!("{}:{account}:{}", kind.name(), now.day().0);
    webhooks.store.tell(Event { account, kind, once, at: now, data }).await
}
