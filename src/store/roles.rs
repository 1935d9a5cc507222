//! Database roles: who owns the schema, who uses the tables, and who fills the database of a restore.
//!
//! The owner migrates. The application's role may read and change rows, and nothing else: no DDL, no programs,
//! no files, and only INSERT and SELECT on the audit log. The role of a restore owns its new database's
//! objects until they are checked.

use super::{Client, Error, Statements as _, Store, pool::Target, statement::statements};

/// Owns the schema of the private Postgres.
pub const OWNER: &str = "esh3ar_owner";
/// Serves, in the private Postgres.
pub const APP: &str = "esh3ar_app";
/// Fills the new database of a restore, in the private Postgres.
pub const RESTORE: &str = "esh3ar_restore";

statements! {
    // False also for a role that may not even see the schema.
    IS_READY: once = "
        SELECT to_regclass('schema_migrations') IS NOT NULL
           AND coalesce((SELECT bool_and(has_table_privilege(c.oid, 'SELECT')) FROM pg_class c
                         WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace),
                        false) AS is_ready";
    FAULTS: once = "
        SELECT r.rolsuper AS superuser,
               coalesce((SELECT c.relowner = r.oid FROM pg_class c
                         WHERE c.oid = to_regclass('schema_migrations')), false) AS owner,
               ARRAY(SELECT g.rolname::text FROM pg_roles g
                     WHERE g.rolname IN ('pg_execute_server_program', 'pg_read_server_files',
                                         'pg_write_server_files')
                       AND pg_has_role(r.oid, g.oid, 'MEMBER') ORDER BY 1) AS memberships
        FROM pg_roles r WHERE r.rolname = current_user";
    ROLE: once = "SELECT current_user::text AS role, current_schema()::text AS schema";
}

/// Rights of a role that the application's role should not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExcessRights {
    pub superuser: bool,
    /// Owns the tables.
    pub owner: bool,
    /// Memberships in Postgres' roles for programs and files.
    pub memberships: Vec<String>,
}

impl ExcessRights {
    /// Whether SQL of this role can run programs or reach files.
    pub fn reaches_the_machine(&self) -> bool {
        self.superuser || !self.memberships.is_empty()
    }
}

/// The excess rights of the role that is logged in.
pub async fn excess_rights(store: &Store) -> Result<ExcessRights, Error> {
    let row = store.client().await?.query_one(&FAULTS, &[]).await?;
    // A superuser counts as a member of everything.
    let superuser = row.try_get("superuser")?;
    let memberships = if superuser { Vec::new() } else { row.try_get("memberships")? };
    Ok(ExcessRights { superuser, owner: row.try_get("owner")?, memberships })
}

/// Whether the role that is logged in may read the tables of a migrated database.
pub async fn is_ready(client: &Client) -> Result<bool, Error> {
    client.query_one(&IS_READY, &[]).await?.try_get("is_ready").map_err(Error::from)
}

/// The role that is logged in, and its schema.
pub(super) async fn current(client: &Client) -> Result<(String, Option<String>), Error> {
    let row = client.query_one(&ROLE, &[]).await?;
    Ok((row.try_get("role")?, row.try_get("schema")?))
}

/// Creates the schema that another database uses, if it is not the usual one.
pub async fn create_schema_as_in(client: &Client, other: &Store) -> Result<(), Error> {
    let (_, schema) = current(&other.client().await?).await?;
    match schema.filter(|schema| schema != "public") {
        Some(schema) => {
            client.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(&schema))).await
        }
        None => Ok(()),
    }
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string constant. Postgres' `standard_conforming_strings` is on by default and in our sessions.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Grants, in one transaction, on what the role that is logged in owns. The tables of later migrations are
/// covered by default privileges.
const GRANT: &str = "
    DO $grant$
    DECLARE
        app name := @APP;
        owner oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user);
        item record;
    BEGIN
        -- Two processes that grant at once would fail.
        PERFORM pg_advisory_xact_lock(7311073573442286194);
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), app);
        FOR item IN
            SELECT c.oid::regclass AS name, c.relkind AS kind,
                   c.relname IN ('audit_log', 'audit_log_phones') AS append_only,
                   c.relname IN ('schema_migrations', 'audit_chain_head') AS read_only
            FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace
            AND c.relkind IN ('r', 'p', 'S') AND c.relowner = owner
        LOOP
            IF item.kind = 'S' THEN
                EXECUTE format('GRANT USAGE, SELECT ON SEQUENCE %s TO %I', item.name, app);
            ELSE
                EXECUTE format('REVOKE ALL ON TABLE %s FROM PUBLIC, %I', item.name, app);
                EXECUTE format('GRANT %s ON TABLE %s TO %I',
                    CASE WHEN item.read_only THEN 'SELECT'
                         WHEN item.append_only THEN 'SELECT, INSERT'
                         ELSE 'SELECT, INSERT, UPDATE, DELETE' END, item.name, app);
            END IF;
        END LOOP;
        FOR item IN
            SELECT p.oid::regprocedure AS name, p.prorettype = 'trigger'::regtype AS is_trigger FROM pg_proc p
            WHERE p.pronamespace = current_schema()::regnamespace AND p.prosecdef
            AND p.proowner = owner
        LOOP
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC, %I', item.name, app);
            -- A trigger fires without that right, which would only allow triggers on tables of one's own.
            IF NOT item.is_trigger THEN
                EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', item.name, app);
            END IF;
        END LOOP;
        EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT, INSERT, UPDATE, DELETE
                        ON TABLES TO %I', current_schema(), app);
        EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT USAGE, SELECT
                        ON SEQUENCES TO %I', current_schema(), app);
    END $grant$";

/// Gives the application's role its rights. `client` is logged in as the owner; does nothing if that is the
/// application's role.
///
/// # Errors
/// Any failure of the database, such as that there is no such role; then nothing has changed.
pub async fn grant(client: &Client, app: &str) -> Result<(), Error> {
    if current(client).await?.0 == app {
        return Ok(());
    }
    client.batch_execute(&grant_sql(app)).await
}

/// The text of [`grant`].
pub(super) fn grant_sql(app: &str) -> String {
    GRANT.replace("@APP", &literal(app))
}

/// Moves everything in the database's own schemas to an owner.
const TAKE_OVER: &str = "
    DO $take$
    DECLARE
        owner name := @OWNER;
        owner_id oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = @OWNER);
        item record;
    BEGIN
        FOR item IN
            SELECT c.oid::regclass AS name,
                   CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW'
                        WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END AS kind
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
            AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND c.relowner <> owner_id
            -- The sequence of a column goes with its table; an extension keeps its own.
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                            AND d.objid = c.oid AND d.deptype IN ('a', 'i', 'e'))
        LOOP
            EXECUTE format('ALTER %s %s OWNER TO %I', item.kind, item.name, owner);
        END LOOP;
        FOR item IN
            SELECT p.oid::regprocedure AS name
            FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
            AND p.prokind IN ('f', 'p') AND p.proowner <> owner_id
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                            AND d.objid = p.oid AND d.deptype = 'e')
        LOOP
            EXECUTE format('ALTER ROUTINE %s OWNER TO %I', item.name, owner);
        END LOOP;
        FOR item IN
            SELECT n.nspname AS name FROM pg_namespace n
            WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
            AND n.nspowner <> owner_id
        LOOP
            EXECUTE format('ALTER SCHEMA %I OWNER TO %I', item.name, owner);
            EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', item.name);
        END LOOP;
    END $take$";

/// The text that moves everything to an owner, in one transaction. Run by a superuser.
pub(super) fn take_over(owner: &str) -> String {
    format!("SET search_path = pg_catalog; {}", TAKE_OVER.replace("@OWNER", &literal(owner)))
}

/// Gives a checked database of a restore to its owner. `admin` leads to the database as superuser.
pub async fn hand_over(admin: Target, database: &str, owner: &str) -> Result<(), Error> {
    let store = Store::new(admin, 1)?;
    let done = async {
        let mut client = store.client().await?;
        client.without_timeout();
        client.batch_execute("SET statement_timeout = 0").await?;
        client.batch_execute(&take_over(owner)).await?;
        let (database, owner) = (quoted(database), quoted(owner));
        client.batch_execute(&format!("ALTER DATABASE {database} OWNER TO {owner}")).await
    };
    let done = done.await;
    store.close();
    done
}

/// Creates the roles in a Postgres of one's own.
const SETUP: &str = "\
-- Run as superuser, connected to the database of esh3ar. Choose two passwords first.
CREATE ROLE esh3ar_owner LOGIN PASSWORD 'choose one' NOSUPERUSER CREATEDB NOCREATEROLE NOREPLICATION;
CREATE ROLE esh3ar_app LOGIN PASSWORD 'choose another' NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
DO $database$ BEGIN
    EXECUTE format('ALTER DATABASE %I OWNER TO esh3ar_owner', current_database());
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO esh3ar_app', current_database());
END $database$;
-- What is there already changes its owner.
";

/// The SQL for `esh3ar migrate --roles`.
pub fn setup_sql() -> String {
    let take = TAKE_OVER.replace("@OWNER", &literal(OWNER));
    let lines: Vec<&str> =
        take.lines().map(|line| line.strip_prefix("    ").unwrap_or(line)).collect();
    format!("{SETUP}{};\n", lines.join("\n").trim())
}
