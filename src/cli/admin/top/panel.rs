//! The panels of the dashboard.

/// In the order of the Tab key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Panel {
    Flow,
    Lanes,
    Nodes,
    Parts,
    Letters,
    Recipients,
}

impl Panel {
    pub(super) const ALL: [Panel; 6] =
        [Panel::Flow, Panel::Lanes, Panel::Nodes, Panel::Parts, Panel::Letters, Panel::Recipients];

    pub(super) fn step(self, by: usize) -> Panel {
        Panel::ALL[(self as usize + by) % Panel::ALL.len()]
    }
}
