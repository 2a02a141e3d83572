//! Counters and timings that the daemon shows at `/metrics`: counted where things happen, read in one place.
//!
//! They are the one kind of global state: a number that only grows belongs to nobody, and passing it through every
//! constructor would tell a reader nothing. Counting is one atomic addition.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Upper bounds of a histogram's buckets in seconds, as Prometheus' Go library has them.
pub const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How often something happened.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Once more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something took.
#[derive(Debug)]
pub struct Histogram {
    /// Value of the label `action`.
    pub action: &'static str,
    /// One for each bound, and one for what takes longer; not cumulative.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_ns: AtomicU64,
}

/// Measures until it is dropped.
#[derive(Debug)]
pub struct Timer {
    histogram: &'static Histogram,
    begin: Instant,
}

impl Drop for Timer {
    fn drop(&mut self) {
        let elapsed = self.begin.elapsed();
        let seconds = elapsed.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.histogram.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

impl Histogram {
    const fn new(action: &'static str) -> Self {
        Self { action, buckets: [const { AtomicU64::new(0) }; BOUNDS.len() + 1], sum_ns: AtomicU64::new(0) }
    }

    /// Begins to measure.
    #[must_use]
    pub fn timer(&'static self) -> Timer {
        Timer { histogram: self, begin: Instant::now() }
    }

    /// Cumulative counts for each of [`BOUNDS`] and for infinity; the sum in seconds.
    #[must_use]
    pub fn read(&self) -> ([u64; BOUNDS.len() + 1], f64) {
        let mut total = 0;
        let counts = std::array::from_fn(|n| {
            total += self.buckets[n].load(Ordering::Relaxed);
            total
        });
        #[expect(clippy::cast_precision_loss, reason = "a sum of times needs no more than 53 bits")]
        let sum = self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
        (counts, sum)
    }
}

/// Events published.
pub static EVENTS: Counter = Counter::new();
/// Health checks run.
pub static HEALTH_CHECKS: Counter = Counter::new();
/// Health checks that failed.
pub static HEALTH_CHECKS_FAILED: Counter = Counter::new();
/// Builds begun.
pub static BUILDS: Counter = Counter::new();
/// Builds that failed.
pub static BUILDS_FAILED: Counter = Counter::new();

/// Listing a container's changes.
pub static CONTAINER_CHANGES: Histogram = Histogram::new("changes");
/// Making an image of a container.
pub static CONTAINER_COMMIT: Histogram = Histogram::new("commit");
/// Making a container.
pub static CONTAINER_CREATE: Histogram = Histogram::new("create");
/// Removing a container.
pub static CONTAINER_DELETE: Histogram = Histogram::new("delete");
/// Starting a container.
pub static CONTAINER_START: Histogram = Histogram::new("start");
/// All of them.
pub static CONTAINER_ACTIONS: [&Histogram; 5] =
    [&CONTAINER_CHANGES, &CONTAINER_COMMIT, &CONTAINER_CREATE, &CONTAINER_DELETE, &CONTAINER_START];

/// A container's networks at its start.
pub static NETWORK_ALLOCATE: Histogram = Histogram::new("allocate");
/// Connecting a running container.
pub static NETWORK_CONNECT: Histogram = Histogram::new("connect");
/// Taking a container's networks away.
pub static NETWORK_RELEASE: Histogram = Histogram::new("release");
/// All of them.
pub static NETWORK_ACTIONS: [&Histogram; 3] = [&NETWORK_ALLOCATE, &NETWORK_CONNECT, &NETWORK_RELEASE];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_are_counted_cumulatively() {
        static TIMES: Histogram = Histogram::new("test");
        drop(TIMES.timer());
        drop(Timer { histogram: &TIMES, begin: Instant::now() - std::time::Duration::from_secs(3) });
        let (counts, sum) = TIMES.read();
        assert_eq!((counts[0], counts[8], counts[9], counts[11]), (1, 1, 2, 2));
        assert!((3.0..4.0).contains(&sum), "{sum}");
    }
}
