//! The groups of paid routes: what a price list, a key policy and an upstream are set for.

/// The groups of paid routes (Chapter 2, Access Token Protected Endpoints).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// `/api/hub/*`
    Hub,
    /// `/api/omm/*`
    Omm,
    /// `/api/yggdrasil/*`
    Yggdrasil,
    /// `/v1/*`
    V1,
}

impl Group {
    /// Every group.
    pub const ALL: [Group; 4] = [Group::Hub, Group::Omm, Group::Yggdrasil, Group::V1];

    /// Its name in the settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Group::Hub => "hub",
            Group::Omm => "omm",
            Group::Yggdrasil => "yggdrasil",
            Group::V1 => "v1",
        }
    }

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
