//! Private RabbitMQ: one for all tests, with a virtual host each, and others that a test may break.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;

use super::{
    Folder,
    guard::{Guarded, Until, free_port, is_there, stop},
    test_run,
};

/// Debian's scripts; what it puts on PATH would change the user.
const PROGRAMS: &[&str] = &["/usr/lib/rabbitmq/bin", "/usr/local/sbin", "/opt/rabbitmq/sbin"];

fn program(name: &str) -> Option<PathBuf> {
    PROGRAMS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
}

/// How long a start may take: a node of a cluster that was killed took two minutes on a machine with fifteen
/// processes at work.
const STARTS_WITHIN: Duration = Duration::from_secs(300);

/// A broker of its own.
pub struct Broker {
    folder: Folder,
    ports: Ports,
    extra: String,
    until: Until,
    /// Outlives the broker's restarts, as it would on a machine. The first node of a cluster has it.
    _epmd: Option<Guarded>,
    server: Option<Guarded>,
}

#[derive(Clone, Copy)]
struct Ports {
    amqp: u16,
    http: u16,
    dist: u16,
    epmd: u16,
}

/// A virtual host on the broker that all tests share; deleted when the test ends.
pub struct VirtualHost {
    name: String,
    ports: Ports,
}

impl Broker {
    /// Starts one, with more lines in its configuration, or says loudly that there is no RabbitMQ here.
    /// It takes ten seconds or more.
    pub async fn start(extra: &str) -> Option<Broker> {
        let extra = extra.to_owned();
        tokio::task::spawn_blocking(move || Broker::own(&extra)).await.unwrap()
    }

    fn own(extra: &str) -> Option<Broker> {
        Broker::blocking(Folder::new(), Until::Dropped, extra)
    }

    fn blocking(folder: Folder, until: Until, extra: &str) -> Option<Broker> {
        if !is_there(program("rabbitmq-server").is_some(), "RabbitMQ") {
            return None;
        }
        let ports =
            Ports { amqp: free_port(), http: free_port(), dist: free_port(), epmd: free_port() };
        fs::create_dir(folder.path().join("epmd")).unwrap();
        fs::write(folder.path().join("enabled_plugins"), "[rabbitmq_management].").unwrap();
        let mut epmd = Command::new("epmd");
        epmd.args(["-port", &ports.epmd.to_string(), "-address", "127.0.0.1"]);
        let epmd = Guarded::start_until(until, &folder.path().join("epmd"), "epmd", &epmd);
        let (extra, epmd) = (extra.to_owned(), Some(epmd));
        let mut broker = Broker { folder, ports, extra, until, _epmd: epmd, server: None };
        broker.launch_blocking();
        Some(broker)
    }

    /// So many nodes of one cluster, or says loudly that there is no RabbitMQ here. It takes half a minute.
    pub async fn nodes(count: usize) -> Option<Vec<Broker>> {
        tokio::task::spawn_blocking(move || {
            let first = Broker::own("")?;
            let others: Vec<Broker> = (1..count).map(|_| Broker::beside(&first)).collect();
            Some(std::iter::once(first).chain(others).collect())
        })
        .await
        .unwrap()
    }

    /// Another node of the same cluster.
    fn beside(first: &Broker) -> Broker {
        let folder = Folder::new();
        let (amqp, http, dist) = (free_port(), free_port(), free_port());
        let ports = Ports { amqp, http, dist, epmd: first.ports.epmd };
        for file in ["enabled_plugins", ".erlang.cookie"] {
            fs::copy(first.folder.path().join(file), folder.path().join(file)).unwrap();
        }
        let extra = format!(
            "cluster_formation.peer_discovery_backend = classic_config\n\
             cluster_formation.classic_config.nodes.1 = {}\n\
             cluster_formation.classic_config.nodes.2 = t{amqp}@localhost\n",
            first.name()
        );
        let until = Until::Dropped;
        let mut broker = Broker { folder, ports, extra, until, _epmd: None, server: None };
        broker.launch_blocking();
        broker
    }

    fn name(&self) -> String {
        format!("t{}@localhost", self.ports.amqp)
    }

    /// What the management says about a thing of the broker, such as `queues`.
    pub fn list(&self, what: &str) -> Vec<Value> {
        let (status, body) = self.ports.api("GET", &format!("/api/{what}"), "").unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap().as_array().unwrap().clone()
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2F", self.ports.amqp)
    }

    fn environment(&self, command: &mut Command) {
        let folder = self.folder.path();
        let Ports { dist, epmd, .. } = self.ports;
        for (key, value) in [
            ("HOME", folder.to_path_buf()),
            ("RABBITMQ_MNESIA_BASE", folder.join("mnesia")),
            ("RABBITMQ_LOG_BASE", folder.join("log")),
            ("RABBITMQ_PID_FILE", folder.join("pid")),
            ("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf")),
            ("RABBITMQ_CONF_ENV_FILE", folder.join("none")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("none.config")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins")),
        ] {
            command.env(key, value);
        }
        command
            .env("RABBITMQ_NODENAME", self.name())
            .env("RABBITMQ_DIST_PORT", dist.to_string())
            .env("ERL_EPMD_PORT", epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none \
                 -kernel inet_dist_use_interface {127,0,0,1}",
            );
    }

    /// Starts it again after [`Broker::kill`] or [`Broker::stop`], on the same port.
    pub async fn launch(&mut self) {
        tokio::task::block_in_place(|| self.launch_blocking());
    }

    fn launch_blocking(&mut self) {
        assert!(self.server.is_none());
        let Ports { amqp, http, .. } = self.ports;
        let extra = &self.extra;
        let config = format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp}\nmanagement.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {http}\nmanagement_agent.disable_metrics_collector = true\n\
             loopback_users = none\nlog.console = true\nlog.file = false\n\
             vm_memory_high_watermark.absolute = 1GiB\ndisk_free_limit.absolute = 50MB\n{extra}\n"
        );
        fs::write(self.folder.path().join("rabbitmq.conf"), config).unwrap();
        let _ = fs::remove_file(self.folder.path().join("pid"));
        let mut command = Command::new(program("rabbitmq-server").unwrap());
        self.environment(&mut command);
        let server = Guarded::start_until(self.until, self.folder.path(), "rabbitmq", &command);
        self.server = Some(server);
        let deadline = std::time::Instant::now() + STARTS_WITHIN;
        // It serves AMQP before it answers here.
        while self.ports.api("GET", "/api/whoami", "").is_none_or(|(status, _)| status != 200) {
            assert!(
                std::time::Instant::now() < deadline,
                "RabbitMQ does not come:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("out.log")).unwrap_or_default()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.server.take().unwrap().kill();
    }

    /// Stops it in order.
    pub async fn stop(&mut self) {
        let pid = fs::read_to_string(self.folder.path().join("pid")).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
        tokio::task::block_in_place(|| stop(pid, nix::sys::signal::Signal::SIGTERM));
        self.server = None;
    }

    /// Takes away everything it knows; it must not be running.
    pub fn wipe(&self) {
        assert!(self.server.is_none());
        fs::remove_dir_all(self.folder.path().join("mnesia")).unwrap();
    }

    /// Sets or ends the memory alarm.
    pub async fn alarm(&self, on: bool) {
        let limit = if on { "1MB" } else { "1GiB" };
        let output = self.ctl(&["set_vm_memory_high_watermark", "absolute", limit]).await;
        assert!(output.status.success(), "{output:?}");
    }

    /// `rabbitmqctl`, which takes seconds.
    pub async fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("rabbitmqctl").unwrap());
        self.environment(&mut command);
        command.args(["--node", &format!("t{}@localhost", self.ports.amqp)]).args(arguments);
        tokio::task::block_in_place(|| command.output().unwrap())
    }
}

impl VirtualHost {
    /// A new one, or `None` where there is no RabbitMQ.
    pub async fn new() -> Option<VirtualHost> {
        let ports = tokio::task::spawn_blocking(shared).await.unwrap()?;
        let name = format!("test{}", test_run::next("virtual-host"));
        let host = VirtualHost { name, ports };
        host.must("PUT", &format!("/api/vhosts/{}", host.name), "{}");
        let all = r#"{"configure":".*","write":".*","read":".*"}"#;
        host.must("PUT", &format!("/api/permissions/{}/guest", host.name), all);
        Some(host)
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/{}", self.ports.amqp, self.name)
    }

    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// What the management says about a thing of this host, such as `queues`.
    pub fn list(&self, what: &str) -> Vec<Value> {
        let (_, body) = self.must("GET", &format!("/api/{what}/{}", self.name), "");
        serde_json::from_str::<Value>(&body).unwrap().as_array().unwrap().clone()
    }

    /// What the broker says of each queue of this host: how many messages wait, apart from those that
    /// somebody has in hand, and how many consumers there are.
    pub async fn queues(&self) -> Vec<lapin::Queue> {
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect(&self.url(), properties).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let mut queues = Vec::new();
        for queue in self.list("queues") {
            let options = lapin::options::QueueDeclareOptions::durable().passive();
            let name = queue["name"].as_str().unwrap();
            let asked = channel.queue_declare(name.into(), options, Default::default());
            queues.push(asked.await.unwrap());
        }
        queues
    }

    /// How many messages wait in all queues.
    pub async fn waiting(&self) -> u32 {
        self.queues().await.iter().map(lapin::Queue::message_count).sum()
    }

    /// Deletes a queue, as somebody might who should not.
    pub fn delete_queue(&self, queue: &str) {
        self.must("DELETE", &format!("/api/queues/{}/{queue}", self.name), "");
    }

    /// Lets no queue hold more than this.
    pub fn limit_queues(&self, most: u32) {
        let policy = serde_json::json!({
            "pattern": ".*", "apply-to": "queues", "definition": { "max-length": most },
        });
        self.must("PUT", &format!("/api/policies/{}/limit", self.name), &policy.to_string());
    }

    /// Publishes something that esh3ar never would.
    pub fn publish(&self, exchange: &str, key: &str, payload: &str) {
        let body = serde_json::json!({
            "properties": {}, "routing_key": key, "payload": payload, "payload_encoding": "string",
        });
        let path = format!("/api/exchanges/{}/{exchange}/publish", self.name);
        let (_, answer) = self.must("POST", &path, &body.to_string());
        assert_eq!(answer, r#"{"routed":true}"#);
    }

    fn must(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (status, answer) = self.ports.api(method, path, body).unwrap();
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        (status, answer)
    }
}

impl Drop for VirtualHost {
    fn drop(&mut self) {
        let _ = self.ports.api("DELETE", &format!("/api/vhosts/{}", self.name), "");
    }
}

/// The broker that all tests of the run share.
fn shared() -> Option<Ports> {
    let made = test_run::once("rabbitmq", |place| {
        let broker = Broker::blocking(Folder::of_run(place), Until::RunEnds, "");
        broker.map_or_else(
            || "none".to_owned(),
            |Broker { ports, .. }| {
                let Ports { amqp, http, dist, epmd } = ports;
                format!("{amqp} {http} {dist} {epmd}")
            },
        )
    });
    let ports: Vec<u16> = made.split(' ').map_while(|port| port.parse().ok()).collect();
    let [amqp, http, dist, epmd] = ports[..] else { return None };
    Some(Ports { amqp, http, dist, epmd })
}

impl Ports {
    /// A word with the management, without a runtime: it is also said when a test is dropped.
    fn api(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).ok()?;
        stream.set_read_timeout(Some(super::DEADLINE)).ok()?;
        let length = body.len();
        // guest:guest
        let request = format!(
            "{method} {path} HTTP/1.0\r\nauthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }
}
