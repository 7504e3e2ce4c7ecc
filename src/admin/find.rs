//! Finds the user whom something belongs to, by whatever of it an operator has: an id, what is seen
//! of an API key, an address or a name.

use super::{Admin, AdminError};
use crate::store::users::{User, UserSearch};
use domain::{ChargeId, KeyId, Origin, PaymentId, UserId};

/// Most things that are found.
const FOUND_MAX: u64 = 20;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundThing {
    /// A user.
    User,
    /// A key.
    Key(KeyId),
    /// A payment.
    Payment(PaymentId),
    /// A call.
    Call(ChargeId),
}

/// Something that was found, and whose it is.
#[derive(Clone, Debug)]
pub struct FoundOwner {
    /// What.
    pub thing: FoundThing,
    /// Whose.
    pub user: User,
}

impl Admin {
    /// Whatever has this id, this preview of a key, or in the address or the name this text.
    pub async fn search(&self, text: &str, origin: Origin) -> Result<Vec<FoundOwner>, AdminError> {
        self.gateway.tables_up_to_date().await?;
        let mut found: Vec<(FoundThing, UserId)> = Vec::new();
        if let Ok(id) = text.parse::<UserId>() {
            found.push((FoundThing::User, id));
        } else if let Ok(id) = text.parse::<PaymentId>() {
            let store = &self.store.payments;
            if let Some(payment) = store.find(id).await? {
                let owner = self.users.owner_of(payment.account).await?;
                found.push((FoundThing::Payment(id), owner));
            }
        } else if let Ok(id) = text.parse::<ChargeId>() {
            if let Some((_, owner, _)) = self.store.payer_of(id).await? {
                found.push((FoundThing::Call(id), owner));
            }
        } else {
            let keys =
                self.users.find_key_owners(text.parse().ok(), text.to_owned(), FOUND_MAX).await?;
            found.extend(keys.into_iter().map(|(key, owner)| (FoundThing::Key(key), owner)));
        }
        let mut known = Vec::new();
        for (thing, owner) in found {
            known.extend(self.users.find(owner).await?.map(|user| FoundOwner { thing, user }));
        }
        if known.is_empty() {
            let text = Some(text.to_owned());
            let search = UserSearch { text, limit: FOUND_MAX, ..UserSearch::default() };
            let users = self.users.list(search).await?.into_iter().map(|listed| listed.user);
            known.extend(users.map(|user| FoundOwner { thing: FoundThing::User, user }));
        }
        let read = known.iter().map(|found| found.user.id);
        self.record_reads(read, "in a search", &origin).await?;
        Ok(known)
    }

    /// Records that an operator reads something of a user.
    ///
    /// # Errors
    /// [`AdminError::NoUser`]
    pub async fn read(
        &self,
        user: UserId,
        what: &'static str,
        origin: Origin,
    ) -> Result<(), AdminError> {
        self.find(user).await?;
        self.record_reads([user].into_iter(), what, &origin).await
    }
}
