-- by_source: the site refuses one source address, named in `site`, and mail may leave from another; 0: it takes no mail.
-- lifted: somebody has opened the site again; the row stands for a moment so that every worker hears of it.
ALTER TABLE suspensions ADD COLUMN by_source INTEGER NOT NULL DEFAULT 0;
ALTER TABLE suspensions ADD COLUMN lifted INTEGER NOT NULL DEFAULT 0;
