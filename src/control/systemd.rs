//! What systemd (or another sd_notify(3) supervisor) is told. Without one, all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// A reload begins; [`ready`] ends it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic time for systemd"),
    }
}

pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

pub(super) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is to be said: twice as often as systemd asks for. `None`: it does not ask.
pub(super) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| (limit / 2).max(Duration::from_millis(1)))
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}
