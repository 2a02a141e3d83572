//! A day in the life: eight clients do what comes to their minds while the daemon is killed every 20 seconds.
//!
//! Every client keeps a model of its containers. What the daemon answered must be true from then on, over every
//! crash; what it had no time to answer may have happened or not, and which of the two is settled by the next
//! look. At the end everything is removed, and nothing may remain: no file descriptor, link, firewall element,
//! snapshot, mount, control group or process.
//!
//! `CORTEN_SOAK_SECONDS` sets the length (30 unless told; `cargo xtask soak` runs ten minutes).

mod client;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use corten_testkit::Daemon;

use client::Client;
use world::{Footprint, World};

const CLIENTS: u64 = 8;
const BETWEEN_KILLS: Duration = Duration::from_secs(20);

fn length() -> Duration {
    let seconds = std::env::var("CORTEN_SOAK_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(30);
    Duration::from_secs(seconds)
}

#[test]
fn a_day_in_the_life() {
    let mut daemon = Daemon::start();
    let length = length();
    let seed = std::env::var("CORTEN_SOAK_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_secs())
    });
    println!("soak: {} s, CORTEN_SOAK_SEED={seed}", length.as_secs());
    let world = Arc::new(World::new(&daemon));
    let before = Footprint::settled(&daemon);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|k| {
            let world = Arc::clone(&world);
            std::thread::spawn(move || Client::new(world, k, seed + k).live())
        })
        .collect();
    let end = Instant::now() + length;
    let mut kills = 0;
    while Instant::now() < end && world.problems().is_empty() {
        // A short soak has its kills too.
        let pause = BETWEEN_KILLS.min(length / 4);
        std::thread::sleep(pause.min(end.saturating_duration_since(Instant::now())));
        daemon.kill();
        std::thread::sleep(Duration::from_millis(200));
        daemon.restart();
        kills += 1;
    }
    world.finish();
    for client in clients {
        client.join().expect("a client never panics");
    }
    let after = Footprint::settled(&daemon);
    println!("soak: {} operations, {kills} kills; before {before:?}, after {after:?}", world.operations());
    let mut problems = world.problems();
    problems.extend(before.compare(&after));
    assert!(problems.is_empty(), "{}\nlog of the daemon:\n{}", problems.join("\n"), tail(&daemon.log()));
    assert!(world.operations() > 100, "only {} operations", world.operations());
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
