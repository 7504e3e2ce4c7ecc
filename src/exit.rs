//! How the program ends: its exit codes, and errors that carry one.

/// Why the program ends, other than that its work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `verify` has findings, or a command was refused.
    Findings,
    /// Wrong arguments, or `verify` could not look.
    CannotLook,
    /// The server, or the database, does not answer.
    NoAnswer,
    /// Another process has taken the accounts over.
    Fenced,
    /// Settings, a secret or a database are missing, or cannot be used as they are.
    Settings,
}

impl Exit {
    /// The exit code. Those from 64 on are those of `sysexits.h`.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Exit::Findings => 1,
            Exit::CannotLook => 2,
            Exit::NoAnswer => 69,
            Exit::Fenced => 75,
            Exit::Settings => 78,
        }
    }
}

/// An error that says how the program is to end.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ExitError {
    exit: Exit,
    message: String,
}

impl ExitError {
    /// An error with this exit code. The message is one line that says what to do.
    pub fn error(exit: Exit, message: impl Into<String>) -> anyhow::Error {
        ExitError { exit, message: message.into() }.into()
    }

    /// Gives an error an exit code, unless it has one.
    pub fn of(exit: Exit, error: anyhow::Error) -> anyhow::Error {
        if find(&error).is_some() { error } else { ExitError::error(exit, format!("{error:#}")) }
    }
}

fn find(error: &anyhow::Error) -> Option<Exit> {
    error.chain().find_map(|cause| Some(cause.downcast_ref::<ExitError>()?.exit))
}

/// How the program ends by this error.
#[must_use]
pub fn exit_of(error: &anyhow::Error) -> Exit {
    find(error).unwrap_or(Exit::Findings)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_error_keeps_its_first_exit_code() {
        let error = ExitError::error(Exit::Fenced, "taken over");
        let error = ExitError::of(Exit::Settings, error.context("the server ended"));
        assert_eq!(exit_of(&error), Exit::Fenced);
        assert_eq!(format!("{error:#}"), "the server ended: taken over");
        let plain = ExitError::of(Exit::CannotLook, anyhow::anyhow!("no").context("cannot read"));
        assert_eq!(
            (exit_of(&plain), format!("{plain:#}").as_str()),
            (Exit::CannotLook, "cannot read: no")
        );
        let codes =
            [Exit::Findings, Exit::CannotLook, Exit::NoAnswer, Exit::Fenced, Exit::Settings];
        assert_eq!(codes.map(Exit::code), [1, 2, 69, 75, 78]);
        let unclassified = Err::<(), _>(std::io::Error::other("x")).context("y").unwrap_err();
        assert_eq!(exit_of(&unclassified), Exit::Findings);
    }
}
