//! How sessions begin, go on and end. A session has one credential: a refresh token, which renews
//! session tokens, or the cookie of a browser. Both are rows of one table, listed and ended alike.

use uuid::Uuid;

use super::cookie::SessionCookie;
use super::session::{RefreshToken, Session, SessionError};
use super::users::{Device, SessionBounds, Users, UsersError};
use crate::store::users::{
    NewSession, Refreshed, Renewal, Role, SessionCredential, SessionFound, SessionListing,
    SessionSpan, User,
};
use domain::{ActKind, Actor, SessionId, Timestamp, UserId};

/// How often the use of a cookie is recorded, in microseconds: its session ends so much earlier at
/// most than its last use says.
const USE_MICROS: i64 = 300_000_000;

/// What a session is used with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// Session tokens, and refresh tokens that renew them.
    Token,
    /// The cookie of a browser.
    Cookie,
}

/// The credential of a new session, for its user alone.
pub enum Issued {
    /// For programs.
    Tokens {
        /// The session token.
        token: String,
        /// When the session token ends.
        expires_at: Timestamp,
        /// Renews the session, once.
        refresh_token: RefreshToken,
    },
    /// For a browser.
    Cookie(SessionCookie),
}

/// A user who has just logged in.
pub struct LoggedIn {
    /// The user.
    pub user: User,
    /// The session.
    pub session: SessionId,
    /// When the session ends, unless it is renewed or its cookie used.
    pub session_expires_at: Timestamp,
    /// What they use it with.
    pub issued: Issued,
}

/// A new credential before its session is stored.
enum Made {
    Refresh(RefreshToken),
    Cookie(SessionCookie),
}

/// An authenticated user and their session.
#[derive(Clone, Debug)]
pub struct CurrentSession {
    /// The user.
    pub user: User,
    /// Their session.
    pub session: SessionId,
    /// When they last proved who they are in it.
    pub confirmed_at: Timestamp,
    /// What they use it with.
    pub kind: SessionKind,
}

/// A session that is not stored yet, and its credential.
pub(super) struct Beginning {
    /// The row.
    pub(super) row: NewSession,
    made: Made,
}

impl Users {
    /// Begins a session of an operator from the command line, which has the server's secrets and
    /// its database. Answers it with its token.
    pub async fn log_in_by_command(
        &self,
        user: User,
        device: Device,
    ) -> Result<(SessionId, String), UsersError> {
        let logged_in = self.begin_session(user, device, SessionKind::Token, true).await?;
        match logged_in.issued {
            Issued::Tokens { token, .. } => Ok((logged_in.session, token)),
            Issued::Cookie(_) => Err(UsersError::Unsigned),
        }
    }

    /// Begins a session of an authenticated user. `has_given_code` says whether they gave a second
    /// factor.
    pub(super) async fn begin_session(
        &self,
        user: User,
        device: Device,
        kind: SessionKind,
        has_given_code: bool,
    ) -> Result<LoggedIn, UsersError> {
        let version = user.token_version;
        let act = self.act(user.id, &device, ActKind::LoggedIn);
        let beginning = self.new_session(&user, device, kind);
        let (row, logged_in) = self.logged_in(user, beginning)?;
        let act = act.to(row.id.to_string());
        // While this was checked another password may have been set, or a second factor.
        if !self.store.insert_session(row, version, has_given_code, act).await? {
            return Err(UsersError::WrongCredentials);
        }
        Ok(logged_in)
    }

    pub(super) fn new_session(&self, user: &User, device: Device, kind: SessionKind) -> Beginning {
        let (made, credential) = match kind {
            SessionKind::Token => {
                let token = RefreshToken::new();
                let digests = token.digests();
                (Made::Refresh(token), SessionCredential::Refresh(digests))
            }
            SessionKind::Cookie => {
                let cookie = self.cookies.make();
                let digest = cookie.digest();
                (Made::Cookie(cookie), SessionCredential::Cookie(digest))
            }
        };
        let (at, Device { address, agent, is_place }) = (self.clock.now(), device);
        let row = NewSession {
            id: SessionId(Uuid::new_v4()),
            user: user.id,
            at,
            expires_at: self.span_of(user.role, kind).end(at, at),
            address: address.to_string(),
            login_address: if is_place { address.to_string() } else { String::new() },
            agent,
            credential,
            sessions_max: self.session_bounds.sessions_max,
        };
        Beginning { row, made }
    }

    /// How long a session lasts.
    fn span_of(&self, role: Role, kind: SessionKind) -> SessionSpan {
        let SessionBounds { span, operator_idle_micros, .. } = self.session_bounds;
        match (role, kind) {
            (Role::Admin, SessionKind::Cookie) => {
                SessionSpan { idle_micros: operator_idle_micros.min(span.idle_micros), ..span }
            }
            _ => span,
        }
    }

    /// The session to store, and what its user is given.
    pub(super) fn logged_in(
        &self,
        user: User,
        Beginning { row, made }: Beginning,
    ) -> Result<(NewSession, LoggedIn), UsersError> {
        let (session, session_expires_at) = (row.id, row.expires_at);
        let issued = match made {
            Made::Refresh(token) => self.tokens(user.id, session, session_expires_at, token)?,
            Made::Cookie(cookie) => Issued::Cookie(cookie),
        };
        Ok((row, LoggedIn { user, session, session_expires_at, issued }))
    }

    fn tokens(
        &self,
        user: UserId,
        id: SessionId,
        ends: Timestamp,
        refresh_token: RefreshToken,
    ) -> Result<Issued, UsersError> {
        let issued = self.sessions.issue(Session { id, user }, self.clock.now(), ends);
        let (token, expires_at) = issued.ok_or(UsersError::Unsigned)?;
        Ok(Issued::Tokens { token, expires_at, refresh_token })
    }

    /// Renews a session by its refresh token, which works once. A second use ends the session,
    /// because one of its two users must have stolen it.
    pub async fn refresh(&self, token: &str, device: Device) -> Result<LoggedIn, UsersError> {
        let used = RefreshToken::read(token).ok_or(UsersError::InvalidRefresh)?;
        let now = self.clock.now();
        // What renews nothing never waits for a write.
        let found = self.store.find_by_refresh_token(used.digests(), now).await?;
        let found = found.ok_or(UsersError::InvalidRefresh)?;
        if found.is_good {
            self.throttle.try_renewal(found.session)?;
        }
        let next = used.next();
        let span = self.session_bounds.span;
        // The token names the user.
        let from = device.origin(Actor::Server);
        let renewing = self.store.refresh_session(used.digests(), next.digests(), now, span, from);
        match renewing.await? {
            Refreshed::Renewed(renewal) => {
                let Renewal { user, session, until: session_expires_at, address_before } = *renewal;
                self.tell_of_use(&user, &address_before, "renewed", &device).await;
                let issued = self.tokens(user.id, session, session_expires_at, next)?;
                Ok(LoggedIn { user, session, session_expires_at, issued })
            }
            Refreshed::Reused(user, session) => {
                tracing::warn!(%user, %session, "a refresh token came twice; its session has ended");
                Err(UsersError::InvalidRefresh)
            }
            Refreshed::Unknown => Err(UsersError::InvalidRefresh),
        }
    }

    /// Ends one of the user's sessions, for the very next request.
    pub async fn log_out(
        &self,
        user: UserId,
        session: SessionId,
        device: &Device,
    ) -> Result<(), UsersError> {
        let act = self.act(user, device, ActKind::SessionEnded).to(session.to_string());
        let is_ended = self.store.end_session(user, session, act).await?;
        if is_ended { Ok(()) } else { Err(UsersError::NoSession) }
    }

    /// Ends all of the user's sessions, for the very next request; how many?
    pub async fn log_out_everywhere(
        &self,
        user: UserId,
        device: &Device,
    ) -> Result<u64, UsersError> {
        let act = self.act(user, device, ActKind::SessionsEnded);
        Ok(self.store.end_sessions(user, act).await?)
    }

    /// The user's sessions, the last used one first.
    pub async fn sessions_of(&self, user: UserId) -> Result<Vec<SessionListing>, UsersError> {
        Ok(self.store.list_sessions(user, self.clock.now()).await?)
    }

    /// The session that a token names, which may have ended since.
    ///
    /// # Errors
    /// [`UsersError::InvalidSession`] or [`UsersError::ExpiredSession`]
    pub fn read_session(&self, token: &str) -> Result<Session, UsersError> {
        self.sessions.read(token, self.clock.now()).map_err(|error| match error {
            SessionError::Invalid => UsersError::InvalidSession,
            SessionError::Expired => UsersError::ExpiredSession,
        })
    }

    /// Whose session it is.
    ///
    /// # Errors
    /// [`UsersError::InvalidSession`] if it has ended.
    pub async fn authenticate(&self, session: Session) -> Result<CurrentSession, UsersError> {
        let Session { id, user } = session;
        let found = self.store.find_by_session(id, self.clock.now()).await?;
        let found = found.filter(|found| found.0.id == user);
        let (user, confirmed_at) = found.ok_or(UsersError::InvalidSession)?;
        Ok(CurrentSession { user, session: id, confirmed_at, kind: SessionKind::Token })
    }

    /// Whose session a cookie is of. Moves its end, since it is used.
    ///
    /// # Errors
    /// [`UsersError::InvalidSession`] if it has ended.
    pub async fn authenticate_by_cookie(
        &self,
        cookie: &SessionCookie,
        device: &Device,
    ) -> Result<CurrentSession, UsersError> {
        let now = self.clock.now();
        let found = self.store.find_by_cookie(cookie.digest(), now).await?;
        let SessionFound { user, session, confirmed_at, created_at, last_used_at, address } =
            found.ok_or(UsersError::InvalidSession)?;
        let until = self.span_of(user.role, SessionKind::Cookie).end(created_at, now);
        // The setting may be shorter than it was.
        if until <= now {
            return Err(UsersError::InvalidSession);
        }
        if last_used_at.plus_micros(USE_MICROS) <= now {
            let used = self.store.use_session(session, now, until, device.address.to_string());
            // The session goes on: it only ends earlier.
            if let Err(error) = used.await {
                tracing::warn!(%error, %session, "the use of a session is not recorded");
            }
            self.tell_of_use(&user, &address, "used", device).await;
        }
        Ok(CurrentSession { user, session, confirmed_at, kind: SessionKind::Cookie })
    }

    /// The rest of the life of a cookie that is set now, in seconds. The session may end earlier.
    #[must_use]
    pub fn cookie_seconds(&self) -> i64 {
        self.session_bounds.span.longest_micros / 1_000_000
    }
}
