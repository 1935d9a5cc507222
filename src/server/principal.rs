//! Who sent a request, and whether it may call a route.

use std::net::IpAddr;

use super::{allowed_callers::Who, reply::Problem};
use crate::{
    app::{App, By, Caller, Error},
    domain::limits::RateClass,
};

/// Who sent a request, and whether it may call a route.
#[derive(Clone, Debug)]
pub enum Principal {
    /// A client without a token.
    Anyone { peer: IpAddr },
    /// The owner of a token.
    User(Caller),
    /// A command on the server. Needs no token, because it can open the database.
    Operator(By),
}

impl Principal {
    /// Whether the principal may call a route. The only place that decides this for requests.
    ///
    /// # Errors
    /// It has no token or not the permission.
    pub fn admit(&self, who: Who) -> Result<(), Problem> {
        match (self, who) {
            (_, Who::Anyone) | (Principal::Operator(_), Who::Admin) => Ok(()),
            (Principal::User(caller), who) => Ok(who.admit(caller)?),
            (Principal::Operator(_), _) => Err(Error::WrongAudience("user").into()),
            (Principal::Anyone { .. }, _) => Err(Error::Unauthenticated.into()),
        }
    }

    /// Counts a request against a rate limit. Commands on the server are not limited: they could write to the
    /// database themselves.
    ///
    /// # Errors
    /// The limit is reached.
    pub async fn count(&self, app: &App, class: Option<RateClass>) -> Result<(), Problem> {
        match (self, class) {
            (Principal::User(caller), Some(class)) => {
                Ok(app.limits.count_call(caller, class).await?)
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// There is no token.
    pub fn caller(&self) -> Result<&Caller, Problem> {
        match self {
            Principal::User(caller) => Ok(caller),
            Principal::Operator(_) => Err(Error::WrongAudience("user").into()),
            Principal::Anyone { .. } => Err(Error::Unauthenticated.into()),
        }
    }

    /// The principal as an administrator.
    ///
    /// # Errors
    /// It is no administrator.
    pub fn administrator(&self) -> Result<By, Problem> {
        match self {
            Principal::User(caller) => Ok(caller.administrator()?),
            Principal::Operator(by) => Ok(by.clone()),
            Principal::Anyone { .. } => Err(Error::Unauthenticated.into()),
        }
    }
}
