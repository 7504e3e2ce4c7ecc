//! `[console]`.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::non_zero;

/// `[console]`: the pages under `/console/`, and the sessions of browsers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleSettings {
    /// How long the session of an operator in a browser lasts if it is not used, in hours. That of
    /// a customer lasts `auth.session_days`. Neither lasts longer than `auth.session_days_max`.
    pub operator_idle_hours: NonZeroU32,
    /// If true, the session cookie is also sent without TLS, so that the console works by plain
    /// HTTP from another machine. Who can read the network then reads the cookie. Set it in a
    /// network of your own only.
    pub insecure_cookie: bool,
}

impl Default for ConsoleSettings {
    fn default() -> Self {
        ConsoleSettings { operator_idle_hours: non_zero::u32(12), insecure_cookie: false }
    }
}
