//! Tokens and membership.
