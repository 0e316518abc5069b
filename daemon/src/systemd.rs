//! What systemd wants to hear. Everything here does nothing without `$NOTIFY_SOCKET`.

use sd_notify::NotifyState;

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// The daemon answers from now on.
pub(crate) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The configuration is read again; [`ready`] follows.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // Both at once: Type=notify-reload wants the time with the word.
        Ok(time) => notify(&[NotifyState::Reloading, time]),
        Err(error) => tracing::warn!(%error, "cannot notify systemd"),
    }
}

/// The daemon ends.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Feeds the watchdog, if the unit has one, from the thread that serves the clients: when that
/// hangs, systemd shall know. Never returns.
pub(crate) async fn feed_watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return std::future::pending().await;
    };
    let mut rhythm = tokio::time::interval(limit / 2);
    loop {
        rhythm.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}
