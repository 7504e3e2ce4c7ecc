//! Where somebody logs in from. A login from a place that the account does not know is told to its
//! owner by email.
//!
//! A place is a neighbourhood of addresses (/24 of IPv4, /48 of IPv6) and a family of user agents.
//! Known are the places of the sessions that are stored: those that go on, and those that have
//! ended, until they would have expired. Nothing else is kept for it. A password reset and a proof
//! of the address by email make their place known as well. A renewal does not, since it proves
//! nothing: from a neighbourhood that is new, it is told too.

use std::net::IpAddr;

use super::sessions::{LoggedIn, SessionKind};
use super::users::{Device, Users, UsersError};
use crate::store::users::User;
use domain::address::neighbourhood;

/// What the user agents of browsers have in them, the most particular first.
const BROWSERS: [(&str, &str); 6] = [
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("CriOS/", "Chrome"),
    ("Safari/", "Safari"),
];
/// Longest name of a program, in characters.
const NAME_MAX: usize = 32;

/// The family of a user agent: the browser, or else the program's name without its version.
fn family(agent: &str) -> String {
    let browser = BROWSERS.iter().find(|(piece, _)| agent.contains(piece));
    if let Some((_, name)) = browser {
        return (*name).to_owned();
    }
    let is_of_name = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let name: String = agent.chars().take_while(is_of_name).take(NAME_MAX).collect();
    if name.is_empty() { "a program without a name".to_owned() } else { name }
}

impl Users {
    /// Begins a session of a user who has logged in here, and tells them if the place is new.
    pub(super) async fn enter(
        &self,
        user: User,
        device: Device,
        kind: SessionKind,
        has_given_code: bool,
    ) -> Result<LoggedIn, UsersError> {
        let is_new = !self.knows_place(&user, &device).await?;
        let logged_in = self.begin_session(user, device.clone(), kind, has_given_code).await?;
        if is_new {
            self.tell_of_place(&logged_in.user, &device);
        }
        Ok(logged_in)
    }

    async fn knows_place(&self, user: &User, device: &Device) -> Result<bool, UsersError> {
        let known = self.store.list_places(user.id, self.clock.now()).await?;
        let (here, program) = (neighbourhood(device.address), family(&device.agent));
        Ok(known.iter().any(|(address, agent)| {
            let address = address.parse::<IpAddr>().map(neighbourhood);
            address == Ok(here) && family(agent) == program
        }))
    }

    /// Keeps the place of somebody who reads the mail of a user.
    pub(super) async fn remember_place(
        &self,
        user: &User,
        device: &Device,
    ) -> Result<(), UsersError> {
        let here = self.new_session(user, device.clone(), SessionKind::Token);
        Ok(self.store.record_address(here.row).await?)
    }

    /// Tells a user of a session that is renewed, or used by its cookie, from a new neighbourhood,
    /// once they have it. `address_before` is where that was done last.
    pub(super) async fn tell_of_use(
        &self,
        user: &User,
        address_before: &str,
        done: &str,
        device: &Device,
    ) {
        let here = neighbourhood(device.address);
        let is_here = |address: &str| {
            address.parse::<IpAddr>().is_ok_and(|address| neighbourhood(address) == here)
        };
        if is_here(address_before) {
            return;
        }
        match self.store.list_addresses(user.id, self.clock.now()).await {
            Ok(known) if known.iter().any(|address| is_here(address)) => return,
            Ok(_) => {}
            // Rather one letter too many.
            Err(error) => tracing::warn!(%error, "the places of a user were not read"),
        }
        let what = format!(
            "a session of your account was {done} from a place that it does not know: from {}, with {}. If you were \
             not there, somebody has your session: change your password at once, which ends every session: POST \
             /api/auth/change-password. GET /api/auth/sessions lists the sessions there are.",
            device.address,
            family(&device.agent)
        );
        self.warn(user, &format!("A session was {done} from a new place"), &what);
    }

    fn tell_of_place(&self, user: &User, device: &Device) {
        let what = format!(
            "somebody has logged in to your account from a place that it does not know: from {}, with {}. If it was \
             not you, change your password at once, which ends every other session: POST \
             /api/auth/change-password. GET /api/auth/sessions lists the sessions there are.",
            device.address,
            family(&device.agent)
        );
        self.warn(user, "A login from a new place", &what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_program_are_one_family() {
        let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/120.0.0.0 Safari/537.36";
        for (agent, expected) in [
            (chrome, "Chrome"),
            (&chrome.replace("120", "131"), "Chrome"),
            (&format!("{chrome} Edg/120.0.0.0"), "Edge"),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0", "Firefox"),
            ("curl/8.5.0", "curl"),
            ("python-requests/2.32", "python-requests"),
            ("", "a program without a name"),
            ("<a href='https://evil.example'>", "a program without a name"),
            (&"x".repeat(100), &"x".repeat(NAME_MAX)),
        ] {
            assert_eq!(family(agent), expected, "{agent}");
        }
    }
}
