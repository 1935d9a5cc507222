//! The admin API without a socket, for commands that open the database themselves. Same routes and responses,
//! so a command does the same wherever it runs.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use http_body_util::BodyExt as _;
use serde_json::Value;
use warp::{filters::BoxedFilter, reply::Response};

use super::{
    Readiness,
    budget::{Budget, BudgetLimits},
    context::{RequestContext, SharedContext},
    dispatch, pagination,
    principal::Principal,
    reply::Problem,
};
use crate::app::{App, By};

/// Cheap to clone.
#[derive(Clone)]
pub struct InProcessClient {
    app: App,
    filter: BoxedFilter<(Response,)>,
}

impl InProcessClient {
    pub fn new(app: App) -> InProcessClient {
        InProcessClient { app, filter: dispatch::filter() }
    }

    /// Sends a request as the operator who runs the command. Returns the status and the JSON body; null without
    /// one.
    pub async fn ask(
        &self,
        by: By,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let (status, body) = self.ask_streamed(by, method, path, body).await;
        (status, body.json().await)
    }

    /// The same for a response that is streamed.
    pub async fn ask_streamed(
        &self,
        by: By,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, ResponseChunks) {
        let (Ok(method), Ok(uri)) = (Method::from_bytes(method.as_bytes()), path.parse::<Uri>())
        else {
            return (400, ResponseChunks { response: Response::default() });
        };
        let response = self.answer(by, method, &uri, body).await;
        let response = response.unwrap_or_else(Problem::into_response);
        (response.status().as_u16(), ResponseChunks { response })
    }

    async fn answer(
        &self,
        by: By,
        method: Method,
        uri: &Uri,
        body: Option<&Value>,
    ) -> Result<Response, Problem> {
        let (route, captured) = match dispatch::route_at(&method, uri.path()) {
            Ok(found) => found,
            Err(none) => return Ok(none.into_response()),
        };
        let principal = Principal::Operator(by);
        principal.admit(route.who)?;
        let query = uri.query().unwrap_or_default().to_owned();
        dispatch::check_query(route, &query)?;
        let context: SharedContext = Arc::new(RequestContext {
            app: self.app.clone(),
            readiness: Readiness::default(),
            reserved: Budget::new(BudgetLimits::BODIES).of(&principal),
            page_room: pagination::MAX_PAGE_LEN,
            principal,
            peer: None,
            is_legacy: route.is_legacy,
            route: format!("{method} {}", uri.path()),
            query,
            headers: HeaderMap::new(),
            body: body.map_or_else(Bytes::new, |body| body.to_string().into()),
            stream: Mutex::default(),
            came: std::time::Instant::now(),
        });
        Ok(dispatch::answer(self.filter.clone(), route, captured, context).await)
    }
}

/// A response body in chunks.
pub struct ResponseChunks {
    response: Response,
}

/// The response ended early. The log has the cause.
#[derive(Debug, thiserror::Error)]
#[error("the response is incomplete")]
pub struct TruncatedResponse;

impl ResponseChunks {
    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// [`TruncatedResponse`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, TruncatedResponse> {
        while let Some(frame) = self.response.body_mut().frame().await {
            if let Ok(data) = frame.map_err(|_| TruncatedResponse)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The whole body as JSON; null if it is none.
    pub async fn json(self) -> Value {
        let body = self.response.into_body().collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        serde_json::from_slice(&body).unwrap_or_default()
    }
}
