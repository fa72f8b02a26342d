//! The store's promises, the same on every database that serves: SQLite, Postgres as ringroom migrates it, and Postgres
//! as a Django application made it, with user ids of type uuid and bigint.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::HashSet,
    env, fs,
    path::PathBuf,
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use ringroom::{
    identity::{RoomId, Token, User, UserId},
    store::{Admin, Database, InsertError, Migrated, Names, Reader, Row, Saved, Stamp, StoreError, Writer},
};
use support::postgres::{self, Postgres};
use uuid::Uuid;

/// A migrated database of one kind.
struct Place {
    kind: &'static str,
    database: Database,
    _folder: Option<Folder>,
}

/// A temporary folder.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let path = env::temp_dir().join(format!("ringroom-store-{}-{}", process::id(), serial()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self) -> Database {
        database(&format!("sqlite:{}/deep/chat.sqlite3", self.0.display()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// As many rows as make Postgres take a batch by COPY.
const MANY: usize = 128;

fn serial() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

fn database(url: &str) -> Database {
    Database {
        url: url.parse().unwrap(),
        names: Names::default(),
        connect_timeout: Duration::from_secs(20),
        query_timeout: Duration::from_secs(20),
    }
}

/// Every kind of database there is, fresh and migrated.
async fn places(what: &str) -> Vec<Place> {
    let folder = Folder::new();
    let mut places = vec![Place { kind: "SQLite", database: folder.file(), _folder: Some(folder) }];
    if let Some(cluster) = postgres::shared(what) {
        let name = |kind: &str| format!("{kind}_{}", serial());
        let own = cluster.create_database(&name("own"));
        let uuids = cluster.django_shaped(&name("uuids"), "uuid");
        let numbers = cluster.django_shaped(&name("numbers"), "bigint");
        for (kind, url) in [("Postgres", own), ("Django with uuid", uuids), ("Django with bigint", numbers)] {
            places.push(Place { kind, database: database(&url), _folder: None });
        }
    }
    for place in &places {
        Admin::create(&place.database).await.unwrap().migrate().await.unwrap();
    }
    places
}

/// A room with the users `alice` and `bob`, and what is needed to write to it.
struct Chat {
    kind: &'static str,
    place: Place,
    admin: Admin,
    room: RoomId,
    alice: User,
    bob: User,
}

impl Chat {
    async fn everywhere(what: &str) -> Vec<Chat> {
        let mut chats = Vec::new();
        for place in places(what).await {
            chats.push(Chat::new(place).await);
        }
        chats
    }

    async fn new(place: Place) -> Chat {
        let mut admin = Admin::open(&place.database).await.unwrap();
        let alice = admin.create_user("alice", None).await.unwrap();
        let bob = admin.create_user("bob", None).await.unwrap();
        let room = admin.create_room("lobby", None).await.unwrap();
        admin.add_members(room, &["alice", "bob"]).await.unwrap();
        Chat { kind: place.kind, place, admin, room, alice, bob }
    }

    async fn reader(&self) -> Reader {
        Reader::open(&self.place.database).await.unwrap()
    }

    async fn writer(&self) -> Writer {
        Writer::open(&self.place.database).await.unwrap()
    }

    fn row<'a>(&self, timestamp: i64, content: &'a str) -> Row<'a> {
        Row { id: Uuid::now_v7(), room: self.room, sender: self.alice.id, receiver: None, timestamp, content }
    }

    /// What the room's history holds, newest first.
    async fn texts(&self) -> Vec<String> {
        let saved = self.reader().await.history(self.room, None, 200).await.unwrap();
        saved.into_iter().map(|saved| saved.content.into()).collect()
    }
}

#[tokio::test]
async fn tokens_are_looked_up_in_bulk_and_in_order() {
    for mut chat in Chat::everywhere("looking up tokens").await {
        let (alice, _) = chat.admin.create_token("alice").await.unwrap();
        let (bob, _) = chat.admin.create_token("bob").await.unwrap();
        chat.admin.deactivate_user("bob").await.unwrap();
        let reader = chat.reader().await;
        assert_eq!(reader.users_by_token(&[]).await.unwrap(), []);

        let unknown = (0..10_000).map(|nth| Token::new(&format!("{nth:040x}")).unwrap());
        let mut tokens: Vec<Token> = unknown.collect();
        let expected = |nth| (nth == 77 || nth == 9_999).then(|| chat.alice.clone());
        tokens[77] = alice.clone();
        tokens[500] = bob;
        tokens[9_999] = alice;
        let start = Instant::now();
        let users = reader.users_by_token(&tokens).await.unwrap();
        assert_eq!(users, (0..10_000).map(expected).collect::<Vec<_>>(), "{}", chat.kind);
        assert!(start.elapsed() < Duration::from_secs(5), "{}: {:?}", chat.kind, start.elapsed());
    }
}

#[tokio::test]
async fn memberships_are_looked_up_in_bulk_and_in_order() {
    for mut chat in Chat::everywhere("looking up members").await {
        let quiet = chat.admin.create_room("quiet", None).await.unwrap();
        let of_another_type = match chat.alice.id {
            UserId::Uuid(_) => UserId::Int(1),
            UserId::Int(_) => UserId::Uuid(Uuid::new_v4()),
        };
        let (room, alice, bob) = (chat.room, chat.alice.id, chat.bob.id);
        let asked = [
            (quiet, alice),
            (room, alice),
            (room, of_another_type),
            (Uuid::new_v4(), alice),
            (room, bob),
            (room, alice),
        ];
        let reader = chat.reader().await;
        let answers = reader.memberships(&asked).await.unwrap();
        assert_eq!(answers, [false, true, false, false, true, true], "{}", chat.kind);
        assert_eq!(reader.memberships(&[]).await.unwrap(), Vec::<bool>::new());
        chat.admin.remove_members(room, &["alice"]).await.unwrap();
        assert_eq!(reader.memberships(&asked[..2]).await.unwrap(), [false, false], "{}", chat.kind);
    }
}

#[tokio::test]
async fn look_ups_may_be_under_way_at_once() {
    for mut chat in Chat::everywhere("looking up at once").await {
        let (token, _) = chat.admin.create_token("alice").await.unwrap();
        let reader = Arc::new(chat.reader().await);
        let calls = (0..100).map(|_| {
            let (reader, token, room) = (reader.clone(), token.clone(), chat.room);
            tokio::spawn(async move {
                let (users, history) = tokio::join!(
                    async { reader.users_by_token(&[token]).await.unwrap() },
                    reader.history(room, None, 10)
                );
                (users[0].is_some(), history.unwrap().is_empty())
            })
        });
        for call in calls.collect::<Vec<_>>() {
            assert_eq!(call.await.unwrap(), (true, true), "{}", chat.kind);
        }
    }
}

#[tokio::test]
async fn what_is_inserted_comes_back_as_it_was_and_once() {
    for chat in Chat::everywhere("inserting").await {
        let text = "Grüße, 世界 🎉\u{0301}\u{200d}\r\n\t\"quoted\" \\ 'single' \u{1}";
        let long = "x".repeat(100_000);
        let mut rows = vec![chat.row(1_700_000_000_123_456, text), chat.row(1_700_000_000_123_457, &long)];
        rows[1].receiver = Some(chat.bob.id);
        let mut writer = chat.writer().await;
        for _ in 0..3 {
            writer.insert(&rows).await.unwrap();
        }
        // One that is there already, with another text, leaves it as it is and does not hold up its batch.
        let changed = Row { content: "changed", ..rows[0] };
        let new = chat.row(1_700_000_000_123_458, "");
        writer.insert(&[changed, new]).await.unwrap();
        writer.insert(&[]).await.unwrap();

        let saved = |row: &Row<'_>| Saved {
            id: row.id,
            sender: row.sender,
            sender_username: "alice".into(),
            receiver: row.receiver,
            timestamp: row.timestamp,
            content: row.content.into(),
        };
        let expected: Vec<Saved> = [new, rows[1], rows[0]].iter().map(saved).collect();
        let history = chat.reader().await.history(chat.room, None, 200).await.unwrap();
        assert_eq!(history, expected, "{}", chat.kind);
    }
}

#[tokio::test]
async fn a_batch_that_is_there_in_part_is_completed() {
    for chat in Chat::everywhere("completing batches").await {
        let text = "x".repeat(500);
        let rows: Vec<Row<'_>> = (0..3_000).map(|nth| chat.row(nth, &text)).collect();
        let others = |rows: &[Row<'_>]| rows.iter().map(|row| Row { content: "other", ..*row }).collect::<Vec<_>>();
        // Batches as a writer sends them whose connection holds, with a row of the last one at the front, in the middle, at
        // the end, and two of one id.
        let mut writer = chat.writer().await;
        writer.insert(&rows[..10]).await.unwrap();
        writer.insert(&rows[10..1_000]).await.unwrap();
        for batch in [
            [&others(&rows[500..1_000]), &rows[1_000..1_500]].concat(),
            rows[1_500..2_000].to_vec(),
            [&rows[2_000..2_500], &others(&rows[..500])].concat(),
            rows[2_500..2_800].to_vec(),
            [&rows[2_800..2_900], &others(&rows[2_800..2_900]), &rows[2_900..]].concat(),
        ] {
            writer.insert(&batch).await.unwrap();
            writer.insert(&batch).await.unwrap();
        }
        let reader = chat.reader().await;
        let (mut saved, mut before) = (Vec::new(), None);
        loop {
            let page = reader.history(chat.room, before, 200).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some(last.stamp());
            saved.extend(page);
        }
        let expected: Vec<(Uuid, &str)> = rows.iter().rev().map(|row| (row.id, row.content)).collect();
        let saved: Vec<(Uuid, &str)> = saved.iter().map(|saved| (saved.id, &*saved.content)).collect();
        assert!(saved == expected, "{}: {} rows", chat.kind, saved.len());
    }
}

#[tokio::test]
async fn a_bad_row_is_refused_with_its_whole_batch_and_nothing_more() {
    for chat in Chat::everywhere("refusing rows").await {
        let (nobody, of_another_type) = match chat.alice.id {
            UserId::Uuid(_) => (UserId::Uuid(Uuid::new_v4()), UserId::Int(1)),
            UserId::Int(_) => (UserId::Int(987_654), UserId::Uuid(Uuid::new_v4())),
        };
        let good: Vec<Row<'_>> = (0..MANY).map(|_| chat.row(1, "good")).collect();
        let bad = |change: fn(&mut Row<'_>, UserId), user| {
            let mut row = chat.row(2, "bad");
            change(&mut row, user);
            row
        };
        let mut writer = chat.writer().await;
        writer.insert(&[chat.row(0, "first")]).await.unwrap();
        for (fault, row) in [
            ("unknown room", bad(|row, _| row.room = Uuid::new_v4(), nobody)),
            ("unknown sender", bad(|row, user| row.sender = user, nobody)),
            ("unknown receiver", bad(|row, user| row.receiver = Some(user), nobody)),
            ("sender of another type", bad(|row, user| row.sender = user, of_another_type)),
            ("receiver of another type", bad(|row, user| row.receiver = Some(user), of_another_type)),
            ("NUL", bad(|row, _| row.content = "zero \0 byte", nobody)),
        ] {
            for batch in [&[good[0], row, good[1]][..], &[&good[..64], &[row], &good[64..]].concat()] {
                let error = writer.insert(batch).await.unwrap_err();
                assert!(matches!(error, InsertError::Refused(_)), "{}, {fault}: {error:?}", chat.kind);
            }
            assert_eq!(chat.texts().await, ["first"], "{}, {fault}", chat.kind);
        }
        writer.insert(&good[..1]).await.unwrap();
        assert_eq!(chat.texts().await, ["good", "first"], "{}", chat.kind);
    }
}

#[tokio::test]
async fn history_is_paged_without_gap_or_repetition() {
    for mut chat in Chat::everywhere("paging").await {
        // Four of a timestamp, inserted in no order.
        let mut rows: Vec<Row<'_>> = (0..40).map(|nth| chat.row(1_000_000 + nth / 4, "text")).collect();
        rows.iter_mut().step_by(2).for_each(|row| row.id = Uuid::new_v4());
        rows.sort_by_key(|row| row.id.as_u128().reverse_bits());
        chat.writer().await.insert(&rows).await.unwrap();
        rows.sort_by_key(|row| (row.timestamp, row.id));
        let expected: Vec<Uuid> = rows.iter().rev().map(|row| row.id).collect();

        let reader = chat.reader().await;
        for limit in [1, 3, 7, 40, 200] {
            let (mut paged, mut before) = (Vec::new(), None);
            loop {
                let page = reader.history(chat.room, before, limit).await.unwrap();
                assert!(page.len() <= limit.into());
                let Some(last) = page.last() else { break };
                let stamp = reader.stamp(chat.room, last.id).await.unwrap();
                assert_eq!(stamp, Some(last.stamp()));
                before = stamp;
                paged.extend(page.iter().map(|saved| saved.id));
            }
            assert_eq!(paged, expected, "{}, {limit} a page", chat.kind);
        }

        let other = chat.admin.create_room("other", None).await.unwrap();
        assert_eq!(reader.history(other, None, 10).await.unwrap(), []);
        assert_eq!(reader.stamp(other, expected[0]).await.unwrap(), None, "{}", chat.kind);
        assert_eq!(reader.stamp(chat.room, Uuid::new_v4()).await.unwrap(), None, "{}", chat.kind);

        // Before a message that the table does not hold.
        let gap = Stamp { timestamp: 1_000_003, id: Uuid::nil() };
        let page = reader.history(chat.room, Some(gap), 5).await.unwrap();
        assert_eq!(page.iter().map(|saved| saved.id).collect::<Vec<_>>(), expected[28..33], "{}", chat.kind);
    }
}

#[tokio::test]
async fn people_and_rooms_are_administered() {
    for mut chat in Chat::everywhere("administration").await {
        let kind = chat.kind;
        let admin = &mut chat.admin;
        let users = admin.list_users().await.unwrap();
        assert_eq!(users, [(chat.alice.clone(), true), (chat.bob.clone(), true)], "{kind}");

        let (token, made) = admin.create_token("alice").await.unwrap();
        assert!(made && token.expose().len() == 40, "{kind}");
        assert_eq!(admin.create_token("alice").await.unwrap(), (token, false), "{kind}");
        assert_eq!(
            (admin.revoke_token("alice").await, admin.revoke_token("alice").await),
            (Ok(true), Ok(false)),
            "{kind}"
        );
        admin.deactivate_user("bob").await.unwrap();
        assert_eq!(admin.list_users().await.unwrap()[1], (chat.bob.clone(), false), "{kind}");

        let id = Uuid::new_v4();
        assert_eq!(admin.create_room("attic", Some(id)).await, Ok(id));
        assert_eq!(admin.find_room("attic").await, Ok(id));
        assert_eq!(admin.find_room(&id.to_string().to_uppercase()).await, Ok(id));
        assert_eq!(admin.add_members(id, &["alice", "bob"]).await, Ok(2), "{kind}");
        assert_eq!(admin.add_members(id, &["alice"]).await, Ok(0), "{kind}");
        assert_eq!(admin.remove_members(id, &["bob"]).await, Ok(1), "{kind}");
        let rooms = admin.list_rooms().await.unwrap();
        assert_eq!(rooms, [(id, "attic".into(), 1), (chat.room, "lobby".into(), 2)], "{kind}");

        let own_id = match chat.alice.id {
            UserId::Uuid(_) => UserId::Uuid(Uuid::new_v4()),
            UserId::Int(_) => UserId::Int(4_711),
        };
        assert_eq!(admin.create_user("carol", Some(own_id)).await.unwrap().id, own_id, "{kind}");
    }
}

#[tokio::test]
async fn what_is_not_there_or_there_twice_is_told() {
    let said = |outcome: Result<(), StoreError>, part: &str, kind: &str| match outcome {
        Err(StoreError::Refused(text)) => assert!(text.contains(part), "{kind}: {text:?} lacks {part:?}"),
        other => panic!("{kind}: {other:?}, and {part:?} was expected"),
    };
    for mut chat in Chat::everywhere("refusing administration").await {
        let (kind, admin) = (chat.kind, &mut chat.admin);
        said(admin.create_user("alice", None).await.map(drop), "\"alice\" exists already", kind);
        said(admin.create_room("lobby", Some(chat.room)).await.map(drop), "\"lobby\" exists already", kind);
        said(admin.deactivate_user("zoe").await, "no user \"zoe\"", kind);
        said(admin.create_token("zoe").await.map(drop), "no user \"zoe\"", kind);
        said(admin.revoke_token("zoe").await.map(drop), "no user \"zoe\"", kind);
        said(admin.add_members(chat.room, &["alice", "zoe"]).await.map(drop), "no user \"zoe\"", kind);
        said(admin.add_members(Uuid::new_v4(), &["alice"]).await.map(drop), "no room", kind);
        said(admin.find_room("cellar").await.map(drop), "no room \"cellar\"", kind);
        said(admin.find_room(&Uuid::new_v4().to_string()).await.map(drop), "no room", kind);
        let second = admin.create_room("lobby", None).await.unwrap();
        said(admin.find_room("lobby").await.map(drop), &second.to_string(), kind);
        said(admin.create_user(&"x".repeat(151), None).await.map(drop), "", kind);
        // Nothing of what was refused has been done.
        assert_eq!(admin.list_users().await.unwrap().len(), 2, "{kind}");
    }
}

#[tokio::test]
async fn a_hundred_rooms_of_a_hundred_are_seeded_in_seconds() {
    for mut chat in Chat::everywhere("seeding").await {
        let kind = chat.kind;
        let start = Instant::now();
        let seeded = chat.admin.seed(100, 100).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(10), "{kind}: {:?}", start.elapsed());
        assert!(seeded.rooms.len() == 100 && seeded.rooms.iter().all(|room| room.users.len() == 100), "{kind}");
        let again = chat.admin.seed(2, 3).await.unwrap();
        let all = seeded.rooms.iter().chain(&again.rooms);
        let names: HashSet<&str> = all.flat_map(|room| &room.users).map(|user| user.username.as_str()).collect();
        assert_eq!(names.len(), 10_006, "{kind}");

        let reader = chat.reader().await;
        let room = &seeded.rooms[99];
        let tokens: Vec<Token> = room.users.iter().map(|user| Token::new(&user.token).unwrap()).collect();
        let users: Vec<User> = reader.users_by_token(&tokens).await.unwrap().into_iter().flatten().collect();
        let found: Vec<_> = users.iter().map(|user| (user.id.to_string(), user.username.to_string())).collect();
        let told: Vec<_> = room.users.iter().map(|user| (user.id.clone(), user.username.clone())).collect();
        assert_eq!(found, told, "{kind}");
        let pairs: Vec<_> = users.iter().map(|user| (room.room, user.id)).collect();
        assert_eq!(reader.memberships(&pairs).await.unwrap(), vec![true; 100], "{kind}");
    }
}

#[tokio::test]
async fn migrating_again_or_at_once_changes_nothing() {
    for place in places("migrating").await {
        assert_eq!(Admin::open(&place.database).await.unwrap().migrate().await, Ok(Vec::new()), "{}", place.kind);
    }
    let folder = Folder::new();
    let mut fresh = vec![folder.file()];
    fresh.extend(postgres::shared("migrating at once").map(|cluster| database(&cluster.create_database("at_once"))));
    for database in fresh {
        let migrations = (0..8).map(|_| {
            let database = database.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { Admin::create(&database).await.unwrap().migrate().await.unwrap() })
            })
        });
        let done = migrations.collect::<Vec<_>>().into_iter().flat_map(|thread| thread.join().unwrap());
        assert_eq!(done.collect::<Vec<_>>(), [Migrated::Applied("0001_chat")], "{}", database.url);
    }
}

#[tokio::test]
async fn a_database_without_tables_or_of_a_newer_ringroom_is_told() {
    let folder = Folder::new();
    let sqlite = folder.file();
    let mut fresh = vec![(sqlite, "cannot open")];
    if let Some(cluster) = postgres::shared("a database without tables") {
        fresh.push((database(&cluster.create_database("bare")), "\"chat_message\" (tables.messages)"));
    }
    for (database, told) in fresh {
        for error in [Reader::open(&database).await.unwrap_err(), Writer::open(&database).await.unwrap_err()] {
            let text = error.text();
            assert!(text.contains(told) && text.contains("`ringroom migrate`"), "{}: {text}", database.url);
        }
        // The file is there now, and empty.
        let mut admin = Admin::create(&database).await.unwrap();
        let error = admin.list_users().await.unwrap_err();
        assert!(error.text().contains("`ringroom migrate`"), "{}: {error}", database.url);
        let error = Reader::open(&database).await.unwrap_err();
        assert!(error.text().contains("`ringroom migrate`"), "{}: {error}", database.url);
    }

    for place in places("a newer schema").await {
        let newer = "INSERT INTO ringroom_migrations (version, name, applied) VALUES (99, 'later', ";
        match place.kind {
            "SQLite" => {
                let path = place.database.url.to_string();
                let file = rusqlite::Connection::open(path.strip_prefix("sqlite:").unwrap()).unwrap();
                file.execute(&format!("{newer}0)"), []).unwrap();
            }
            _ => postgres::execute(&with_password(&place.database), &format!("{newer}now())")).unwrap(),
        }
        let errors = [
            Reader::open(&place.database).await.map(drop),
            Writer::open(&place.database).await.map(drop),
            Admin::open(&place.database).await.unwrap().migrate().await.map(drop),
        ];
        for error in errors {
            assert!(matches!(&error, Err(StoreError::Refused(text)) if text.contains("version 99")), "{error:?}");
        }
    }
}

/// The URL as tests give it to their own queries.
fn with_password(database: &Database) -> String {
    database.url.to_string().replace("***", postgres::PASSWORD)
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_left_alone() {
    let folder = Folder::new();
    let database = folder.file();
    let path = folder.0.join("deep/chat.sqlite3");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "certainly no database, and of some length, so that its header is read").unwrap();
    let error = Admin::create(&database).await.unwrap_err();
    assert!(error.text().contains("no sound SQLite database"), "{error}");

    fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().execute("CREATE TABLE account_user (id)", []).unwrap();
    let error = Admin::create(&database).await.unwrap().migrate().await.unwrap_err();
    assert!(error.text().contains("another application's"), "{error}");

    let named = Database { names: Names { users: "auth_user".into(), ..Names::default() }, ..database };
    let error = Reader::open(&named).await.unwrap_err();
    assert!(error.text().contains("[tables]"), "{error}");
}

#[tokio::test]
async fn a_locked_file_delays_no_reader_and_saves_nothing_in_part() {
    let folder = Folder::new();
    let database = Database { query_timeout: Duration::from_millis(200), ..folder.file() };
    Admin::create(&database).await.unwrap().migrate().await.unwrap();
    let chat = Chat::new(Place { kind: "SQLite", database, _folder: None }).await;
    let (mut writer, reader) = (chat.writer().await, chat.reader().await);
    let other = rusqlite::Connection::open(folder.0.join("deep/chat.sqlite3")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    let row = chat.row(1, "late");
    let error = writer.insert(&[row]).await.unwrap_err();
    assert!(matches!(&error, InsertError::NotSent(text) if text.contains("locked")), "{error:?}");
    assert_eq!(reader.history(chat.room, None, 1).await, Ok(Vec::new()));

    other.execute_batch("ROLLBACK").unwrap();
    writer.insert(&[row]).await.unwrap();
    assert_eq!(chat.texts().await, ["late"]);
}

/// The catalogue's description of every column, constraint and index but those of ringroom's own record.
fn described(url: &str) -> Vec<Vec<Option<String>>> {
    const CATALOGUE: &str = "
        SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text,
               a.attidentity::text, a.atthasdef::text
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'S') AND a.attnum > 0
              AND c.relname <> 'ringroom_migrations'
        UNION ALL
        SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', ''
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
              AND conrelid <> coalesce(to_regclass('ringroom_migrations'), 0)
        UNION ALL
        SELECT 'index', tablename, indexname, indexdef, '', '', ''
        FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'ringroom_migrations'
        ORDER BY 1, 2, 3";
    postgres::query(url, CATALOGUE).unwrap()
}

#[tokio::test]
async fn ringroom_and_django_make_the_same_tables() {
    let Some(cluster) = postgres::shared("comparing schemas") else { return };
    let own = cluster.create_database("same_own");
    let done = Admin::open(&database(&own)).await.unwrap().migrate().await;
    assert_eq!(done, Ok(vec![Migrated::Applied("0001_chat")]));
    let django = cluster.django_shaped("same_django", "uuid");
    let before = described(&django);
    assert!(before.len() > 50, "{before:?}");
    assert_eq!(described(&own), before);

    let done = Admin::open(&database(&django)).await.unwrap().migrate().await;
    assert_eq!(done, Ok(vec![Migrated::AlreadyThere("0001_chat")]));
    assert_eq!(described(&django), before);
}

#[tokio::test]
async fn tables_and_columns_may_be_called_otherwise() {
    let Some(cluster) = postgres::shared("other names") else { return };
    let url = cluster.django_shaped("renamed", "integer");
    let rename = "
        CREATE SCHEMA im;
        ALTER TABLE chat_message RENAME TO \"Message\";
        ALTER TABLE \"Message\" SET SCHEMA im;
        ALTER TABLE im.\"Message\" RENAME COLUMN content TO message;
        ALTER TABLE im.\"Message\" RENAME COLUMN \"timestamp\" TO created_at;
        ALTER TABLE im.\"Message\" RENAME COLUMN room_id TO chat_room_id;
        ALTER TABLE chat_chatroom_members RENAME COLUMN user_id TO customuser_id;
        ALTER TABLE account_user RENAME TO auth_user;";
    postgres::execute(&url, rename).unwrap();
    let mut database = database(&url);
    let told = |error: StoreError| error.text().to_owned();

    let text = told(Reader::open(&database).await.unwrap_err());
    assert!(text.contains("\"account_user\" (tables.users), \"chat_message\" (tables.messages)"), "{text}");
    database.names.users = "auth_user".into();
    database.names.messages = "im.Message".into();
    let text = told(Writer::open(&database).await.unwrap_err());
    assert!(text.contains("tables.message_room") && text.contains("\"chat_room_id\""), "{text}");
    database.names.message_room = "chat_room_id".into();
    database.names.message_timestamp = "created_at".into();
    database.names.message_content = "message".into();

    let chat = Chat::new(Place { kind: "renamed", database: database.clone(), _folder: None }).await;
    assert!(matches!(chat.alice.id, UserId::Int(_)));
    chat.writer().await.insert(&[chat.row(5, "hello")]).await.unwrap();
    assert_eq!(chat.texts().await, ["hello"]);
    assert_eq!(chat.reader().await.memberships(&[(chat.room, chat.bob.id)]).await, Ok(vec![true]));

    // Two foreign keys to the users table: which one is meant must be said.
    postgres::execute(&url, "ALTER TABLE chat_chatroom_members ADD inviter_id integer REFERENCES auth_user").unwrap();
    let text = told(Reader::open(&database).await.unwrap_err());
    assert!(text.contains("tables.member_user") && text.contains("\"inviter_id\""), "{text}");
    database.names.member_user = "customuser_id".into();
    Reader::open(&database).await.unwrap();
}

/// Makes Postgres note the first word of each statement that brings messages in and is committed.
const NOTE: &str = "
    CREATE TABLE noted (nth serial, verb text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO noted (verb) SELECT split_part(current_query(), ' ', 1); RETURN NULL; END $$;
    CREATE TRIGGER note AFTER INSERT ON chat_message FOR EACH STATEMENT EXECUTE FUNCTION note()";

fn noted(url: &str) -> Vec<String> {
    let rows = postgres::query(url, "SELECT verb FROM noted ORDER BY nth").unwrap();
    rows.into_iter().flatten().flatten().collect()
}

#[tokio::test]
async fn large_new_batches_are_copied_and_all_others_inserted() {
    const SAVED: &str = "
        SELECT id, room_id, sender_id, receiver_id, (extract(epoch FROM \"timestamp\") * 1000000)::bigint
        FROM chat_message ORDER BY \"timestamp\"";
    let Some(cluster) = postgres::shared("COPY") else { return };
    for user_id in ["uuid", "bigint", "integer", "smallint"] {
        let url = cluster.django_shaped(&format!("copied_{user_id}"), user_id);
        let chat = Chat::new(Place { kind: "copied", database: database(&url), _folder: None }).await;
        postgres::execute(&url, NOTE).unwrap();
        let mut rows: Vec<Row<'_>> = (0..8 * MANY as i64).map(|nth| chat.row(nth, "text")).collect();
        rows.iter_mut().for_each(|row| row.receiver = Some(chat.bob.id));
        let of = |first, last| &rows[first * MANY..last * MANY];
        let mut writer = chat.writer().await;
        for batch in [of(0, 1), of(1, 2), of(1, 3), of(3, 4), of(4, 5), &of(5, 6)[1..], &of(5, 6)[..1]] {
            writer.insert(batch).await.unwrap();
        }
        // Refused at COMMIT: that is no reason to leave COPY.
        let homeless = Row { room: Uuid::new_v4(), ..rows[6 * MANY] };
        let error = writer.insert(&[&[homeless], of(7, 8)].concat()).await.unwrap_err();
        assert!(matches!(&error, InsertError::Refused(text) if text.contains("23503")), "{error:?}");
        writer.insert(of(6, 7)).await.unwrap();
        let expected = ["INSERT", "COPY", "INSERT", "INSERT", "COPY", "INSERT", "INSERT", "COPY"];
        assert_eq!(noted(&url), expected, "{user_id}");
        let saved = postgres::query(&url, SAVED).unwrap().into_iter().map(|row| row.into_iter().map(Option::unwrap));
        let row = |row: &Row<'_>| {
            let (receiver, timestamp) = (chat.bob.id.to_string(), row.timestamp.to_string());
            vec![row.id.to_string(), row.room.to_string(), row.sender.to_string(), receiver, timestamp]
        };
        let saved: Vec<Vec<String>> = saved.map(Iterator::collect).collect();
        assert!(saved == rows[..7 * MANY].iter().map(row).collect::<Vec<_>>(), "{user_id}");
    }
}

#[tokio::test]
async fn a_view_takes_no_copy_and_is_filled_all_the_same() {
    let Some(cluster) = postgres::shared("no COPY") else { return };
    let url = cluster.django_shaped("view", "uuid");
    postgres::execute(&url, &format!("{NOTE}; CREATE VIEW messages AS SELECT * FROM chat_message")).unwrap();
    let mut database = database(&url);
    database.names.messages = "messages".into();
    let chat = Chat::new(Place { kind: "view", database, _folder: None }).await;
    let mut writer = chat.writer().await;
    for nth in 0..4 {
        let rows: Vec<Row<'_>> = (0..MANY).map(|_| chat.row(nth, "text")).collect();
        writer.insert(&rows).await.unwrap();
    }
    assert_eq!(noted(&url), ["INSERT"; 4]);
    let count = postgres::query(&url, "SELECT count(*) FROM chat_message").unwrap();
    assert_eq!(count, [[Some((4 * MANY).to_string())]]);
}

#[tokio::test]
async fn tables_that_demand_more_than_ringroom_knows_are_told() {
    let Some(cluster) = postgres::shared("demanding tables") else { return };
    let url = cluster.django_shaped("demanding", "uuid");
    let alter =
        "ALTER TABLE account_user ADD birthday date NOT NULL; ALTER TABLE chat_message ADD is_read boolean NOT NULL";
    postgres::execute(&url, alter).unwrap();
    let database = database(&url);
    let error = Writer::open(&database).await.unwrap_err();
    assert!(error.text().contains("\"is_read\"") && error.text().contains("SET DEFAULT"), "{error}");
    let error = Admin::open(&database).await.unwrap().create_user("ann", None).await.unwrap_err();
    assert!(error.text().contains("\"birthday\"") && error.text().contains("your application"), "{error}");
    Reader::open(&database).await.unwrap();
    postgres::execute(&url, "ALTER TABLE chat_message ALTER is_read SET DEFAULT false").unwrap();
    Writer::open(&database).await.unwrap();

    postgres::execute(&url, "ALTER TABLE chat_message ALTER \"timestamp\" TYPE timestamp").unwrap();
    let error = Reader::open(&database).await.unwrap_err();
    assert!(error.text().contains("tables.message_timestamp"), "{error}");

    let half = cluster.create_database("half");
    postgres::execute(&half, "CREATE TABLE chat_message (id uuid)").unwrap();
    let error = Admin::open(&self::database(&half)).await.unwrap().migrate().await.unwrap_err();
    assert!(error.text().contains("has \"chat_message\" and lacks \"account_user\""), "{error}");
}

#[tokio::test]
async fn connections_that_fail_are_told_without_secrets() {
    let Some(cluster) = postgres::shared("refused log-ins") else { return };
    let url = cluster.url();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (url, told, refused) in [
        (url.replace(postgres::PASSWORD, "hush-hush"), "password authentication failed", true),
        (url.replace(&format!(":{}", postgres::PASSWORD), ""), "password missing", true),
        (url.replace("/postgres", "/nowhere"), "no such database", true),
        (format!("postgres://ann:hush-hush@127.0.0.1:{nobody}/chat"), "cannot reach", false),
        ("postgres://ann:hush-hush@no-such-host.invalid/chat".into(), "cannot reach", false),
    ] {
        let database = database(&url);
        for error in [Reader::open(&database).await.unwrap_err(), Writer::open(&database).await.unwrap_err()] {
            let text = format!("{error} {error:?} {database:?}");
            assert!(text.contains(told), "{url}: {text}");
            assert!(!text.contains("hush") && !text.contains(postgres::PASSWORD), "{text}");
            assert_eq!(matches!(error, StoreError::Refused(_)), refused, "{text}");
        }
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://ann:hush@127.0.0.1:{}/chat", silent.local_addr().unwrap().port());
    let database = Database { connect_timeout: Duration::from_millis(200), ..database(&url) };
    let start = Instant::now();
    let error = Reader::open(&database).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("did not answer")), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn reader_and_writer_outlive_a_killed_postgres() {
    let Some(mut cluster) = Postgres::start("killing Postgres") else { return };
    let url = cluster.django_shaped("killed", "uuid");
    let chat = Chat::new(Place { kind: "killed", database: database(&url), _folder: None }).await;
    let (reader, mut writer) = (chat.reader().await, chat.writer().await);
    let rows: Vec<Row<'_>> = ["one", "two", "three"].map(|text| chat.row(1, text)).into();
    writer.insert(&rows[..1]).await.unwrap();

    cluster.kill_9();
    for _ in 0..3 {
        let error = writer.insert(&rows[1..2]).await.unwrap_err();
        assert!(matches!(error, InsertError::NotSent(_) | InsertError::InDoubt(_)), "{error:?}");
        let error = reader.history(chat.room, None, 5).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        assert!(!format!("{error:?}").contains(postgres::PASSWORD));
    }

    cluster.restart();
    let history = reader.history(chat.room, None, 5).await.unwrap();
    assert_eq!(history.iter().map(|saved| saved.id).collect::<Vec<_>>(), [rows[0].id]);
    writer.insert(&rows[..2]).await.unwrap();

    // Restarted behind our back: a look-up does not even notice; an insert may be in doubt, and then does again.
    cluster.restart();
    assert_eq!(reader.history(chat.room, None, 5).await.unwrap().len(), 2);
    cluster.restart();
    if let Err(error) = writer.insert(&rows).await {
        assert!(matches!(error, InsertError::NotSent(_) | InsertError::InDoubt(_)), "{error:?}");
        writer.insert(&rows).await.unwrap();
    }
    let history = reader.history(chat.room, None, 5).await.unwrap();
    assert_eq!(history.len(), 3);
}

#[tokio::test]
async fn many_look_ups_of_a_dead_postgres_share_one_attempt() {
    let Some(mut cluster) = Postgres::start("a dead Postgres") else { return };
    let url = cluster.django_shaped("dead", "uuid");
    let chat = Chat::new(Place { kind: "dead", database: database(&url), _folder: None }).await;
    let mut database = chat.place.database.clone();
    database.connect_timeout = Duration::from_secs(2);
    let reader = Arc::new(Reader::open(&database).await.unwrap());
    let port = url.rsplit_once('/').unwrap().0.rsplit_once(':').unwrap().1.to_owned();
    cluster.stop();
    // In its place something that accepts and says nothing, so that every attempt takes the whole time.
    let _silent = std::net::TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();

    let start = Instant::now();
    let ask = |_| {
        let (reader, room) = (reader.clone(), chat.room);
        tokio::spawn(async move { reader.history(room, None, 1).await })
    };
    for call in (0..200).map(ask).collect::<Vec<_>>() {
        assert!(matches!(call.await.unwrap(), Err(StoreError::Unavailable(_))));
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_locked_table_costs_the_query_timeout_and_no_more() {
    let Some(cluster) = postgres::shared("locked tables") else { return };
    let url = cluster.django_shaped("locked", "uuid");
    let mut chat = Chat::new(Place { kind: "locked", database: database(&url), _folder: None }).await;
    chat.place.database.query_timeout = Duration::from_millis(300);
    let (reader, mut writer, mut fresh) = (chat.reader().await, chat.writer().await, chat.writer().await);
    writer.insert(&[chat.row(0, "early")]).await.unwrap();
    let (locker, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    locker.batch_execute("BEGIN; LOCK TABLE chat_message").await.unwrap();

    let rows: Vec<Row<'_>> = (1..=MANY as i64).map(|nth| chat.row(nth, "late")).collect();
    let error = reader.history(chat.room, None, 1).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("300ms")), "{error:?}");
    for writer in [&mut writer, &mut fresh] {
        let error = writer.insert(&rows).await.unwrap_err();
        assert!(matches!(&error, InsertError::InDoubt(text) if text.contains("300ms")), "{error:?}");
    }

    locker.batch_execute("ROLLBACK").await.unwrap();
    writer.insert(&rows).await.unwrap();
    assert_eq!(reader.history(chat.room, None, 200).await.unwrap().len(), 1 + MANY);
}

#[tokio::test]
async fn what_the_server_says_decides_whether_a_batch_is_tried_again() {
    let Some(cluster) = postgres::shared("SQLSTATEs") else { return };
    let url = cluster.django_shaped("states", "uuid");
    let chat = Chat::new(Place { kind: "states", database: database(&url), _folder: None }).await;
    // What a trigger raises is about a row, under whatever code; unless it asks for another try.
    for (code, refused) in [
        ("22001", true),
        ("23514", true),
        ("P0001", true),
        ("54000", true),
        ("45000", true),
        ("CHAT1", true),
        ("42501", true),
        ("55000", true),
        ("57014", true),
        ("40001", false),
        ("40P01", false),
    ] {
        let fail = format!(
            "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'as told' USING ERRCODE = '{code}', DETAIL = NEW.content; END $$;
             CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON chat_message FOR EACH ROW EXECUTE FUNCTION fail()"
        );
        let mut writer = chat.writer().await;
        writer.insert(&[chat.row(0, "fine")]).await.unwrap();
        postgres::execute(&url, &fail).unwrap();
        let rows: Vec<Row<'_>> = (0..MANY).map(|_| chat.row(1, "private")).collect();
        for batch in [&rows[..], &rows[..1]] {
            let error = writer.insert(batch).await.unwrap_err();
            let as_expected = match &error {
                InsertError::Refused(_) => refused,
                InsertError::NotSent(_) => !refused,
                InsertError::Barred(_) | InsertError::InDoubt(_) => false,
            };
            assert!(as_expected, "{code}: {error:?}");
            assert!(error.text().contains(code) && !error.text().contains("private"), "{error:?}");
        }
        postgres::execute(&url, "DROP TRIGGER fail ON chat_message").unwrap();
    }
}

#[tokio::test]
async fn where_no_row_is_taken_none_is_blamed() {
    let Some(cluster) = postgres::shared("no rights, and a read-only server") else { return };
    let url = cluster.django_shaped("barred", "uuid");
    let chat = Chat::new(Place { kind: "barred", database: database(&url), _folder: None }).await;
    let broken =
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM 1 FROM gone; RETURN NEW; END $$;
                  CREATE TRIGGER broken BEFORE INSERT ON chat_message FOR EACH ROW EXECUTE FUNCTION broken()";
    for (bar, unbar, code) in [
        (broken, "DROP TRIGGER broken ON chat_message", "42P01"),
        ("ALTER DATABASE barred SET default_transaction_read_only = on", "", "25006"),
    ] {
        let mut writer = chat.writer().await;
        writer.insert(&[chat.row(0, "fine")]).await.unwrap();
        postgres::execute(&url, bar).unwrap();
        // The database's settings are those of new connections.
        let mut writer = if unbar.is_empty() { chat.writer().await } else { writer };
        let rows: Vec<Row<'_>> = (0..MANY).map(|_| chat.row(1, "private")).collect();
        for batch in [&rows[..], &rows[..1]] {
            let error = writer.insert(batch).await.unwrap_err();
            assert!(matches!(&error, InsertError::Barred(text) if text.contains(code)), "{error:?}");
        }
        if !unbar.is_empty() {
            postgres::execute(&url, unbar).unwrap();
            writer.insert(&rows).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_row_that_row_security_keeps_out_is_refused() {
    let Some(cluster) = postgres::shared("row security") else { return };
    let url = cluster.django_shaped("secured", "uuid");
    let chat = Chat::new(Place { kind: "secured", database: database(&url), _folder: None }).await;
    let secure = "ALTER TABLE chat_message ENABLE ROW LEVEL SECURITY;
                  ALTER TABLE chat_message FORCE ROW LEVEL SECURITY;
                  CREATE POLICY polite ON chat_message USING (true) WITH CHECK (content <> 'rude');
                  CREATE ROLE guest LOGIN PASSWORD 'guest';
                  GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO guest";
    postgres::execute(&url, secure).unwrap();
    let (_, at) = url.rsplit_once('@').unwrap();
    let mut writer = Writer::open(&database(&format!("postgres://guest:guest@{at}"))).await.unwrap();
    let rude = chat.row(1, "rude");
    let mut rows: Vec<Row<'_>> = (0..MANY).map(|_| chat.row(1, "fine")).collect();
    writer.insert(&rows[..2]).await.unwrap();
    rows.push(rude);
    for batch in [&rows[..], &[rude]] {
        let error = writer.insert(batch).await.unwrap_err();
        assert!(
            matches!(&error, InsertError::Refused(text) if text.contains("42501")),
            "{} rows: {error:?}",
            batch.len()
        );
    }
    writer.insert(&rows[..MANY]).await.unwrap();
    // Not the row's fault.
    postgres::execute(&url, "REVOKE INSERT ON chat_message FROM guest").unwrap();
    for batch in [&rows[..], &[rude]] {
        let error = writer.insert(batch).await.unwrap_err();
        assert!(matches!(&error, InsertError::Barred(text) if text.contains("42501")), "{error:?}");
    }
}

#[tokio::test]
async fn a_text_that_the_encoding_cannot_hold_is_refused() {
    let Some(cluster) = postgres::shared("another encoding") else { return };
    let make = "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
    postgres::execute(&cluster.url(), make).unwrap();
    let database = database(&cluster.url().replace("/postgres", "/latin"));
    Admin::open(&database).await.unwrap().migrate().await.unwrap();
    let chat = Chat::new(Place { kind: "latin", database, _folder: None }).await;
    let mut writer = chat.writer().await;
    writer.insert(&[chat.row(0, "first")]).await.unwrap();
    let mut rows: Vec<Row<'_>> = (0..MANY).map(|_| chat.row(1, "fine")).collect();
    rows[MANY / 2].content = "世界";
    for batch in [&rows[..], &rows[MANY / 2..][..1]] {
        let error = writer.insert(batch).await.unwrap_err();
        assert!(matches!(error, InsertError::Refused(_)), "{error:?}");
    }
    writer.insert(&[chat.row(1, "Grüße")]).await.unwrap();
    assert_eq!(chat.texts().await, ["Grüße", "first"]);
}
