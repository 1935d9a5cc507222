//! What administrators look at and do: over everybody's data, and recorded.

pub mod audit;
pub mod conversations;
mod deletions;
pub mod explain;
pub mod import;
pub mod numbers;
pub mod privacy;
mod recent_views;
pub mod reconciliation;
pub mod retention;
pub mod stats;

use std::sync::Arc;

use super::{Core, delivery::DeliveryService, messages::MessageService};

/// What administrators look at and do. Cheap to clone.
#[derive(Clone)]
pub struct AdminService {
    core: Core,
    delivery: DeliveryService,
    messages: MessageService,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    erasures: privacy::Erasures,
    deletions: deletions::Deletions,
    recent_views: recent_views::RecentViews,
}

impl AdminService {
    pub(super) fn new(
        core: &Core,
        delivery: &DeliveryService,
        messages: &MessageService,
    ) -> AdminService {
        AdminService {
            core: core.clone(),
            delivery: delivery.clone(),
            messages: messages.clone(),
            state: Arc::default(),
        }
    }
}
