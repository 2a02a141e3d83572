//! `cargo xtask bench raw`: what a runtime adds to a container, on one bundle, against a floor.
//!
//! The floor is `floor.c`: the same namespaces, /proc, `pivot_root`, the program, and nothing else. Runtimes take
//! turns, on two bundles: one that asks for what the floor does, and the one that `spec` makes, with seven mounts and
//! twenty hidden or read-only paths. Control groups are measured apart.
//!
//! What ours takes beyond the floor is the start of its own program (half of it the C library asking the processor what
//! it is), reading the configuration, the record of the container, and page faults after the clone; with the second
//! bundle the mounts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::measure::{machine, median_ms};

/// Runs the measurement: `raw [RUNS]`. `None` if that is not what was asked for.
pub fn program(args: &[String]) -> Option<Result<()>> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["raw"] => Some(inside("101")),
        ["raw", runs] => Some(inside(runs)),
        ["__raw", runs] => Some(runs.parse().context("RUNS is a number").and_then(run)),
        _ => None,
    }
}

/// Runs the measurement where only the second version of control groups is mounted: crun has no other in common with
/// us on a hybrid machine, and ours is measured where nothing of the first version waits for the kernel. Runtimes have
/// their state in memory, as wherever systemd runs.
fn inside(runs: &str) -> Result<()> {
    let script = "umount -R -l /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup && \
                  mount -t tmpfs tmpfs /run && exec \"$0\" __raw \"$1\"";
    let own = std::env::current_exe()?;
    let status = Command::new("unshare").args(["-m", "sh", "-c", script]).arg(own).arg(runs).status()?;
    if status.success() { Ok(()) } else { bail!("the measurement failed") }
}

/// A way to run the bundle.
struct Way {
    name: &'static str,
    command: Vec<String>,
}

impl Way {
    fn once(&self, id: usize) -> Result<Duration> {
        let words = self.command.iter().map(|w| w.replace("ID", &format!("raw{id}")));
        let words: Vec<String> = words.collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        let begin = Instant::now();
        let status = command.status().with_context(|| words.join(" "))?;
        let took = begin.elapsed();
        if status.success() { Ok(took) } else { bail!("{}: {status}", words.join(" ")) }
    }
}

fn run(runs: usize) -> Result<()> {
    let place = std::env::temp_dir().join(format!("corten-raw-{}", std::process::id()));
    let outcome = prepare(&place).and_then(|ours| measure(&place, &ours, runs));
    std::fs::remove_dir_all(&place).ok();
    outcome
}

/// Makes the bundle and the floor; the path of our runtime.
fn prepare(place: &Path) -> Result<PathBuf> {
    let root = place.join("rootfs");
    for dir in ["bin", "dev", "proc"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox is needed")?;
    std::os::unix::fs::symlink("busybox", root.join("bin/true"))?;
    let bin =
        std::env::var_os("CORTEN_BIN_DIR").context("CORTEN_BIN_DIR names the directory of the programs")?;
    let ours = PathBuf::from(bin).join("corten-runtime");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("floor.c");
    let made =
        Command::new("cc").args(["-O2", "-static", "-o"]).arg(place.join("floor")).arg(source).status()?;
    if !made.success() {
        bail!("the floor was not compiled");
    }
    let spec = Command::new(&ours).args(["oci", "spec", "--bundle"]).arg(place).status()?;
    if !spec.success() {
        bail!("no configuration was made");
    }
    let file = place.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    config["process"]["args"] = json!(["/bin/true"]);
    config["process"]["terminal"] = json!(false);
    // Every runtime on Debian takes this version.
    config["ociVersion"] = json!("1.0.2");
    std::fs::write(file, config.to_string())?;
    let small = place.join("small");
    std::fs::create_dir(&small)?;
    config["root"] = json!({ "path": root });
    let mounts = config["mounts"].as_array_mut().context("mounts")?;
    mounts.retain(|m| m["destination"] == "/proc");
    for paths in ["maskedPaths", "readonlyPaths"] {
        config["linux"].as_object_mut().context("linux")?.remove(paths);
    }
    std::fs::write(small.join("config.json"), config.to_string())?;
    Ok(ours)
}

fn measure(place: &Path, ours: &Path, runs: usize) -> Result<()> {
    let at = |name: &str| place.join(name).display().to_string();
    let way = |name, words: &[&str]| Way { name, command: words.iter().map(|w| (*w).to_owned()).collect() };
    // Where runtimes have their state by default: in memory.
    let state = PathBuf::from("/run").join(place.file_name().unwrap_or_default());
    let (ours, bundle) = (ours.display().to_string(), place.display().to_string());
    let kept = state.clone();
    let state = state.display().to_string();
    println!("machine: {}", machine());
    let small = at("small");
    for (title, bundle) in [("what the floor does", &small), ("the bundle of `spec`", &bundle)] {
        let run = ["--root", &state, "--cgroup-manager=disabled", "run", "-b", bundle, "ID"];
        let without = [
            way("floor", &[&at("floor"), &at("rootfs"), "/bin/true"]),
            way("corten-runtime", &[&[&ours, "oci"], &run[..]].concat()),
            way("crun", &[&["crun"], &run[..]].concat()),
        ];
        table(title, &without, runs);
    }
    let with = [
        way("corten-runtime", &[&ours, "oci", "--root", &state, "run", "-b", &bundle, "ID"]),
        way("runc", &["runc", "--root", &state, "run", "-b", &bundle, "ID"]),
        way("crun", &["crun", "--root", &state, "run", "-b", &bundle, "ID"]),
    ];
    table("that bundle with control groups", &with, runs);
    std::fs::remove_dir_all(kept).ok();
    Ok(())
}

/// Lets the ways take turns and prints a row for each.
fn table(title: &str, ways: &[Way], runs: usize) {
    let mut samples = vec![Vec::with_capacity(runs); ways.len()];
    let mut failed = vec![None; ways.len()];
    for id in 0..runs + 2 {
        for (i, way) in ways.iter().enumerate().filter(|(i, _)| failed[*i].is_none()).collect::<Vec<_>>() {
            // The kernel takes a network namespace apart behind everybody's back, and lets nobody make one meanwhile:
            // without a pause each way would pay for the one before it.
            std::thread::sleep(Duration::from_millis(50));
            match way.once(id) {
                // The first two are for the caches.
                Ok(took) if id >= 2 => samples[i].push(took),
                Ok(_) => {}
                Err(e) => failed[i] = Some(format!("{e:#}")),
            }
        }
    }
    println!("\n| {title} | median of {runs} | to the first |\n|---|---|---|");
    let first = median_ms(samples[0].clone()).unwrap_or(f64::NAN);
    for (i, way) in ways.iter().enumerate() {
        match (&failed[i], median_ms(samples[i].clone())) {
            (None, Some(ms)) => println!("| {} | {ms:.2} ms | × {:.2} |", way.name, ms / first),
            (why, _) => println!("| {} | {} | – |", way.name, why.as_deref().unwrap_or("not measured")),
        }
    }
}
