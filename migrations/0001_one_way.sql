-- The schema of the existing one-way system, in its own terms: its column names, its numbers
-- (status 0 pending, 1 sent, 2 delivered, 3 read, 4 queued, 5 failed; priority 1 low, 2 normal,
-- 3 high, 4 urgent) and its phone numbers (country code and digits, no plus sign).
-- Everything after it extends this, so that rows from here are known to survive.

CREATE TABLE business_users (
    id            uuid PRIMARY KEY,
    name          text NOT NULL,
    phone         text,
    creation_time timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE mobile_users (
    id            uuid PRIMARY KEY,
    mobile_number text NOT NULL,
    status        smallint NOT NULL DEFAULT 0,
    creation_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT mobile_users_mobile_number_key UNIQUE (mobile_number)
);

CREATE TABLE messages (
    id                     uuid PRIMARY KEY,
    recipient_phone_number text NOT NULL,
    subject                text,
    message_content        text NOT NULL,
    content_type           smallint NOT NULL DEFAULT 1,
    status                 smallint NOT NULL DEFAULT 0,
    priority               smallint NOT NULL DEFAULT 2,
    creator_id             uuid NOT NULL,
    creation_time          timestamptz NOT NULL DEFAULT now()
);
