//! Gemini's protocol, where it differs: the model and the method are in the path (`route`), and
//! all else is in objects within objects, so each of them has a list of the fields that pass
//! (`request`, `parts`). What an answer uses is in `usageMetadata` (`usage`), also in every chunk
//! of a stream, which ends with its connection (`stream`).

mod parts;
mod request;
mod route;
mod stream;
mod usage;

pub use request::{body_with_model, check_query};
pub use route::{model_of, priced_path};
pub use usage::{GeminiUsage, Searches, served_tier, tier_named, usage_metadata};

pub(super) use parts::content_of;
pub(super) use request::{read, with_limit};
pub(super) use route::method_of;
pub(super) use stream::GeminiStream;
