//! Registration, login and change of password.

use std::net::IpAddr;

use tokio::runtime::Handle;
use uuid::Uuid;

use super::cookie::Cookies;
use super::password::{Asker, LENGTH_MAX, PasswordError, Passwords, Weakness};
use super::session::{Challenge, Sessions};
use super::sessions::{CurrentSession, LoggedIn, SessionKind};
use super::throttle::{Subject, Throttle, TooManyAttempts, subject};
use crate::access::AccessError;
use crate::clock::Clock;
use crate::mail::Mailer;
use crate::seal::Seal;
use crate::store::StoreError;
use crate::store::audit_log::AuditLogStore;
use crate::store::keys::KeyStore;
use crate::store::users::{NewUser, Role, SessionSpan, User, UserStore};
use crate::store::webhooks::WebhookStore;
use domain::address::network;
use domain::{Act, ActKind, Actor, Credits, Origin, Timestamp, UserId};

/// Why registration, login or a change of an account's credentials failed.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// Another user has this email.
    #[error("the email is taken")]
    EmailTaken,
    /// Nobody may register.
    #[error("registration is closed")]
    RegistrationClosed,
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
    /// An operator sets up a second factor with a token, and this is none.
    #[error("not a valid token to set up an operator's second factor")]
    NoEnrolmentToken,
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
    /// Do logins make it a place that the account knows?
    pub is_place: bool,
}

impl Device {
    /// Somebody on it.
    #[must_use]
    pub fn origin(&self, actor: Actor) -> Origin {
        Origin { actor, address: self.address.to_string(), agent: self.agent.clone() }
    }
}

/// How long sessions last, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub struct SessionBounds {
    /// How long a session lasts.
    pub span: SessionSpan,
    /// How long a session of an operator by cookie lasts that is not used, in microseconds.
    pub operator_idle_micros: i64,
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
    /// Makes the cookies of sessions.
    pub cookies: Cookies,
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
    /// May everybody register?
    pub is_registration_open: bool,
}

impl Users {
    /// Registers a user, from a device or, if there is none, from the command line.
    ///
    /// # Errors
    /// [`UsersError::RegistrationClosed`], or what is wrong with the registration.
    pub async fn register(
        &self,
        new: Registration,
        role: Role,
        device: Option<Device>,
    ) -> Result<User, UsersError> {
        if device.is_some() && !self.is_registration_open {
            return Err(UsersError::RegistrationClosed);
        }
        let own = [new.email.as_str(), new.username.as_str()];
        let asker = device.as_ref().map_or(Asker::Known, |device| Asker::Stranger(device.address));
        let password_hash = self.hash_new(new.password, own, "password", asker).await?;
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
        kind: SessionKind,
    ) -> Result<Login, UsersError> {
        let user = self.find(email).await?;
        let id = user.as_ref().map(|user| user.id);
        let asker = self.count_attempt(subject(email), id, &device).await?;
        let stored = user.as_ref().map(|user| user.password_hash.clone());
        let fits = self.passwords.verify(password.clone(), stored, asker).await?;
        let Some(user) = user.as_ref().filter(|_| fits).cloned() else {
            if let Some(user) = user {
                self.audit_log.record_later(self.act(user.id, &device, ActKind::LoginFailed));
            }
            return Err(UsersError::WrongCredentials);
        };
        if Passwords::is_outdated(&user.password_hash) {
            let hash = self.passwords.hash(password, Asker::Known).await?;
            self.store.replace_hash(&user, hash).await?;
        }
        if user.has_two_factor() {
            let challenge = Challenge { user: user.id, version: user.token_version };
            let challenge = self.sessions.challenge(challenge, self.clock.now());
            let (token, expires_at) = challenge.ok_or(UsersError::Unsigned)?;
            return Ok(Login::Challenge { token, expires_at });
        }
        self.enter(user, device, kind, false).await.map(Box::new).map(Login::In)
    }

    /// The user with this email. No email has a control character, and not every database can be
    /// asked for one.
    pub(super) async fn find(&self, email: &str) -> Result<Option<User>, UsersError> {
        if email.chars().any(char::is_control) {
            return Ok(None);
        }
        Ok(self.store.find_by_email(email).await?)
    }

    /// Counts an attempt at an account, whether there is one or not, after the same work. Answers
    /// whether its user is known at that place.
    pub(super) async fn count_attempt(
        &self,
        of: Subject,
        user: Option<UserId>,
        device: &Device,
    ) -> Result<Asker, UsersError> {
        self.throttle.try_account(of, device.address)?;
        let nobody = UserId(Uuid::nil());
        let user = user.unwrap_or(nobody);
        let been_at = self.store.list_addresses(user, self.clock.now()).await?;
        let here = network(device.address);
        let is_known = been_at
            .iter()
            .any(|address| address.parse::<IpAddr>().is_ok_and(|address| network(address) == here));
        if is_known {
            return Ok(Asker::Known);
        }
        self.throttle.try_as_stranger(of)?;
        Ok(Asker::Stranger(device.address))
    }

    /// The same for codes of a second factor.
    pub(super) async fn count_code(&self, user: UserId, device: &Device) -> Result<(), UsersError> {
        self.count_attempt(subject(&format!("codes of {user}")), Some(user), device).await?;
        Ok(())
    }

    /// Sets a user's role, from the command line.
    pub async fn set_role(&self, user: &User, role: Role) -> Result<(), UsersError> {
        let origin = Origin::local(Actor::CommandLine);
        let act = origin.act(Uuid::now_v7(), user.id, ActKind::RoleSet, self.clock.now());
        self.store.set_role(user.id, role, act.with(role.name())).await?;
        Ok(())
    }

    /// Something that a user does now.
    pub(super) fn act(&self, user: UserId, device: &Device, kind: ActKind) -> Act {
        let origin = device.origin(Actor::User(user));
        origin.act(Uuid::now_v7(), user, kind, self.clock.now())
    }

    /// Changes a password, and ends every session. Answers a new one of the same kind.
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
        let hash = self.hash_new(new, user.names(), "new_password", Asker::Known).await?;
        let act = self.act(user.id, &device, ActKind::PasswordChanged);
        let beginning = self.new_session(&user, device, current.kind);
        let (session, logged_in) = self.logged_in(user.clone(), beginning)?;
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
        asker: Asker,
    ) -> Result<String, UsersError> {
        self.assert_length(&password, field)?;
        let names = names.map(str::to_owned).to_vec();
        self.passwords.hash_new(password, names, asker).await?.map_err(|weakness| match weakness {
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
