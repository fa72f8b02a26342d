//! `ringroom journal`: reads a journal off-line, whoever wrote it. Takes no lock and changes nothing; start-up is what
//! mends a journal.

use std::{
    io::{self, BufWriter, ErrorKind, Write},
    ops::Range,
    path::PathBuf,
};

use bytes::BytesMut;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    answer,
    settings::{ForJournal, Settings},
    start_log,
};
use crate::{
    failure::Failure,
    journal::{
        error::JournalError,
        place::{directory_in, owner},
        record::Record,
        scan::Found,
        survey::{Contents, Segment, survey},
    },
    stamp::{RFC_3339_BYTES, put_rfc3339},
    store::Micros,
};

const INSPECT_NOTES: &str = "\
Examples:
  ringroom journal inspect
  ringroom journal inspect --data-dir /var/lib/ringroom --json
  ringroom journal inspect --messages | jq -r .text

What lies there is not in the database yet, or was not when the server ended. With --messages every message is a line:
  {\"id\":\"UUID\",\"room\":\"UUID\",\"sender\":\"…\",\"receiver\":null,\"timestamp\":\"…Z\",\"text\":\"…\"}
Nothing is changed. While a server runs, the tail of its journal moves.";

const VERIFY_NOTES: &str = "\
Examples:
  ringroom journal verify
  ringroom journal verify --data-dir /mnt/backup/ringroom --json

Exit code 0: everything can be read. 1: something is torn (the last write before a crash) or damaged, a line each.
2: the journal cannot be read, because there is none or a newer ringroom wrote it. Nothing is changed.";

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show what is in each file of the journal, or every message
    #[command(after_help = INSPECT_NOTES)]
    Inspect {
        /// List every message, as a line of JSON
        #[arg(long)]
        messages: bool,
        #[command(flatten)]
        asked: Asked,
    },
    /// Find out whether all of the journal can be read
    #[command(after_help = VERIFY_NOTES)]
    Verify(Asked),
}

#[derive(Args)]
pub(super) struct Asked {
    /// Answer with one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings<ForJournal>,
}

impl Command {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Command::Inspect { messages: true, asked } => list(asked),
            Command::Inspect { messages: false, asked } => inspect(asked),
            Command::Verify(asked) => verify(asked),
        }
    }
}

impl From<JournalError> for Failure {
    /// Something has to change before it is of use to try again.
    fn from(error: JournalError) -> Failure {
        Failure::unusable(error.to_string())
    }
}

/// The journal of a data directory, as it is found.
struct Journal {
    directory: PathBuf,
    segments: Vec<Segment>,
    /// The server that writes it meanwhile.
    in_use_by: Option<u32>,
}

impl Journal {
    fn find(settings: Settings<ForJournal>) -> Result<Journal, Failure> {
        let config = settings.check()?;
        start_log(&config);
        let directory = directory_in(&config.data_dir);
        let in_use_by = owner(&directory);
        if let Some(pid) = in_use_by {
            eprintln!("ringroom: process {pid} is serving with this journal: its tail moves while it is read");
        }
        Ok(Journal { segments: survey(&directory)?, directory, in_use_by })
    }

    fn used(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| !segment.is_ready())
    }

    /// What is in each segment that was used.
    fn contents(&self) -> Result<Vec<(&Segment, Contents)>, Failure> {
        let (mut all, mut bytes) = (Vec::new(), Vec::new());
        for segment in self.used() {
            if read(segment, &mut bytes)? {
                all.push((segment, segment.scan(&bytes).collect()));
            }
        }
        Ok(all)
    }
}

/// Reads a segment, and says whether it was there: if not, the server has saved it meanwhile.
fn read(segment: &Segment, bytes: &mut Vec<u8>) -> Result<bool, Failure> {
    match segment.read(bytes) {
        Err(JournalError::Io { error, .. }) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(true),
    }
}

fn inspect(Asked { json, settings }: Asked) -> Result<(), Failure> {
    let journal = Journal::find(settings)?;
    let all = journal.contents()?;
    let ready: Vec<_> = journal.segments.iter().filter(|segment| segment.is_ready()).map(Segment::name).collect();
    let object = json!({
        "directory": journal.directory,
        "in_use_by": journal.in_use_by,
        "segments": all.iter().map(|(segment, contents)| segment_object(segment, contents)).collect::<Vec<_>>(),
        "ready": ready,
        "messages": messages(&all),
        "problems": problems(&all).len(),
    });
    answer(json, object, || {
        let used = all.iter().map(|(segment, contents)| segment_lines(segment, contents));
        let unused = ready.iter().map(|name| format!("{name}  made ready, not used yet"));
        used.chain(unused).chain([summary(&all)]).collect::<Vec<_>>().join("\n")
    })
}

fn verify(Asked { json, settings }: Asked) -> Result<(), Failure> {
    let journal = Journal::find(settings)?;
    let all = journal.contents()?;
    let problems = problems(&all);
    let objects: Vec<_> = problems.iter().map(Problem::object).collect();
    let object = json!({ "whole": problems.is_empty(), "messages": messages(&all), "problems": objects });
    answer(json, object, || match problems.is_empty() {
        true => format!("whole: {}", summary(&all)),
        false => problems.iter().map(Problem::line).collect::<Vec<_>>().join("\n"),
    })?;
    match problems.len() {
        0 => Ok(()),
        count => Err(Failure::failed(format!(
            "{} of the journal cannot be read; when the server starts, it cuts off what is torn, keeps a copy \
             of what is damaged, and saves all the rest",
            counted(count as u64, "place")
        ))),
    }
}

/// Writes every message that can be read as a line of JSON, and to standard error what cannot be read.
fn list(Asked { settings, .. }: Asked) -> Result<(), Failure> {
    let journal = Journal::find(settings)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut bytes = Vec::new();
    for segment in journal.used() {
        if read(segment, &mut bytes)?
            && let Err(error) = segment.scan(&bytes).try_for_each(|found| list_one(&mut out, segment, found))
        {
            return unwritten(error);
        }
    }
    out.flush().or_else(unwritten)
}

fn list_one(out: &mut impl Write, segment: &Segment, found: Found<'_>) -> io::Result<()> {
    let (kind, range) = match found {
        Found::Record { record, .. } => return writeln!(out, "{}", message_object(&record)),
        Found::Damaged(range) => (DAMAGED, range),
        Found::Torn(range) => (TORN, range),
    };
    eprintln!("ringroom: {}", Problem { segment, kind, range }.line());
    Ok(())
}

/// A reader that has seen enough, such as `head`, is no failure.
fn unwritten(error: io::Error) -> Result<(), Failure> {
    match error.kind() {
        ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Failure::failed(format!("standard output cannot be written: {error}"))),
    }
}

const DAMAGED: &str = "damaged";
const TORN: &str = "torn";

/// A place of which nothing can be read.
struct Problem<'a> {
    segment: &'a Segment,
    kind: &'static str,
    range: Range<u32>,
}

fn problems<'a>(all: &[(&'a Segment, Contents)]) -> Vec<Problem<'a>> {
    let of = |(segment, contents): &(&'a Segment, Contents)| {
        let damaged = contents.damaged.iter().map(|range| (DAMAGED, range));
        let problem = |(kind, range): (_, &Range<u32>)| Problem { segment, kind, range: range.clone() };
        damaged.chain(contents.torn.iter().map(|range| (TORN, range))).map(problem).collect::<Vec<_>>()
    };
    all.iter().flat_map(of).collect()
}

impl Problem<'_> {
    fn line(&self) -> String {
        format!("{}: {}, {} bytes at {}", self.segment.name(), self.kind, self.range.len(), self.range.start)
    }

    fn object(&self) -> Value {
        json!({
            "file": self.segment.name(),
            "kind": self.kind,
            "offset": self.range.start,
            "bytes": self.range.len(),
        })
    }
}

fn messages(all: &[(&Segment, Contents)]) -> u64 {
    all.iter().map(|(_, contents)| contents.messages).sum()
}

fn summary(all: &[(&Segment, Contents)]) -> String {
    let counts = format!("{} in {}", counted(messages(all), "message"), counted(all.len() as u64, "segment"));
    match problems(all).len() as u64 {
        0 => counts,
        count => format!("{counts}, {} cannot be read", counted(count, "place")),
    }
}

fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn segment_lines(segment: &Segment, contents: &Contents) -> String {
    let mut text = format!("{}  {}", segment.name(), counted(contents.messages, "message"));
    if let (Some((first, last)), Some((oldest, newest))) = (contents.sequences, contents.times) {
        text += &format!(", sequences {first} to {last}, {} bytes", used_bytes(contents));
        text += &format!(", {} to {}", rfc3339(oldest), rfc3339(newest));
    }
    let problems = problems(&[(segment, contents.clone())]);
    problems.iter().for_each(|problem| text += &format!("\n  {}", problem.line()));
    text
}

fn segment_object(segment: &Segment, contents: &Contents) -> Value {
    let range = |range: &Range<u32>| json!({ "offset": range.start, "bytes": range.len() });
    json!({
        "file": segment.name(),
        "shard": segment.shard,
        "number": segment.number,
        "messages": contents.messages,
        "first_sequence": contents.sequences.map(|(first, _)| first),
        "last_sequence": contents.sequences.map(|(_, last)| last),
        "bytes": used_bytes(contents),
        "oldest": contents.times.map(|(oldest, _)| rfc3339(oldest)),
        "newest": contents.times.map(|(_, newest)| rfc3339(newest)),
        "damaged": contents.damaged.iter().map(range).collect::<Vec<_>>(),
        "torn": contents.torn.as_ref().map(range),
    })
}

fn message_object(Record { row, .. }: &Record<'_>) -> Value {
    json!({
        "id": row.id,
        "room": row.room,
        "sender": row.sender.to_string(),
        "receiver": row.receiver.map(|receiver| receiver.to_string()),
        "timestamp": rfc3339(row.timestamp),
        "text": row.content,
    })
}

/// Bytes of the file up to the end of its last record.
fn used_bytes(contents: &Contents) -> u32 {
    contents.pieces.last().map_or(0, |piece| piece.end)
}

fn rfc3339(timestamp: Micros) -> String {
    let mut out = BytesMut::with_capacity(RFC_3339_BYTES);
    put_rfc3339(&mut out, timestamp);
    String::from_utf8_lossy(&out).into_owned()
}
