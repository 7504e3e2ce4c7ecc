//! Registration, login and change of password.

use uuid::Uuid;

use super::password::{LENGTH_MAX, PasswordError, Passwords};
use super::session::{SessionError, Sessions};
use crate::clock::Clock;
use crate::domain::{Credits, UserId};
use crate::store::users::{NewUser, Role, User};
use crate::store::{Store, StoreError};

/// Why somebody did not get in.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    /// Another user has this email.
    #[error("the email is taken")]
    EmailTaken,
    /// Another user has this username.
    #[error("the username is taken")]
    UsernameTaken,
    /// Too short, or longer than anyone's.
    #[error("the password has not between {min} and {LENGTH_MAX} characters")]
    PasswordLength {
        /// The shortest that is taken.
        min: usize,
    },
    /// The email or the password is wrong; which of them is not told.
    #[error("wrong email or password")]
    WrongCredentials,
    /// No session, or one of a user who is gone or has changed their password.
    #[error("not a valid session token")]
    InvalidSession,
    /// A session whose time is over.
    #[error("the session token has expired")]
    ExpiredSession,
    /// See [`PasswordError`].
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A token could not be signed.
    #[error("a session token could not be signed")]
    Unsigned,
}

/// A registration that is well formed.
pub struct Registration {
    /// As they wrote it.
    pub email: String,
    /// As they wrote it.
    pub username: String,
    /// In clear text, on its way to the hash.
    pub password: String,
}

/// The people of this server.
pub struct People {
    /// The database.
    pub store: Store,
    /// Hashes passwords.
    pub passwords: Passwords,
    /// Signs sessions.
    pub sessions: Sessions,
    /// The time.
    pub clock: Clock,
    /// The shortest password, in characters.
    pub password_length_min: usize,
    /// What a user's test account begins with.
    pub test_credits: Credits,
}

impl People {
    /// Registers a user.
    ///
    /// # Errors
    /// [`PeopleError`]
    pub async fn register(&self, new: Registration, role: Role) -> Result<User, PeopleError> {
        self.check_length(&new.password)?;
        let password_hash = self.passwords.hash(new.password).await?;
        let user = NewUser {
            id: UserId(Uuid::new_v4()),
            email: new.email.trim().to_owned(),
            username: new.username.trim().to_owned(),
            password_hash,
            role,
            created_at: self.clock.now(),
            test_credits: self.test_credits,
        };
        self.store.create_user(user).await.map_err(|error| match error {
            StoreError::Taken(what) if what.contains("username") => PeopleError::UsernameTaken,
            StoreError::Taken(_) => PeopleError::EmailTaken,
            other => PeopleError::Store(other),
        })
    }

    /// Logs a user in.
    ///
    /// # Errors
    /// [`PeopleError::WrongCredentials`] for an unknown email and a wrong password alike, after the same work.
    pub async fn log_in(
        &self,
        email: &str,
        password: String,
    ) -> Result<(User, String), PeopleError> {
        // No email has a control character, and not every database can be asked for one.
        let user = if email.chars().any(char::is_control) {
            None
        } else {
            self.store.find_user_by_email(email).await?
        };
        let stored = user.as_ref().map(|user| user.password_hash.clone());
        let fits = self.passwords.verify(password, stored).await?;
        let user = user.filter(|_| fits).ok_or(PeopleError::WrongCredentials)?;
        let token = self.sessions.issue(&user, self.clock.now()).ok_or(PeopleError::Unsigned)?;
        Ok((user, token))
    }

    /// Whose session it is.
    ///
    /// # Errors
    /// [`PeopleError::InvalidSession`] or [`PeopleError::ExpiredSession`]
    pub async fn authenticate(&self, token: &str) -> Result<User, PeopleError> {
        let session = self.sessions.read(token, self.clock.now()).map_err(|error| match error {
            SessionError::Invalid => PeopleError::InvalidSession,
            SessionError::Expired => PeopleError::ExpiredSession,
        })?;
        let user = self.store.find_user(session.user).await?;
        user.filter(|user| user.token_version == session.token_version)
            .ok_or(PeopleError::InvalidSession)
    }

    /// Changes a password. Every session issued before ends; the new one is returned.
    ///
    /// # Errors
    /// [`PeopleError::WrongCredentials`] where the current password is wrong, or was changed meanwhile.
    pub async fn change_password(
        &self,
        user: User,
        current: String,
        new: String,
    ) -> Result<String, PeopleError> {
        self.check_length(&new)?;
        if !self.passwords.verify(current, Some(user.password_hash.clone())).await? {
            return Err(PeopleError::WrongCredentials);
        }
        let hash = self.passwords.hash(new).await?;
        let changed = self.store.set_password(&user, hash).await?;
        let token_version = changed.ok_or(PeopleError::WrongCredentials)?;
        let user = User { token_version, ..user };
        self.sessions.issue(&user, self.clock.now()).ok_or(PeopleError::Unsigned)
    }

    fn check_length(&self, password: &str) -> Result<(), PeopleError> {
        let min = self.password_length_min;
        if password.chars().count() < min || password.len() > LENGTH_MAX {
            return Err(PeopleError::PasswordLength { min });
        }
        Ok(())
    }
}
