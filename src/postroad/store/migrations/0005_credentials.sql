-- Who may log in, from where, and in whose name he may send.

-- 1: only app passwords let the account into mail services, its own password does not.
ALTER TABLE accounts ADD COLUMN app_only INTEGER NOT NULL DEFAULT 0;

INSERT INTO counters (name, value) VALUES ('app_password', 0);

-- digest: SHA-256 of a generated password of 100 bits, which nobody can search for; the SCRAM keys are of the same one.
-- scopes: words with a space between ("smtp imap"). networks: the same with CIDR blocks, empty for everywhere.
-- expires_us: 0 for never. used_us and used_from: the last login, written at most once an hour.
CREATE TABLE app_passwords (
    id INTEGER PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES accounts (id),
    label TEXT NOT NULL,
    digest BLOB NOT NULL,
    scram_salt BLOB NOT NULL,
    scram_iterations INTEGER NOT NULL,
    scram_stored_key BLOB NOT NULL,
    scram_server_key BLOB NOT NULL,
    scopes TEXT NOT NULL,
    networks TEXT NOT NULL,
    expires_us INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    used_us INTEGER NOT NULL,
    used_from TEXT NOT NULL,
    UNIQUE (account, label)
) STRICT;

-- pattern: the key of an address, or "@" and a domain in A-labels.
CREATE TABLE grants (
    account INTEGER NOT NULL REFERENCES accounts (id),
    pattern TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    PRIMARY KEY (account, pattern)
) STRICT;

-- Networks from which a login has succeeded ("192.0.2.0/24", "2001:db8::/64"), refreshed at most once a day.
CREATE TABLE known_networks (
    account INTEGER NOT NULL REFERENCES accounts (id),
    network TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    PRIMARY KEY (account, network)
) STRICT;

-- Random octets of this installation: made once, alike for every worker.
CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    octets BLOB NOT NULL
) STRICT;
