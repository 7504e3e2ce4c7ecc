//! The groups of paid routes. A price list, a key policy and an upstream refer to them.

use super::coded::coded_enum;

coded_enum! {
    /// A group of paid routes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum RouteGroup {
        /// `/api/hub/*`
        Hub => "hub",
        /// `/api/omm/*`
        Omm => "omm",
        /// `/api/yggdrasil/*`
        Yggdrasil => "yggdrasil",
        /// `/v1/*`
        V1 => "v1",
    }
}

impl RouteGroup {
    /// Its base path.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            RouteGroup::Hub => "/api/hub",
            RouteGroup::Omm => "/api/omm",
            RouteGroup::Yggdrasil => "/api/yggdrasil",
            RouteGroup::V1 => "/v1",
        }
    }
}
