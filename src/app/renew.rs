//! Encrypts anew what the previous key pepper has encrypted, so that it can be deleted.

use std::sync::Arc;

use uuid::Uuid;

use crate::http::App;
use crate::store::StoreError;
use crate::store::peppered::SealedColumn;

/// Goes through all encrypted secrets of second factors and webhooks, once, if there is a previous
/// pepper.
pub(super) async fn renew_sealed(app: Arc<App>) {
    if !app.users.seal.has_previous() {
        return;
    }
    match renew(&app).await {
        Ok(0) => {}
        Ok(renewed) => tracing::info!(renewed, "secrets were encrypted with the new key pepper"),
        Err(error) => {
            tracing::warn!(%error, "not all secrets were encrypted with the new key pepper; the next start goes on");
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
    Ok(count)
}
