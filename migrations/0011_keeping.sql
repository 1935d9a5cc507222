-- By when things happened, for what is kept for a while only, and for the books of a few days, which had to
-- read all messages there are. Made beside what writes meanwhile, outside a transaction; what a broken-off
-- attempt left is not whole and goes first. One statement ends where a line ends with its semicolon.

DROP INDEX CONCURRENTLY IF EXISTS messages_by_age;
-- Of those that are finished only: a message on its way pays nothing for it.
CREATE INDEX CONCURRENTLY messages_by_age ON messages (created_at, id) WHERE status >= 2;
DROP INDEX CONCURRENTLY IF EXISTS delivery_events_by_age;
CREATE INDEX CONCURRENTLY delivery_events_by_age ON delivery_events (at, id);

-- A token without an owner: its phone was erased, and gateways have still to close its connections.
DROP INDEX CONCURRENTLY IF EXISTS tokens_ownerless;
CREATE INDEX CONCURRENTLY tokens_ownerless ON tokens (revoked_at) WHERE phone = '';
