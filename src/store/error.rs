//! What a database answers instead of doing what it was asked.
//!
//! Texts are for the operator: what happened, the likely cause, what to do. They hold no password, no token and no
//! message text.

use std::fmt;

/// A look-up or an administrative step did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The database cannot be asked: no connection, a lost one, or no answer in time. Later may do.
    Unavailable(String),
    /// The database was asked and will not do it. Asking again changes nothing until somebody acts.
    Refused(String),
}

impl StoreError {
    /// The text alone.
    pub fn text(&self) -> &str {
        match self {
            StoreError::Unavailable(text) | StoreError::Refused(text) => text,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for StoreError {}

/// A batch of messages was not saved, or may not have been. In every case the same rows may be inserted again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// Nothing of the batch is in the table, and for a fault of its rows: a smaller batch may do.
    Refused(String),
    /// Nothing of the batch is in the table, and not for a fault of its rows: later may do.
    NotSent(String),
    /// Nothing of the batch is in the table. The database can be asked, and takes no rows from us at all until somebody acts.
    Barred(String),
    /// The connection was lost, or no answer came, while the batch might have been committed.
    InDoubt(String),
}

impl InsertError {
    /// The text alone.
    pub fn text(&self) -> &str {
        match self {
            InsertError::Refused(text)
            | InsertError::NotSent(text)
            | InsertError::Barred(text)
            | InsertError::InDoubt(text) => text,
        }
    }
}

/// Before an insert there must be a connection.
impl From<StoreError> for InsertError {
    fn from(error: StoreError) -> InsertError {
        match error {
            StoreError::Unavailable(text) => InsertError::NotSent(text),
            StoreError::Refused(text) => InsertError::Barred(text),
        }
    }
}

impl fmt::Display for InsertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for InsertError {}
