//! The second factor: time-based codes (TOTP, RFC 6238), and recovery codes for users who lost
//! their authenticator.
//!
//! Each code works once. A time-based code works in its own step of 30 seconds and in the one
//! before and after it; the last used step is recorded, and only a later one works. Secrets are
//! stored encrypted.

use qrcode::QrCode;
use qrcode::render::svg;
use rand::RngExt as _;
use totp_rs::{Builder, Secret, Totp};

use super::cookie::SessionCookie;
use super::email::PREFIX;
use super::session::{digest, random_token};
use super::sessions::{CurrentSession, LoggedIn, SessionKind};
use super::users::{Device, Users, UsersError};
use crate::seal::Seal;
use crate::store::users::{CodeDigest, Enabling, NewCodes, NewSecondFactor, TokenPurpose, User};
use domain::{Act, ActKind, Actor, Origin, Timestamp, UserId};

/// The purpose of the encryption key. A change of this text makes every stored secret unreadable.
pub const PURPOSE: &str = "polysystems: sealing key of second factors, 1";
/// The issuer that an authenticator shows.
const ISSUER: &str = "Polysystems";
/// Recovery codes of a user.
pub const CODES: usize = 10;
/// Characters of a recovery code: 120 random bits, so that a plain digest is enough (ASVS 5,
/// 6.5.2).
const CODE_LEN: usize = 24;
/// The alphabet of recovery codes, without characters that look alike.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// How long a token lasts with which an operator may set a second factor up, in microseconds.
const ENROLMENT_MICROS: i64 = 3_600_000_000;

/// A token with which an operator may set a second factor up, once. Shown once.
pub struct EnrolmentToken {
    /// The token.
    pub token: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What an authenticator needs. Shown once.
pub struct Enrolment {
    /// The secret, in Base32.
    pub secret: String,
    /// The same as an `otpauth:` URL.
    pub url: String,
    /// The URL as a QR code, in SVG.
    pub qr_code: String,
}

/// A new recovery code.
#[must_use]
pub fn recovery_code() -> String {
    let mut random = rand::rng();
    let mut code = String::new();
    for place in 0..CODE_LEN {
        if place > 0 && place % 4 == 0 {
            code.push('-');
        }
        let symbol = random.random_range(0..ALPHABET.len());
        code.extend(ALPHABET.get(symbol).map(|byte| char::from(*byte)));
    }
    code
}

/// The one spelling of a recovery code: its letters and digits, whatever people put between them.
fn plain(code: &str) -> Option<String> {
    let plain: String =
        code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    (plain.len() == CODE_LEN).then_some(plain)
}

/// The digest under which a recovery code is stored.
#[must_use]
pub fn code_digest(seal: &Seal, user: UserId, code: &str) -> Option<CodeDigest> {
    Some(seal.digest(&plain(code)?, user.0.as_bytes()))
}

/// The digests under which a recovery code may be stored: by the current pepper, and by the
/// previous one.
fn code_digests(seal: &Seal, user: UserId, code: &str) -> Option<Vec<CodeDigest>> {
    let code = plain(code)?;
    Some(seal.digests(&code, user.0.as_bytes()).collect())
}

fn totp(secret: &[u8], account_name: &str) -> Result<Totp, UsersError> {
    // A colon would end the name.
    let name = account_name.replace(':', "_");
    Builder::new()
        .with_secret(Secret::from(secret.to_vec()))
        .with_account_name(name)
        .with_issuer(Some(ISSUER))
        .build()
        .map_err(|_| UsersError::Unsealed)
}

/// The step that a code is good for, now.
fn step_of(totp: &Totp, code: &str, now: Timestamp) -> Option<i64> {
    let seconds = u64::try_from(now.seconds()).ok()?;
    let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    let step = totp.check(&code, seconds)?;
    i64::try_from(step).ok()
}

impl Users {
    /// How many recovery codes a user has left.
    pub async fn recovery_codes_left(&self, user: UserId) -> Result<u64, UsersError> {
        Ok(self.store.count_recovery_codes(user).await?)
    }

    /// May this operator use what is for operators alone?
    ///
    /// # Errors
    /// [`UsersError::OperatorWithoutSecondFactor`]
    pub fn assert_operators_factor(&self, operator: &User) -> Result<(), UsersError> {
        if self.operators_need_second_factor && !operator.has_two_factor() {
            return Err(UsersError::OperatorWithoutSecondFactor);
        }
        Ok(())
    }

    fn opened(&self, user: &User) -> Result<Option<Totp>, UsersError> {
        let Some(factor) = &user.second_factor else { return Ok(None) };
        let secret = self.seal.open(&factor.sealed, user.id.0.as_bytes());
        totp(&secret.ok_or(UsersError::Unsealed)?, &user.email).map(Some)
    }

    /// Begins to set up a second factor. Logins ask for it after [`Users::confirm_second_factor`].
    ///
    /// # Errors
    /// As of a proof, or [`UsersError::HasSecondFactor`].
    pub async fn begin_second_factor(
        &self,
        current: &CurrentSession,
        password: Option<String>,
        device: &Device,
    ) -> Result<Enrolment, UsersError> {
        let user = &current.user;
        self.assert_proof(current, password, device).await?;
        if user.has_two_factor() {
            return Err(UsersError::HasSecondFactor);
        }
        let secret = Secret::generate();
        let totp = totp(secret.as_bytes(), &user.email)?;
        let url = totp.to_url().map_err(|_| UsersError::Unsealed)?;
        let sealed = self.seal.seal(secret.as_bytes().to_vec(), user.id.0.as_bytes());
        let sealed = sealed.ok_or(UsersError::Unsealed)?;
        if !self.store.insert_second_factor(user.id, sealed).await? {
            return Err(UsersError::HasSecondFactor);
        }
        let qr_code = QrCode::new(&url).map_err(|_| UsersError::Unsealed)?;
        let qr_code = qr_code.render::<svg::Color<'_>>().min_dimensions(240, 240).build();
        Ok(Enrolment { secret: secret.to_base32(), url, qr_code })
    }

    /// Switches the second factor on, once its owner has proved by a code that they have it. Ends
    /// the user's other sessions, since they began without it; the cookie of this one is replaced.
    /// Answers the recovery codes, which are shown this once.
    ///
    /// The password of an operator is not enough: somebody who has it could set up a factor of
    /// their own. An operator needs a token of [`Users::make_enrolment_token`] too.
    ///
    /// # Errors
    /// [`UsersError::WrongCode`], [`UsersError::HasSecondFactor`], [`UsersError::NoSecondFactor`],
    /// or [`UsersError::NoEnrolmentToken`].
    pub async fn confirm_second_factor(
        &self,
        current: &CurrentSession,
        code: &str,
        token: Option<&str>,
        device: &Device,
    ) -> Result<(Vec<String>, Option<SessionCookie>), UsersError> {
        let CurrentSession { user, session, kind, .. } = current;
        let factor = user.second_factor.as_ref().ok_or(UsersError::NoSecondFactor)?;
        if factor.is_enabled {
            return Err(UsersError::HasSecondFactor);
        }
        self.count_code(user.id, device).await?;
        let totp = self.opened(user)?.ok_or(UsersError::NoSecondFactor)?;
        let step = step_of(&totp, code, self.clock.now()).ok_or(UsersError::WrongCode)?;
        let (codes, new) = self.codes(user.id);
        let act = self.act(user.id, device, ActKind::TwoFactorEnabled);
        let enabled = NewSecondFactor { sealed: factor.sealed.clone(), step, codes: new };
        let cookie = (*kind == SessionKind::Cookie).then(|| self.cookies.make());
        let kept = (*session, cookie.as_ref().map(SessionCookie::digest));
        let token = token.map(digest);
        match self.store.enable_second_factor(user.id, kept, enabled, token, act).await? {
            Enabling::Enabled => {}
            Enabling::Changed => return Err(UsersError::HasSecondFactor),
            Enabling::NoToken => return Err(UsersError::NoEnrolmentToken),
        }
        self.tell_of_factor(user, device);
        Ok((codes, cookie))
    }

    /// Makes a token with which an operator may set a second factor up, from the command line. It
    /// ends those from before.
    pub async fn make_enrolment_token(&self, user: &User) -> Result<EnrolmentToken, UsersError> {
        let act = self.act_of_command(user, ActKind::EnrolmentTokenMade);
        let expires_at = act.at.plus_micros(ENROLMENT_MICROS);
        // Recorded first: a record without a token is better than a token without a record.
        self.audit_log.record(act).await?;
        let token = random_token(PREFIX);
        let (purpose, digest) = (TokenPurpose::Enrolment, digest(&token));
        self.store.insert_email_token(user, purpose, digest, expires_at, None).await?;
        Ok(EnrolmentToken { token, expires_at })
    }

    /// Something that is done to a user from the command line, now.
    fn act_of_command(&self, user: &User, kind: ActKind) -> Act {
        let origin = Origin::local(Actor::CommandLine);
        origin.act(uuid::Uuid::now_v7(), user.id, kind, self.clock.now())
    }

    fn codes(&self, user: UserId) -> (Vec<String>, NewCodes) {
        let codes: Vec<String> = (0..CODES).map(|_| recovery_code()).collect();
        let digests = codes.iter().filter_map(|code| code_digest(&self.seal, user, code));
        let new = NewCodes { digests: digests.collect(), pepper: self.seal.id() };
        (codes, new)
    }

    /// The second step of a login: a code for the challenge that the first one answered.
    ///
    /// # Errors
    /// [`UsersError::InvalidChallenge`], [`UsersError::WrongCode`], or
    /// [`UsersError::TooManyAttempts`].
    pub async fn log_in_by_code(
        &self,
        challenge: &str,
        code: &str,
        device: Device,
        kind: SessionKind,
    ) -> Result<LoggedIn, UsersError> {
        let read = self.sessions.read_challenge(challenge, self.clock.now());
        let challenge = read.ok_or(UsersError::InvalidChallenge)?;
        let user = self.store.find(challenge.user).await?;
        // A new password invalidates challenges of the old one.
        let user = user.filter(|user| user.token_version == challenge.version);
        let user = user.ok_or(UsersError::InvalidChallenge)?;
        self.use_code(&user, code, &device).await?;
        self.enter(user, device, kind, true).await
    }

    /// Uses up a code by time or a recovery code.
    ///
    /// # Errors
    /// [`UsersError::WrongCode`], or [`UsersError::TooManyAttempts`].
    pub(super) async fn use_code(
        &self,
        user: &User,
        code: &str,
        device: &Device,
    ) -> Result<(), UsersError> {
        if !user.has_two_factor() {
            return Err(UsersError::NoSecondFactor);
        }
        self.count_code(user.id, device).await?;
        let (number, day) = self.count_days_code(user.id).await?;
        let is_good = if let Some(digests) = code_digests(&self.seal, user.id, code) {
            let act = self.act(user.id, device, ActKind::RecoveryCodeUsed);
            self.store.use_recovery_code(user.id, digests, act).await?
        } else {
            let totp = self.opened(user)?.ok_or(UsersError::NoSecondFactor)?;
            match step_of(&totp, code, self.clock.now()) {
                Some(step) => self.store.use_totp_step(user.id, step).await?,
                None => false,
            }
        };
        if is_good {
            if let Err(error) = self.store.uncount_code(user.id, day).await {
                tracing::warn!(%error, "a right code counts as a wrong one");
            }
            return Ok(());
        }
        self.tell_of_wrong_codes(user, number);
        let act = self.act(user.id, device, ActKind::LoginFailed).with("wrong code");
        self.audit_log.record_later(act);
        Err(UsersError::WrongCode)
    }

    /// Replaces all recovery codes.
    ///
    /// # Errors
    /// As of a proof, or as of a code.
    pub async fn new_recovery_codes(
        &self,
        current: &CurrentSession,
        password: Option<String>,
        code: &str,
        device: &Device,
    ) -> Result<Vec<String>, UsersError> {
        let user = &current.user;
        self.assert_proof(current, password, device).await?;
        self.use_code_in(current, code, device).await?;
        let (codes, new) = self.codes(user.id);
        let act = self.act(user.id, device, ActKind::RecoveryCodesMade);
        self.store.replace_recovery_codes(user.id, new, act).await?;
        self.tell_of_recovery_codes(user, device);
        Ok(codes)
    }

    /// Switches the second factor off.
    ///
    /// # Errors
    /// As of a proof, or as of a code.
    pub async fn disable_second_factor(
        &self,
        current: &CurrentSession,
        password: Option<String>,
        code: &str,
        device: &Device,
    ) -> Result<(), UsersError> {
        let user = &current.user;
        self.assert_proof(current, password, device).await?;
        self.use_code_in(current, code, device).await?;
        let act = self.act(user.id, device, ActKind::TwoFactorDisabled);
        self.store.delete_second_factor(user.id, act).await?;
        self.tell_of_lost_factor(user);
        Ok(())
    }

    /// Switches a user's second factor off from the command line, if they lost it and all recovery
    /// codes.
    pub async fn disable_second_factor_of(&self, user: &User) -> Result<(), UsersError> {
        let act = self.act_of_command(user, ActKind::TwoFactorDisabled);
        Ok(self.store.delete_second_factor(user.id, act).await?)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::seal::Secrets;

    #[test]
    fn a_recovery_code_is_read_however_it_is_written() {
        let seal =
            Seal::new(&Secrets { current: b"secret".to_vec(), previous: None }, PURPOSE).unwrap();
        let user = UserId(Uuid::from_u128(1));
        let code = recovery_code();
        assert_eq!(code.len(), CODE_LEN + 5);
        let digest = code_digest(&seal, user, &code).unwrap();
        for same in [code.to_uppercase(), code.replace('-', " "), code.replace('-', "")] {
            assert_eq!(code_digest(&seal, user, &same), Some(digest));
        }
        assert_ne!(recovery_code(), code);
        let other = UserId(Uuid::from_u128(2));
        assert_ne!(code_digest(&seal, other, &code), Some(digest));
        assert_eq!(code_digest(&seal, user, "123456"), None);
    }

    /// RFC 6238, appendix B: SHA-1, of which six digits are used here.
    #[test]
    fn codes_are_those_of_the_standard() {
        let totp = totp(b"12345678901234567890", "a:b@example.com").unwrap();
        for (seconds, code) in
            [(59, "287082"), (1_111_111_109, "081804"), (1_234_567_890, "005924")]
        {
            let at = |late: i64| Timestamp::from_micros((seconds + late) * 1_000_000);
            let step = seconds / 30;
            assert_eq!(step_of(&totp, code, at(0)), Some(step));
            assert_eq!(step_of(&totp, &code.replace('0', "0 "), at(30)), Some(step));
            assert_eq!(step_of(&totp, code, at(90)), None);
            assert_eq!(step_of(&totp, "", at(0)), None);
        }
        assert!(totp.to_url().unwrap().starts_with("otpauth://totp/Polysystems:a_b"));
    }
}
