//! Authentication of users, by password and session token. API keys are in [`crate::keys`].

mod address;
mod by_operator;
pub mod confirm;
pub mod cookie;
mod email;
pub mod password;
mod personal;
mod places;
pub mod session;
pub mod sessions;
pub mod throttle;
pub mod two_factor;
pub mod users;

pub use cookie::Cookies;
pub use password::Passwords;
pub use session::Sessions;
pub use users::Users;
