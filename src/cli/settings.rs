//! The flags that set keys of the configuration, made from its table: one a key, with its meaning and its default.
//!
//! Values go to `config` as they were typed; what they mean is not looked at here.

use std::{env, marker::PhantomData, path::PathBuf};

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, error::Error, value_parser};

use crate::{
    config::{Config, Flags, KEYS, Key, Scope, Typed},
    failure::Failure,
};

/// Which keys a command takes as flags.
pub(super) trait Offer {
    /// Does it take this one?
    fn offers(key: &Key) -> bool;
}

/// `serve` and `check-config`: every key.
pub(super) enum ForServer {}
/// `demo`: every key but which database.
pub(super) enum ForDemo {}
/// Administration: what leads to the database.
pub(super) enum ForDatabase {}
/// `journal`: what leads to its files.
pub(super) enum ForJournal {}

impl Offer for ForServer {
    fn offers(_: &Key) -> bool {
        true
    }
}

impl Offer for ForDemo {
    fn offers(key: &Key) -> bool {
        key.scope != Scope::Database
    }
}

impl Offer for ForDatabase {
    fn offers(key: &Key) -> bool {
        key.scope != Scope::Server
    }
}

impl Offer for ForJournal {
    fn offers(key: &Key) -> bool {
        matches!(key.name, "data_dir" | "log")
    }
}

/// The flags of one command.
pub(super) struct Settings<O> {
    flags: Flags,
    offer: PhantomData<O>,
}

impl<O: Offer> Settings<O> {
    /// Everything that was typed, these flags and the environment of this process included.
    pub(super) fn gather(self) -> Result<Typed, Failure> {
        Typed::gather(self.flags, env::vars_os())
    }

    /// The configuration in force.
    pub(super) fn check(self) -> Result<Config, Failure> {
        Config::check(&self.gather()?)
    }
}

impl<O: Offer> Args for Settings<O> {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config").long("config").value_name("FILE").value_parser(value_parser!(PathBuf));
        let file = file.help("TOML file of settings [variable: RINGROOM_CONFIG]").help_heading(HEADING);
        KEYS.iter().filter(|key| O::offers(key)).fold(command.arg(file), |command, key| command.arg(flag(key)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<O: Offer> FromArgMatches for Settings<O> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let typed = |key: &'static Key| Some((key.name, matches.get_one::<String>(key.name)?.clone()));
        let values = KEYS.iter().filter(|key| O::offers(key)).filter_map(typed).collect();
        Ok(Settings { flags: Flags { file: matches.get_one("config").cloned(), values }, offer: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

const HEADING: &str = "Settings";

fn flag(key: &'static Key) -> Arg {
    let default = if key.default.is_empty() { String::new() } else { format!(" [default: {}]", key.default) };
    Arg::new(key.name)
        .long(key.flag())
        .value_name(key.kind.placeholder())
        .help(format!("{}{default}", key.doc))
        .help_heading(HEADING)
}
