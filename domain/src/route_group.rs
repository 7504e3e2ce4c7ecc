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
        /// `/v1/*` and `/v1beta/*`
        V1 => "v1",
    }
}

impl RouteGroup {
    /// Its base paths.
    #[must_use]
    pub const fn paths(self) -> &'static [&'static str] {
        match self {
            RouteGroup::Hub => &["/api/hub"],
            RouteGroup::Omm => &["/api/omm"],
            RouteGroup::Yggdrasil => &["/api/yggdrasil"],
            RouteGroup::V1 => &["/v1", "/v1beta"],
        }
    }

    /// The group of a path, if it has one.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        let is_below = |root: &&str| {
            path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        RouteGroup::ALL.into_iter().find(|group| group.paths().iter().any(is_below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_match_whole_segments() {
        for (path, group) in [
            ("/api/hub/x", Some(RouteGroup::Hub)),
            ("/api/hub", Some(RouteGroup::Hub)),
            ("/v1/chat/completions", Some(RouteGroup::V1)),
            ("/v1beta/models/m:generateContent", Some(RouteGroup::V1)),
            ("/v1beta", Some(RouteGroup::V1)),
            ("/v1beta2/models", None),
            ("/v12", None),
            ("/api/hubris", None),
        ] {
            assert_eq!(RouteGroup::of(path), group, "{path}");
        }
    }
}
