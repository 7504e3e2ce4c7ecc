//! Mail to users: by SMTP, or for development into a folder or the log.
//!
//! Requests do not wait for it, so the time of an answer does not reveal whether a message was
//! sent. A message that could not be sent after several attempts is lost; the user can request
//! another one.
//!
//! Anybody can have messages sent to recipients whose server is slow. So addresses that are proved
//! have places of their own, a domain has half of the places, and a message that waits for its next
//! attempt has none.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::config::{EmailSettings, EmailTransport};

/// Attempts to send a message, and the pause after the first one. The pause doubles each time.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_secs(2);
/// Messages sent at the same time to addresses that are proved, and as many to others.
const SENDING_MAX: usize = 4;
/// Of them, to one domain.
const SENDING_TO_DOMAIN_MAX: usize = SENDING_MAX / 2;
/// Messages that may wait, of either kind. Further ones are lost; so many suggest abuse.
const WAITING_MAX: usize = 10_000;
/// Timeout of one attempt.
const TRY_MAX: Duration = Duration::from_secs(20);
/// After so long a message is lost, because its domain has so many.
const WAIT_MAX: Duration = Duration::from_mins(10);

/// A message to a user.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The recipient.
    pub to: String,
    /// Has somebody proved that they read what is sent to it?
    pub is_proved: bool,
    /// The subject.
    pub subject: String,
    /// The text.
    pub text: String,
}

/// A text of a user as it stands in a letter: on one line, and no mail program makes a link of it.
#[must_use]
pub fn unlinked(text: &str) -> String {
    let printable: String = text.chars().filter(|c| !c.is_control()).collect();
    printable.replace("://", ":").replace('.', "(dot)").replace('@', "(at)")
}

enum Transport {
    Smtp(Box<AsyncSmtpTransport<Tokio1Executor>>),
    Folder(PathBuf),
    Log,
}

/// The messages of one kind of recipients that are not sent yet.
struct Lane {
    sending: Semaphore,
    /// By [`domain_of`]; those alone that have messages here.
    domains: Mutex<HashMap<String, Arc<Semaphore>>>,
    waiting: AtomicUsize,
}

impl Lane {
    fn new() -> Self {
        Lane {
            sending: Semaphore::new(SENDING_MAX),
            domains: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    fn places_of(&self, domain: String) -> Arc<Semaphore> {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        let places = domains
            .entry(domain)
            .or_insert_with(|| Arc::new(Semaphore::new(SENDING_TO_DOMAIN_MAX)));
        Arc::clone(places)
    }

    /// Forgets a domain that has no other messages here.
    fn leave(&self, domain: &str, places: Arc<Semaphore>) {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        drop(places);
        if domains.get(domain).is_some_and(|places| Arc::strong_count(places) == 1) {
            domains.remove(domain);
        }
    }
}

/// The last two labels of an address's domain: an owner of a domain has as many names below it as
/// they like.
fn domain_of(address: &str) -> String {
    let domain = address.rsplit_once('@').map_or(address, |(_, domain)| domain);
    let mut labels: Vec<&str> = domain.rsplit('.').take(2).collect();
    labels.reverse();
    labels.join(".").to_ascii_lowercase()
}

/// Sends messages.
#[derive(Clone)]
pub struct Mailer {
    runtime: Handle,
    from: Mailbox,
    transport: Arc<Transport>,
    to_proved: Arc<Lane>,
    to_others: Arc<Lane>,
}

impl Mailer {
    /// As configured. `folder` is used if the settings name no folder. An error names the setting
    /// that cannot be used.
    pub fn new(settings: &EmailSettings, folder: PathBuf, runtime: Handle) -> anyhow::Result<Self> {
        // The connection pool spawns a task.
        let _entered = runtime.enter();
        let from = settings.from.parse().context("email.from is not an email address")?;
        let transport = match settings.transport() {
            EmailTransport::Smtp => {
                let url = settings.smtp_url.as_ref().context("email.smtp_url is not set")?;
                let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose());
                // The cause could repeat the password.
                let builder =
                    builder.map_err(|_| anyhow::anyhow!("email.smtp_url is not an SMTP URL"))?;
                Transport::Smtp(Box::new(builder.timeout(Some(TRY_MAX)).build()))
            }
            EmailTransport::Folder => Transport::Folder(settings.folder.clone().unwrap_or(folder)),
            EmailTransport::Log => Transport::Log,
        };
        Ok(Mailer {
            runtime,
            from,
            transport: Arc::new(transport),
            to_proved: Arc::new(Lane::new()),
            to_others: Arc::new(Lane::new()),
        })
    }

    /// Are messages sent to a mail server?
    #[must_use]
    pub fn is_real(&self) -> bool {
        matches!(*self.transport, Transport::Smtp(_))
    }

    /// Sends a message in the background.
    pub fn send(&self, letter: Letter) {
        let mailer = self.clone();
        let lane = Arc::clone(if letter.is_proved { &self.to_proved } else { &self.to_others });
        if lane.waiting.fetch_add(1, Ordering::AcqRel) >= WAITING_MAX {
            lane.waiting.fetch_sub(1, Ordering::AcqRel);
            tracing::error!("a message was not sent: too many are waiting");
            return;
        }
        self.runtime.spawn(async move {
            let domain = domain_of(&letter.to);
            let places = lane.places_of(domain.clone());
            let sending = mailer.send_in(&lane, &places, &letter);
            let sent = tokio::time::timeout(WAIT_MAX, sending).await;
            lane.leave(&domain, places);
            lane.waiting.fetch_sub(1, Ordering::AcqRel);
            let sent = sent.unwrap_or_else(|_| Err(anyhow::anyhow!("it has waited too long")));
            if let Err(error) = sent {
                tracing::error!(error = format!("{error:#}"), "a message was not sent");
            }
        });
    }

    /// Tries to send a message, with a place for each attempt.
    async fn send_in(
        &self,
        lane: &Lane,
        of_domain: &Semaphore,
        letter: &Letter,
    ) -> anyhow::Result<()> {
        let to: Mailbox = letter.to.parse().context("the recipient's address")?;
        let message = Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(&letter.subject)
            .header(ContentType::TEXT_PLAIN)
            .body(letter.text.clone())?;
        let mut pause = PAUSE;
        for left in (0..TRIES).rev() {
            let own = of_domain.acquire().await?;
            let place = lane.sending.acquire().await?;
            let tried = self.try_to_send(&message, letter).await;
            drop((place, own));
            match tried {
                Tried::Sent => return Ok(()),
                Tried::Refused(error) => return Err(error),
                Tried::Later(error) if left == 0 => return Err(error),
                Tried::Later(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
        Ok(())
    }

    async fn try_to_send(&self, message: &Message, letter: &Letter) -> Tried {
        match &*self.transport {
            Transport::Smtp(smtp) => {
                match tokio::time::timeout(TRY_MAX, smtp.send(message.clone())).await {
                    Ok(Ok(_)) => Tried::Sent,
                    Ok(Err(error)) if error.is_permanent() => Tried::Refused(error.into()),
                    Ok(Err(error)) => Tried::Later(error.into()),
                    Err(_) => Tried::Later(anyhow::anyhow!("the mail server takes too long")),
                }
            }
            Transport::Folder(folder) => match write(folder.clone(), message.formatted()).await {
                Ok(()) => Tried::Sent,
                Err(error) => Tried::Refused(error),
            },
            Transport::Log => {
                let Letter { to, subject, text, .. } = letter;
                tracing::info!(to, subject, text, "a message (email.transport is log)");
                Tried::Sent
            }
        }
    }
}

/// What an attempt has come to.
enum Tried {
    Sent,
    /// Another attempt would end alike.
    Refused(anyhow::Error),
    /// Another attempt may succeed.
    Later(anyhow::Error),
}

/// Writes a message into a file that only the server's user can read, because its token works like
/// a password.
async fn write(folder: PathBuf, message: Vec<u8>) -> anyhow::Result<()> {
    let path = folder.join(format!("{}.eml", Uuid::now_v7()));
    let work = move || {
        use std::io::Write as _;
        crate::secrets::create_private_folder(&folder)?;
        // Renamed when it is complete, because others may watch the folder.
        let draft = path.with_extension("draft");
        let mut file = crate::secrets::create_private_file(&draft)?;
        file.write_all(&message)?;
        std::fs::rename(draft, path)
    };
    tokio::task::spawn_blocking(work).await?.context("cannot write into the mail folder")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_below_a_domain_are_of_its_owner() {
        for (address, domain) in [
            ("a@example.com", "example.com"),
            ("a@Mail.Example.com", "example.com"),
            ("a@b@x.y.z.example.com", "example.com"),
            ("a@localhost", "localhost"),
            ("", ""),
        ] {
            assert_eq!(domain_of(address), domain, "{address}");
        }
    }

    #[tokio::test]
    async fn a_domain_without_messages_is_forgotten() {
        let lane = Lane::new();
        let [one, two] = [(); 2].map(|()| lane.places_of("example.com".into()));
        lane.leave("example.com", one);
        assert_eq!(lane.domains.lock().unwrap().len(), 1);
        lane.leave("example.com", two);
        assert!(lane.domains.lock().unwrap().is_empty());
    }
}
