-- From one-way to both modes. Existing rows stay, become one_way and keep their ids; their numbers
-- and phone numbers take the new form.

ALTER TABLE business_users RENAME COLUMN creation_time TO created_at;
ALTER TABLE business_users
    ADD COLUMN permissions integer NOT NULL DEFAULT 0,
    ADD COLUMN plan_id     uuid,
    ADD COLUMN disabled_at timestamptz;
UPDATE business_users SET phone = '+' || phone WHERE phone ~ '^[0-9]+$';
ALTER TABLE business_users
    ADD CONSTRAINT business_users_name_length CHECK (char_length(name) BETWEEN 1 AND 200) NOT VALID;
CREATE UNIQUE INDEX business_users_name_key ON business_users (lower(name));

CREATE TABLE plans (
    id              uuid PRIMARY KEY,
    name            text NOT NULL CONSTRAINT plans_name_key UNIQUE,
    -- How many messages its users may send a month; null is no limit.
    monthly_messages integer CHECK (monthly_messages > 0),
    created_at      timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE business_users
    ADD CONSTRAINT business_users_plan_fkey FOREIGN KEY (plan_id) REFERENCES plans (id);

ALTER TABLE mobile_users RENAME COLUMN mobile_number TO phone;
ALTER TABLE mobile_users RENAME COLUMN creation_time TO created_at;
ALTER TABLE mobile_users RENAME CONSTRAINT mobile_users_mobile_number_key TO mobile_users_phone_key;
UPDATE mobile_users SET phone = '+' || phone WHERE phone ~ '^[0-9]+$';
ALTER TABLE mobile_users
    ADD CONSTRAINT mobile_users_status_known CHECK (status BETWEEN 0 AND 2),
    ADD CONSTRAINT mobile_users_phone_e164 CHECK (phone ~ '^\+[0-9]{4,17}$') NOT VALID;

CREATE TABLE conversations (
    id               uuid PRIMARY KEY,
    business_user_id uuid NOT NULL REFERENCES business_users (id),
    phone            text NOT NULL,
    status           smallint NOT NULL DEFAULT 0 CHECK (status BETWEEN 0 AND 2),
    last_seq         bigint NOT NULL DEFAULT 0 CHECK (last_seq >= 0),
    last_message_id  uuid,
    last_message_at  timestamptz,
    unread_business  integer NOT NULL DEFAULT 0 CHECK (unread_business >= 0),
    unread_mobile    integer NOT NULL DEFAULT 0 CHECK (unread_mobile >= 0),
    created_at       timestamptz NOT NULL DEFAULT now(),
    -- At most one conversation a pair (property 2).
    CONSTRAINT conversations_pair_key UNIQUE (business_user_id, phone)
);
CREATE INDEX conversations_of_phone ON conversations (phone, last_message_at DESC);
CREATE INDEX conversations_of_business ON conversations (business_user_id, last_message_at DESC);

ALTER TABLE messages RENAME COLUMN recipient_phone_number TO recipient_phone;
ALTER TABLE messages RENAME COLUMN message_content TO content;
ALTER TABLE messages RENAME COLUMN creator_id TO sender_user_id;
ALTER TABLE messages RENAME COLUMN creation_time TO created_at;
ALTER TABLE messages
    ALTER COLUMN recipient_phone DROP NOT NULL,
    ALTER COLUMN sender_user_id DROP NOT NULL,
    ALTER COLUMN priority SET DEFAULT 1,
    ADD COLUMN type              smallint NOT NULL DEFAULT 0,
    ADD COLUMN conversation_id   uuid REFERENCES conversations (id),
    ADD COLUMN seq               bigint,
    ADD COLUMN sender_phone      text,
    ADD COLUMN recipient_user_id uuid,
    ADD COLUMN client_message_id text,
    ADD COLUMN generation        integer NOT NULL DEFAULT 0,
    ADD COLUMN retry_count       smallint NOT NULL DEFAULT 0,
    ADD COLUMN failure_reason    text,
    ADD COLUMN partition         smallint NOT NULL DEFAULT 0,
    -- Null: parked, nobody has to look at it until its recipient connects. A time: looked at then,
    -- unless somebody dealt with it before.
    ADD COLUMN next_attempt_at   timestamptz,
    ADD COLUMN sent_at           timestamptz,
    ADD COLUMN delivered_at      timestamptz,
    ADD COLUMN read_at           timestamptz,
    ADD COLUMN deleted_at        timestamptz;

UPDATE messages SET
    recipient_phone =
        CASE WHEN recipient_phone ~ '^[0-9]+$' THEN '+' || recipient_phone ELSE recipient_phone END,
    status = CASE status WHEN 4 THEN 0 WHEN 5 THEN 4 ELSE status END,
    priority = CASE WHEN priority >= 3 THEN 2 WHEN priority = 2 THEN 1 ELSE 0 END,
    sent_at = CASE WHEN status IN (1, 2, 3, 5) THEN created_at END,
    delivered_at = CASE WHEN status IN (2, 3) THEN created_at END,
    read_at = CASE WHEN status = 3 THEN created_at END,
    failure_reason = CASE WHEN status = 5 THEN 'failed in the previous system' END,
    subject = left(subject, 200);

-- No foreign key on sender_user_id: its check would lock one row of business_users for every
-- message of a sender. Business users are disabled, never deleted.
ALTER TABLE messages
    ADD CONSTRAINT messages_type_known CHECK (type IN (0, 1)),
    -- Property 1: a message has a conversation exactly if it is chat.
    ADD CONSTRAINT messages_type_matches_conversation
        CHECK ((type = 1) = (conversation_id IS NOT NULL) AND (type = 1) = (seq IS NOT NULL)),
    ADD CONSTRAINT messages_subject_one_way_only CHECK (type = 0 OR subject IS NULL),
    ADD CONSTRAINT messages_one_way_to_phone
        CHECK (type = 1 OR (recipient_phone IS NOT NULL AND sender_user_id IS NOT NULL)),
    ADD CONSTRAINT messages_one_sender
        CHECK ((sender_user_id IS NULL) <> (sender_phone IS NULL)),
    ADD CONSTRAINT messages_one_recipient
        CHECK ((recipient_phone IS NULL) <> (recipient_user_id IS NULL)),
    ADD CONSTRAINT messages_status_known CHECK (status BETWEEN 0 AND 4),
    ADD CONSTRAINT messages_priority_known CHECK (priority BETWEEN 0 AND 2),
    ADD CONSTRAINT messages_content_type_known CHECK (content_type IN (0, 1)),
    ADD CONSTRAINT messages_retry_count_positive CHECK (retry_count >= 0),
    ADD CONSTRAINT messages_failure_reason_length CHECK (char_length(failure_reason) <= 500),
    ADD CONSTRAINT messages_subject_length CHECK (char_length(subject) <= 200),
    -- NOT VALID: what an older system stored longer than that is kept.
    ADD CONSTRAINT messages_content_length CHECK (char_length(content) <= 10000) NOT VALID;

-- What a sender sent, newest first.
CREATE INDEX messages_of_sender ON messages (sender_user_id, id);
-- What a phone got, newest first.
CREATE INDEX messages_of_phone ON messages (recipient_phone, id);
-- What a phone has still to get, oldest first: the catch-up.
CREATE INDEX messages_waiting ON messages (recipient_phone, id) WHERE status < 2;
-- What the sweeper has to look at.
CREATE INDEX messages_due ON messages (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE UNIQUE INDEX messages_of_conversation ON messages (conversation_id, seq)
    WHERE conversation_id IS NOT NULL;
CREATE UNIQUE INDEX messages_client_message_of_user ON messages (sender_user_id, client_message_id)
    WHERE client_message_id IS NOT NULL AND sender_user_id IS NOT NULL;
CREATE UNIQUE INDEX messages_client_message_of_phone ON messages (sender_phone, client_message_id)
    WHERE client_message_id IS NOT NULL AND sender_phone IS NOT NULL;

-- Every message is updated once, soon after it is inserted.
ALTER TABLE messages SET (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02
);

CREATE TABLE media_attachments (
    id               uuid PRIMARY KEY,
    message_id       uuid REFERENCES messages (id) ON DELETE CASCADE,
    owner_user_id    uuid REFERENCES business_users (id),
    owner_phone      text,
    file_name        text NOT NULL CHECK (char_length(file_name) BETWEEN 1 AND 255),
    content_type     text NOT NULL CHECK (char_length(content_type) <= 100),
    size_bytes       bigint NOT NULL CHECK (size_bytes >= 0),
    type             smallint NOT NULL CHECK (type BETWEEN 0 AND 3),
    location         text NOT NULL,
    thumbnail_small  text,
    thumbnail_medium text,
    thumbnail_large  text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT media_attachments_one_owner CHECK ((owner_user_id IS NULL) <> (owner_phone IS NULL))
);
CREATE INDEX media_attachments_of_message ON media_attachments (message_id);

CREATE TABLE device_tokens (
    id            uuid PRIMARY KEY,
    phone         text NOT NULL,
    -- Unique over the whole system (property 7): a device that changes hands is pushed to once.
    token         text NOT NULL CONSTRAINT device_tokens_token_key UNIQUE
                  CHECK (char_length(token) BETWEEN 1 AND 4096),
    platform      smallint NOT NULL CHECK (platform BETWEEN 0 AND 2),
    active        boolean NOT NULL DEFAULT true,
    failure_count integer NOT NULL DEFAULT 0 CHECK (failure_count >= 0),
    last_used_at  timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX device_tokens_of_phone ON device_tokens (phone) WHERE active;
