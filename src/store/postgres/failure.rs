//! What an error of Postgres means for the caller, judged by its SQLSTATE
//! (PostgreSQL manual, appendix A) or, where the server said nothing, by how the connection ended.
//!
//! Only the server's primary message is passed on: its detail may quote the row, and with it a message's text.

use std::{error::Error as _, io};

use tokio_postgres::{Error, error::DbError};

use crate::store::{DatabaseUrl, InsertError, StoreError};

/// A failed attempt to connect.
pub(super) fn connecting(error: &Error, url: &DatabaseUrl) -> StoreError {
    let Some(answer) = error.as_db_error() else {
        let unreachable = error.is_closed() || error.source().is_some_and(|source| source.is::<io::Error>());
        return match unreachable {
            true => StoreError::Unavailable(format!(
                "cannot reach {url} ({}): is Postgres running there, and are host and port right?",
                chain(error)
            )),
            false => StoreError::Refused(format!("cannot log in to {url} ({}): check the database URL", chain(error))),
        };
    };
    let said = said(answer);
    match answer.code().code() {
        "28P01" | "28000" => StoreError::Refused(format!(
            "{url} refused the log-in ({said}): check user and password in the database URL, and pg_hba.conf"
        )),
        "3D000" => StoreError::Refused(format!(
            "{url}: there is no such database ({said}): make it with createdb, or correct the name"
        )),
        code if passing(code) => StoreError::Unavailable(format!("{url} takes no connections now ({said})")),
        _ => StoreError::Refused(format!("{url} refused the connection ({said})")),
    }
}

/// A failed query.
pub(super) fn asking(error: &Error) -> StoreError {
    let Some(answer) = error.as_db_error() else {
        return StoreError::Unavailable(format!("the connection to Postgres failed ({})", chain(error)));
    };
    let said = said(answer);
    match answer.code().code() {
        code if passing(code) => StoreError::Unavailable(format!("Postgres could not answer ({said})")),
        "42501" => StoreError::Refused(format!("the database user may not do this ({said}): GRANT it the right")),
        "42P01" | "42703" | "42883" | "42804" => StoreError::Refused(format!(
            "the tables are not as expected ({said}): run `ringroom migrate`, or correct section [tables]"
        )),
        _ => StoreError::Refused(format!("Postgres refused ({said})")),
    }
}

/// Whether the connection ended, rather than the query alone.
pub(super) fn lost(error: &Error) -> bool {
    match error.as_db_error() {
        Some(answer) => matches!(answer.code().code(), code if code.starts_with("08") || code.starts_with("57P")),
        None => true,
    }
}

/// A failed insert, autocommitted as one statement.
pub(super) fn inserting(error: &Error) -> InsertError {
    let Some(answer) = error.as_db_error() else {
        return InsertError::InDoubt(format!("the connection to Postgres failed ({})", chain(error)));
    };
    let text = format!("Postgres refused the batch ({})", said(answer));
    match answer.code().code() {
        // The transaction's end is not known to the server itself, or it ended our session while we waited: with
        // synchronous replication it may have committed first.
        "40003" | "57P01" | "57P02" => InsertError::InDoubt(text),
        code if code.starts_with("08") => InsertError::InDoubt(text),
        // Data exceptions, broken constraints, a view's check option, a value too big for the server, a trigger's RAISE:
        // faults of a row. Everything else is the server's state or the operator's doing, and has been rolled back.
        "44000" | "54000" | "P0001" => InsertError::Refused(text),
        code if code.starts_with("22") || code.starts_with("23") => InsertError::Refused(text),
        _ => InsertError::NotSent(text),
    }
}

/// SQLSTATEs that pass by themselves: connection trouble, lack of resources, conflicts, interventions, system errors.
fn passing(code: &str) -> bool {
    matches!(&code[..2.min(code.len())], "08" | "40" | "53" | "57" | "58") || code == "55P03"
}

/// The server's words.
fn said(answer: &DbError) -> String {
    format!("{}, SQLSTATE {}", answer.message(), answer.code().code())
}

/// An error with its causes.
fn chain(error: &Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
