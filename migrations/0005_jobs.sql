-- Work that is slow or rare and not a delivery over a connection: mail first; push, media, broadcasts
-- and webhooks need only a new kind.

CREATE TABLE jobs (
    id             uuid PRIMARY KEY,
    kind           text NOT NULL CHECK (kind ~ '^[a-z_]{1,40}$'),
    payload        jsonb NOT NULL,
    message_id     uuid REFERENCES messages (id) ON DELETE CASCADE,
    -- Two jobs with the same key are one.
    unique_key     text CONSTRAINT jobs_unique_key UNIQUE CHECK (char_length(unique_key) <= 200),
    -- When it may be taken. While somebody has it: when that one's lease ends.
    run_at         timestamptz NOT NULL,
    attempts       integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- Rises with each taking: who comes back with an older one has lost the job.
    fence          bigint NOT NULL DEFAULT 0,
    leased         boolean NOT NULL DEFAULT false,
    last_error     text CHECK (char_length(last_error) <= 500),
    first_error_at timestamptz,
    created_at     timestamptz NOT NULL
);
CREATE INDEX jobs_due ON jobs (kind, run_at);
CREATE INDEX jobs_of_message ON jobs (message_id) WHERE message_id IS NOT NULL;

-- What was given up need not be a message's delivery.
ALTER TABLE dead_letters
    DROP CONSTRAINT dead_letters_kind_check,
    ALTER COLUMN message_id DROP NOT NULL,
    -- The job that was given up, and what it takes to put it back.
    ADD COLUMN job_id  uuid CONSTRAINT dead_letters_job UNIQUE,
    ADD COLUMN payload jsonb,
    -- When the administrators were told of it.
    ADD COLUMN told_at timestamptz,
    ADD CONSTRAINT dead_letters_kind_form CHECK (kind ~ '^[a-z_]{1,40}$'),
    ADD CONSTRAINT dead_letters_about_something
        CHECK (message_id IS NOT NULL OR job_id IS NOT NULL),
    ADD CONSTRAINT dead_letters_job_whole CHECK ((job_id IS NULL) = (payload IS NULL));
CREATE INDEX dead_letters_untold ON dead_letters (id) WHERE told_at IS NULL;

-- When the administrators were last told of something, by what.
CREATE TABLE notices (
    kind    text PRIMARY KEY,
    last_at timestamptz NOT NULL
);
