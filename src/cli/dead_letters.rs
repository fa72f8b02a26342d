//! `ringroom dead-letters`: list, retry, drop. Works on the file in the data directory, whether a server runs or not.
//!
//! To retry is to insert first and to rewrite the file after, so that an end at any moment loses nothing: inserting
//! once more what is in the table does no harm.

use std::{
    collections::HashSet,
    fmt::Write,
    io,
    path::{Path, PathBuf},
};

use bytes::BytesMut;
use clap::Subcommand;
use serde_json::json;
use uuid::Uuid;

use super::{Asked, admin::block_on, answer, start_log};
use crate::{
    config::Config,
    dead_letters::{
        file::{LetterFile, Line, Verdict},
        letter::Letter,
        retry::Retried,
    },
    failure::Failure,
    stamp::put_rfc3339,
    store::{Micros, StoreError, Writer},
};

const RETRY_NOTES: &str = "\
Examples:
  ringroom dead-letters retry --all
  ringroom dead-letters retry 01939b7f-2c44-7d09-8f0e-3a5b6c7d8e9f

Saved messages leave the file; the others stay, with the reason of today. Members who are connected do not see a message
again; it is in its room's history at its old place. When the database is away, nothing changes and the exit code is 1.";

const DROP_NOTES: &str = "\
Examples:
  ringroom dead-letters list --json > kept.json && ringroom dead-letters drop --all
  ringroom dead-letters drop 01939b7f-2c44-7d09-8f0e-3a5b6c7d8e9f";

#[derive(Subcommand)]
pub(super) enum Command {
    /// List refused messages: when, id, room, sender, reason, text; with --json everything and whole
    #[command(after_help = "Examples:\n  ringroom dead-letters list\n  ringroom dead-letters list --json | jq -r \
        '.letters[].reason' | sort | uniq -c")]
    List(Asked),
    /// Give refused messages to the database again, once what it missed is there
    #[command(after_help = RETRY_NOTES)]
    Retry(Chosen),
    /// Remove refused messages for good
    #[command(after_help = DROP_NOTES)]
    Drop(Chosen),
}

#[derive(clap::Args)]
pub(super) struct Chosen {
    /// The messages' ids
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<Uuid>,
    /// All that there are
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    asked: Asked,
}

impl Command {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Command::List(asked) => list(asked),
            Command::Retry(chosen) => retry(chosen),
            Command::Drop(chosen) => drop_letters(chosen),
        }
    }
}

fn list(Asked { json, settings }: Asked) -> Result<(), Failure> {
    let file = LetterFile::of(&settings.check()?.data_dir);
    let (mut letters, mut unreadable) = (Vec::new(), Vec::new());
    for line in lines(&file)? {
        let line = line?;
        match line.letter {
            Ok(letter) => letters.push(letter),
            Err(error) => unreadable.push((line.number, error)),
        }
    }
    report(&file, &unreadable);
    let lines = unreadable.iter().map(|(line, error)| json!({ "line": line, "error": error }));
    answer(json, json!({ "letters": letters, "unreadable": lines.collect::<Vec<_>>() }), || {
        letters.iter().map(described).collect::<Vec<_>>().join("\n")
    })
}

fn retry(Chosen { ids, asked: Asked { json, settings }, .. }: Chosen) -> Result<(), Failure> {
    let config = settings.check()?;
    start_log(&config);
    let file = LetterFile::of(&config.data_dir);
    let ids = known(&file, ids)?;
    let mut retried = Retried::default();
    let outcome = block_on(try_chosen(&config, &file, ids.as_ref(), &mut retried));
    if !(retried.saved.is_empty() && retried.refused.is_empty()) {
        file.rewrite(|letter| retried.verdict(letter)).map_err(|error| unusable(file.path(), &error))?;
    }
    let (saved, refused) = (retried.saved.len(), retried.refused.len());
    outcome.map_err(|failure| match saved {
        0 => failure,
        _ => Failure::failed(format!("{failure}; {saved} messages were saved before that")),
    })?;
    answer(json, json!({ "saved": saved, "refused": refused }), || match (saved, refused) {
        (0, 0) => "there are no dead letters".into(),
        (saved, 0) => format!("saved {saved}"),
        (saved, refused) => format!("saved {saved}; still refused {refused}: see `ringroom dead-letters list`"),
    })
}

/// Gives the letters to the database, a bulk at a time, without keeping anybody from the file.
async fn try_chosen(
    config: &Config,
    file: &LetterFile,
    ids: Option<&HashSet<Uuid>>,
    retried: &mut Retried,
) -> Result<(), Failure> {
    let mut letters = chosen(lines(file)?, ids).peekable();
    if letters.peek().is_none() {
        return Ok(());
    }
    let mut store = Writer::open(&config.database).await.map_err(|error| match error {
        StoreError::Unavailable(text) => Failure::failed(text),
        refused => refused.into(),
    })?;
    while letters.peek().is_some() {
        let bulk = letters.by_ref().take(config.commit_rows_max).collect::<Result<Vec<_>, _>>()?;
        let tried = retried.try_all(&mut store, &bulk).await;
        tried.map_err(|error| Failure::failed(error.text()))?;
    }
    Ok(())
}

fn drop_letters(Chosen { ids, asked: Asked { json, settings }, .. }: Chosen) -> Result<(), Failure> {
    let file = LetterFile::of(&settings.check()?.data_dir);
    let ids = known(&file, ids)?;
    let is_chosen = |letter: &Letter| ids.as_ref().is_none_or(|ids| ids.contains(&letter.id));
    let verdict = |letter: &Letter| if is_chosen(letter) { Verdict::Remove } else { Verdict::Keep };
    let dropped = match file.path().exists() {
        true => file.rewrite(verdict).map_err(|error| unusable(file.path(), &error))?,
        false => 0,
    };
    answer(json, json!({ "dropped": dropped }), || format!("dropped {dropped}"))
}

/// The ids that were chosen; `None` for all. Refuses an id of which there is no letter, and tells of the lines that
/// are none.
fn known(file: &LetterFile, ids: Vec<Uuid>) -> Result<Option<HashSet<Uuid>>, Failure> {
    let (mut held, mut unreadable) = (HashSet::new(), Vec::new());
    for line in lines(file)? {
        let line = line?;
        match line.letter {
            Ok(letter) => drop(held.insert(letter.id)),
            Err(error) => unreadable.push((line.number, error)),
        }
    }
    report(file, &unreadable);
    match ids.iter().find(|id| !held.contains(id)) {
        Some(id) => Err(Failure::unusable(format!(
            "there is no dead letter with the id {id}: see `ringroom dead-letters list`"
        ))),
        None => Ok((!ids.is_empty()).then(|| ids.into_iter().collect())),
    }
}

fn chosen(
    lines: impl Iterator<Item = Result<Line, Failure>>,
    ids: Option<&HashSet<Uuid>>,
) -> impl Iterator<Item = Result<Letter, Failure>> {
    lines.filter_map(move |line| match line {
        Err(failure) => Some(Err(failure)),
        Ok(Line { letter, .. }) => letter.ok().filter(|letter| ids.is_none_or(|ids| ids.contains(&letter.id))).map(Ok),
    })
}

/// What is in the file; nothing where there is no file.
fn lines(file: &LetterFile) -> Result<impl Iterator<Item = Result<Line, Failure>> + use<>, Failure> {
    let path: PathBuf = file.path().into();
    let lines = file.lines().map_err(|error| unusable(&path, &error))?;
    Ok(lines.into_iter().flatten().map(move |line| line.map_err(|error| unusable(&path, &error))))
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!(
        "{} cannot be read or written ({error}): run this as the user of the server, and see that the disk has room",
        path.display()
    ))
}

fn report(file: &LetterFile, unreadable: &[(usize, String)]) {
    for (line, error) in unreadable {
        eprintln!(
            "ringroom: line {line} of {} is no dead letter and stays there ({}); to mend or remove it, stop the \
             server first",
            file.path().display(),
            shortened(error, 200)
        );
    }
}

/// One line for a letter. What people wrote is kept from moving a terminal's cursor.
fn described(letter: &Letter) -> String {
    let Letter { refused_at, id, room, .. } = letter;
    let sender = shortened(&letter.sender_username, 20);
    let (reason, text) = (shortened(&letter.reason, 200), shortened(&letter.text, 40));
    let mut line = rfc3339(*refused_at);
    // Writing to a string cannot fail.
    let _ = write!(line, "  {id}  {room}  {sender}  {reason}  {text}");
    line
}

fn rfc3339(moment: Micros) -> String {
    let mut text = BytesMut::new();
    put_rfc3339(&mut text, moment);
    String::from_utf8_lossy(&text).into_owned()
}

/// So many characters at most, on one line.
fn shortened(text: &str, chars_max: usize) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    match text.char_indices().nth(chars_max) {
        None => text.chars().map(plain).collect(),
        Some(_) => text.chars().take(chars_max - 1).map(plain).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_shortened_by_characters_and_stays_on_its_line() {
        for (text, expected) in [
            ("", ""),
            ("grüße", "grüße"),
            ("123456", "123456"),
            ("1234567", "12345…"),
            ("äöüßäöü", "äöüßä…"),
            ("a\nb\u{1b}c", "a b c"),
        ] {
            assert_eq!(shortened(text, 6), expected);
        }
    }
}
