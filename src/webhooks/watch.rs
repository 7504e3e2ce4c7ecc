//! Events that no write causes: expired keys, and spikes of spending. Also deletes old events.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::Webhooks;
use crate::store::StoreError;
use crate::store::rollups::{Grain, UsageOf, UsageQuestion};
use domain::event::{Event, EventKind, of_key, spike_data};
use domain::rollup::hour;
use domain::spike::{HOURS, Spike, spike};
use domain::{AccountId, MICROS_PER_DAY, Timestamp};

const PERIOD: Duration = Duration::from_secs(20);
/// Pause between two chunks of a deletion, so that charges can be written in between.
const BREATH: Duration = Duration::from_millis(20);
/// How long the rows of a deleted endpoint stay, in microseconds.
const DELETED_MICROS: i64 = 3_600 * 1_000_000;

/// Runs the watch until the task is aborted. It works only while `may_go` returns true. It deletes
/// events older than `keep_days`.
pub fn start(
    webhooks: Arc<Webhooks>,
    keep_days: i64,
    may_go: impl Fn() -> bool + Send + Sync + 'static,
) -> JoinHandle<()> {
    let runtime = webhooks.runtime.clone();
    runtime.spawn(async move {
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            period.tick().await;
            if !may_go() {
                continue;
            }
            if let Err(error) = check(&webhooks, keep_days).await {
                tracing::warn!(%error, "events for expired keys and spending spikes were not published");
            }
        }
    })
}

async fn check(webhooks: &Webhooks, keep_days: i64) -> Result<(), StoreError> {
    let (store, now) = (&webhooks.store, webhooks.clock.now());
    // A key that expired more than a day ago gets no event, even if the server was down since.
    let from = now.plus_micros(MICROS_PER_DAY.saturating_neg());
    for (account, key, ended_at) in store.list_expired_keys(from, now).await? {
        store
            .publish(of_key(account, key, EventKind::KeyExpired, ended_at, Some(ended_at)))
            .await?;
    }
    for account in store.subscribers() {
        publish_spike(webhooks, account, now).await?;
    }
    let before = now.plus_micros(MICROS_PER_DAY.saturating_mul(keep_days).saturating_neg());
    while store.delete_old_events(before).await? {
        tokio::time::sleep(BREATH).await;
    }
    let before = now.plus_micros(DELETED_MICROS.saturating_neg());
    while store.purge_deleted_endpoints(before).await? {
        tokio::time::sleep(BREATH).await;
    }
    store.load_subscribers().await?;
    Ok(())
}

async fn publish_spike(
    webhooks: &Webhooks,
    account: AccountId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let this = hour(now);
    let span = (this.saturating_sub(HOURS), this.saturating_add(1));
    let question = UsageQuestion::by_period(Grain::Hour, span);
    let rows = webhooks.reports.usage(UsageOf::Account(account), question).await?;
    let spent: Vec<_> = rows.iter().map(|row| (row.period, row.rollup.cost)).collect();
    let began = hour(webhooks.reports.account_created_at(account).await?);
    let Some(Spike { spent, usual }) = spike(&spent, began, this) else { return Ok(()) };
    let kind = EventKind::UsageSpike;
    let data = spike_data(spent, usual);
    // At most one event a day.
    let once = format!("{}:{account}:{}", kind.name(), now.day().0);
    webhooks.store.publish(Event { account, kind, once, at: now, data }).await
}
