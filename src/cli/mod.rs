//! The command line: words come in, one command runs, its answer goes to standard output and a [`Failure`] to the caller.
//!
//! Runs on the main thread. `serve` and `demo` end in `server`; `journal` reads files, the others ask the database through
//! `store::Admin`. A token reaches standard output only where it was asked for.

mod admin;
mod check_config;
mod dead_letters;
mod demo;
mod journal;
mod room;
mod seed;
mod serve;
mod settings;
mod token;
mod user;

use std::io::{self, ErrorKind, IsTerminal, Write};

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use self::settings::{ForDatabase, ForServer, Settings};
use crate::{config::Config, failure::Failure};

const EXAMPLES: &str = "\
Examples:
  ringroom demo                                   try it: a room, two users, a page for each
  ringroom migrate                                make the tables of DATABASE_URL
  ringroom serve --listen 0.0.0.0:8000            serve them
  ringroom user create ann && ringroom token create ann
  ringroom room create general && ringroom room add general ann bob

Every setting is a key of a TOML file (--config FILE), a variable RINGROOM_KEY and a flag --key; the flag wins over the
variable, the variable over the file. `ringroom check-config` prints what is in force and where it comes from.
Exit code: 0 done, 1 failed on the way, 2 cannot be done as asked.";

/// A chat server for Linux: WebSocket rooms on io_uring, saved in Postgres or SQLite.
#[derive(Parser)]
#[command(name = "ringroom", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the chat rooms of a database
    #[command(after_help = serve::NOTES)]
    Serve(Settings<ForServer>),
    /// Start a chat to try: an embedded database with a room and two users
    #[command(after_help = demo::NOTES)]
    Demo(Settings<settings::ForDemo>),
    /// Make the tables that are missing, or bring them up to date
    #[command(after_help = admin::MIGRATE_NOTES)]
    Migrate(Asked),
    /// Create, list and deactivate users
    #[command(subcommand)]
    User(user::Command),
    /// Create and revoke the tokens that users connect with
    #[command(subcommand)]
    Token(token::Command),
    /// Create and list rooms, add and remove members
    #[command(subcommand)]
    Room(room::Command),
    /// Read the journal, off-line: what the database may lack
    #[command(subcommand)]
    Journal(journal::Command),
    /// Fill a database with rooms, users and tokens for a load test
    #[command(after_help = seed::NOTES)]
    Seed(seed::Seed),
    /// List, try again and drop messages that the database refused after they were broadcast
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Print every setting in force and where it comes from, secrets masked
    #[command(after_help = check_config::NOTES)]
    CheckConfig(check_config::CheckConfig),
}

/// What every command of administration takes.
#[derive(Args)]
struct Asked {
    /// Answer with one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings<ForDatabase>,
}

impl Cli {
    /// Runs the command to its end.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Serve(settings) => serve::run(settings),
            Command::Demo(settings) => demo::run(settings),
            Command::Migrate(asked) => admin::migrate(asked),
            Command::User(command) => command.run(),
            Command::Token(command) => command.run(),
            Command::Room(command) => command.run(),
            Command::Journal(command) => command.run(),
            Command::Seed(seed) => seed.run(),
            Command::DeadLetters(command) => command.run(),
            Command::CheckConfig(check_config) => check_config.run(),
        }
    }
}

/// Sends log lines to standard error from here on, as `log` says.
fn start_log(config: &Config) {
    let filter = EnvFilter::try_new(&config.log).expect("Config::check has parsed it");
    let terminal = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(terminal).with_writer(io::stderr).init();
}

/// Prints a command's answer: the JSON on one line if asked for, else the text.
fn answer(json: bool, value: impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
    if !json {
        return print(&text());
    }
    let line = serde_json::to_string(&value).map_err(|error| Failure::failed(format!("answer in JSON: {error}")))?;
    print(&line)
}

/// Writes a text and a line end to standard output; nothing at all for an empty text. A reader that has seen enough,
/// such as `head`, is no failure.
fn print(text: &str) -> Result<(), Failure> {
    if text.is_empty() {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
