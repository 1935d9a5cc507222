//! A cluster of the test's own: Postgres, a broker, Redis, gateways and workers, each of which can be
//! killed for itself.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use super::{
    Folder, Server,
    at_rest::{self, Announced},
    command,
    guard::free_port,
    logs,
    postgres::{self, Postgres},
    proxy::{Proxy, Upstream},
    rabbit::{Broker, VirtualHost},
    redis::{Redis, RedisDatabase},
    wait_for,
};

/// The database: one on the Postgres that all tests share, or a server that the test may break.
pub enum Database {
    Shared(postgres::Database),
    Own(Box<Postgres>),
}

/// The broker: a virtual host on the one that all tests share, or one that the test may break, of one node
/// or several.
pub enum Mq {
    Shared(VirtualHost),
    Own(Vec<Broker>),
}

/// Redis: a database on the one that all tests share, or a server that the test may break.
pub enum Cache {
    Shared(RedisDatabase),
    Own(Box<Redis>),
}

/// Which engines a test breaks. It has these for itself, and shares the others with all tests.
#[derive(Clone, Copy, Default)]
pub struct Breaks {
    pub postgres: bool,
    /// With so many nodes.
    pub mq: usize,
    pub redis: bool,
}

impl Breaks {
    pub const POSTGRES: Breaks = Breaks { postgres: true, mq: 0, redis: false };
    pub const MQ: Breaks = Breaks { postgres: false, mq: 1, redis: false };
    pub const MQ_OF_THREE: Breaks = Breaks { postgres: false, mq: 3, redis: false };
    pub const REDIS: Breaks = Breaks { postgres: false, mq: 0, redis: true };
}

impl Database {
    pub fn url(&self) -> String {
        match self {
            Database::Shared(database) => database.url(),
            Database::Own(server) => server.url(),
        }
    }

    pub fn config(&self) -> tokio_postgres::Config {
        match self {
            Database::Shared(database) => database.config(),
            Database::Own(server) => server.config(),
        }
    }

    pub async fn connect(&self) -> tokio_postgres::Client {
        super::connect(&self.config()).await
    }

    pub fn server(&mut self) -> &mut Postgres {
        match self {
            Database::Own(server) => server,
            Database::Shared(_) => panic!("other tests use it too"),
        }
    }
}

impl Cache {
    pub fn url(&self) -> String {
        match self {
            Cache::Shared(database) => database.url(),
            Cache::Own(server) => server.url(),
        }
    }

    pub fn server(&mut self) -> &mut Redis {
        match self {
            Cache::Own(server) => server,
            Cache::Shared(_) => panic!("other tests use it too"),
        }
    }
}

/// What several processes share.
pub struct Engines {
    pub postgres: Database,
    pub mq: Mq,
    pub redis: Cache,
}

impl Engines {
    /// Those that all tests share; `None`, told loudly, where there is no broker or Redis.
    pub async fn start() -> Option<Engines> {
        Engines::breakable(Breaks::default()).await
    }

    /// Some of them for this test alone.
    pub async fn breakable(breaks: Breaks) -> Option<Engines> {
        let mq = match breaks.mq {
            0 => Mq::Shared(VirtualHost::new().await?),
            1 => Mq::Own(vec![Broker::start("").await?]),
            nodes => Mq::Own(Broker::nodes(nodes).await?),
        };
        let redis = match breaks.redis {
            false => Cache::Shared(RedisDatabase::new()?),
            true => Cache::Own(Box::new(Redis::start().await?)),
        };
        let postgres = match breaks.postgres {
            false => Database::Shared(postgres::Database::new().await),
            true => Database::Own(Box::new(Postgres::primary().await)),
        };
        Some(Engines { postgres, mq, redis })
    }

    /// What every process, and every command, is told of them.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mq = match &self.mq {
            Mq::Shared(host) => host.url(),
            Mq::Own(nodes) => nodes.iter().map(Broker::url).collect::<Vec<_>>().join(","),
        };
        [
            ("ESH3AR__DATABASE__URL", self.postgres.url()),
            ("ESH3AR__QUEUE__URL", mq),
            ("ESH3AR__CACHE__URL", self.redis.url()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

/// One process' own wires to the engines, which can be cut.
pub struct Wires {
    pub postgres: Proxy,
    pub mq: Proxy,
    pub redis: Proxy,
    /// What the process is told.
    pub environment: Vec<(String, String)>,
}

impl Wires {
    pub async fn to(engines: &Engines) -> Wires {
        let mut environment = engines.environment();
        let mut proxies = Vec::new();
        for (_, url) in &mut environment {
            let authority = url.split("://").nth(1).unwrap().split('/').next().unwrap();
            let host = authority.rsplit('@').next().unwrap().to_owned();
            let proxy = Proxy::start(Upstream::Tcp(host.clone())).await;
            *url = url.replace(&host, &format!("127.0.0.1:{}", proxy.port));
            proxies.push(proxy);
        }
        let mut proxies = proxies.into_iter();
        let mut next = || proxies.next().unwrap();
        Wires { postgres: next(), mq: next(), redis: next(), environment }
    }
}

/// The engines, and what runs on them.
pub struct Cluster {
    // Gone in this order: whoever uses an engine first.
    pub gateways: Vec<Server>,
    pub workers: Vec<Worker>,
    pub engines: Engines,
    environment: Vec<(String, String)>,
}

/// A running `esh3ar worker`.
pub struct Worker {
    folder: Folder,
    child: Option<Child>,
    environment: Vec<(String, String)>,
    announced: Announced,
}

impl Worker {
    pub async fn start(environment: &[(String, String)]) -> Worker {
        let mut worker = Worker {
            folder: Folder::new(),
            child: None,
            environment: environment.to_vec(),
            announced: Announced::default(),
        };
        worker.launch().await;
        worker
    }

    pub fn data(&self) -> PathBuf {
        self.folder.data()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("worker.log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub async fn launch(&mut self) {
        assert!(self.child.is_none());
        logs::watch(self.log_path());
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let before = self.log().matches("worker ready").count();
        let child = command(&self.folder.data())
            .arg("worker")
            .envs(self.environment.iter().cloned())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        wait_for("the worker to be ready", || {
            let status = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(status.is_none(), "worker ended: {status:?}\n{}", self.log());
            (self.log().matches("worker ready").count() > before).then_some(())
        })
        .await;
    }

    /// The value of a metric, with all labels that it has or summed over those that are not named.
    pub async fn metric(&self, name: &str) -> f64 {
        let found = fs::read_to_string(self.data().join("worker.json")).unwrap();
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        let url = format!("http://{}/metrics", found["metrics"].as_str().unwrap());
        let page = super::get(url).await.unwrap().text().await.unwrap();
        let rest = page.lines().filter_map(|line| line.strip_prefix(name));
        let rest = rest.filter(|rest| rest.starts_with([' ', '{']));
        rest.map(|rest| rest.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and the exit status.
    pub async fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        wait_for("the worker to end", || child.try_wait().unwrap()).await.code()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("---- worker.log ----\n{log}");
            return;
        }
        let faults = at_rest::errors(&log, &self.announced);
        assert!(faults.is_empty(), "the test left: {}\n{log}", faults.join("\n"));
    }
}

impl Cluster {
    /// On engines that all tests share; `None`, told loudly, where there is no broker or Redis.
    pub async fn start(gateways: usize, workers: usize) -> Option<Cluster> {
        Cluster::start_with(gateways, workers, &[]).await
    }

    /// The same, with more in the environment of every process.
    pub async fn start_with(
        gateways: usize,
        workers: usize,
        more: &[(&str, &str)],
    ) -> Option<Cluster> {
        Some(Cluster::on(Engines::start().await?, gateways, workers, more).await)
    }

    /// With engines that the test breaks.
    pub async fn breakable(breaks: Breaks, gateways: usize, workers: usize) -> Option<Cluster> {
        Some(Cluster::on(Engines::breakable(breaks).await?, gateways, workers, &[]).await)
    }

    async fn on(
        engines: Engines,
        gateways: usize,
        workers: usize,
        more: &[(&str, &str)],
    ) -> Cluster {
        let mut environment = engines.environment();
        environment.extend(more.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        let (none, nobody) = (Vec::new(), Vec::new());
        let mut cluster = Cluster { gateways: none, workers: nobody, engines, environment };
        for _ in 0..gateways {
            cluster.add_gateway().await;
        }
        for _ in 0..workers {
            cluster.add_worker().await;
        }
        cluster
    }

    pub async fn add_gateway(&mut self) {
        self.add_gateway_with(&[]).await;
    }

    /// With something in its environment that the others have otherwise.
    pub async fn add_gateway_with(&mut self, other: &[(String, String)]) {
        let environment: Vec<(&str, &str)> =
            self.environment.iter().chain(other).map(|(n, v)| (n.as_str(), v.as_str())).collect();
        // It knows its address before it listens, to tell the others.
        let listen = format!("127.0.0.1:{}", free_port());
        self.gateways.push(Server::start_at(Folder::new(), &environment, &listen).await);
    }

    pub async fn add_worker(&mut self) {
        self.add_worker_with(&[]).await;
    }

    /// With something in its environment that the others have otherwise.
    pub async fn add_worker_with(&mut self, other: &[(String, String)]) {
        self.workers.push(Worker::start(&[&self.environment, other].concat()).await);
    }

    pub fn broker(&mut self) -> &mut Broker {
        &mut self.brokers()[0]
    }

    pub fn brokers(&mut self) -> &mut [Broker] {
        match &mut self.engines.mq {
            Mq::Own(nodes) => nodes,
            Mq::Shared(_) => panic!("others use it too"),
        }
    }

    /// Until every gateway and worker is connected to everything, and every queue has a leader.
    pub async fn settled(&self) {
        let deadline = std::time::Instant::now() + super::DEADLINE;
        loop {
            let mut up = true;
            for gateway in &self.gateways {
                up &= gateway.metric("esh3ar_redis_up").await == 1.0;
                up &= gateway.metric("esh3ar_rabbitmq_up").await == 1.0;
            }
            if up {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "the cluster does not come up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
