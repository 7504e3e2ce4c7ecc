//! The two environments, live and test, and whether an account is open.

use super::coded::coded_enum;

coded_enum! {
    /// The environment of one of a user's two accounts: real credits or test credits. Credits never
    /// move from one to the other.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Environment {
        /// Real credits, `ps_live_` keys, the configured upstreams.
        Live = 1 => "live",
        /// Test credits, `ps_test_` keys, the sandbox.
        Test = 2 => "test",
    }
}

impl Environment {
    /// The environment of a key with this text; live if the prefix is unknown.
    #[must_use]
    pub fn of_key(text: &str) -> Self {
        if text.starts_with(Environment::Test.key_prefix()) {
            Environment::Test
        } else {
            Environment::Live
        }
    }

    /// The prefix of its keys.
    #[must_use]
    pub const fn key_prefix(self) -> &'static str {
        match self {
            Environment::Live => "ps_live_",
            Environment::Test => "ps_test_",
        }
    }
}

coded_enum! {
    /// Whether the account accepts charges.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum AccountStatus {
        /// It accepts charges.
        Open = 1 => "open",
        /// An operator stopped it. It accepts no charges.
        Suspended = 2 => "suspended",
    }
}
