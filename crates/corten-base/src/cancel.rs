//! A cancellation flag that sync code polls between effects and async code can wait for.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// Shared by the one who asks for a long operation and the one who does it. Clones are the same flag.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    set: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Cancel {
    /// A flag that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag and wakes those who wait for it.
    pub fn cancel(&self) {
        self.inner.set.store(true, Ordering::Release);
        for waker in std::mem::take(&mut *self.inner.wakers.lock().unwrap_or_else(PoisonError::into_inner)) {
            waker.wake();
        }
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.inner.set.load(Ordering::Acquire)
    }

    /// Resolves once the flag is set.
    #[must_use]
    pub fn cancelled(&self) -> Cancelled {
        Cancelled { flag: self.clone() }
    }

    /// A guard that sets the flag when dropped: tie it to the life of a request.
    #[must_use]
    pub fn on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }
}

/// Future of [`Cancel::cancelled`].
#[derive(Debug)]
pub struct Cancelled {
    flag: Cancel,
}

impl Future for Cancelled {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.flag.is_cancelled() {
            return Poll::Ready(());
        }
        let mut wakers = self.flag.inner.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|w| w.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
        // The flag may have been set between the first look and taking the lock.
        if self.flag.is_cancelled() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Sets its flag when dropped.
#[derive(Debug)]
pub struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
