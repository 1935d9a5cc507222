//! The load balancers of `packaging/balancer`, as they are there, in front of two gateways: the official
//! client over every transport, without sticky sessions; gateways that stop and come back.

use std::{
    fs,
    net::IpAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use esh3ar::client::HubClient;
use serde_json::json;

use crate::{
    foreign_clients::node,
    forward::{HUB, PHONE},
    peers::last_peer,
    support::{
        DEADLINE, Folder, Server,
        cluster::Cluster,
        guard::{Guarded, free_port, is_there},
    },
};

/// Two gateways, and whose token is used.
struct Gateways {
    cluster: Cluster,
    token: String,
}

impl Gateways {
    async fn start() -> Option<Gateways> {
        let more = [
            ("ESH3AR__HTTP__DIAGNOSTICS_HUB", "true"),
            ("ESH3AR__HTTP__TRUSTED_PROXIES", "127.0.0.1"),
        ];
        let cluster = Cluster::start_with(2, 1, &more).await?;
        cluster.settled().await;
        let token = cluster.gateways[0].phone(PHONE);
        Some(Gateways { cluster, token })
    }

    fn both(&self) -> [&Server; 2] {
        [&self.cluster.gateways[0], &self.cluster.gateways[1]]
    }

    fn one(&mut self) -> &mut Server {
        &mut self.cluster.gateways[0]
    }
}

struct Balancer {
    folder: Folder,
    _server: Guarded,
    base: String,
}

pub fn program(name: &str) -> Option<String> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = folders.iter().map(|f| format!("{f}/{name}")).find(|p| Path::new(p).is_file());
    is_there(found.is_some(), name).then(|| found.unwrap())
}

/// The example with the addresses of this machine, each of which must have been in it.
fn example(name: &str, changes: &[(&str, &str)]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/balancer");
    let mut text = fs::read_to_string(folder.join(name)).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{name} has no {from}");
        text = text.replace(from, to);
    }
    text
}

impl Balancer {
    async fn start(
        name: &str,
        gateways: &Gateways,
        configure: impl FnOnce(&Path, &str, [&str; 2]) -> Vec<String>,
    ) -> Option<Balancer> {
        let program = program(name)?;
        let folder = Folder::new();
        let address = format!("127.0.0.1:{}", free_port());
        let hosts = gateways.both().map(|g| g.base.strip_prefix("http://").unwrap());
        let arguments = configure(folder.path(), &address, hosts);
        let server = Guarded::start(folder.path(), name, Command::new(program).args(arguments));
        let pid = server.pid();
        let balancer = Balancer { folder, _server: server, base: format!("http://{address}") };
        let deadline = Instant::now() + DEADLINE;
        while balancer.ready().await != Some(200) {
            let lives = nix::sys::signal::kill(pid, None).is_ok();
            assert!(lives, "{name} ended\n{}", balancer.logs());
            assert!(Instant::now() < deadline, "{name} finds no gateway\n{}", balancer.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(balancer)
    }

    async fn nginx(gateways: &Gateways) -> Option<Balancer> {
        Balancer::start("nginx", gateways, |folder, address, [one, other]| {
            let logs = format!("{}/nginx-", folder.display());
            let changes = [
                ("10.0.0.5:5000", one),
                ("10.0.0.6:5000", other),
                ("listen 80;", &format!("listen {address};")),
                ("/var/log/nginx/", &logs),
            ];
            fs::write(folder.join("esh3ar.conf"), example("nginx.conf", &changes)).unwrap();
            // What Debian's own file has around it, below the folder of this test.
            let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {};\n", folder.join(kind).display()))
                .concat();
            let around = format!(
                "{user} daemon off; worker_processes 1; pid {0}/nginx.pid; error_log {0}/error.log;\n\
                 events {{ worker_connections 4096; }}\n\
                 http {{ {temporary} include {0}/esh3ar.conf; }}\n",
                folder.display()
            );
            let file = folder.join("nginx.conf");
            fs::write(&file, around).unwrap();
            vec!["-c".to_owned(), file.display().to_string()]
        })
        .await
    }

    async fn haproxy(gateways: &Gateways) -> Option<Balancer> {
        Balancer::start("haproxy", gateways, |folder, address, [one, other]| {
            let changes = [
                ("10.0.0.5:5000", one),
                ("10.0.0.6:5000", other),
                ("bind :80\n", &format!("bind {address}\n")),
                // More than the files that a machine for tests may allow.
                ("maxconn 50000", "maxconn 2000"),
                ("log /dev/log local0", "log stdout format raw local0"),
            ];
            let file = folder.join("haproxy.cfg");
            fs::write(&file, example("haproxy.cfg", &changes)).unwrap();
            vec!["-db".to_owned(), "-f".to_owned(), file.display().to_string()]
        })
        .await
    }

    async fn ready(&self) -> Option<u16> {
        let answer = crate::support::get(format!("{}/health/ready", self.base)).await.ok()?;
        Some(answer.status().as_u16())
    }

    /// All that it wrote.
    fn logs(&self) -> String {
        let files = fs::read_dir(self.folder.path()).unwrap().flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|e| e == "log"));
        logs.map(|file| fs::read_to_string(file.path()).unwrap_or_default()).collect()
    }

    /// A connection that is used and ended.
    async fn visit(&self, token: &str) {
        let mut hub = HubClient::connect_to(&self.base, HUB, token).await.unwrap();
        assert_eq!(hub.call("Echo", vec![json!(1)], DEADLINE).await.unwrap(), json!(1));
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- what the balancer said ----\n{}", self.logs());
        }
    }
}

/// The gateways know who asks through the balancer, and not only that it was the balancer.
async fn names_its_clients(gateways: &Gateways, balancer: &Balancer) {
    let gateway = gateways.both()[0];
    let admin = gateway.user("root", "Admin");
    // Another address than the balancer's own.
    let client = reqwest::Client::builder().local_address(IpAddr::from([127, 0, 0, 2]));
    let request = client.build().unwrap().get(format!("{}/api/v1/admin/users", balancer.base));
    // What a client says of itself is only passed on.
    let request = request.bearer_auth(&admin).header("x-forwarded-for", "203.0.113.9");
    assert_eq!(request.send().await.unwrap().status(), 200);
    assert_eq!(last_peer(gateway, &admin).await, "127.0.0.2");
}

/// The official client, over every transport and with every loss.
async fn official_client(gateways: &Gateways, balancer: &Balancer) {
    let Some(mut command) = node("transports.test.mjs") else { return };
    command
        .env("BASE", &balancer.base)
        .env("SHOP", gateways.both()[0].user("shop", "SendMessages"))
        .env("PHONE", &gateways.token)
        .env("NUMBER", PHONE);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("pass 47\n"), "{text}");
    // Requests did go to both, whichever owned the connection.
    for gateway in gateways.both() {
        let passed = "esh3ar_hub_forwarded_total{result=\"passed\"}";
        assert!(gateway.metric(passed).await > 0.0, "{}", gateway.base);
    }
    let logs = balancer.logs();
    assert!(logs.contains("POST /hub/diagnostics/negotiate"), "{logs}");
    assert!(!logs.contains(&gateways.token), "a token is in a log");
}

/// Connections are begun all the while, and none fails.
async fn gateways_come_and_go(gateways: &mut Gateways, balancer: &Balancer) {
    assert_eq!(gateways.one().stop().await, Some(0));
    for _ in 0..20 {
        balancer.visit(&gateways.token).await;
    }
    gateways.one().launch().await;
    found_again(gateways, balancer).await;
    gateways.one().kill();
    for _ in 0..20 {
        balancer.visit(&gateways.token).await;
    }
    gateways.one().launch().await;
    found_again(gateways, balancer).await;
    // The other is emptied: nobody is refused.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(gateways.both()[1].pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
    for _ in 0..20 {
        balancer.visit(&gateways.token).await;
    }
}

/// Waits until the first gateway gets something again: a balancer that takes turns may give it every
/// negotiation and no socket, or the other way round.
async fn found_again(gateways: &Gateways, balancer: &Balancer) {
    let deadline = Instant::now() + DEADLINE;
    let begun = ["101", "200"].map(|status| {
        format!("esh3ar_http_requests_total{{route=\"/hub/diagnostics\",status=\"{status}\"}}")
    });
    loop {
        let gateway = gateways.both()[0];
        if gateway.metric(&begun[0]).await + gateway.metric(&begun[1]).await > 0.0 {
            return;
        }
        assert!(Instant::now() < deadline, "the gateway gets nothing");
        balancer.visit(&gateways.token).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_in_front_of_two_gateways() {
    let Some(mut gateways) = Gateways::start().await else { return };
    let Some(balancer) = Balancer::nginx(&gateways).await else { return };
    names_its_clients(&gateways, &balancer).await;
    official_client(&gateways, &balancer).await;
    gateways_come_and_go(&mut gateways, &balancer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_in_front_of_two_gateways() {
    let Some(mut gateways) = Gateways::start().await else { return };
    let Some(balancer) = Balancer::haproxy(&gateways).await else { return };
    names_its_clients(&gateways, &balancer).await;
    official_client(&gateways, &balancer).await;
    gateways_come_and_go(&mut gateways, &balancer).await;
}
