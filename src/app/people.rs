//! Makes what knows the people of this server.

use std::thread::available_parallelism;

use anyhow::Context as _;
use tokio::runtime::Handle;

use super::MICROS_PER_HOUR;
use crate::auth::throttle::Throttle;
use crate::auth::two_factor;
use crate::auth::users::{MessageSettings, SessionBounds};
use crate::auth::{Cookies, Passwords, Sessions, Users};
use crate::clock::Clock;
use crate::config::{RegistrationPolicy, Settings};
use crate::http;
use crate::mail::Mailer;
use crate::seal::Seal;
use crate::secrets::{JWT_SECRET, peppers, previous, secret};
use crate::store::Store;
use crate::store::users::SessionSpan;
use domain::MICROS_PER_DAY;

/// Makes registration and login, for the server and the command line.
pub fn users(
    settings: &Settings,
    clock: Clock,
    database: Handle,
    store: Store,
) -> anyhow::Result<Users> {
    let auth = &settings.auth;
    let jwt_secret = secret(auth.jwt_secret.as_ref(), &settings.data_dir, JWT_SECRET)?;
    let previous = previous(auth.jwt_previous_secret.as_ref(), &settings.data_dir, JWT_SECRET)?;
    let peppers = peppers(settings)?;
    let hashes_max = match auth.password_hashes_max {
        0 => available_parallelism().map_or(1, usize::from).div_ceil(2),
        set => set,
    };
    let runtime = store.runtime().clone();
    Ok(Users {
        store: store.users,
        keys: store.keys,
        webhooks: store.webhooks,
        audit_log: store.audit_log,
        runtime,
        passwords: Passwords::new(hashes_max, auth.password_queue_max)?,
        cookies: Cookies::new(&jwt_secret, previous.as_slice())
            .context("no key of cookies can be made")?,
        sessions: Sessions::new(&jwt_secret, previous.as_slice(), auth.jwt_lifetime_seconds.get()),
        session_bounds: SessionBounds {
            span: SessionSpan {
                idle_micros: i64::from(auth.session_days.get()).saturating_mul(MICROS_PER_DAY),
                longest_micros: i64::from(auth.session_days_max.get())
                    .saturating_mul(MICROS_PER_DAY),
            },
            operator_idle_micros: i64::from(settings.console.operator_idle_hours.get())
                .saturating_mul(MICROS_PER_HOUR),
            confirmed_micros: i64::from(auth.confirmation_minutes.get()).saturating_mul(60_000_000),
            sessions_max: auth.sessions_per_user_max,
        },
        seal: Seal::new(&peppers, two_factor::PURPOSE).context("the key pepper cannot be used")?,
        throttle: Throttle::new(auth, &settings.rate_limit),
        mailer: Mailer::new(&settings.email, settings.data_dir.join("mail"), database)?,
        messages: MessageSettings {
            verification_micros: i64::from(auth.verification_hours.get())
                .saturating_mul(MICROS_PER_HOUR),
            reset_micros: i64::from(auth.password_reset_minutes.get()).saturating_mul(60_000_000),
            verify_url: letters_page(settings, settings.email.verify_url.as_ref(), "verify"),
            change_url: letters_page(settings, settings.email.change_url.as_ref(), "change-email"),
            reset_url: letters_page(settings, settings.email.reset_url.as_ref(), "reset"),
            is_verification_required: auth.require_verified_email,
        },
        clock,
        password_length_min: auth.password_length_min,
        test_credits: settings.test_credits()?,
        operators_need_second_factor: auth.operators_need_second_factor,
        is_registration_open: auth.registration == RegistrationPolicy::Open,
    })
}

/// The page that a letter links to: the one that is set, or that of the console. The token stands
/// behind `#`, so that no browser sends it on.
fn letters_page(settings: &Settings, set: Option<&String>, page: &str) -> Option<String> {
    let of_console = || {
        let public_url = settings.server.public_url.as_ref().filter(|_| http::has_console())?;
        Some(format!("{public_url}/console/{page}#token={{token}}"))
    };
    set.cloned().or_else(of_console)
}
