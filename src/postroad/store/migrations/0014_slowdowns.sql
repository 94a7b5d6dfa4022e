-- Sites that mail goes to slower for a while: told to the other workers and to people. A row whose time is up means
-- nothing and is removed by the next one noted.
CREATE TABLE slowdowns (
    site TEXT PRIMARY KEY,
    until_us INTEGER NOT NULL,
    cause TEXT NOT NULL
) STRICT;
