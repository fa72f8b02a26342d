//! Tokens and membership.

use std::sync::Arc;

use crate::identity::User;

/// What became of the question whether a token's user may enter a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The token is this active user's, a member of the room.
    Admitted(Arc<User>),
    /// The token is missing, unknown, or its user is not active. Decided before membership.
    Unauthorized,
    /// The room is unknown, or the user is not a member of it.
    NotMember,
    /// The database cannot be asked.
    Unavailable,
}
