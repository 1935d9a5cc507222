//! The purposes of statements: each is timed for itself, and some have a limit of connections.

/// The purpose of a statement, a label in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementGroup {
    Sends,
    Chat,
    /// Status changes of messages: acknowledged, written, missed.
    Statuses,
    /// Messages pending for a connection.
    Pending,
    /// Messages named by wake-ups from the broker.
    WakeUps,
    /// The sweeper: messages that are due, stuck or missed.
    Sweeps,
    Lists,
    /// Conversations: opened, read, archived.
    Conversations,
    /// Claiming, running and finishing jobs.
    Jobs,
    /// Authentication and permissions.
    Access,
    /// Heartbeats and state of processes.
    Nodes,
    /// Reconciliation, retention and counters.
    Upkeep,
    /// Audit log entries.
    Audit,
    /// All others: administration and commands.
    Other,
}

impl StatementGroup {
    /// Every group, in order.
    pub const ALL: [StatementGroup; 14] = [
        StatementGroup::Sends,
        StatementGroup::Chat,
        StatementGroup::Statuses,
        StatementGroup::Pending,
        StatementGroup::WakeUps,
        StatementGroup::Sweeps,
        StatementGroup::Lists,
        StatementGroup::Conversations,
        StatementGroup::Jobs,
        StatementGroup::Access,
        StatementGroup::Nodes,
        StatementGroup::Upkeep,
        StatementGroup::Audit,
        StatementGroup::Other,
    ];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            StatementGroup::Sends => "sends",
            StatementGroup::Chat => "chat",
            StatementGroup::Statuses => "statuses",
            StatementGroup::Pending => "pending",
            StatementGroup::WakeUps => "wake_ups",
            StatementGroup::Sweeps => "sweeps",
            StatementGroup::Lists => "lists",
            StatementGroup::Conversations => "conversations",
            StatementGroup::Jobs => "jobs",
            StatementGroup::Access => "access",
            StatementGroup::Nodes => "nodes",
            StatementGroup::Upkeep => "upkeep",
            StatementGroup::Audit => "audit",
            StatementGroup::Other => "other",
        }
    }
}
