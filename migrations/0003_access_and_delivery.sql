-- Tokens, idempotency, and what went wrong on the way.

CREATE TABLE tokens (
    id         uuid PRIMARY KEY,
    -- SHA-256 of the token. The token itself has 256 random bits, so it needs no salt.
    hash       bytea NOT NULL CONSTRAINT tokens_hash_key UNIQUE CHECK (octet_length(hash) = 32),
    user_id    uuid REFERENCES business_users (id),
    phone      text,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT tokens_one_owner CHECK ((user_id IS NULL) <> (phone IS NULL))
);
CREATE INDEX tokens_of_user ON tokens (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX tokens_of_phone ON tokens (phone, id) WHERE phone IS NOT NULL;

CREATE TABLE idempotency_keys (
    user_id      uuid NOT NULL REFERENCES business_users (id),
    key          text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 255),
    -- SHA-256 of route and body: the same key with another body is a mistake of the caller's.
    request_hash bytea NOT NULL CHECK (octet_length(request_hash) = 32),
    status_code  smallint NOT NULL,
    response     text NOT NULL,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

CREATE TABLE dead_letters (
    id             uuid PRIMARY KEY,
    message_id     uuid NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    generation     integer NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('delivery', 'push')),
    class          text NOT NULL CHECK (class IN ('recipient', 'provider', 'content', 'system')),
    reason         text NOT NULL CHECK (char_length(reason) <= 500),
    attempts       integer NOT NULL CHECK (attempts >= 0),
    first_error_at timestamptz NOT NULL,
    last_error_at  timestamptz NOT NULL,
    CONSTRAINT dead_letters_once UNIQUE (message_id, generation, kind)
);
CREATE INDEX dead_letters_by_age ON dead_letters (last_error_at);

-- Only what is unusual; the happy path's steps are columns of the message.
CREATE TABLE delivery_events (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id uuid NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    generation integer NOT NULL,
    at         timestamptz NOT NULL,
    kind       text NOT NULL CHECK (kind IN
               ('retry', 'given_up', 'connection_lost', 'late_acknowledgement', 'requeued')),
    detail     text NOT NULL DEFAULT ''
);
CREATE INDEX delivery_events_of_message ON delivery_events (message_id, id);
