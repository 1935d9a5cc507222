//! A mail server that keeps what it gets, and can refuse, stall or break off.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

/// How the server behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    /// Takes every mail.
    Kind,
    /// Answers the recipient with this code.
    Refusing(u16),
    /// Breaks the connection off in the middle of a mail.
    Breaking,
}

pub struct SmtpSink {
    pub port: u16,
    pub mails: Arc<Mutex<Vec<String>>>,
    pub connections: Arc<AtomicUsize>,
    mood: Arc<Mutex<Mood>>,
    task: tokio::task::JoinHandle<()>,
}

impl SmtpSink {
    pub async fn start(mood: Mood) -> SmtpSink {
        SmtpSink::start_on(0, mood).await
    }

    /// On a given port, for a server that comes back.
    pub async fn start_on(port: u16, mood: Mood) -> SmtpSink {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mails, mood) = (Arc::default(), Arc::new(Mutex::new(mood)));
        let connections = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(
            listener,
            Arc::clone(&mails),
            Arc::clone(&mood),
            Arc::clone(&connections),
        ));
        SmtpSink { port, mails, connections, mood, task }
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub fn count(&self) -> usize {
        self.mails.lock().unwrap().len()
    }
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    mails: Arc<Mutex<Vec<String>>>,
    mood: Arc<Mutex<Mood>>,
    connections: Arc<AtomicUsize>,
) {
    let mut open = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::SeqCst);
        open.spawn(serve(socket, Arc::clone(&mails), Arc::clone(&mood)));
    }
}

async fn serve(
    socket: TcpStream,
    mails: Arc<Mutex<Vec<String>>>,
    mood: Arc<Mutex<Mood>>,
) -> std::io::Result<()> {
    let (read, mut write) = socket.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 sink\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let mood = *mood.lock().unwrap();
        let answer = match verb.as_str() {
            "RCPT" => match mood {
                Mood::Refusing(code) => format!("{code} no"),
                Mood::Kind | Mood::Breaking => "250 ok".to_owned(),
            },
            "DATA" => {
                if mood == Mood::Breaking {
                    return Ok(());
                }
                write.write_all(b"354 go on\r\n").await?;
                let mut mail = String::new();
                while let Some(line) = lines.next_line().await? {
                    if line == "." {
                        break;
                    }
                    mail.push_str(line.strip_prefix('.').unwrap_or(&line));
                    mail.push('\n');
                }
                mails.lock().unwrap().push(mail);
                "250 taken".to_owned()
            }
            "QUIT" => {
                write.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => "250 ok".to_owned(),
        };
        write.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
    Ok(())
}
