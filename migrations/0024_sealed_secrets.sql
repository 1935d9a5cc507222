-- Secrets are sealed with a key that lies outside the database. `value` stays for earlier versions, which read
-- nothing else: it is the secret itself until no process of such a version runs, then other random bytes.

ALTER TABLE secrets
    ADD COLUMN sealed          bytea CHECK (octet_length(sealed) BETWEEN 37 AND 4096),
    ADD COLUMN value_is_secret boolean NOT NULL DEFAULT true;

-- Whether the process reads sealed secrets; earlier versions do not write it.
ALTER TABLE nodes ADD COLUMN reads_sealed boolean NOT NULL DEFAULT false;
