-- Four databases and four roles. A role owns its own database and may not even connect to another's: what one service
-- loses is not what the others have. For psql, with the passwords in the environment; without one it stops.
\set ON_ERROR_STOP on
\getenv identity_password IDENTITY_PASSWORD
\getenv registry_password REGISTRY_PASSWORD
\getenv ipam_password IPAM_PASSWORD
\getenv session_password SESSION_PASSWORD

BEGIN;
CREATE ROLE guardhouse_identity LOGIN PASSWORD :'identity_password';
CREATE ROLE guardhouse_registry LOGIN PASSWORD :'registry_password';
CREATE ROLE guardhouse_ipam LOGIN PASSWORD :'ipam_password';
CREATE ROLE guardhouse_session LOGIN PASSWORD :'session_password';
COMMIT;

-- Ids and page tokens are compared byte by byte, whatever the server's locale.
CREATE DATABASE guardhouse_identity OWNER guardhouse_identity TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C';
CREATE DATABASE guardhouse_registry OWNER guardhouse_registry TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C';
CREATE DATABASE guardhouse_ipam OWNER guardhouse_ipam TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C';
CREATE DATABASE guardhouse_session OWNER guardhouse_session TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C';

REVOKE ALL ON DATABASE guardhouse_identity, guardhouse_registry, guardhouse_ipam, guardhouse_session FROM PUBLIC;
