-- When the permissions or the status of a user last changed. Every process asks for recent changes, and applies them to
-- its open connections. The triggers set the time, so that a change by an older version counts as well.
ALTER TABLE business_users ADD COLUMN access_changed_at timestamptz;
ALTER TABLE mobile_users ADD COLUMN access_changed_at timestamptz;

CREATE FUNCTION note_access_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.access_changed_at := clock_timestamp();
    RETURN NEW;
END
$$;

CREATE TRIGGER business_users_access BEFORE UPDATE ON business_users FOR EACH ROW
    WHEN (OLD.permissions IS DISTINCT FROM NEW.permissions OR OLD.disabled_at IS DISTINCT FROM NEW.disabled_at)
    EXECUTE FUNCTION note_access_change();
CREATE TRIGGER mobile_users_access BEFORE UPDATE ON mobile_users FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION note_access_change();

-- There may be millions of phones, of which few ever change.
CREATE INDEX business_users_access_changed ON business_users (access_changed_at) WHERE access_changed_at IS NOT NULL;
CREATE INDEX mobile_users_access_changed ON mobile_users (access_changed_at) WHERE access_changed_at IS NOT NULL;
