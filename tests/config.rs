//! A key means the same wherever it is given; the later layer wins; nothing misspelt is passed over; the README says
//! what the program does.

#![allow(clippy::unwrap_used)]

use std::{ffi::OsString, fs, path::PathBuf, process, time::Duration};

use ringroom::{
    config::{Config, Flags, KEYS, Key, Kind, Source, Typed},
    failure::Failure,
    store::{DatabaseUrl, Names},
};

/// A configuration file that is removed with its test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let path = std::env::temp_dir().join(format!("ringroom-{}-{name}.toml", process::id()));
        fs::write(&path, text).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn gather(file: Option<&File>, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Typed, Failure> {
    let values = flags.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
    let variables = environment.iter().map(|(name, text)| (OsString::from(name), OsString::from(text)));
    Typed::gather(Flags { file: file.map(|file| file.0.clone()), values }, variables)
}

fn refusal(file: Option<&File>, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> String {
    let failure = gather(file, environment, flags).and_then(|typed| Config::check(&typed)).unwrap_err();
    assert_eq!(failure.exit_code(), 2, "{failure}");
    failure.to_string()
}

/// Some value of the key that is not its default.
fn another(key: &Key) -> &'static str {
    match key.kind {
        Kind::Address => "[::1]:0",
        Kind::Directory => "/var/lib/ringroom",
        Kind::DatabaseUrl => "postgres://ann@db.example/chat",
        Kind::Origins => "https://chat.example,http://localhost:3000",
        Kind::LogFilter => "warn",
        Kind::Durability => "commit",
        Kind::Count(..) if key.name == "lag_bytes_max" => "2097152",
        Kind::Count(..) if key.name.starts_with("journal_") => "20971520",
        Kind::Count(..) if key.name.starts_with("writer_queue") || key.name == "message_bytes_max" => "9000",
        Kind::Count(..) | Kind::Seconds(..) | Kind::Milliseconds(..) => "7",
    }
}

#[test]
fn the_defaults_are_a_whole_configuration() {
    let config = Config::check(&gather(None, &[], &[]).unwrap()).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8000");
    assert_eq!(config.ping_interval, Duration::from_secs(25));
    assert_eq!(config.commit_delay, Duration::ZERO);
    assert_eq!((config.message_chars_max, config.message_bytes_max, config.lag_bytes_max), (4096, 65_536, 1_048_576));
    assert!(config.origins.is_empty());
    assert_eq!(config.database.url.to_string(), "sqlite:./ringroom-data/ringroom.db");
}

#[test]
fn the_embedded_database_follows_the_data_directory() {
    let typed = gather(None, &[], &[("data_dir", "/srv/sqlite:odd")]).unwrap();
    let DatabaseUrl::Sqlite(path) = Config::check(&typed).unwrap().database.url else { panic!("not SQLite") };
    assert_eq!(path.to_str(), Some("/srv/sqlite:odd/ringroom.db"));
}

#[test]
fn every_key_is_taken_from_file_environment_and_flag_and_the_later_wins() {
    for key in KEYS {
        let text = another(key);
        let quoted = match key.kind {
            Kind::Origins => format!("['{}']", text.replace(',', "','")),
            kind if kind.is_number() => text.to_owned(),
            _ => format!("'{text}'"),
        };
        let file = File::new(key.name, &format!("{} = {quoted}", key.name));
        let variable = key.variable();
        let check = |typed: Typed, from: Source| {
            assert_eq!((typed.given(key.name).text.as_str(), &typed.given(key.name).from), (text, &from));
            Config::check(&typed).unwrap_or_else(|failure| panic!("{} from {from}: {failure}", key.name));
        };
        check(gather(Some(&file), &[], &[]).unwrap(), Source::File(file.0.clone()));
        check(gather(None, &[(&variable, text)], &[]).unwrap(), Source::Environment(variable.clone()));
        check(gather(None, &[], &[(key.name, text)]).unwrap(), Source::Flag);

        let wrong = File::new("wrong", &format!("{} = {}", key.name, if key.kind.is_number() { "0" } else { "'?'" }));
        if key.kind != Kind::Origins {
            check(gather(Some(&wrong), &[(&variable, text)], &[]).unwrap(), Source::Environment(variable.clone()));
        }
        check(gather(None, &[(&variable, "?")], &[(key.name, text)]).unwrap(), Source::Flag);
    }
}

#[test]
fn database_url_is_also_what_other_programs_call_it() {
    let theirs = ("DATABASE_URL", "postgres://theirs.example/chat");
    let ours = ("RINGROOM_DATABASE_URL", "postgres://ours.example/chat");
    for (environment, host) in [(vec![theirs], "theirs"), (vec![ours, theirs], "ours"), (vec![theirs, ours], "ours")] {
        let config = Config::check(&gather(None, &environment, &[]).unwrap()).unwrap();
        assert!(config.database.url.to_string().contains(host), "{:?}", config.database.url);
    }
}

#[test]
fn the_file_can_be_named_by_a_variable() {
    let file = File::new("named", "shards = 3");
    let typed = gather(None, &[("RINGROOM_CONFIG", file.0.to_str().unwrap())], &[]).unwrap();
    assert_eq!(Config::check(&typed).unwrap().shards, 3);
}

#[test]
fn tables_have_a_section_of_their_own() {
    let file = File::new("tables", "shards = 3\n[tables]\nmessages = 'im.message'");
    let config = Config::check(&gather(Some(&file), &[], &[]).unwrap()).unwrap();
    assert_eq!((config.shards, config.database.names.messages.as_str()), (3, "im.message"));
}

#[test]
fn what_is_no_key_is_refused_with_the_nearest_one() {
    for (line, words) in [
        ("ping_intervall_seconds = 5", "unknown key `ping_intervall_seconds`; did you mean `ping_interval_seconds`?"),
        ("colour = 'red'", "unknown key `colour`; `ringroom check-config` lists every key"),
        ("[table]\nusers = 'x'", "unknown key `table`"),
        ("[tables]\nuser = 'x'", "unknown field `user`"),
        ("[tables]\nusers = ''", "tables.users"),
        ("tables = 3", "unknown key `tables`"),
    ] {
        let file = File::new("unknown", line);
        let message = refusal(Some(&file), &[], &[]);
        assert!(message.contains(words) && message.contains(file.0.to_str().unwrap()), "{line}: {message}");
    }
    let message = refusal(None, &[("RINGROOM_SHARD", "2")], &[]);
    assert_eq!(message, "unknown environment variable `RINGROOM_SHARD`; did you mean `RINGROOM_SHARDS`?");
    assert!(gather(None, &[("RINGROOM_TEST_POSTGRES", "x"), ("RINGROOMS", "x")], &[]).is_ok());
}

#[test]
fn a_bad_value_is_refused_with_its_place_and_what_it_must_be() {
    for (name, text, words) in [
        ("listen", "localhost", "must be an IP address and a port"),
        ("shards", "257", "must be a whole number from 0 to 256"),
        ("ping_interval_seconds", "0", "must be a whole number of seconds from 1 to 86400"),
        ("commit_delay_ms", "1.5", "must be a whole number of milliseconds"),
        ("durability", "safe", "must be commit, sync, journal or none"),
        ("journal_bytes_max", "1", "must be a whole number from 4194304"),
        ("origins", "chat.example", "must be origins as browsers send them"),
        ("log", "ringroom=loud", "must be a filter such as"),
        ("data_dir", "", "must be the path of a directory"),
        ("database_url", "mysql://ann:hush@db/chat", "give postgres://USER:PASSWORD@HOST"),
    ] {
        let message = refusal(None, &[(&Key::find(name).unwrap().variable(), text)], &[]);
        let place = format!("`{name}` (environment RINGROOM_{})", name.to_uppercase());
        assert!(message.starts_with(&place) && message.contains(words), "{message}");
        assert!(!message.contains("hush") && !message.contains('\n'), "{message}");
    }
}

#[test]
fn values_that_cannot_hold_together_are_refused() {
    for (flags, words) in [
        (vec![("message_bytes_max", "4095")], "`message_chars_max` (4096) can never be reached"),
        (vec![("lag_bytes_max", "131071")], "`lag_bytes_max` (131071) must be at least twice"),
        (vec![("writer_queue_rows", "4095")], "`writer_queue_rows` (4095) must hold at least one full commit"),
        (vec![("save_timeout_seconds", "1"), ("commit_delay_ms", "1000")], "must be longer than `commit_delay_ms`"),
    ] {
        let message = refusal(None, &[], &flags);
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_file_in_error_is_told_by_place_without_its_text() {
    for (text, words) in [
        ("shards = 2\ndatabase_url = 'postgres://ann:hush@db/chat\n", "line 2 is not TOML"),
        ("database_url = ['postgres://ann:hush@db/chat']", "`database_url` must be postgres://USER"),
        ("shards = '2'", "without quotes"),
        ("listen = 8000", "in quotes"),
        ("origins = 'https://chat.example'", "an array of origins"),
        ("shards = 1\nshards = 2", "line 2"),
    ] {
        let message = refusal(Some(&File::new("broken", text)), &[], &[]);
        assert!(message.contains(words) && !message.contains("hush") && !message.contains('\n'), "{message}");
    }
    let missing = File(PathBuf::from("/nonexistent/ringroom.toml"));
    assert!(refusal(Some(&missing), &[], &[]).contains("/nonexistent/ringroom.toml: cannot be read"));
}

#[test]
fn the_readme_lists_every_key() {
    let mut table = String::from("| key | default | meaning |\n| --- | --- | --- |\n");
    for Key { name, default, doc, .. } in KEYS {
        let default = if default.is_empty() { "none".into() } else { format!("`{default}`") };
        table += &format!("| `{name}` | {default} | {doc} |\n");
    }
    let readme = include_str!("../README.md");
    assert!(readme.contains(&table), "the table in README.md should read\n\n{table}");
}

#[test]
fn the_readme_lists_every_table_and_column() {
    let section = format!("[tables]\n{}", toml::to_string(&Names::default()).unwrap());
    assert!(include_str!("../README.md").contains(&section), "the section in README.md should read\n\n{section}");
}
