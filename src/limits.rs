//! Compile-time bounds.
