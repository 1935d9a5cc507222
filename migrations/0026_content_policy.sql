-- What the messages of a business user may contain. The id changes with each policy: processes compare it with that of
-- the policy that they have compiled.
ALTER TABLE business_users ADD COLUMN content_policy jsonb;
ALTER TABLE business_users ADD COLUMN content_policy_id uuid;

-- The names of the rules that marked a message, for its sender and administrators.
ALTER TABLE messages ADD COLUMN flags text[];

-- Processes apply a new policy to open connections as they apply permissions.
CREATE TRIGGER business_users_content_policy BEFORE UPDATE ON business_users FOR EACH ROW
    WHEN (OLD.content_policy_id IS DISTINCT FROM NEW.content_policy_id)
    EXECUTE FUNCTION note_access_change();
