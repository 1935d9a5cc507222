//! A running `esh3ar serve`, and what a test asks of it.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use esh3ar::client::{ApiClient, HubClient};
use serde_json::{Value, json};

use super::{
    DEADLINE, ENGINES, Folder, accounts,
    at_rest::{self, Announced},
    cluster, command, in_cluster, json_of, logs, wait_for,
};

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
    /// In a cluster of its own: the worker, and the engines that both use.
    around: Option<Box<(cluster::Worker, cluster::Engines)>>,
    announced: Announced,
}

impl Server {
    pub async fn start() -> Server {
        Server::start_with(&[]).await
    }

    pub async fn start_with(environment: &[(&str, &str)]) -> Server {
        if in_cluster() {
            return Server::start_in_cluster(environment).await;
        }
        Server::start_in(Folder::seeded(), environment).await
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
            announced: Announced::default(),
        };
        // Shorter retries are asked for to see messages given up.
        if server.environment.iter().any(|(name, _)| name.starts_with("ESH3AR__RETRY__")) {
            server.expect_error("message given up");
        }
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
        let log = self.folder.path().join("serve.log");
        logs::watch(log.clone());
        let log = File::options().create(true).append(true).open(log).unwrap();
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
            self.announced.killed();
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
        self.announced.killed();
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
        accounts::user(self.database_config(), name, permissions)
    }

    /// Its memory without that of its database, in KiB.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The most memory that the process has had, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = super::get(format!("{}/metrics", self.metrics)).await.unwrap();
        let page = page.text().await.unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// A verified phone; its token.
    pub fn phone(&self, number: &str) -> String {
        self.phones(&[number]).remove(0)
    }

    /// Verified phones; a token of each.
    pub fn phones(&self, numbers: &[&str]) -> Vec<String> {
        accounts::phones(self.database_config(), numbers)
    }

    /// One more token: `--user NAME` or `--mobile +…`, and perhaps `--expires 1h`.
    pub fn token(&self, owner: &[&str]) -> String {
        accounts::token(self.database_config(), owner)
    }

    /// Announces an error in its log. Any other fails the test when the server is dropped.
    pub fn expect_error(&self, text: &str) {
        self.announced.error(text);
    }

    /// Announces that rows are left as no process of esh3ar would leave them, for this reason.
    pub fn expect_unbalanced(&self, _reason: &str) {
        self.announced.unbalanced();
    }

    pub fn api(&self, token: &str) -> ApiClient {
        self.api.get_or_init(|| ApiClient::new(&self.base, token).unwrap()).with_token(token)
    }

    /// One for all requests: making one takes longer than most of what it is used for.
    pub fn http(&self) -> &reqwest::Client {
        // The server ends a connection that was idle for ten seconds, perhaps while a request is on its way.
        let client = || {
            let builder = reqwest::Client::builder().tls_built_in_root_certs(false);
            builder.pool_idle_timeout(Duration::from_secs(5)).build().unwrap()
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

    /// The way to its database: the one that it was told, or its private one.
    pub fn database_config(&self) -> tokio_postgres::Config {
        let told = self.environment.iter().find(|(name, _)| name == "ESH3AR__DATABASE__URL");
        match told {
            Some((_, url)) => esh3ar::store::pool::parse_url(url).unwrap(),
            None => super::private_database(&self.data()),
        }
    }

    /// A connection to its database.
    pub async fn database(&self) -> tokio_postgres::Client {
        super::connect(&self.database_config()).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        let mut faults = Vec::new();
        if let Some(mut child) = self.child.take() {
            if !panicking && !self.announced.is_unbalanced() {
                faults = at_rest::rows(self.database_config(), self.announced.was_killed());
            }
            // In order, so that no Postgres is left behind.
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(30);
            while child.try_wait().is_ok_and(|status| status.is_none()) {
                if Instant::now() > deadline {
                    let _ = child.kill();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let log = self.log();
        if panicking {
            eprintln!("---- serve.log ----\n{log}");
            return;
        }
        faults.extend(at_rest::errors(&log, &self.announced));
        assert!(faults.is_empty(), "the test left: {}\n{log}", faults.join("\n"));
    }
}
