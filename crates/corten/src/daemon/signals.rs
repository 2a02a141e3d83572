//! Signals as futures.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Resolves when we are asked to end.
pub(crate) async fn ended() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// SIGHUP.
pub(crate) fn reload() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}
