//! Futures of a connection that may or may not be running.

use futures_util::future::BoxFuture;

pub(super) async fn finished<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}
