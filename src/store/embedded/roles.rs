//! The roles of the private Postgres. The cluster's superuser, `esh3ar`, is left to databases, roles and the
//! programs of Postgres; a cluster of an earlier version, in which it owned everything, is converted here.
//!
//! Each step looks at what is there and is one transaction, so that a start after an interruption continues.

use std::path::Path;

use tokio_postgres::{Client, Error, NoTls};

use super::{
    super::{roles as names, statement::statements},
    config,
};

// Run on a plain driver connection as superuser.
statements! {
    ARE_THERE: once = "
        SELECT count(*) = 3 AND coalesce((SELECT r.rolname = 'esh3ar_owner' FROM pg_database d
            JOIN pg_roles r ON r.oid = d.datdba WHERE d.datname = 'esh3ar'), false) AS are_there
        FROM pg_roles WHERE rolname IN ('esh3ar_owner', 'esh3ar_app', 'esh3ar_restore')
        AND rolcanlogin AND NOT (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)";
    // Whether everything in the database belongs to the owner, and nobody else may connect.
    IS_TAKEN_OVER: once = "
        SELECT NOT EXISTS (
            SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
            AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND c.relowner <> o.oid
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                            AND d.objid = c.oid AND d.deptype = 'e'))
        AND NOT EXISTS (
            SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
            AND p.prokind IN ('f', 'p') AND p.proowner <> o.oid
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                            AND d.objid = p.oid AND d.deptype = 'e'))
        AND NOT EXISTS (
            SELECT FROM pg_namespace n WHERE n.nspname !~ '^pg_'
            AND n.nspname <> 'information_schema' AND n.nspowner <> o.oid)
        AND NOT has_database_privilege('public', current_database(), 'CONNECT')
        AND has_database_privilege('esh3ar_app', current_database(), 'CONNECT')
        AND coalesce(has_table_privilege('esh3ar_app', to_regclass('public.schema_migrations'), 'SELECT'),
                     true) AS is_taken_over
        FROM pg_roles o WHERE o.rolname = 'esh3ar_owner'";
    HAS_SETTINGS: once = "
        SELECT EXISTS (
            SELECT FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole
            WHERE r.rolname IN ('esh3ar_owner', 'esh3ar_app', 'esh3ar_restore')) AS has_settings";
}

const CREATE: &str = "
    DO $create$
    DECLARE
        name text;
    BEGIN
        FOREACH name IN ARRAY ARRAY['esh3ar_owner', 'esh3ar_app', 'esh3ar_restore'] LOOP
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
                EXECUTE format('CREATE ROLE %I', name);
            END IF;
            EXECUTE format('ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION
                            NOBYPASSRLS', name);
        END LOOP;
        ALTER DATABASE esh3ar OWNER TO esh3ar_owner;
    END $create$";

const RESET: &str = "
    ALTER ROLE esh3ar_owner RESET ALL; ALTER ROLE esh3ar_owner IN DATABASE esh3ar RESET ALL;
    ALTER ROLE esh3ar_app RESET ALL; ALTER ROLE esh3ar_app IN DATABASE esh3ar RESET ALL;
    ALTER ROLE esh3ar_restore RESET ALL";

/// Only the two roles that use the database may connect, and the application's role creates no temporary
/// objects.
const CLOSE: &str = "
    REVOKE ALL ON DATABASE esh3ar FROM PUBLIC;
    GRANT CONNECT ON DATABASE esh3ar TO esh3ar_app";

/// Whether the cluster has the roles.
pub(super) async fn are_there(client: &Client) -> Result<bool, Error> {
    client.query_one(ARE_THERE.text(), &[]).await?.try_get("are_there")
}

/// Creates the roles, and makes the owner own the database, if that is not so yet.
pub(super) async fn ensure(socket_dir: &Path) -> Result<(), Error> {
    let (client, connection) = config(socket_dir, "esh3ar").connect(NoTls).await?;
    let driver = tokio::spawn(connection);
    if !are_there(&client).await? {
        client.batch_execute(CREATE).await?;
        tracing::info!("the private Postgres has roles for owner, application and restore");
    }
    let row = client.query_one(IS_TAKEN_OVER.text(), &[]).await?;
    if !row.try_get::<_, bool>("is_taken_over")? {
        // Several statements in one message are one transaction. The grants are needed at once: commands look
        // at the schema before they migrate it.
        let sql = format!(
            "{}; {CLOSE}; SET LOCAL search_path = public; SET LOCAL ROLE {}; {}",
            names::take_over(names::OWNER),
            names::OWNER,
            names::grant_sql(names::APP)
        );
        client.batch_execute(&sql).await?;
    }
    // Every role may change its own settings, and with them all its later connections.
    if client.query_one(HAS_SETTINGS.text(), &[]).await?.try_get("has_settings")? {
        client.batch_execute(RESET).await?;
        tracing::warn!(
            "settings of the roles of the private Postgres were reset; esh3ar sets none"
        );
    }
    drop(client);
    let _ = driver.await;
    Ok(())
}
