//! `[pricing]`.

use serde::{Deserialize, Serialize};

/// `[pricing]`: price lists of models. The prices of routes are `[[prices]]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PricingSettings {
    /// How long before it is in force a version of a price list must be published, in seconds:
    /// long enough that each process has it.
    pub notice_seconds: u32,
}

impl Default for PricingSettings {
    fn default() -> Self {
        PricingSettings { notice_seconds: 10 }
    }
}
