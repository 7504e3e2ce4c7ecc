//! `serve --demo`: a server with a folder of its own, made-up users and 30 days of made-up calls.
//!
//! The past is made by the server itself: it runs with a clock that is set back by 30 days, and
//! gets requests over HTTP while the clock goes on. So each row is written as any other, and
//! `verify` is clean. What answers the calls is the built-in sandbox, mostly as a provider behind
//! a catalogue of models, with a test key of this server.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::mpsc::channel;

use anyhow::{Context as _, anyhow};
use polysystems::app;
use polysystems::cli::find_user;
use polysystems::clock::Clock;
use polysystems::config::{EmailTransport, Settings, Sources};
use polysystems::exit::{Exit, ExitError};
use polysystems::store::users::Role;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::with_users;

mod past;

use past::Past;

const DAY_MICROS: i64 = 86_400_000_000;
/// How much of the past is made up.
const DAYS: i64 = 30;

/// A user of the demo.
pub(super) struct DemoUser {
    pub(super) email: &'static str,
    pub(super) username: &'static str,
    about: &'static str,
    pub(super) password: String,
}

/// What a demo is made of. Its folder is deleted with it.
pub(super) struct Demo {
    folder: PathBuf,
    users: [DemoUser; 3],
}

impl Drop for Demo {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "the demo's folder stays");
        }
    }
}

/// The setting that does not go with a demo, and why.
fn unfit(settings: &Settings) -> Option<(String, &'static str)> {
    let real = "a demo makes its answers up";
    let money = "a demo moves no money";
    let near = "a demo is for this machine alone, because its passwords are printed";
    let mut found = Vec::new();
    for (group, upstream) in settings.upstreams.groups() {
        let set = [
            ("url", upstream.url.is_some()),
            ("fallback_url", upstream.fallback_url.is_some()),
            ("api_key", upstream.api_key.is_some()),
        ];
        found.extend(
            set.into_iter().map(|(name, is)| (format!("upstreams.{group}.{name}"), is, real)),
        );
    }
    let (payments, server) = (&settings.payments, &settings.server);
    let is_far = |address: SocketAddr| !address.ip().is_loopback();
    let others = [
        ("catalogue.file", settings.catalogue.file.is_some(), real),
        ("payments.stripe.secret_key", payments.stripe.secret_key.is_some(), money),
        ("payments.stripe.webhook_secret", payments.stripe.webhook_secret.is_some(), money),
        ("payments.x402.facilitator_url", payments.x402.facilitator_url.is_some(), money),
        ("database.url", settings.database.url.is_some(), "a demo has a database of its own"),
        ("email.smtp_url", settings.email.smtp_url.is_some(), "a demo sends no mail"),
        ("server.bind", is_far(server.bind), near),
        ("server.metrics_bind", server.metrics_bind.is_some_and(is_far), near),
        ("server.public_url", server.public_url.is_some(), near),
        ("server.trusted_proxies", !server.trusted_proxies.is_empty(), near),
    ];
    found.extend(others.map(|(name, is, why)| (name.to_owned(), is, why)));
    found.into_iter().find(|(_, is, _)| *is).map(|(name, _, why)| (name, why))
}

impl Demo {
    /// Makes the folder and the passwords, and sets what a demo needs.
    pub(super) fn begin(settings: &mut Settings) -> anyhow::Result<Self> {
        if let Some((name, why)) = unfit(settings) {
            let message = format!(
                "serve --demo does not start, because {name} is set to something else than a demo has: {why}; unset \
                 {name}, or start without --demo"
            );
            return Err(ExitError::error(Exit::Settings, message));
        }
        let folder = std::env::temp_dir().join(format!("polysystems-demo-{}", Uuid::new_v4()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make the demo's folder {}", folder.display()))?;
        let password = || {
            let text = Uuid::new_v4().simple().to_string();
            text.chars().take(16).collect::<String>()
        };
        let user =
            |email, username, about| DemoUser { email, username, about, password: password() };
        let users = [
            user("operator@demo.example", "operator", "runs the server"),
            user("customer@demo.example", "customer", "has used it for 30 days"),
            user("newcomer@demo.example", "newcomer", "has just registered"),
        ];
        let demo = Demo { folder, users };
        // So that the past can be made where the present will be: a deployment has the address.
        let bind = &mut settings.server.bind;
        if bind.port() == 0 {
            *bind = TcpListener::bind(*bind).and_then(|free| free.local_addr())?;
        }
        settings.data_dir.clone_from(&demo.folder);
        settings.mark_as_demo();
        settings.auth.operators_need_second_factor = false;
        settings.payments.sandbox = Some(true);
        settings.email.transport = Some(EmailTransport::Folder);
        settings.email.folder = Some(demo.mail());
        Ok(demo)
    }

    /// Makes the past, and says who can sign in.
    pub(super) fn fill(&self, settings: &Settings) -> anyhow::Result<String> {
        let mut loose = settings.clone();
        loose.rate_limit.enabled = false;
        // One session is enough for all days.
        for days in [&mut loose.auth.session_days, &mut loose.auth.session_days_max] {
            *days = 90.try_into()?;
        }
        loose.auth.jwt_lifetime_seconds = (90 * 86_400).try_into()?;
        loose.auth.confirmation_minutes = (90 * 1_440).try_into()?;
        loose.pricing.notice_seconds = 1;

        let now = Clock::System.now().micros();
        let time = Arc::new(AtomicI64::new(now.saturating_sub(DAYS.saturating_mul(DAY_MICROS))));
        let clock = Clock::Manual(Arc::clone(&time));
        let (tell, hear) = channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let of_thread = loose.clone();
        let serving = std::thread::spawn(move || {
            let listening = move |address| tell.send(address).unwrap_or_default();
            let none = Sources::default();
            app::serve(of_thread, &none, clock, listening, async { drop(stopped.await) })
        });
        let made = match hear.recv() {
            Ok(address) => {
                let past = Past::new(address, time, now);
                past.and_then(|mut past| {
                    past.make(&self.users, &self.mail(), || self.promote(&loose))
                })
            }
            Err(_) => Err(anyhow!("the server did not start")),
        };
        drop(stop);
        let served = serving.join().map_err(|_| anyhow!("the server broke off"));
        served.and_then(|served| served).context("cannot make the demo")?;
        made.context("cannot make the demo")?;
        self.banner(settings)
    }

    fn mail(&self) -> PathBuf {
        self.folder.join("mail")
    }

    /// Makes the first user an operator, as `polysystems user set-role` does.
    fn promote(&self, settings: &Settings) -> anyhow::Result<()> {
        let [operator, ..] = &self.users;
        with_users(settings, async |users| {
            let user = find_user(users, operator.email).await?;
            Ok(users.set_role(&user, Role::Admin).await?)
        })
    }

    fn banner(&self, settings: &Settings) -> anyhow::Result<String> {
        let mut text = format!(
            "This is a demo: users, calls and payments are made up, and no money moves.\nOpen http://{}/console/ and \
             sign in as\n",
            settings.server.bind
        );
        for DemoUser { email, password, about, .. } in &self.users {
            writeln!(text, "  {email}  {password}  {about}")?;
        }
        let folder = self.folder.display();
        write!(text, "Its data are in {folder} and are deleted when the server stops.")?;
        Ok(text)
    }
}
