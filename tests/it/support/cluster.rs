//! A cluster of the test's own: Postgres, a broker, Redis, gateways and workers, each of which can be
//! killed for itself.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use super::{
    Folder, Server, command,
    guard::free_port,
    proxy::{Proxy, Upstream},
    rabbit::{Broker, VirtualHost},
    redis::Redis,
    replica::Postgres,
    wait_for,
};

/// The broker: a virtual host on the one that all tests share, or one that the test may break, of one node
/// or several.
pub enum Mq {
    Shared(VirtualHost),
    Own(Vec<Broker>),
}

/// What several processes share.
pub struct Engines {
    pub postgres: Postgres,
    pub mq: Mq,
    pub redis: Redis,
}

impl Engines {
    /// With a broker that all tests share; `None`, told loudly, where there is no broker or Redis.
    pub async fn start() -> Option<Engines> {
        Engines::on(Mq::Shared(VirtualHost::new().await?)).await
    }

    async fn on(mq: Mq) -> Option<Engines> {
        Some(Engines { redis: Redis::start().await?, postgres: Postgres::primary().await, mq })
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
}

impl Worker {
    pub async fn start(environment: &[(String, String)]) -> Worker {
        let mut worker =
            Worker { folder: Folder::new(), child: None, environment: environment.to_vec() };
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
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let before = self.log().matches("a worker, ready").count();
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
            (self.log().matches("a worker, ready").count() > before).then_some(())
        })
        .await;
    }

    /// The value of a metric, with all labels that it has or summed over those that are not named.
    pub async fn metric(&self, name: &str) -> f64 {
        let found = fs::read_to_string(self.data().join("worker.json")).unwrap();
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        let url = format!("http://{}/metrics", found["metrics"].as_str().unwrap());
        let page = reqwest::get(url).await.unwrap().text().await.unwrap();
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
        if std::thread::panicking() {
            eprintln!("---- worker.log ----\n{}", self.log());
        }
    }
}

impl Cluster {
    /// With a broker that all tests share; `None`, told loudly, where there is no broker or Redis.
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

    /// With a broker of its own, to be broken, and with more in the environment of every process.
    pub async fn breakable(
        gateways: usize,
        workers: usize,
        more: &[(&str, &str)],
    ) -> Option<Cluster> {
        let engines = Engines::on(Mq::Own(vec![Broker::start("").await?])).await?;
        Some(Cluster::on(engines, gateways, workers, more).await)
    }

    /// With a broker of three nodes, to be broken.
    pub async fn on_three_nodes(gateways: usize, workers: usize) -> Option<Cluster> {
        let engines = Engines::on(Mq::Own(Broker::nodes(3).await?)).await?;
        Some(Cluster::on(engines, gateways, workers, &[]).await)
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
