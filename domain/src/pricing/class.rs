//! Classes of routes, which rate limits are by.

/// How expensive a route is to serve. A rate limit is multiplied by the factor of the class
/// (`[rate_limit]` in the settings).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteClass {
    /// Health checks, which have no rate limit.
    Health,
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Text generation.
    Generation,
    /// Heavy processing.
    Heavy,
}

impl RouteClass {
    /// All classes.
    pub const ALL: [RouteClass; 5] = [
        RouteClass::Health,
        RouteClass::Read,
        RouteClass::Write,
        RouteClass::Generation,
        RouteClass::Heavy,
    ];
    /// Their names, in the same order.
    pub const NAMES: [&str; 5] = ["health", "read", "write", "generation", "heavy"];

    /// The name in the settings and in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            RouteClass::Health => "health",
            RouteClass::Read => "read",
            RouteClass::Write => "write",
            RouteClass::Generation => "generation",
            RouteClass::Heavy => "heavy",
        }
    }
}
