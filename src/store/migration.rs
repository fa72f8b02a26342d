//! The numbered migrations of both databases, embedded in the program.
//!
//! `migrations/{postgres,sqlite}/NNNN_name.sql`, numbered from 1 without a gap. What was done to a database is recorded
//! in its table `ringroom_migrations`. How they are run is the matter of `postgres` and `sqlite`.

use super::StoreError;

/// One step of a schema.
#[derive(Debug)]
pub(super) struct Migration {
    /// Its number, from 1.
    pub(super) version: i32,
    /// The file's name without `.sql`.
    pub(super) name: &'static str,
    /// The statements.
    pub(super) sql: &'static str,
}

macro_rules! migration {
    ($version:literal, $database:literal, $name:literal) => {
        Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../migrations/", $database, "/", $name, ".sql")),
        }
    };
}

/// The schema for Postgres, step by step.
pub(super) const POSTGRES: &[Migration] = &[migration!(1, "postgres", "0001_chat")];

/// The schema for SQLite, step by step.
pub(super) const SQLITE: &[Migration] = &[migration!(1, "sqlite", "0001_chat")];

/// What `migrate` did about a migration that was not yet recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migrated {
    /// Ran it.
    Applied(&'static str),
    /// Only recorded it, because another application had made these tables; they were left as they are.
    AlreadyThere(&'static str),
}

/// An error when a later program has migrated the database beyond what this one knows.
pub(super) fn check_recorded(latest: Option<i32>, known: &[Migration]) -> Result<(), StoreError> {
    let newest = known.len() as i32;
    match latest {
        Some(latest) if latest > newest => Err(StoreError::Refused(format!(
            "the database is at schema version {latest} and this ringroom knows {newest}: \
             a newer ringroom migrated it; run that version, or restore a backup from before"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_gaps() {
        for known in [POSTGRES, SQLITE] {
            for (nth, migration) in known.iter().enumerate() {
                assert_eq!(migration.version as usize, nth + 1);
                assert!(migration.name.starts_with(&format!("{:04}_", nth + 1)), "{}", migration.name);
            }
        }
    }

    #[test]
    fn a_newer_schema_is_refused() {
        assert_eq!(check_recorded(None, POSTGRES), Ok(()));
        assert_eq!(check_recorded(Some(1), POSTGRES), Ok(()));
        let error = check_recorded(Some(7), POSTGRES).unwrap_err();
        assert!(matches!(&error, StoreError::Refused(text) if text.contains("version 7")), "{error}");
    }
}
