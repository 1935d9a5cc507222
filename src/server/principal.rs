//! Who a request comes from.

use std::net::IpAddr;

use super::{audience::Who, reply::Problem};
use crate::{
    app::{App, By, Caller, Error},
    domain::limits::RateClass,
};

/// Who a request comes from.
#[derive(Clone, Debug)]
pub enum Principal {
    /// Somebody without a token.
    Anyone {
        /// Where.
        peer: IpAddr,
    },
    /// The owner of a token.
    User(Caller),
    /// A command on the server: it may administer without a token, as it can open the database.
    Operator(By),
}

impl Principal {
    /// Whether it may call a route. The only place that decides this for requests.
    ///
    /// # Errors
    /// It has no token, or may not.
    pub fn admit(&self, who: Who) -> Result<(), Problem> {
        match (self, who) {
            (_, Who::Anyone) | (Principal::Operator(_), Who::Admin) => Ok(()),
            (Principal::User(caller), who) => Ok(who.admit(caller)?),
            (Principal::Operator(_), _) => Err(Error::WrongAudience("user").into()),
            (Principal::Anyone { .. }, _) => Err(Error::Unauthenticated.into()),
        }
    }

    /// Counts a request to a route that it may call. A command on the server is not counted: it could write into
    /// the database itself.
    ///
    /// # Errors
    /// It has made as many as it may.
    pub async fn count(&self, app: &App, class: Option<RateClass>) -> Result<(), Problem> {
        match (self, class) {
            (Principal::User(caller), Some(class)) => Ok(app.count_call(caller, class).await?),
            _ => Ok(()),
        }
    }

    /// The owner of the token.
    ///
    /// # Errors
    /// There is none.
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
    /// It is none.
    pub fn administrator(&self) -> Result<By, Problem> {
        match self {
            Principal::User(caller) => Ok(caller.administrator()?),
            Principal::Operator(by) => Ok(by.clone()),
            Principal::Anyone { .. } => Err(Error::Unauthenticated.into()),
        }
    }
}
