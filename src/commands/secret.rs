//! `polysystems secret`: the secrets that the server has generated.

use anyhow::Context as _;
use clap::Subcommand;
use domain::api_key::Pepper;
use polysystems::auth::two_factor;
use polysystems::clock::Clock;
use polysystems::config::Settings;
use polysystems::exit::{Exit, ExitError};
use polysystems::seal::Seal;
use polysystems::secrets::{self, JWT_SECRET, KEY_PEPPER};
use polysystems::store::peppered::{DigestCounts, OtherPeppered};

use super::{print, with_store};

#[derive(Clone, Copy, Subcommand)]
pub(super) enum SecretCommand {
    /// Replaces the secret of session tokens from the next start on; tokens signed with the old one
    /// stay valid until they expire
    RotateJwt,
    /// Replaces the key pepper from the next start on; API keys made with the old one stay valid as
    /// long as the old one is kept
    RotatePepper,
    /// Says how many API keys, secrets and recovery codes still need the previous key pepper
    Status,
}

pub(super) fn run(settings: &Settings, command: SecretCommand) -> anyhow::Result<()> {
    match command {
        SecretCommand::RotateJwt => {
            let is_set = settings.auth.jwt_secret.is_some();
            assert_generated(is_set, "auth.jwt_secret", "auth.jwt_previous_secret")?;
            secrets::assert_there(settings)?;
            secrets::rotate(&settings.data_dir, JWT_SECRET)?;
            print("Session tokens will be signed with a new secret from the next start on.")
        }
        SecretCommand::RotatePepper => {
            let is_set = settings.auth.key_pepper.is_some();
            assert_generated(is_set, "auth.key_pepper", "auth.key_previous_pepper")?;
            secrets::assert_there(settings)?;
            if secrets::previous(None, &settings.data_dir, KEY_PEPPER)?.is_some() {
                return Err(ExitError::error(
                    Exit::Settings,
                    format!(
                        "there is a previous pepper already: {KEY_PEPPER}.previous in data_dir. Only one is kept: run \
                         `polysystems secret status`, and delete the file once nothing needs it"
                    ),
                ));
            }
            secrets::rotate(&settings.data_dir, KEY_PEPPER)?;
            print(
                "API keys will be made with a new pepper from the next start on. Back it up. Keys made with the old \
                 one stay valid; `polysystems secret status` says how many are left.",
            )
        }
        SecretCommand::Status => status(settings),
    }
}

/// Refuses to replace a secret that is set, since only a generated one is in a file of ours.
fn assert_generated(is_set: bool, name: &str, previous: &str) -> anyhow::Result<()> {
    if is_set {
        let message =
            format!("{name} is set in the settings: move it to {previous} and set a new one");
        return Err(ExitError::error(Exit::Settings, message));
    }
    Ok(())
}

fn status(settings: &Settings) -> anyhow::Result<()> {
    let unusable = "the key pepper cannot be used";
    let (keys, others, has_previous) = with_store(settings, async |store| {
        let peppers = secrets::peppers(settings)?;
        let pepper = Pepper::new(&peppers.current).context(unusable)?;
        let seal = Seal::new(&peppers, two_factor::PURPOSE).context(unusable)?;
        let keys = store.count_digests(pepper.id(), Clock::System.now()).await?;
        let others = store.count_other_peppered(seal.id()).await?;
        Ok((keys, others, peppers.previous.is_some()))
    })?;
    let DigestCounts { current, other } = keys;
    let OtherPeppered { sealed, codes } = others;
    print(&format!(
        "Values of API keys with the current pepper: {current}; with another one: {other}."
    ))?;
    print(&format!(
        "With another one: {sealed} encrypted secrets of webhooks, second factors and providers, {codes} unused \
         recovery codes."
    ))?;
    if !has_previous {
        return print(if other == 0 && sealed == 0 && codes == 0 {
            "There is no previous pepper."
        } else {
            "There is no previous pepper, so these are invalid. Put the pepper that made them back as \
             auth.key_previous_pepper, or ask their owners for new ones."
        });
    }
    if other > 0 {
        print("Keep the previous pepper, or ask the owners of these keys to rotate them.")?;
    }
    if sealed > 0 {
        print(
            "Keep the previous pepper until these secrets are encrypted anew: a running server does so at its start, \
             and then each hour.",
        )?;
    }
    if codes > 0 {
        print(
            "Keep the previous pepper, or tell the owners of these recovery codes to make new ones: without it the \
             codes do not work.",
        )?;
    }
    if other == 0 && sealed == 0 && codes == 0 {
        print(
            "Nothing that lasts needs the previous pepper. Delete it a week after the change, when the answers that \
             it encrypted have expired too.",
        )?;
    }
    Ok(())
}
