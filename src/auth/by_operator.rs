//! What operators do to a user's security: each with its letter to the user.

use super::email::AskedBy;
use super::throttle::subject;
use super::users::{Users, UsersError};
use crate::mail::unlinked;
use crate::store::keys::KeyListing;
use crate::store::users::{Role, RoleChange, User};
use domain::Act;

impl Users {
    /// Switches a user's second factor off, if they lost it and all recovery codes.
    ///
    /// # Errors
    /// [`UsersError::NoSecondFactor`]
    pub async fn disable_second_factor_as(&self, user: &User, act: Act) -> Result<(), UsersError> {
        if !user.has_two_factor() {
            return Err(UsersError::NoSecondFactor);
        }
        self.store.delete_second_factor(user.id, act).await?;
        let what = "an operator of this server has switched two-factor authentication off for your account. If you \
                    did not ask for it, please set it up again at once, and write to the operator: \
                    POST /api/auth/2fa/enroll.";
        self.warn(user, "Two-factor authentication is off", what);
        Ok(())
    }

    /// Lets the address of a user count as proved; false if it did already.
    pub async fn verify_email_as(&self, user: &User, act: Act) -> Result<bool, UsersError> {
        if !self.store.mark_verified(user.id, act).await? {
            return Ok(false);
        }
        let proved = User { is_email_verified: true, ..user.clone() };
        let what = "an operator of this server has marked this address as proved for the account with it. If the \
                    account is not yours, ask for another password, which ends its sessions, and write to the \
                    operator: POST /api/auth/forgot-password.";
        self.warn(&proved, "Your address counts as proved", what);
        Ok(true)
    }

    /// Sets a user's role.
    pub async fn set_role_as(
        &self,
        user: &User,
        role: Role,
        act: Act,
    ) -> Result<RoleChange, UsersError> {
        let needs_factor = self.operators_need_second_factor;
        let set = self.store.set_role_by_operator(user.id, role, needs_factor, act).await?;
        if set == RoleChange::Set && user.role != role {
            let what = match role {
                Role::Admin => {
                    "an operator of this server has made you an operator. You can see and change the accounts of all \
                     users, once you have two-factor authentication. If you do not expect it, write to the operator."
                }
                Role::User => {
                    "an operator of this server has taken the role of an operator from you. Your own account stays as \
                     it is."
                }
            };
            self.warn(user, "Your role has changed", what);
        }
        Ok(set)
    }

    /// Tells a user that an operator has revoked an API key of theirs.
    pub fn tell_of_revoked_key(&self, user: &User, key: &KeyListing) {
        let KeyListing { id, name, preview, .. } = key;
        let what = format!(
            "an operator of this server has revoked your API key {:?} ({preview}, {id}). Calls with it are refused. \
             Make another one if you need it: POST /api/keys. GET /api/auth/audit-log says why it was revoked.",
            unlinked(name)
        );
        self.warn(user, "An API key was revoked", &what);
    }

    /// Sends a user a token that sets another password.
    ///
    /// # Errors
    /// [`UsersError::TooManyAttempts`] if this address has got too many letters.
    pub async fn send_reset_as(&self, user: &User, act: Act) -> Result<(), UsersError> {
        self.throttle.try_message(subject(&user.email))?;
        self.mail_reset(user, AskedBy::Operator, act).await
    }
}
