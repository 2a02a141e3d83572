//! Times, printed for whoever looks; the limits are generous, they only catch accidents.

use std::time::{Duration, Instant};

use corten_runtime::spec::Ns;

use crate::harness::{Box1, privileged};

#[test]
fn start_to_exit() {
    if !privileged() {
        return;
    }
    let mut times: Vec<(Duration, Duration)> = (0..20)
        .map(|_| {
            // In production the network namespace is made beforehand.
            let b = Box1::with(&["true"], |i| i.namespaces.network = Ns::Host);
            let begin = Instant::now();
            let (shim, _) = b.start().unwrap();
            let started = begin.elapsed();
            b.exit();
            let done = begin.elapsed();
            shim.ack();
            (started, done)
        })
        .collect();
    times.sort_by_key(|t| t.1);
    let (started, done) = times[times.len() / 2];
    println!("started {started:?}, exit known {done:?} (median), best {:?}", times[0].1);
    assert!(done < Duration::from_millis(200));
}

#[test]
fn log_throughput() {
    if !privileged() {
        return;
    }
    let line = "x".repeat(99);
    let b = Box1::new(&["sh", "-c", &format!("yes {line} | head -n 1000000")]);
    let begin = Instant::now();
    let (shim, _) = b.start().unwrap();
    assert_eq!(b.exit().code, 0);
    println!("1,000,000 lines of 100 bytes: {:?}", begin.elapsed());
    shim.ack();
    let size = std::fs::metadata(b.base.join("log")).unwrap().len();
    assert!(size > 150_000_000, "{size}");
}
