//! Polysystems.
pub mod actors;
pub mod app;
pub mod auth;
pub mod clock;
pub mod config;
pub mod domain;
pub mod http;
pub mod operators;
pub mod payments;
pub mod pipeline;
mod secrets;
pub mod store;
pub mod telemetry;
pub mod upstream;
pub mod verify;
