use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::{
    domain::{
        ContentType, ConversationId, Party, Priority, Status, UserId,
        feed::{Deliverable, DeliveryAttempt, FeedBatch, PAGE_SIZE},
        message::{ConversationPosition, MAX_CONTENT_LEN},
    },
    server::hub::protocol::{
        codec::{ClientMessage, CompletionResult, Split},
        session::{SessionLimits, TransportCapabilities},
    },
};

/// The longest message that this client reads, in bytes.
const LONGEST: usize = 1024 * 1024;

fn message(n: usize, content: String, is_chat: bool) -> Message {
    let (phone, business) = (Phone::from_stored("+967771234567"), UserId(Uuid::from_u128(7)));
    let seq = i64::try_from(n).unwrap() + 1;
    let place =
        is_chat.then_some(ConversationPosition { conversation: ConversationId(Uuid::nil()), seq });
    Message {
        id: MessageId(Uuid::from_u64_pair(0, n as u64 + 1)),
        position: place,
        sender: Party::Business(business),
        from: "shop".into(),
        recipient: Party::Mobile(phone),
        subject: None,
        content,
        content_type: ContentType::Text,
        priority: Priority::Normal,
        status: Status::Pending,
        generation: 0,
        retry_count: 0,
        failure_reason: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
        sent_at: None,
        delivered_at: None,
        read_at: None,
        flags: Vec::new(),
    }
}

/// A client with the messages it received, and the server's side of its connection.
struct Talk {
    protocol: Protocol,
    format: WireFormat,
    singly: bool,
    stateful: bool,
    session: Session,
    feed: Feed,
    rows: usize,
    /// Counted messages of the server, and how many the client has acknowledged.
    sent: u64,
    got: Vec<MessageId>,
    now: Instant,
}

impl Talk {
    fn new(protocol: Protocol, format: WireFormat, singly: bool, stateful: bool) -> Talk {
        let now = Instant::now();
        let channel = TransportCapabilities { stateful, text_only: false };
        let mut session = Session::new(SessionLimits::default(), channel, now);
        let name = protocol.name();
        let hello = format!("{{\"protocol\":\"{name}\",\"version\":2}}\u{1e}");
        session.on_bytes(hello.as_bytes(), now, &mut Vec::new());
        assert_eq!((session.protocol(), session.is_stateful()), (Some(protocol), stateful));
        let feed = Feed::new(Duration::from_secs(5), MessageId(Uuid::nil()));
        Talk {
            protocol,
            format,
            singly,
            stateful,
            session,
            feed,
            rows: PAGE_SIZE,
            sent: 0,
            got: Vec::new(),
            now,
        }
    }

    fn enqueue(&mut self, call: &Bytes) {
        self.session.count(call);
        self.sent += 1;
        assert!(self.session.is_resumable() == self.stateful, "no sent message was dropped");
    }

    /// One read, one page, and the client's acknowledgement. Returns whether there was a page.
    fn page(&mut self, waiting: &mut Vec<Message>) -> bool {
        if !may_read(&self.session, &self.feed) {
            return false;
        }
        let Some(reading) = self.feed.begin_read() else { return false };
        if self.feed.is_new() {
            self.feed.on_opened(&[], self.now);
        }
        let left = waiting.iter().filter(|message| !reading.in_window.contains(&message.id));
        let found: Vec<Message> = left.take(self.rows).cloned().collect();
        let mut page =
            EncodedPage::new(self.protocol, self.format, &found, usize::MAX, true, |_| None);
        assert!(page.unwritable.is_empty());
        let (count, limit) = (page.count, self.rows);
        let cut = count < found.len();
        assert!(count > 0 || found.is_empty());
        let rows = if cut { count } else { limit };
        self.rows = (rows * 2).clamp(4, PAGE_SIZE);
        let attempts = page.messages().map(|message| Deliverable {
            attempt: DeliveryAttempt {
                id: message.id,
                position: message.position,
                generation: 0,
                retry_count: 0,
            },
            acknowledged: false,
        });
        let attempts: Vec<Deliverable> = attempts.collect();
        let batch = self.feed.on_read(&attempts, cut || found.len() >= limit, self.now);
        let (ids, singly) = match batch {
            FeedBatch::Nothing => return false,
            FeedBatch::Page(ids) => (ids, self.singly),
            FeedBatch::Singly(ids) => (ids, true),
        };
        page.retain(&ids);
        let calls: Vec<Bytes> = match singly {
            true => page.one_by_one(self.protocol).map(|(_, call)| call.unwrap()).collect(),
            false => vec![page.in_one_call(self.protocol).unwrap()],
        };
        let total: usize = calls.iter().map(Bytes::len).sum();
        assert!(ids.len() == 1 || total <= MAX_PAGE_LEN, "{total} bytes of {} messages", ids.len());
        let mut got = Vec::new();
        for call in &calls {
            self.enqueue(call);
            got.extend(self.heard(call));
        }
        assert_eq!(got, ids, "the client reads them in order");
        // It calls `Acknowledge`, and gets an answer.
        self.feed.on_ack_received(&ids);
        self.feed.on_acknowledged(&ids);
        waiting.retain(|message| !ids.contains(&message.id));
        self.got.extend(got);
        let answer =
            codec::completion(self.protocol, "1", &CompletionResult::Value(Value::from(1).into()));
        self.enqueue(&answer);
        true
    }

    /// The ids of the messages in a call, as a client reads them.
    fn heard(&self, call: &Bytes) -> Vec<MessageId> {
        let Split::Whole { start, end, used } = codec::split(self.protocol, call, 0, LONGEST)
        else {
            panic!("not a whole message");
        };
        assert_eq!(used, call.len());
        let Ok(ClientMessage::Invocation { mut arguments, .. }) =
            codec::parse(self.protocol, &call[start..end])
        else {
            panic!("not a call");
        };
        let mut argument = arguments.remove(0).into_json();
        if self.format == WireFormat::Legacy {
            argument = serde_json::from_str(argument.as_str().unwrap()).unwrap();
        }
        let messages = match argument {
            Value::Array(messages) => messages,
            message => vec![message],
        };
        let name = if self.format == WireFormat::Legacy { "Id" } else { "id" };
        let id = |message: &Value| MessageId(message[name].as_str().unwrap().parse().unwrap());
        messages.iter().map(id).collect()
    }

    /// A second passes, after which the official clients acknowledge.
    fn second(&mut self) {
        self.now += Duration::from_secs(1);
        let acknowledged = codec::acknowledgement(self.protocol, self.sent);
        let mut out = Vec::new();
        self.session.on_bytes(&acknowledged, self.now, &mut out);
        assert_eq!(out, [], "the connection goes on");
    }

    /// How many seconds it took until no message waits.
    fn drain(&mut self, mut waiting: Vec<Message>) -> usize {
        let expected: Vec<MessageId> = waiting.iter().map(|message| message.id).collect();
        let mut seconds = 0;
        while !waiting.is_empty() {
            while self.page(&mut waiting) {}
            if !waiting.is_empty() {
                seconds += 1;
                assert!(self.stateful && seconds <= expected.len(), "it stands still");
                self.second();
            }
        }
        assert_eq!(self.got, expected);
        seconds
    }
}

/// Any content, including what was stored before control characters were refused.
fn content() -> impl Strategy<Value = String> {
    let unit = prop::sample::select(vec![
        "a", "\"", "\\", "\n", "\t", "\u{7f}", "\u{85}", "\u{2028}", "é", "☎", "🙂", "\u{1}",
        "\u{1f}",
    ]);
    let length = prop_oneof![
        3 => 1..MAX_CONTENT_LEN + 1,
        2 => Just(MAX_CONTENT_LEN),
        2 => 1..100_usize,
    ];
    (unit, length).prop_map(|(unit, length)| unit.repeat(length))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_waits_drains(
        contents in prop::collection::vec((content(), any::<bool>()), 1..24),
        message_pack in any::<bool>(),
        existing in any::<bool>(),
        singly in any::<bool>(),
        stateful in any::<bool>(),
    ) {
        let protocol = if message_pack { Protocol::MessagePack } else { Protocol::Json };
        let format = if existing { WireFormat::Legacy } else { WireFormat::Current };
        let waiting = contents
            .into_iter()
            .enumerate()
            .map(|(n, (content, is_chat))| message(n, content, is_chat))
            .collect();
        Talk::new(protocol, format, singly, stateful).drain(waiting);
    }
}

#[test]
fn a_full_page_of_control_characters_drains_as_fast_as_the_client_acknowledges() {
    for (format, unit) in
        [(WireFormat::Current, "\u{1}"), (WireFormat::Legacy, "\u{1}"), (WireFormat::Legacy, "\\")]
    {
        let waiting = (0..PAGE_SIZE)
            .map(|n| message(n, unit.repeat(MAX_CONTENT_LEN), false))
            .collect::<Vec<_>>();
        let seconds = Talk::new(Protocol::Json, format, false, true).drain(waiting);
        assert!(seconds <= 25, "{seconds} s: two pages fit before the client acknowledges");
        let waiting = (0..PAGE_SIZE)
            .map(|n| message(n, unit.repeat(MAX_CONTENT_LEN), false))
            .collect::<Vec<_>>();
        assert_eq!(Talk::new(Protocol::Json, format, false, false).drain(waiting), 0);
    }
}

#[test]
fn what_the_server_says_of_its_own_accord_is_kept_whole() {
    // The longest call: a chat message of the existing app, whose text has its content twice, each character
    // escaped twice; and the frame that may have been gathered before it.
    let worst = message(0, "\u{1}".repeat(MAX_CONTENT_LEN), true);
    let written = EncodedPage::new(
        Protocol::Json,
        WireFormat::Legacy,
        std::slice::from_ref(&worst),
        1,
        true,
        |_| None,
    );
    let (_, call) = written.one_by_one(Protocol::Json).next().unwrap();
    let longest = call.unwrap().len();
    let mut session = Talk::new(Protocol::Json, WireFormat::Legacy, false, true).session;
    while !session.is_full() {
        session
            .count(&Bytes::from_static(b"{\"type\":1,\"target\":\"Typing\",\"arguments\":[]}\x1e"));
    }
    assert!(session.has_room(longest + super::super::TARGET_FRAME_LEN), "{longest}");
    let limits = SessionLimits::default();
    assert!(MAX_PAGE_LEN + MAX_PAGE_BYTES <= limits.max_kept + 16 * 1024);
    assert!(128 * limits.max_kept <= 64 * 1024 * 1024, "a business user with all its connections");
}
