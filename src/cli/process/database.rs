//! Opens the database of a command or process: the embedded one of a data folder, whether a server
//! runs or not, or an external one.

use std::io::IsTerminal as _;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::gateways;
use crate::{
    app::{
        App, Clock, NodeSettings, Role, RuntimeSettings, Settings, failpoints::Failpoints,
        traces::Traces,
    },
    cache::Cache,
    cli::{
        io::exit::{ExitStatus, Failure},
        privilege,
        setup::Setup,
    },
    config::{Config, Secret, SmtpTls},
    mail::{Encryption, Mailer, SmtpSettings},
    store::{
        Store,
        embedded::{self, Embedded, Purpose},
        migrate,
        pool::{self, Target},
        replicas::ReplicasWork,
        roles,
    },
};

pub(crate) struct OpenDatabase {
    pub(crate) store: Store,
    /// Runs the reads from replicas; only a server has it.
    pub(crate) replicas: Option<ReplicasWork>,
    embedded: Option<Embedded>,
    /// The owner of the schema, if that is not the role of `store`.
    owner: Option<Target>,
    /// The name of the role of `store`.
    app: String,
}

/// The use cases over an open database.
pub(crate) struct OpenApp {
    pub(crate) app: App,
    opened: OpenDatabase,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// The settings of the use cases, from the configuration.
pub(crate) fn settings(config: &Config, role: Option<Role>) -> Result<Settings, Failure> {
    Ok(Settings {
        default_region: config.phone.default_region,
        runtime: runtime_settings(config)?,
        cache: Cache::default(),
        failpoints: failpoints(role.is_some())?,
        traces: Traces::Off,
        clock: Clock::System,
        keys: None,
        // Only where somebody looks at it: a service manager's stderr is a log.
        shows_codes: role == Some(Role::Serve) && std::io::stderr().is_terminal(),
        node: role.map(|role| NodeSettings {
            role,
            host: privilege::host(),
            address: None,
            partitions: config.queue.url.as_ref().map_or(0, |_| config.queue.partitions),
        }),
    })
}

/// The settings that may change while the process runs.
pub(crate) fn runtime_settings(config: &Config) -> Result<RuntimeSettings, Failure> {
    Ok(RuntimeSettings {
        retry: config.retry,
        limits: config.limits.at_most(config.http.max_connections),
        access_token_ttl: config.auth.access_token_ttl,
        admin_token_ttl: config.auth.admin_token_ttl,
        retention: config.retention,
        mailer: mailer(config)?,
        sms: gateways::sms(config)?,
        alert_interval: config.smtp.alert_interval,
        log_sample: config.log.sample,
        sanitize_existing: config.content.sanitize_existing,
        otp: config.otp.clone(),
    })
}

/// Where a test makes the process die.
fn failpoints(runs: bool) -> Result<Failpoints, Failure> {
    match std::env::var("ESH3AR_FAILPOINT") {
        Ok(text) if runs => Failpoints::parse(&text).map_err(|text| {
            let what = format!("ESH3AR_FAILPOINT={text} is not a failpoint of this build");
            Failure::new(ExitStatus::Config, what)
                .hint("unset it: failpoints are for tests of development builds")
        }),
        _ => Ok(Failpoints::default()),
    }
}

/// Sends mail to the administrators.
pub(crate) fn mailer(config: &Config) -> Result<Mailer, Failure> {
    let smtp = &config.smtp;
    let (Some(host), Some(from)) = (&smtp.host, &smtp.from) else { return Ok(Mailer::Log) };
    let password = smtp.password.as_ref().map(|password| password.expose().to_owned());
    let settings = SmtpSettings {
        host: host.clone(),
        port: smtp.port,
        encryption: match smtp.tls {
            SmtpTls::StartTls => Encryption::StartTls,
            SmtpTls::Tls => Encryption::Tls,
            SmtpTls::None => Encryption::None,
        },
        credentials: smtp.username.clone().zip(password),
        from: from.clone(),
        to: smtp.to.clone(),
    };
    Mailer::smtp(&settings).map_err(|error| {
        Failure::new(ExitStatus::Config, format!("smtp: {error}")).hint("run: esh3ar config check")
    })
}

/// Whether there is a database: an external one is configured, or the folder has an embedded one.
pub(crate) fn exists(setup: &Setup) -> bool {
    setup.loaded.config.database.url.is_some() || embedded::is_there(&setup.data_dir)
}

/// For commands that make no sense on a new installation: creating an empty one would hide that the folder
/// is the wrong one.
pub(crate) fn require_installation(setup: &Setup) -> Result<(), Failure> {
    if exists(setup) {
        return Ok(());
    }
    let what = format!("no installation of esh3ar in {}", setup.data_dir.display());
    Err(Failure::new(ExitStatus::NotFound, what)
        .hint("create one with esh3ar init or esh3ar serve, or set its folder with --data-dir"))
}

/// Opens the database without a look at its schema.
pub(crate) async fn open_database(
    setup: &Setup,
    purpose: Purpose,
) -> Result<OpenDatabase, Failure> {
    let database = &setup.loaded.config.database;
    if let Some(url) = &database.url {
        if purpose == Purpose::Command || database.replica_urls.is_empty() {
            let mut target = parse("database.url", url)?;
            target.application_name(&setup.application_name);
            let app = role_of(&target);
            let store = Store::new(target, database.pool_size)?;
            let owner = owner(setup)?;
            return Ok(OpenDatabase { store, replicas: None, embedded: None, owner, app });
        }
        return with_replicas(setup);
    }
    let options = embedded::Options {
        data_dir: setup.data_dir.clone(),
        bin_dir: database.bin_dir.clone(),
        purpose,
    };
    let embedded = Embedded::open(options).await?;
    let mut target = embedded.pg_config();
    target.application_name(&setup.application_name);
    let app = role_of(&target);
    let store = Store::new(target, database.pool_size)?;
    let mut owner = embedded.owner_config();
    owner.application_name(&setup.application_name);
    let owner = Some(owner).filter(|_| embedded.has_roles());
    Ok(OpenDatabase { store, replicas: None, embedded: Some(embedded), owner, app })
}

/// An external database with its replicas.
pub(crate) fn with_replicas(setup: &Setup) -> Result<OpenDatabase, Failure> {
    let database = &setup.loaded.config.database;
    let named = |key: &str, url: &Secret| {
        let mut target = parse(key, url)?;
        target.application_name(&setup.application_name);
        Ok::<_, Failure>(target)
    };
    let url = database.url.as_ref().ok_or_else(|| {
        Failure::new(ExitStatus::Config, "database.replica_urls needs database.url")
    })?;
    let config = named("database.url", url)?;
    let urls = database.replica_urls.iter();
    let replicas = urls.map(|url| named("database.replica_urls", url)).collect::<Result<_, _>>()?;
    let app = role_of(&config);
    let (store, work) = Store::with_replicas(config, replicas, database.pool_size)?;
    let (replicas, owner) = (Some(work), owner(setup)?);
    Ok(OpenDatabase { store, replicas, embedded: None, owner, app })
}

/// The role of a login; the driver's default is the user of the process.
fn role_of(target: &Target) -> String {
    target.get_user().map_or_else(privilege::user_name, str::to_owned)
}

/// The login of `database.owner_url`.
fn owner(setup: &Setup) -> Result<Option<Target>, Failure> {
    let Some(url) = &setup.loaded.config.database.owner_url else { return Ok(None) };
    let mut target = parse("database.owner_url", url)?;
    target.application_name(&setup.application_name);
    Ok(Some(target))
}

/// Parses the address of a database. The error does not quote it.
pub(crate) fn parse(key: &str, url: &Secret) -> Result<Target, Failure> {
    pool::parse_url(url.expose())
        .map_err(|error| Failure::new(ExitStatus::Config, format!("{key}: {error}")))
}

impl OpenDatabase {
    /// A copy of the private database, which its owner prepares for use.
    pub(crate) fn of_copy(store: Store, owner: Target) -> OpenDatabase {
        let (owner, app) = (Some(owner), roles::APP.to_owned());
        OpenDatabase { store, replicas: None, embedded: None, owner, app }
    }

    /// Applies migrations. Commands only check an external database: its
    /// migrations are applied by `esh3ar migrate` and `esh3ar serve`.
    pub(crate) async fn prepare_schema(&self, may_migrate: bool) -> Result<(), Failure> {
        if may_migrate || self.embedded.is_some() {
            let client = self.store.client().await?;
            if self.owner.is_some() && roles::is_ready(&client).await? {
                let pending = migrate::status(&client).await?;
                if pending.iter().all(|step| step.applied_at.is_some()) {
                    return Ok(());
                }
            }
            drop(client);
            self.migrate().await?;
            return Ok(());
        }
        let client = self.store.client().await?;
        let missing = migrate::status(&client).await?.iter().any(|m| m.applied_at.is_none());
        if missing {
            let what = "the database's schema is older than this esh3ar";
            return Err(Failure::new(ExitStatus::Refused, what).hint("run: esh3ar migrate"));
        }
        Ok(())
    }

    /// Applies migrations as the owner, and gives the application's role its rights.
    pub(crate) async fn migrate(&self) -> Result<Vec<i32>, Failure> {
        let owner = self.owner.clone().map(|target| Store::new(target, 1)).transpose()?;
        let migrated = self.migrate_on(owner.as_ref().unwrap_or(&self.store)).await;
        if let Some(owner) = owner {
            owner.close();
        }
        migrated
    }

    /// The same on a connection of the owner's.
    pub(crate) async fn migrate_on(&self, owner: &Store) -> Result<Vec<i32>, Failure> {
        let mut client = owner.client().await?;
        let done = migrate::run(&mut client, None).await?;
        if let Some(app) = self.app_role() {
            roles::grant(&client, &app).await?;
        }
        Ok(done)
    }

    /// The login of the schema's owner.
    pub(crate) fn owner_target(&self, setup: &Setup) -> Result<Target, Failure> {
        match &self.owner {
            Some(owner) => Ok(owner.clone()),
            None => self.admin_target(setup),
        }
    }

    /// The login of the private Postgres that fills the database of a restore.
    pub(crate) fn restore_target(&self, setup: &Setup) -> Option<Target> {
        let embedded = self.embedded.as_ref().filter(|embedded| embedded.has_roles())?;
        let mut target = embedded.restore_config();
        target.application_name(&setup.application_name);
        Some(target)
    }

    /// The role that serves, if another one owns the schema.
    pub(crate) fn app_role(&self) -> Option<String> {
        self.owner.as_ref()?;
        Some(self.app.clone())
    }

    /// The login of commands on the server itself: databases, roles, the programs of Postgres.
    pub(crate) fn admin_target(&self, setup: &Setup) -> Result<Target, Failure> {
        let mut target = match (&self.embedded, &self.owner) {
            (Some(embedded), _) => embedded.admin_config(),
            (None, Some(owner)) => owner.clone(),
            (None, None) => match &setup.loaded.config.database.url {
                Some(url) => parse("database.url", url)?,
                None => return Err(Failure::new(ExitStatus::Config, "no database is configured")),
            },
        };
        target.application_name(&setup.application_name);
        Ok(target)
    }

    /// Whether it is external, and not the embedded one.
    pub(crate) fn is_external(&self) -> bool {
        self.embedded.is_none()
    }

    /// Whether it is the embedded one, and another process owns its folder.
    pub(crate) fn is_in_use(&self) -> bool {
        self.embedded.as_ref().is_some_and(|embedded| !embedded.is_owner())
    }

    /// Whether no migration was ever applied.
    async fn is_empty(&self) -> Result<bool, Failure> {
        let client = self.store.client().await?;
        Ok(migrate::status(&client).await?.iter().all(|step| step.applied_at.is_none()))
    }

    pub(crate) fn embedded(&mut self) -> Option<&mut Embedded> {
        self.embedded.as_mut()
    }

    pub(crate) async fn close(self) -> Result<(), Failure> {
        self.store.close();
        match self.embedded {
            Some(embedded) => Ok(embedded.stop().await?),
            None => Ok(()),
        }
    }
}

/// Opens the database and the use cases over it.
pub(crate) async fn open(setup: &Setup) -> Result<OpenApp, Failure> {
    open_with(setup, Cache::default()).await
}

/// The same with the cache that the processes of the installation share.
pub(crate) async fn open_with(setup: &Setup, cache: Cache) -> Result<OpenApp, Failure> {
    open_prepared(setup, false, cache).await
}

/// The same for a command that may create an installation: an empty database gets its schema.
pub(crate) async fn open_new(setup: &Setup) -> Result<OpenApp, Failure> {
    open_prepared(setup, true, Cache::default()).await
}

async fn open_prepared(setup: &Setup, begins: bool, cache: Cache) -> Result<OpenApp, Failure> {
    let opened = open_database(setup, Purpose::Command).await?;
    let prepared = async {
        let empty = begins && opened.is_empty().await?;
        opened.prepare_schema(empty).await
    };
    if let Err(failure) = prepared.await {
        let _ = opened.close().await;
        return Err(failure);
    }
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let settings = Settings { cache, ..settings(&setup.loaded.config, None)? };
    let app = App::start(settings, opened.store.clone(), &tracker, &stop);
    let begun = app.process.begin_ids().await;
    let opened = OpenApp { app, opened, tracker, stop };
    match begun {
        Ok(_) => Ok(opened),
        Err(error) => opened.close(Err(error.into())).await,
    }
}

impl OpenApp {
    pub(crate) fn database(&self) -> &OpenDatabase {
        &self.opened
    }

    /// Closes everything, then returns the command's own result.
    pub(crate) async fn close<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        drop(self.app);
        let closed = self.opened.close().await;
        let value = result?;
        closed.map(|()| value)
    }
}

/// Runs one use case over an open database. Does nothing if the schema is an older one, which has no
/// tables for it.
pub(crate) async fn with_app(
    setup: &Setup,
    store: &Store,
    act: impl AsyncFnOnce(&App) -> Result<(), crate::app::Error>,
) -> Result<(), Failure> {
    let current = migrate::status(&store.client().await?).await?;
    if current.iter().any(|step| step.applied_at.is_none()) {
        return Ok(());
    }
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let app = App::start(settings(&setup.loaded.config, None)?, store.clone(), &tracker, &stop);
    let done = act(&app).await;
    stop.cancel();
    tracker.close();
    tracker.wait().await;
    Ok(done?)
}
