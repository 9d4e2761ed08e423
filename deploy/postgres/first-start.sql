-- Run once, by the image's entry point, as the superuser in the new database.
-- The application's user owns its database and nothing else; the superuser has no password, so that
-- it can be had inside the container only.
\getenv password POSTGRES_PASSWORD
SET log_min_error_statement TO panic; -- an error would put the statement in the log
CREATE ROLE heliograph LOGIN PASSWORD :'password';
ALTER DATABASE heliograph OWNER TO heliograph;
REVOKE CONNECT ON DATABASE postgres FROM PUBLIC;
ALTER ROLE postgres PASSWORD NULL;
