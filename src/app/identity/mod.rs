//! Who somebody is, and what it may do: users, tokens, phone numbers.

pub mod access;
pub mod accounts;
pub mod auth;
mod business_phones;
mod conversation_access;
mod look_ups;
mod phones;
mod policies;
pub mod refusals;
mod revocation;
mod token_form;
mod token_use;
pub mod tokens;

pub use revocation::connection_secret;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::Core;

/// Users, their tokens and their phone numbers. Cheap to clone.
#[derive(Clone)]
pub struct IdentityService {
    core: Core,
    state: Arc<State>,
}

struct State {
    known_tokens: auth::KnownTokens,
    look_ups: look_ups::LookUps,
    token_use: token_use::TokenUse,
    refusals: refusals::Refusals,
    known_phones: phones::KnownPhones,
    business_phones: business_phones::BusinessPhones,
    policies: policies::KnownPolicies,
    /// The token of the process's own look at its hub; empty without randomness, and then it opens nothing.
    probe_token: String,
}

impl IdentityService {
    pub(super) fn new(core: &Core) -> IdentityService {
        let state = State {
            known_tokens: auth::KnownTokens::default(),
            look_ups: look_ups::LookUps::default(),
            token_use: token_use::TokenUse::default(),
            refusals: refusals::Refusals::default(),
            known_phones: phones::KnownPhones::default(),
            business_phones: business_phones::BusinessPhones::default(),
            policies: policies::KnownPolicies::default(),
            probe_token: new_probe_token(),
        };
        IdentityService { core: core.clone(), state: Arc::new(state) }
    }

    /// What the look at the hub shows there. It opens nothing else, and nothing of another process.
    pub fn probe_token(&self) -> &str {
        &self.state.probe_token
    }
}

fn new_probe_token() -> String {
    let mut random = [0; 32];
    match SystemRandom::new().fill(&mut random) {
        Ok(()) => format!("probe_{}", URL_SAFE_NO_PAD.encode(random)),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_has_a_token_of_its_own() {
        let (one, other) = (new_probe_token(), new_probe_token());
        assert!(one.len() > 40 && one != other);
    }
}
