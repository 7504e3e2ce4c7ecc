//! Change of the email address: asked for in a session with a fresh proof, and confirmed in a
//! session of the same user, also with a fresh proof, by a token that was sent to the new address.
//!
//! The answer does not reveal whether another user has the new address: its owner gets a letter
//! that says so. Since the token takes a session, nobody is led into giving an account of somebody
//! else their own address. A new password, a first proof and an end of all sessions make the token
//! void, so that nobody gives their account away by the link of a thief from before.

use std::sync::Arc;

use super::email::PREFIX;
use super::session::{digest, random_token};
use super::sessions::CurrentSession;
use super::throttle::subject;
use super::users::{Device, Users, UsersError};
use crate::mail::{Letter, unlinked};
use crate::store::StoreError;
use crate::store::users::{TokenPurpose, User, folded};
use domain::ActKind;

impl Users {
    /// Sends a token to the new address of a user, and tells the old one of it.
    ///
    /// # Errors
    /// [`UsersError::Unconfirmed`], [`UsersError::SameEmail`], or
    /// [`UsersError::TooManyAttempts`].
    pub fn ask_for_address(
        self: &Arc<Self>,
        current: &CurrentSession,
        email: &str,
        device: Device,
    ) -> Result<(), UsersError> {
        self.assert_confirmed(current)?;
        let (user, email) = (current.user.clone(), email.trim().to_owned());
        if folded(&email) == folded(&user.email) {
            return Err(UsersError::SameEmail);
        }
        self.throttle.try_message(subject(&format!("change of address of {}", user.id)))?;
        let users = Arc::clone(self);
        self.later(async move { users.mail_change(&user, &email, &device).await });
        Ok(())
    }

    async fn mail_change(
        &self,
        user: &User,
        email: &str,
        device: &Device,
    ) -> Result<(), UsersError> {
        let act = self.act(user.id, device, ActKind::EmailChangeAsked);
        self.audit_log.record(act).await?;
        // Whoever has the new address: else a token from before that works on would tell of it.
        self.store.delete_email_tokens(user.id, TokenPurpose::Change).await?;
        let what = format!(
            "somebody at {} who is logged in to your account has asked to change its address to {}. Nothing is \
             changed before the new address is confirmed. If it was not you, please change your password at once: \
             POST /api/auth/change-password.",
            device.address,
            unlinked(email)
        );
        self.warn(user, "A change of your address was asked for", &what);
        // Many accounts may ask for one address.
        if self.throttle.try_message(subject(&format!("change to {email}"))).is_err() {
            return Ok(());
        }
        let letter = match self.find(email).await? {
            Some(_) => format!(
                "{} has asked to use this address for their account. You have an account with it already, so nothing \
                 was changed. To log in to it, you may need another password: POST /api/auth/forgot-password.",
                unlinked(&user.username)
            ),
            None => self.letter_of_change(user, email).await?,
        };
        self.mailer.send(Letter {
            to: email.to_owned(),
            is_proved: false,
            subject: "A change of address".into(),
            text: format!("Hello,\n\n{letter}\n"),
        });
        Ok(())
    }

    async fn letter_of_change(&self, user: &User, email: &str) -> Result<String, UsersError> {
        let token = random_token(PREFIX);
        let expires_at = self.clock.now().plus_micros(self.messages.verification_micros);
        let (purpose, digest) = (TokenPurpose::Change, digest(&token));
        let to = Some(email.to_owned());
        self.store.insert_email_token(user, purpose, digest, expires_at, to).await?;
        let how = match &self.messages.change_url {
            Some(url) => format!("Please open\n\n    {}\n", url.replace("{token}", &token)),
            None => format!(
                "While you are logged in, please send this token to POST /api/auth/email/confirm, as \
                 {{\"token\": \"...\"}}:\n\n    {token}\n"
            ),
        };
        Ok(format!(
            "{} has asked to use this address for their account. If it was you, confirm it. {how}\nIt is good once, \
             until {}. It ends every other session. If it was not you, nothing needs to be done.",
            unlinked(&user.username),
            expires_at.to_rfc3339()
        ))
    }

    /// Changes the address by the token that was sent to the new one, and tells the old one. This
    /// session goes on, all others end. Answers the user as they are now.
    ///
    /// # Errors
    /// [`UsersError::Unconfirmed`], [`UsersError::InvalidEmailToken`], or
    /// [`UsersError::EmailTaken`].
    pub async fn change_address(
        &self,
        current: &CurrentSession,
        token: &str,
        device: &Device,
    ) -> Result<User, UsersError> {
        self.assert_confirmed(current)?;
        let before = &current.user;
        let act = self.act(before.id, device, ActKind::EmailChanged);
        let of = (before.id, current.session);
        let changed = self.store.change_email(digest(token), of, act).await;
        let changed = changed.map_err(|error| match error {
            StoreError::Taken(_) => UsersError::EmailTaken,
            other => UsersError::Store(other),
        })?;
        let user = changed.ok_or(UsersError::InvalidEmailToken)?;
        let what = format!(
            "the address of your account was changed to {}. Log in with it from now on; this address is not known any \
             more. Every other session has ended. If it was not you, please write to the operator of this server at \
             once, and name the account {}.",
            unlinked(&user.email),
            user.id
        );
        self.warn(before, "Your address was changed", &what);
        Ok(user)
    }
}
