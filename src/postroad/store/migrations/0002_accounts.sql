-- Who is served here: domains, the accounts and aliases below them, and what proves a password.

INSERT INTO counters (name, value) VALUES ('domain', 0), ('account', 0);

-- name: A-labels in lower case. postmaster and catch_all: an address, or empty for the default.
CREATE TABLE domains (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    postmaster TEXT NOT NULL,
    catch_all TEXT NOT NULL,
    created_us INTEGER NOT NULL
) STRICT;

-- state: 0 enabled, 1 disabled, 2 removed and being erased; a removed account has no domain and a key nobody can write.
-- used_bytes and messages are always the sum and the number of the account's rows in mailbox_messages.
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    domain INTEGER REFERENCES domains (id),
    address_key TEXT NOT NULL UNIQUE,
    address TEXT NOT NULL,
    state INTEGER NOT NULL,
    quota_bytes INTEGER NOT NULL,
    used_bytes INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    created_us INTEGER NOT NULL
) STRICT;

CREATE INDEX accounts_domain ON accounts (domain, id);

CREATE TABLE aliases (
    address_key TEXT NOT NULL,
    target TEXT NOT NULL,
    domain INTEGER NOT NULL REFERENCES domains (id),
    created_us INTEGER NOT NULL,
    PRIMARY KEY (address_key, target)
) STRICT;

CREATE INDEX aliases_domain ON aliases (domain);

-- Both proofs of one password, written together (RFC 9106, RFC 7677).
CREATE TABLE credentials (
    account INTEGER PRIMARY KEY REFERENCES accounts (id),
    argon2 TEXT NOT NULL,
    scram_salt BLOB NOT NULL,
    scram_iterations INTEGER NOT NULL,
    scram_stored_key BLOB NOT NULL,
    scram_server_key BLOB NOT NULL,
    changed_us INTEGER NOT NULL
) STRICT;
