//! Upstreams: the services that answer paid calls.
//!
//! Each route group has one upstream: the built-in sandbox, or a URL ([`Upstreams`]). An
//! [`UpstreamCall`] goes in, and an [`Answer`] or a [`Failure`] comes out. [`dialect`] knows the
//! protocols that calls are priced and billed by.

mod answer;
pub mod dialect;
mod headers;
mod http_client;
mod proxy;
mod registry;
pub mod sandbox;
pub mod sse;

pub use answer::{
    Answer, AnswerBody, ByteStream, Failure, Sent, UpstreamCall, read_usage, usage_of_answer,
};
pub use dialect::Dialect;
pub use http_client::{Client, Connector};
pub use registry::{StreamPolicy, Upstream, Upstreams};
