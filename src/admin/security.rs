//! What operators do to the security of another user's account.

use super::{Admin, AdminError};
use crate::store::users::{Role, RoleChange, User};
use domain::{ActKind, Origin, UserId};

impl Admin {
    /// The user, to whom something may be done.
    ///
    /// # Errors
    /// [`AdminError::NoUser`], [`AdminError::Erased`]
    pub async fn present(&self, user: UserId) -> Result<User, AdminError> {
        self.find_present(user).await
    }

    /// Switches a user's second factor off, if they lost it and all recovery codes. Not that of an
    /// operator: who takes over one operator's session must not reach another one's account.
    ///
    /// # Errors
    /// [`AdminError::OfOperator`], or there is none.
    pub async fn disable_two_factor(
        &self,
        user: UserId,
        reason: String,
        origin: Origin,
    ) -> Result<(), AdminError> {
        let user = self.find_present(user).await?;
        if user.role == Role::Admin {
            return Err(AdminError::OfOperator);
        }
        let act = self.act(origin, user.id, ActKind::TwoFactorDisabled).with(reason);
        Ok(self.people.disable_second_factor_as(&user, act).await?)
    }

    /// Lets the address of a user count as proved.
    ///
    /// # Errors
    /// [`AdminError::Verified`]
    pub async fn verify_email(
        &self,
        user: UserId,
        reason: String,
        origin: Origin,
    ) -> Result<(), AdminError> {
        let user = self.find_present(user).await?;
        let act = self.act(origin, user.id, ActKind::EmailVerified).with(reason);
        if self.people.verify_email_as(&user, act).await? {
            Ok(())
        } else {
            Err(AdminError::Verified)
        }
    }

    /// Sends a user a letter with which they set another password.
    pub async fn send_reset(
        &self,
        user: UserId,
        reason: String,
        origin: Origin,
    ) -> Result<(), AdminError> {
        let user = self.find_present(user).await?;
        let act = self.act(origin, user.id, ActKind::PasswordResetAsked).with(reason);
        Ok(self.people.send_reset_as(&user, act).await?)
    }

    /// Sets a user's role.
    ///
    /// # Errors
    /// [`AdminError::NotVerified`]: anybody can register with an address of somebody else.
    /// [`AdminError::LastOperator`]
    pub async fn set_role(
        &self,
        user: UserId,
        role: Role,
        reason: &str,
        origin: Origin,
    ) -> Result<User, AdminError> {
        let user = self.find_present(user).await?;
        if role == Role::Admin && !user.is_email_verified {
            return Err(AdminError::NotVerified);
        }
        let act = self.act(origin, user.id, ActKind::RoleSet);
        let act = act.with(format!("{}: {reason}", role.name()));
        match self.people.set_role_as(&user, role, act).await? {
            RoleChange::Set => Ok(User { role, ..user }),
            RoleChange::NoUser => Err(AdminError::NoUser),
            RoleChange::LastOperator => Err(AdminError::LastOperator),
        }
    }
}
