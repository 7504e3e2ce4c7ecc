//! Registration, login, sessions and change of password.

use std::net::IpAddr;

use tokio::runtime::Handle;
use uuid::Uuid;

use super::password::{LENGTH_MAX, PasswordError, Passwords, Weakness};
use super::session::{Challenge, RefreshToken, Session, SessionError, Sessions, digest};
use super::throttle::{Subject, Throttle, TooManyAttempts, subject};
use crate::access::AccessError;
use crate::clock::Clock;
use crate::mail::Mailer;
use crate::seal::Seal;
use crate::store::StoreError;
use crate::store::audit_log::AuditLogStore;
use crate::store::keys::KeyStore;
use crate::store::users::{
    NewSession, NewUser, Refreshed, Renewal, Role, SessionListing, SessionSpan, User, UserStore,
};
use crate::store::webhooks::WebhookStore;
use domain::address::network;
use domain::{Act, ActKind, Actor, Credits, Origin, SessionId, Timestamp, UserId};

/// Why registration, login or a change of an account's credentials failed.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// Another user has this email.
    #[error("the email is taken")]
    EmailTaken,
    /// The user has this email already.
    #[error("the user has this email already")]
    SameEmail,
    /// Another user has this username.
    #[error("the username is taken")]
    UsernameTaken,
    /// Too short, or too long.
    #[error("the password must have {min} to {LENGTH_MAX} characters")]
    PasswordLength {
        /// The field that has it.
        field: &'static str,
        /// The shortest that is taken.
        min: usize,
    },
    /// The email or the password is wrong; the answer does not say which.
    #[error("wrong email or password")]
    WrongCredentials,
    /// A common password.
    #[error("the password is a common one: choose another one")]
    CommonPassword {
        /// The field that has it.
        field: &'static str,
    },
    /// A password that is put together of common pieces.
    #[error("the password is too easy to guess: use three or four words that do not go together")]
    GuessablePassword {
        /// The field that has it.
        field: &'static str,
    },
    /// See [`TooManyAttempts`].
    #[error(transparent)]
    TooManyAttempts(#[from] TooManyAttempts),
    /// Not a token that was sent by email, or one that was used or has expired.
    #[error("not a valid token of an email")]
    InvalidEmailToken,
    /// Their last proof of who they are is too old.
    #[error("who asks must prove again who they are")]
    Unconfirmed,
    /// The address has not been proved.
    #[error("the email address is not verified")]
    Unverified,
    /// No challenge of a login, or one that has expired.
    #[error("not a valid challenge")]
    InvalidChallenge,
    /// A code that is wrong, or was used before.
    #[error("a wrong code")]
    WrongCode,
    /// A code is needed besides the password.
    #[error("no code of the second factor")]
    CodeMissing,
    /// There is a second factor already.
    #[error("there is a second factor already")]
    HasSecondFactor,
    /// There is no second factor.
    #[error("there is no second factor")]
    NoSecondFactor,
    /// The second factor's secret cannot be encrypted or decrypted.
    #[error("a second factor cannot be read")]
    Unsealed,
    /// An operator must set up a second factor first.
    #[error("an operator without a second factor")]
    OperatorWithoutSecondFactor,
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
    /// What a proof ends could not be ended.
    #[error(transparent)]
    Account(#[from] AccessError),
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

/// The client of a request, as the audit log names it.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its address.
    pub address: IpAddr,
    /// Its user agent.
    pub agent: String,
}

impl Device {
    /// Somebody on it.
    #[must_use]
    pub fn origin(&self, actor: Actor) -> Origin {
        Origin { actor, address: self.address.to_string(), agent: self.agent.clone() }
    }
}

/// A user who has just logged in, with their tokens.
pub struct LoggedIn {
    /// The user.
    pub user: User,
    /// The session.
    pub session: SessionId,
    /// The session token.
    pub token: String,
    /// Renews the session, once.
    pub refresh_token: RefreshToken,
    /// When the session token ends.
    pub token_expires_at: Timestamp,
    /// When the session ends, unless it is renewed.
    pub session_expires_at: Timestamp,
}

/// An authenticated user and their session.
#[derive(Clone, Debug)]
pub struct CurrentSession {
    /// The user.
    pub user: User,
    /// Their session.
    pub session: SessionId,
    /// When they last proved who they are in it.
    pub confirmed_at: Timestamp,
}

/// How long sessions last, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub struct SessionBounds {
    /// How long a session lasts.
    pub span: SessionSpan,
    /// How long a proof of who somebody is lasts, in microseconds.
    pub confirmed_micros: i64,
    /// Sessions of one user.
    pub sessions_max: u64,
}

/// The result of a correct password.
pub enum Login {
    /// They are in.
    In(Box<LoggedIn>),
    /// The password is right; a code is to follow.
    Challenge {
        /// The challenge, to be sent with the code.
        token: String,
        /// When it ends.
        expires_at: Timestamp,
    },
}

/// Settings of messages by email.
#[derive(Clone, Debug)]
pub struct MessageSettings {
    /// How long a token that verifies an address is good for, in microseconds.
    pub verification_micros: i64,
    /// How long a token that sets another password is good for, in microseconds.
    pub reset_micros: i64,
    /// The page that verifies an address.
    pub verify_url: Option<String>,
    /// The page that confirms a change of address.
    pub change_url: Option<String>,
    /// The page that sets another password.
    pub reset_url: Option<String>,
    /// Must an address be proved before its user pays, makes a key, adds a webhook or sets a second
    /// factor up?
    pub is_verification_required: bool,
}

/// The people of this server.
pub struct Users {
    /// Users, their sessions and tokens.
    pub store: UserStore,
    /// API keys, for letters about them.
    pub keys: KeyStore,
    /// Webhooks, for letters about them.
    pub webhooks: WebhookStore,
    /// Who did what.
    pub audit_log: AuditLogStore,
    /// Runs work that nobody waits for.
    pub runtime: Handle,
    /// Hashes passwords.
    pub passwords: Passwords,
    /// Signs session tokens.
    pub sessions: Sessions,
    /// How long sessions last.
    pub session_bounds: SessionBounds,
    /// Seals second factors.
    pub seal: Seal,
    /// Counts attempts.
    pub throttle: Throttle,
    /// Sends messages.
    pub mailer: Mailer,
    /// Settings of messages by email.
    pub messages: MessageSettings,
    /// The time.
    pub clock: Clock,
    /// The shortest password, in characters.
    pub password_length_min: usize,
    /// What a user's test account begins with.
    pub test_credits: Credits,
    /// Must operators have a second factor?
    pub operators_need_second_factor: bool,
}

impl Users {
    /// Registers a user, from a device or, if there is none, from the command line.
    pub async fn register(
        &self,
        new: Registration,
        role: Role,
        device: Option<Device>,
    ) -> Result<User, UsersError> {
        let own = [new.email.as_str(), new.username.as_str()];
        let password_hash = self.hash_new(new.password, own, "password").await?;
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
        self.store.insert(user).await.map_err(|error| match error {
            StoreError::Taken(what) if what.contains("username") => UsersError::UsernameTaken,
            StoreError::Taken(_) => UsersError::EmailTaken,
            other => UsersError::Store(other),
        })
    }

    /// Logs a user in.
    ///
    /// # Errors
    /// [`UsersError::WrongCredentials`] for an unknown email and a wrong password alike, after the
    /// same work.
    pub async fn log_in(
        &self,
        email: &str,
        password: String,
        device: Device,
    ) -> Result<Login, UsersError> {
        let user = self.find(email).await?;
        self.count_attempt(subject(email), user.as_ref().map(|user| user.id), &device).await?;
        let stored = user.as_ref().map(|user| user.password_hash.clone());
        let fits = self.passwords.verify(password.clone(), stored).await?;
        let Some(user) = user.as_ref().filter(|_| fits).cloned() else {
            if let Some(user) = user {
                self.audit_log.record_later(self.act(user.id, &device, ActKind::LoginFailed));
            }
            return Err(UsersError::WrongCredentials);
        };
        if Passwords::is_outdated(&user.password_hash) {
            let hash = self.passwords.hash(password).await?;
            self.store.replace_hash(&user, hash).await?;
        }
        if user.has_two_factor() {
            let challenge = Challenge { user: user.id, version: user.token_version };
            let challenge = self.sessions.challenge(challenge, self.clock.now());
            let (token, expires_at) = challenge.ok_or(UsersError::Unsigned)?;
            return Ok(Login::Challenge { token, expires_at });
        }
        self.enter(user, device, false).await.map(Box::new).map(Login::In)
    }

    /// The user with this email. No email has a control character, and not every database can be
    /// asked for one.
    pub(super) async fn find(&self, email: &str) -> Result<Option<User>, UsersError> {
        if email.chars().any(char::is_control) {
            return Ok(None);
        }
        Ok(self.store.find_by_email(email).await?)
    }

    /// Counts an attempt at an account, whether there is one or not, after the same work.
    pub(super) async fn count_attempt(
        &self,
        of: Subject,
        user: Option<UserId>,
        device: &Device,
    ) -> Result<(), UsersError> {
        self.throttle.try_account(of, device.address)?;
        let nobody = UserId(Uuid::nil());
        let user = user.unwrap_or(nobody);
        let been_at = self.store.list_addresses(user, self.clock.now()).await?;
        let here = network(device.address);
        let is_known = been_at
            .iter()
            .any(|address| address.parse::<IpAddr>().is_ok_and(|address| network(address) == here));
        if !is_known {
            self.throttle.try_as_stranger(of)?;
        }
        Ok(())
    }

    /// The same for codes of a second factor.
    pub(super) async fn count_code(&self, user: UserId, device: &Device) -> Result<(), UsersError> {
        self.count_attempt(subject(&format!("codes of {user}")), Some(user), device).await
    }

    /// Begins a session of an operator from the command line, which has the server's secrets and
    /// its database.
    pub async fn log_in_by_command(
        &self,
        user: User,
        device: Device,
    ) -> Result<LoggedIn, UsersError> {
        self.begin_session(user, device, true).await
    }

    /// Sets a user's role, from the command line.
    pub async fn set_role(&self, user: &User, role: Role) -> Result<(), UsersError> {
        let origin = Origin::local(Actor::CommandLine);
        let act = origin.act(Uuid::now_v7(), user.id, ActKind::RoleSet, self.clock.now());
        self.store.set_role(user.id, role, act.with(role.name())).await?;
        Ok(())
    }

    /// Begins a session of an authenticated user. `has_given_code` says whether they gave a second
    /// factor.
    pub(super) async fn begin_session(
        &self,
        user: User,
        device: Device,
        has_given_code: bool,
    ) -> Result<LoggedIn, UsersError> {
        let version = user.token_version;
        let act = self.act(user.id, &device, ActKind::LoggedIn);
        let (session, refresh_token) = self.new_session(user.id, device);
        let logged_in = self.logged_in(user, (session.id, session.expires_at), refresh_token)?;
        let act = act.to(session.id.to_string());
        // While this was checked another password may have been set, or a second factor.
        if !self.store.insert_session(session, version, has_given_code, act).await? {
            return Err(UsersError::WrongCredentials);
        }
        Ok(logged_in)
    }

    /// Something that a user does now.
    pub(super) fn act(&self, user: UserId, device: &Device, kind: ActKind) -> Act {
        let origin = device.origin(Actor::User(user));
        origin.act(Uuid::now_v7(), user, kind, self.clock.now())
    }

    pub(super) fn new_session(&self, user: UserId, device: Device) -> (NewSession, RefreshToken) {
        let refresh_token = RefreshToken::new();
        let (at, Device { address, agent }) = (self.clock.now(), device);
        let SessionBounds { span, sessions_max, .. } = self.session_bounds;
        let session = NewSession {
            id: SessionId(Uuid::new_v4()),
            user,
            at,
            expires_at: span.end(at, at),
            address: address.to_string(),
            agent,
            refresh: refresh_token.digest(),
            sessions_max,
        };
        (session, refresh_token)
    }

    fn logged_in(
        &self,
        user: User,
        session: (SessionId, Timestamp),
        refresh_token: RefreshToken,
    ) -> Result<LoggedIn, UsersError> {
        let now = self.clock.now();
        let (session, session_expires_at) = session;
        let token = Session { id: session, user: user.id };
        let issued = self.sessions.issue(token, now, session_expires_at);
        let (token, token_expires_at) = issued.ok_or(UsersError::Unsigned)?;
        Ok(LoggedIn { user, session, token, refresh_token, token_expires_at, session_expires_at })
    }

    /// Renews a session by its refresh token, which works once. A second use ends the session,
    /// because one of its two users must have stolen it.
    pub async fn refresh(&self, token: &str, device: Device) -> Result<LoggedIn, UsersError> {
        let next = RefreshToken::new();
        let now = self.clock.now();
        let span = self.session_bounds.span;
        let (used, digest) = (digest(token), next.digest());
        // The token names the user.
        let from = device.origin(Actor::Server);
        let renewing = self.store.refresh_session(used, digest, now, span, from);
        match renewing.await? {
            Refreshed::Renewed(renewal) => {
                self.tell_of_renewal(&renewal, &device).await;
                let Renewal { user, session, until, .. } = *renewal;
                self.logged_in(user, (session, until), next)
            }
            Refreshed::Reused(user, session) => {
                tracing::warn!(%user, %session, "a refresh token came twice; its session has ended");
                Err(UsersError::InvalidRefresh)
            }
            Refreshed::Unknown => Err(UsersError::InvalidRefresh),
        }
    }

    /// Ends one of the user's sessions, for the very next request.
    pub async fn log_out(
        &self,
        user: UserId,
        session: SessionId,
        device: &Device,
    ) -> Result<(), UsersError> {
        let act = self.act(user, device, ActKind::SessionEnded).to(session.to_string());
        let is_ended = self.store.end_session(user, session, act).await?;
        if is_ended { Ok(()) } else { Err(UsersError::NoSession) }
    }

    /// Ends all of the user's sessions, for the very next request; how many?
    pub async fn log_out_everywhere(
        &self,
        user: UserId,
        device: &Device,
    ) -> Result<u64, UsersError> {
        let act = self.act(user, device, ActKind::SessionsEnded);
        Ok(self.store.end_sessions(user, act).await?)
    }

    /// The user's sessions, the last used one first.
    pub async fn sessions_of(&self, user: UserId) -> Result<Vec<SessionListing>, UsersError> {
        Ok(self.store.list_sessions(user, self.clock.now()).await?)
    }

    /// Whose session it is.
    ///
    /// # Errors
    /// [`UsersError::InvalidSession`] or [`UsersError::ExpiredSession`]
    pub async fn authenticate(&self, token: &str) -> Result<CurrentSession, UsersError> {
        let now = self.clock.now();
        let Session { id, user } = self.sessions.read(token, now).map_err(|error| match error {
            SessionError::Invalid => UsersError::InvalidSession,
            SessionError::Expired => UsersError::ExpiredSession,
        })?;
        let found = self.store.find_by_session(id, now).await?.filter(|found| found.0.id == user);
        let (user, confirmed_at) = found.ok_or(UsersError::InvalidSession)?;
        Ok(CurrentSession { user, session: id, confirmed_at })
    }

    /// Changes a password, and ends every session. Answers a new one.
    ///
    /// # Errors
    /// [`UsersError::WrongCredentials`] if the current password is wrong, or was changed at the
    /// same time.
    pub async fn change_password(
        &self,
        current: CurrentSession,
        password: String,
        new: String,
        device: Device,
    ) -> Result<LoggedIn, UsersError> {
        self.assert_length(&new, "new_password")?;
        self.assert_password(&current, password, &device).await?;
        let user = current.user;
        let hash = self.hash_new(new, user.names(), "new_password").await?;
        let act = self.act(user.id, &device, ActKind::PasswordChanged);
        let (session, refresh_token) = self.new_session(user.id, device);
        let logged_in =
            self.logged_in(user.clone(), (session.id, session.expires_at), refresh_token)?;
        let (at, session) = (session.at, Some(session));
        if !self.store.set_password(&user, hash, at, session, act).await? {
            return Err(UsersError::WrongCredentials);
        }
        let remains = self.what_remains(user.id).await;
        self.tell_of_new_password(&user, &remains);
        Ok(logged_in)
    }

    /// The hash of a new password of somebody with these names.
    ///
    /// # Errors
    /// [`UsersError::PasswordLength`], [`UsersError::CommonPassword`] or
    /// [`UsersError::GuessablePassword`], with the name of the field.
    pub(super) async fn hash_new(
        &self,
        password: String,
        names: [&str; 2],
        field: &'static str,
    ) -> Result<String, UsersError> {
        self.assert_length(&password, field)?;
        let names = names.map(str::to_owned).to_vec();
        self.passwords.hash_new(password, names).await?.map_err(|weakness| match weakness {
            Weakness::Common => UsersError::CommonPassword { field },
            Weakness::Guessable => UsersError::GuessablePassword { field },
        })
    }

    /// Is a new password long enough, and not too long?
    pub(super) fn assert_length(
        &self,
        password: &str,
        field: &'static str,
    ) -> Result<(), UsersError> {
        let min = self.password_length_min;
        if password.chars().count() < min || password.len() > LENGTH_MAX {
            return Err(UsersError::PasswordLength { field, min });
        }
        Ok(())
    }
}
