//! Proving who is there: people by password and session token, programs by API key.

mod email;
pub mod password;
pub mod people;
pub mod session;
pub mod throttle;
pub mod two_factor;

pub use password::Passwords;
pub use people::People;
pub use session::Sessions;
