//! Registration, login, sessions and change of password.

use uuid::Uuid;

use super::password::{LENGTH_MAX, PasswordError, Passwords};
use super::session::{RefreshToken, Session, SessionError, Sessions, digest};
use crate::clock::Clock;
use crate::domain::{Act, ActKind, Actor, Credits, Origin, SessionId, Timestamp, UserId};
use crate::store::sessions::{NewSession, Refreshed, SessionListing};
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
    /// No session, or one that has ended.
    #[error("not a valid session token")]
    InvalidSession,
    /// No refresh token of a session that has not ended.
    #[error("not a valid refresh token")]
    InvalidRefresh,
    /// The user has no such session.
    #[error("no such session")]
    NoSession,
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

/// Where a request comes from, as its user is told later.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its address.
    pub address: String,
    /// What the client calls itself.
    pub agent: String,
}

impl Device {
    /// Somebody on it.
    #[must_use]
    pub fn origin(&self, actor: Actor) -> Origin {
        let Device { address, agent } = self.clone();
        Origin { actor, address, agent }
    }
}

/// Who has proved who they are, and what proves it from now on.
pub struct LoggedIn {
    /// The user.
    pub user: User,
    /// The session token.
    pub token: String,
    /// Renews the session, once.
    pub refresh_token: RefreshToken,
    /// When the session token ends.
    pub token_expires_at: Timestamp,
    /// When the session ends, unless it is renewed.
    pub session_expires_at: Timestamp,
}

/// Who speaks, and in which session.
#[derive(Clone, Debug)]
pub struct Speaker {
    /// The user.
    pub user: User,
    /// Their session.
    pub session: SessionId,
}

/// How long sessions last, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub struct SessionBounds {
    /// How long a session lasts that is not renewed, in microseconds.
    pub lifetime_micros: i64,
    /// Sessions of one user.
    pub sessions_max: u64,
}

/// The people of this server.
pub struct People {
    /// The database.
    pub store: Store,
    /// Hashes passwords.
    pub passwords: Passwords,
    /// Signs session tokens.
    pub sessions: Sessions,
    /// How long sessions last.
    pub session_bounds: SessionBounds,
    /// The time.
    pub clock: Clock,
    /// The shortest password, in characters.
    pub password_length_min: usize,
    /// What a user's test account begins with.
    pub test_credits: Credits,
}

impl People {
    /// Registers a user, from a device or, where none is given, from the command line.
    ///
    /// # Errors
    /// [`PeopleError`]
    pub async fn register(
        &self,
        new: Registration,
        role: Role,
        device: Option<Device>,
    ) -> Result<User, PeopleError> {
        self.check_length(&new.password)?;
        let password_hash = self.passwords.hash(new.password).await?;
        let id = UserId(Uuid::new_v4());
        let origin = match device {
            Some(device) => device.origin(Actor::User(id)),
            None => Origin::local(Actor::CommandLine),
        };
        let user = NewUser {
            id,
            origin,
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
        device: Device,
    ) -> Result<LoggedIn, PeopleError> {
        // No email has a control character, and not every database can be asked for one.
        let user = if email.chars().any(char::is_control) {
            None
        } else {
            self.store.find_user_by_email(email).await?
        };
        let stored = user.as_ref().map(|user| user.password_hash.clone());
        let fits = self.passwords.verify(password, stored).await?;
        let Some(user) = user.as_ref().filter(|_| fits).cloned() else {
            if let Some(user) = user {
                self.store.record_act_later(self.act(user.id, &device, ActKind::LoginFailed));
            }
            return Err(PeopleError::WrongCredentials);
        };
        let act = self.act(user.id, &device, ActKind::LoggedIn);
        let (session, refresh_token) = self.new_session(user.id, device);
        let logged_in = self.logged_in(user, session.id, refresh_token)?;
        let act = act.to(session.id.to_string());
        self.store.begin_session(session, act).await?;
        Ok(logged_in)
    }

    /// Something that a user does now.
    fn act(&self, user: UserId, device: &Device, kind: ActKind) -> Act {
        let origin = device.origin(Actor::User(user));
        origin.act(Uuid::now_v7(), user, kind, self.clock.now())
    }

    fn new_session(&self, user: UserId, device: Device) -> (NewSession, RefreshToken) {
        let refresh_token = RefreshToken::new();
        let (at, Device { address, agent }) = (self.clock.now(), device);
        let SessionBounds { lifetime_micros, sessions_max } = self.session_bounds;
        let session = NewSession {
            id: SessionId(Uuid::new_v4()),
            user,
            at,
            expires_at: at.plus_micros(lifetime_micros),
            address,
            agent,
            refresh: refresh_token.digest(),
            sessions_max,
        };
        (session, refresh_token)
    }

    fn logged_in(
        &self,
        user: User,
        session: SessionId,
        refresh_token: RefreshToken,
    ) -> Result<LoggedIn, PeopleError> {
        let now = self.clock.now();
        let session = Session { id: session, user: user.id };
        let token = self.sessions.issue(session, now).ok_or(PeopleError::Unsigned)?;
        Ok(LoggedIn {
            user,
            token,
            refresh_token,
            token_expires_at: self.sessions.expiry(now),
            session_expires_at: now.plus_micros(self.session_bounds.lifetime_micros),
        })
    }

    /// Renews a session by its refresh token, which is used up. One that comes a second time ends the session: one of
    /// the two who have it has stolen it.
    ///
    /// # Errors
    /// [`PeopleError::InvalidRefresh`]
    pub async fn refresh(&self, token: &str, device: Device) -> Result<LoggedIn, PeopleError> {
        let next = RefreshToken::new();
        let now = self.clock.now();
        let expires_at = now.plus_micros(self.session_bounds.lifetime_micros);
        let (used, digest) = (digest(token), next.digest());
        // Who it is, the token tells.
        let from = device.origin(Actor::Server);
        let renewing = self.store.refresh_session(used, digest, now, expires_at, from);
        match renewing.await? {
            Refreshed::Renewed(user, session) => self.logged_in(*user, session, next),
            Refreshed::Reused(user, session) => {
                tracing::warn!(%user, %session, "a refresh token came twice; its session has ended");
                Err(PeopleError::InvalidRefresh)
            }
            Refreshed::Unknown => Err(PeopleError::InvalidRefresh),
        }
    }

    /// Ends one of the user's sessions, for the very next request.
    ///
    /// # Errors
    /// [`PeopleError::NoSession`]
    pub async fn log_out(
        &self,
        user: UserId,
        session: SessionId,
        device: &Device,
    ) -> Result<(), PeopleError> {
        let act = self.act(user, device, ActKind::SessionEnded).to(session.to_string());
        let is_ended = self.store.end_session(user, session, act).await?;
        if is_ended { Ok(()) } else { Err(PeopleError::NoSession) }
    }

    /// Ends all of the user's sessions, for the very next request; how many?
    ///
    /// # Errors
    /// [`PeopleError::Store`]
    pub async fn log_out_everywhere(
        &self,
        user: UserId,
        device: &Device,
    ) -> Result<u64, PeopleError> {
        let act = self.act(user, device, ActKind::SessionsEnded);
        Ok(self.store.end_sessions(user, act).await?)
    }

    /// The user's sessions, the last used one first.
    ///
    /// # Errors
    /// [`PeopleError::Store`]
    pub async fn sessions_of(&self, user: UserId) -> Result<Vec<SessionListing>, PeopleError> {
        Ok(self.store.sessions_of(user, self.clock.now()).await?)
    }

    /// Whose session it is.
    ///
    /// # Errors
    /// [`PeopleError::InvalidSession`] or [`PeopleError::ExpiredSession`]
    pub async fn authenticate(&self, token: &str) -> Result<Speaker, PeopleError> {
        let now = self.clock.now();
        let Session { id, user } = self.sessions.read(token, now).map_err(|error| match error {
            SessionError::Invalid => PeopleError::InvalidSession,
            SessionError::Expired => PeopleError::ExpiredSession,
        })?;
        let found = self.store.session_user(id, now).await?.filter(|found| found.id == user);
        let user = found.ok_or(PeopleError::InvalidSession)?;
        Ok(Speaker { user, session: id })
    }

    /// Changes a password. Every session begun before ends; the new one is returned.
    ///
    /// # Errors
    /// [`PeopleError::WrongCredentials`] where the current password is wrong, or was changed meanwhile.
    pub async fn change_password(
        &self,
        user: User,
        current: String,
        new: String,
        device: Device,
    ) -> Result<LoggedIn, PeopleError> {
        self.check_length(&new)?;
        if !self.passwords.verify(current, Some(user.password_hash.clone())).await? {
            self.store.record_act_later(self.act(user.id, &device, ActKind::LoginFailed));
            return Err(PeopleError::WrongCredentials);
        }
        let hash = self.passwords.hash(new).await?;
        let act = self.act(user.id, &device, ActKind::PasswordChanged);
        let (session, refresh_token) = self.new_session(user.id, device);
        let logged_in = self.logged_in(user.clone(), session.id, refresh_token)?;
        let (at, session) = (session.at, Some(session));
        if !self.store.set_password(&user, hash, at, session, act).await? {
            return Err(PeopleError::WrongCredentials);
        }
        Ok(logged_in)
    }

    fn check_length(&self, password: &str) -> Result<(), PeopleError> {
        let min = self.password_length_min;
        if password.chars().count() < min || password.len() > LENGTH_MAX {
            return Err(PeopleError::PasswordLength { min });
        }
        Ok(())
    }
}
