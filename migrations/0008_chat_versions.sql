-- What caches keep of chat is kept under the version of what it was made from. A version is raised in
-- the transaction that changes what is shown, so that an older value is never found again.

-- Never the same twice, even for rows that came back from a backup: at least the time in microseconds.
CREATE FUNCTION later_version(version bigint) RETURNS bigint LANGUAGE sql VOLATILE AS
$$ SELECT greatest(version + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) $$;

ALTER TABLE conversations ADD COLUMN version bigint NOT NULL
    DEFAULT (extract(epoch FROM now()) * 1000000)::bigint;

-- A trigger, because then no statement can forget it, an older version's included.
CREATE FUNCTION raise_conversation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := later_version(OLD.version);
    RETURN NEW;
END $$;
CREATE TRIGGER conversations_raised BEFORE UPDATE ON conversations
    FOR EACH ROW EXECUTE FUNCTION raise_conversation();

-- Raised when the status of a message changes for which the conversation's own row is not locked:
-- sent, delivered, retried, failed, put back. Always after the messages, in the order of ids, so that
-- no two transactions wait for each other. No foreign key: its check would lock the conversation.
CREATE TABLE conversation_receipts (
    conversation_id uuid   PRIMARY KEY,
    version         bigint NOT NULL
) WITH (fillfactor = 50);

-- Raised when anything changes that the list of a business user shows; the version is the sum of its
-- slots, which keep writers out of each other's way. A phone's conversations are few, and have the sum
-- of their own versions instead.
CREATE TABLE conversation_lists (
    business_user_id uuid     NOT NULL,
    slot             smallint NOT NULL,
    version          bigint   NOT NULL,
    PRIMARY KEY (business_user_id, slot)
) WITH (fillfactor = 50);

CREATE FUNCTION raise_lists() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO conversation_lists AS l (business_user_id, slot, version)
    SELECT business_user_id, pg_backend_pid() % 16, 1 FROM changed GROUP BY 1 ORDER BY 1
    ON CONFLICT (business_user_id, slot) DO UPDATE SET version = later_version(l.version);
    RETURN NULL;
END $$;
CREATE TRIGGER conversations_begun AFTER INSERT ON conversations
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION raise_lists();
CREATE TRIGGER conversations_changed AFTER UPDATE ON conversations
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION raise_lists();
CREATE TRIGGER conversations_gone AFTER DELETE ON conversations
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION raise_lists();
