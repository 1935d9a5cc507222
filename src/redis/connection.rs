//! Keeps the connections to Redis, and says when something that it carried may have been lost.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::Bytes;
use redis::{Cmd, Pipeline, PushInfo, PushKind, RedisError, ScriptInvocation, Value};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Error, PATIENCE, PREFIX,
    probe::Memory,
    target::{Connection, Pushes, Target},
};
use crate::domain::NodeId;

/// How often it is looked whether Redis is there, and whether it still knows this process.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long this process counts as alive without a sign of life.
const ALIVE_FOR: Duration = Duration::from_secs(10);
/// Messages of other processes that may wait to be handed on.
const WAITING: usize = 4096;
/// The longest wait between two attempts to connect.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What the way to Redis needs to know.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Where it is.
    pub target: Target,
    /// The name of this process among those of the installation.
    pub node: NodeId,
}

/// What came from other processes.
#[derive(Debug)]
pub enum Heard {
    /// A message to this process.
    Message(Bytes),
    /// Messages may have been lost: whatever they could have said has to be looked up.
    Gap,
    /// Redis knows nothing of this process any more: what it kept there has to be put there again.
    Forgotten,
}

/// Whether Redis is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// It answers.
    pub up: bool,
    /// Since when that has been so.
    pub since: Instant,
}

/// The way to Redis. Cheap to clone.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    settings: RedisSettings,
    commands: Mutex<Option<Connection>>,
    state: watch::Sender<State>,
    why: Mutex<String>,
    suspect: Notify,
}

/// The channel on which a process hears the others.
pub(super) fn channel(node: NodeId) -> String {
    format!("{PREFIX}to:{node}")
}

/// The key that is there while a process lives.
pub(super) fn alive_key(node: NodeId) -> String {
    format!("{PREFIX}alive:{node}")
}

impl Redis {
    /// Begins to connect, and goes on doing so until `stop`. What other processes tell this one comes
    /// out of the receiver.
    pub fn start(
        settings: RedisSettings,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> (Redis, mpsc::Receiver<Heard>) {
        let (state, _) = watch::channel(State { up: false, since: Instant::now() });
        let redis = Redis {
            inner: Arc::new(Inner {
                settings,
                commands: Mutex::default(),
                state,
                why: Mutex::new("not connected yet".to_owned()),
                suspect: Notify::new(),
            }),
        };
        let (sender, receiver) = mpsc::channel(WAITING);
        let (keeper, stop) = (redis.clone(), stop.clone());
        tracker.spawn(async move {
            tokio::select! {
                () = keeper.keep(sender) => {}
                () = stop.cancelled() => {}
            }
            // Nobody goes on without it, and nobody has to be told.
            keeper.put_down("stopped");
        });
        (redis, receiver)
    }

    /// Whether it is there.
    pub fn state(&self) -> State {
        *self.inner.state.borrow()
    }

    /// Why it is not there.
    pub fn why_down(&self) -> String {
        self.inner.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The name of this process.
    pub fn node(&self) -> NodeId {
        self.inner.settings.node
    }

    /// Waits until it is there.
    ///
    /// # Errors
    /// [`Error::Down`] when it is not within `patience`.
    pub async fn ready(&self, patience: Duration) -> Result<(), Error> {
        let mut state = self.inner.state.subscribe();
        let up = async { state.wait_for(|state| state.up).await.map(|_| ()) };
        match tokio::time::timeout(patience, up).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Error::Down),
        }
    }

    /// One round trip.
    ///
    /// # Errors
    /// [`Error::Down`] at once while it is away; what it answers otherwise.
    pub async fn ping(&self) -> Result<(), Error> {
        let mut ping = Pipeline::new();
        ping.cmd("PING");
        self.ask(&ping).await.map(|_| ())
    }

    /// How much memory its servers take.
    ///
    /// # Errors
    /// As [`Redis::ping`].
    pub async fn memory(&self) -> Result<Memory, Error> {
        let mut question = redis::cmd("INFO");
        question.arg("memory");
        let answers = self.each(question, None).await?;
        Ok(Memory::of(answers.iter().map(|(_, answer)| answer)))
    }

    /// Asks many things at once; an answer each.
    pub(super) async fn ask(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        let mut connection = self.connection()?;
        let answers = connection.ask(pipeline).await;
        self.judge(answers)
    }

    /// Asks one server of a cluster, by its address, or all of them; each answer with whose it is.
    pub(super) async fn each(
        &self,
        command: Cmd,
        server: Option<String>,
    ) -> Result<Vec<(Option<String>, Value)>, Error> {
        let mut connection = self.connection()?;
        let answers = connection.each(command, server).await;
        self.judge(answers)
    }

    /// Runs a script.
    pub(super) async fn run(&self, script: &ScriptInvocation<'_>) -> Result<Vec<i64>, Error> {
        let mut connection = self.connection()?;
        let answer = connection.run(script).await;
        self.judge(answer)
    }

    fn connection(&self) -> Result<Connection, Error> {
        if !self.state().up {
            return Err(Error::Down);
        }
        let commands = self.inner.commands.lock().unwrap_or_else(PoisonError::into_inner).clone();
        commands.ok_or(Error::Down)
    }

    fn judge<T>(&self, answer: Result<T, RedisError>) -> Result<T, Error> {
        if let Err(error) = &answer
            && is_loss(error)
        {
            // Nobody else has to wait for the same.
            self.set_down(&error.to_string());
            self.inner.suspect.notify_one();
        }
        Ok(answer?)
    }

    fn set_up(&self, commands: Connection) {
        *self.inner.commands.lock().unwrap_or_else(PoisonError::into_inner) = Some(commands);
        let before = self.inner.state.send_replace(State { up: true, since: Instant::now() });
        if !before.up {
            tracing::info!("Redis is there");
        }
    }

    fn set_down(&self, why: &str) {
        if self.put_down(why) {
            tracing::warn!(why, "Redis is away; going on without it");
        }
    }

    /// Whether it was there until now.
    fn put_down(&self, why: &str) -> bool {
        let changed = self.inner.state.send_if_modified(|state| {
            let was_up = state.up;
            if was_up {
                *state = State { up: false, since: Instant::now() };
            }
            was_up
        });
        why.clone_into(&mut self.inner.why.lock().unwrap_or_else(PoisonError::into_inner));
        changed
    }

    /// For ever: connects, and connects again.
    async fn keep(&self, sender: mpsc::Sender<Heard>) {
        let waits = || {
            ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(50))
                .with_max_delay(LONGEST_WAIT)
                .without_max_times()
                .with_jitter()
                .build()
        };
        let mut waiting = waits();
        loop {
            let connected = Instant::now();
            let ended = self.live(&sender).await;
            self.set_down(&ended.to_string());
            if connected.elapsed() > LONGEST_WAIT {
                waiting = waits();
            }
            tokio::time::sleep(waiting.next().unwrap_or(LONGEST_WAIT)).await;
        }
    }

    /// One life of the connections. Gives why it ended.
    async fn live(&self, sender: &mpsc::Sender<Heard>) -> Error {
        let lost = Arc::new(AtomicBool::new(false));
        let (push, mut pushed) = mpsc::channel(WAITING);
        let pushes = Pushes { sender: push, lost: Arc::clone(&lost) };
        match self.connect(pushes).await {
            Ok((commands, _subscriber)) => {
                self.set_up(commands);
                // Before its connections are put down again: who finds that this process is dead and
                // forgets them looks afterwards whether it lives.
                if let Err(error) = self.sign_of_life().await {
                    return error;
                }
                // Whatever was said while nobody listened.
                if sender.send(Heard::Forgotten).await.is_err()
                    || sender.send(Heard::Gap).await.is_err()
                {
                    return Error::Down;
                }
                self.listen(sender, &mut pushed, &lost).await
            }
            Err(error) => error,
        }
    }

    async fn connect(&self, pushes: Pushes) -> Result<(Connection, Connection), Error> {
        let Inner { settings, .. } = &*self.inner;
        let connect = async {
            // The commands' connection tells of its end in the same way.
            let commands = settings.target.connect(pushes.clone()).await?;
            let mut subscriber = settings.target.connect(pushes).await?;
            subscriber.subscribe(&channel(settings.node)).await?;
            Ok::<_, RedisError>((commands, subscriber))
        };
        // By way of Sentinels it is several connections, one after the other.
        match tokio::time::timeout(PATIENCE * 5, connect).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(Error::Failed("no connection in time".to_owned())),
        }
    }

    async fn listen(
        &self,
        sender: &mpsc::Sender<Heard>,
        pushed: &mut mpsc::Receiver<PushInfo>,
        lost: &AtomicBool,
    ) -> Error {
        let in_cluster = matches!(self.inner.settings.target, Target::Cluster(_));
        let mut look = tokio::time::interval_at((Instant::now() + LOOK_EVERY).into(), LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let info = tokio::select! {
                info = pushed.recv() => info,
                // One that was left over from an earlier life says nothing about this one.
                () = self.inner.suspect.notified() => match self.state().up {
                    true => continue,
                    false => return Error::Failed(self.why_down()),
                },
                _ = look.tick() => {
                    match self.sign_of_life().await {
                        Ok(false) => {
                            tracing::warn!("Redis was emptied, or is another one");
                            if sender.send(Heard::Forgotten).await.is_err() {
                                return Error::Down;
                            }
                        }
                        Ok(true) => {}
                        Err(error) => return error,
                    }
                    continue;
                }
            };
            let Some(info) = info else { return Error::Down };
            let heard = match info.kind {
                // The way into a cluster is found again by itself, and subscribing says when. Who
                // took over from a server need not know all that was put down there.
                PushKind::Disconnection if in_cluster => continue,
                PushKind::Subscribe if in_cluster => Heard::Forgotten,
                PushKind::Disconnection => {
                    return Error::Failed("the connection was closed".to_owned());
                }
                PushKind::Message => match payload(info) {
                    Some(bytes) => Heard::Message(bytes),
                    None => continue,
                },
                _ => continue,
            };
            if lost.swap(false, Ordering::AcqRel) && sender.send(Heard::Gap).await.is_err() {
                return Error::Down;
            }
            if sender.send(heard).await.is_err() {
                return Error::Down;
            }
        }
    }

    /// Says that this process lives. Gives whether that was known before.
    async fn sign_of_life(&self) -> Result<bool, Error> {
        let mut pipeline = Pipeline::new();
        pipeline
            .cmd("SET")
            .arg(alive_key(self.node()))
            .arg(1)
            .arg("GET")
            .arg("EX")
            .arg(ALIVE_FOR.as_secs());
        let answers = self.ask(&pipeline).await?;
        Ok(!matches!(answers.first(), None | Some(Value::Nil)))
    }
}

fn payload(info: PushInfo) -> Option<Bytes> {
    match info.data.into_iter().next_back() {
        Some(Value::BulkString(bytes)) => Some(bytes.into()),
        _ => None,
    }
}

/// Whether an error says that Redis is away, and not that it refused.
fn is_loss(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}
