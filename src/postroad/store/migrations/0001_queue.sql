-- The queue and the journal. A row of messages is a message that is ours; see docs/internals/states.md.

CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;

-- incarnation: the last number given to a writer or a worker. last_id: an id below which all forgotten ids lie.
INSERT INTO counters (name, value) VALUES ('incarnation', 0), ('last_id', 0);

-- One row per process that ever wrote here; last_batch rises with every transaction.
CREATE TABLE writers (
    id INTEGER PRIMARY KEY,
    started_us INTEGER NOT NULL,
    last_batch INTEGER NOT NULL
) STRICT;

-- The large columns stand last: what comes before them is read without following them.
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    received_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    size INTEGER NOT NULL,
    smtputf8 INTEGER NOT NULL,
    eightbit INTEGER NOT NULL,
    sender TEXT NOT NULL,
    ret TEXT NOT NULL,
    envid TEXT NOT NULL,
    login TEXT NOT NULL,
    body_file TEXT NOT NULL,
    header BLOB NOT NULL,
    body BLOB
) STRICT;

CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY,
    message INTEGER NOT NULL REFERENCES messages (id),
    due_us INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    account INTEGER NOT NULL,
    domain TEXT NOT NULL,
    recipient TEXT NOT NULL,
    notify TEXT NOT NULL,
    orcpt TEXT NOT NULL,
    prefix BLOB NOT NULL,
    last_reply TEXT NOT NULL
) STRICT;

CREATE INDEX messages_body_file ON messages (body_file) WHERE body_file <> '';
CREATE INDEX deliveries_due ON deliveries (due_us, owner, domain);
CREATE INDEX deliveries_message ON deliveries (message);

-- What a message is found by, one key a line; the story itself is in the journal.
CREATE TABLE history (
    id INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL,
    keys TEXT NOT NULL
) STRICT;

-- position: number of the writer above 40 bits of its own count, so that a reader follows each writer by itself.
CREATE TABLE journal (
    position INTEGER PRIMARY KEY,
    message INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    events BLOB NOT NULL
) STRICT;
