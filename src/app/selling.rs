//! What is sold when the server starts.

use std::sync::Arc;

use anyhow::Context as _;

use crate::catalogue::{FileFault, FileSource};
use crate::config::Settings;
use crate::exit::{Exit, ExitError};
use crate::models::load;
use crate::pipeline::Gateway;
use crate::store::Store;

/// Sells what the file of the catalogue says, or else what the database has. Returns the file.
pub(super) async fn load_catalogue(
    settings: &Settings,
    store: &Store,
    gateway: &Gateway,
) -> anyhow::Result<Option<Arc<FileSource>>> {
    let Some(path) = settings.catalogue_file() else {
        load::refresh(&gateway.models, store).await.context("cannot read the catalogue")?;
        return Ok(None);
    };
    let file = FileSource::new(path.clone());
    match file.load(store, gateway).await {
        Ok(()) => Ok(Some(Arc::new(file))),
        Err(fault @ FileFault::Faulty(_)) => {
            let message = format!("catalogue.file has faults: {fault}");
            Err(ExitError::error(Exit::Settings, message))
        }
        Err(fault) => Err(anyhow::Error::new(fault).context("cannot write the catalogue")),
    }
}
