-- What every process of an installation has to know, and nobody else; and the way to tokens that
-- were taken back while their connections were open.

CREATE TABLE secrets (
    name       text PRIMARY KEY CHECK (name ~ '^[a-z_]{1,40}$'),
    value      bytea NOT NULL CHECK (octet_length(value) BETWEEN 16 AND 64),
    created_at timestamptz NOT NULL
);

CREATE INDEX tokens_revoked ON tokens (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX business_users_disabled ON business_users (disabled_at) WHERE disabled_at IS NOT NULL;
