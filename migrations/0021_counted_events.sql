-- One counted event of a kind in a generation. Made beside what writes meanwhile, outside a transaction.

DROP INDEX CONCURRENTLY IF EXISTS delivery_events_counted;
CREATE UNIQUE INDEX CONCURRENTLY delivery_events_counted ON delivery_events (message_id, generation, kind) WHERE counted;
