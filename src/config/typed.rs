//! What was typed, and where: a TOML file, then the environment, then flags, the later one winning.
//!
//! Text only; what a value means is `keys`' business. Anything that looks meant for ringroom and is no key is an
//! offence, for a misspelt bound that silently keeps its default is worse than a server that does not start. An error
//! names the place and never quotes a file's line, for there may be a password on it.

use std::{
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::keys::{Field, KEYS, Key, Kind};
use crate::{failure::Failure, store::Names};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody gave one.
    Default,
    /// The configuration file of this path.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Flag => f.write_str("flag"),
        }
    }
}

/// One key's value as text. Not `Debug`: it may hold a password.
pub struct Given {
    /// The value.
    pub text: String,
    /// Where it came from.
    pub from: Source,
}

/// What was given on the command line. Not `Debug`: it may hold a password.
#[derive(Default)]
pub struct Flags {
    /// The configuration file, `--config`.
    pub file: Option<PathBuf>,
    /// Names of keys and their values.
    pub values: Vec<(&'static str, String)>,
}

/// Everything that was typed, not yet checked.
pub struct Typed {
    /// One a key, in the order of [`KEYS`].
    given: Vec<Given>,
    /// The section `[tables]` and the file that it is in.
    tables: Option<(toml::Table, PathBuf)>,
}

impl Typed {
    /// Gathers all layers: defaults, the file that `--config` or `RINGROOM_CONFIG` names, the environment, the flags.
    pub fn gather(flags: Flags, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Typed, Failure> {
        let defaults = KEYS.iter().map(|key| Given { text: key.default.into(), from: Source::Default });
        let mut typed = Typed { given: defaults.collect(), tables: None };
        let variables = our_variables(environment)?;
        let from_variable =
            || variables.iter().find(|(name, _)| name == "RINGROOM_CONFIG").map(|(_, path)| path.into());
        if let Some(path) = flags.file.or_else(from_variable) {
            typed.take_file(&path)?;
        }
        typed.take_variables(variables)?;
        for (name, text) in flags.values {
            typed.set(name, text, Source::Flag);
        }
        Ok(typed)
    }

    /// The value of a key. Panics where there is no such key.
    pub fn given(&self, name: &str) -> &Given {
        &self.given[position(name)]
    }

    /// A key's value as what it means. Never asked for one that may hold a secret, which the error would quote.
    pub(super) fn read<T: Field>(&self, name: &str) -> Result<T, Failure> {
        let (key, given) = (&KEYS[position(name)], self.given(name));
        T::from_text(&given.text, key.kind).ok_or_else(|| {
            let Given { text, from } = given;
            Failure::unusable(format!("`{name}` ({from}) is {text:?} but must be {}", key.kind.expected()))
        })
    }

    /// The names of tables and columns.
    pub(super) fn names(&self) -> Result<Names, Failure> {
        let Some((table, path)) = &self.tables else { return Ok(Names::default()) };
        let fail = |what: &str| Failure::unusable(format!("section `[tables]` of {}: {what}", path.display()));
        let names = Names::deserialize(table.clone()).map_err(|error| fail(error.message()))?;
        names.check().map_err(|what| fail(&what))?;
        Ok(names)
    }

    /// Puts a key back to its default, whoever gave it.
    pub fn forget(&mut self, name: &str) {
        let i = position(name);
        self.given[i] = Given { text: KEYS[i].default.into(), from: Source::Default };
    }

    fn set(&mut self, name: &str, text: String, from: Source) {
        self.given[position(name)] = Given { text, from };
    }

    fn take_file(&mut self, path: &Path) -> Result<(), Failure> {
        let fail = |what: String| Failure::unusable(format!("configuration file {}: {what}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| fail(format!("cannot be read: {error}")))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            fail(format!("line {line} is not TOML: {}", error.message()))
        })?;
        for (name, value) in table {
            match (Key::find(&name), value) {
                (None, toml::Value::Table(tables)) if name == "tables" => self.tables = Some((tables, path.into())),
                (None, _) => return Err(fail(unknown("key", &name, KEYS.iter().map(|key| key.name.to_owned())))),
                (Some(key), value) => {
                    let text = text_of(&value, key.kind)
                        .ok_or_else(|| fail(format!("`{name}` must be {}", expected_in_file(key.kind))))?;
                    self.set(key.name, text, Source::File(path.into()));
                }
            }
        }
        Ok(())
    }

    /// `DATABASE_URL` first, so that `RINGROOM_DATABASE_URL`, which can mean nobody else, wins over it.
    fn take_variables(&mut self, variables: Vec<(String, String)>) -> Result<(), Failure> {
        for (name, text) in variables {
            match (name.as_str(), KEYS.iter().find(|key| key.variable() == name)) {
                ("RINGROOM_CONFIG", _) => {}
                ("DATABASE_URL", _) => self.set("database_url", text, Source::Environment(name)),
                (_, Some(key)) => self.set(key.name, text, Source::Environment(name)),
                (_, None) => {
                    return Err(Failure::unusable(unknown(
                        "environment variable",
                        &name,
                        KEYS.iter().map(Key::variable),
                    )));
                }
            }
        }
        Ok(())
    }
}

/// The variables that are meant for ringroom, in a fixed order. Those of its own tests are not.
fn our_variables(all: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>, Failure> {
    let mut ours = Vec::new();
    for (name, value) in all {
        let Ok(name) = name.into_string() else { continue };
        if name != "DATABASE_URL" && (!name.starts_with("RINGROOM_") || name.starts_with("RINGROOM_TEST_")) {
            continue;
        }
        match value.into_string() {
            Ok(value) => ours.push((name, value)),
            Err(_) => return Err(Failure::unusable(format!("environment variable `{name}` is not UTF-8"))),
        }
    }
    ours.sort();
    Ok(ours)
}

/// A TOML value of the kind as text. `None` where it is of another.
fn text_of(value: &toml::Value, kind: Kind) -> Option<String> {
    match value {
        toml::Value::Integer(number) if kind.is_number() => Some(number.to_string()),
        toml::Value::String(text) if !kind.is_number() && kind != Kind::Origins => Some(text.clone()),
        toml::Value::Array(items) if kind == Kind::Origins => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            Some(items?.join(","))
        }
        _ => None,
    }
}

fn expected_in_file(kind: Kind) -> String {
    match kind {
        Kind::Origins => format!("an array of {}", kind.expected()),
        _ if kind.is_number() => format!("{}, without quotes", kind.expected()),
        _ => format!("{}, in quotes", kind.expected()),
    }
}

/// Panics where there is no such key: names come from [`KEYS`] or from a literal in this module's parent.
fn position(name: &str) -> usize {
    KEYS.iter().position(|key| key.name == name).expect("callers name a key of KEYS")
}

/// Says that there is no such thing, and what is nearest to it.
fn unknown(what: &str, name: &str, known: impl Iterator<Item = String>) -> String {
    let nearest = known.map(|other| (distance(name, &other), other)).min();
    match nearest {
        Some((edits, other)) if edits <= 3 => format!("unknown {what} `{name}`; did you mean `{other}`?"),
        _ => format!("unknown {what} `{name}`; `ringroom check-config` lists every key"),
    }
}

/// How many characters to insert, delete or replace to get from one text to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_edits() {
        for (from, to, edits) in
            [("", "", 0), ("", "abc", 3), ("shard", "shards", 1), ("lisen", "listen", 1), ("ab", "ba", 2)]
        {
            assert_eq!(distance(from, to), edits, "{from} {to}");
        }
    }

    #[test]
    fn a_name_far_from_every_key_gets_no_advice() {
        assert_eq!(
            unknown("key", "colour", KEYS.iter().map(|key| key.name.to_owned())),
            "unknown key `colour`; `ringroom check-config` lists every key"
        );
    }
}
