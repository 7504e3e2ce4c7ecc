//! Encrypts anew what the previous key pepper has encrypted, so that it can be deleted.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::http::App;
use crate::store::StoreError;
use crate::store::catalogue::SealedCredential;
use crate::store::peppered::SealedColumn;

/// How often it is tried. What failed, or was encrypted by an earlier process meanwhile, is left
/// for the next time.
const PERIOD: Duration = Duration::from_hours(1);

/// Goes through all encrypted secrets of second factors, webhooks and credentials, at the start and
/// every hour, if there is a previous pepper.
pub(super) async fn renew_sealed(app: Arc<App>) {
    if !app.users.seal.has_previous() {
        return;
    }
    let mut period = tokio::time::interval(PERIOD);
    loop {
        period.tick().await;
        match renew(&app).await {
            Ok(0) => {}
            Ok(renewed) => {
                tracing::info!(renewed, "secrets were encrypted with the new key pepper");
            }
            Err(error) => {
                tracing::warn!(%error, "not all secrets were encrypted with the new key pepper; it is tried each hour");
            }
        }
    }
}

async fn renew(app: &App) -> Result<u64, StoreError> {
    let mut count: u64 = 0;
    for column in SealedColumn::all() {
        let seal = if column.is_second_factor() { &app.users.seal } else { &app.webhooks.seal };
        let mut after = Uuid::nil();
        loop {
            let values = app.store.list_sealed(column, after).await?;
            let Some((last, _)) = values.last() else { break };
            after = *last;
            for (id, sealed) in values {
                if let Some(renewed) = seal.renewed(&sealed, id.as_bytes()) {
                    app.store.replace_sealed(column, id, sealed, renewed).await?;
                    count = count.saturating_add(1);
                }
            }
        }
    }
    let vault = &app.gateway.models.vault;
    for credential in app.store.catalogue.credentials().await? {
        let SealedCredential { name, sealed, .. } = credential;
        if let Some(renewed) = vault.renewed(&name, &sealed) {
            app.store.catalogue.reseal(name, sealed, renewed).await?;
            count = count.saturating_add(1);
        }
    }
    Ok(count)
}
