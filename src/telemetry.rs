//! Logs by `tracing`, on standard error: for people, or one JSON object a line.
//!
//! Field names are the same everywhere: `request_id`, `account`, `key`, `route`, `status`. No line ever
//! holds a key, a session token, a password, an email address or a body.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSettings};

/// The target of the one line that every request leaves.
pub const REQUEST: &str = "polysystems::request";

/// Starts logging for the process.
///
/// # Errors
/// Where the level is not a filter.
pub fn start(settings: &LogSettings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.level)
        .with_context(|| format!("log.level {:?} is not a log level", settings.level))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match settings.format {
        LogFormat::Human => logs.with_target(false).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    // In the log like everything else, with its place and without what it may have had in hand.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(alert = "panic", place, thread = thread.name(), "a panic");
    }));
    Ok(())
}
