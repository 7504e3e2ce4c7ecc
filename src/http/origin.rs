//! Checks of a request's path and of the client's address, before either is trusted.

use std::net::IpAddr;

/// Does the path mean the same to this server, which prices it, and to the upstream, which serves
/// it? It has no dot segments, no empty ones, and no encoded separator or dot.
#[must_use]
pub fn is_plain(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let hidden = ["%2f", "%5c", "%25", "\\"];
    // Unreserved characters must not be encoded: a second spelling could dodge a price.
    let needlessly_encoded = lower.split('%').skip(1).any(|rest| {
        // `from_str_radix` would accept a sign.
        let code = rest.get(..2).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        code.is_none_or(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    });
    !needlessly_encoded
        && !hidden.iter().any(|hidden| lower.contains(hidden))
        && path.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | ".."))
}

/// The address behind a chain of proxies. `X-Forwarded-For` (its values in their order) counts only
/// as far as trusted proxies wrote it: from the right, the first address that is not one of them.
#[must_use]
pub fn forwarded_address<'v>(
    peer: IpAddr,
    values: impl Iterator<Item = &'v str>,
    trusted: &[IpAddr],
) -> IpAddr {
    let is_trusted =
        |address: &IpAddr| trusted.iter().any(|known| known.to_canonical() == *address);
    if !is_trusted(&peer) {
        return peer;
    }
    let forwarded: Vec<&str> = values.flat_map(|value| value.split(',')).collect();
    forwarded
        .iter()
        .rev()
        .map_while(|address| address.trim().parse::<IpAddr>().ok())
        .map(|address| address.to_canonical())
        .find(|address| !is_trusted(address))
        .unwrap_or(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_mean_something_else_upstream_is_no_route() {
        for (path, plain) in [
            ("/api/hub/agents/chat", true),
            ("/api/hub/memory/caf%C3%A9", true),
            ("/api/hub/memory/../agents/chat", false),
            ("/api/hub/memory/%2e%2E/agents/chat", false),
            ("/api/hub/agents/ch%61t", false),
            ("/api/hub/agents/chat%", false),
            ("/api/hub/agents/chat%+f", false),
            ("/api/hub/memory/..%2fagents", false),
            ("/api/hub/memory/..%5cagents", false),
            ("/api/hub/memory/%252e%252e/x", false),
            ("/api/hub//agents", false),
            ("/api/hub/", false),
            ("/api/hub/./agents", false),
        ] {
            assert_eq!(is_plain(path), plain, "{path}");
        }
    }
}
