//! A private Redis that a test may flush, stop, kill and replace.

use std::{fs, path::Path, process::Command};

use nix::sys::signal::{Signal, kill};

use super::{
    Folder,
    guard::{Guarded, Until, free_port, is_there, stop, wait_until},
};

/// Databases of the Redis that tests share: one for each test that asks.
const DATABASES: u32 = 10_000;

/// A database of the Redis that all tests of the run share.
pub struct RedisDatabase {
    port: u16,
    number: u32,
}

impl RedisDatabase {
    /// An empty one, or `None` where there is no Redis, which is said loudly.
    pub fn new() -> Option<RedisDatabase> {
        let port = super::test_run::once("redis", |place| {
            let Some(mut redis) = Redis::new(Folder::of_run(place), Until::RunEnds) else {
                return "none".to_owned();
            };
            redis.arguments = texts(&["--save", "", "--appendonly", "no", "--databases"]);
            redis.arguments.push(DATABASES.to_string());
            redis.launch();
            redis.port.to_string()
        });
        let number = super::test_run::next("redis-database");
        assert!(number < DATABASES, "no database is left on the Redis that tests share");
        Some(RedisDatabase { port: port.parse().ok()?, number })
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/{}", self.port, self.number)
    }
}

/// A Redis of its own, which keeps nothing on disk.
pub struct Redis {
    folder: Folder,
    port: u16,
    arguments: Vec<String>,
    server: Option<Guarded>,
    until: Until,
}

fn texts(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

impl Redis {
    /// Starts one, or says loudly that there is no Redis here.
    pub async fn start() -> Option<Redis> {
        Redis::start_with(&[]).await
    }

    /// The same, with more on its command line.
    pub async fn start_with(more: &[&str]) -> Option<Redis> {
        let all = ["--save", "", "--appendonly", "no"].iter().chain(more).copied();
        Redis::start_as(texts(&all.collect::<Vec<_>>()))
    }

    /// One that is reached by TLS only, and its URL; the certificate that it shows is `cert.pem` in a folder.
    pub async fn by_tls(folder: &Path) -> Option<(Redis, String)> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let (port, certificate) = (free_port(), certificate.to_str().unwrap());
        let settings = [
            ["--tls-port", &port.to_string()],
            ["--tls-cert-file", certificate],
            ["--tls-key-file", key.to_str().unwrap()],
            ["--tls-ca-cert-file", certificate],
            ["--tls-auth-clients", "no"],
        ];
        let redis = Redis::start_with(&settings.concat()).await?;
        Some((redis, format!("rediss://localhost:{port}")))
    }

    /// A Sentinel that alone decides about this master, after a second without an answer.
    pub async fn sentinel_of(master: &Redis, name: &str) -> Option<Redis> {
        let redis = Redis::own()?;
        let file = redis.folder.path().join("sentinel.conf");
        let watched = master.port;
        let text = format!(
            "sentinel monitor {name} 127.0.0.1 {watched} 1\n\
             sentinel down-after-milliseconds {name} 1000\n\
             sentinel failover-timeout {name} 6000\n"
        );
        fs::write(&file, text).unwrap();
        Some(redis.launched(texts(&[file.to_str().unwrap(), "--sentinel"])))
    }

    /// Three masters that share the keys among them, and behind them so many replicas of each.
    pub async fn cluster(replicas: usize) -> Option<Vec<Redis>> {
        let mut all = Vec::new();
        for _ in 0..3 * (1 + replicas) {
            // The usual one, 10000 above, may be somebody's connection.
            let port = free_port().to_string();
            let more = ["--cluster-enabled", "yes", "--cluster-port", &port];
            let more = [&more[..], &["--cluster-node-timeout", "3000"]].concat();
            all.push(Redis::start_with(&more).await?);
        }
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(all.iter().map(|redis| format!("127.0.0.1:{}", redis.port)));
        create.args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"]);
        let made = create.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        for redis in &all {
            wait_until("a cluster", || {
                redis.ask("CLUSTER INFO")?.contains("cluster_state:ok").then_some(())
            });
            wait_until("its replicas", || {
                let found = redis.ask("INFO replication")?;
                let follows = found.contains("master_link_status:up");
                (follows || found.contains("role:master")).then_some(())
            });
        }
        Some(all)
    }

    /// Whether it takes writes, and is followed by nobody's word.
    pub fn is_master(&self) -> bool {
        self.ask("INFO replication").is_some_and(|found| found.contains("role:master"))
    }

    fn own() -> Option<Redis> {
        Redis::new(Folder::new(), Until::Dropped)
    }

    fn new(folder: Folder, until: Until) -> Option<Redis> {
        let found = Command::new("redis-server").arg("--version").output().is_ok();
        let (port, arguments) = (free_port(), Vec::new());
        is_there(found, "Redis").then(|| Redis { folder, port, arguments, server: None, until })
    }

    fn start_as(arguments: Vec<String>) -> Option<Redis> {
        Some(Redis::own()?.launched(arguments))
    }

    fn launched(mut self, arguments: Vec<String>) -> Redis {
        self.arguments = arguments;
        self.launch();
        self
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it again, empty, on the same port.
    pub fn launch(&mut self) {
        assert!(self.server.is_none());
        let mut command = Command::new("redis-server");
        // A file, if there is one, has to be the first.
        command.args(&self.arguments);
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        command.arg("--dir").arg(self.folder.path());
        let server = Guarded::start_until(self.until, self.folder.path(), "redis", &command);
        self.server = Some(server);
        wait_until("Redis", || (self.ask("PING") == Some("+PONG\r\n".to_owned())).then_some(()));
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        let server = self.server.take().unwrap();
        stop(server.pid(), Signal::SIGTERM);
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.server.take().unwrap().kill();
    }

    /// Another one takes its place, and knows nothing.
    pub fn replace(&mut self) {
        self.kill();
        self.launch();
    }

    /// Stops answering, with every connection left open, until [`Redis::go_on`].
    pub fn freeze(&self) {
        kill(self.server.as_ref().unwrap().pid(), Signal::SIGSTOP).unwrap();
    }

    pub fn go_on(&self) {
        kill(self.server.as_ref().unwrap().pid(), Signal::SIGCONT).unwrap();
    }

    /// Forgets everything.
    pub fn flush(&self) {
        assert_eq!(self.ask("FLUSHALL").as_deref(), Some("+OK\r\n"));
    }

    /// Ends the connections of all clients of a kind: `normal` or `pubsub`.
    pub fn disconnect(&self, kind: &str) {
        self.ask(&format!("CLIENT KILL TYPE {kind} SKIPME yes"));
    }

    /// One command, and what was heard of the answer.
    pub fn ask(&self, command: &str) -> Option<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(super::DEADLINE)).ok()?;
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).ok()?;
        // A Sentinel does not know the word, and goes when nothing more can come.
        stream.shutdown(std::net::Shutdown::Write).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let before = answer.strip_suffix("\r\n")?.rfind("\r\n").map_or(0, |end| end + 2);
        // The last line is the goodbye.
        let goodbye = answer.split_off(before);
        (goodbye.starts_with("+OK") || goodbye.starts_with("-ERR unknown command"))
            .then_some(answer)
    }
}
