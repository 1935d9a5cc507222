//! Where the admin API is answered, and from which networks it may be called. Refused calls are recorded.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, Method, StatusCode};

use super::{
    allowed_callers::Who,
    principal::Principal,
    reply::Problem,
    route::{NoRoute, Route},
};
use crate::{
    app::{
        App, Caller,
        identity::refusals::{RefusalReason, RefusedCall},
    },
    domain::network::Network,
};

const ADMIN_PATH: &str = "/api/v1/admin/";

/// Which routes a listener answers. The others do not exist there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// All.
    Whole,
    /// All but the admin API, which has a listener of its own.
    WithoutAdmin,
    /// The admin API, and what needs no token.
    AdminOnly,
}

type Found = Result<(&'static Route, Vec<String>), NoRoute>;

impl Surface {
    /// What of the routes that were found exists here.
    pub fn of(self, path: &str, found: Found) -> Found {
        let is_shown = match &found {
            Ok((route, _)) => self.shows(route.who == Who::Admin, route.who == Who::Anyone),
            Err(none) => self.shows(path.starts_with(ADMIN_PATH), none.is_open()),
        };
        if is_shown { found } else { Err(NoRoute::Nothing) }
    }

    /// Whether the hubs are here.
    pub fn has_hubs(self) -> bool {
        self != Surface::AdminOnly
    }

    fn shows(self, is_admin: bool, is_open: bool) -> bool {
        match self {
            Surface::Whole => true,
            Surface::WithoutAdmin => !is_admin,
            Surface::AdminOnly => is_admin || is_open,
        }
    }
}

/// The rules of a listener. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AdminAccess {
    pub surface: Surface,
    networks: Arc<[Network]>,
}

impl AdminAccess {
    /// Without networks, every address may call.
    pub fn new(surface: Surface, networks: &[Network]) -> AdminAccess {
        AdminAccess { surface, networks: networks.into() }
    }

    fn admits(&self, peer: IpAddr) -> bool {
        let mut networks = self.networks.iter();
        self.networks.is_empty() || networks.any(|network| network.contains(peer))
    }

    /// Whether the caller of a request may call its route.
    ///
    /// # Errors
    /// It may not. If the route is one of the admin API, that is recorded.
    pub async fn admit(
        &self,
        app: &App,
        principal: &Principal,
        call: &AdminCall<'_>,
    ) -> Result<(), Problem> {
        let is_admin = call.route.who == Who::Admin;
        let (refusal, problem) = match principal.admit(call.route.who) {
            Err(problem) => (RefusalReason::Forbidden, problem),
            Ok(()) if is_admin && !self.admits(call.peer) => {
                let text = "the admin API may not be called from this address";
                let problem = Problem::new(StatusCode::FORBIDDEN, "network_not_allowed", text);
                (RefusalReason::Network, problem)
            }
            Ok(()) => return Ok(()),
        };
        if let Principal::User(caller) = principal {
            call.refused(app, caller, refusal).await;
        }
        Err(problem)
    }
}

/// A call that may be one of the admin API.
#[derive(Clone, Copy)]
pub struct AdminCall<'a> {
    pub route: &'static Route,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    pub peer: IpAddr,
}

impl AdminCall<'_> {
    /// Records that it was refused, if it is one of the admin API.
    pub async fn refused(&self, app: &App, caller: &Caller, refusal: RefusalReason) {
        if self.route.who != Who::Admin {
            return;
        }
        metrics::counter!("esh3ar_refused_admin_calls_total", "reason" => refusal.name())
            .increment(1);
        let request = self.headers.get("x-request-id").and_then(|value| value.to_str().ok());
        let call = RefusedCall {
            caller,
            refusal,
            method: self.method.as_str(),
            route: self.route.path,
            request,
            peer: self.peer,
        };
        app.identity.record_refusal(call).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::dispatch;

    fn shown(surface: Surface, method: &Method, path: &str) -> bool {
        !matches!(surface.of(path, dispatch::route_at(method, path)), Err(NoRoute::Nothing))
    }

    #[test]
    fn a_listener_has_its_own_routes_and_no_others() {
        let admin = "/api/v1/admin/users";
        for (surface, is_admin, is_other) in [
            (Surface::Whole, true, true),
            (Surface::WithoutAdmin, false, true),
            (Surface::AdminOnly, true, false),
        ] {
            assert_eq!(shown(surface, &Method::GET, admin), is_admin, "{surface:?}");
            assert_eq!(shown(surface, &Method::PUT, admin), is_admin, "{surface:?}");
            assert_eq!(shown(surface, &Method::GET, "/api/v1/messages"), is_other, "{surface:?}");
            assert_eq!(shown(surface, &Method::PUT, "/api/v1/messages"), is_other, "{surface:?}");
            assert_eq!(surface.has_hubs(), is_other);
            assert!(shown(surface, &Method::GET, "/health"), "{surface:?}");
        }
    }

    #[test]
    fn without_networks_every_address_may_call() {
        let peer = "203.0.113.9".parse().unwrap();
        assert!(AdminAccess::new(Surface::Whole, &[]).admits(peer));
        let networks = ["10.0.0.0/8".parse().unwrap()];
        let access = AdminAccess::new(Surface::Whole, &networks);
        assert!(!access.admits(peer) && access.admits("10.1.2.3".parse().unwrap()));
    }
}
