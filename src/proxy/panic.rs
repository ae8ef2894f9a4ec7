//! The boundary that keeps a defect inside the connection it happened on: monoio does not catch panics of a task, and
//! one would take the whole core with every tunnel on it.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

/// Runs the future; `None` when it panicked. What it shares with other connections are counters and lists that are
/// consistent between any two of their own calls, so that unwinding in between leaves them whole.
pub(crate) async fn caught<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| {
        if let Ok(polled) = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            return polled.map(Some);
        }
        tracing::error!(
            "a connection was ended by a defect of the proxy; its message is on standard error"
        );
        Poll::Ready(None)
    })
    .await
}
