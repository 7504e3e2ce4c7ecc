//! The commands of `polysystems user`.

use std::io::Read as _;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use domain::Credits;
use polysystems::auth::Users;
use polysystems::auth::two_factor::EnrolmentToken;
use polysystems::auth::users::{Registration, UsersError};
use polysystems::cli::find_user;
use polysystems::config::Settings;
use polysystems::http::amount::Amount;
use polysystems::store::users::{Role, User};
use reqwest::Method;
use serde::Serialize;
use serde_json::json;

use super::{Operator, ask, print, with_users};

#[derive(Subcommand)]
pub(crate) enum UserCommand {
    /// Creates a user; the password is read from standard input
    Create {
        /// Their email
        #[arg(long)]
        email: String,
        /// Their username
        #[arg(long)]
        username: String,
        /// Make them an operator
        #[arg(long)]
        admin: bool,
    },
    /// Makes a user an operator, or an ordinary user again
    SetRole {
        /// Their email or id
        user: String,
        /// The new role
        role: RoleName,
    },
    /// Prints a token with which an operator sets up two-factor authentication: it works once, for
    /// an hour
    Enroll2fa {
        /// Their email or id
        user: String,
    },
    /// Switches off two-factor authentication for a user who has lost the device and the recovery
    /// codes
    Disable2fa {
        /// Their email or id
        user: String,
    },
    /// Lists users, newest first (asks the running server)
    List {
        #[command(flatten)]
        operator: Operator,
        /// Only users whose email or username contains this
        #[arg(long)]
        search: Option<String>,
        /// How many users, at most 100
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// `next_cursor` of the previous page
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Shows a user with their accounts and keys (asks the running server)
    Show {
        #[command(flatten)]
        operator: Operator,
        /// Their email or id
        user: String,
    },
    /// Gives a user credits, or takes them if the amount is negative (asks the running server)
    Credit {
        #[command(flatten)]
        operator: Operator,
        /// Their email or id
        user: String,
        /// The amount in USD
        #[arg(allow_negative_numbers = true)]
        amount: Credits,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
        /// Change the test account, not the live one
        #[arg(long)]
        test: bool,
    },
    /// Sets a user's rate limit tier (asks the running server)
    Tier {
        #[command(flatten)]
        operator: Operator,
        /// Their email or id
        user: String,
        /// One of the tiers in the settings; without it, the default tier
        tier: Option<String>,
    },
    /// Suspends a user's accounts (asks the running server)
    Suspend {
        #[command(flatten)]
        operator: Operator,
        /// Their email or id
        user: String,
        /// Why, for the audit log
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Ends every session of a user (asks the running server)
    EndSessions {
        #[command(flatten)]
        operator: Operator,
        /// Their email or id
        user: String,
        /// Why, for the audit log
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Resumes a user's suspended accounts (asks the running server)
    Resume {
        #[command(flatten)]
        operator: Operator,
        /// Their email or id
        user: String,
        /// Why, for the audit log
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// The body of a request that gives or takes credits.
#[derive(Serialize)]
struct CreditsBody {
    amount: Amount,
    reason: String,
    environment: &'static str,
}

/// The role of a user.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum RoleName {
    User,
    Admin,
}

/// Runs every command of `polysystems user` but `create`.
pub(crate) async fn run(
    settings: &Settings,
    users: &Users,
    command: UserCommand,
) -> anyhow::Result<()> {
    let path = async |user: &str, act: &str| -> anyhow::Result<String> {
        Ok(format!("/api/admin/users/{}{act}", find_user(users, user).await?.id))
    };
    let (operator, method, path, query, body) = match command {
        // `create` runs on its own, because it reads a password.
        UserCommand::Create { .. } => return Ok(()),
        UserCommand::SetRole { user, role } => return set_role(users, &user, role).await,
        UserCommand::Enroll2fa { user } => {
            let user = find_user(users, &user).await?;
            if user.role != Role::Admin {
                bail!("{} is no operator; others need no token", user.id);
            }
            if user.has_two_factor() {
                bail!("{} has two-factor authentication already", user.id);
            }
            return print_enrolment_token(users, &user).await;
        }
        UserCommand::Disable2fa { user } => {
            let user = find_user(users, &user).await?;
            users.disable_second_factor_of(&user).await?;
            return print(&format!("{} no longer has a second factor", user.id));
        }
        UserCommand::List { operator, search, limit, cursor } => {
            let limit = Some(limit.to_string());
            let query = vec![("limit", limit), ("search", search), ("cursor", cursor)];
            (operator, Method::GET, "/api/admin/users".to_owned(), query, None)
        }
        UserCommand::Show { operator, user } => {
            (operator, Method::GET, path(&user, "").await?, Vec::new(), None)
        }
        UserCommand::Credit { operator, user, amount, reason, test } => {
            let environment = if test { "test" } else { "live" };
            let body = CreditsBody { amount: Amount(amount), reason, environment };
            let body = serde_json::to_string(&body)?;
            (operator, Method::POST, path(&user, "/credits").await?, Vec::new(), Some(body))
        }
        UserCommand::Tier { operator, user, tier } => {
            let body = json!({ "tier": tier }).to_string();
            (operator, Method::PUT, path(&user, "/tier").await?, Vec::new(), Some(body))
        }
        UserCommand::Suspend { operator, user, reason } => {
            let body = json!({ "reason": reason }).to_string();
            (operator, Method::POST, path(&user, "/suspend").await?, Vec::new(), Some(body))
        }
        UserCommand::EndSessions { operator, user, reason } => {
            let body = json!({ "reason": reason }).to_string();
            (operator, Method::POST, path(&user, "/end-sessions").await?, Vec::new(), Some(body))
        }
        UserCommand::Resume { operator, user, reason } => {
            let body = json!({ "reason": reason }).to_string();
            (operator, Method::POST, path(&user, "/resume").await?, Vec::new(), Some(body))
        }
    };
    ask(settings, users, operator, method, &path, &query, body).await
}

async fn set_role(users: &Users, user: &str, role: RoleName) -> anyhow::Result<()> {
    let role = match role {
        RoleName::User => Role::User,
        RoleName::Admin => Role::Admin,
    };
    let user = find_user(users, user).await?;
    if user.is_erased {
        bail!("{} has erased the account", user.id);
    }
    users.set_role(&user, role).await?;
    print(&format!("{} {}", user.id, role.name()))?;
    if role == Role::Admin && user.role != Role::Admin && user.has_two_factor() {
        return print(
            "They have two-factor authentication. Make sure that it is theirs: somebody who had their \
             password could set it up. `polysystems user disable2fa` switches it off.",
        );
    }
    advise(users, &User { role, ..user }).await
}

/// Says what a new operator must do before the server takes them for one.
async fn advise(users: &Users, user: &User) -> anyhow::Result<()> {
    if user.role != Role::Admin || users.assert_operators_factor(user).is_ok() {
        return Ok(());
    }
    print(
        "Operators need two-factor authentication. Sign in (POST /api/auth/login) and set it up: \
         POST /api/auth/2fa/enroll, then POST /api/auth/2fa/confirm with a code and this token.",
    )?;
    print_enrolment_token(users, user).await
}

/// The token stands on a line of its own, the last one.
async fn print_enrolment_token(users: &Users, user: &User) -> anyhow::Result<()> {
    let EnrolmentToken { token, expires_at } = users.make_enrolment_token(user).await?;
    print(&format!("It works once, until {}. Another one ends it.", expires_at.to_rfc3339()))?;
    print(&token)
}

/// `user create`: reads the password from standard input.
pub(crate) fn create(
    settings: &Settings,
    email: String,
    username: String,
    is_admin: bool,
) -> anyhow::Result<()> {
    let mut password = String::new();
    std::io::stdin().read_to_string(&mut password).context("cannot read the password")?;
    let password = password.trim_end_matches(['\r', '\n']).to_owned();
    if password.is_empty() {
        bail!("the password is read from standard input, which is empty");
    }
    let role = if is_admin { Role::Admin } else { Role::User };
    with_users(settings, async |users| {
        let new = Registration { email, username, password };
        let user = users.register(new, role, None).await.map_err(|error| match error {
            UsersError::Store(error) => anyhow::anyhow!("cannot store the user: {error}"),
            other => anyhow::Error::new(other),
        })?;
        print(&format!("{} {}", user.id, user.role.name()))?;
        advise(users, &user).await
    })
}
