//! The command line. Settings first, then one command.

use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use polysystems::exit::{Exit, exit_of};

mod commands;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match commands::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return answer(&error),
    };
    match commands::run(arguments) {
        Ok(code) => code,
        // One line: the whole chain of causes.
        Err(error) => end(exit_of(&error), &format!("{error:#}")),
    }
}

/// Help and the version as they are; what is wrong with the arguments in one line.
fn answer(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return ExitCode::from(Exit::CannotLook.code());
        }
        _ => {}
    }
    let text = error.render().to_string();
    // The usage, and where to read more, are in the help.
    let what = text.split("Usage: ").next().unwrap_or_default();
    let what = what.split("For more information").next().unwrap_or_default();
    let what: Vec<&str> = what.split_whitespace().collect();
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    end(Exit::CannotLook, &format!("{what}; see `{} --help`", named_command()))
}

/// The command that the arguments name, as far as it is known.
fn named_command() -> String {
    let mut command = commands::Arguments::command();
    let mut name = command.get_name().to_owned();
    for argument in std::env::args().skip(1) {
        let Some(found) = command.find_subcommand(&argument).cloned() else { continue };
        name = format!("{name} {}", found.get_name());
        command = found;
    }
    name
}

fn end(exit: Exit, message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "polysystems: {}", message.replace('\n', " "));
    ExitCode::from(exit.code())
}
