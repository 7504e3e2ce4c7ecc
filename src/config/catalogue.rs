//! `[catalogue]`

use std::path::PathBuf;

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::Settings;

/// `[catalogue]`: the models that are sold by their names.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CatalogueSettings {
    /// Where the catalogue is written: `database` (with the API and `polysystems catalogue`) or
    /// `file`.
    pub source: CatalogueSource,
    /// The file (TOML, or JSON if its name ends in `.json`), if `source` is `file`. A change of it
    /// binds within seconds. A faulty one stops the start, and changes nothing later.
    pub file: Option<PathBuf>,
    /// If true, answers name the deployment that has served.
    pub shows_deployment: bool,
    /// Tiers (of `rate_limit.tiers`) whose calls leave the last tenth of the `concurrency` of a
    /// deployment to others. If no deployment has more room than that, they are refused with 503.
    pub shed_tiers: Vec<String>,
}

/// Where the catalogue is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CatalogueSource {
    /// With the API.
    #[default]
    Database,
    /// In a file.
    File,
}

impl Settings {
    /// The file of the catalogue, if it is written in one.
    #[must_use]
    pub fn catalogue_file(&self) -> Option<&PathBuf> {
        let is_file = self.catalogue.source == CatalogueSource::File;
        self.catalogue.file.as_ref().filter(|_| is_file)
    }

    pub(super) fn check_catalogue(&self) -> anyhow::Result<()> {
        let tiers = &self.rate_limit.tiers;
        if let Some(tier) = self.catalogue.shed_tiers.iter().find(|tier| !tiers.contains_key(*tier))
        {
            let known: Vec<_> = tiers.keys().map(String::as_str).collect();
            bail!("catalogue.shed_tiers has {tier:?}; the tiers are {}", known.join(", "));
        }
        match (self.catalogue.source, &self.catalogue.file) {
            (CatalogueSource::File, None) => {
                bail!("catalogue.source is file, and catalogue.file is not set")
            }
            (CatalogueSource::Database, Some(_)) => bail!(
                "catalogue.file is set, but catalogue.source is database: set it to file, or remove catalogue.file"
            ),
            _ => Ok(()),
        }
    }
}
