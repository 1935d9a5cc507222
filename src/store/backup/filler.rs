//! The role that fills the new database of a restore. The SQL in a backup file runs as this role: it owns
//! what it creates there, and reaches no programs, files or other databases.

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::store::{
    Error, Statements as _, Store,
    pool::Target,
    roles::{self, literal, quoted},
    statement::statements,
};

statements! {
    // Those of killed restores: their passwords have expired.
    LEFT_ROLES: once = "
        SELECT rolname::text AS name FROM pg_roles
        WHERE rolname ~ '^esh3ar_restore_[0-9a-f]{16}$' AND rolvaliduntil < now()";
}

/// Why no such role can be had.
#[derive(Debug, thiserror::Error)]
pub enum FillerError {
    /// The login is no superuser, which could make a role, but reaches programs or files itself.
    #[error(
        "the role of database.owner_url or database.url may run programs or reach files of the server"
    )]
    Reaches,
    #[error(transparent)]
    Store(#[from] Error),
}

/// The role, and how it logs in.
pub struct Filler {
    pub target: Target,
    kind: Kind,
}

enum Kind {
    /// The one of the private Postgres.
    Lasting(String),
    /// Made for one restore.
    Temporary(String),
    /// The login of the command itself, which reaches nothing of the server.
    Same,
}

fn random_hex(bytes: usize) -> Result<String, Error> {
    let mut buffer = vec![0; bytes];
    let filled = SystemRandom::new().fill(&mut buffer);
    filled.map_err(|_| Error::Other("the system has no random numbers".to_owned()))?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// One statement or several on a connection of their own.
async fn run(target: &Target, sql: &str) -> Result<(), Error> {
    let store = Store::new(target.clone(), 1)?;
    let done = async { store.client().await?.batch_execute(sql).await };
    let done = done.await;
    store.close();
    done
}

impl Filler {
    /// `private` is the login of the private Postgres' own role for it.
    ///
    /// # Errors
    /// See [`FillerError`].
    pub async fn new(admin: &Target, private: Option<Target>) -> Result<Filler, FillerError> {
        let mut maintenance = admin.clone();
        maintenance.dbname("postgres");
        if let Some(target) = private {
            // SQL of an earlier file may have changed the role's own settings.
            run(&maintenance, &format!("ALTER ROLE {} RESET ALL", roles::RESTORE)).await?;
            return Ok(Filler { target, kind: Kind::Lasting(roles::RESTORE.to_owned()) });
        }
        let store = Store::new(maintenance.clone(), 1)?;
        let rights = roles::excess_rights(&store).await;
        store.close();
        let rights = rights?;
        if !rights.superuser {
            if rights.reaches_the_machine() {
                return Err(FillerError::Reaches);
            }
            return Ok(Filler { target: admin.clone(), kind: Kind::Same });
        }
        let (name, password) = (format!("esh3ar_restore_{}", random_hex(8)?), random_hex(32)?);
        let (role, secret) = (literal(&name), literal(&password));
        // Not in the server's log.
        let sql = format!(
            "SET log_statement = 'none'; SET log_min_duration_statement = -1;
             SET log_min_error_statement = panic;
             DO $make$ BEGIN EXECUTE format('CREATE ROLE %I LOGIN PASSWORD %L VALID UNTIL %L',
             {role}, {secret}, now() + interval '7 days'); END $make$"
        );
        run(&maintenance, &sql).await?;
        let mut target = admin.clone();
        target.user(&name).password(&password);
        Ok(Filler { target, kind: Kind::Temporary(name) })
    }

    fn role(&self) -> Option<&str> {
        match &self.kind {
            Kind::Lasting(name) | Kind::Temporary(name) => Some(name),
            Kind::Same => None,
        }
    }

    /// Opens an empty database to this role alone.
    pub async fn lend(&self, admin: &Target, database: &str) -> Result<(), Error> {
        let Some(role) = self.role().map(quoted) else { return Ok(()) };
        let mut there = admin.clone();
        there.dbname(database);
        let database = quoted(database);
        let sql = format!(
            "REVOKE ALL ON DATABASE {database} FROM PUBLIC;
             GRANT CONNECT, CREATE ON DATABASE {database} TO {role};
             ALTER SCHEMA public OWNER TO {role}"
        );
        run(&there, &sql).await
    }

    /// Gives a checked database to the owner of the schema. `app` is the role that serves, if it is another.
    pub async fn hand_over(
        &self,
        admin: &Target,
        database: &str,
        owner: &str,
        app: Option<&str>,
    ) -> Result<(), Error> {
        let Some(role) = self.role().map(quoted) else { return Ok(()) };
        let mut there = admin.clone();
        there.dbname(database);
        roles::hand_over(there.clone(), database, owner).await?;
        let database = quoted(database);
        let grant = match app {
            Some(app) => format!("GRANT CONNECT ON DATABASE {database} TO {}", quoted(app)),
            None => format!("GRANT CONNECT ON DATABASE {database} TO PUBLIC"),
        };
        run(&there, &format!("DROP OWNED BY {role}; {grant}")).await
    }

    /// Drops a role that was made for one restore, and those that killed ones left.
    pub async fn release(&self, admin: &Target) {
        let Kind::Temporary(name) = &self.kind else { return };
        let mut maintenance = admin.clone();
        maintenance.dbname("postgres");
        let drop = |name: &str| format!("DROP ROLE IF EXISTS {}", quoted(name));
        if let Err(error) = run(&maintenance, &drop(name)).await {
            tracing::warn!(role = name, %error, "cannot drop the role of a restore");
        }
        let Ok(store) = Store::new(maintenance.clone(), 1) else { return };
        let left = async {
            let rows = store.client().await?.query(&LEFT_ROLES, &[]).await?;
            rows.iter().map(|row| Ok(row.try_get("name")?)).collect::<Result<Vec<String>, Error>>()
        };
        let left = left.await.unwrap_or_default();
        store.close();
        for name in left {
            let _ = run(&maintenance, &drop(&name)).await;
        }
    }
}
