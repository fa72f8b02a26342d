//! Where the database is: `DATABASE_URL`, read once.
//!
//! Text comes in, a [`DatabaseUrl`] or a text for the operator goes out. Its `Debug` and `Display` are rebuilt from the
//! parts that are no secret, so a password cannot get out through a log line, whatever shape the text had.

use std::{fmt, path::PathBuf, str::FromStr};

use tokio_postgres::config::{Config, Host, SslMode};

/// Which database, and how to reach it. Prints without its password.
#[derive(Clone)]
pub enum DatabaseUrl {
    /// A Postgres server and a database on it.
    Postgres(Box<Config>),
    /// A file, made by `ringroom migrate` or `ringroom demo`.
    Sqlite(PathBuf),
}

/// The text names no database that ringroom can use. Holds what is wrong with it, without any part of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadDatabaseUrl(&'static str);

impl fmt::Display for BadDatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BadDatabaseUrl(what) = self;
        write!(
            f,
            "the database URL {what}; give postgres://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:PATH \
             (in a user name or password write @ as %40, / as %2F, : as %3A, % as %25)"
        )
    }
}

impl std::error::Error for BadDatabaseUrl {}

impl FromStr for DatabaseUrl {
    type Err = BadDatabaseUrl;

    fn from_str(text: &str) -> Result<Self, BadDatabaseUrl> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            sqlite(path.strip_prefix("//").unwrap_or(path))
        } else if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            postgres(text)
        } else {
            Err(BadDatabaseUrl("starts with neither postgres:// nor sqlite:"))
        }
    }
}

fn sqlite(path: &str) -> Result<DatabaseUrl, BadDatabaseUrl> {
    match path {
        "" => Err(BadDatabaseUrl("names no file")),
        // Reader and writer each open the file: a database in memory would be two databases.
        ":memory:" => Err(BadDatabaseUrl("names a database in memory, which cannot keep messages")),
        path if path.contains('\0') => Err(BadDatabaseUrl("holds a NUL character")),
        path => Ok(DatabaseUrl::Sqlite(path.into())),
    }
}

fn postgres(text: &str) -> Result<DatabaseUrl, BadDatabaseUrl> {
    // What follows a second @ is most likely a piece of a password that would be taken for a host.
    if text.matches('@').nth(1).is_some() {
        return Err(BadDatabaseUrl("has more than one @"));
    }
    let mut config = Config::from_str(text)
        .map_err(|_| BadDatabaseUrl("cannot be read: a port, an option after ? or a %-sequence is wrong"))?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(BadDatabaseUrl("names no host"));
    }
    if !matches!(config.get_ssl_mode(), SslMode::Disable | SslMode::Prefer) {
        return Err(BadDatabaseUrl(
            "asks for sslmode=require, and ringroom does not encrypt its database connection \
             (use a Unix socket, loopback, a private network or a tunnel, and sslmode=disable)",
        ));
    }
    if config.get_application_name().is_none() {
        config.application_name("ringroom");
    }
    Ok(DatabaseUrl::Postgres(Box::new(config)))
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = match self {
            DatabaseUrl::Sqlite(path) => return write!(f, "sqlite:{}", path.display()),
            DatabaseUrl::Postgres(config) => config,
        };
        f.write_str("postgres://")?;
        if let Some(user) = config.get_user() {
            let password = if config.get_password().is_some() { ":***" } else { "" };
            write!(f, "{user}{password}@")?;
        }
        for (nth, address) in addresses(config).enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            write!(f, "{comma}{address}")?;
        }
        write!(f, "/{}", config.get_dbname().unwrap_or_default())
    }
}

/// `host:port` of each server that the URL names.
fn addresses(config: &Config) -> impl Iterator<Item = String> + '_ {
    let named = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) if name.contains(':') => format!("[{name}]"),
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    });
    let numbered = config.get_hostaddrs().iter().map(|address| address.to_string());
    let hosts: Vec<String> = if config.get_hosts().is_empty() { numbered.collect() } else { named.collect() };
    hosts.into_iter().enumerate().map(|(nth, host)| {
        let port = config.get_ports().get(nth).or(config.get_ports().first()).unwrap_or(&5432);
        format!("{host}:{port}")
    })
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_prints_without_its_password() {
        for (text, printed) in [
            ("postgres://ann:hush@db.example:6543/chat", "postgres://ann:***@db.example:6543/chat"),
            ("postgresql://ann:hu%40sh@db.example/chat", "postgres://ann:***@db.example:5432/chat"),
            ("postgres://db.example/chat?user=ann&password=hush", "postgres://ann:***@db.example:5432/chat"),
            ("postgres://ann:hu/s?h@db.example/chat", "postgres://ann:***@db.example:5432/chat"),
            ("postgres://ann@[::1]/chat", "postgres://ann@[::1]:5432/chat"),
            ("postgres://ann@%2Frun%2Fpg/chat", "postgres://ann@/run/pg:5432/chat"),
            ("postgres://ann:hush@a:1,b:2/chat", "postgres://ann:***@a:1,b:2/chat"),
            ("sqlite:chat.sqlite3", "sqlite:chat.sqlite3"),
            ("sqlite:///var/lib/chat.sqlite3", "sqlite:/var/lib/chat.sqlite3"),
        ] {
            let url: DatabaseUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), printed, "{text}");
            assert_eq!(format!("{url:?}"), format!("DatabaseUrl({printed})"), "{text}");
        }
    }

    #[test]
    fn a_bad_url_is_told_without_its_secrets() {
        for text in [
            "",
            "mysql://ann:hush@db/chat",
            "postgres://ann:hush@hush@db/chat",
            "postgres://ann:hush@/chat",
            "postgres://ann:hush@db:hush/chat",
            "postgres://db/chat?password=a&hush=1",
            "postgres://ann:hush@db/chat?sslmode=require",
            "sqlite:",
            "sqlite::memory:",
        ] {
            let error = text.parse::<DatabaseUrl>().unwrap_err().to_string();
            assert!(error.contains("postgres://USER:PASSWORD@HOST") && !error.contains("hush"), "{text}: {error}");
        }
    }
}
