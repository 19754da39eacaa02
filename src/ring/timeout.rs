//! A future with a deadline.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::Timer;

pin_project! {
    /// Made by [`super::Ring::timeout`]. A future by hand: an async fn would keep room for the one inside twice, as its
    /// argument and where it is polled.
    #[must_use = "futures do nothing unless polled"]
    pub struct Timeout<F> {
        timer: Timer,
        #[pin]
        future: F,
    }
}

impl<F> Timeout<F> {
    pub(super) fn new(timer: Timer, future: F) -> Self {
        Self { timer, future }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Some(output));
        }
        this.timer.poll(context).map(|()| None)
    }
}
