//! A fresh proof of who somebody is. A stolen session token is not enough for what cannot be taken
//! back, or what would keep the owner out.
//!
//! A login is such a proof, as it is at GitHub: its password was typed a moment ago. So is a
//! password or a code that is sent later. A renewal of the session is none.

use super::users::{CurrentSession, Device, Users, UsersError};
use domain::{ActKind, Timestamp};

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
                self.assert_password(user, password, device).await?;
                "password"
            }
            Proof::Code(code) => {
                self.use_code(user, &code, device).await?;
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
            Some(password) => self.assert_password(&current.user, password, device).await,
            None => self.assert_confirmed(current),
        }
    }
}
