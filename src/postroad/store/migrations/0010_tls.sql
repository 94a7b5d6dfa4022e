-- How mail is protected on its way to other servers.

-- What the sender wishes: 0 whatever the policy says, 1 REQUIRETLS, 2 "TLS-Required: No". It stands with the delivery
-- and not behind the large columns of the message, because every claim reads it.
ALTER TABLE deliveries ADD COLUMN tls INTEGER NOT NULL DEFAULT 0;

-- MTA-STS policies as they were fetched, kept until they expire. record: the id that DNS announced then.
CREATE TABLE sts_policies (
    domain TEXT PRIMARY KEY,
    record TEXT NOT NULL,
    policy TEXT NOT NULL,
    fetched_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL
) STRICT;

-- The best protection seen at a domain, since when and when last. level: 0 in the clear, 1 encrypted, 2 verified.
CREATE TABLE tls_levels (
    domain TEXT PRIMARY KEY,
    level INTEGER NOT NULL,
    since_us INTEGER NOT NULL,
    seen_us INTEGER NOT NULL
) STRICT;

-- Sessions of one UTC day (days since 1970), counted for the report to their domain.
CREATE TABLE tls_sessions (
    day INTEGER NOT NULL,
    domain TEXT NOT NULL,
    policy TEXT NOT NULL,
    result TEXT NOT NULL,
    host TEXT NOT NULL,
    address TEXT NOT NULL,
    detail TEXT NOT NULL,
    sessions INTEGER NOT NULL,
    PRIMARY KEY (day, domain, policy, result, host, address, detail)
) STRICT;

-- Reports that are still to be sent, when to try next and when to give up.
CREATE TABLE tls_reports (
    day INTEGER NOT NULL,
    domain TEXT NOT NULL,
    due_us INTEGER NOT NULL,
    until_us INTEGER NOT NULL,
    PRIMARY KEY (day, domain)
) STRICT;

CREATE INDEX tls_reports_due ON tls_reports (due_us);
