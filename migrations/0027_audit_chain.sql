-- Each entry of the audit log has a hash of the entry before it and of its own values, so that an altered,
-- deleted or reordered entry is found. docs/operations/privacy.md has the encoding.

-- Values that an erasure may mask (actor, subject_id, subject_phone, reason, details) are in the hash as
-- sha256(salt || value). The erasure removes the salt, and the hash stays valid.
ALTER TABLE audit_log
    ADD COLUMN chain_seq bigint,
    ADD COLUMN chain_prev bytea,
    ADD COLUMN chain_hash bytea,
    ADD COLUMN chain_salts uuid[],
    ADD COLUMN chain_commitments bytea[],
    -- sha256 of the sorted sha256(salt || phone) of audit_log_phones. Null for entries of older versions.
    ADD COLUMN phones_digest bytea,
    -- sha256(salt || phone) of the phones that were erased from audit_log_phones.
    ADD COLUMN erased_phones bytea[];
ALTER TABLE audit_log_phones ADD COLUMN salt uuid;
CREATE UNIQUE INDEX audit_log_of_chain ON audit_log (chain_seq) WHERE chain_seq IS NOT NULL;

-- The newest entry of the chain. Its lock makes the order of the chain the order of commits.
CREATE TABLE audit_chain_head (
    one      boolean     PRIMARY KEY CHECK (one),
    seq      bigint      NOT NULL,
    hash     bytea       NOT NULL,
    at       timestamptz NOT NULL,
    -- Entries without a place in the chain are older than this.
    began_at timestamptz NOT NULL,
    -- How many of them there were. Retention only removes some.
    older    bigint      NOT NULL
);
INSERT INTO audit_chain_head (one, seq, hash, at, began_at, older)
SELECT true, 0, sha256(''::bytea), now(), now(), count(*) FROM audit_log;

-- A trigger, because then older versions' entries are in the chain too. It runs with its owner's rights, so
-- that the application's role needs none on audit_chain_head, and overwrites whatever a statement gave for
-- the chain. pg_restore creates triggers after it has loaded rows, so a restore keeps them as they are.
CREATE FUNCTION append_to_audit_chain() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last_seq  bigint;
    last_hash bytea;
    is_stored boolean;
    field     bytea;
    salt      uuid;
    encoded   bytea;
BEGIN
    EXECUTE format('SELECT seq, hash FROM %I.audit_chain_head WHERE one FOR UPDATE', TG_TABLE_SCHEMA)
        INTO STRICT last_seq, last_hash;
    -- A repeated entry is skipped here: ON CONFLICT would skip it after it had a place in the chain.
    EXECUTE format('SELECT EXISTS (SELECT FROM %I.audit_log WHERE id = $1)', TG_TABLE_SCHEMA)
        INTO is_stored USING NEW.id;
    IF is_stored THEN
        RETURN NULL;
    END IF;
    NEW.chain_seq := last_seq + 1;
    NEW.chain_prev := last_hash;
    NEW.chain_salts := '{}'::uuid[];
    NEW.chain_commitments := '{}'::bytea[];
    NEW.erased_phones := NULL;
    FOREACH field IN ARRAY ARRAY[
        convert_to(NEW.actor, 'UTF8'), convert_to(NEW.subject_id, 'UTF8'),
        convert_to(NEW.subject_phone, 'UTF8'), convert_to(NEW.reason, 'UTF8'),
        convert_to(NEW.details::text, 'UTF8')]
    LOOP
        salt := gen_random_uuid();
        NEW.chain_salts := array_append(NEW.chain_salts, salt);
        NEW.chain_commitments := array_append(NEW.chain_commitments,
            sha256(uuid_send(salt) || coalesce(int4send(octet_length(field)) || field, int4send(-1))));
    END LOOP;
    encoded := int8send(NEW.chain_seq) || NEW.chain_prev;
    FOREACH field IN ARRAY ARRAY[
        uuid_send(NEW.id), timestamptz_send(NEW.at), convert_to(NEW.actor_kind, 'UTF8'),
        convert_to(NEW.actor_name, 'UTF8'), uuid_send(NEW.token_id), convert_to(NEW.action, 'UTF8'),
        convert_to(NEW.subject_kind, 'UTF8'), convert_to(NEW.request_id, 'UTF8'),
        convert_to(NEW.outcome, 'UTF8'), convert_to(host(NEW.peer), 'UTF8'), NEW.phones_digest]
        || NEW.chain_commitments
    LOOP
        encoded := encoded || coalesce(int4send(octet_length(field)) || field, int4send(-1));
    END LOOP;
    NEW.chain_hash := sha256(encoded);
    EXECUTE format('UPDATE %I.audit_chain_head SET seq = $1, hash = $2, at = $3 WHERE one', TG_TABLE_SCHEMA)
        USING NEW.chain_seq, NEW.chain_hash, NEW.at;
    RETURN NEW;
END $$;
CREATE TRIGGER audit_log_chained BEFORE INSERT ON audit_log
    FOR EACH ROW EXECUTE FUNCTION append_to_audit_chain();

-- The salt of a masked value goes with the value: with it, a phone number could be guessed.
CREATE FUNCTION drop_audit_salts() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.chain_salts IS NULL THEN
        RETURN NEW;
    END IF;
    IF NEW.actor IS DISTINCT FROM OLD.actor THEN NEW.chain_salts[1] := NULL; END IF;
    IF NEW.subject_id IS DISTINCT FROM OLD.subject_id THEN NEW.chain_salts[2] := NULL; END IF;
    IF NEW.subject_phone IS DISTINCT FROM OLD.subject_phone THEN NEW.chain_salts[3] := NULL; END IF;
    IF NEW.reason IS DISTINCT FROM OLD.reason THEN NEW.chain_salts[4] := NULL; END IF;
    IF NEW.details IS DISTINCT FROM OLD.details THEN NEW.chain_salts[5] := NULL; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER audit_log_masked BEFORE UPDATE OF actor, subject_id, subject_phone, reason, details ON audit_log
    FOR EACH ROW EXECUTE FUNCTION drop_audit_salts();

-- An erased phone leaves its hash, so that the others of the entry can still be checked.
CREATE FUNCTION keep_erased_phones() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format(
        'UPDATE %I.audit_log a SET erased_phones = coalesce(a.erased_phones, ''{}''::bytea[]) || g.hashes
         FROM (SELECT entry_id, array_agg(sha256(uuid_send(salt) || convert_to(phone, ''UTF8''))) AS hashes
               FROM gone WHERE salt IS NOT NULL GROUP BY entry_id) g
         WHERE a.id = g.entry_id AND a.chain_seq IS NOT NULL', TG_TABLE_SCHEMA);
    RETURN NULL;
END $$;
CREATE TRIGGER audit_log_phones_erased AFTER DELETE ON audit_log_phones
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION keep_erased_phones();

-- Retention deletes only from the beginning of the chain, whose order differs a little from that of ids and
-- times: a gap would look like a deletion. Entries without a place in the chain have the lowest ids.
DO $make$
BEGIN
    IF to_regprocedure('audit_log_expire(timestamptz, bigint)') IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format($text$
        CREATE OR REPLACE FUNCTION audit_log_expire(older_than timestamptz, at_most bigint) RETURNS bigint
        LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp AS $body$
            WITH bound AS (SELECT least(older_than, now() - interval '1 day') AS at),
            oldest AS (
                SELECT id, at, chain_seq FROM audit_log WHERE chain_seq IS NOT NULL
                ORDER BY chain_seq LIMIT at_most),
            expired AS (
                SELECT id FROM oldest
                WHERE chain_seq < coalesce(
                    -- One of a clock that was ahead does not keep those after it.
                    (SELECT min(o.chain_seq) FROM oldest o
                     WHERE o.at >= (SELECT at FROM bound) AND o.at <= now() + interval '1 hour'),
                    9223372036854775807)
                UNION ALL
                SELECT id FROM (SELECT id, at, chain_seq FROM audit_log ORDER BY id LIMIT at_most) AS lowest
                WHERE at < (SELECT at FROM bound) AND chain_seq IS NULL),
            gone AS (
                DELETE FROM audit_log WHERE id IN (SELECT id FROM expired LIMIT at_most) RETURNING id)
            SELECT count(*) FROM gone
        $body$ $text$, current_schema());
END
$make$;
