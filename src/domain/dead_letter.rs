//! Dead letters: where their cause lies.

use std::fmt;

/// Where the cause of a dead letter lies, which is also who can fix it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadLetterClass {
    /// The recipient: not acknowledging, unknown, or gone.
    Recipient,
    /// An external service: push, mail, webhook.
    Provider,
    /// The content.
    Content,
    /// The appliance itself.
    System,
}

impl DeadLetterClass {
    /// All of them.
    pub const ALL: [DeadLetterClass; 4] = [
        DeadLetterClass::Recipient,
        DeadLetterClass::Provider,
        DeadLetterClass::Content,
        DeadLetterClass::System,
    ];

    /// The name in SQL, in JSON, in metrics and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            DeadLetterClass::Recipient => "recipient",
            DeadLetterClass::Provider => "provider",
            DeadLetterClass::Content => "content",
            DeadLetterClass::System => "system",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<DeadLetterClass> {
        DeadLetterClass::ALL.into_iter().find(|class| class.name() == name)
    }
}

impl fmt::Display for DeadLetterClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
