//! `[webhooks]`.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};

use serde::{Deserialize, Serialize};

use super::non_zero;

/// `[webhooks]`: events that are sent to account holders.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookSettings {
    /// If true, endpoints may be in private networks and without TLS. Use it for development only:
    /// users could make this server send requests into its own network.
    pub allow_private_addresses: bool,
    /// How long one delivery attempt may take, in seconds.
    pub timeout_seconds: NonZeroU64,
    /// Largest number of endpoints that events are sent to at the same time.
    pub at_once_max: NonZeroUsize,
    /// Largest number of endpoints of one account. A further one is refused with 409.
    pub endpoints_per_account_max: u64,
    /// How long events are signed with a replaced secret as well as with the new one, in hours.
    pub former_secret_hours: u32,
    /// How long events and their deliveries are kept, in days; at least 4, because deliveries are
    /// tried for three days.
    pub keep_days: NonZeroU32,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        WebhookSettings {
            allow_private_addresses: false,
            timeout_seconds: non_zero::u64(15),
            at_once_max: non_zero::usize(32),
            endpoints_per_account_max: 20,
            former_secret_hours: 24,
            keep_days: non_zero::u32(30),
        }
    }
}
