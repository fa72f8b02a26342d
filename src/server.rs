//! Threads, started and ended.
