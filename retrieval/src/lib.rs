//! Finds passages of documents by words and by meaning.
//!
//! Pure by construction: bytes come in, bytes go out. Nothing here does I/O, reads a clock or draws
//! a random number, so the same documents and query give the same hits on each database and
//! machine. `docs/src/internals/retrieval.md` says how it works and why so.
//!
//! | module | what it does |
//! |---|---|
//! | [`document`], [`chunk`] | cuts a parsed document into chunks that cite exact bytes |
//! | [`tokens`], [`embed`] | word pieces, and the vector of a text |
//! | [`analyze`] | the terms of a text |
//! | [`segment`] | an immutable index of chunks: build, open, merge |
//! | [`collection`], [`fuse`] | search of several segments as one |
//! | [`filter`] | conditions on the attributes of documents |

pub mod analyze;
mod bytes;
pub mod chunk;
pub mod collection;
pub mod document;
pub mod embed;
pub mod filter;
pub mod fuse;
pub mod segment;
pub mod tokens;
