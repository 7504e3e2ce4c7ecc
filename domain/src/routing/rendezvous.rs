//! Which deployment a session stays at: weighted rendezvous hashing. Each deployment has as many
//! tickets as its weight; the one with the highest ticket of a session is the session's. If a
//! deployment goes, only its sessions move, and if one comes, only those that move to it.

/// Greatest weight: an order takes as many steps as all weights together.
pub const WEIGHT_MAX: u32 = 100;

/// A permutation of all numbers that looks like chance (splitmix64).
pub(super) const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// The highest ticket that the deployment with this number has for this session.
pub(super) fn score(session: u64, deployment: u32, weight: u32) -> u64 {
    let tickets = (0..weight.clamp(1, WEIGHT_MAX)).map(|ticket| {
        let number = u64::from(deployment).wrapping_add(u64::from(ticket) << 32);
        mix(session ^ mix(number))
    });
    tickets.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEIGHTS: [(u32, u32); 6] = [(11, 8), (12, 8), (13, 4), (14, 2), (15, 1), (16, 1)];
    const SESSIONS: u64 = 48_000;

    fn first(session: u64, among: &[(u32, u32)]) -> u32 {
        let best = among.iter().max_by_key(|(id, weight)| score(session, *id, *weight));
        best.unwrap().0
    }

    #[test]
    fn shares_are_as_the_weights() {
        let mut counts = std::collections::BTreeMap::new();
        for session in 0..SESSIONS {
            *counts.entry(first(mix(session), &WEIGHTS)).or_insert(0_u64) += 1;
        }
        for (id, weight) in WEIGHTS {
            let wanted = SESSIONS * u64::from(weight) / 24;
            assert!(counts[&id].abs_diff(wanted) < SESSIONS / 100, "{counts:?}");
        }
    }

    #[test]
    fn only_the_sessions_of_what_goes_or_comes_move() {
        let fewer: Vec<_> = WEIGHTS.into_iter().filter(|(id, _)| *id != 13).collect();
        let more: Vec<_> = WEIGHTS.into_iter().chain([(17, 4)]).collect();
        for session in (0..SESSIONS).map(mix) {
            let home = first(session, &WEIGHTS);
            assert!(home == 13 || first(session, &fewer) == home);
            assert!([home, 17].contains(&first(session, &more)));
        }
    }
}
