//! Upstreams: the services that answer paid calls.
//!
//! Each route group has one upstream: the built-in sandbox, or a URL ([`Upstreams`]). An
//! [`UpstreamCall`] goes in, and an [`Answer`] or a [`Failure`] comes out. A model's deployments
//! are asked by one [`Proxy`] each. [`dialect`] knows the protocols that calls are priced and
//! billed by.

mod answer;
mod attempt;
mod deployment;
pub mod dialect;
mod headers;
mod http_client;
mod proxy;
mod registry;
mod renamed;
pub mod sandbox;
pub mod sse;

pub use answer::{
    Answer, AnswerBody, ByteStream, CHARGED_FAILURE, Failure, Sent, UpstreamCall,
    is_repeated_by_clients, read_usage, usage_of_answer,
};
pub use attempt::{hide_name, judge};
pub use deployment::{at_deployment, path_at};
pub use dialect::Dialect;
pub use http_client::{Client, Connector};
pub use proxy::{Proxy, Told};
pub use registry::{RequestPolicy, StreamPolicy, Upstream, Upstreams};
pub use renamed::{rename, rename_answer, rename_stream};
