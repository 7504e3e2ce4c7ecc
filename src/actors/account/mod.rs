//! Accounts in memory: the actor that owns one, and the directory of all.

pub mod actor;
pub mod directory;
mod slot;
