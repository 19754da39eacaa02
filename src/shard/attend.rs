//! Waits for somebody else than the client: a dial, a look-up, a login. A client that goes meanwhile is noticed, and what
//! waits for it is given up.
//!
//! Nearly all such waits are over at once, and cost a timer on the wheel. Only one that lasts looks at the client.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::session::Outcome;
use crate::ring::{Ring, Socket};
use crate::types::{Blame, Reason};

/// How long a wait may take before anybody asks whether the client is still there.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between two looks at a client that says no more, as no event would tell of its reset.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Waits for `wait`, or until `gone` tells that the client has gone. (By reference: an async fn keeps room for its
/// arguments as long as it lives.)
///
/// # Errors
/// What `gone` says.
pub(super) async fn attended<T, G: Future<Output = Outcome>>(
    ring: &Ring,
    mut wait: Pin<&mut impl Future<Output = T>>,
    gone: impl FnOnce() -> G,
) -> Result<T, Outcome> {
    let mut patience = None;
    let waited = poll_fn(|context| match wait.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => patience.get_or_insert_with(|| ring.timer(PATIENCE)).poll(context).map(|()| None),
    });
    if let Some(output) = waited.await {
        return Ok(output);
    }
    drop(patience);
    // In a box that nearly nobody needs.
    let mut gone = Box::pin(gone());
    poll_fn(|context| match wait.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => gone.as_mut().poll(context).map(Err),
    })
    .await
}

/// Waits until the client's connection is broken. One that only says no more waits for its answer.
pub(super) async fn broken(ring: &Ring, client: &Socket) -> Outcome {
    loop {
        // A FIN is reported as well, asked for or not.
        let seen = client.readiness(0).await.unwrap_or(libc::POLLERR as u32) as i16;
        if seen & (libc::POLLERR | libc::POLLHUP) != 0 {
            // TCP hangs up on who has said no more only when it is reset; the error may have gone to a receive.
            let is_unix = client.options().local_addr().is_ok_and(|address| address.is_unix());
            let reason = if is_unix && seen & libc::POLLERR == 0 { Reason::ClientGone } else { Reason::Reset };
            return Outcome::failed(reason, Blame::Client);
        }
        ring.sleep(LOOK_AGAIN).await;
    }
}
