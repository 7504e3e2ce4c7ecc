//! Mail to users: over SMTP, or where none is set, into a folder or into the log.
//!
//! Nobody waits for it, so that no answer's time tells whether there was anything to send. What could not be sent after
//! several tries is lost: its reader asks for another one.

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

/// How often sending is tried, and how long it waits after the first time; twice as long each time.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_secs(2);
/// Messages sent at the same time.
const SENDING_MAX: usize = 4;
/// Messages waiting; more are lost, since somebody has this server send what nobody asked for.
const WAITING_MAX: usize = 10_000;
/// How long one try may take.
const TRY_MAX: Duration = Duration::from_secs(20);

/// A message to a user.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Their address.
    pub to: String,
    /// Its subject.
    pub subject: String,
    /// Its text.
    pub text: String,
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
    /// As set; `folder` is where messages go that have nowhere else to go.
    ///
    /// # Errors
    /// A line that names the setting that cannot be used.
    pub fn new(settings: &EmailSettings, folder: PathBuf, runtime: Handle) -> anyhow::Result<Self> {
        // Its pool of connections has a task of its own.
        let _entered = runtime.enter();
        let from = settings.from.parse().context("email.from is no address")?;
        let transport = match settings.transport() {
            EmailTransport::Smtp => {
                let url = settings.smtp_url.as_ref().context("email.smtp_url is not set")?;
                let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose());
                // The cause may repeat the password in it.
                let builder =
                    builder.map_err(|_| anyhow::anyhow!("email.smtp_url is no URL of SMTP"))?;
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

    /// Do messages reach their readers?
    #[must_use]
    pub fn is_real(&self) -> bool {
        matches!(*self.transport, Transport::Smtp(_))
    }

    /// Sends a letter, without anyone waiting for it.
    pub fn send(&self, letter: Letter) {
        let mailer = self.clone();
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            tracing::error!("a message was not sent: too many wait");
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
        let to: Mailbox = letter.to.parse().context("the address of its reader")?;
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
                tracing::info!(to, subject, text, "a message, since email.transport is log");
                Ok(())
            }
        }
    }
}

/// Writes a message for the eyes of the server's own user: its token is as good as a password for a while.
async fn write(folder: PathBuf, message: Vec<u8>) -> anyhow::Result<()> {
    let path = folder.join(format!("{}.eml", Uuid::now_v7()));
    let work = move || {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        std::fs::create_dir_all(&folder)?;
        // Under its own name only when it is whole: somebody may be looking.
        let draft = path.with_extension("draft");
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&message)?;
        std::fs::rename(draft, path)
    };
    tokio::task::spawn_blocking(work).await?.context("cannot write into the folder for mail")
}
