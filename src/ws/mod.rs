//! The WebSocket protocol without I/O.
