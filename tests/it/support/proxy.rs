//! A TCP proxy that does to a connection what networks do: cut, stall, delay, lose one direction,
//! trickle, or break off right after a given answer.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

/// What happens to what passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// Connections end, and new ones are ended at once.
    Cut,
    /// Nothing passes in either direction, and nobody is told.
    Stall,
    /// Everything passes this much later.
    Delay(Duration),
    /// What the server says is lost.
    LoseAnswers,
    /// The server's words come a byte a second.
    Trickle,
}

/// Where the server is.
#[derive(Clone)]
pub enum Upstream {
    Tcp(String),
    Unix(PathBuf),
}

/// What the server says when the next connection is to be broken off.
struct Trap {
    answer: Vec<u8>,
    /// Then all others are cut, too.
    for_good: bool,
}

pub struct Proxy {
    pub port: u16,
    fault: Arc<watch::Sender<Fault>>,
    trap: Arc<Mutex<Option<Trap>>>,
    sprung: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Proxy {
    pub async fn start(upstream: Upstream) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (fault, watching) = watch::channel(Fault::None);
        let fault = Arc::new(fault);
        let all = Arc::clone(&fault);
        let (trap, sprung) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let (trapped, counter) = (Arc::clone(&trap), Arc::clone(&sprung));
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let _ = client.set_nodelay(true);
                let wire = Wire {
                    fault: watching.clone(),
                    all: Arc::clone(&all),
                    trap: Arc::clone(&trapped),
                    sprung: Arc::clone(&counter),
                };
                open.spawn(wire.carry(client, upstream.clone()));
            }
        });
        Proxy { port, fault, trap, sprung, task }
    }

    pub fn set(&self, fault: Fault) {
        let _ = self.fault.send(fault);
    }

    /// Breaks off the next connection on which the server says this, before the client hears it.
    pub fn cut_at(&self, answer: &[u8]) {
        self.set_trap(answer, false);
    }

    /// The same, and from then on everything is cut, until [`Proxy::set`].
    pub fn cut_for_good_at(&self, answer: &[u8]) {
        self.set_trap(answer, true);
    }

    fn set_trap(&self, answer: &[u8], for_good: bool) {
        *self.trap.lock().unwrap() = Some(Trap { answer: answer.to_vec(), for_good });
    }

    /// How many connections were broken off so.
    pub fn sprung(&self) -> usize {
        self.sprung.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Wire {
    fault: watch::Receiver<Fault>,
    all: Arc<watch::Sender<Fault>>,
    trap: Arc<Mutex<Option<Trap>>>,
    sprung: Arc<AtomicUsize>,
}

impl Wire {
    async fn carry(self, client: TcpStream, upstream: Upstream) {
        let server: Box<dyn Stream> = match upstream {
            Upstream::Tcp(address) => match TcpStream::connect(address).await {
                Ok(stream) => Box::new(stream),
                Err(_) => return,
            },
            Upstream::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Box::new(stream),
                Err(_) => return,
            },
        };
        let (mut client_read, mut client_write) = client.into_split();
        let (mut server_read, mut server_write) = tokio::io::split(server);
        let mut fault = self.fault.clone();
        let cut = async {
            let _ = fault.wait_for(|fault| *fault == Fault::Cut).await;
        };
        let up = async {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(n @ 1..) = client_read.read(&mut buffer).await {
                self.hold().await;
                if server_write.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        };
        let down = async {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(n @ 1..) = server_read.read(&mut buffer).await {
                if self.springs(&buffer[..n]) {
                    return;
                }
                let fault = self.hold().await;
                if fault == Fault::LoseAnswers {
                    continue;
                }
                let step = if fault == Fault::Trickle { 1 } else { n };
                for piece in buffer[..n].chunks(step) {
                    if fault == Fault::Trickle {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    if client_write.write_all(piece).await.is_err() {
                        return;
                    }
                }
            }
        };
        tokio::select! {
            () = cut => {}
            () = up => {}
            () = down => {}
        }
    }

    /// Waits out a stall or a delay; gives the fault that is on then.
    async fn hold(&self) -> Fault {
        let mut watching = self.fault.clone();
        let now = *watching.borrow_and_update();
        match now {
            Fault::Stall => match watching.wait_for(|fault| *fault != Fault::Stall).await {
                Ok(fault) => *fault,
                Err(_) => Fault::None,
            },
            Fault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                now
            }
            other => other,
        }
    }

    fn springs(&self, heard: &[u8]) -> bool {
        let mut trap = self.trap.lock().unwrap();
        let Some(wanted) = trap.as_ref() else { return false };
        let answer = wanted.answer.as_slice();
        if !heard.windows(answer.len()).any(|window| window == answer) {
            return false;
        }
        if wanted.for_good {
            let _ = self.all.send(Fault::Cut);
        }
        *trap = None;
        self.sprung.fetch_add(1, Ordering::SeqCst);
        true
    }
}
