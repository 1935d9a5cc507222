//! Content policies of business users, compiled, and their decisions.
//!
//! Which policy a user has is learnt with its token, and for open connections with changes of access: a user without
//! a policy costs no query.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use uuid::Uuid;

use super::IdentityService;
use crate::{
    app::{Caller, Error},
    domain::{
        BoundedMap, Message, Party, UserId, WhenFull,
        audit::{AuditAction, AuditOutcome},
        content_policy::ContentPolicy,
        message::{FieldError, MessageDraft},
    },
    store::content_policy,
};

/// How many users' policies are known by id.
const MAX_USERS: usize = 50_000;
/// How many compiled policies are kept.
const MAX_COMPILED: usize = 200;
/// A sender's refusals are recorded once in this time.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(60);

pub(super) struct KnownPolicies {
    /// The id of each user's policy; `None` for a user without one.
    ids: Mutex<BoundedMap<UserId, Option<Uuid>>>,
    compiled: Mutex<BoundedMap<Uuid, Arc<ContentPolicy>>>,
    /// Senders whose refusals were recorded lately.
    recorded: Mutex<BoundedMap<UserId, ()>>,
}

impl Default for KnownPolicies {
    fn default() -> Self {
        KnownPolicies {
            ids: Mutex::new(BoundedMap::new(MAX_USERS, WhenFull::DropOldest)),
            compiled: Mutex::new(BoundedMap::new(MAX_COMPILED, WhenFull::DropOldest)),
            recorded: Mutex::new(BoundedMap::new(MAX_USERS, WhenFull::DropOldest)),
        }
    }
}

fn locked<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KnownPolicies {
    /// Notes which policy a user has now.
    pub(super) fn set(&self, user: UserId, policy: Option<Uuid>) {
        locked(&self.ids).insert(user, policy, None, Instant::now());
    }

    fn get(&self, user: UserId) -> Option<Option<Uuid>> {
        locked(&self.ids).get(&user, Instant::now()).copied()
    }

    fn compiled(&self, id: Uuid) -> Option<Arc<ContentPolicy>> {
        locked(&self.compiled).get(&id, Instant::now()).cloned()
    }

    /// Whether a refusal of this sender is to be recorded.
    fn may_record(&self, user: UserId) -> bool {
        let now = Instant::now();
        let mut recorded = locked(&self.recorded);
        if recorded.get(&user, now).is_some() {
            return false;
        }
        recorded.insert(user, (), Some(now + REFUSAL_INTERVAL), now);
        true
    }
}

impl IdentityService {
    /// Notes which policies business users have now.
    pub(super) fn set_policies(&self, changed: &HashMap<UserId, Option<Uuid>>) {
        changed.iter().for_each(|(user, policy)| self.state.policies.set(*user, *policy));
    }

    /// Notes which policy a business user has now.
    pub(in crate::app) fn note_policy(&self, user: UserId, policy: Option<Uuid>) {
        self.state.policies.set(user, policy);
    }

    /// The content policy of a caller.
    ///
    /// # Errors
    /// Failures of the database; [`Error::Internal`] for a policy that cannot be used: then nothing is sent.
    pub(in crate::app) async fn content_policy(
        &self,
        caller: &Caller,
    ) -> Result<Option<Arc<ContentPolicy>>, Error> {
        let Party::Business(user) = caller.party() else { return Ok(None) };
        match self.state.policies.get(user) {
            Some(None) => return Ok(None),
            Some(Some(id)) => {
                if let Some(policy) = self.state.policies.compiled(id) {
                    return Ok(Some(policy));
                }
            }
            None => {}
        }
        let client = self.core.store().of(&caller.party()).client().await?;
        let found = content_policy::of_user(&client, user).await?;
        drop(client);
        let Some((id, policy)) = found else {
            self.state.policies.set(user, None);
            return Ok(None);
        };
        let policy = Arc::new(policy);
        self.state.policies.set(user, Some(id));
        locked(&self.state.policies.compiled).insert(id, Arc::clone(&policy), None, Instant::now());
        Ok(Some(policy))
    }

    /// Judges a message of a caller. Returns the rules that mark it.
    ///
    /// # Errors
    /// [`Error::ContentRefused`] with the rules that refuse it; failures of the database.
    pub(in crate::app) async fn judge_content(
        &self,
        caller: &Caller,
        draft: &MessageDraft,
    ) -> Result<Vec<String>, Error> {
        let Some(policy) = self.content_policy(caller).await? else { return Ok(Vec::new()) };
        let MessageDraft { subject, content, content_type, .. } = draft;
        match policy.judge_message(subject.as_deref(), content, *content_type) {
            Ok(flags) => Ok(flags),
            Err(refused) => {
                self.record_refused(caller, &refused, 1).await;
                Err(Error::ContentRefused(refused))
            }
        }
    }

    /// Counts refused messages, and records that there are some, once a minute for each sender.
    pub(in crate::app) async fn record_refused(
        &self,
        caller: &Caller,
        refused: &[FieldError],
        messages: u64,
    ) {
        metrics::counter!("esh3ar_content_policy_total", "action" => "refuse").increment(messages);
        let Party::Business(user) = caller.party() else { return };
        if !self.state.policies.may_record(user) {
            return;
        }
        let rules: Vec<&str> = refused.iter().map(|rule| rule.message.as_str()).collect();
        let entry = self
            .core
            .entry(&caller.by(), AuditAction::MessageRefuse)
            .with("rules", rules.join(", "))
            .ended(AuditOutcome::Refused);
        if let Err(error) = self.core.record(entry).await {
            tracing::warn!(%error, "a refused message could not be recorded");
        }
    }

    /// Counts and records the marked ones of these accepted messages, without their texts.
    pub(in crate::app) async fn record_flagged(&self, caller: &Caller, messages: &[Message]) {
        let marked = messages.iter().filter(|message| !message.flags.is_empty());
        let records = marked.map(|message| {
            metrics::counter!("esh3ar_content_policy_total", "action" => "flag").increment(1);
            let entry = self
                .core
                .entry(&caller.by(), AuditAction::MessageFlag)
                .of(message.id)
                .about(message.phones())
                .with("rules", message.flags.join(", "));
            self.core.record(entry)
        });
        for recorded in join_all(records).await {
            if let Err(error) = recorded {
                tracing::warn!(%error, "a flagged message could not be recorded");
            }
        }
    }
}
