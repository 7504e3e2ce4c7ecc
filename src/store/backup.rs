//! A copy of a SQLite database that may be in use.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use sea_orm::{ConnectionTrait as _, Statement};

use super::ledger::journal::Journal;
use super::sql::text_cell;
use super::{Store, StoreError};
use crate::secrets::{create_private_file, create_private_folder};

impl Store {
    /// Copies the database into a folder, also while a server runs on it: whatever was acknowledged
    /// when this began is in the copy. Answers its files, each under its own name.
    ///
    /// The journal is first: what is checkpointed meanwhile is in the tables, which are copied
    /// after it.
    ///
    /// # Errors
    /// [`StoreError::Unsafe`] for PostgreSQL, which has tools of its own, and if the folder has
    /// such files already or cannot be written; other [`StoreError`]s if the database cannot be
    /// read.
    pub async fn back_up(&self, folder: &Path) -> Result<[PathBuf; 2], StoreError> {
        let (store, folder) = (self.clone(), folder.to_owned());
        // It takes as long as it takes.
        let copying = self.runtime.spawn(async move { store.copy_into(&folder).await });
        copying.await.map_err(|_| StoreError::Stopped)?
    }

    async fn copy_into(&self, folder: &Path) -> Result<[PathBuf; 2], StoreError> {
        let Journal::File(log) = &self.journal else {
            return Err(StoreError::Unsafe(
                "PostgreSQL is backed up with its own tools: pg_dump, or a base backup with its log".into(),
            ));
        };
        let file = "SELECT file FROM pragma_database_list WHERE name = 'main'";
        let tables = text_cell(&self.read, file).await?;
        let place = |file: &Path| folder.join(file.file_name().unwrap_or(OsStr::new("copy")));
        let copies = [place(log.path()), place(Path::new(&tables))];
        // Under other names until they are whole.
        let parts = copies.each_ref().map(|copy| copy.with_added_extension("part"));
        let refused = |error: std::io::Error| {
            StoreError::Unsafe(format!("cannot copy into {}: {error}", folder.display()))
        };
        create_private_folder(folder).map_err(refused)?;
        if let Some(there) = copies.iter().find(|copy| copy.exists()) {
            let there = there.display();
            return Err(StoreError::Unsafe(format!(
                "{there} is there already; name another folder"
            )));
        }
        let [journal, tables] = &parts;
        // Neither would write over what was broken off.
        for part in parts.iter().filter(|part| part.exists()) {
            std::fs::remove_file(part).map_err(refused)?;
        }
        log.copy(journal).map_err(refused)?;
        let Some(name) = tables.to_str() else {
            return Err(StoreError::Unsafe("the name of the folder is not UTF-8".into()));
        };
        // It writes into an empty file, and this one is for its owner alone, whatever the umask and
        // the folder are.
        create_private_file(tables).map_err(refused)?;
        let backend = self.read.get_database_backend();
        let copy = Statement::from_sql_and_values(backend, "VACUUM INTO $1", [name.into()]);
        self.read.execute_raw(copy).await?;
        let kept = || {
            File::open(tables)?.sync_all()?;
            for (part, copy) in parts.iter().zip(&copies) {
                std::fs::rename(part, copy)?;
            }
            File::open(folder)?.sync_all()
        };
        kept().map_err(refused)?;
        Ok(copies)
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::*;
    use crate::config::DatabaseSettings;

    #[tokio::test]
    async fn a_backup_spares_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("x.db").display());
        let settings = DatabaseSettings::default();
        let store = Store::open(&settings, &url, Handle::current()).await.unwrap();
        let copy = folder.path().join("copy");
        let copies = store.back_up(&copy).await.unwrap();
        assert_eq!(copies, [copy.join("x.journal.log"), copy.join("x.db")]);
        let again = store.back_up(&copy).await.unwrap_err().to_string();
        assert!(again.contains("x.journal.log is there already"), "{again}");
        store.close().await;
    }

    #[tokio::test]
    async fn a_backup_is_for_its_owner_alone_in_any_folder() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("x.db").display());
        let settings = DatabaseSettings::default();
        let store = Store::open(&settings, &url, Handle::current()).await.unwrap();
        let copy = folder.path().join("copy");
        let open_to_all = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::create_dir(&copy).unwrap();
        std::fs::set_permissions(&copy, open_to_all(0o755)).unwrap();
        // What was broken off is not kept, with its mode.
        for name in ["x.db.part", "x.journal.log.part"] {
            std::fs::write(copy.join(name), "broken off").unwrap();
            std::fs::set_permissions(copy.join(name), open_to_all(0o644)).unwrap();
        }
        for file in store.back_up(&copy).await.unwrap() {
            let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", file.display());
        }
        store.close().await;
    }
}
