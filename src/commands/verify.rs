//! The command `polysystems verify`.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use domain::Actor;
use polysystems::app;
use polysystems::clock::Clock;
use polysystems::config::Settings;
use polysystems::exit::{Exit, ExitError, exit_of};
use polysystems::verify::runs::{self, KEPT_MAX};
use polysystems::verify::{self, Finding, Report};

use super::print;

/// Prints findings on standard output, and progress on standard error if that is a terminal.
struct Printed {
    /// The first findings, for operators who ask the server.
    found: Vec<Finding>,
    is_json: bool,
    /// When progress was last shown. `None` if there is no terminal.
    shown_at: Option<Instant>,
}

const PROGRESS_PERIOD: Duration = Duration::from_millis(200);

impl Printed {
    fn clear(&self) {
        if self.shown_at.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl verify::Audience for Printed {
    fn find(&mut self, finding: &Finding) -> anyhow::Result<()> {
        self.clear();
        if self.found.len() < KEPT_MAX {
            self.found.push(finding.clone());
        }
        if self.is_json {
            print(&serde_json::to_string(finding)?)
        } else {
            print(&finding.to_string())
        }
    }

    fn progress(&mut self, so_far: &Report, accounts: u64) {
        let Some(shown_at) = &mut self.shown_at else { return };
        if shown_at.elapsed() >= PROGRESS_PERIOD {
            *shown_at = Instant::now();
            let Report { accounts: done, entries, bills, usage, findings } = so_far;
            let _ = write!(
                std::io::stderr(),
                "\r\x1b[K{done} of {accounts} accounts, {entries} entries, {bills} bills, {usage} usage records, \
                 {findings} findings"
            );
        }
    }
}

/// Checks every ledger. The exit code says whether there are findings. An error means that the
/// check could not run.
pub(crate) fn run(settings: &Settings, is_json: bool) -> anyhow::Result<ExitCode> {
    look(settings, is_json).map_err(|error| match exit_of(&error) {
        Exit::Settings => error,
        _ => ExitError::error(Exit::CannotLook, format!("{error:#}")),
    })
}

fn look(settings: &Settings, is_json: bool) -> anyhow::Result<ExitCode> {
    let database = app::database_runtime()?;
    let opening = app::open_existing_store(settings, database.handle().clone());
    let store = database.block_on(opening)?;
    let shown_at = std::io::stderr().is_terminal().then(Instant::now);
    let mut printed = Printed { found: Vec::new(), is_json, shown_at };
    let began_at = Clock::System.now();
    let report = database.block_on(verify::verify(&store, &mut printed))?;
    printed.clear();
    if is_json {
        print(&serde_json::to_string(&report)?)?;
    } else {
        print(&format!(
            "{} accounts, {} ledger entries, {} bills, {} usage records: {} findings",
            report.accounts, report.entries, report.bills, report.usage, report.findings
        ))?;
    }
    let span = (began_at, Clock::System.now());
    let ended = runs::ended(Actor::CommandLine, span, report, None, &printed.found);
    // A copy may be one that nobody can write. What was found is printed all the same.
    if let Err(error) = database.block_on(store.verifications.insert(ended)) {
        let _ = writeln!(
            std::io::stderr(),
            "the verification is not on record, so the server does not show it: {error}"
        );
    }
    database.block_on(store.close());
    Ok(if report.findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
