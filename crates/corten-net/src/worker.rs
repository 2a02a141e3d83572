//! A thread that waits for sockets and for orders; dropping its handle ends it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};

use rustix::event::EventfdFlags;

/// The handle.
#[derive(Debug)]
pub(crate) struct Worker<O> {
    orders: Option<Sender<O>>,
    wake: Arc<OwnedFd>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// The thread's end: `wake` is readable when there are orders, or when there will be none any more.
#[derive(Debug)]
pub(crate) struct Orders<O> {
    queue: Receiver<O>,
    pub(crate) wake: Arc<OwnedFd>,
}

impl<O: Send + 'static> Worker<O> {
    /// Starts the thread that `prepare` makes ready on the calling one.
    pub(crate) fn start<F: FnOnce() + Send + 'static>(
        name: &str,
        prepare: impl FnOnce(Orders<O>) -> io::Result<F>,
    ) -> io::Result<Self> {
        let wake = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (orders, queue) = mpsc::channel();
        let run = prepare(Orders { queue, wake: Arc::clone(&wake) })?;
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(256 * 1024).spawn(run)?;
        Ok(Self { orders: Some(orders), wake, thread: Some(thread) })
    }

    /// Tells the thread; fails if it has ended.
    pub(crate) fn order(&self, order: O) -> io::Result<()> {
        let orders = self.orders.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        orders.send(order).map_err(|_| io::ErrorKind::BrokenPipe)?;
        rustix::io::write(&self.wake, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

impl<O> Orders<O> {
    /// After `wake` became readable.
    pub(crate) fn woken(&self) {
        // EAGAIN: somebody else's wake-up was read with an earlier one.
        let _ = rustix::io::read(&*self.wake, &mut [0u8; 8]);
    }

    /// The next order.
    pub(crate) fn next(&self) -> Result<O, TryRecvError> {
        self.queue.try_recv()
    }
}

impl<O> Drop for Worker<O> {
    fn drop(&mut self) {
        self.orders = None;
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
