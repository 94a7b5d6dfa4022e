-- Sites to which nothing goes for a while, one row for each domain known to be served by them. What stands here is told
-- by `postroad why` and outlives a restart; a row whose time is up means nothing and is removed by the next one noted.

CREATE TABLE suspensions (
    domain TEXT NOT NULL,
    site TEXT NOT NULL,
    until_us INTEGER NOT NULL,
    cause TEXT NOT NULL,
    PRIMARY KEY (domain, site)
) STRICT;
