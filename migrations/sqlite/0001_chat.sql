-- The chat tables for SQLite, with the names and the meaning of those for Postgres. An id is a UUID as text, 36 lower
-- case characters; a point in time is an integer, microseconds since the Unix epoch, UTC:
--     SELECT datetime(timestamp / 1000000, 'unixepoch'), content FROM chat_message;
-- Foreign keys are checked at commit, as they are in Postgres.

CREATE TABLE account_user (
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 36),
    username TEXT NOT NULL UNIQUE CHECK (length(username) <= 150),
    is_active INTEGER NOT NULL CHECK (is_active IN (0, 1)),
    date_joined INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE authtoken_token (
    key TEXT NOT NULL PRIMARY KEY CHECK (length(key) <= 40),
    created INTEGER NOT NULL,
    user_id TEXT NOT NULL UNIQUE REFERENCES account_user (id) DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;

CREATE TABLE chat_chatroom (
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 36),
    name TEXT NOT NULL CHECK (length(name) <= 255)
) STRICT, WITHOUT ROWID;

CREATE TABLE chat_chatroom_members (
    id INTEGER NOT NULL PRIMARY KEY,
    chatroom_id TEXT NOT NULL REFERENCES chat_chatroom (id) DEFERRABLE INITIALLY DEFERRED,
    user_id TEXT NOT NULL REFERENCES account_user (id) DEFERRABLE INITIALLY DEFERRED,
    UNIQUE (chatroom_id, user_id)
) STRICT;
CREATE INDEX chat_chatroom_members_user_id ON chat_chatroom_members (user_id);

CREATE TABLE chat_message (
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 36),
    content TEXT NOT NULL,
    timestamp INTEGER NOT NULL,
    receiver_id TEXT REFERENCES account_user (id) DEFERRABLE INITIALLY DEFERRED,
    room_id TEXT NOT NULL REFERENCES chat_chatroom (id) DEFERRABLE INITIALLY DEFERRED,
    sender_id TEXT NOT NULL REFERENCES account_user (id) DEFERRABLE INITIALLY DEFERRED
) STRICT;
CREATE INDEX chat_message_room_id_timestamp ON chat_message (room_id, timestamp, id);
