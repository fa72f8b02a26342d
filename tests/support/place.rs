//! A place for a chat to be kept: a fresh, migrated database of each kind that serves, and the people and rooms in it.
//!
//! Everything is made through the store, as the command line makes it; [`Place::sql`] is for what only a stranger to the
//! server would do to its tables.

use std::{
    env, fs,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use ringroom::{
    identity::{RoomId, User, UserId},
    store::{Admin, Database, Names, Reader, Saved, SeededRoom},
};
use tokio::runtime::Runtime;

use super::{DEADLINE, postgres};

/// A migrated database of one kind.
pub struct Place {
    pub kind: &'static str,
    pub url: String,
    /// Are users' ids numbers here?
    pub has_numbers: bool,
    runtime: Runtime,
    admin: Admin,
    folder: Folder,
}

/// A user with a token.
#[derive(Clone, Debug)]
pub struct Person {
    pub id: UserId,
    pub name: String,
    pub token: String,
}

impl Place {
    /// An SQLite file of the test's own.
    pub fn sqlite() -> Place {
        let folder = Folder::new();
        let url = format!("sqlite:{}/chat.sqlite3", folder.0.display());
        Place::new("SQLite", url, folder)
    }

    /// Every kind of database there is; without Postgres the rest is named as left out.
    pub fn everywhere(what: &str) -> Vec<Place> {
        let mut places = vec![Place::sqlite()];
        if let Some(cluster) = postgres::shared(what) {
            let name = |kind: &str| format!("{kind}_{}", serial());
            places.extend([
                Place::new("Postgres", cluster.create_database(&name("own")), Folder::new()),
                Place::new("Django with uuid", cluster.django_shaped(&name("uuids"), "uuid"), Folder::new()),
                Place::new("Django with bigint", cluster.django_shaped(&name("numbers"), "bigint"), Folder::new()),
            ]);
        }
        places
    }

    /// A database on a cluster of the test's own.
    pub fn postgres(url: String) -> Place {
        Place::new("Postgres", url, Folder::new())
    }

    fn new(kind: &'static str, url: String, folder: Folder) -> Place {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let admin = runtime.block_on(async {
            let mut admin = Admin::create(&database(&url)).await.unwrap();
            admin.migrate().await.unwrap();
            admin
        });
        Place { kind, url, has_numbers: kind.ends_with("bigint"), runtime, admin, folder }
    }

    /// A user with a token.
    pub fn person(&mut self, name: &str) -> Person {
        let admin = &mut self.admin;
        let (User { id, .. }, (token, _)) = self.runtime.block_on(async {
            (admin.create_user(name, None).await.unwrap(), admin.create_token(name).await.unwrap())
        });
        Person { id, name: name.into(), token: token.expose().into() }
    }

    /// Users of these names, each with a token.
    pub fn people<const N: usize>(&mut self, names: [&str; N]) -> [Person; N] {
        names.map(|name| self.person(name))
    }

    pub fn deactivate(&mut self, person: &Person) {
        self.runtime.block_on(self.admin.deactivate_user(&person.name)).unwrap();
    }

    /// A room with these members.
    pub fn room<'a>(&mut self, members: impl IntoIterator<Item = &'a Person>) -> RoomId {
        self.room_with_id(RoomId::new_v4(), members)
    }

    pub fn room_with_id<'a>(&mut self, id: RoomId, members: impl IntoIterator<Item = &'a Person>) -> RoomId {
        let names: Vec<&str> = members.into_iter().map(|person| person.name.as_str()).collect();
        let admin = &mut self.admin;
        self.runtime.block_on(async {
            admin.create_room("a room", Some(id)).await.unwrap();
            admin.add_members(id, &names).await.unwrap();
        });
        id
    }

    /// Many rooms, each with users of its own.
    pub fn seed(&mut self, rooms: u32, users_per_room: u32) -> Vec<SeededRoom> {
        self.runtime.block_on(self.admin.seed(rooms, users_per_room)).unwrap().rooms
    }

    /// What the table holds of a room, oldest first.
    pub fn saved(&self, room: RoomId) -> Vec<Saved> {
        self.runtime.block_on(async {
            let reader = Reader::open(&database(&self.url)).await.unwrap();
            let (mut all, mut before) = (Vec::new(), None);
            loop {
                let page = reader.history(room, before, 200).await.unwrap();
                let Some(oldest) = page.last() else { break };
                before = Some(oldest.stamp());
                all.extend(page);
            }
            all.reverse();
            all
        })
    }

    /// The texts that the table holds of a room, oldest first.
    pub fn texts(&self, room: RoomId) -> Vec<String> {
        self.saved(room).into_iter().map(|saved| saved.content.into()).collect()
    }

    /// Runs SQL past the server.
    pub fn sql(&self, statements: &str) {
        match self.url.strip_prefix("sqlite:") {
            Some(path) => {
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.busy_timeout(DEADLINE).unwrap();
                // What sqlite3, the program, would do as well: the server's own connections have it on.
                connection.pragma_update(None, "foreign_keys", false).unwrap();
                connection.execute_batch(statements).unwrap();
            }
            None => postgres::execute(&self.url, statements).unwrap(),
        }
    }

    /// A folder that ends with the place.
    pub fn folder(&self) -> &PathBuf {
        &self.folder.0
    }
}

fn database(url: &str) -> Database {
    Database { url: url.parse().unwrap(), names: Names::default(), connect_timeout: DEADLINE, query_timeout: DEADLINE }
}

/// A temporary folder.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let path = env::temp_dir().join(format!("ringroom-place-{}-{}", process::id(), serial()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn serial() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}
