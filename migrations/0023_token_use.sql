-- When a token was last used, to the minute, and since when a phone is blocked. The index finds those that were
-- blocked lately. Made beside what writes meanwhile, outside a transaction.

ALTER TABLE tokens ADD COLUMN IF NOT EXISTS last_used_at timestamptz;
ALTER TABLE mobile_users ADD COLUMN IF NOT EXISTS blocked_at timestamptz;
DROP INDEX CONCURRENTLY IF EXISTS mobile_users_blocked;
CREATE INDEX CONCURRENTLY mobile_users_blocked ON mobile_users (blocked_at) WHERE blocked_at IS NOT NULL;
