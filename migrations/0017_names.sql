-- Names of business users in their one form (NFC): until now, "é" written in one and in two characters were
-- two names. Where both are there, each stays as it is and is found as it was written, or by its id.

DO $$
BEGIN
    -- Only UTF-8 knows forms.
    IF pg_catalog.getdatabaseencoding() = 'UTF8' THEN
        UPDATE business_users SET name = normalize(name, NFC)
        WHERE id IN (
            SELECT DISTINCT ON (lower(normalize(u.name, NFC))) u.id FROM business_users u
            WHERE u.name IS NOT NFC NORMALIZED
              AND NOT EXISTS (SELECT FROM business_users o
                              WHERE o.id <> u.id AND lower(o.name) = lower(normalize(u.name, NFC)))
            ORDER BY lower(normalize(u.name, NFC)), u.id);
    END IF;
END $$;
