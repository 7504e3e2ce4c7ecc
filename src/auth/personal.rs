//! What users may ask about their own data: a copy of all of it, and its erasure.

use super::sessions::CurrentSession;
use super::users::{Device, Users, UsersError};
use crate::store::users::User;
use domain::ActKind;

impl Users {
    /// Records that everything of a user is handed out, and tells them.
    pub async fn record_export(&self, user: &User, device: &Device) -> Result<(), UsersError> {
        self.audit_log.record(self.act(user.id, device, ActKind::DataExported)).await?;
        let what = format!(
            "somebody at {} who is logged in as you has taken a copy of everything that your account has here. If it \
             was not you, end every session and change your password: POST /api/auth/logout-all, \
             POST /api/auth/change-password.",
            device.address
        );
        self.warn(user, "Your data was exported", &what);
        Ok(())
    }

    /// Is it the user who asks, by the password and, if there is a second factor, by a code?
    ///
    /// # Errors
    /// [`UsersError::CodeMissing`], or as of a password and a code.
    pub async fn assert_themselves(
        &self,
        current: &CurrentSession,
        password: String,
        code: Option<&str>,
        device: &Device,
    ) -> Result<(), UsersError> {
        self.assert_password(current, password, device).await?;
        let has_two_factor = current.user.has_two_factor();
        match code {
            Some(code) if has_two_factor => self.use_code_in(current, code, device).await,
            None if has_two_factor => Err(UsersError::CodeMissing),
            _ => Ok(()),
        }
    }

    /// Tells a user, at the address that they had, that they are erased.
    pub fn tell_of_erasure(&self, user: &User) {
        let what = "your account was erased, as you have asked for. Nobody can sign in to it any more, and nothing \
                    leads from its ledger to you. You may register with this address again.";
        self.warn(user, "Your account was erased", what);
    }
}
