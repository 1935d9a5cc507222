-- By when they were deleted, the messages that an administrator deleted: gateways look who has one of them on
-- a screen, and retention removes them. There are few. Made beside what writes meanwhile, outside a
-- transaction.

DROP INDEX CONCURRENTLY IF EXISTS messages_deleted;
CREATE INDEX CONCURRENTLY messages_deleted ON messages (deleted_at) WHERE deleted_at IS NOT NULL;
