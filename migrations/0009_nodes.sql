-- The processes of an installation: who they are, where they can be reached, what they do.

CREATE TABLE nodes (
    id         bytea PRIMARY KEY CHECK (octet_length(id) = 8),
    role       text NOT NULL CHECK (role IN ('serve', 'gateway', 'worker')),
    host       text NOT NULL CHECK (char_length(host) <= 255),
    pid        integer NOT NULL,
    version    text NOT NULL CHECK (char_length(version) <= 50),
    -- Where other gateways reach this one.
    address    text CHECK (char_length(address) <= 300),
    -- The queues that this worker leads.
    partitions smallint[] NOT NULL DEFAULT '{}',
    draining   boolean NOT NULL DEFAULT false,
    -- What it counted since it started, for whoever watches.
    figures    jsonb NOT NULL DEFAULT '{}',
    started_at timestamptz NOT NULL,
    -- By the database's clock: those of the machines may differ.
    seen_at    timestamptz NOT NULL
) WITH (fillfactor = 50);

-- A gateway beside workers accepts and does not deliver.
ALTER TABLE runs ADD COLUMN delivers boolean NOT NULL DEFAULT true;

-- A frame of the broker's that nobody can read is a dead letter, too, the same frame once.
ALTER TABLE dead_letters
    ADD COLUMN frame bytea CHECK (octet_length(frame) <= 65536),
    DROP CONSTRAINT dead_letters_about_something,
    ADD CONSTRAINT dead_letters_about_something
        CHECK (message_id IS NOT NULL OR job_id IS NOT NULL OR frame IS NOT NULL);
CREATE UNIQUE INDEX dead_letters_frame ON dead_letters (sha256(frame)) WHERE frame IS NOT NULL;
