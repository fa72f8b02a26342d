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
    match blame(answer.code().code(), answer.routine()) {
        Blame::Row => InsertError::Refused(text),
        Blame::Moment => InsertError::NotSent(text),
        Blame::Setup => InsertError::Barred(text),
        Blame::Connection => InsertError::InDoubt(text),
    }
}

/// What a batch was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    /// One of its rows: it must not keep the others waiting.
    Row,
    /// The state of the server, which passes by itself. The transaction was rolled back.
    Moment,
    /// The tables, the rights, the server's mode: no row is taken, whatever is in it. Were the rows blamed, one GRANT that is
    /// forgotten would turn every message into a dead letter.
    Setup,
    /// The transaction's end is not known to the server itself, or it ended our session while we waited: with synchronous
    /// replication it may have committed first.
    Connection,
}

/// Judged by the SQLSTATE, and by the routine of the server's source that raised it, which no setting translates.
fn blame(code: &str, routine: Option<&str>) -> Blame {
    match (code, routine) {
        // A trigger that asks for another try gets it; whatever else it raises, under whatever code, is about a row.
        (code, Some("exec_stmt_raise")) if !code.starts_with("40") => Blame::Row,
        // The policy of row security does not let this row in. Without a GRANT the same code comes from elsewhere.
        ("42501", Some("ExecWithCheckOptions")) => Blame::Row,
        ("40003" | "57P01" | "57P02", _) => Blame::Connection,
        (code, _) => match &code[..2.min(code.len())] {
            "08" => Blame::Connection,
            "40" | "53" | "55" | "57" | "58" => Blame::Moment,
            "03" | "0A" | "0B" | "0F" | "0L" | "0P" | "24" | "25" | "26" | "28" | "2B" | "2D" | "34" | "39" | "3B"
            | "3D" | "3F" | "42" | "72" | "F0" | "HV" | "XX" => Blame::Setup,
            // Data exceptions, broken constraints, a view's check option, values too big for the server, failures of a
            // trigger, and every class that Postgres does not know, which is somebody's own.
            _ => Blame::Row,
        },
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

#[cfg(test)]
mod tests {
    use super::{Blame::*, *};

    #[test]
    fn a_refusal_is_blamed_on_a_row_only_where_another_row_might_do() {
        const RAISE: Option<&str> = Some("exec_stmt_raise");
        for (code, routine, expected) in [
            ("22001", None, Row),
            ("23514", Some("ExecConstraints"), Row),
            ("23502", None, Row),
            ("44000", Some("ExecWithCheckOptions"), Row),
            ("54000", None, Row),
            ("21000", None, Row),
            ("27000", None, Row),
            ("38000", None, Row),
            ("P0001", RAISE, Row),
            ("P0004", Some("exec_stmt_assert"), Row),
            ("45000", None, Row),
            ("CHAT1", RAISE, Row),
            ("42501", RAISE, Row),
            ("55000", RAISE, Row),
            ("53400", RAISE, Row),
            ("08006", RAISE, Row),
            ("42501", Some("ExecWithCheckOptions"), Row),
            ("42501", Some("aclcheck_error"), Setup),
            ("42P01", Some("parserOpenTable"), Setup),
            ("42703", None, Setup),
            ("25006", Some("PreventCommandIfReadOnly"), Setup),
            ("39P01", None, Setup),
            ("XX001", None, Setup),
            ("40001", None, Moment),
            ("40001", RAISE, Moment),
            ("40P01", None, Moment),
            ("53100", None, Moment),
            ("55P03", None, Moment),
            ("57014", Some("ProcessInterrupts"), Moment),
            ("57P03", None, Moment),
            ("40003", None, Connection),
            ("57P01", Some("ProcessInterrupts"), Connection),
            ("08006", None, Connection),
        ] {
            assert_eq!(blame(code, routine), expected, "{code} {routine:?}");
        }
    }
}
