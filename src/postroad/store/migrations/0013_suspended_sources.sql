-- by_source: the site refuses one source address, named in `site`, and mail may leave from another; 0: it takes no mail.
ALTER TABLE suspensions ADD COLUMN by_source INTEGER NOT NULL DEFAULT 0;
