//! Users, phones and tokens over the use cases: a command for each would be a process for each.

use std::{future::Future, sync::OnceLock};

use esh3ar::{
    app::{
        App, By, Clock, Error, NodeSettings, Role, RuntimeSettings, Settings,
        failpoints::Failpoints, identity::tokens::Lifetime, traces::Traces,
    },
    cache::Cache,
    config::ConfigSources,
    domain::{Permissions, Phone},
    mail::Mailer,
    sms::SmsGateways,
    store::{Store, accounts::MobileStatus},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What the use cases of a process need to know when the configuration says nothing.
pub fn settings() -> Settings {
    let config = esh3ar::config::load(ConfigSources::default()).unwrap().config;
    Settings {
        default_region: config.phone.default_region,
        runtime: RuntimeSettings {
            retry: config.retry,
            limits: config.limits,
            access_token_ttl: config.auth.access_token_ttl,
            admin_token_ttl: config.auth.admin_token_ttl,
            retention: config.retention,
            mailer: Mailer::default(),
            sms: SmsGateways::default(),
            alert_interval: config.smtp.alert_interval,
            log_sample: config.log.sample,
            sanitize_existing: config.content.sanitize_existing,
            otp: config.otp,
        },
        cache: Cache::default(),
        failpoints: Failpoints::default(),
        traces: Traces::default(),
        clock: Clock::System,
        keys: None,
        shows_codes: false,
        node: Some(NodeSettings {
            role: Role::Serve,
            host: String::new(),
            address: None,
            partitions: 0,
        }),
    }
}

/// The operator of tests that work over the use cases.
pub fn operator() -> By {
    By::command("test", "here")
}

/// A runtime that belongs to no test, and outlives those of tests.
fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    })
}

/// Does something beside the test, for as long as its process lives.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    runtime().spawn(future);
}

/// Waits for something on a runtime that belongs to no test. It may be asked from inside another.
pub fn block_on<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    runtime().spawn(async move {
        let _ = sender.send(future.await);
    });
    receiver.recv().expect("a result: what was waited for panicked")
}

/// The use cases over a database, beside the processes that serve it. It delivers nothing.
pub fn beside(config: tokio_postgres::Config) -> (App, CancellationToken) {
    let (app, _, stop) = open(config);
    (app, stop)
}

fn open(config: tokio_postgres::Config) -> (App, Store, CancellationToken) {
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let settings = Settings { node: None, ..settings() };
    let store = Store::new(config, 4).unwrap();
    let app = App::start(settings, store.clone(), &tracker, &stop);
    (app, store, stop)
}

/// Does something over a database and leaves nothing open.
pub fn with_app<T, F>(
    config: tokio_postgres::Config,
    work: impl FnOnce(App) -> F + Send + 'static,
) -> T
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send,
{
    block_on(async move {
        let (app, store, stop) = open(config);
        let done = work(app).await.unwrap();
        stop.cancel();
        store.close();
        done
    })
}

/// A business user with a token, and the token.
pub fn user(config: tokio_postgres::Config, name: &str, permissions: &str) -> String {
    let (name, permissions) = (name.to_owned(), Permissions::parse(permissions).unwrap());
    with_app(config, async move |app: App| {
        app.identity.add_user(&operator(), &name, permissions, None).await?;
        let owner = app.identity.token_owner(Some(&name), None, true).await?.unwrap();
        Ok(app.identity.issue_token(&operator(), &owner, Lifetime::Usual).await?.token)
    })
}

/// Verified phones with a token each, and the tokens.
pub fn phones(config: tokio_postgres::Config, numbers: &[&str]) -> Vec<String> {
    let parsed = numbers.iter().map(|number| Phone::parse(number, None).unwrap());
    let phones: Vec<Phone> = parsed.collect();
    with_app(config, async move |app: App| {
        app.identity.put_mobiles(&operator(), &phones, MobileStatus::Verified).await?;
        let mut tokens = Vec::new();
        for phone in phones {
            let owner = esh3ar::domain::Party::Mobile(phone);
            tokens
                .push(app.identity.issue_token(&operator(), &owner, Lifetime::Usual).await?.token);
        }
        Ok(tokens)
    })
}

/// One more token for a user (`--user NAME`) or a phone (`--mobile +…`), perhaps with `--expires 1h`.
pub fn token(config: tokio_postgres::Config, arguments: &[&str]) -> String {
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| *argument == name)?;
        Some(arguments[at + 1].to_owned())
    };
    let (user, mobile) = (value("--user"), value("--mobile"));
    let lifetime = value("--expires").map_or(Lifetime::Usual, |text| {
        Lifetime::For(esh3ar::config::duration::parse(&text).unwrap())
    });
    with_app(config, async move |app: App| {
        let owner =
            app.identity.token_owner(user.as_deref(), mobile.as_deref(), true).await?.unwrap();
        Ok(app.identity.issue_token(&operator(), &owner, lifetime).await?.token)
    })
}
