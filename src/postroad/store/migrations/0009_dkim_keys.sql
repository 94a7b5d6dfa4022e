-- The keys that a domain signs with. private: PKCS #8 in DER, RSA keys with their arithmetic verified.
-- state: 0 published (to be found in DNS, signs nothing yet), 1 active (signs), 2 retired (signs no more; its record
-- must stay until the mail it signed has arrived).

CREATE TABLE dkim_keys (
    domain INTEGER NOT NULL REFERENCES domains (id),
    selector TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    state INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    changed_us INTEGER NOT NULL,
    private BLOB NOT NULL,
    PRIMARY KEY (domain, selector)
) STRICT;
