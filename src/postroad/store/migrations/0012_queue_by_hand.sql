-- The queue by hand: why a delivery waits, what people did to it, and what it was before.

-- state: 0 queued, 1 deferred by a host, 2 throttled by a lane of ours, 3 held, 4 dropped and not yet gone.
-- login: who submitted the message. reason: hash of the last reply without what differs from mail to mail.
-- next_hop: where it goes instead of where DNS and configuration say. held: why it is held, or who dropped it.
-- left_us: what was left of its lifetime when it was held.
ALTER TABLE deliveries ADD COLUMN state INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN login TEXT NOT NULL DEFAULT '';
ALTER TABLE deliveries ADD COLUMN reason INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN next_hop TEXT NOT NULL DEFAULT '';
ALTER TABLE deliveries ADD COLUMN held TEXT NOT NULL DEFAULT '';
ALTER TABLE deliveries ADD COLUMN left_us INTEGER NOT NULL DEFAULT 0;

UPDATE deliveries SET state = 1 WHERE last_reply <> '';
UPDATE deliveries SET login = (SELECT login FROM messages WHERE messages.id = deliveries.message);

-- What waits, for the grouped views. Mail that is delivered at its first attempt has an owner and never stands here.
CREATE INDEX deliveries_waiting ON deliveries (domain, next_hop, reason, login, message, state, due_us) WHERE owner = 0;

-- Moved mail, which is due though the lane of its domain has enough.
CREATE INDEX deliveries_moved ON deliveries (due_us) WHERE next_hop <> '';

-- The site that a domain's mail went to when its way was last planned.
CREATE TABLE sites (
    domain TEXT PRIMARY KEY,
    site TEXT NOT NULL,
    seen_us INTEGER NOT NULL
) STRICT;

CREATE INDEX sites_seen ON sites (seen_us);

-- One row per action of a person. until_us: when it becomes final; 0 when it is. undone: it is being taken back.
CREATE TABLE queue_actions (
    number INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL,
    what TEXT NOT NULL,
    by_whom TEXT NOT NULL,
    selection TEXT NOT NULL,
    detail TEXT NOT NULL,
    deliveries INTEGER NOT NULL,
    until_us INTEGER NOT NULL,
    undone INTEGER NOT NULL
) STRICT;

CREATE INDEX queue_actions_open ON queue_actions (until_us) WHERE until_us > 0;

-- What a delivery was before an action that can still be taken back.
CREATE TABLE queue_before (
    action INTEGER NOT NULL REFERENCES queue_actions (number),
    delivery INTEGER NOT NULL,
    due_us INTEGER NOT NULL,
    state INTEGER NOT NULL,
    next_hop TEXT NOT NULL,
    held TEXT NOT NULL,
    left_us INTEGER NOT NULL,
    PRIMARY KEY (action, delivery)
) STRICT;

INSERT INTO counters (name, value) VALUES ('queue_action', 0);
