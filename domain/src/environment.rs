//! The two environments, live and test, and whether an account is open.

use super::coded::coded_enum;

coded_enum! {
    /// Which of a user's two accounts: real credits or play money. The two never mix.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Environment {
        /// Real credits, `ps_live_` keys, the configured upstreams.
        Live = 1 => "live",
        /// Test credits, `ps_test_` keys, the sandbox.
        Test = 2 => "test",
    }
}

impl Environment {
    /// The environment of a key that begins like `text`.
    #[must_use]
    pub fn of_key(text: &str) -> Self {
        if text.starts_with(Environment::Test.key_prefix()) {
            Environment::Test
        } else {
            Environment::Live
        }
    }

    /// How its keys begin.
    #[must_use]
    pub const fn key_prefix(self) -> &'static str {
        match self {
            Environment::Live => "ps_live_",
            Environment::Test => "ps_test_",
        }
    }
}

coded_enum! {
    /// May the account be charged?
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum AccountStatus {
        /// It may.
        Open = 1 => "open",
        /// An operator has stopped it.
        Suspended = 2 => "suspended",
    }
}
