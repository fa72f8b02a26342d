//! `ringroom seed`: rooms, users and tokens in bulk, and a file that a load generator reads. The file is full of tokens,
//! so nobody else may read it.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::{Args, value_parser};

use super::{
    admin::with_admin,
    settings::{ForDatabase, Settings},
};
use crate::failure::Failure;

pub(super) const NOTES: &str = "\
Examples:
  ringroom seed --rooms 100 --users-per-room 100 --out fixtures.json
  ringroom seed --rooms 1 --users-per-room 200 --out - | gzip > fixtures.json.gz

Each run adds to what is there. FILE is one JSON object:
  {\"rooms\":[{\"room\":\"UUID\",\"users\":[{\"id\":\"…\",\"username\":\"…\",\"token\":\"…\"}]}]}";

#[derive(Args)]
pub(super) struct Seed {
    /// How many rooms to make
    #[arg(long, value_name = "R", value_parser = value_parser!(u32).range(1..=1_000_000))]
    rooms: u32,
    /// How many users to make for each room
    #[arg(long, value_name = "U", value_parser = value_parser!(u32).range(1..=1_000_000))]
    users_per_room: u32,
    /// The file to write, `-` for standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    settings: Settings<ForDatabase>,
}

impl Seed {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Seed { rooms, users_per_room, out, settings } = self;
        let config = settings.check()?;
        let unwritable = |error: io::Error| Failure::unusable(format!("cannot write {}: {error}", out.display()));
        // Opened before the work: a path that cannot be written must not cost the tokens of what was made.
        let mut file = create(&out).map_err(unwritable)?;
        eprintln!("ringroom: making {rooms} rooms with {users_per_room} users each in {}", config.database.url);
        let started = Instant::now();
        let seeded = with_admin(&config, async |admin| admin.seed(rooms, users_per_room).await)?;
        serde_json::to_writer(&mut file, &seeded).map_err(|error| unwritable(error.into()))?;
        file.write_all(b"\n").and_then(|()| file.flush()).map_err(unwritable)?;
        eprintln!("ringroom: done in {:.1} s, written to {}", started.elapsed().as_secs_f64(), out.display());
        Ok(())
    }
}

/// A file that its owner alone may read, or standard output.
fn create(out: &Path) -> io::Result<Box<dyn Write>> {
    if out == Path::new("-") {
        return Ok(Box::new(BufWriter::new(io::stdout().lock())));
    }
    let file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(out)?;
    Ok(Box::new(BufWriter::new(file)))
}
