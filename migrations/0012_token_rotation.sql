-- Until when a token opens things that was replaced by another of the same holder. It expires then, which
-- every version knows; this is to find its connections by.
ALTER TABLE tokens ADD COLUMN retires_at timestamptz;
CREATE INDEX tokens_retiring ON tokens (retires_at) WHERE retires_at IS NOT NULL;
