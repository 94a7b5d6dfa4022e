-- From when on the sender of a delivery is told that it is late; 0 when that was done, or is not wanted.
ALTER TABLE deliveries ADD COLUMN warn_us INTEGER NOT NULL DEFAULT 0;
