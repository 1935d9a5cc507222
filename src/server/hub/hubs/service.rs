//! The hubs of one server: their paths, who may connect, and their methods.

use std::sync::LazyLock;

use super::{
    diagnostics, legacy, messages,
    method::{self, BoundCall, Method},
};
use crate::{
    app::Caller,
    server::{
        hub::protocol::{codec::Data, session::InvocationKind},
        legacy::{BUSINESS_HUB, MOBILE_HUB},
        route::Who,
    },
};

/// The shape of messages for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireFormat {
    /// As over HTTP.
    Current,
    /// As in the existing system.
    Legacy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `/hub`
    Messages,
    /// `/hub/diagnostics`: for authors of clients.
    Diagnostics,
    /// `/online-mobile-user`: the apps of the existing system.
    LegacyMobile,
    /// `/business-user`: the programs of the existing system.
    LegacyBusiness,
}

/// The two endpoints under the path of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HubEndpoint {
    Negotiate,
    Connect,
}

impl Service {
    /// Path, hub, and who may connect. Longer paths first: one hub lies below another.
    pub const ALL: [(&'static str, Service, Who); 4] = [
        ("/hub/diagnostics", Service::Diagnostics, Who::Either(None)),
        ("/hub", Service::Messages, Who::Either(None)),
        (MOBILE_HUB, Service::LegacyMobile, Who::Mobile),
        (BUSINESS_HUB, Service::LegacyBusiness, Who::Business(None)),
    ];

    /// Paths are compared without case and may end in a slash, as on the official server: its clients build such
    /// paths from an address that ends in one.
    pub fn at(path: &str) -> Option<(Service, HubEndpoint)> {
        Service::ALL.into_iter().find_map(|(base, service, _)| {
            let (head, tail) = path.split_at_checked(base.len())?;
            if !head.eq_ignore_ascii_case(base) {
                return None;
            }
            match tail.strip_suffix('/').unwrap_or(tail) {
                "" => Some((service, HubEndpoint::Connect)),
                tail if tail.eq_ignore_ascii_case("/negotiate") => {
                    Some((service, HubEndpoint::Negotiate))
                }
                _ => None,
            }
        })
    }

    /// Whether the caller may connect.
    pub fn admits(self, caller: &Caller) -> bool {
        let mut all = Service::ALL.into_iter();
        all.any(|(_, service, who)| service == self && who.admit(caller).is_ok())
    }

    pub fn methods(self) -> &'static [Method] {
        static MESSAGES: LazyLock<Vec<Method>> = LazyLock::new(messages::rows);
        static DIAGNOSTICS: LazyLock<Vec<Method>> = LazyLock::new(diagnostics::rows);
        static MOBILE: LazyLock<Vec<Method>> = LazyLock::new(legacy::mobile_rows);
        static BUSINESS: LazyLock<Vec<Method>> = LazyLock::new(legacy::business_rows);
        match self {
            Service::Messages => &MESSAGES,
            Service::Diagnostics => &DIAGNOSTICS,
            Service::LegacyMobile => &MOBILE,
            Service::LegacyBusiness => &BUSINESS,
        }
    }

    /// Whether its connections receive messages.
    pub fn delivers(self) -> bool {
        self != Service::Diagnostics
    }

    pub fn wire_format(self) -> WireFormat {
        match self {
            Service::Messages | Service::Diagnostics => WireFormat::Current,
            Service::LegacyMobile | Service::LegacyBusiness => WireFormat::Legacy,
        }
    }

    /// Finds the method, authorises the caller, and only then reads the arguments. The error is the text for the
    /// completion.
    pub fn bind(
        self,
        caller: &Caller,
        target: &str,
        arguments: Vec<Data>,
        uploads: &[String],
        kind: InvocationKind,
    ) -> Result<BoundCall, String> {
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
        assert_eq!(at("/hub"), Some((Service::Messages, HubEndpoint::Connect)));
        assert_eq!(at("/HUB/Negotiate"), Some((Service::Messages, HubEndpoint::Negotiate)));
        assert_eq!(at("/hub/diagnostics"), Some((Service::Diagnostics, HubEndpoint::Connect)));
        assert_eq!(
            at("/hub/diagnostics/negotiate"),
            Some((Service::Diagnostics, HubEndpoint::Negotiate))
        );
        assert_eq!(at("/online-mobile-user"), Some((Service::LegacyMobile, HubEndpoint::Connect)));
        assert_eq!(
            at("/business-user/negotiate"),
            Some((Service::LegacyBusiness, HubEndpoint::Negotiate))
        );
        assert_eq!(at("/Hub/"), Some((Service::Messages, HubEndpoint::Connect)));
        assert_eq!(at("/hub/negotiate/"), Some((Service::Messages, HubEndpoint::Negotiate)));
        assert_eq!(at("/hub/diagnostics/"), Some((Service::Diagnostics, HubEndpoint::Connect)));
        assert_eq!(at("/Business-User/"), Some((Service::LegacyBusiness, HubEndpoint::Connect)));
        for none in ["/", "/hubs", "/hub//", "/hub/x", "/hub//negotiate", "/hubnegotiate", "/é"] {
            assert_eq!(at(none), None, "{none}");
        }
    }
}
