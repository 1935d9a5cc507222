-- By when it was accepted, what is not finished: beside messages_by_age, so that a list of some period reads
-- that period and not everything since. Their ids say nothing of it where an import kept them. Made beside
-- what writes meanwhile, outside a transaction.

DROP INDEX CONCURRENTLY IF EXISTS messages_waiting_by_age;
CREATE INDEX CONCURRENTLY messages_waiting_by_age ON messages (created_at, id) WHERE status < 2;
