-- Mailboxes and what stands in them, with a modification sequence per change and a log of removals (RFC 7162).

INSERT INTO counters (name, value) VALUES ('mailbox', 0), ('uidvalidity', 0), ('mailbox_job', 0);

-- uidnext and modseq are only ever raised by UPDATE ... RETURNING on this row, never cached. uidvalidity comes from a
-- counter that never goes back, so a name that is used again can never be mistaken for the mailbox it was.
-- messages, unseen and bytes count the rows of mailbox_messages, without those of unfinished copies.
-- hidden_from: uid of the first row of an unfinished copy, 0 when there is none; from there on nothing is shown yet,
-- so that uids appear in ascending order. hidden_modseq: the modseq readers continue from meanwhile.
-- log_from: the log of removals is complete for changes after this modseq. A removed mailbox has the account NULL.
CREATE TABLE mailboxes (
    id INTEGER PRIMARY KEY,
    account INTEGER REFERENCES accounts (id),
    name TEXT NOT NULL,
    uidvalidity INTEGER NOT NULL,
    uidnext INTEGER NOT NULL,
    modseq INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    unseen INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    recent_from INTEGER NOT NULL,
    hidden_from INTEGER NOT NULL,
    hidden_modseq INTEGER NOT NULL,
    log_from INTEGER NOT NULL,
    subscribed INTEGER NOT NULL,
    special_use TEXT NOT NULL,
    keywords TEXT NOT NULL,
    UNIQUE (account, name)
) STRICT;

-- Names a client subscribed to that are no mailbox, or not any more (RFC 3501 section 6.3.6).
CREATE TABLE subscriptions (
    account INTEGER NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    PRIMARY KEY (account, name)
) STRICT;

-- flags: 1 seen, 2 answered, 4 flagged, 8 deleted, 16 draft. size: prefix and message together.
CREATE TABLE mailbox_messages (
    mailbox INTEGER NOT NULL REFERENCES mailboxes (id),
    uid INTEGER NOT NULL,
    message INTEGER NOT NULL REFERENCES messages (id),
    flags INTEGER NOT NULL,
    modseq INTEGER NOT NULL,
    size INTEGER NOT NULL,
    internal_us INTEGER NOT NULL,
    keywords TEXT NOT NULL,
    prefix BLOB NOT NULL,
    PRIMARY KEY (mailbox, uid)
) STRICT;

CREATE INDEX mailbox_messages_message ON mailbox_messages (message);
CREATE INDEX mailbox_messages_modseq ON mailbox_messages (mailbox, modseq);

CREATE TABLE expunged (
    mailbox INTEGER NOT NULL,
    modseq INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    PRIMARY KEY (mailbox, modseq, uid)
) STRICT;

-- Work of more than one unit: a copy in slices, a POP3 removal in parts, the erasure of a mailbox or an account.
-- due_us: when sweep_mailboxes takes it up; a copy that moves on puts it off. decided: it may only be finished.
CREATE TABLE mailbox_jobs (
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    account INTEGER NOT NULL,
    mailbox INTEGER NOT NULL,
    due_us INTEGER NOT NULL,
    decided INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    unseen INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;

CREATE INDEX mailbox_jobs_due ON mailbox_jobs (due_us, id);
CREATE INDEX mailbox_jobs_mailbox ON mailbox_jobs (mailbox);

-- What a job is about: the uids its slices placed, or those it will remove.
CREATE TABLE mailbox_job_uids (
    job INTEGER NOT NULL REFERENCES mailbox_jobs (id),
    first_uid INTEGER NOT NULL,
    last_uid INTEGER NOT NULL,
    PRIMARY KEY (job, first_uid)
) STRICT;
