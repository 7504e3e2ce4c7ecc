//! Identifiers as types, so that the compiler refuses a key id as a user id.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The number of a prepaid account, assigned by the database. It is internal: clients never see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(pub i64);

impl AccountId {
    /// The greatest number, which no account has. Work in the order of accounts does it last.
    pub const LAST: AccountId = AccountId(i64::MAX);
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not an id of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {0}<uuid>")]
pub struct IdError(pub &'static str);

macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The prefix of the text form.
            pub const PREFIX: &'static str = $prefix;
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                f.write_str(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let uuid = text.strip_prefix($prefix).ok_or(IdError($prefix))?;
                // Only lowercase hyphenated UUIDs, so that each id has exactly one text form.
                if uuid.len() != 36 || uuid.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(IdError($prefix));
                }
                Uuid::try_parse(uuid).map($name).map_err(|_| IdError($prefix))
            }
        }
    };
}

prefixed_id!(
    /// A person who logs in. Text form `user-<uuid>`.
    UserId,
    "user-"
);
prefixed_id!(
    /// An API key. Text form `key-<uuid>`.
    KeyId,
    "key-"
);
prefixed_id!(
    /// A paid call. Its request, charge and usage record have the same id. Text form `req-<uuid>`.
    ChargeId,
    "req-"
);
prefixed_id!(
    /// A payment that tops up an account. Text form `pay-<uuid>`.
    PaymentId,
    "pay-"
);

prefixed_id!(
    /// A login on one device. Text form `session-<uuid>`.
    SessionId,
    "session-"
);

prefixed_id!(
    /// An act in the audit log. Text form `act-<uuid>`.
    ActId,
    "act-"
);

prefixed_id!(
    /// A webhook endpoint. Text form `hook-<uuid>`.
    EndpointId,
    "hook-"
);

prefixed_id!(
    /// An event for webhooks. Text form `event-<uuid>`.
    EventId,
    "event-"
);

prefixed_id!(
    /// The delivery of an event to an endpoint. Text form `delivery-<uuid>`.
    DeliveryId,
    "delivery-"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_as_they_print() {
        let id = KeyId(Uuid::from_u128(7));
        assert_eq!(id.to_string(), "key-00000000-0000-0000-0000-000000000007");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn foreign_prefixes_and_other_spellings_are_refused() {
        for text in [
            "user-00000000-0000-0000-0000-000000000007",
            "00000000-0000-0000-0000-000000000007",
            "key-00000000000000000000000000000007",
            "key-00000000-0000-0000-0000-00000000000A",
            "key-{00000000-0000-0000-0000-000000000007}",
            "key-",
            "",
        ] {
            assert_eq!(text.parse::<KeyId>(), Err(IdError("key-")), "{text}");
        }
    }
}
