-- By when things happened, for what is kept for a while only; and what an erasure leaves.

-- Also for the books of a few days, which had to read all messages there are.
CREATE INDEX messages_by_age ON messages (created_at);
CREATE INDEX delivery_events_by_age ON delivery_events (at, id);

-- A token without an owner: its phone was erased, and gateways have still to close its connections.
CREATE INDEX tokens_ownerless ON tokens (revoked_at) WHERE phone = '';
