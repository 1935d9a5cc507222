//! A private Redis that a test may flush, stop, kill and replace.

use std::process::Command;

use super::{
    Folder,
    guard::{Guarded, free_port, is_there, stop, wait_until},
};

/// A Redis of its own, which keeps nothing on disk.
pub struct Redis {
    folder: Folder,
    port: u16,
    server: Option<Guarded>,
}

impl Redis {
    /// Starts one, or says loudly that there is no Redis here.
    pub async fn start() -> Option<Redis> {
        let found = Command::new("redis-server").arg("--version").output().is_ok();
        if !is_there(found, "Redis") {
            return None;
        }
        let mut redis = Redis { folder: Folder::new(), port: free_port(), server: None };
        redis.launch();
        Some(redis)
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
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        command.args(["--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(self.folder.path());
        self.server = Some(Guarded::start(self.folder.path(), "redis", &command));
        wait_until("Redis", || (self.ask("PING") == Some("+PONG\r\n".to_owned())).then_some(()));
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        let server = self.server.take().unwrap();
        stop(server.pid());
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
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        // The last line is the goodbye.
        Some(answer.strip_suffix("+OK\r\n")?.to_owned())
    }
}
