//! Session tokens: the chapter's JWT. HS256 alone, pinned here and never read from the token (RFC 8725).

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::{Timestamp, UserId};
use crate::store::users::User;

const ISSUER: &str = "polysystems";
const AUDIENCE: &str = "polysystems-api";
/// Tells a session token from any other kind that the same secret may sign one day.
const KIND: &str = "session";

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    iat: i64,
    exp: i64,
    jti: String,
    typ: String,
    /// The user's token version; a change of password raises it and so ends every older token.
    ver: i64,
}

/// Whose session it is, as the token says. Whether the version is still the user's is for the store to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The user.
    pub user: UserId,
    /// The token version at issue.
    pub token_version: i64,
}

/// Why a text is not a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Not a token of ours.
    #[error("not a valid session token")]
    Invalid,
    /// A token of ours whose time is over.
    #[error("the session token has expired")]
    Expired,
}

/// Issues and reads session tokens.
pub struct Sessions {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    lifetime_seconds: i64,
}

impl Sessions {
    /// Tokens signed with `secret`, good for so many seconds.
    #[must_use]
    pub fn new(secret: &[u8], lifetime_seconds: u32) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
        // Checked below, against our clock and without leeway.
        validation.validate_exp = false;
        Sessions {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            lifetime_seconds: i64::from(lifetime_seconds),
        }
    }

    /// A token for a user who has proved who they are. `None` where it cannot be signed.
    #[must_use]
    pub fn issue(&self, user: &User, now: Timestamp) -> Option<String> {
        let claims = Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: user.id.to_string(),
            iat: now.seconds(),
            exp: now.seconds().saturating_add(self.lifetime_seconds),
            jti: Uuid::new_v4().to_string(),
            typ: KIND.into(),
            ver: user.token_version,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding).ok()
    }

    /// Reads a token.
    ///
    /// # Errors
    /// [`SessionError`]
    pub fn read(&self, token: &str, now: Timestamp) -> Result<Session, SessionError> {
        let claims: Claims = jsonwebtoken::decode(token, &self.decoding, &self.validation)
            .map_err(|_| SessionError::Invalid)?
            .claims;
        if claims.typ != KIND {
            return Err(SessionError::Invalid);
        }
        if claims.exp <= now.seconds() {
            return Err(SessionError::Expired);
        }
        let user = claims.sub.parse().map_err(|_| SessionError::Invalid)?;
        Ok(Session { user, token_version: claims.ver })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::users::Role;

    const NOW: Timestamp = Timestamp::from_micros(1_705_320_000_000_000);
    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn user() -> User {
        User {
            id: UserId(Uuid::from_u128(7)),
            email: "a@example.com".into(),
            username: "a".into(),
            password_hash: String::new(),
            role: Role::User,
            is_email_verified: false,
            token_version: 3,
            created_at: NOW,
        }
    }

    #[test]
    fn a_token_is_good_until_its_time_is_over() {
        let sessions = Sessions::new(SECRET, 60);
        let token = sessions.issue(&user(), NOW).unwrap();
        let expected = Session { user: user().id, token_version: 3 };
        assert_eq!(sessions.read(&token, NOW.plus_micros(59_000_000)), Ok(expected));
        assert_eq!(sessions.read(&token, NOW.plus_micros(60_000_000)), Err(SessionError::Expired));
        assert!(!token.contains("example.com"));
    }

    #[test]
    fn forgeries_are_refused() {
        let sessions = Sessions::new(SECRET, 60);
        let claims = |change: fn(&mut serde_json::Value)| {
            let mut claims = serde_json::json!({
                "iss": ISSUER, "aud": AUDIENCE, "sub": user().id.to_string(), "iat": NOW.seconds(),
                "exp": NOW.seconds() + 60, "jti": "x", "typ": KIND, "ver": 3,
            });
            change(&mut claims);
            claims
        };
        let sign = |algorithm, secret: &[u8], claims: &serde_json::Value| {
            let key = EncodingKey::from_secret(secret);
            jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
        };
        let good = claims(|_| ());
        assert!(sessions.read(&sign(Algorithm::HS256, SECRET, &good), NOW).is_ok());

        let mut forged = vec![
            String::new(),
            "a.b.c".to_owned(),
            sign(Algorithm::HS256, b"another secret", &good),
            sign(Algorithm::HS512, SECRET, &good),
        ];
        let unsigned = sign(Algorithm::HS256, SECRET, &good);
        let payload = unsigned.split('.').nth(1).unwrap();
        // {"alg":"none"}
        forged.push(format!("eyJhbGciOiJub25lIn0.{payload}."));
        let changes: [fn(&mut serde_json::Value); 7] = [
            |claims| claims["iss"] = "someone".into(),
            |claims| claims["aud"] = "elsewhere".into(),
            |claims| claims["typ"] = "refresh".into(),
            |claims| claims["sub"] = "key-00000000-0000-0000-0000-000000000007".into(),
            |claims| drop(claims.as_object_mut().unwrap().remove("exp")),
            |claims| drop(claims.as_object_mut().unwrap().remove("aud")),
            |claims| drop(claims.as_object_mut().unwrap().remove("ver")),
        ];
        forged.extend(changes.map(|change| sign(Algorithm::HS256, SECRET, &claims(change))));
        for token in forged {
            assert_eq!(sessions.read(&token, NOW), Err(SessionError::Invalid), "{token}");
        }
    }
}
