-- From which address somebody asked over HTTP. Null for commands on the server, and for entries of before.
ALTER TABLE audit_log ADD COLUMN peer inet;
