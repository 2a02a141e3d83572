//! Facts that travel upwards: every owner publishes what happened on one bus, the API streams it.
//!
//! ```text
//!   image, engine, … ──publish──▶ Bus ──▶ ring of the last 1024 (GET /events?since=)
//!                                     └──▶ each Subscription's own bounded queue
//! ```
//! A subscriber that does not read loses its oldest events; publishers never wait.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

const RING: usize = 1024;
const QUEUE: usize = 4096;

/// One thing that happened, in Docker's words (`container`/`die`, `image`/`tag`, …).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `container`, `image`, `network`, `volume`, `daemon`, `builder`.
    pub kind: &'static str,
    /// `create`, `start`, `exec_create: sh -c true`, …
    pub action: String,
    /// Id of the object: container and network ids, image references or ids, volume names.
    pub actor: String,
    /// Docker's attributes of this action, labels included.
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since the epoch; set by [`Bus::publish`].
    pub time_ns: i128,
}

/// Where events are published and read. Clones share one ring.
#[derive(Debug, Clone, Default)]
pub struct Bus {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    ring: VecDeque<Arc<Event>>,
    subscribers: Vec<Weak<Mutex<Queue>>>,
    last_ns: i128,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Arc<Event>>,
    waker: Option<Waker>,
}

impl Bus {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells everyone. Times on one bus strictly increase, so that `since` never repeats an event.
    pub fn publish(
        &self,
        kind: &'static str,
        action: impl Into<String>,
        actor: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        crate::metrics::EVENTS.add();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let time_ns = crate::time::now_ns().max(inner.last_ns + 1);
        inner.last_ns = time_ns;
        let event = Arc::new(Event { kind, action: action.into(), actor: actor.into(), attributes, time_ns });
        if inner.ring.len() == RING {
            inner.ring.pop_front();
        }
        inner.ring.push_back(Arc::clone(&event));
        inner.subscribers.retain(|weak| {
            let Some(queue) = weak.upgrade() else { return false };
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.events.len() == QUEUE {
                queue.events.pop_front();
            }
            queue.events.push_back(Arc::clone(&event));
            if let Some(waker) = queue.waker.take() {
                waker.wake();
            }
            true
        });
    }

    /// The remembered events and a subscription that continues exactly after them.
    #[must_use]
    pub fn subscribe(&self) -> (Vec<Arc<Event>>, Subscription) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = Arc::new(Mutex::new(Queue::default()));
        inner.subscribers.push(Arc::downgrade(&queue));
        (inner.ring.iter().cloned().collect(), Subscription { queue })
    }

    /// Number of living subscriptions (`NEventsListener` of `GET /info`).
    #[must_use]
    pub fn subscriber_count(&self) -> usize {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.subscribers.iter().filter(|w| w.strong_count() > 0).count()
    }
}

/// One reader of the bus; dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    queue: Arc<Mutex<Queue>>,
}

impl Subscription {
    /// The next event. Cancel-safe: dropping the future loses nothing.
    pub fn receive(&mut self) -> Receive<'_> {
        Receive { subscription: self }
    }
}

/// Future of [`Subscription::receive`].
#[derive(Debug)]
pub struct Receive<'a> {
    subscription: &'a mut Subscription,
}

impl Future for Receive<'_> {
    type Output = Arc<Event>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Arc<Event>> {
        let mut queue = self.subscription.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
