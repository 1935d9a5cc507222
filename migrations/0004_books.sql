-- What it takes to explain every message, to hold the books, and to put dead letters back.

-- Kinds of events are the program's to know; here they only have to look like one.
ALTER TABLE delivery_events DROP CONSTRAINT delivery_events_kind_check;
ALTER TABLE delivery_events
    ADD CONSTRAINT delivery_events_kind_form CHECK (kind ~ '^[a-z_]{1,40}$');

-- How many messages were accepted, counted apart from the messages themselves, so that one that
-- vanished is missed. The slot keeps writers of the same business out of each other's way.
CREATE TABLE ledger_days (
    business_user_id uuid     NOT NULL,
    day              date     NOT NULL,
    slot             smallint NOT NULL,
    accepted         bigint   NOT NULL CHECK (accepted >= 0),
    -- Messages that were erased on purpose and left no row.
    erased           bigint   NOT NULL DEFAULT 0 CHECK (erased >= 0),
    PRIMARY KEY (business_user_id, day, slot)
) WITH (fillfactor = 50);

-- A trigger, because then no way into the table can forget to count, an older version's included.
CREATE FUNCTION count_accepted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- In order, so that two writers of one slot cannot wait for each other.
    INSERT INTO ledger_days AS l (business_user_id, day, slot, accepted)
    SELECT coalesce(sender_user_id, recipient_user_id), (created_at AT TIME ZONE 'UTC')::date,
           pg_backend_pid() % 16, count(*)
    FROM accepted GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (business_user_id, day, slot) DO UPDATE SET accepted = l.accepted + excluded.accepted;
    RETURN NULL;
END $$;
CREATE TRIGGER messages_accepted AFTER INSERT ON messages
    REFERENCING NEW TABLE AS accepted FOR EACH STATEMENT EXECUTE FUNCTION count_accepted();

-- The trigger's lock keeps new messages out until this is committed.
INSERT INTO ledger_days (business_user_id, day, slot, accepted)
SELECT coalesce(sender_user_id, recipient_user_id), (created_at AT TIME ZONE 'UTC')::date, 0, count(*)
FROM messages GROUP BY 1, 2;

-- The few that failed, for the audit.
CREATE INDEX messages_failed ON messages (id) WHERE status = 4;

-- When a phone was last here, for the explanation of what waits for it. A hint: written late, and
-- lost with the process.
CREATE TABLE recipients (
    phone             text PRIMARY KEY,
    connected_at      timestamptz NOT NULL,
    disconnected_at   timestamptz,
    disconnect_reason text CHECK (char_length(disconnect_reason) <= 100)
) WITH (fillfactor = 50);

-- When processes ran that deliver. One that was killed has no end; its last sign of life stands in.
CREATE TABLE runs (
    id         uuid PRIMARY KEY,
    started_at timestamptz NOT NULL,
    alive_at   timestamptz NOT NULL,
    stopped_at timestamptz
) WITH (fillfactor = 50);

-- When a part that delivery needs was away.
CREATE TABLE outages (
    id       uuid PRIMARY KEY,
    part     text NOT NULL CHECK (part ~ '^[a-z_]{1,40}$'),
    reason   text NOT NULL CHECK (char_length(reason) <= 500),
    began_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL
);
CREATE INDEX outages_by_end ON outages (ended_at);
