//! Messages by email: verification of an address, reset of a forgotten password, and warnings.
//!
//! Neither request reveals whether an address is known: the answer is the same, and is sent before
//! the lookup.

use std::sync::Arc;

use uuid::Uuid;

use super::session::{digest, random_token};
use super::throttle::subject;
use super::users::{CurrentSession, Device, Users, UsersError};
use crate::mail::Letter;
use crate::store::keys::ExpiringKey;
use crate::store::users::TokenPurpose;
use crate::store::users::User;
use domain::{ActKind, Actor, Origin, Timestamp, UserId};

/// The prefix of a token sent by email, so that secret scanners recognize one.
const PREFIX: &str = "pse_";

impl Users {
    /// Sends a verification token, if there is a user with this address who has not verified it.
    pub fn send_verification(self: &Arc<Self>, email: String) {
        let users = Arc::clone(self);
        self.later(async move {
            // Counted apart from resets: requests of one kind must not block the other.
            let of = subject(&format!("verification of {email}"));
            if users.throttle.try_message(of).is_err() {
                return Ok(());
            }
            match users.find(&email).await? {
                Some(user) if !user.is_email_verified => users.mail_verification(&user).await,
                _ => Ok(()),
            }
        });
    }

    /// The same for a user who has just registered.
    pub(super) async fn mail_verification(&self, user: &User) -> Result<(), UsersError> {
        let token = random_token(PREFIX);
        let now = self.clock.now();
        let expires_at = now.plus_micros(self.messages.verification_micros);
        let purpose = TokenPurpose::Verify;
        self.store.insert_email_token(user, purpose, digest(&token), expires_at).await?;
        let how = match &self.messages.verify_url {
            Some(url) => format!("Please open\n\n    {}\n", url.replace("{token}", &token)),
            None => format!(
                "Please send this token to POST /api/auth/verify-email, as {{\"token\": \"...\"}}:\n\n    {token}\n"
            ),
        };
        self.mailer.send(Letter {
            to: user.email.clone(),
            subject: "Please verify your address".into(),
            text: format!(
                "Hello {},\n\nsomebody has registered with this address. If it was you, verify it. {how}\nIt is good \
                 once, until {}. If it was not you, nothing needs to be done.\n",
                user.username,
                expires_at.to_rfc3339()
            ),
        });
        Ok(())
    }

    /// Proves an address by the token that was sent to it.
    pub async fn verify_email(&self, token: &str, device: &Device) -> Result<(), UsersError> {
        let from = device.origin(Actor::Server);
        let verified = self.store.verify_email(digest(token), self.clock.now(), from).await?;
        verified.map(drop).ok_or(UsersError::InvalidEmailToken)
    }

    /// Sends a token that sets another password, if there is such a user.
    pub fn send_reset(self: &Arc<Self>, email: String, device: Device) {
        let users = Arc::clone(self);
        self.later(async move {
            if users.throttle.try_message(subject(&email)).is_err() {
                return Ok(());
            }
            match users.find(&email).await? {
                Some(user) => users.mail_reset(&user, &device).await,
                None => Ok(()),
            }
        });
    }

    async fn mail_reset(&self, user: &User, device: &Device) -> Result<(), UsersError> {
        let token = random_token(PREFIX);
        let now = self.clock.now();
        let expires_at = now.plus_micros(self.messages.reset_micros);
        let purpose = TokenPurpose::Reset;
        self.store.insert_email_token(user, purpose, digest(&token), expires_at).await?;
        // The requester is not authenticated.
        let origin = device.origin(Actor::Server);
        let act = origin.act(Uuid::now_v7(), user.id, ActKind::PasswordResetAsked, now);
        self.audit_log.record(act).await?;
        let how = match &self.messages.reset_url {
            Some(url) => format!("Please open\n\n    {}\n", url.replace("{token}", &token)),
            None => format!(
                "Please send this token to POST /api/auth/reset-password, as {{\"token\": \"...\", \
                 \"new_password\": \"...\"}}:\n\n    {token}\n"
            ),
        };
        self.mailer.send(Letter {
            to: user.email.clone(),
            subject: "Another password".into(),
            text: format!(
                "Hello {},\n\nsomebody at {} has asked for another password for you. {how}\nIt is good once, until \
                 {}. It ends every session. If it was not you who asked, nothing needs to be done.\n",
                user.username,
                device.address,
                expires_at.to_rfc3339()
            ),
        });
        Ok(())
    }

    /// Sets another password by the token that was sent for it, and ends every session of its user.
    ///
    /// # Errors
    /// [`UsersError::InvalidEmailToken`], or why the password is not taken.
    pub async fn reset_password(
        &self,
        token: &str,
        password: String,
        device: &Device,
    ) -> Result<(), UsersError> {
        self.assert_acceptable(&password, "new_password")?;
        let (digest, now) = (digest(token), self.clock.now());
        // Checked first, because a hash is expensive.
        if !self.store.is_email_token_valid(TokenPurpose::Reset, digest, now).await? {
            return Err(UsersError::InvalidEmailToken);
        }
        let hash = self.passwords.hash(password).await?;
        let from = device.origin(Actor::Server);
        let reset = self.store.reset_password(digest, hash, now, from).await?;
        let Some(id) = reset else { return Err(UsersError::InvalidEmailToken) };
        // The next login from this address counts as from a known address.
        let (here, _) = self.new_session(id, device.clone());
        self.store.record_address(here).await?;
        if let Some(user) = self.store.find(id).await? {
            self.tell_of_new_password(&user);
        }
        Ok(())
    }

    /// Tells a user that their password was changed, so that they notice a stolen mailbox or
    /// session.
    pub(super) fn tell_of_new_password(&self, user: &User) {
        self.mailer.send(Letter {
            to: user.email.clone(),
            subject: "Your password was changed".into(),
            text: format!(
                "Hello {},\n\nyour password was changed, and every session from before has ended. If it was not you, \
                 please ask for another password at once: POST /api/auth/forgot-password.\n",
                user.username
            ),
        });
    }

    /// Warns the owners of keys that expire before `soon`, once for each key.
    pub async fn tell_of_expiring_keys(&self, soon: Timestamp) -> Result<(), UsersError> {
        // A limited number; the rest follows in the next round.
        let now = self.clock.now();
        for key in self.keys.list_expiring(now, soon).await? {
            let ExpiringKey { id, name, expires_at, owner, email, username, .. } = key.clone();
            let ends_at = expires_at.to_rfc3339();
            let origin = Origin::local(Actor::Server);
            let act = origin.act(Uuid::now_v7(), owner, ActKind::KeyExpiryTold, now);
            let act = act.to(id.to_string()).with(format!("it ends at {ends_at}"));
            // Recorded first: a lost message is better than one every minute.
            if !self.keys.record_expiry_warning(key, act).await? {
                continue;
            }
            self.mailer.send(Letter {
                    to: email,
                    subject: "An API key ends soon".into(),
                    text: format!(
                        "Hello {username},\n\nyour API key {name:?} ({id}) ends at {ends_at}. To go on with it, give it \
                         another end: PATCH /api/keys/{id}.\n"
                    ),
                });
        }
        Ok(())
    }

    /// Tells a user that automatic top-up was stopped.
    pub async fn tell_of_auto_top_up(&self, user: UserId, why: &str) {
        self.write_to(
            user,
            "Your account tops itself up no longer",
            &format!(
                "three payments in a row have failed, the last one so: {why}. To have your account topped up again, \
                 set another payment method: PUT /api/payments/auto-top-up."
            ),
        )
        .await;
    }

    /// Writes to a user, if there is one.
    pub async fn write_to(&self, user: UserId, subject: &str, what: &str) {
        match self.store.find(user).await {
            Ok(Some(user)) => self.mailer.send(Letter {
                to: user.email,
                subject: subject.into(),
                text: format!("Hello {},\n\n{what}\n", user.username),
            }),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "a message was not sent"),
        }
    }

    /// May this user pay and make keys?
    pub fn assert_verified(&self, current: &CurrentSession) -> Result<(), UsersError> {
        if self.messages.is_verification_required && !current.user.is_email_verified {
            return Err(UsersError::Unverified);
        }
        Ok(())
    }

    /// Runs work in the background.
    fn later(&self, work: impl Future<Output = Result<(), UsersError>> + Send + 'static) {
        self.runtime.spawn(async move {
            if let Err(error) = work.await {
                tracing::error!(%error, "a message was not sent");
            }
        });
    }
}
