//! Keeps the connections to Redis and reports when messages may have been lost.

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
    Error, PREFIX, RESPONSE_TIMEOUT,
    seal::{Purpose, RedisSealer},
    server_info::RedisMemory,
    target::{PushSink, RedisConnection, RedisTarget},
};
use crate::domain::NodeId;

/// How often Redis is checked, and whether it still has the heartbeat of this process.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The heartbeat of this process expires after this.
const ALIVE_TTL: Duration = Duration::from_secs(10);
/// The mark of this process expires after this: later than Postgres takes the process for dead, because its
/// absence alone must not make every other absence doubtful.
pub(super) const MARK_TTL: Duration = Duration::from_secs(20);
/// Messages of other processes that wait to be handled.
const QUEUE_CAPACITY: usize = 4096;
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct RedisSettings {
    pub target: RedisTarget,
    pub node: NodeId,
    /// For frames and cached pages; `None` for a command that uses neither.
    pub sealer: Option<RedisSealer>,
}

/// What arrives on the channel of this process.
#[derive(Debug)]
pub enum RedisEvent {
    Message {
        from: NodeId,
        frame: Bytes,
    },
    /// Messages may have been lost: the state that they could have reported has to be read again.
    Gap,
    /// Redis has lost the state of this process, which has to be written again.
    Forgotten,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisState {
    pub up: bool,
    /// When `up` last changed.
    pub since: Instant,
}

/// A client. Cheap to clone.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    settings: RedisSettings,
    commands: Mutex<Option<RedisConnection>>,
    state: watch::Sender<RedisState>,
    down_reason: Mutex<String>,
    suspect: Notify,
}

/// The channel on which other processes publish to this one.
pub(super) fn channel(node: NodeId) -> String {
    format!("{PREFIX}to:{node}")
}

/// The key of the mark that a process keeps beside its connections.
pub(super) fn mark_key(node: NodeId) -> String {
    format!("{PREFIX}mark:{node}")
}

/// The key of a process's heartbeat.
pub(super) fn alive_key(node: NodeId) -> String {
    format!("{PREFIX}alive:{node}")
}

impl Redis {
    /// Connects, and reconnects until `stop`. Messages of other processes come out of the receiver.
    pub fn start(
        settings: RedisSettings,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> (Redis, mpsc::Receiver<RedisEvent>) {
        let (state, _) = watch::channel(RedisState { up: false, since: Instant::now() });
        let redis = Redis {
            inner: Arc::new(Inner {
                settings,
                commands: Mutex::default(),
                state,
                down_reason: Mutex::new("not connected yet".to_owned()),
                suspect: Notify::new(),
            }),
        };
        let (sender, receiver) = mpsc::channel(QUEUE_CAPACITY);
        let (runner, stop) = (redis.clone(), stop.clone());
        tracker.spawn(async move {
            tokio::select! {
                () = runner.keep_connected(sender) => {}
                () = stop.cancelled() => {}
            }
            // Not logged: the process stops.
            runner.mark_down("stopped");
        });
        (redis, receiver)
    }

    pub fn state(&self) -> RedisState {
        *self.inner.state.borrow()
    }

    /// The last error.
    pub fn why_down(&self) -> String {
        self.inner.down_reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn node(&self) -> NodeId {
        self.inner.settings.node
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.inner.settings.target, RedisTarget::Cluster(_))
    }

    pub(super) fn sealer(&self) -> Result<&RedisSealer, Error> {
        let none = || Error::Failed("this command neither sends frames nor reads pages".to_owned());
        self.inner.settings.sealer.as_ref().ok_or_else(none)
    }

    /// A frame that another process sent to this one. What cannot be opened may be the work of a process that
    /// has another secret, or of an attacker in Redis: it stands in place of a frame that is lost.
    fn opened(&self, sealed: &[u8]) -> RedisEvent {
        let place = channel(self.node());
        let opened = self.sealer().ok().and_then(|s| s.open(Purpose::Frame, &place, sealed));
        match opened {
            Some((from, frame)) => RedisEvent::Message { from, frame: frame.into() },
            None => RedisEvent::Gap,
        }
    }

    /// Waits until Redis is up.
    ///
    /// # Errors
    /// [`Error::Down`] after `timeout`.
    pub async fn ready(&self, timeout: Duration) -> Result<(), Error> {
        let mut state = self.inner.state.subscribe();
        let up = async { state.wait_for(|state| state.up).await.map(|_| ()) };
        match tokio::time::timeout(timeout, up).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Error::Down),
        }
    }

    /// One round trip.
    ///
    /// # Errors
    /// [`Error::Down`] at once while Redis is away, else what it answers.
    pub async fn ping(&self) -> Result<(), Error> {
        let mut ping = Pipeline::new();
        ping.cmd("PING");
        self.ask(&ping).await.map(|_| ())
    }

    /// # Errors
    /// As [`Redis::ping`].
    pub async fn memory(&self) -> Result<RedisMemory, Error> {
        let mut question = redis::cmd("INFO");
        question.arg("memory");
        let answers = self.each(question, None).await?;
        Ok(RedisMemory::of(answers.iter().map(|(_, answer)| answer)))
    }

    /// Runs a pipeline. Returns an answer for each command.
    pub(super) async fn ask(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        let mut connection = self.connection()?;
        let answers = connection.ask(pipeline).await;
        self.check_answer(answers)
    }

    /// Runs a command on one server of a cluster, or on all of them. Each answer has its server.
    pub(super) async fn each(
        &self,
        command: Cmd,
        server: Option<String>,
    ) -> Result<Vec<(Option<String>, Value)>, Error> {
        let mut connection = self.connection()?;
        let answers = connection.each(command, server).await;
        self.check_answer(answers)
    }

    pub(super) async fn run(&self, script: &ScriptInvocation<'_>) -> Result<Vec<i64>, Error> {
        let mut connection = self.connection()?;
        let answer = connection.run(script).await;
        self.check_answer(answer)
    }

    fn connection(&self) -> Result<RedisConnection, Error> {
        if !self.state().up {
            return Err(Error::Down);
        }
        let commands = self.inner.commands.lock().unwrap_or_else(PoisonError::into_inner).clone();
        commands.ok_or(Error::Down)
    }

    fn check_answer<T>(&self, answer: Result<T, RedisError>) -> Result<T, Error> {
        if let Err(error) = &answer
            && is_loss(error)
        {
            // So that other callers fail at once instead of waiting for the timeout.
            self.set_down(&error.to_string());
            self.inner.suspect.notify_one();
        }
        Ok(answer?)
    }

    fn set_up(&self, commands: RedisConnection) {
        *self.inner.commands.lock().unwrap_or_else(PoisonError::into_inner) = Some(commands);
        let before = self.inner.state.send_replace(RedisState { up: true, since: Instant::now() });
        if !before.up {
            tracing::info!("connected to Redis");
        }
    }

    fn set_down(&self, down_reason: &str) {
        if self.mark_down(down_reason) {
            tracing::warn!(down_reason, "Redis is down; continuing without it");
        }
    }

    /// Returns whether Redis was up until now.
    fn mark_down(&self, down_reason: &str) -> bool {
        let changed = self.inner.state.send_if_modified(|state| {
            let was_up = state.up;
            if was_up {
                *state = RedisState { up: false, since: Instant::now() };
            }
            was_up
        });
        down_reason
            .clone_into(&mut self.inner.down_reason.lock().unwrap_or_else(PoisonError::into_inner));
        changed
    }

    /// Reconnects with backoff, forever.
    async fn keep_connected(&self, sender: mpsc::Sender<RedisEvent>) {
        let new_backoff = || {
            ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(50))
                .with_max_delay(MAX_RETRY_DELAY)
                .without_max_times()
                .with_jitter()
                .build()
        };
        let mut backoff = new_backoff();
        loop {
            let connected = Instant::now();
            let ended = self.run_once(&sender).await;
            self.set_down(&ended.to_string());
            if connected.elapsed() > MAX_RETRY_DELAY {
                backoff = new_backoff();
            }
            tokio::time::sleep(backoff.next().unwrap_or(MAX_RETRY_DELAY)).await;
        }
    }

    /// Connects once and listens. Returns why that ended.
    async fn run_once(&self, sender: &mpsc::Sender<RedisEvent>) -> Error {
        let lost = Arc::new(AtomicBool::new(false));
        let (push, mut pushes) = mpsc::channel(QUEUE_CAPACITY);
        let sink = PushSink { sender: push, lost: Arc::clone(&lost) };
        match self.connect(sink).await {
            Ok((commands, _subscriber)) => {
                self.set_up(commands);
                // The heartbeat comes before the presence entries: a process that takes this one for dead and
                // deletes its entries checks the heartbeat afterwards.
                if let Err(error) = self.heartbeat().await {
                    return error;
                }
                // Messages may have been published while nobody was subscribed.
                if sender.send(RedisEvent::Forgotten).await.is_err()
                    || sender.send(RedisEvent::Gap).await.is_err()
                {
                    return Error::Down;
                }
                self.listen(sender, &mut pushes, &lost).await
            }
            Err(error) => error,
        }
    }

    async fn connect(&self, sink: PushSink) -> Result<(RedisConnection, RedisConnection), Error> {
        let Inner { settings, .. } = &*self.inner;
        let connect = async {
            // The end of the command connection is pushed in the same way.
            let commands = settings.target.connect(sink.clone()).await?;
            let mut subscriber = settings.target.connect(sink).await?;
            subscriber.subscribe(&channel(settings.node)).await?;
            Ok::<_, RedisError>((commands, subscriber))
        };
        // With Sentinels this opens several connections, one after the other.
        match tokio::time::timeout(RESPONSE_TIMEOUT * 5, connect).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(Error::Failed("no connection in time".to_owned())),
        }
    }

    async fn listen(
        &self,
        sender: &mpsc::Sender<RedisEvent>,
        pushes: &mut mpsc::Receiver<PushInfo>,
        lost: &AtomicBool,
    ) -> Error {
        let in_cluster = self.is_cluster();
        let mut check =
            tokio::time::interval_at((Instant::now() + CHECK_INTERVAL).into(), CHECK_INTERVAL);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let info = tokio::select! {
                info = pushes.recv() => info,
                // A notification of an earlier connection says nothing about this one.
                () = self.inner.suspect.notified() => match self.state().up {
                    true => continue,
                    false => return Error::Failed(self.why_down()),
                },
                _ = check.tick() => {
                    match self.heartbeat().await {
                        Ok(false) => {
                            tracing::warn!("Redis was flushed or replaced");
                            if sender.send(RedisEvent::Forgotten).await.is_err() {
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
            let event = match info.kind {
                // The cluster client reconnects by itself, and resubscribing tells when. A replica that took
                // over may lack entries of this process.
                PushKind::Disconnection if in_cluster => continue,
                PushKind::Subscribe if in_cluster => RedisEvent::Forgotten,
                PushKind::Disconnection => {
                    return Error::Failed("the connection was closed".to_owned());
                }
                PushKind::Message => match payload(info) {
                    Some(bytes) => self.opened(&bytes),
                    None => continue,
                },
                _ => continue,
            };
            if lost.swap(false, Ordering::AcqRel) && sender.send(RedisEvent::Gap).await.is_err() {
                return Error::Down;
            }
            if sender.send(event).await.is_err() {
                return Error::Down;
            }
        }
    }

    /// Renews the heartbeat of this process. Returns whether Redis still had it.
    async fn heartbeat(&self) -> Result<bool, Error> {
        let mut pipeline = Pipeline::new();
        pipeline
            .cmd("SET")
            .arg(alive_key(self.node()))
            .arg(1)
            .arg("GET")
            .arg("EX")
            .arg(ALIVE_TTL.as_secs());
        // Never written here: it tells that the connections are there, too.
        pipeline.cmd("EXPIRE").arg(mark_key(self.node())).arg(MARK_TTL.as_secs());
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

/// Whether an error means that Redis is away, rather than a refused command.
fn is_loss(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}
