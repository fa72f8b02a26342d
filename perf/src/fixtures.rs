//! Who may sit in which room: the file that `ringroom seed` writes, and the seats that a run takes from it.

use std::path::Path;

use serde::Deserialize;

/// Rooms with the users that are their members.
#[derive(Debug, Deserialize)]
pub(crate) struct Fixtures {
    rooms: Vec<Room>,
}

#[derive(Debug, Deserialize)]
struct Room {
    room: String,
    users: Vec<User>,
}

#[derive(Deserialize)]
struct User {
    username: String,
    token: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.username)
    }
}

/// One connection to be made: a user in a room.
#[derive(Clone, Copy)]
pub(crate) struct Seat<'a> {
    /// The room's UUID.
    pub(crate) room: &'a str,
    /// Who takes the seat.
    pub(crate) username: &'a str,
    /// What lets them in.
    pub(crate) token: &'a str,
}

impl Fixtures {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, is not such a file, or has a room or no room without users.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let said = |what: String| format!("fixtures {}: {what}; write them with `ringroom seed`", path.display());
        let text = std::fs::read(path).map_err(|error| said(error.to_string()))?;
        let fixtures: Self = serde_json::from_slice(&text).map_err(|error| said(error.to_string()))?;
        if fixtures.rooms.is_empty() || fixtures.rooms.iter().any(|room| room.users.is_empty()) {
            return Err(said("a room without users, or no room".into()));
        }
        Ok(fixtures)
    }

    /// `members` seats in each of the first `rooms` rooms, room after room. A room with fewer users than seats gives
    /// its users several each.
    ///
    /// # Errors
    /// There are not so many rooms.
    pub(crate) fn rooms(&self, rooms: usize, members: usize) -> Result<Vec<Seat<'_>>, String> {
        let chosen = self
            .rooms
            .get(..rooms)
            .ok_or_else(|| format!("--rooms {rooms}, but the fixtures hold {}; seed more", self.rooms.len()))?;
        Ok(chosen.iter().flat_map(|room| room.seats().cycle().take(members)).collect())
    }

    /// `count` seats spread evenly over all rooms; past the last user, the first again.
    pub(crate) fn spread(&self, count: usize) -> Vec<Seat<'_>> {
        let deepest = self.rooms.iter().map(|room| room.users.len()).max().unwrap_or(0);
        let rows = (0..deepest).flat_map(|row| self.rooms.iter().filter_map(move |room| room.seats().nth(row)));
        let all: Vec<_> = rows.collect();
        all.iter().copied().cycle().take(count).collect()
    }
}

impl Room {
    fn seats(&self) -> impl Iterator<Item = Seat<'_>> + Clone {
        self.users.iter().map(|user| Seat { room: &self.room, username: &user.username, token: &user.token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixtures() -> Fixtures {
        serde_json::from_str(
            r#"{"rooms":[{"room":"r1","users":[{"id":"1","username":"a","token":"s1"},{"id":"2","username":"b","token":"s2"}]},
                {"room":"r2","users":[{"id":3,"username":"c","token":"s3"}]}]}"#,
        )
        .unwrap()
    }

    fn names(seats: &[Seat<'_>]) -> String {
        seats.iter().map(|seat| format!("{}{} ", seat.room, seat.username)).collect()
    }

    #[test]
    fn seats_come_room_by_room_or_spread_over_all() {
        let fixtures = fixtures();
        assert_eq!(names(&fixtures.rooms(2, 3).unwrap()), "r1a r1b r1a r2c r2c r2c ");
        assert_eq!(names(&fixtures.spread(5)), "r1a r2c r1b r1a r2c ");
        assert!(fixtures.rooms(3, 1).is_err());
    }

    #[test]
    fn a_token_is_not_shown() {
        assert!(!format!("{:?}", fixtures()).contains("s1"));
    }

    #[test]
    fn a_file_without_users_is_refused() {
        let path = std::env::temp_dir().join(format!("ringroom-perf-fixtures-{}", std::process::id()));
        for text in [r#"{"rooms":[]}"#, r#"{"rooms":[{"room":"r","users":[]}]}"#, "[]", "x"] {
            std::fs::write(&path, text).unwrap();
            assert!(Fixtures::read(&path).unwrap_err().contains("ringroom seed"), "{text}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
