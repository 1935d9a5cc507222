//! The hubs of one server: what each is called, who may connect, and what may be called on it.

use super::{
    codec::Data,
    diagnostics,
    methods::{self, Form},
    session::Kind,
};
use crate::{app::Caller, domain::Party, server::legacy};

/// A hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `/hub`: messages.
    Messages,
    /// `/hub/diagnostics`: for authors of clients.
    Diagnostics,
    /// `/online-mobile-user`: the existing apps.
    LegacyMobile,
    /// `/business-user`: the existing programs of businesses.
    LegacyBusiness,
}

/// What a path under a hub asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A new connection.
    Negotiate,
    /// The connection itself.
    Connect,
}

/// A call that reads as one of a method of the hub.
#[derive(Debug)]
pub enum Bound {
    /// Of the hubs for messages.
    Method(methods::Call),
    /// Of the diagnostics hub.
    Diagnostic(diagnostics::Call),
}

impl Service {
    /// Longer paths first: one hub lies below another.
    const ALL: [(&'static str, Service); 4] = [
        ("/hub/diagnostics", Service::Diagnostics),
        ("/hub", Service::Messages),
        (legacy::MOBILE_HUB, Service::LegacyMobile),
        (legacy::BUSINESS_HUB, Service::LegacyBusiness),
    ];

    /// The hub at a path; paths are matched without case and may end in a slash, as the official server
    /// does: what its clients make of an address that ends in one.
    pub fn at(path: &str) -> Option<(Service, Asked)> {
        Service::ALL.into_iter().find_map(|(base, service)| {
            let (head, tail) = path.split_at_checked(base.len())?;
            if !head.eq_ignore_ascii_case(base) {
                return None;
            }
            match tail.strip_suffix('/').unwrap_or(tail) {
                "" => Some((service, Asked::Connect)),
                tail if tail.eq_ignore_ascii_case("/negotiate") => {
                    Some((service, Asked::Negotiate))
                }
                _ => None,
            }
        })
    }

    /// Whether somebody may connect here.
    pub fn admits(self, caller: &Caller) -> bool {
        match (self, caller.party()) {
            (Service::Messages | Service::Diagnostics, _)
            | (Service::LegacyMobile, Party::Mobile(_))
            | (Service::LegacyBusiness, Party::Business(_)) => true,
            (Service::LegacyMobile | Service::LegacyBusiness, _) => false,
        }
    }

    /// Whether its connections take part in the delivery of messages.
    pub fn delivers(self) -> bool {
        self != Service::Diagnostics
    }

    /// How its messages look.
    pub fn form(self) -> Form {
        match self {
            Service::Messages | Service::Diagnostics => Form::Current,
            Service::LegacyMobile | Service::LegacyBusiness => Form::Legacy,
        }
    }

    /// Finds the method, without regard to case as the official server does, and binds the arguments.
    ///
    /// # Errors
    /// The text of the completion's error (reference: the official server's texts, which clients
    /// show).
    pub fn bind(
        self,
        target: &str,
        arguments: Vec<Data>,
        uploads: &[String],
        kind: Kind,
    ) -> Result<Bound, String> {
        if self == Service::Diagnostics {
            let call = diagnostics::Call::bind(target, arguments, uploads, kind)?;
            return Ok(Bound::Diagnostic(call));
        }
        let call = match self {
            Service::LegacyMobile => legacy::hub::bind_mobile(target, arguments),
            Service::LegacyBusiness => legacy::hub::bind_business(target, arguments),
            Service::Messages | Service::Diagnostics => methods::Call::bind(target, arguments),
        }?;
        methods::check_kind(call.method(), false, kind)?;
        methods::check_uploads(call.method(), uploads.len(), 0)?;
        Ok(Bound::Method(call))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hubs_are_found_by_their_paths_without_case() {
        let at = |path| Service::at(path);
        assert_eq!(at("/hub"), Some((Service::Messages, Asked::Connect)));
        assert_eq!(at("/HUB/Negotiate"), Some((Service::Messages, Asked::Negotiate)));
        assert_eq!(at("/hub/diagnostics"), Some((Service::Diagnostics, Asked::Connect)));
        assert_eq!(
            at("/hub/diagnostics/negotiate"),
            Some((Service::Diagnostics, Asked::Negotiate))
        );
        assert_eq!(at("/online-mobile-user"), Some((Service::LegacyMobile, Asked::Connect)));
        assert_eq!(
            at("/business-user/negotiate"),
            Some((Service::LegacyBusiness, Asked::Negotiate))
        );
        assert_eq!(at("/Hub/"), Some((Service::Messages, Asked::Connect)));
        assert_eq!(at("/hub/negotiate/"), Some((Service::Messages, Asked::Negotiate)));
        assert_eq!(at("/hub/diagnostics/"), Some((Service::Diagnostics, Asked::Connect)));
        assert_eq!(at("/Business-User/"), Some((Service::LegacyBusiness, Asked::Connect)));
        for none in ["/", "/hubs", "/hub//", "/hub/x", "/hub//negotiate", "/hubnegotiate", "/é"] {
            assert_eq!(at(none), None, "{none}");
        }
    }
}
