-- What can happen to one generation of a message again and again, such as a lost connection, is one event with a
-- count. `at` is the first time, `last_at` the last, and `detail` is of the last. Events of before, and those that
-- older processes still write, are one row each time and not `counted`.
ALTER TABLE delivery_events
    ADD COLUMN counted boolean NOT NULL DEFAULT false,
    ADD COLUMN count integer NOT NULL DEFAULT 1,
    ADD COLUMN last_at timestamptz;
