//! HTTP on the same port.
