//! Wakes readers when files in a directory change: one inotify descriptor for all of them.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Name of the cursor, beside the log: writing it is no news.
pub const CURSOR: &str = "delivered";

#[derive(Debug)]
struct Inner {
    fd: AsyncFd<OwnedFd>,
    watched: Mutex<HashMap<i32, Arc<Notify>>>,
}

/// All watches; the task that reads events ends with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct Watches(Arc<Inner>);

/// A watched directory, until dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    watches: Watches,
    id: i32,
    notify: Arc<Notify>,
}

impl Watches {
    /// Starts the reading task.
    pub(crate) fn start() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd always means the same descriptor")]
        let fd = AsyncFd::new(fd)?;
        let inner = Arc::new(Inner { fd, watched: Mutex::default() });
        tokio::spawn(read(Arc::downgrade(&inner)));
        Ok(Self(inner))
    }

    pub(crate) fn add(&self, directory: &Path) -> io::Result<Watched> {
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        let notify = Arc::new(Notify::new());
        let mut watched = self.0.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let id = inotify::add_watch(self.0.fd.get_ref(), directory, flags)?;
        watched.insert(id, notify.clone());
        drop(watched);
        Ok(Watched { watches: self.clone(), id, notify })
    }
}

impl Watched {
    /// Resolves after the next change, or after one since the last call.
    pub(crate) async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut watched = self.watches.0.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // Another watch of the same directory has the same number.
        if watched.get(&self.id).is_some_and(|n| Arc::ptr_eq(n, &self.notify)) {
            watched.remove(&self.id);
            // With its directory the watch is gone already.
            inotify::remove_watch(self.watches.0.fd.get_ref(), self.id).ok();
        }
    }
}

async fn read(inner: Weak<Inner>) {
    loop {
        // The descriptor stays open while it is waited for; a short wait lets go of it at the end.
        let Some(strong) = inner.upgrade() else { return };
        let ready = tokio::time::timeout(std::time::Duration::from_secs(60), strong.fd.readable()).await;
        let Ok(Ok(mut guard)) = ready else { continue };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(strong.fd.get_ref(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let watched = strong.watched.lock().unwrap_or_else(PoisonError::into_inner);
                    let ours = event.file_name().is_some_and(|n| n.to_bytes() == CURSOR.as_bytes());
                    if event.events().contains(rustix::fs::inotify::ReadFlags::QUEUE_OVERFLOW) {
                        watched.values().for_each(|n| n.notify_one());
                    } else if let Some(notify) = watched.get(&event.wd()).filter(|_| !ours) {
                        notify.notify_one();
                    }
                }
                Err(rustix::io::Errno::AGAIN) => {
                    guard.clear_ready();
                    break;
                }
                Err(_) => break,
            }
        }
    }
}
