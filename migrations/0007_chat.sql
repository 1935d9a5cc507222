-- Business users are recipients too.

CREATE INDEX messages_waiting_of_user ON messages (recipient_user_id, id)
    WHERE recipient_user_id IS NOT NULL AND status < 2;
CREATE INDEX messages_of_recipient_user ON messages (recipient_user_id, id)
    WHERE recipient_user_id IS NOT NULL;
-- How many of one side's messages the other has not read: counted under the conversation's lock.
CREATE INDEX messages_unread ON messages (conversation_id, seq)
    WHERE conversation_id IS NOT NULL AND status <> 3;
