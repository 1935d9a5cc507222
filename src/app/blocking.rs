//! Work that takes long, where it delays no other request: while one thread of the runtime parses, renders or hashes
//! a large document, its other tasks go on on another thread.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};

/// Documents up to this many bytes, and so every page, are processed on the thread that has them: they take about a
/// millisecond. A change of threads would cost as much, and each added thread keeps a heap of its own.
pub const MAX_INLINE_LEN: usize = 320 * 1024;

/// Does work on a document of this many bytes.
pub fn run_blocking<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > MAX_INLINE_LEN && has_threads() { block_in_place(work) } else { work() }
}

/// Whether the runtime has another thread.
fn has_threads() -> bool {
    let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
    flavor.is_ok_and(|flavor| flavor == RuntimeFlavor::MultiThread)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn it_is_done_wherever_it_is_asked_for() {
        assert_eq!(run_blocking(MAX_INLINE_LEN + 1, || 1), 1, "without a runtime");
        let one = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(one.block_on(async { run_blocking(MAX_INLINE_LEN + 1, || 2) }), 2);
    }

    #[test]
    fn tasks_of_the_same_thread_go_on_meanwhile() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let done = runtime.block_on(async {
            tokio::spawn(async {
                let (told, heard) = mpsc::channel();
                tokio::spawn(async move { told.send(()) });
                run_blocking(MAX_INLINE_LEN + 1, || {
                    heard.recv_timeout(std::time::Duration::from_secs(10))
                })
            })
            .await
        });
        done.unwrap().unwrap();
    }
}
