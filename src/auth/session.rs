//! Session tokens: the chapter's JWT, and the refresh tokens that renew a session.
//!
//! HS256 only, pinned here and never read from the token (RFC 8725). `kid` chooses among the
//! secrets of this server, so that a secret can be replaced without ending any session.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::store::users::{RefreshDigests, TokenDigest};
use domain::{SessionId, Timestamp, UserId};

const ISSUER: &str = "polysystems";
const AUDIENCE: &str = "polysystems-api";
/// The audience of session tokens; the same secret also signs challenges.
const KIND: &str = "session";
/// The audience of challenges: tokens of users who gave the right password and have to give a code.
const CHALLENGE_KIND: &str = "challenge";
const CHALLENGE_AUDIENCE: &str = "polysystems-second-factor";
/// How long a code may take.
const CHALLENGE_SECONDS: i64 = 300;
/// The prefix of a refresh token, so that secret scanners recognize one.
const REFRESH_PREFIX: &str = "psr_";
/// Prefix and family of a refresh token, in characters.
const FAMILY_LEN: usize = 26;

#[derive(Clone, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    iat: i64,
    exp: i64,
    jti: String,
    typ: String,
    /// The session, which may have ended since.
    sid: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct ChallengeClaims {
    iss: String,
    aud: String,
    sub: String,
    exp: i64,
    typ: String,
    /// Of the user's password.
    version: i64,
}

/// A user who has given the right password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Who.
    pub user: UserId,
    /// See [`crate::store::users::User::token_version`].
    pub version: i64,
}

/// The session and user named by a token. The store knows whether the session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The session.
    pub id: SessionId,
    /// The user.
    pub user: UserId,
}

/// Why a text is not a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Not a token signed by this server.
    #[error("not a valid session token")]
    Invalid,
    /// An expired token.
    #[error("the session token has expired")]
    Expired,
}

/// A text that renews a session, once. It begins with the family: 128 random bits that all tokens
/// of a session have in common. So a token that was used before is known, however many came after
/// it.
pub struct RefreshToken(String);

impl RefreshToken {
    /// A new one of a new family, with 256 random bits of its own.
    #[must_use]
    pub fn new() -> Self {
        RefreshToken(random_token(&random_family()))
    }

    /// Reads one that a client sends. `None` if it cannot be one.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let is_one = text.starts_with(REFRESH_PREFIX)
            && text.get(..FAMILY_LEN).is_some_and(|family| family.len() < text.len());
        is_one.then(|| RefreshToken(text.to_owned()))
    }

    /// A new one of the same family.
    #[must_use]
    pub fn next(&self) -> Self {
        RefreshToken(random_token(self.family()))
    }

    fn family(&self) -> &str {
        self.0.get(..FAMILY_LEN).unwrap_or_default()
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The digests to store.
    #[must_use]
    pub fn digests(&self) -> RefreshDigests {
        RefreshDigests { token: digest(&self.0), family: digest(self.family()) }
    }
}

/// The prefix of a refresh token with 128 random bits.
fn random_family() -> String {
    use base64::Engine as _;
    let random: [u8; 16] = rand::rng().random();
    format!("{REFRESH_PREFIX}{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random))
}

impl Default for RefreshToken {
    fn default() -> Self {
        Self::new()
    }
}

/// A token of 256 random bits.
#[must_use]
pub fn random_token(prefix: &str) -> String {
    use base64::Engine as _;
    let random: [u8; 32] = rand::rng().random();
    format!("{prefix}{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random))
}

/// The digest under which a random token is stored.
#[must_use]
pub fn digest(text: &str) -> TokenDigest {
    Sha256::digest(text.as_bytes()).into()
}

/// A secret that tokens are signed with, or were.
struct Key {
    id: String,
    decoding: DecodingKey,
}

impl Key {
    fn of(secret: &[u8]) -> Self {
        let id = Sha256::new().chain_update(b"kid").chain_update(secret).finalize();
        let id = hex::encode(id).chars().take(16).collect();
        Key { id, decoding: DecodingKey::from_secret(secret) }
    }
}

/// Issues and reads session tokens.
pub struct Sessions {
    encoding: EncodingKey,
    /// The one that signs first; then those that did before it.
    keys: Vec<Key>,
    validation: Validation,
    challenges: Validation,
    lifetime_seconds: i64,
}

impl Sessions {
    /// Signs tokens with `secret`, valid for `lifetime` seconds; also accepts tokens signed by
    /// `previous`.
    #[must_use]
    pub fn new(secret: &[u8], previous: &[Vec<u8>], lifetime_seconds: u32) -> Self {
        let validation = |audience| {
            let mut validation = Validation::new(Algorithm::HS256);
            validation.set_issuer(&[ISSUER]);
            validation.set_audience(&[audience]);
            validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
            // Checked below, against the server's clock and without leeway.
            validation.validate_exp = false;
            validation
        };
        let previous = previous.iter().map(|secret| Key::of(secret));
        Sessions {
            encoding: EncodingKey::from_secret(secret),
            keys: std::iter::once(Key::of(secret)).chain(previous).collect(),
            validation: validation(AUDIENCE),
            challenges: validation(CHALLENGE_AUDIENCE),
            lifetime_seconds: i64::from(lifetime_seconds),
        }
    }

    /// A token for the session of an authenticated user, and when it ends: with the session, if
    /// that is earlier. `None` if it cannot be signed.
    #[must_use]
    pub fn issue(
        &self,
        session: Session,
        now: Timestamp,
        session_ends: Timestamp,
    ) -> Option<(String, Timestamp)> {
        let ends = now.plus_micros(self.lifetime_seconds.saturating_mul(1_000_000));
        let ends = ends.min(session_ends);
        let claims = Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: session.user.to_string(),
            iat: now.seconds(),
            exp: ends.seconds(),
            jti: Uuid::new_v4().to_string(),
            typ: KIND.into(),
            sid: session.id.to_string(),
        };
        Some((self.sign(&claims)?, ends))
    }

    fn sign(&self, claims: &impl Serialize) -> Option<String> {
        let kid = self.keys.first().map(|key| key.id.clone());
        let header = Header { kid, ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, claims, &self.encoding).ok()
    }

    /// A challenge for a user who gave the right password, and when it expires. `None` if it cannot
    /// be signed.
    #[must_use]
    pub fn challenge(&self, challenge: Challenge, now: Timestamp) -> Option<(String, Timestamp)> {
        let claims = ChallengeClaims {
            iss: ISSUER.into(),
            aud: CHALLENGE_AUDIENCE.into(),
            sub: challenge.user.to_string(),
            exp: now.seconds().saturating_add(CHALLENGE_SECONDS),
            typ: CHALLENGE_KIND.into(),
            version: challenge.version,
        };
        Some((self.sign(&claims)?, Timestamp::from_micros(claims.exp.saturating_mul(1_000_000))))
    }

    /// Reads a challenge that is good.
    #[must_use]
    pub fn read_challenge(&self, token: &str, now: Timestamp) -> Option<Challenge> {
        let claims: ChallengeClaims = self.decode(token, &self.challenges)?;
        let is_good = claims.typ == CHALLENGE_KIND && claims.exp > now.seconds();
        let user = claims.sub.parse().ok().filter(|_| is_good)?;
        Some(Challenge { user, version: claims.version })
    }

    fn decode<C: for<'de> Deserialize<'de> + Clone>(
        &self,
        token: &str,
        validation: &Validation,
    ) -> Option<C> {
        let kid = jsonwebtoken::decode_header(token).ok()?.kid?;
        let key = self.keys.iter().find(|key| key.id == kid)?;
        Some(jsonwebtoken::decode(token, &key.decoding, validation).ok()?.claims)
    }

    /// Reads a token.
    pub fn read(&self, token: &str, now: Timestamp) -> Result<Session, SessionError> {
        let claims: Claims = self.decode(token, &self.validation).ok_or(SessionError::Invalid)?;
        if claims.typ != KIND {
            return Err(SessionError::Invalid);
        }
        if claims.exp <= now.seconds() {
            return Err(SessionError::Expired);
        }
        let user = claims.sub.parse().map_err(|_| SessionError::Invalid)?;
        let id = claims.sid.parse().map_err(|_| SessionError::Invalid)?;
        Ok(Session { id, user })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_705_320_000_000_000);
    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const OTHER: &[u8] = b"fedcba9876543210fedcba9876543210";

    fn session() -> Session {
        Session { id: SessionId(Uuid::from_u128(9)), user: UserId(Uuid::from_u128(7)) }
    }

    fn sessions() -> Sessions {
        Sessions::new(SECRET, &[], 60)
    }

    /// A token of a session that lasts longer.
    fn issue(sessions: &Sessions) -> String {
        sessions.issue(session(), NOW, NOW.plus_micros(3_600_000_000)).unwrap().0
    }

    #[test]
    fn a_token_ends_with_its_session() {
        let sessions = sessions();
        let end = NOW.plus_micros(5_000_000);
        let (token, ends) = sessions.issue(session(), NOW, end).unwrap();
        assert_eq!(ends, end);
        assert_eq!(sessions.read(&token, NOW.plus_micros(4_000_000)), Ok(session()));
        assert_eq!(sessions.read(&token, end), Err(SessionError::Expired));
    }

    #[test]
    fn a_token_is_good_until_its_time_is_over() {
        let sessions = sessions();
        let token = issue(&sessions);
        assert_eq!(sessions.read(&token, NOW.plus_micros(59_000_000)), Ok(session()));
        assert_eq!(sessions.read(&token, NOW.plus_micros(60_000_000)), Err(SessionError::Expired));
    }

    #[test]
    fn a_secret_can_be_replaced_without_ending_a_session() {
        let token = issue(&sessions());
        let rotated = Sessions::new(OTHER, &[SECRET.to_vec()], 60);
        assert_eq!(rotated.read(&token, NOW), Ok(session()));
        let new = issue(&rotated);
        assert_eq!(rotated.read(&new, NOW), Ok(session()));
        // Without the old secret only tokens signed by the new one are valid.
        let later = Sessions::new(OTHER, &[], 60);
        assert_eq!(later.read(&token, NOW), Err(SessionError::Invalid));
        assert_eq!(later.read(&new, NOW), Ok(session()));
        assert_eq!(sessions().read(&new, NOW), Err(SessionError::Invalid));
    }

    #[test]
    fn refresh_tokens_differ_and_are_stored_by_their_digest() {
        let (one, two) = (RefreshToken::new(), RefreshToken::new());
        assert_ne!(one.expose(), two.expose());
        assert_eq!(one.digests().token, digest(one.expose()));
        assert_ne!(one.digests().family, two.digests().family);
        assert_eq!(one.expose().len(), FAMILY_LEN + 43);
        let read = RefreshToken::read(one.expose()).unwrap();
        assert_eq!(read.digests(), one.digests());
        let next = read.next();
        assert_eq!(next.digests().family, one.digests().family);
        assert_ne!(next.digests().token, one.digests().token);
        assert_eq!(next.expose().len(), one.expose().len());
        for wrong in ["", "psr_", "psr_x", &one.expose()[1..], &one.expose()[..FAMILY_LEN]] {
            assert!(RefreshToken::read(wrong).is_none(), "{wrong}");
        }
        assert!(RefreshToken::read(&format!("psr_{}", "\u{e4}".repeat(30))).is_some());
        assert!(RefreshToken::read(&format!("psr_x{}", "\u{e4}".repeat(30))).is_none());
    }

    fn claims() -> Value {
        json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": session().user.to_string(), "iat": NOW.seconds(),
            "exp": NOW.seconds() + 60, "jti": "x", "typ": KIND, "sid": session().id.to_string(),
        })
    }

    #[test]
    fn a_challenge_is_no_session_and_a_session_no_challenge() {
        let sessions = sessions();
        let challenge = Challenge { user: session().user, version: 3 };
        let (token, until) = sessions.challenge(challenge, NOW).unwrap();
        assert_eq!(sessions.read_challenge(&token, NOW), Some(challenge));
        assert_eq!(sessions.read_challenge(&token, until), None);
        assert_eq!(sessions.read(&token, NOW), Err(SessionError::Invalid));
        let session = issue(&sessions);
        assert_eq!(sessions.read_challenge(&session, NOW), None);
    }

    fn header() -> Value {
        json!({ "alg": "HS256", "typ": "JWT", "kid": Key::of(SECRET).id })
    }

    fn encoded(text: &str) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
    }

    /// As the real one is made, but of any text.
    fn signed(header: &str, claims: &str, secret: &[u8], algorithm: Algorithm) -> String {
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let key = EncodingKey::from_secret(secret);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
        format!("{message}.{signature}")
    }

    /// Wrong values for each claim and each part of the header.
    fn twisted(right: &Value) -> Vec<Value> {
        let text = right.as_str().unwrap_or("1");
        vec![
            json!(null),
            json!(true),
            json!(0),
            json!(-1),
            json!(1e300),
            json!(""),
            json!(" "),
            json!("none"),
            json!([right]),
            json!([]),
            json!({}),
            json!({ "value": right }),
            json!(format!("{text} ")),
            json!(format!(" {text}")),
            json!(format!("{text}\u{0}")),
            json!(text.to_uppercase()),
            json!(format!("{text}x")),
            json!("../../../../dev/null"),
            json!("' OR 1=1 --"),
            json!("https://example.com/jwks.json"),
        ]
    }

    /// More than 500 forged and twisted tokens (RFC 8725).
    #[expect(clippy::too_many_lines, reason = "one list of what is tried")]
    fn forgeries() -> Vec<String> {
        let (head, body) = (header().to_string(), claims().to_string());
        let hs256 = |head: &str, body: &str| signed(head, body, SECRET, Algorithm::HS256);
        let good = hs256(&head, &body);
        let mut forged: Vec<String> = Vec::new();
        // Unsigned tokens, and tokens signed by any other algorithm.
        for algorithm in [
            "none", "None", "NONE", "nOnE", "", "hs256", "HS256 ", "HS384", "HS512", "RS256",
            "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
            "Ed25519", "dir", "A256GCM", "HS2560", "SHA256",
        ] {
            let mut head = header();
            head["alg"] = json!(algorithm);
            let head = head.to_string();
            forged.push(format!("{}.{}.", encoded(&head), encoded(&body)));
            forged.push(format!("{}.{}", encoded(&head), encoded(&body)));
            forged.push(hs256(&head, &body));
        }
        for algorithm in [Algorithm::HS384, Algorithm::HS512] {
            for name in ["HS256", "HS384", "HS512"] {
                let mut head = header();
                head["alg"] = json!(name);
                forged.push(signed(&head.to_string(), &body, SECRET, algorithm));
            }
        }
        // Other secrets.
        for secret in [&b""[..], b"0", b"secret", OTHER, &SECRET[1..], &[0; 32], &[0; 64]] {
            forged.push(signed(&head, &body, secret, Algorithm::HS256));
        }
        forged.push(signed(&head, &body, Key::of(SECRET).id.as_bytes(), Algorithm::HS256));
        // Each part of the header, and each claim, as something else, or not there.
        for name in ["alg", "kid"] {
            for value in
                twisted(&header()[name]).into_iter().filter(|value| *value != header()[name])
            {
                let mut head = header();
                head[name] = value;
                forged.push(hs256(&head.to_string(), &body));
            }
            let mut head = header();
            head.as_object_mut().unwrap().remove(name);
            forged.push(hs256(&head.to_string(), &body));
        }
        for name in ["iss", "aud", "sub", "typ", "sid"] {
            for value in twisted(&claims()[name]) {
                // A list with the right audience in it is that audience (RFC 7519, 4.1.3).
                if name == "aud" && value == json!([AUDIENCE]) {
                    continue;
                }
                let mut body = claims();
                body[name] = value;
                forged.push(hs256(&head, &body.to_string()));
            }
        }
        for name in ["iss", "aud", "sub", "iat", "exp", "jti", "typ", "sid"] {
            let mut body = claims();
            body.as_object_mut().unwrap().remove(name);
            forged.push(hs256(&head, &body.to_string()));
            // Twice, the first or the second being right.
            let first = format!("{{\"{name}\": \"x\", {}", &claims().to_string()[1..]);
            forged.push(hs256(&head, &first));
            let second = claims().to_string();
            let right = claims()[name].to_string();
            forged.push(hs256(
                &head,
                &format!("{}, \"{name}\": {right}}}", &second[..second.len() - 1]),
            ));
        }
        for expired in [0, -1, NOW.seconds(), NOW.seconds() - 1, i64::MIN] {
            let mut body = claims();
            body["exp"] = json!(expired);
            forged.push(hs256(&head, &body.to_string()));
        }
        for (name, value) in [
            ("typ", "refresh"),
            ("typ", "access"),
            ("typ", "reset"),
            ("aud", "polysystems"),
            ("iss", "polysystems-api"),
            ("sub", "key-00000000-0000-0000-0000-000000000007"),
            ("sub", "00000000-0000-0000-0000-000000000007"),
            ("sid", "user-00000000-0000-0000-0000-000000000009"),
        ] {
            let mut body = claims();
            body[name] = json!(value);
            forged.push(hs256(&head, &body.to_string()));
        }
        // The signature, bit by bit; cut, lengthened, moved.
        let (message, signature) = good.rsplit_once('.').unwrap();
        let symbols = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        for place in 0..signature.len() {
            for step in [1, 2, 4, 17, 32] {
                let mut other = signature.as_bytes().to_vec();
                let symbol = symbols.iter().position(|symbol| *symbol == other[place]).unwrap();
                other[place] = symbols[(symbol + step) % symbols.len()];
                forged.push(format!("{message}.{}", String::from_utf8(other).unwrap()));
            }
        }
        for length in 0..signature.len() {
            forged.push(format!("{message}.{}", &signature[..length]));
        }
        for end in ["A", "=", "==", ".", ".x", " ", "\n", "\0"] {
            forged.push(format!("{good}{end}"));
            forged.push(format!("{end}{good}"));
        }
        let parts: Vec<&str> = good.split('.').collect();
        forged.push(format!("{}.{}.{}", parts[1], parts[0], parts[2]));
        forged.push(format!("{}..{}", parts[0], parts[2]));
        forged.push(format!(".{}.{}", parts[1], parts[2]));
        forged.extend(["", ".", "..", "...", "a.b.c", "null", "Bearer", "{}"].map(str::to_owned));
        // Keys brought along by the token.
        for name in ["jwk", "jku", "x5u", "x5c", "crit"] {
            let mut head = header();
            head[name] = json!("https://example.com/key");
            forged.push(signed(&head.to_string(), &body, OTHER, Algorithm::HS256));
        }
        forged
    }

    #[test]
    fn forgeries_are_refused() {
        let sessions =
            Sessions::new(SECRET, &[b"an older secret, of which nobody knows".to_vec()], 60);
        let good = signed(&header().to_string(), &claims().to_string(), SECRET, Algorithm::HS256);
        assert_eq!(sessions.read(&good, NOW), Ok(session()));
        let forged = forgeries();
        assert!(forged.len() >= 500, "{}", forged.len());
        for token in forged {
            assert!(sessions.read(&token, NOW).is_err(), "{token}");
        }
    }
}
