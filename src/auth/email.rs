//! What goes by email: proof of an address, and another password for whoever has forgotten theirs.
//!
//! Neither tells whether an address is known: the answer is the same, and leaves before anything is looked up.

use std::sync::Arc;

use uuid::Uuid;

use super::people::{Device, People, PeopleError, Speaker};
use super::session::{digest, random_token};
use super::throttle::subject;
use crate::mail::Letter;
use crate::store::keys::ExpiringKey;
use crate::store::users::TokenPurpose;
use crate::store::users::User;
use domain::{ActKind, Actor, Origin, Timestamp, UserId};

/// What a token that came by email begins with, so that scanners know one.
const PREFIX: &str = "pse_";

impl People {
    /// Sends a token that proves an address, if there is such a user who has not proved it.
    pub fn send_verification(self: &Arc<Self>, email: String) {
        let people = Arc::clone(self);
        self.later(async move {
            // Counted apart: whoever asks for the one must not keep the other from its reader.
            let of = subject(&format!("verification of {email}"));
            if people.throttle.try_letter(of).is_err() {
                return Ok(());
            }
            match people.find(&email).await? {
                Some(user) if !user.is_email_verified => people.verify_by_letter(&user).await,
                _ => Ok(()),
            }
        });
    }

    /// The same for a user who has just registered.
    pub(super) async fn verify_by_letter(&self, user: &User) -> Result<(), PeopleError> {
        let token = random_token(PREFIX);
        let now = self.clock.now();
        let expires_at = now.plus_micros(self.letters.verification_micros);
        let purpose = TokenPurpose::Verify;
        self.store.users.insert_email_token(user, purpose, digest(&token), expires_at).await?;
        let how = match &self.letters.verify_url {
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
    ///
    /// # Errors
    /// [`PeopleError::InvalidEmailToken`]
    pub async fn verify_email(&self, token: &str, device: &Device) -> Result<(), PeopleError> {
        let from = device.origin(Actor::Server);
        let verified = self.store.users.verify_email(digest(token), self.clock.now(), from).await?;
        verified.map(drop).ok_or(PeopleError::InvalidEmailToken)
    }

    /// Sends a token that sets another password, if there is such a user.
    pub fn send_reset(self: &Arc<Self>, email: String, device: Device) {
        let people = Arc::clone(self);
        self.later(async move {
            if people.throttle.try_letter(subject(&email)).is_err() {
                return Ok(());
            }
            match people.find(&email).await? {
                Some(user) => people.reset_by_letter(&user, &device).await,
                None => Ok(()),
            }
        });
    }

    async fn reset_by_letter(&self, user: &User, device: &Device) -> Result<(), PeopleError> {
        let token = random_token(PREFIX);
        let now = self.clock.now();
        let expires_at = now.plus_micros(self.letters.reset_micros);
        let purpose = TokenPurpose::Reset;
        self.store.users.insert_email_token(user, purpose, digest(&token), expires_at).await?;
        // Whoever asks need not be who they say.
        let origin = device.origin(Actor::Server);
        let act = origin.act(Uuid::now_v7(), user.id, ActKind::PasswordResetAsked, now);
        self.store.audit_log.record(act).await?;
        let how = match &self.letters.reset_url {
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
    /// [`PeopleError::InvalidEmailToken`], or why the password is not taken.
    pub async fn reset_password(
        &self,
        token: &str,
        password: String,
        device: &Device,
    ) -> Result<(), PeopleError> {
        self.assert_acceptable(&password, "new_password")?;
        let (digest, now) = (digest(token), self.clock.now());
        // First whether there is any use in it: a hash is dear.
        if !self.store.users.is_email_token_valid(TokenPurpose::Reset, digest, now).await? {
            return Err(PeopleError::InvalidEmailToken);
        }
        let hash = self.passwords.hash(password).await?;
        let from = device.origin(Actor::Server);
        let reset = self.store.users.reset_password(digest, hash, now, from).await?;
        let Some(id) = reset else { return Err(PeopleError::InvalidEmailToken) };
        // So that they are no stranger when they log in from here.
        let (here, _) = self.new_session(id, device.clone());
        self.store.users.record_address(here).await?;
        if let Some(user) = self.store.users.find(id).await? {
            self.tell_of_new_password(&user);
        }
        Ok(())
    }

    /// So that a thief of the mailbox or of the session is noticed.
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

    /// Tells the owners of keys that end before `soon`, each once.
    ///
    /// # Errors
    /// [`PeopleError::Store`]
    pub async fn tell_of_expiring_keys(&self, soon: Timestamp) -> Result<(), PeopleError> {
        // Not all at once, so that nobody waits: those that are left come in the next round.
        let now = self.clock.now();
        for key in self.store.keys.list_expiring(now, soon).await? {
            let ExpiringKey { id, name, expires_at, owner, email, username, .. } = key.clone();
            let ends_at = expires_at.to_rfc3339();
            let origin = Origin::local(Actor::Server);
            let act = origin.act(Uuid::now_v7(), owner, ActKind::KeyExpiryTold, now);
            let act = act.to(id.to_string()).with(format!("it ends at {ends_at}"));
            // First on record: a message that is lost is better than one that comes every minute.
            if !self.store.keys.record_expiry_warning(key, act).await? {
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

    /// Tells a user that their account tops itself up no longer.
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
        match self.store.users.find(user).await {
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
    ///
    /// # Errors
    /// [`PeopleError::Unverified`]
    pub fn assert_verified(&self, speaker: &Speaker) -> Result<(), PeopleError> {
        if self.letters.is_verification_required && !speaker.user.is_email_verified {
            return Err(PeopleError::Unverified);
        }
        Ok(())
    }

    /// Does something without anyone waiting for it.
    fn later(&self, work: impl Future<Output = Result<(), PeopleError>> + Send + 'static) {
        self.store.runtime().spawn(async move {
            if let Err(error) = work.await {
                tracing::error!(%error, "a message was not sent");
            }
        });
    }
}
