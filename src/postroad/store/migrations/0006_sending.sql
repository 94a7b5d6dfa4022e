-- What our own users send: submissions known again when they are repeated, and how much of its allowance each has used.

-- key: a hash of who submitted what. content: a hash of envelope and content, by which a key that a client chose is
-- known to be used for another message. A row counts for a day after at_us; then it is swept.
CREATE TABLE submissions (
    key BLOB PRIMARY KEY,
    message INTEGER NOT NULL,
    content BLOB NOT NULL,
    at_us INTEGER NOT NULL
) STRICT;

CREATE INDEX submissions_at ON submissions (at_us);

-- messages count from hour_us on, recipients and first_time from day_us on. A limit that is NULL is the configuration's,
-- and 0 is none.
CREATE TABLE sending (
    account INTEGER PRIMARY KEY REFERENCES accounts (id),
    hour_us INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    day_us INTEGER NOT NULL,
    recipients INTEGER NOT NULL,
    first_time INTEGER NOT NULL,
    messages_per_hour INTEGER,
    recipients_per_day INTEGER,
    first_time_recipients_per_day INTEGER,
    recipients_per_message INTEGER
) STRICT;

-- Whom an account has sent to; recipient: a hash of the address.
CREATE TABLE met (
    account INTEGER NOT NULL REFERENCES accounts (id),
    recipient BLOB NOT NULL,
    first_us INTEGER NOT NULL,
    PRIMARY KEY (account, recipient)
) STRICT;
