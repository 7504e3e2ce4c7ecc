//! The groups of paid routes: what a price list, a key policy and an upstream are set for.

use super::coded::coded_enum;

coded_enum! {
    /// A group of paid routes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Group {
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

impl Group {
    /// Its base path.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Group::Hub => "/api/hub",
            Group::Omm => "/api/omm",
            Group::Yggdrasil => "/api/yggdrasil",
            Group::V1 => "/v1",
        }
    }
}
