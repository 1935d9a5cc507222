//! Verdicts on messages whose connection was lost before the acknowledgement, any number of times.

use super::{MessageFacts, Verdict, clock};

impl MessageFacts {
    /// The verdict on a message that waits for its recipient's next connect.
    pub(super) fn connection_lost(&self) -> Option<Verdict> {
        let (at, why, times) = self.lost()?;
        let written = match times {
            0 | 1 => format!("It was written to a connection that was lost at {at} ({why})"),
            times => format!(
                "It was written to {times} connections that were lost, the last of them at {at} ({why}),"
            ),
        };
        let sentence = format!(
            "{written} before the recipient's device acknowledged it; it waits for the next connect."
        );
        Some(Verdict::new("connection_lost", sentence))
    }

    /// Why a delivered message was late.
    pub(super) fn delayed_by_lost_connection(&self) -> Option<String> {
        let (at, why, times) = self.lost()?;
        Some(match times {
            0 | 1 => {
                format!("the connection that it had been written to was lost at {at} ({why})")
            }
            times => format!(
                "{times} connections that it had been written to were lost, the last of them at {at} ({why})"
            ),
        })
    }

    /// The last lost connection, its reason, and their number.
    fn lost(&self) -> Option<(String, String, u64)> {
        let last = self.last("connection_lost")?;
        Some((clock(last.at), reason(&last.detail), self.count("connection_lost")))
    }
}

/// The recorded reason of a lost connection, in words.
pub(super) fn reason(noted: &str) -> String {
    match noted {
        "" => "no reason was recorded".to_owned(),
        "stuck" => "the device stopped reading".to_owned(),
        "client_timeout" => "the device fell silent: it neither sent nor answered".to_owned(),
        "socket_broken" => "the network lost it".to_owned(),
        "socket_closed" | "client_closed" => "the device closed it".to_owned(),
        "client_failed" | "socket_refused" => "the app ended it with an error".to_owned(),
        "server_closed" => "esh3ar closed it".to_owned(),
        "process_ended" => "the esh3ar process ended".to_owned(),
        other => other.to_owned(),
    }
}
