-- The application's role may insert and read audit rows only. These functions of the owner are the only ways
-- for it to remove or change one. Their search path is fixed, with temporary objects last, because they run
-- with the owner's rights.
DO $make$
BEGIN
    -- Retention, for rows older than a day at least.
    EXECUTE format($text$
        CREATE FUNCTION audit_log_expire(older_than timestamptz, at_most bigint) RETURNS bigint
        LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp AS $body$
            WITH gone AS (
                DELETE FROM audit_log WHERE id IN
                (SELECT o.id FROM (SELECT id, at FROM audit_log ORDER BY id LIMIT at_most) o
                 WHERE o.at < least(older_than, now() - interval '1 day'))
                RETURNING id)
            SELECT count(*) FROM gone
        $body$ $text$, current_schema());
    -- Erasure: masks one phone number wherever an entry names it, and changes nothing else.
    EXECUTE format($text$
        CREATE FUNCTION audit_log_mask(number text, masked text) RETURNS bigint
        LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, %I, pg_temp AS $body$
            WITH changed AS (
                UPDATE audit_log SET subject_phone = NULLIF(subject_phone, number),
                    actor = regexp_replace(actor, whole, masked, 'g'),
                    subject_id = regexp_replace(subject_id, whole, masked, 'g'),
                    reason = regexp_replace(reason, whole, masked, 'g'),
                    details = regexp_replace(details::text, whole, masked, 'g')::jsonb
                -- The whole number only, not the beginning of a longer one.
                FROM (SELECT '[+]' || substr(number, 2) || '(?![0-9])' AS whole) AS pattern
                WHERE number ~ '^[+][0-9]{4,20}$' AND masked ~ '^[+][0-9]{0,4}[*]+[0-9]{0,4}$'
                  AND char_length(masked) = char_length(number)
                  AND (id IN (SELECT entry_id FROM audit_log_phones WHERE phone = number)
                       OR subject_phone = number OR actor = number OR subject_id = number
                       OR strpos(coalesce(reason, ''), number) > 0
                       OR strpos(details::text, number) > 0)
                RETURNING id),
            forgotten AS (DELETE FROM audit_log_phones WHERE phone = number)
            SELECT count(*) FROM changed
        $body$ $text$, current_schema());
END
$make$;
