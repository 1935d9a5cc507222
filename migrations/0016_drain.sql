-- What an administrator asked of a process: to be emptied (true), or to take connections again (false). The
-- process takes it up when it next says that it lives, and clears it.

ALTER TABLE nodes ADD COLUMN drain_asked boolean;
