//! What an API key may be used for: routes, models, source networks, and calls a minute. Spending
//! limits are in [`limits`](crate::limits).
//!
//! Each part is a list of what is allowed. A part without a list allows everything. An empty list
//! allows nothing.

// `core::net` has address types only. The domain does no I/O, so `std::net` is not used here.
use core::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;

use ipnet::IpNet;

use super::window::Timestamp;

/// Most entries of one list.
pub const LIST_MAX: usize = 100;
/// Longest name of a model, in bytes.
pub const MODEL_MAX: usize = 200;

/// A network as a key's owner writes it: an address, or an address with a prefix length (CIDR, RFC
/// 4632).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

/// The text is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an address or a network such as 192.0.2.0/24 or 2001:db8::/32")]
pub struct NoNetwork;

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address.to_canonical()),
            Err(_) => text.parse().map_err(|_| NoNetwork)?,
        };
        // An IPv4-mapped IPv6 address is compared as IPv4. So a network of such addresses would
        // match nothing.
        match network {
            IpNet::V6(network) if network.addr().to_ipv4_mapped().is_some() => Err(NoNetwork),
            network => Ok(Network(network.trunc())),
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a key may be used for. `None` allows everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPolicy {
    /// Names of route groups.
    pub scopes: Option<Vec<String>>,
    /// Names of models. A name that ends in `*` stands for all names with this beginning.
    pub models: Option<Vec<String>>,
    /// Networks from which calls may come.
    pub networks: Option<Vec<Network>>,
    /// Most calls a minute, in addition to the tier's limits.
    pub calls_per_minute: Option<NonZeroU32>,
}

/// A change of a policy. `None` leaves a part as it is; `Some(None)` removes the restriction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyChange {
    /// See [`KeyPolicy::scopes`].
    pub scopes: Option<Option<Vec<String>>>,
    /// See [`KeyPolicy::models`].
    pub models: Option<Option<Vec<String>>>,
    /// See [`KeyPolicy::networks`].
    pub networks: Option<Option<Vec<Network>>>,
    /// See [`KeyPolicy::calls_per_minute`].
    pub calls_per_minute: Option<Option<NonZeroU32>>,
}

/// A change of a key's name, expiry and policy; `None` leaves a part as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyEdit {
    /// Its name.
    pub name: Option<String>,
    /// When it ends by itself; `Some(None)` is never.
    pub expires_at: Option<Option<Timestamp>>,
    /// Its policy.
    pub policy: PolicyChange,
}

impl KeyEdit {
    /// Its texts in bytes, estimated.
    pub(crate) fn bytes(&self) -> usize {
        let PolicyChange { scopes, models, networks, .. } = &self.policy;
        let texts = [scopes, models].into_iter().flatten().flatten().flatten();
        let networks = networks.iter().flatten().flatten().map(|_| size_of::<Network>());
        let sizes = texts.chain(&self.name).map(String::len).chain(networks);
        sizes.fold(0, usize::saturating_add)
    }
}

impl KeyPolicy {
    /// This policy after the change.
    #[must_use]
    pub fn changed(self, change: PolicyChange) -> Self {
        KeyPolicy {
            scopes: change.scopes.unwrap_or(self.scopes),
            models: change.models.unwrap_or(self.models),
            networks: change.networks.unwrap_or(self.networks),
            calls_per_minute: change.calls_per_minute.unwrap_or(self.calls_per_minute),
        }
    }

    /// Does the key allow routes of this group, called from this address?
    #[must_use]
    pub fn permits(&self, group: &str, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_in_scope =
            self.scopes.as_ref().is_none_or(|scopes| scopes.iter().any(|scope| scope == group));
        let is_from_there = self.networks.as_ref().is_none_or(|networks| {
            networks.iter().any(|Network(network)| network.contains(&address))
        });
        is_in_scope && is_from_there
    }

    /// Does the key allow this model? `None` stands for the upstream's default model, which no list
    /// allows.
    #[must_use]
    pub fn permits_model(&self, model: Option<&str>) -> bool {
        let Some(models) = &self.models else { return true };
        let Some(model) = model else { return false };
        models.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(beginning) => model.starts_with(beginning),
            None => model == allowed,
        })
    }

    /// Has its list of models just this name?
    #[must_use]
    pub fn names_model(&self, model: &str) -> bool {
        self.models.as_ref().is_some_and(|models| models.iter().any(|named| named == model))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> KeyPolicy {
        let networks = texts.iter().map(|text| text.parse().unwrap()).collect();
        KeyPolicy { networks: Some(networks), ..KeyPolicy::default() }
    }

    #[test]
    fn an_address_matches_networks_in_every_notation() {
        let policy = networks(&["192.0.2.77/24", "2001:db8::/32", "198.51.100.7"]);
        for (address, is_permitted) in [
            ("192.0.2.0", true),
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("::ffff:192.0.2.1", true),
            ("2001:db8:ffff::1", true),
            ("2001:db9::1", false),
            ("198.51.100.7", true),
            ("198.51.100.8", false),
        ] {
            assert_eq!(policy.permits("hub", address.parse().unwrap()), is_permitted, "{address}");
        }
        assert!(!networks(&[]).permits("hub", "192.0.2.1".parse().unwrap()));
        assert!(networks(&["0.0.0.0/0"]).permits("hub", "192.0.2.1".parse().unwrap()));
        assert!(!networks(&["::/0"]).permits("hub", "192.0.2.1".parse().unwrap()));
        for text in ["", "192.0.2.0/33", "192.0.2", "example.com", "::ffff:192.0.2.0/120", " ::1"] {
            assert_eq!(text.parse::<Network>(), Err(NoNetwork), "{text}");
        }
        assert_eq!("192.0.2.77/24".parse::<Network>().unwrap().to_string(), "192.0.2.0/24");
    }

    #[test]
    fn a_model_is_allowed_by_its_name_or_its_beginning() {
        let models = ["gpt-4o", "o3*"].map(str::to_owned).to_vec();
        let policy = KeyPolicy { models: Some(models), ..KeyPolicy::default() };
        for (model, is_permitted) in [
            (Some("gpt-4o"), true),
            (Some("gpt-4o-mini"), false),
            (Some("GPT-4o"), false),
            (Some("o3"), true),
            (Some("o3-mini"), true),
            (Some("o"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(policy.permits_model(model), is_permitted, "{model:?}");
        }
        assert!(KeyPolicy::default().permits_model(None));
    }
}
