//! Polysystems.
pub mod domain;
