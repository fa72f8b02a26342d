//! The program itself, as people and scripts run it: every command on SQLite, the shape of every answer, and for
//! everything that cannot be done one message, no secret in it, and exit code 2.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use uuid::Uuid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringroom");

/// No wait in these tests is longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// A directory of one test's own, and the program run in it without the variables of whoever runs the tests.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        let path = std::env::temp_dir().join(format!("ringroom-{}", Uuid::new_v4()));
        fs::create_dir(&path).unwrap();
        Place(path)
    }

    /// A place with the tables made.
    fn migrated() -> Place {
        let place = Place::new();
        place.ok(&["migrate"]);
        place
    }

    /// A command that is to end by itself, and soon.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", &DEADLINE.as_secs().to_string(), PROGRAM]);
        self.set_up(command, arguments)
    }

    fn set_up(&self, mut command: Command, arguments: &[&str]) -> Command {
        let ours = std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("RINGROOM_"));
        ours.chain(["DATABASE_URL".to_owned()]).for_each(|name| {
            command.env_remove(name);
        });
        command.args(arguments).current_dir(&self.0).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What it prints, without the last line end.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.ok(&[arguments, &["--json"]].concat());
        assert_eq!(printed.lines().count(), 1, "{arguments:?}: {printed}");
        serde_json::from_str(&printed).unwrap()
    }

    /// The one line that it refuses with.
    fn refusal(&self, arguments: &[&str]) -> String {
        refusal(self.command(arguments))
    }

    /// Starts a server and waits for standard output to hold a line with `until` in it.
    fn start(&self, arguments: &[&str], environment: &[(&str, &str)], until: &str) -> (Server, String) {
        let mut command = self.set_up(Command::new(PROGRAM), arguments);
        command.envs(environment.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut server = Server(child);
        let mut printed = String::new();
        while !printed.contains(until) {
            match lines.recv_timeout(DEADLINE) {
                Ok(line) => printed += &(line + "\n"),
                Err(_) => panic!("{arguments:?} printed {printed:?} and {:?}", server.end()),
            }
        }
        (server, printed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server that ends with its test.
struct Server(Child);

impl Server {
    /// Asks it to end, and returns its exit code and what it wrote to standard error.
    fn end(&mut self) -> (Option<i32>, String) {
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let until = Instant::now() + DEADLINE;
        let status = loop {
            match self.0.try_wait().unwrap() {
                Some(status) => break status.code(),
                None if Instant::now() > until => break self.0.kill().err().and(None),
                None => thread::sleep(Duration::from_millis(10)),
            }
        };
        let mut errors = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (status, errors)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn refusal(mut command: Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code(), out.as_str()), (Some(2), ""), "{command:?}: {err}");
    assert_eq!(err.trim_end().lines().count(), 1, "one message: {err}");
    err
}

fn uuid(value: &Value) -> Uuid {
    value.as_str().unwrap().parse().unwrap()
}

#[test]
fn migrating_makes_the_tables_once() {
    let place = Place::new();
    let first = place.json(&["migrate"]);
    assert!(!first["applied"].as_array().unwrap().is_empty() && first["already_there"] == json!([]), "{first}");
    assert!(place.0.join("ringroom-data/ringroom.db").exists());
    assert_eq!(place.json(&["migrate"]), json!({"applied": [], "already_there": []}));
    assert_eq!(place.ok(&["migrate"]), "the database is up to date");
}

#[test]
fn users_are_made_listed_and_deactivated() {
    let place = Place::migrated();
    assert_eq!((place.ok(&["user", "list"]).as_str(), place.json(&["user", "list"])), ("", json!([])));

    let ann = place.json(&["user", "create", "ann"]);
    assert_eq!(ann, json!({"id": uuid(&ann["id"]), "username": "ann"}));
    let id = Uuid::new_v4().to_string();
    assert_eq!(place.ok(&["user", "create", "bob", "--id", &id]), id);

    assert_eq!(place.json(&["user", "deactivate", "ann"]), json!({"username": "ann", "active": false}));
    let listed = json!([
        {"id": ann["id"], "username": "ann", "active": false},
        {"id": id, "username": "bob", "active": true},
    ]);
    assert_eq!(place.json(&["user", "list"]), listed);
    let lines = format!("{}  ann  (not active)\n{id}  bob", ann["id"].as_str().unwrap());
    assert_eq!(place.ok(&["user", "list"]), lines);
}

#[test]
fn a_user_has_one_token_until_it_is_revoked() {
    let place = Place::migrated();
    place.ok(&["user", "create", "ann"]);
    let first = place.json(&["token", "create", "ann"]);
    let key = first["token"].as_str().unwrap();
    assert_eq!(first, json!({"username": "ann", "token": key, "created": true}));
    assert!(key.len() == 40 && key.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
    assert_eq!(place.ok(&["token", "create", "ann"]), key);
    assert_eq!(place.json(&["token", "create", "ann"])["created"], false);

    assert_eq!(place.json(&["token", "revoke", "ann"]), json!({"username": "ann", "revoked": true}));
    assert_eq!(place.json(&["token", "revoke", "ann"])["revoked"], false);
    assert_ne!(place.ok(&["token", "create", "ann"]), key);
}

#[test]
fn rooms_are_made_listed_and_filled_by_id_or_name() {
    let place = Place::migrated();
    place.ok(&["user", "create", "ann"]);
    place.ok(&["user", "create", "bob"]);
    let general = place.json(&["room", "create", "general"]);
    let id = uuid(&general["id"]).to_string();
    assert_eq!(general, json!({"id": id, "name": "general"}));
    let other = Uuid::new_v4().to_string();
    assert_eq!(place.ok(&["room", "create", "other", "--id", &other]), other);

    assert_eq!(place.json(&["room", "add", "general", "ann", "bob"]), json!({"room": id, "added": 2}));
    assert_eq!(place.json(&["room", "add", &id, "ann"]), json!({"room": id, "added": 0}));
    assert_eq!(place.ok(&["room", "add", "other", "ann"]), "added 1 to other");
    assert_eq!(place.json(&["room", "remove", "general", "bob"]), json!({"room": id, "removed": 1}));
    let listed = json!([
        {"id": id, "name": "general", "members": 1},
        {"id": other, "name": "other", "members": 1},
    ]);
    assert_eq!(place.json(&["room", "list"]), listed);
    assert_eq!(place.ok(&["room", "list"]).lines().count(), 2);
}

#[test]
fn seeding_writes_a_file_that_its_owner_alone_may_read() {
    let place = Place::migrated();
    let output = place.run(&["seed", "--rooms", "3", "--users-per-room", "5", "--out", "seed.json"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout.is_empty(), "{errors}");
    assert!(errors.contains("3 rooms with 5 users each") && errors.contains("seed.json"), "progress: {errors}");

    let file = place.0.join("seed.json");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    check_seed(&fs::read_to_string(file).unwrap(), 3, 5);
    check_seed(&place.ok(&["seed", "--rooms", "1", "--users-per-room", "2", "--out", "-"]), 1, 2);
    assert_eq!(place.json(&["user", "list"]).as_array().unwrap().len(), 17);
}

/// The shape that load generators read.
fn check_seed(text: &str, rooms: usize, users: usize) {
    let seeded: Value = serde_json::from_str(text).unwrap();
    assert_eq!(seeded.as_object().unwrap().keys().collect::<Vec<_>>(), ["rooms"]);
    let list = seeded["rooms"].as_array().unwrap();
    assert_eq!(list.len(), rooms);
    for room in list {
        uuid(&room["room"]);
        let list = room["users"].as_array().unwrap();
        assert_eq!(list.len(), users);
        for user in list {
            uuid(&user["id"]);
            assert!(user["username"].is_string() && user["token"].as_str().unwrap().len() == 40, "{user}");
        }
    }
}

#[test]
fn seeding_to_a_path_that_cannot_be_written_makes_nothing() {
    let place = Place::migrated();
    let message = place.refusal(&["seed", "--rooms", "1", "--users-per-room", "1", "--out", "missing/seed.json"]);
    assert!(message.contains("missing/seed.json"), "{message}");
    assert_eq!(place.json(&["user", "list"]), json!([]));
}

#[test]
fn what_a_database_refuses_is_one_message() {
    let place = Place::migrated();
    place.ok(&["user", "create", "ann"]);
    for (arguments, words) in [
        (&["user", "create", "ann"][..], "\"ann\" exists already"),
        (&["user", "deactivate", "zoe"], "no user \"zoe\""),
        (&["token", "create", "zoe"], "no user \"zoe\""),
        (&["token", "revoke", "zoe"], "no user \"zoe\""),
        (&["room", "add", "nowhere", "ann"], "no room \"nowhere\""),
    ] {
        let message = place.refusal(arguments);
        assert!(message.starts_with("ringroom: ") && message.contains(words), "{arguments:?}: {message}");
    }
}

#[test]
fn missing_tables_are_told_with_the_command_that_makes_them() {
    let place = Place::new();
    let message = place.refusal(&["user", "list"]);
    assert!(message.contains("ringroom migrate"), "{message}");
    fs::create_dir(place.0.join("ringroom-data")).unwrap();
    fs::write(place.0.join("ringroom-data/ringroom.db"), "").unwrap();
    for arguments in [&["user", "list"][..], &["room", "list"], &["token", "create", "ann"]] {
        let message = place.refusal(arguments);
        assert!(message.contains("ringroom migrate"), "{arguments:?}: {message}");
    }
}

#[test]
fn an_unreachable_database_is_one_message_without_its_password() {
    let place = Place::new();
    let url = "postgres://user:SECRET@127.0.0.1:1/x";
    for arguments in [&["user", "list"][..], &["migrate"], &["serve", "--listen", "127.0.0.1:0"]] {
        for log in ["info", "trace"] {
            let mut command = place.command(arguments);
            command.env("DATABASE_URL", url).env("RINGROOM_LOG", log);
            let output = command.output().unwrap();
            let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
            assert!(text.contains("127.0.0.1:1") && !text.contains("SECRET"), "{arguments:?}: {text}");
        }
        let mut command = place.command(arguments);
        command.env("DATABASE_URL", url);
        refusal(command);
    }
}

#[test]
fn a_bad_configuration_is_one_message() {
    let place = Place::new();
    fs::write(place.0.join("bad.toml"), "shard = 2").unwrap();
    fs::write(place.0.join("good.toml"), "shards = 2").unwrap();
    for (arguments, words) in [
        (&["check-config", "--config", "bad.toml"][..], "unknown key `shard`; did you mean `shards`?"),
        (&["serve", "--config", "bad.toml"], "unknown key `shard`"),
        (&["serve", "--config", "none.toml"], "none.toml: cannot be read"),
        (&["serve", "--config", "good.toml", "--shards", "many"], "`shards` (flag) is \"many\" but must be"),
        (&["serve", "--listen", "8000"], "`listen` (flag) is \"8000\" but must be an IP address and a port"),
        (&["demo", "--log", "ringroom=loud"], "`log` (flag)"),
        (&["user", "list", "--database-url", "mysql://u:SECRET@h/x"], "`database_url` (flag)"),
    ] {
        let message = place.refusal(arguments);
        assert!(message.contains(words) && !message.contains("SECRET"), "{arguments:?}: {message}");
    }
    let mut command = place.command(&["serve"]);
    command.env("RINGROOM_SHARD", "2");
    assert!(refusal(command).contains("unknown environment variable `RINGROOM_SHARD`"));
}

#[test]
fn a_journal_too_small_for_its_shards_is_refused_by_the_check_as_by_the_server_and_the_advice_holds() {
    let place = Place::new();
    let settings = |shards: &str, bytes_max: &str, segment: &str, message: &str| {
        let names = ["shards", "journal-bytes-max", "journal-segment-bytes", "message-bytes-max", "lag-bytes-max"];
        let values = [shards, bytes_max, segment, message, "1000000000"];
        names.iter().zip(values).flat_map(|(name, value)| [format!("--{name}"), value.to_owned()]).collect::<Vec<_>>()
    };
    let check = |command: &str, settings: &[String], durability: &str| {
        let words: Vec<&str> = settings.iter().map(String::as_str).collect();
        place.run(&[&[command, "--listen", "127.0.0.1:0", "--durability", durability], &words[..]].concat())
    };
    for (shards, bytes_max, segment, message, short) in [
        ("8", "4194304", "16777216", "65536", vec!["journal_bytes_max"]),
        ("1", "1073741824", "1048576", "1000000", vec!["journal_segment_bytes"]),
        ("256", "4194304", "1048576", "16777216", vec!["journal_bytes_max", "journal_segment_bytes"]),
    ] {
        let mut enough = [bytes_max.to_owned(), segment.to_owned()];
        let refusals = ["check-config", "serve", "demo"].map(|command| {
            let output = check(command, &settings(shards, bytes_max, segment, message), "sync");
            assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{command}: {output:?}");
            String::from_utf8(output.stderr).unwrap()
        });
        assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
        for (key, value) in ["journal_bytes_max", "journal_segment_bytes"].into_iter().zip(&mut enough) {
            let advice = refusals[0].split(&format!("`{key}` (")).nth(1);
            assert_eq!(advice.is_some(), short.contains(&key), "{key}: {}", refusals[0]);
            if let Some((_, least)) = advice.and_then(|rest| rest.split_once("to at least ")) {
                *value = least.chars().take_while(char::is_ascii_digit).collect();
            }
        }
        let enough = settings(shards, &enough[0], &enough[1], message);
        assert_eq!(check("check-config", &enough, "sync").status.code(), Some(0), "{enough:?}");
        for durability in ["commit", "none"] {
            let output = check("check-config", &settings(shards, bytes_max, segment, message), durability);
            assert_eq!(output.status.code(), Some(0), "{durability} has no journal: {output:?}");
        }
    }
    assert_eq!(fs::read_dir(&place.0).unwrap().count(), 0, "nothing was made");
}

#[test]
fn a_bad_command_line_exits_with_2() {
    let place = Place::new();
    for arguments in [
        &["sreve"][..],
        &[],
        &["serve", "--colour", "red"],
        &["demo", "--database-url", "sqlite:x"],
        &["user", "create"],
        &["user", "create", "ann", "--id", "one"],
        &["room", "add", "general"],
        &["seed", "--rooms", "0", "--users-per-room", "1", "--out", "-"],
    ] {
        let output = place.run(arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(fs::read_dir(&place.0).unwrap().count(), 0, "nothing was made");
}

#[test]
fn check_config_tells_what_is_in_force_and_gives_it_back() {
    let place = Place::new();
    fs::write(place.0.join("a.toml"), "shards = 3\norigins = ['https://a.example']\n[tables]\nusers = 'people'")
        .unwrap();
    let run = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        command.env("DATABASE_URL", "postgres://ann:SECRET@db.example/chat").env("RINGROOM_MESSAGE_BURST", "7");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!printed.contains("SECRET"), "{printed}");
        printed
    };
    let flags = ["check-config", "--config", "a.toml", "--drain-seconds", "1", "--json"];
    let answer: Value = serde_json::from_str(&run(&flags)).unwrap();
    for (key, value, from) in [
        ("shards", json!(3), "file a.toml"),
        ("origins", json!(["https://a.example"]), "file a.toml"),
        ("message_burst", json!(7), "environment RINGROOM_MESSAGE_BURST"),
        ("drain_seconds", json!(1), "flag"),
        ("listen", json!("127.0.0.1:8000"), "default"),
        ("database_url", json!("postgres://ann:***@db.example:5432/chat"), "environment DATABASE_URL"),
    ] {
        assert_eq!(answer[key], json!({"value": value, "from": from}), "{key}");
    }
    assert_eq!(answer["tables"]["users"], "people");

    let text = run(&flags[..flags.len() - 1]);
    assert!(text.contains("drain_seconds = 1") && text.contains("# flag"), "{text}");
    fs::write(place.0.join("b.toml"), &text).unwrap();
    let again: Value = serde_json::from_str(&place.ok(&["check-config", "--config", "b.toml", "--json"])).unwrap();
    for (key, entry) in again.as_object().unwrap() {
        assert_eq!(entry["value"], answer[key]["value"], "{key} is given back as it was");
    }
}

#[test]
fn help_names_every_command_and_every_flag() {
    let place = Place::new();
    let help = place.ok(&["--help"]);
    for command in ["serve", "demo", "migrate", "user", "token", "room", "journal", "seed", "check-config"] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
    let serve = place.ok(&["serve", "--help"]);
    for key in ringroom::config::KEYS {
        assert!(serve.contains(&format!("--{} <", key.flag())), "{}", key.name);
    }
    assert!(!place.ok(&["user", "create", "--help"]).contains("--listen"), "a flag without effect");
    assert!(place.ok(&["--version"]).starts_with("ringroom "));
}

#[test]
fn serve_prints_one_line_with_the_address_really_bound() {
    let place = Place::new();
    let (mut server, line) = place.start(&["serve", "--listen", "127.0.0.1:0", "--shards", "2"], &[], "listening");
    let port = line.strip_prefix("ringroom is listening on http://127.0.0.1:").unwrap();
    let (port, rest) = port.split_once(' ').unwrap();
    assert_ne!(port.parse::<u16>().unwrap(), 0);
    assert_eq!(rest, "(2 shards, sqlite:./ringroom-data/ringroom.db)\n");
    assert_eq!(place.json(&["user", "list"]), json!([]), "the embedded database was made and migrated");
    let (code, errors) = server.end();
    assert_eq!(code, Some(0), "{errors}");
}

#[test]
fn a_taken_port_is_one_message() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for command in ["serve", "demo"] {
        let message = place.refusal(&[command, "--listen", &address]);
        assert!(message.contains(&format!("port {} is taken", listener.local_addr().unwrap().port())), "{message}");
        assert!(message.contains("--listen"), "{message}");
    }
    assert!(!Path::new(&place.0).join("ringroom-data").exists(), "nothing was made");
}

#[test]
fn two_servers_do_not_share_a_port() {
    let place = Place::new();
    let (_server, line) = place.start(&["serve", "--listen", "127.0.0.1:0"], &[], "listening");
    let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap();
    assert!(place.refusal(&["demo", "--listen", address]).contains("is taken"));
}

#[test]
fn a_demo_invites_two_users_and_keeps_them() {
    let place = Place::new();
    // Whatever database others mean, the demo's is its own.
    let start = || {
        let arguments = ["demo", "--listen", "127.0.0.1:0", "--data-dir", "d"];
        let (mut server, printed) = place.start(&arguments, &[("DATABASE_URL", "postgres://127.0.0.1:1/x")], "Ctrl-C");
        assert_eq!(server.end().0, Some(0));
        printed
    };
    let first = start();
    let address = first.split("http://").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let secrets = |printed: &str| -> Vec<String> {
        let fragments = printed.lines().filter_map(|line| line.split_once("/#room=")).map(|(_, fragment)| fragment);
        fragments.map(str::to_owned).collect()
    };
    let fragments = secrets(&first);
    assert_eq!(fragments.len(), 2, "{first}");
    let (room, alice) = fragments[0].split_once("&token=").unwrap();
    assert_eq!(fragments[1].split_once("&token=").unwrap().0, room);
    let data = ["--data-dir", "d"];
    assert_eq!(place.ok(&[&["token", "create", "alice"][..], &data].concat()), alice);
    assert_eq!(
        place.json(&[&["room", "list"][..], &data].concat()),
        json!([{"id": room, "name": "lobby", "members": 2}])
    );
    check_pasted_lines(&first, &format!("ws://{address}/ws/chat/{room}/?token={alice}"));

    assert_eq!(secrets(&start()), fragments, "a second start keeps room and tokens");
    place.ok(&[&["token", "revoke", "bob"][..], &data].concat());
    place.ok(&[&["room", "remove", "lobby", "bob"][..], &data].concat());
    let third = secrets(&start());
    assert_eq!(third[0], fragments[0]);
    assert_ne!(third[1], fragments[1], "a missing token is made");
    assert_eq!(place.json(&[&["room", "list"][..], &data].concat())[0]["members"], 1, "whom somebody removed stays so");
}

/// What is to be pasted into a shell reaches the program whole: a shell reads the lines, in a directory without files
/// that `?` could match and with functions in the place of the two programs.
fn check_pasted_lines(printed: &str, url: &str) {
    for (tool, count) in [("websocat", "1"), ("wscat", "2")] {
        let line = printed.lines().map(str::trim).find(|line| line.starts_with(&format!("{tool} "))).unwrap();
        let script = format!("set -f; {tool}() {{ printf '%s %s' $# \"${{@:$#}}\"; }}; {line}");
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{count} {url}"), "{line}");
        let output = Command::new("bash").args(["-O", "failglob", "-c", &line.replacen(tool, "true", 1)]).output();
        assert!(output.unwrap().status.success(), "{line}");
    }
    let typed = printed.lines().map(str::trim).find(|line| line.starts_with('{')).unwrap();
    assert_eq!(serde_json::from_str::<Value>(typed).unwrap(), json!({"type": "chat_message", "message": "hello"}));
}
