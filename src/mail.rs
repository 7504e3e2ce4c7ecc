//! Mail to users: by SMTP, or for development into a folder or the log.
//!
//! Requests do not wait for it, so the time of an answer does not reveal whether a message was
//! sent. A message that could not be sent after several attempts is lost; the user can request
//! another one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
/// Messages sent at the same time.
const SENDING_MAX: usize = 4;
/// Messages that may wait. Further ones are lost; so many suggest abuse.
const WAITING_MAX: usize = 10_000;
/// Timeout of one attempt.
const TRY_MAX: Duration = Duration::from_secs(20);

/// A message to a user.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The recipient.
    pub to: String,
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

/// Sends messages.
#[derive(Clone)]
pub struct Mailer {
    runtime: Handle,
    from: Mailbox,
    transport: Arc<Transport>,
    sending: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
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
            sending: Arc::new(Semaphore::new(SENDING_MAX)),
            waiting: Arc::default(),
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
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            tracing::error!("a message was not sent: too many are waiting");
            return;
        }
        self.runtime.spawn(async move {
            let permit = mailer.sending.acquire().await;
            let sent = mailer.try_to_send(&letter).await;
            drop(permit);
            mailer.waiting.fetch_sub(1, Ordering::AcqRel);
            if let Err(error) = sent {
                tracing::error!(error = format!("{error:#}"), "a message was not sent");
            }
        });
    }

    async fn try_to_send(&self, letter: &Letter) -> anyhow::Result<()> {
        let to: Mailbox = letter.to.parse().context("the recipient's address")?;
        let message = Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(&letter.subject)
            .header(ContentType::TEXT_PLAIN)
            .body(letter.text.clone())?;
        match &*self.transport {
            Transport::Smtp(smtp) => {
                let mut pause = PAUSE;
                for left in (0..TRIES).rev() {
                    match tokio::time::timeout(TRY_MAX, smtp.send(message.clone())).await {
                        Ok(Ok(_)) => break,
                        Ok(Err(error)) if error.is_permanent() => return Err(error.into()),
                        Ok(Err(error)) if left == 0 => return Err(error.into()),
                        Err(_) if left == 0 => anyhow::bail!("the mail server takes too long"),
                        _ => {}
                    }
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2);
                }
                Ok(())
            }
            Transport::Folder(folder) => write(folder.clone(), message.formatted()).await,
            Transport::Log => {
                let Letter { to, subject, text } = letter;
                tracing::info!(to, subject, text, "a message (email.transport is log)");
                Ok(())
            }
        }
    }
}

/// Writes a message into a file that only the server's user can read, because its token works like
/// a password.
async fn write(folder: PathBuf, message: Vec<u8>) -> anyhow::Result<()> {
    let path = folder.join(format!("{}.eml", Uuid::now_v7()));
    let work = move || {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        crate::secrets::create_private_folder(&folder)?;
        // Renamed when it is complete, because others may watch the folder.
        let draft = path.with_extension("draft");
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&message)?;
        std::fs::rename(draft, path)
    };
    tokio::task::spawn_blocking(work).await?.context("cannot write into the mail folder")
}
