//! The two environments, live and test, and whether an account is open.

/// Which of a user's two accounts: real credits or play money. The two never mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Environment {
    /// Real credits, `ps_live_` keys, the configured upstreams.
    Live,
    /// Test credits, `ps_test_` keys, the sandbox.
    Test,
}

impl Environment {
    /// The number that stands for it in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Environment::Live => 1,
            Environment::Test => 2,
        }
    }

    /// What a number of the database stands for.
    #[must_use]
    pub const fn from_code(code: i16) -> Option<Self> {
        match code {
            1 => Some(Environment::Live),
            2 => Some(Environment::Test),
            _ => None,
        }
    }

    /// The word for it in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Environment::Live => "live",
            Environment::Test => "test",
        }
    }

    /// Whose key begins so.
    #[must_use]
    pub fn of_key(text: &str) -> Self {
        if text.starts_with(Environment::Test.key_prefix()) {
            Environment::Test
        } else {
            Environment::Live
        }
    }

    /// How its keys begin (Chapter 2, Access Token Format).
    #[must_use]
    pub const fn key_prefix(self) -> &'static str {
        match self {
            Environment::Live => "ps_live_",
            Environment::Test => "ps_test_",
        }
    }
}

/// May the account be used?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountStatus {
    /// Yes.
    Open,
    /// An operator has stopped it.
    Suspended,
}

impl AccountStatus {
    /// The number that stands for it in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            AccountStatus::Open => 1,
            AccountStatus::Suspended => 2,
        }
    }

    /// The word for it in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            AccountStatus::Open => "open",
            AccountStatus::Suspended => "suspended",
        }
    }

    /// What a number of the database stands for.
    #[must_use]
    pub const fn from_code(code: i16) -> Option<Self> {
        match code {
            1 => Some(AccountStatus::Open),
            2 => Some(AccountStatus::Suspended),
            _ => None,
        }
    }
}
