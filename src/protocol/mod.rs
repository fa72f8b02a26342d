//! The JSON and the URL that clients see: what comes in is checked and borrowed, what goes out is written once.
//!
//! In: a request for a room, the text of a message. Out: a [`ChatRequest`], a [`ChatMessage`], or the words of a refusal;
//! and finished frames at the end of a shard's batch. Everything runs on the calling shard's thread; nothing here does
//! I/O, reads a clock, or knows who is a member of what.
//!
//! * [`connect`]: which room, whose token
//! * [`input`]: a client's text becomes a message, or the error that the client is told
//! * [`output`]: what clients receive

pub mod connect;
pub mod input;
pub mod output;

pub use connect::ChatRequest;
pub use input::{ChatMessage, InputError, Parser};
pub use output::Envelope;
