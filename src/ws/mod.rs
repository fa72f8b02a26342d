//! The WebSocket protocol (RFC 6455) without I/O: bytes flow in, requests and events flow out, and the other way round.
//!
//! A connection's shard owns every value made here and calls it on its own thread. Nothing below this module reads a
//! socket, a clock or a configuration, or knows what a chat message is.
//!
//! * [`handshake`]: the head of a request, what it asks for, the 101 and every refusal
//! * [`frame`]: the bytes of a client become messages, pings and closes
//! * [`mask`]: what a client's payload is hidden under
//! * [`encode`]: the frames that the server sends

pub mod encode;
pub mod frame;
pub mod handshake;
pub mod mask;
