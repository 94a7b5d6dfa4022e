-- Domains whose mail is passed to a host behind this server.

-- next_hop: "host:port", "lmtp:host:port" or "lmtp:/path"; empty for a domain that lives here.
-- recipient_check: callout, list or all. in_doubt: known, accept or defer, for a callout that was not answered.
ALTER TABLE domains ADD COLUMN next_hop TEXT NOT NULL DEFAULT '';
ALTER TABLE domains ADD COLUMN recipient_check TEXT NOT NULL DEFAULT '';
ALTER TABLE domains ADD COLUMN in_doubt TEXT NOT NULL DEFAULT '';

-- The recipients that exist there, where a list says so.
CREATE TABLE gateway_recipients (
    address_key TEXT PRIMARY KEY,
    domain INTEGER NOT NULL REFERENCES domains (id)
) STRICT;

CREATE INDEX gateway_recipients_domain ON gateway_recipients (domain, address_key);

-- Recipients that the host itself has said to exist; what another host said counts for nothing.
CREATE TABLE gateway_known (
    address_key TEXT PRIMARY KEY,
    domain INTEGER NOT NULL REFERENCES domains (id),
    next_hop TEXT NOT NULL,
    seen_us INTEGER NOT NULL
) STRICT;

CREATE INDEX gateway_known_domain ON gateway_known (domain, seen_us);
