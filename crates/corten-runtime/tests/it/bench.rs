//! Times, printed for whoever looks; the limits are generous, they only catch accidents.

use std::time::{Duration, Instant};

use corten_runtime::spec::Ns;

use crate::harness::{Fixture, privileged};

#[test]
fn start_to_exit() {
    if !privileged() {
        return;
    }
    let _fast = corten_runtime::cgroup::FastJoins::on();
    let mut times: Vec<(Duration, Duration)> = (0..20)
        .map(|_| {
            // In production the network namespace is made beforehand.
            let b = Fixture::with(&["true"], |i| i.namespaces.network = Ns::Host);
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
    let b = Fixture::new(&["sh", "-c", &format!("yes {line} | head -n 1000000")]);
    let begin = Instant::now();
    let (shim, _) = b.start().unwrap();
    assert_eq!(b.exit().code, 0);
    println!("1,000,000 lines of 100 bytes: {:?}", begin.elapsed());
    shim.ack();
    let size = std::fs::metadata(b.base.join("log")).unwrap().len();
    assert!(size > 150_000_000, "{size}");
}

/// Private memory of one shim; the limit holds for the optimised static program, named by CORTEN_TEST_RUNTIME.
#[test]
fn memory_of_a_shim() {
    if !privileged() {
        return;
    }
    // A second one, because the program's own pages are shared as soon as there are two.
    let other = Fixture::new(&["sleep", "60"]);
    other.start().unwrap();
    let b = Fixture::new(&["sleep", "60"]);
    let (shim, started) = b.start().unwrap();
    shim.state().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", started.pid)).unwrap();
    let parent = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let rollup = std::fs::read_to_string(format!("/proc/{parent}/smaps_rollup")).unwrap();
    let kib = |key: &str| -> u64 {
        let line = rollup.lines().find(|l| l.starts_with(key)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let private = kib("Private_Clean:") + kib("Private_Dirty:");
    let (dirty, resident) = (kib("Private_Dirty:"), kib("Rss:"));
    println!("private memory of the shim: {private} KiB ({dirty} dirty), resident {resident} KiB");
    if std::env::var_os("CORTEN_TEST_RUNTIME").is_some() {
        assert!(private < 1024);
    }
    shim.kill(9, false).unwrap();
    b.exit();
    shim.ack();
}
