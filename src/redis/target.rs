//! What a URL means: one server, the master that Sentinels name, or a cluster.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::try_join_all;
use redis::{
    Arg, AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo as _,
    Pipeline, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, ScriptInvocation,
    TlsMode, Value,
    aio::MultiplexedConnection,
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo},
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};
use tokio::sync::mpsc;

use super::RESPONSE_TIMEOUT;

/// The address of Redis. May contain a password and is never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum RedisTarget {
    /// `redis://`, `rediss://` or `redis+unix://`.
    One(String),
    /// `redis+sentinel://host:port,host:port/master`, or `rediss+sentinel://` with TLS.
    Sentinel {
        /// URLs of the Sentinels.
        sentinels: Vec<String>,
        /// The name of the master at the Sentinels.
        master: String,
    },
    /// `redis+cluster://host:port,host:port`, or `rediss+cluster://` with TLS.
    Cluster(Vec<String>),
}

impl fmt::Debug for RedisTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RedisTarget::One(_) => "one server",
            RedisTarget::Sentinel { .. } => "by sentinel",
            RedisTarget::Cluster(_) => "a cluster",
        })
    }
}

impl FromStr for RedisTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("is no URL such as redis://host:6379")?;
        let (plain, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        if !matches!(plain, "redis" | "rediss") {
            return Err(format!("{scheme}:// is not redis:// or rediss://"));
        }
        let target = match kind {
            "" | "unix" => RedisTarget::One(text.to_owned()),
            "sentinel" => {
                let (hosts, master) = rest.split_once('/').unwrap_or((rest, ""));
                if master.is_empty() {
                    return Err("names no master after the hosts: …/mymaster".to_owned());
                }
                RedisTarget::Sentinel { sentinels: each(plain, hosts), master: master.to_owned() }
            }
            "cluster" => RedisTarget::Cluster(each(plain, rest.trim_end_matches('/'))),
            _ => return Err(format!("{scheme}:// is no kind of Redis that is known")),
        };
        for url in target.urls() {
            // The parser's message may contain the password.
            url.into_connection_info().map_err(|_| "is no address of Redis")?;
        }
        Ok(target)
    }
}

/// A URL for each host. The login is written once, before the first.
fn each(scheme: &str, hosts: &str) -> Vec<String> {
    let (login, hosts) = match hosts.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), hosts),
    };
    hosts.split(',').map(|host| format!("{scheme}://{login}{}", host.trim())).collect()
}

/// Receives push messages. Never waits, because that would block the connection.
#[derive(Clone)]
pub(super) struct PushSink {
    pub(super) sender: mpsc::Sender<PushInfo>,
    /// A message did not fit.
    pub(super) lost: Arc<AtomicBool>,
}

impl PushSink {
    fn take(&self, info: PushInfo) {
        if self.sender.try_send(info).is_err() {
            self.lost.store(true, Ordering::Release);
        }
    }
}

#[derive(Clone)]
pub(super) enum RedisConnection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl RedisConnection {
    pub(super) async fn ask(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, RedisError> {
        match self {
            RedisConnection::One(one) => pipeline.query_async(one).await,
            RedisConnection::Cluster(cluster) => ask_by_key(cluster, pipeline).await,
        }
    }

    /// Runs a command on every master, or on the server of an address.
    pub(super) async fn each(
        &mut self,
        command: Cmd,
        server: Option<String>,
    ) -> Result<Vec<(Option<String>, Value)>, RedisError> {
        let cluster = match self {
            RedisConnection::One(one) => return Ok(vec![(None, command.query_async(one).await?)]),
            RedisConnection::Cluster(cluster) => cluster,
        };
        let Some(server) = server else {
            let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
            return of_each(cluster.route_command(command, all).await?);
        };
        let (host, port) = address(&server)?;
        let one = RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress { host, port });
        Ok(vec![(Some(server), cluster.route_command(command, one).await?)])
    }

    pub(super) async fn run(
        &mut self,
        script: &ScriptInvocation<'_>,
    ) -> Result<Vec<i64>, RedisError> {
        match self {
            RedisConnection::One(one) => script.invoke_async(one).await,
            RedisConnection::Cluster(cluster) => script.invoke_async(cluster).await,
        }
    }

    pub(super) async fn subscribe(&mut self, channel: &str) -> Result<(), RedisError> {
        match self {
            RedisConnection::One(one) => one.subscribe(channel).await,
            RedisConnection::Cluster(cluster) => cluster.subscribe(channel).await,
        }
    }
}

/// The answers of all servers, each with its address. A scan cannot continue on a server without one.
fn of_each(answers: Value) -> Result<Vec<(Option<String>, Value)>, RedisError> {
    let Value::Map(answers) = answers else {
        return Err(not_understood("the cluster does not say which server answered what"));
    };
    answers
        .into_iter()
        .map(|(server, answer)| {
            let server: String = redis::from_redis_value(server)?;
            address(&server)?;
            Ok((Some(server), answer))
        })
        .collect()
}

fn address(server: &str) -> Result<(String, u16), RedisError> {
    let place = server.rsplit_once(':');
    place
        .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
        .ok_or_else(|| not_understood("a server of the cluster has no address"))
}

fn not_understood(what: &'static str) -> RedisError {
    (ErrorKind::UnexpectedReturnType, what).into()
}

/// A pipeline goes to one server, so there is one for each key. Commands for one key stay in order.
async fn ask_by_key(
    cluster: &ClusterConnection,
    pipeline: &Pipeline,
) -> Result<Vec<Value>, RedisError> {
    let mut by_key: HashMap<&[u8], (Pipeline, Vec<usize>)> = HashMap::new();
    for (place, command) in pipeline.cmd_iter().enumerate() {
        let key = match command.args_iter().nth(1) {
            Some(Arg::Simple(key)) => key,
            _ => &[],
        };
        let (part, places) = by_key.entry(key).or_default();
        part.add_command(command.clone());
        places.push(place);
    }
    let asked = by_key.into_values().map(|(part, places)| async move {
        let answers: Vec<Value> = part.query_async(&mut cluster.clone()).await?;
        Ok::<_, RedisError>((places, answers))
    });
    let mut all = vec![Value::Nil; pipeline.len()];
    for (places, answers) in try_join_all(asked).await? {
        for (place, answer) in places.into_iter().zip(answers) {
            all[place] = answer;
        }
    }
    Ok(all)
}

fn resp3(info: ConnectionInfo) -> ConnectionInfo {
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    info.set_redis_settings(settings)
}

impl RedisTarget {
    fn urls(&self) -> Vec<&str> {
        match self {
            RedisTarget::One(url) => vec![url],
            RedisTarget::Sentinel { sentinels: urls, .. } | RedisTarget::Cluster(urls) => {
                urls.iter().map(String::as_str).collect()
            }
        }
    }

    pub(super) async fn connect(&self, sink: PushSink) -> Result<RedisConnection, RedisError> {
        let take = move |info| -> Result<(), Infallible> {
            sink.take(info);
            Ok(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(RESPONSE_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        match self {
            RedisTarget::One(url) => {
                let client = Client::open(resp3(url.as_str().into_connection_info()?))?;
                let config = config.set_push_sender(take);
                Ok(RedisConnection::One(
                    client.get_multiplexed_async_connection_with_config(&config).await?,
                ))
            }
            RedisTarget::Sentinel { sentinels, master } => {
                let mut asked = Vec::new();
                let mut node = SentinelNodeConnectionInfo::default();
                for url in sentinels {
                    let info = url.as_str().into_connection_info()?;
                    // The login is for the master; Sentinels are used without.
                    let login = info.redis_settings().clone();
                    node =
                        node.set_redis_connection_info(login.set_protocol(ProtocolVersion::RESP3));
                    if url.starts_with("rediss") {
                        node = node.set_tls_mode(TlsMode::Secure);
                    }
                    asked.push(info.set_redis_settings(RedisConnectionInfo::default()));
                }
                let kind = SentinelServerType::Master;
                let mut client = SentinelClient::build(asked, master, Some(node), kind)?;
                let config = config.set_push_sender(take);
                Ok(RedisConnection::One(client.get_async_connection_with_config(&config).await?))
            }
            RedisTarget::Cluster(urls) => {
                let client = ClusterClient::builder(urls.iter().map(String::as_str))
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(RESPONSE_TIMEOUT)
                    .response_timeout(RESPONSE_TIMEOUT)
                    .retries(2)
                    .push_sender(take)
                    .build()?;
                Ok(RedisConnection::Cluster(client.get_async_connection().await?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_redis_is_known_by_its_url() {
        let one = "rediss://user:secret@cache.example.org:6380/2";
        assert_eq!(one.parse(), Ok(RedisTarget::One(one.to_owned())));
        let by_sentinel = RedisTarget::Sentinel {
            sentinels: vec!["redis://:pw@a:26379".to_owned(), "redis://:pw@b:26379".to_owned()],
            master: "mymaster".to_owned(),
        };
        assert_eq!("redis+sentinel://:pw@a:26379,b:26379/mymaster".parse(), Ok(by_sentinel));
        let cluster = vec!["rediss://a:7000".to_owned(), "rediss://b:7000".to_owned()];
        assert_eq!("rediss+cluster://a:7000,b:7000".parse(), Ok(RedisTarget::Cluster(cluster)));
    }

    #[test]
    fn every_answer_of_a_cluster_has_its_server() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let answers = |server: Value| Value::Map(vec![(server, Value::Int(1))]);
        let known = of_each(answers(text("10.0.0.5:6379"))).unwrap();
        assert_eq!(known, [(Some("10.0.0.5:6379".to_owned()), Value::Int(1))]);
        for wrong in
            [answers(Value::Nil), answers(text("nowhere")), Value::Array(vec![]), Value::Nil]
        {
            assert!(of_each(wrong.clone()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_no_redis_is_refused_without_its_password() {
        for wrong in [
            "cache",
            "http://a",
            "redis+magic://a",
            "redis+sentinel://a:1",
            "redis://u:hush@a:port",
        ] {
            let refused = wrong.parse::<RedisTarget>().unwrap_err();
            assert!(!refused.contains("hush"), "{refused}");
        }
        assert!(!format!("{:?}", RedisTarget::One("redis://u:hush@a".to_owned())).contains("hush"));
    }
}
