-- Which process had a phone's last connection: when that process is gone, so is the connection, although
-- nobody noted its end.

ALTER TABLE recipients ADD COLUMN run uuid;
