-- Finished sessions. Ids are UUIDv7: their order is the order of begins. Times are microseconds (start_us since 1970).
CREATE TABLE sessions (
    id BLOB PRIMARY KEY,
    listener TEXT NOT NULL,
    service TEXT NOT NULL,
    protocol TEXT NOT NULL,
    user TEXT,
    source TEXT NOT NULL,
    source_ip BLOB,
    peer TEXT,
    target TEXT,
    destination TEXT,
    destination_ip BLOB,
    destination_port INTEGER,
    backend TEXT,
    upstream TEXT,
    start_us INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    connect_us INTEGER,
    first_byte_us INTEGER,
    bytes_up INTEGER NOT NULL,
    bytes_down INTEGER NOT NULL,
    state TEXT NOT NULL,
    stage TEXT NOT NULL,
    blame TEXT,
    reason TEXT,
    acl_rule TEXT,
    sni TEXT,
    alpn TEXT,
    tls_version TEXT,
    tls_cipher TEXT,
    shard INTEGER NOT NULL,
    generation INTEGER NOT NULL
) WITHOUT ROWID;
-- The primary key is the end of every index: within one user and so on the order is the order of begins, too.
CREATE INDEX sessions_user ON sessions (user) WHERE user IS NOT NULL;
CREATE INDEX sessions_source ON sessions (source_ip) WHERE source_ip IS NOT NULL;
CREATE INDEX sessions_destination ON sessions (destination) WHERE destination IS NOT NULL;
CREATE INDEX sessions_trouble ON sessions (state) WHERE state <> 'closed';

-- Live sessions that have lasted some seconds, as they were when last looked at.
CREATE TABLE active AS SELECT * FROM sessions WHERE 0;
ALTER TABLE active ADD COLUMN round INTEGER;
CREATE UNIQUE INDEX active_id ON active (id);

-- How many sessions of each state there are, and sums by the hour in which they ended.
CREATE TABLE counts (state TEXT PRIMARY KEY, sessions INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE hours (
    hour INTEGER PRIMARY KEY,
    sessions INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    bytes_up INTEGER NOT NULL,
    bytes_down INTEGER NOT NULL
);
CREATE TABLE hours_user (
    hour INTEGER NOT NULL,
    name TEXT NOT NULL,
    sessions INTEGER NOT NULL,
    bytes_up INTEGER NOT NULL,
    bytes_down INTEGER NOT NULL,
    PRIMARY KEY (hour, name)
) WITHOUT ROWID;
CREATE TABLE hours_destination (
    hour INTEGER NOT NULL,
    name TEXT NOT NULL,
    sessions INTEGER NOT NULL,
    bytes_up INTEGER NOT NULL,
    bytes_down INTEGER NOT NULL,
    PRIMARY KEY (hour, name)
) WITHOUT ROWID;

-- Up to which record the process that wrote last has come.
CREATE TABLE progress (one INTEGER PRIMARY KEY CHECK (one = 1), boot INTEGER NOT NULL, number INTEGER NOT NULL);
INSERT INTO progress VALUES (1, 0, 0);
