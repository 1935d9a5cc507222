//! The hubs of one server: what each is called, who may connect, and what may be called on it.

use std::sync::LazyLock;

use super::{
    codec::Data,
    diagnostics,
    method::{self, Bound, Method},
    methods::{self, Form},
    session::Kind,
};
use crate::{
    app::Caller,
    server::{legacy, route::Who},
};

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

impl Service {
    /// All of them: where each is, and who may connect. Longer paths first: one hub lies below another.
    pub const ALL: [(&'static str, Service, Who); 4] = [
        ("/hub/diagnostics", Service::Diagnostics, Who::Either(None)),
        ("/hub", Service::Messages, Who::Either(None)),
        (legacy::MOBILE_HUB, Service::LegacyMobile, Who::Mobile),
        (legacy::BUSINESS_HUB, Service::LegacyBusiness, Who::Business(None)),
    ];

    /// The hub at a path; paths are matched without case and may end in a slash, as the official server
    /// does: what its clients make of an address that ends in one.
    pub fn at(path: &str) -> Option<(Service, Asked)> {
        Service::ALL.into_iter().find_map(|(base, service, _)| {
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
        let mut all = Service::ALL.into_iter();
        all.any(|(_, service, who)| service == self && who.admit(caller).is_ok())
    }

    /// What may be called here.
    pub fn methods(self) -> &'static [Method] {
        static MESSAGES: LazyLock<Vec<Method>> = LazyLock::new(methods::rows);
        static DIAGNOSTICS: LazyLock<Vec<Method>> = LazyLock::new(diagnostics::rows);
        static MOBILE: LazyLock<Vec<Method>> = LazyLock::new(legacy::hub::mobile_rows);
        static BUSINESS: LazyLock<Vec<Method>> = LazyLock::new(legacy::hub::business_rows);
        match self {
            Service::Messages => &MESSAGES,
            Service::Diagnostics => &DIAGNOSTICS,
            Service::LegacyMobile => &MOBILE,
            Service::LegacyBusiness => &BUSINESS,
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

    /// Finds the method that is called, asks whether the caller may, and only then reads the arguments.
    ///
    /// # Errors
    /// The text of the completion's error.
    pub fn bind(
        self,
        caller: &Caller,
        target: &str,
        arguments: Vec<Data>,
        uploads: &[String],
        kind: Kind,
    ) -> Result<Bound, String> {
        let method = method::find(self.methods(), target)?;
        method.admit(caller)?;
        method.bind(target, arguments, uploads, kind)
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
