//! One's own load: a TOML file, or a few flags; checked here once. What is wrong is told with its line and what to do.

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::demand::{Class, Demand};

/// Everything that is asked of a server, over a day.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Profile {
    pub(crate) durability: Option<String>,
    pub(crate) database: Option<String>,
    /// How busy a shard's core is to be, at the peak.
    pub(crate) target_utilisation: Option<f64>,
    /// What the 99th percentile may be at most, at the peak.
    pub(crate) p99_ms: Option<f64>,
    /// How soon everyone must be back after a restart.
    pub(crate) reconnect_seconds: f64,
    pub(crate) rooms: Vec<Rooms>,
}

/// Rooms that are alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Rooms {
    pub(crate) name: String,
    pub(crate) count: f64,
    /// Of each.
    pub(crate) members: f64,
    /// Share of them that is connected.
    pub(crate) online: f64,
    /// In each room, over the day.
    pub(crate) messages_per_second: f64,
    pub(crate) text_bytes: f64,
    /// The rate at the busiest time, over that of the day.
    pub(crate) peak: f64,
}

/// The longest text: frames are counted by writing one.
pub(crate) const TEXT_BYTES_MAX: f64 = 65_536.0;

const RECONNECT_SECONDS: f64 = 60.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProfile {
    durability: Option<Spanned<String>>,
    database: Option<Spanned<String>>,
    target_utilisation: Option<Spanned<f64>>,
    p99_ms: Option<Spanned<f64>>,
    reconnect_seconds: Option<Spanned<f64>>,
    rooms: Vec<Spanned<RawRooms>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRooms {
    name: Option<String>,
    count: Spanned<f64>,
    members: Spanned<f64>,
    online: Option<Spanned<f64>>,
    messages_per_second: Option<Spanned<f64>>,
    messages_per_second_per_member: Option<Spanned<f64>>,
    text_bytes: Spanned<f64>,
    peak: Option<Spanned<f64>>,
}

/// A value that cannot be meant: where it stands, and why.
type Wrong = (Range<usize>, String);

impl Profile {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or says what cannot be meant.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("profile {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|why| format!("profile {}: {why}", path.display()))
    }

    /// Takes the text of a profile.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let raw: RawProfile = toml::from_str(text).map_err(|error| {
            let place = error.span().map_or(1, |span| line(span.start));
            format!("line {place}: {}; perf/profiles/example.toml shows every key", error.message())
        })?;
        raw.check().map_err(|(span, why)| format!("line {}: {why}", line(span.start)))
    }

    /// `users` people who sit in `rooms` rooms of `members` each, and say `messages_per_second` each.
    ///
    /// # Errors
    /// There are fewer seats than people.
    pub(crate) fn simple(
        users: f64,
        rooms: f64,
        members: f64,
        messages_per_second: f64,
        text_bytes: f64,
    ) -> Result<Self, String> {
        if rooms * members < users {
            let seats = rooms * members;
            return Err(format!(
                "--users {users}, but --rooms {rooms} of --members {members} have {seats} seats; give more of either"
            ));
        }
        let all = Rooms {
            name: "all rooms".into(),
            count: rooms,
            members,
            online: 1.0,
            messages_per_second: users * messages_per_second / rooms,
            text_bytes,
            peak: 1.0,
        };
        let (durability, database, target_utilisation, p99_ms) = (None, None, None, None);
        Ok(Self {
            durability,
            database,
            target_utilisation,
            p99_ms,
            reconnect_seconds: RECONNECT_SECONDS,
            rooms: vec![all],
        })
    }

    /// At the busiest time.
    pub(crate) fn peak(&self) -> Demand {
        self.demand(|rooms| rooms.messages_per_second * rooms.peak)
    }

    /// Over the day.
    pub(crate) fn average(&self) -> Demand {
        self.demand(|rooms| rooms.messages_per_second)
    }

    fn demand(&self, rate: impl Fn(&Rooms) -> f64) -> Demand {
        let class = |rooms: &Rooms| Class {
            rooms: rooms.count,
            members: rooms.members * rooms.online,
            messages_per_second: rate(rooms),
            text_bytes: rooms.text_bytes,
            here: 1.0,
        };
        Demand { classes: self.rooms.iter().map(class).collect() }
    }
}

impl RawProfile {
    fn check(self) -> Result<Profile, Wrong> {
        if self.rooms.is_empty() {
            return Err((0..0, "there are no rooms; begin each kind of room with [[rooms]]".into()));
        }
        Ok(Profile {
            durability: word(self.durability, "durability", &["commit", "sync", "journal", "none"])?,
            database: word(self.database, "database", &["sqlite", "postgres"])?,
            target_utilisation: within(self.target_utilisation, "target_utilisation", 0.01, 1.0)?,
            p99_ms: within(self.p99_ms, "p99_ms", 0.001, 1e6)?,
            reconnect_seconds: within(self.reconnect_seconds, "reconnect_seconds", 0.1, 1e6)?
                .unwrap_or(RECONNECT_SECONDS),
            rooms: self
                .rooms
                .into_iter()
                .enumerate()
                .map(|(nth, rooms)| check_rooms(rooms, nth))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// One kind of room.
fn check_rooms(rooms: Spanned<RawRooms>, nth: usize) -> Result<Rooms, Wrong> {
    let span = rooms.span();
    let raw = rooms.into_inner();
    let members = need(raw.members, "members", 1.0, 1e9)?;
    let online = within(raw.online, "online", 0.0, 1.0)?.unwrap_or(1.0);
    let of_room = within(raw.messages_per_second, "messages_per_second", 0.0, 1e9)?;
    let of_member = within(raw.messages_per_second_per_member, "messages_per_second_per_member", 0.0, 1e9)?;
    let messages_per_second = match (of_room, of_member) {
        (Some(rate), None) => rate,
        (None, Some(rate)) => rate * members * online,
        _ => {
            let why =
                "give either messages_per_second (of a room) or messages_per_second_per_member (of one connected)";
            return Err((span, why.into()));
        }
    };
    Ok(Rooms {
        name: raw.name.unwrap_or_else(|| format!("rooms {}", nth + 1)),
        count: need(raw.count, "count", 1.0, 1e9)?,
        members,
        online,
        messages_per_second,
        text_bytes: need(raw.text_bytes, "text_bytes", 1.0, TEXT_BYTES_MAX)?,
        peak: within(raw.peak, "peak", 1.0, 1e4)?.unwrap_or(1.0),
    })
}

fn need(value: Spanned<f64>, name: &str, least: f64, most: f64) -> Result<f64, Wrong> {
    let span = value.span();
    let number = value.into_inner();
    if (least..=most).contains(&number) {
        return Ok(number);
    }
    Err((span, format!("{name} = {number} is not within {least} to {most}")))
}

fn within(value: Option<Spanned<f64>>, name: &str, least: f64, most: f64) -> Result<Option<f64>, Wrong> {
    value.map(|value| need(value, name, least, most)).transpose()
}

fn word(value: Option<Spanned<String>>, name: &str, words: &[&str]) -> Result<Option<String>, Wrong> {
    let Some(value) = value else { return Ok(None) };
    let span = value.span();
    let word = value.into_inner();
    if words.contains(&word.as_str()) {
        return Ok(Some(word));
    }
    Err((span, format!("{name} = {word:?} is none of {}", words.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMS: &str = "[[rooms]]\ncount = 10\nmembers = 20\nonline = 0.5\nmessages_per_second = 2\ntext_bytes = 80\n";

    #[test]
    fn a_profile_is_what_it_says() {
        let text = format!(
            "durability = \"sync\"\n{ROOMS}peak = 3\n\n[[rooms]]\nname = \"big\"\ncount = 1\nmembers = 100\nmessages_per_second_per_member = 0.1\ntext_bytes = 10\n"
        );
        let profile = Profile::parse(&text).unwrap();
        assert_eq!(profile.durability.as_deref(), Some("sync"));
        let (average, peak) = (profile.average(), profile.peak());
        assert_eq!((average.connections(), average.messages(), peak.messages()), (200.0, 30.0, 70.0));
        assert_eq!((profile.rooms[0].name.as_str(), profile.rooms[1].name.as_str()), ("rooms 1", "big"));
        assert_eq!(profile.reconnect_seconds, 60.0);
    }

    #[test]
    fn what_cannot_be_meant_is_told_with_its_line() {
        for (text, words) in [
            ("", ["line 1", "rooms"]),
            ("rooms = []", ["line 1", "[[rooms]]"]),
            ("durability = \"always\"\n", ["line 1", "rooms"]),
            (&format!("durability = \"always\"\n{ROOMS}"), ["line 1", "commit, sync"]),
            (&format!("\n\ndatabase = \"mysql\"\n{ROOMS}"), ["line 3", "sqlite, postgres"]),
            (&format!("target_utilisation = 2\n{ROOMS}"), ["line 1", "0.01 to 1"]),
            (&format!("{ROOMS}colour = 1\n"), ["line 7", "colour"]),
            (&format!("{ROOMS}peak = 0.5\n"), ["line 7", "peak = 0.5"]),
            (&format!("{ROOMS}peak = \"high\"\n"), ["line 7", "example.toml"]),
            (&format!("{ROOMS}messages_per_second_per_member = 1\n"), ["line 1", "either"]),
            (&ROOMS.replace("count = 10", "count = 0"), ["line 2", "count = 0"]),
            (&ROOMS.replace("online = 0.5", "online = nan"), ["line 4", "online = NaN"]),
            (&ROOMS.replace("messages_per_second = 2\n", ""), ["line 1", "either"]),
            (&ROOMS.replace("members = 20\n", ""), ["line 1", "members"]),
            ("[[rooms]\n", ["line 1", ""]),
        ] {
            let why = Profile::parse(text).unwrap_err();
            assert!(words.iter().all(|word| why.contains(word)), "{text:?}: {why}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        assert!(Profile::read(Path::new("/no/such/profile")).unwrap_err().contains("/no/such/profile"));
    }

    #[test]
    fn the_example_is_a_profile() {
        let profile = Profile::parse(include_str!("../../profiles/example.toml")).unwrap();
        assert!(profile.rooms.len() > 2 && profile.peak().messages() > profile.average().messages());
    }

    #[test]
    fn flags_are_a_profile_of_one_kind_of_room() {
        let profile = Profile::simple(1000.0, 100.0, 20.0, 0.1, 64.0).unwrap();
        let demand = profile.peak();
        assert_eq!((demand.connections(), demand.messages()), (2000.0, 100.0));
        assert!(Profile::simple(1000.0, 10.0, 20.0, 0.1, 64.0).unwrap_err().contains("200 seats"));
    }
}
