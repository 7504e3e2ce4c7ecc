//! Secrets that are not set: generated once in the data directory, in files that only their owner
//! can read.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::Context as _;
use rand::RngExt as _;

use crate::config::{Secret, Settings};
use crate::exit::{Exit, ExitError};
use crate::seal::Secrets;

/// The file of the secret of session tokens.
pub const JWT_SECRET: &str = "jwt_secret";
/// The file of the key pepper.
pub const KEY_PEPPER: &str = "key_pepper";

/// Makes a folder that only the server's user can read, with the folders above it, if it is
/// missing. One that is there stays as it is.
///
/// # Errors
/// As of the file system.
pub fn create_private_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Creates a file that only the server's user can read.
///
/// # Errors
/// If it is there already, or cannot be created.
pub fn create_private_file(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// The secret that is set, or that in the file `name` of the data directory. A missing file is
/// created.
pub fn secret(set: Option<&Secret>, data_dir: &Path, name: &str) -> anyhow::Result<Vec<u8>> {
    if let Some(secret) = set {
        return Ok(secret.expose().as_bytes().to_vec());
    }
    create_private_folder(data_dir)
        .with_context(|| format!("cannot create the data directory {}", data_dir.display()))?;
    let path = data_dir.join(name);
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    match made {
        Ok(file) => fill(file).with_context(|| format!("cannot write {}", path.display()))?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot create {}", path.display()));
        }
    }
    read(&path)
}

/// The key pepper, and the one used before it if that is still known. A missing one is generated.
pub fn peppers(settings: &Settings) -> anyhow::Result<Secrets> {
    let (auth, data_dir) = (&settings.auth, &settings.data_dir);
    Ok(Secrets {
        current: secret(auth.key_pepper.as_ref(), data_dir, KEY_PEPPER)?,
        previous: previous(auth.key_previous_pepper.as_ref(), data_dir, KEY_PEPPER)?,
    })
}

/// Generates those secrets that are neither set nor in the data directory.
pub fn generate(settings: &Settings) -> anyhow::Result<()> {
    for (name, set) in generated(settings) {
        secret(set, &settings.data_dir, name)?;
    }
    Ok(())
}

/// Refuses if a secret is missing, which only the server and `migrate` generate.
pub fn assert_there(settings: &Settings) -> anyhow::Result<()> {
    for (name, set) in generated(settings) {
        let path = settings.data_dir.join(name);
        if set.is_none() && !path.is_file() {
            let message = format!(
                "there is no secret {}; check data_dir (POLYSYSTEMS_DATA_DIR), or put it back from a backup. For a \
                 new server `polysystems migrate` generates it",
                path.display()
            );
            return Err(ExitError::error(Exit::Settings, message));
        }
    }
    Ok(())
}

fn generated(settings: &Settings) -> [(&'static str, Option<&Secret>); 2] {
    let auth = &settings.auth;
    [(JWT_SECRET, auth.jwt_secret.as_ref()), (KEY_PEPPER, auth.key_pepper.as_ref())]
}

/// The previous secret, if there is one: as it is set, or from the file that [`rotate`] has left.
pub fn previous(
    set: Option<&Secret>,
    data_dir: &Path,
    name: &str,
) -> anyhow::Result<Option<Vec<u8>>> {
    if let Some(secret) = set {
        return Ok(Some(secret.expose().as_bytes().to_vec()));
    }
    let path = data_dir.join(format!("{name}.previous"));
    if path.exists() { read(&path).map(Some) } else { Ok(None) }
}

/// Replaces the secret in the file `name`, and keeps the old one beside it.
pub fn rotate(data_dir: &Path, name: &str) -> anyhow::Result<()> {
    let (path, previous) = (data_dir.join(name), data_dir.join(format!("{name}.previous")));
    read(&path)?;
    std::fs::rename(&path, &previous)
        .with_context(|| format!("cannot move {} to {}", path.display(), previous.display()))?;
    secret(None, data_dir, name).map(drop)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut text = String::new();
    File::open(path)
        .and_then(|mut file| file.read_to_string(&mut text))
        .with_context(|| format!("cannot read {}", path.display()))?;
    let text = text.trim();
    anyhow::ensure!(
        text.len() >= 32,
        "{} contains no secret; delete it to have one generated",
        path.display()
    );
    Ok(text.as_bytes().to_vec())
}

fn fill(mut file: File) -> std::io::Result<()> {
    let random: [u8; 32] = rand::rng().random();
    writeln!(file, "{}", hex::encode(random))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        let first = secret(None, &data_dir, "pepper").unwrap();
        assert_eq!(first.len(), 64);
        assert_eq!(secret(None, &data_dir, "pepper").unwrap(), first);
        assert_ne!(secret(None, &data_dir, "other").unwrap(), first);
        rotate(&data_dir, "pepper").unwrap();
        assert_ne!(secret(None, &data_dir, "pepper").unwrap(), first);
        assert_eq!(previous(None, &data_dir, "pepper").unwrap(), Some(first));
        assert_eq!(previous(None, &data_dir, "other").unwrap(), None);
        let mode = data_dir.join("pepper").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
