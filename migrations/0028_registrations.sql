-- Registration by one-time code. A code is derived from a key outside Postgres and the id of its row; here is only
-- its HMAC. The tries of a code go on when another registration of the same phone repeats it.
CREATE TABLE registration_codes (
    id uuid PRIMARY KEY,
    phone text NOT NULL,
    key_id bytea NOT NULL CHECK (octet_length(key_id) = 8),
    hmac bytea NOT NULL CHECK (octet_length(hmac) = 32),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    tries integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
    used_at timestamptz
);

CREATE INDEX registration_codes_phone ON registration_codes (phone);
CREATE INDEX registration_codes_expires_at ON registration_codes (expires_at);

CREATE TABLE registrations (
    id uuid PRIMARY KEY,
    code_id uuid NOT NULL REFERENCES registration_codes (id) ON DELETE CASCADE,
    phone text NOT NULL,
    country text NOT NULL,
    -- The address that asked, as limits count it: an IPv4 address, or the /64 of an IPv6 address.
    network text NOT NULL,
    channel text NOT NULL CHECK (channel IN ('sms', 'email')),
    platform text CHECK (platform IN ('android', 'ios', 'web')),
    locale text CHECK (locale IN ('ar', 'en')),
    created_at timestamptz NOT NULL,
    resend_at timestamptz NOT NULL,
    sends integer NOT NULL DEFAULT 1 CHECK (sends >= 1),
    -- The periods in which its sends were counted: a verified code gives those of its address back.
    counted timestamptz[] NOT NULL,
    verified_at timestamptz
);

CREATE INDEX registrations_code_id ON registrations (code_id);
CREATE INDEX registrations_phone ON registrations (phone, created_at);

-- What the limits count, in periods of ten minutes. scope: 0 phone, 1 prefix, 2 address, 3 country, 4 all.
CREATE TABLE registration_counts (
    scope smallint NOT NULL CHECK (scope BETWEEN 0 AND 4),
    key text NOT NULL,
    period timestamptz NOT NULL,
    sends integer NOT NULL DEFAULT 0,
    verified integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, key, period)
);

CREATE INDEX registration_counts_period ON registration_counts (period);

-- Countries to which nothing is sent for a while: many sends, few verified.
CREATE TABLE registration_pauses (
    country text PRIMARY KEY,
    until timestamptz NOT NULL
);

-- Where a code may go by mail; set by administrators and imports only.
ALTER TABLE mobile_users ADD COLUMN email text;
