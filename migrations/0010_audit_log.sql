-- Who looked at whose data, and who changed what.

CREATE TABLE audit_log (
    -- UUIDv7: the order of ids is the order of time.
    id            uuid PRIMARY KEY,
    at            timestamptz NOT NULL,
    actor_kind    text NOT NULL CHECK (actor_kind IN ('user', 'phone', 'command')),
    -- A business user's id, a phone number, or who ran the command: user@host.
    actor         text NOT NULL CHECK (char_length(actor) BETWEEN 1 AND 400),
    -- What a business user was called then.
    actor_name    text CHECK (char_length(actor_name) <= 200),
    -- The token that was shown, if it came over the API.
    token_id      uuid,
    -- Actions are the program's to know; here they only have to look like one.
    action        text NOT NULL CHECK (action ~ '^[a-z_]{1,40}\.[a-z_]{1,40}$'),
    subject_kind  text NOT NULL CHECK (subject_kind ~ '^[a-z_]{1,40}$'),
    -- Null for what is about many.
    subject_id    text CHECK (char_length(subject_id) <= 100),
    -- Whose data it is, if they are one phone's.
    subject_phone text,
    reason        text CHECK (char_length(reason) BETWEEN 1 AND 500),
    request_id    text CHECK (char_length(request_id) <= 128),
    details       jsonb NOT NULL DEFAULT '{}',
    outcome       text NOT NULL CHECK (outcome IN ('done', 'not_found', 'refused', 'failed'))
);
CREATE INDEX audit_log_of_action ON audit_log (action, id);

-- Every phone number that an entry is about: a page of a list shows many.
CREATE TABLE audit_log_phones (
    phone    text NOT NULL,
    entry_id uuid NOT NULL REFERENCES audit_log (id) ON DELETE CASCADE,
    PRIMARY KEY (phone, entry_id)
);
CREATE INDEX audit_log_phones_of_entry ON audit_log_phones (entry_id);
