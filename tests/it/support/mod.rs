//! The harness: the built binary as a user would run it, in a folder of its own, on free ports.

pub mod cluster;
pub mod collector;
pub mod guard;
pub mod proxy;
pub mod rabbit;
pub mod redis;
pub mod replica;
pub mod smtp;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use esh3ar::client::{ApiClient, Event, HubClient};
use serde_json::{Value, json};

pub const BINARY: &str = env!("CARGO_BIN_EXE_esh3ar");
/// Nothing that is waited for takes longer on a busy machine, unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A folder that goes with its owner. Passable for others, because the binary does not stay root.
pub struct Folder {
    inner: tempfile::TempDir,
}

impl Folder {
    pub fn new() -> Folder {
        Folder { inner: tempfile::Builder::new().prefix("esh3ar-test-").tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.inner.path()
    }

    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }
}

/// `esh3ar`, with an environment that nothing of this machine leaks into.
pub fn command(data_dir: &Path) -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ESH3AR") {
            command.env_remove(name);
        }
    }
    command
        .arg("--data-dir")
        .arg(data_dir)
        .env("NO_COLOR", "1")
        .env("ESH3AR__METRICS__LISTEN", "127.0.0.1:0")
        // What tests send in a moment, a user sends in an hour; limits have tests of their own.
        .env("ESH3AR__LIMITS__MESSAGES_PER_MINUTE", "0")
        .env("ESH3AR__LIMITS__MESSAGES_PER_HOUR", "0")
        .env("ESH3AR__LIMITS__MESSAGES_PER_SECOND", "0")
        .stdin(Stdio::null());
    // What the processes of a cluster are told, its commands are told too.
    let of_cluster = data_dir.parent().map(|folder| folder.join(ENGINES));
    let engines = of_cluster.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    command.envs(engines.lines().filter_map(|line| line.split_once('=')));
    command
}

/// Where it is written, beside the data folder, which engines a server uses.
const ENGINES: &str = "engines";

/// Whether the tests that are for both are to run against a cluster.
pub fn in_cluster() -> bool {
    std::env::var("ESH3AR_TEST_MODE").is_ok_and(|mode| mode == "cluster")
}

/// Runs a command to its end.
pub fn run(data_dir: &Path, arguments: &[&str]) -> Output {
    command(data_dir).args(arguments).output().unwrap()
}

/// Runs a command that must succeed and gives its JSON.
pub fn run_json(data_dir: &Path, arguments: &[&str]) -> Value {
    json_of(&mut command(data_dir), arguments)
}

fn json_of(command: &mut Command, arguments: &[&str]) -> Value {
    let output = command.args(arguments).args(["-o", "json"]).output().unwrap();
    assert!(
        output.status.success(),
        "esh3ar {arguments:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A running `esh3ar serve`.
pub struct Server {
    pub folder: Folder,
    pub base: String,
    pub metrics: String,
    child: Option<Child>,
    api: OnceLock<ApiClient>,
    http: OnceLock<reqwest::Client>,
    environment: Vec<(String, String)>,
    /// Where it listens: on a free port the first time, on the same ever after.
    listen: String,
    /// In a cluster of its own: who delivers, and what all of it runs on.
    around: Option<Box<(cluster::Worker, cluster::Engines)>>,
}

impl Server {
    pub async fn start() -> Server {
        Server::start_with(&[]).await
    }

    pub async fn start_with(environment: &[(&str, &str)]) -> Server {
        if in_cluster() {
            return Server::start_in_cluster(environment).await;
        }
        Server::start_in(Folder::new(), environment).await
    }

    /// One gateway and one worker on engines of their own.
    async fn start_in_cluster(environment: &[(&str, &str)]) -> Server {
        let engines = cluster::Engines::start().await.expect("the engines of a cluster");
        let mut all = engines.environment();
        all.extend(environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        let told: Vec<(&str, &str)> = all.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let mut server = Server::start_in(Folder::new(), &told).await;
        let worker = cluster::Worker::start(&all).await;
        server.around = Some(Box::new((worker, engines)));
        server
    }

    pub async fn start_in(folder: Folder, environment: &[(&str, &str)]) -> Server {
        Server::start_at(folder, environment, "127.0.0.1:0").await
    }

    pub async fn start_at(folder: Folder, environment: &[(&str, &str)], listen: &str) -> Server {
        esh3ar::client::prepare();
        let environment =
            environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut server = Server {
            folder,
            base: String::new(),
            metrics: String::new(),
            child: None,
            api: OnceLock::new(),
            http: OnceLock::new(),
            environment,
            listen: listen.to_owned(),
            around: None,
        };
        let engines = ["ESH3AR__DATABASE__URL", "ESH3AR__QUEUE__URL", "ESH3AR__CACHE__URL"];
        let lines: String = server
            .environment
            .iter()
            .filter(|(name, _)| engines.contains(&name.as_str()))
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        if !lines.is_empty() {
            fs::write(server.folder.path().join(ENGINES), lines).unwrap();
        }
        server.launch().await;
        server
    }

    /// Starts the process again after [`Server::kill`] or [`Server::stop`].
    pub async fn launch(&mut self) {
        assert!(self.child.is_none());
        // Their connections lead to the process that is gone.
        (self.api, self.http) = (OnceLock::new(), OnceLock::new());
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("serve.log"))
            .unwrap();
        let whereabouts = self.folder.data().join("serve.json");
        let _ = fs::remove_file(&whereabouts);
        let child = self
            .command()
            .args(["serve", "--listen", &self.listen])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let found = wait_for("the server to be ready", || {
            let status = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(status.is_none(), "serve ended: {status:?}\n{}", self.log());
            fs::read_to_string(&whereabouts).ok()
        })
        .await;
        let found: Value = serde_json::from_str(&found).unwrap();
        self.listen = found["http"].as_str().unwrap().to_owned();
        self.base = format!("http://{}", self.listen);
        self.metrics = format!("http://{}", found["metrics"].as_str().unwrap());
    }

    pub fn data(&self) -> PathBuf {
        self.folder.data()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("serve.log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Sets or clears a variable for the next launch.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        self.environment.retain(|(known, _)| known != name);
        if let Some(value) = value {
            self.environment.push((name.to_owned(), value.to_owned()));
        }
    }

    /// What it was started with.
    pub fn environment(&self) -> impl Iterator<Item = (String, String)> {
        self.environment.clone().into_iter()
    }

    /// Whether the process has ended by itself.
    pub fn has_died(&mut self) -> bool {
        let died = self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
        if died {
            self.child = None;
        }
        died
    }

    /// The process of its private Postgres.
    pub fn postmaster(&self) -> nix::unistd::Pid {
        let path = self.data().join("postgres/postmaster.pid");
        let text = fs::read_to_string(path).unwrap();
        nix::unistd::Pid::from_raw(text.lines().next().unwrap().parse().unwrap())
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// SIGTERM, and the exit status.
    pub async fn stop(&mut self) -> Option<i32> {
        self.terminate();
        self.ended().await
    }

    pub async fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        wait_for("the server to end", || child.try_wait().unwrap()).await.code()
    }

    /// A command that is told what the server is. What is told as empty is left to the configuration
    /// file, which is weaker than what every command is told.
    pub fn command(&self) -> Command {
        let mut command = command(&self.data());
        for (name, value) in &self.environment {
            if value.is_empty() {
                command.env_remove(name)
            } else {
                command.env(name, value)
            };
        }
        command
    }

    /// A command over the same database; its JSON.
    pub fn run_json(&self, arguments: &[&str]) -> Value {
        json_of(&mut self.command(), arguments)
    }

    /// A command over the same database, however it ends.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// A business user with these permissions; its token.
    pub fn user(&self, name: &str, permissions: &str) -> String {
        self.run_json(&["user", "add", name, "--permission", permissions]);
        self.token(&["--user", name])
    }

    /// Its memory without that of its database, in KiB.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = reqwest::get(format!("{}/metrics", self.metrics)).await.unwrap();
        let page = page.text().await.unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// A verified phone; its token.
    pub fn phone(&self, number: &str) -> String {
        self.run_json(&["mobile", "add", number, "--verified"]);
        self.token(&["--mobile", number])
    }

    pub fn token(&self, owner: &[&str]) -> String {
        let made = self.run_json(&[&["token", "create"], owner].concat());
        made["token"].as_str().unwrap().to_owned()
    }

    pub fn api(&self, token: &str) -> ApiClient {
        self.api.get_or_init(|| ApiClient::new(&self.base, token).unwrap()).with_token(token)
    }

    /// One for all requests: making one takes longer than most of what it is used for.
    pub fn http(&self) -> &reqwest::Client {
        // The server ends a connection that was idle for ten seconds, perhaps while a request is on its way.
        let client = || {
            let builder = reqwest::Client::builder().pool_idle_timeout(Duration::from_secs(5));
            builder.build().unwrap()
        };
        self.http.get_or_init(client)
    }

    pub async fn hub(&self, token: &str) -> HubClient {
        HubClient::connect(&self.base, token).await.unwrap()
    }

    /// A request with full control, for answers that are no success.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&str>,
    ) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http().request(method, format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Sends one message and gives its id.
    pub async fn send(&self, token: &str, to: &str, content: &str) -> String {
        let body = json!({ "to": to, "content": content });
        let answer = self.api(token).post("/api/v1/messages", &body).await.unwrap();
        assert_eq!(answer.status, 202);
        answer.body["id"].as_str().unwrap().to_owned()
    }

    /// The status of a message, as its sender sees it.
    pub async fn status(&self, token: &str, id: &str) -> String {
        let answer = self.api(token).get(&format!("/api/v1/messages/{id}")).await.unwrap();
        answer.body["status"].as_str().unwrap().to_owned()
    }

    /// Waits until a message has a status.
    pub async fn wait_status(&self, token: &str, id: &str, wanted: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let status = self.status(token, id).await;
            if status == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{id} is {status}, not {wanted}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The way to the appliance's own database.
    pub fn database_config(&self) -> tokio_postgres::Config {
        match &self.around {
            Some(around) => around.1.postgres.config(),
            None => {
                let mut config = tokio_postgres::Config::new();
                config.host_path(self.data().join("run")).user("esh3ar").dbname("esh3ar");
                config
            }
        }
    }

    /// A connection to the appliance's own database.
    pub async fn database(&self) -> tokio_postgres::Client {
        match &self.around {
            Some(around) => around.1.postgres.connect().await,
            None => connect_database(&self.data()).await,
        }
    }
}

/// A connection to the private database of a folder.
pub async fn connect_database(data_dir: &Path) -> tokio_postgres::Client {
    let mut config = tokio_postgres::Config::new();
    config.host_path(data_dir.join("run")).user("esh3ar").dbname("esh3ar");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // In order, so that no Postgres is left behind.
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(30);
            while child.try_wait().is_ok_and(|status| status.is_none()) {
                if Instant::now() > deadline {
                    let _ = child.kill();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if std::thread::panicking() {
            eprintln!("---- serve.log ----\n{}", self.log());
        }
    }
}

/// Polls until there is something, or fails after the deadline.
pub async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The messages that an event brings, and whether they came as a page of the catch-up.
pub fn messages(event: &Event) -> Option<(bool, Vec<Value>)> {
    match event {
        Event::Invocation { target, arguments } if target == "ReceiveMessage" => {
            Some((false, arguments.clone()))
        }
        Event::Invocation { target, arguments } if target == "ReceivePendingMessages" => {
            Some((true, arguments[0].as_array().unwrap().clone()))
        }
        _ => None,
    }
}

/// The next messages on a connection.
pub async fn next_messages(hub: &mut HubClient) -> (bool, Vec<Value>) {
    let next = async {
        loop {
            if let Some(found) = messages(&hub.next().await.unwrap()) {
                return found;
            }
        }
    };
    tokio::time::timeout(DEADLINE, next).await.expect("a message in time")
}

pub fn id(message: &Value) -> String {
    message["id"].as_str().unwrap().to_owned()
}

pub async fn acknowledge(hub: &mut HubClient, ids: &[String]) -> u64 {
    hub.call("Acknowledge", vec![json!(ids)], DEADLINE).await.unwrap().as_u64().unwrap()
}

/// Who does what tests do over the use cases.
pub fn operator() -> esh3ar::app::By {
    esh3ar::app::By::command("test", "here")
}

/// A phone number of this country for each n.
pub fn number(n: usize) -> String {
    format!("+96777{n:07}")
}
