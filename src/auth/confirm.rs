//! A fresh proof of who somebody is. A stolen session token is not enough for what cannot be taken
//! back, or what would keep the owner out.
//!
//! A login is such a proof, as it is at GitHub: its password was typed a moment ago. So is a
//! password or a code that is sent later. A renewal of the session is none.

use super::password::Asker;
use super::sessions::CurrentSession;
use super::throttle::{TooManyAttempts, subject};
use super::users::{Device, Users, UsersError};
use crate::store::users::User;
use domain::window::Day;
use domain::{ActKind, Timestamp, UserId};

/// So many wrong proofs in a row end a session.
const WRONG_PROOFS_MAX: i64 = 10;
/// Wrong codes of a user in a day (UTC). A code has a million values and three are good at a time,
/// so somebody who knows the password and guesses each day needs years.
const WRONG_CODES_MAX: i64 = 100;
/// After so many in a day the user is told.
const WRONG_CODES_TOLD: i64 = 10;
const SECONDS_PER_DAY: i64 = 86_400;

/// What proves who somebody is.
pub enum Proof {
    /// Their password.
    Password(String),
    /// A code of their second factor, or a recovery code.
    Code(String),
}

impl Users {
    /// Takes a proof for a session. Answers until when it counts.
    ///
    /// # Errors
    /// [`UsersError::WrongCredentials`], or as of a code. [`UsersError::InvalidSession`] if the
    /// session has ended meanwhile.
    pub async fn confirm(
        &self,
        current: &CurrentSession,
        proof: Proof,
        device: &Device,
    ) -> Result<Timestamp, UsersError> {
        let CurrentSession { user, session, .. } = current;
        let by = match proof {
            Proof::Password(password) => {
                self.assert_password(current, password, device).await?;
                "password"
            }
            Proof::Code(code) => {
                self.use_code_in(current, &code, device).await?;
                "code"
            }
        };
        let act = self.act(user.id, device, ActKind::SessionConfirmed);
        let act = act.to(session.to_string()).with(by);
        let at = act.at;
        if !self.store.confirm_session(user.id, *session, act).await? {
            return Err(UsersError::InvalidSession);
        }
        Ok(at.plus_micros(self.session_bounds.confirmed_micros))
    }

    /// Has the user proved a short while ago who they are?
    ///
    /// # Errors
    /// [`UsersError::Unconfirmed`]
    pub fn assert_confirmed(&self, current: &CurrentSession) -> Result<(), UsersError> {
        let until = current.confirmed_at.plus_micros(self.session_bounds.confirmed_micros);
        if until > self.clock.now() { Ok(()) } else { Err(UsersError::Unconfirmed) }
    }

    /// The same for a request that may bring the password itself.
    ///
    /// # Errors
    /// [`UsersError::WrongCredentials`], or [`UsersError::Unconfirmed`] if there is no password.
    pub(super) async fn assert_proof(
        &self,
        current: &CurrentSession,
        password: Option<String>,
        device: &Device,
    ) -> Result<(), UsersError> {
        match password {
            Some(password) => self.assert_password(current, password, device).await,
            None => self.assert_confirmed(current),
        }
    }

    /// Is it the user's own password?
    ///
    /// # Errors
    /// [`UsersError::WrongCredentials`], or [`UsersError::TooManyAttempts`].
    pub(super) async fn assert_password(
        &self,
        current: &CurrentSession,
        password: String,
        device: &Device,
    ) -> Result<(), UsersError> {
        let user = &current.user;
        self.count_attempt(subject(&user.email), Some(user.id), device).await?;
        let stored = Some(user.password_hash.clone());
        if self.passwords.verify(password, stored, Asker::Known).await? {
            return Ok(());
        }
        self.audit_log.record_later(self.act(user.id, device, ActKind::LoginFailed));
        self.count_wrong_proof(current, device).await?;
        Err(UsersError::WrongCredentials)
    }

    /// Uses up a code in a session.
    ///
    /// # Errors
    /// [`UsersError::WrongCode`], or [`UsersError::TooManyAttempts`].
    pub(super) async fn use_code_in(
        &self,
        current: &CurrentSession,
        code: &str,
        device: &Device,
    ) -> Result<(), UsersError> {
        let used = self.use_code(&current.user, code, device).await;
        if matches!(used, Err(UsersError::WrongCode)) {
            self.count_wrong_proof(current, device).await?;
        }
        used
    }

    /// Who guesses in a session has stolen it: it ends.
    async fn count_wrong_proof(
        &self,
        current: &CurrentSession,
        device: &Device,
    ) -> Result<(), UsersError> {
        let CurrentSession { user, session, .. } = current;
        let act = self.act(user.id, device, ActKind::SessionEnded).to(session.to_string());
        let act = act.with(format!("{WRONG_PROOFS_MAX} wrong proofs"));
        if self.store.count_wrong_proof(*session, WRONG_PROOFS_MAX, act).await? {
            let what = format!(
                "a session of your account was ended, because somebody in it, at {}, has sent a wrong password or \
                 code {WRONG_PROOFS_MAX} times. If it was not you, change your password at once, which ends every \
                 session: POST /api/auth/change-password.",
                device.address
            );
            self.warn(user, "A session was ended", &what);
        }
        Ok(())
    }

    /// Counts a code of a user before it is checked, from wherever it comes, also where rate limits
    /// are off. Answers its number of the day, and the day.
    ///
    /// # Errors
    /// [`UsersError::TooManyAttempts`]
    pub(super) async fn count_days_code(&self, user: UserId) -> Result<(i64, Day), UsersError> {
        let now = self.clock.now();
        let counted = self.store.count_code(user, now.day(), WRONG_CODES_MAX).await?;
        let left = SECONDS_PER_DAY.saturating_sub(now.seconds().rem_euclid(SECONDS_PER_DAY));
        let retry_after = u64::try_from(left).unwrap_or(1);
        let number = counted.ok_or(TooManyAttempts { retry_after })?;
        Ok((number, now.day()))
    }

    /// Tells a user of wrong codes.
    pub(super) fn tell_of_wrong_codes(&self, user: &User, number: i64) {
        if number != WRONG_CODES_TOLD {
            return;
        }
        let what = format!(
            "{WRONG_CODES_TOLD} wrong codes of your second factor were sent today. Who sends them may know your \
             password. If it was not you, change it at once: POST /api/auth/change-password, or \
             POST /api/auth/forgot-password. After {WRONG_CODES_MAX} wrong codes no code is taken before the next \
             day (UTC)."
        );
        self.warn(user, "Wrong codes of your second factor", &what);
    }
}
