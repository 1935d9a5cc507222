-- Which import brought a message that another system accepted: its story did not happen here.

CREATE TABLE imports (
    -- That of the audit log's entry for its begin.
    id       uuid PRIMARY KEY,
    began_at timestamptz NOT NULL,
    -- Who ran it, and the name of its file.
    actor    text NOT NULL,
    file     text NOT NULL
);

-- Null: accepted here. No foreign key, as its check would lock a row for every message.
ALTER TABLE messages ADD COLUMN import_id uuid;
