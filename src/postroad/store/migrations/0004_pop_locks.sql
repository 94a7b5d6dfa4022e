-- Who has a maildrop open by POP3 (RFC 1939 section 4). A lock whose owner is not alive is free.

CREATE TABLE pop_locks (
    account INTEGER PRIMARY KEY,
    owner INTEGER NOT NULL
) STRICT;
