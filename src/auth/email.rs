//! Messages by email: verification of an address, reset of a forgotten password, and warnings.
//!
//! Neither request reveals whether an address is known: the answer is the same, and is sent before
//! the lookup.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::password::Asker;
use super::session::{digest, random_token};
use super::sessions::CurrentSession;
use super::throttle::subject;
use super::users::{Device, Users, UsersError};
use crate::keys::Keys;
use crate::mail::{Letter, unlinked};
use crate::store::keys::{ExpiringKey, KeyListing};
use crate::store::payments::Payment;
use crate::store::users::{Proved, TokenPurpose, User};
use crate::store::webhooks::Endpoint;
use domain::{Act, ActKind, Actor, Credits, MICROS_PER_DAY, Origin, Timestamp, UserId};

/// The prefix of a token that works once, sent by email or printed by the command line, so that
/// secret scanners recognize one.
pub(super) const PREFIX: &str = "pse_";
/// API keys and webhooks that a letter names.
const LISTED_MAX: usize = 100;
/// How many days back a letter tells of rotations of keys: for so long a value from before may be
/// good.
const ROTATED_DAYS: i64 = 30;

/// Who has asked for a letter that sets another password.
pub(super) enum AskedBy<'a> {
    /// Somebody who has not said who they are.
    Anybody(&'a Device),
    /// An operator.
    Operator,
}

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
        self.store.insert_email_token(user, purpose, digest(&token), expires_at, None).await?;
        let how = match &self.messages.verify_url {
            Some(url) => format!("Please open\n\n    {}\n", url.replace("{token}", &token)),
            None => format!(
                "Please send this token to POST /api/auth/verify-email, as {{\"token\": \"...\"}}:\n\n    {token}\n"
            ),
        };
        self.mailer.send(Letter {
            to: user.email.clone(),
            is_proved: false,
            subject: "Please verify your address".into(),
            text: format!(
                "Hello {},\n\nsomebody has registered with this address. If it was you, verify it. {how}\nIt is good \
                 once, until {}. It ends every session, API key, webhook and second factor from before; please log in \
                 again afterwards. If it was not you, do not verify it: who registered knows the password. To take \
                 the account over, ask for another password: POST /api/auth/forgot-password.\n",
                unlinked(&user.username),
                expires_at.to_rfc3339()
            ),
        });
        Ok(())
    }

    /// Proves an address by the token that was sent to it. The first proof ends everything that
    /// was made before it.
    pub async fn verify_email(
        &self,
        token: &str,
        device: &Device,
        keys: &Keys,
    ) -> Result<(), UsersError> {
        // What the proof ends binds where the accounts are.
        keys.assert_in_charge()?;
        let from = device.origin(Actor::Server);
        let proved = self.store.verify_email(digest(token), self.clock.now(), from).await?;
        let proved = proved.ok_or(UsersError::InvalidEmailToken)?;
        self.end_keys(&proved, device, keys).await;
        if let Err(error) = self.remember_place(&proved.user, device).await {
            tracing::warn!(%error, "a place was not remembered");
        }
        Ok(())
    }

    /// Tells the owners of the accounts which keys a first proof has put out of use.
    async fn end_keys(&self, proved: &Proved, device: &Device, keys: &Keys) {
        let Proved { user, ended } = proved;
        for key in ended.iter().flat_map(|ended| &ended.keys) {
            keys.end(user.id, key, device.origin(Actor::User(user.id))).await;
        }
    }

    /// Sends a token that sets another password, if there is such a user.
    pub fn send_reset(self: &Arc<Self>, email: String, device: Device) {
        let users = Arc::clone(self);
        self.later(async move {
            if users.throttle.try_message(subject(&email)).is_err() {
                return Ok(());
            }
            match users.find(&email).await? {
                Some(user) => {
                    // The requester is not authenticated.
                    let origin = device.origin(Actor::Server);
                    let kind = ActKind::PasswordResetAsked;
                    let act = origin.act(Uuid::now_v7(), user.id, kind, users.clock.now());
                    users.mail_reset(&user, AskedBy::Anybody(&device), act).await
                }
                None => Ok(()),
            }
        });
    }

    pub(super) async fn mail_reset(
        &self,
        user: &User,
        by: AskedBy<'_>,
        act: Act,
    ) -> Result<(), UsersError> {
        let token = random_token(PREFIX);
        let now = self.clock.now();
        let expires_at = now.plus_micros(self.messages.reset_micros);
        let purpose = TokenPurpose::Reset;
        self.store.insert_email_token(user, purpose, digest(&token), expires_at, None).await?;
        self.audit_log.record(act).await?;
        let who = match by {
            AskedBy::Anybody(device) => {
                format!("somebody at {} has asked for another password for you", device.address)
            }
            AskedBy::Operator => {
                "an operator of this server has asked for another password for you".to_owned()
            }
        };
        let how = match &self.messages.reset_url {
            Some(url) => format!("Please open\n\n    {}\n", url.replace("{token}", &token)),
            None => format!(
                "Please send this token to POST /api/auth/reset-password, as {{\"token\": \"...\", \
                 \"new_password\": \"...\"}}:\n\n    {token}\n"
            ),
        };
        self.mailer.send(Letter {
            to: user.email.clone(),
            is_proved: user.is_email_verified,
            subject: "Another password".into(),
            text: format!(
                "Hello {},\n\n{who}. {how}\nIt is good once, until \
                 {}. It ends every session. If it was not you who asked, nothing needs to be done.\n",
                unlinked(&user.username),
                expires_at.to_rfc3339()
            ),
        });
        Ok(())
    }

    /// Sets another password by the token that was sent for it, and ends every session of its user.
    /// If it is the first proof of the address, it ends everything that was made before it. A
    /// letter names the API keys and webhooks that remain.
    ///
    /// # Errors
    /// [`UsersError::InvalidEmailToken`], or why the password is not taken.
    pub async fn reset_password(
        &self,
        token: &str,
        password: String,
        device: &Device,
        keys: &Keys,
    ) -> Result<(), UsersError> {
        self.assert_length(&password, "new_password")?;
        keys.assert_in_charge()?;
        let (digest, now) = (digest(token), self.clock.now());
        // Checked first, because a hash is expensive.
        let user = self.store.find_by_email_token(TokenPurpose::Reset, digest, now).await?;
        let user = user.ok_or(UsersError::InvalidEmailToken)?;
        // The token is theirs.
        let asker = Asker::Known;
        let hash = self.hash_new(password, user.names(), "new_password", asker).await?;
        let from = device.origin(Actor::Server);
        let reset = self.store.reset_password(digest, hash, now, from).await?;
        let proved = reset.ok_or(UsersError::InvalidEmailToken)?;
        self.end_keys(&proved, device, keys).await;
        let user = &proved.user;
        // The next login from this address counts as from a known address.
        if let Err(error) = self.remember_place(user, device).await {
            tracing::warn!(%error, "a place was not remembered");
        }
        let remains = match &proved.ended {
            Some(ended) => format!("It was the first proof of this address, so it {ended}."),
            None => self.what_remains(user.id).await,
        };
        self.tell_of_new_password(user, &remains);
        Ok(())
    }

    /// The API keys and webhooks of a user, for a letter. The letter goes out whatever happens.
    pub(super) async fn what_remains(&self, user: UserId) -> String {
        let listed = self.list_what_remains(user).await;
        listed.unwrap_or_else(|error| {
            tracing::error!(%error, "a letter does not name the API keys and webhooks that remain");
            "GET /api/keys and GET /api/webhooks list what works on.".into()
        })
    }

    async fn list_what_remains(&self, user: UserId) -> Result<String, UsersError> {
        let accounts = self.store.accounts_of(user).await?;
        let now = self.clock.now();
        let mut keys = self.keys.list(accounts, None).await?;
        keys.retain(|key| key.is_active && key.expires_at.is_none_or(|end| end > now));
        let of = [accounts.live, accounts.test];
        let webhooks = self.webhooks.list_endpoints(of, None).await?;
        if keys.is_empty() && webhooks.is_empty() {
            return Ok("There are no API keys and no webhooks.".into());
        }
        let rotated = self.list_rotations(user, now).await?;
        // Who has rotated a key has a value of it that the list of keys does not show.
        keys.sort_by_key(|key| !rotated.contains_key(&key.id.to_string()));
        let key = |key: &KeyListing| {
            let KeyListing { id, name, preview, former_valid_until, .. } = key;
            let rotated = rotated.get(&id.to_string()).map(|at| {
                let former = former_valid_until.filter(|until| *until > now).map(|until| {
                    format!("; the value before is good until {}", until.to_rfc3339())
                });
                format!(", rotated at {}{}", at.to_rfc3339(), former.unwrap_or_default())
            });
            let rotated = rotated.unwrap_or_default();
            format!("\n    API key {:?}, {preview}{rotated}: DELETE /api/keys/{id}", unlinked(name))
        };
        let webhook = |endpoint: &Endpoint| {
            let Endpoint { id, url, .. } = endpoint;
            format!("\n    webhook {}: DELETE /api/webhooks/{id}", unlinked(url))
        };
        let lines = keys.iter().map(key).chain(webhooks.iter().map(webhook));
        let lines: String = lines.take(LISTED_MAX).collect();
        Ok(format!(
            "These API keys and webhooks work on. Delete each that you do not know, and each key that was rotated and \
             not by you:\n{lines}\n\nGET /api/keys and GET /api/webhooks list them all."
        ))
    }

    /// When the keys of a user were last rotated, by their id, as far as it is not long ago.
    async fn list_rotations(
        &self,
        user: UserId,
        now: Timestamp,
    ) -> Result<HashMap<String, Timestamp>, UsersError> {
        let since = now.plus_micros(ROTATED_DAYS.saturating_mul(MICROS_PER_DAY).saturating_neg());
        let acts = self.audit_log.list_since(user, ActKind::KeyRotated, since).await?;
        let mut rotated = HashMap::new();
        for act in acts {
            // The latest comes first.
            rotated.entry(act.subject).or_insert(act.at);
        }
        Ok(rotated)
    }

    /// Tells a user that their password was changed, so that they notice a stolen mailbox or
    /// session. `remains` says what of the account works on.
    pub(super) fn tell_of_new_password(&self, user: &User, remains: &str) {
        let what = format!(
            "your password was changed, and every session from before has ended. If it was not you, please ask for \
             another password at once: POST /api/auth/forgot-password.\n\n{remains}"
        );
        self.warn(user, "Your password was changed", &what);
    }

    /// Tells a user of a new API key.
    pub fn tell_of_key(&self, user: &User, key: &KeyListing) {
        let KeyListing { id, name, preview, .. } = key;
        let what = format!(
            "an API key {:?} ({preview}) was made for your account. If it was not you, delete it and change your \
             password: DELETE /api/keys/{id}, POST /api/auth/change-password.",
            unlinked(name)
        );
        self.warn(user, "A new API key", &what);
    }

    /// Tells a user of a new webhook.
    pub fn tell_of_webhook(&self, user: &User, endpoint: &Endpoint) {
        let Endpoint { id, url, .. } = endpoint;
        let what = format!(
            "a webhook to {} was added to your account. If it was not you, delete it and change your password: \
             DELETE /api/webhooks/{id}, POST /api/auth/change-password.",
            unlinked(url)
        );
        self.warn(user, "A new webhook", &what);
    }

    /// Tells a user that a webhook of theirs is signed with another secret.
    pub fn tell_of_webhook_secret(&self, user: &User, endpoint: &Endpoint) {
        let Endpoint { id, url, .. } = endpoint;
        let what = format!(
            "the webhook to {} ({id}) has another secret, made by somebody who is logged in as you. Deliveries are \
             signed with the former one too for a while. If it was not you, make another one and change your \
             password: POST /api/webhooks/{id}/rotate-secret, POST /api/auth/change-password.",
            unlinked(url)
        );
        self.warn(user, "A webhook has another secret", &what);
    }

    /// Tells a user that their account tops itself up from now on.
    pub fn tell_of_rule(&self, user: &User, amount: Credits, threshold: Credits) {
        let what = format!(
            "from now on your account is topped up by ${amount} with a saved payment method if its balance falls \
             below ${threshold}, as somebody asked for who is logged in as you. If it was not you, switch it off and \
             change your password: PUT /api/payments/auto-top-up, POST /api/auth/change-password.",
        );
        self.warn(user, "Your account tops itself up", &what);
    }

    /// Tells a user of a payment with their saved payment method.
    pub fn tell_of_saved_method(&self, user: &User, payment: &Payment) {
        let what = format!(
            "a payment of ${} was begun with your saved payment method, by somebody who is logged in as you ({}). If \
             it was not you, delete the method and change your password: DELETE /api/payments/methods/{{id}}, \
             POST /api/auth/change-password.",
            payment.amount, payment.id
        );
        self.warn(user, "A payment with your saved payment method", &what);
    }

    /// Tells a user that an API key of theirs has another value. `address` is the client's.
    pub fn tell_of_rotation(&self, user: &User, key: &KeyListing, address: &str) {
        let KeyListing { id, name, preview, former_valid_until, .. } = key;
        let former = match former_valid_until.filter(|until| *until > self.clock.now()) {
            Some(until) => format!("is good until {}", until.to_rfc3339()),
            None => "has ended".to_owned(),
        };
        let what = format!(
            "the API key {:?} ({id}) has another value ({preview}), made by somebody at {address} who is logged in as \
             you. The value before {former}. If it was not you, delete the key and change your password: \
             DELETE /api/keys/{id}, POST /api/auth/change-password.",
            unlinked(name)
        );
        self.warn(user, "An API key was rotated", &what);
    }

    /// Tells a user that a webhook of theirs sends elsewhere.
    pub fn tell_of_url(&self, user: &User, before: &str, endpoint: &Endpoint) {
        let Endpoint { id, url, .. } = endpoint;
        let what = format!(
            "a webhook of your account sends to {} now, and has sent to {}. If it was not you, delete it and change \
             your password: DELETE /api/webhooks/{id}, POST /api/auth/change-password.",
            unlinked(url),
            unlinked(before)
        );
        self.warn(user, "A webhook has another URL", &what);
    }

    /// Tells a user that they have a second factor. One that a thief has set up keeps them out.
    pub(super) fn tell_of_factor(&self, user: &User, device: &Device) {
        let what = format!(
            "two-factor authentication was switched on for your account, by somebody at {} who is logged in as you. \
             Every other session has ended, and a login needs a code from now on. If it was not you, please write to \
             the operator of this server at once, and name the account {}.",
            device.address, user.id
        );
        self.warn(user, "Two-factor authentication is on", &what);
    }

    /// Tells a user of new recovery codes.
    pub(super) fn tell_of_recovery_codes(&self, user: &User, device: &Device) {
        let what = format!(
            "new recovery codes were made for your account, by somebody at {} who is logged in as you. The codes from \
             before do not work any more. If it was not you, make new ones and change your password at once: \
             POST /api/auth/2fa/recovery-codes, POST /api/auth/change-password.",
            device.address
        );
        self.warn(user, "New recovery codes", &what);
    }

    /// Tells a user that their second factor is off.
    pub(super) fn tell_of_lost_factor(&self, user: &User) {
        let what = "two-factor authentication was switched off for your account. If it was not you, please ask for \
                    another password at once: POST /api/auth/forgot-password.";
        self.warn(user, "Two-factor authentication is off", what);
    }

    /// Tells a user something about their account, such as what a thief of their session would do.
    /// Not at an address that is not proved: anybody could have letters sent to it. A limited
    /// number for each subject.
    pub(super) fn warn(&self, user: &User, subject_line: &str, what: &str) {
        let of = subject(&format!("{subject_line} of {}", user.id));
        if user.is_email_verified && !user.is_erased && self.throttle.try_message(of).is_ok() {
            self.mailer.send(Letter {
                to: user.email.clone(),
                is_proved: true,
                subject: subject_line.into(),
                text: format!("Hello {},\n\n{what}\n", unlinked(&user.username)),
            });
        }
    }

    /// Warns the owners of keys that expire before `soon`, once for each key and once a day for
    /// each owner.
    pub async fn tell_of_expiring_keys(&self, soon: Timestamp) -> Result<(), UsersError> {
        // A limited number; the rest follows in the next round.
        let now = self.clock.now();
        let day_before = now.plus_micros(MICROS_PER_DAY.saturating_neg());
        let mut told: BTreeMap<UserId, Vec<ExpiringKey>> = BTreeMap::new();
        let mut recorded = Ok(());
        for key in self.keys.list_expiring(now, soon, day_before).await? {
            let ExpiringKey { id, expires_at, owner, .. } = key.clone();
            let origin = Origin::local(Actor::Server);
            let act = origin.act(Uuid::now_v7(), owner, ActKind::KeyExpiryTold, now);
            let act =
                act.to(id.to_string()).with(format!("it ends at {}", expires_at.to_rfc3339()));
            // Recorded first: a lost message is better than one every minute.
            match self.keys.record_expiry_warning(key.clone(), act).await {
                Ok(true) => told.entry(owner).or_default().push(key),
                Ok(false) => {}
                // Those that are recorded are told all the same.
                Err(error) => {
                    recorded = Err(error.into());
                    break;
                }
            }
        }
        for (owner, keys) in told {
            let lines = keys.iter().map(|ExpiringKey { id, name, expires_at, .. }| {
                let ends_at = expires_at.to_rfc3339();
                format!("\n    {:?} ends at {ends_at}: PATCH /api/keys/{id}", unlinked(name))
            });
            let what = format!(
                "these API keys of yours end soon. To go on with one, give it another end.\n{}\n\nGET /api/keys lists \
                 the ends of all keys.",
                lines.collect::<String>()
            );
            self.write_to(owner, "API keys end soon", &what).await;
        }
        recorded
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

    /// Tells a user something, as `warn` does.
    pub async fn write_to(&self, user: UserId, subject: &str, what: &str) {
        match self.store.find(user).await {
            Ok(Some(user)) => self.warn(&user, subject, what),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "a message was not sent"),
        }
    }

    /// May this user pay, make keys, add webhooks and set a second factor up?
    pub fn assert_verified(&self, current: &CurrentSession) -> Result<(), UsersError> {
        if self.messages.is_verification_required && !current.user.is_email_verified {
            return Err(UsersError::Unverified);
        }
        Ok(())
    }

    /// Runs work in the background.
    pub(super) fn later(
        &self,
        work: impl Future<Output = Result<(), UsersError>> + Send + 'static,
    ) {
        self.runtime.spawn(async move {
            if let Err(error) = work.await {
                tracing::error!(%error, "a message was not sent");
            }
        });
    }
}
