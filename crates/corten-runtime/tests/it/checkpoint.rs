//! Checkpoint and restore by the OCI command line. Where criu does not work with the kernel, what is said then.
//!
//! `CORTEN_CRIU=works` says that it does: the virtual machine of `cargo xtask cgroup2` is such a place.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Stdio};

use crate::harness::privileged;
use crate::oci::Bundle;

fn works() -> bool {
    std::env::var("CORTEN_CRIU").is_ok_and(|v| v == "works")
}

const COUNT: &str = "n=0; while true; do n=$((n+1)); echo $n; sleep 0.1; done";

/// Starts or restores a container whose standard output we read.
fn begin(bundle: &Bundle, args: &[&str]) -> BufReader<ChildStdout> {
    // Files of ours are none of the container's: criu would refuse them as its streams.
    let log = bundle.path("log");
    let mut command = bundle.oci(&[&["--log", &log], args].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let status = child.wait().unwrap();
    let read = |name: &str| std::fs::read_to_string(bundle.base.join(name)).unwrap_or_default();
    assert!(status.success(), "{args:?}: {status}\n{}\n{}", read("log"), read("images/restore.log"));
    output
}

fn next(output: &mut BufReader<ChildStdout>) -> u32 {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim().parse().unwrap_or_else(|e| panic!("{line:?}: {e}"))
}

fn counter() -> (Bundle, BufReader<ChildStdout>) {
    let bundle = Bundle::new(&["sh", "-c", COUNT]);
    let mut output = begin(&bundle, &["run", "--detach", "-b", &bundle.path("bundle"), &bundle.id]);
    while next(&mut output) < 3 {}
    (bundle, output)
}

/// What was counted when nobody writes any more.
fn last(output: BufReader<ChildStdout>) -> u32 {
    let last = output.lines().last().expect("a line").unwrap();
    last.trim().parse().unwrap_or_else(|e| panic!("{last:?}: {e}"))
}

fn end(bundle: &Bundle) {
    assert_eq!(bundle.say(&["delete", "--force", &bundle.id]), (0, String::new()));
}

#[test]
fn a_counter_goes_on_where_it_was() {
    if !privileged() || !works() {
        return;
    }
    let (bundle, output) = counter();
    let (images, config) = (bundle.path("images"), bundle.path("bundle"));
    let said = bundle.say(&["checkpoint", "--image-path", &images, &bundle.id]);
    let log = std::fs::read_to_string(bundle.base.join("images/dump.log")).unwrap_or_default();
    assert_eq!(said, (0, String::new()), "{log}");
    let gone = bundle.say(&["state", &bundle.id]);
    assert!(gone.0 == 1 && gone.1.contains("container does not exist"), "{gone:?}");
    let last = last(output);

    for _ in 0..2 {
        // The same image twice: a checkpoint is not used up.
        let args = ["restore", "--detach", "--image-path", &images, "-b", &config, &bundle.id];
        let mut output = begin(&bundle, &args);
        // Nothing is said twice, and nothing is lost.
        assert_eq!(next(&mut output), last + 1);
        while next(&mut output) < last + 5 {}
        let state = bundle.state();
        assert_eq!(state["status"], "running");
        assert_eq!(
            bundle.say(&["exec", &bundle.id, "sh", "-c", "echo $$ >/second; cat /proc/1/comm"]).1,
            "sh\n"
        );
        end(&bundle);
    }
}

#[test]
fn one_that_is_left_running_runs_and_pre_dumps_are_parents() {
    if !privileged() || !works() {
        return;
    }
    let (bundle, mut output) = counter();
    let base = bundle.path("pre");
    let said = bundle.say(&["checkpoint", "--pre-dump", "--image-path", &base, &bundle.id]);
    assert_eq!(said, (0, String::new()));
    let images = bundle.path("images");
    let flags = ["--leave-running", "--parent-path", "../pre", "--image-path", &images];
    let said = bundle.say(&[&["checkpoint"], &flags[..], &[&bundle.id]].concat());
    assert_eq!(said, (0, String::new()));
    let now = next(&mut output);
    while next(&mut output) < now + 3 {}
    assert_eq!(bundle.state()["status"], "running");
    end(&bundle);
    // In the foreground: it ends with the program.
    let mut command =
        bundle.oci(&["restore", "--image-path", &images, "-b", &bundle.path("bundle"), &bundle.id]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    while next(&mut output) < now + 3 {}
    assert_eq!(bundle.say(&["kill", &bundle.id, "KILL"]), (0, String::new()));
    assert_eq!(child.wait().unwrap().code(), Some(137));
    assert_eq!(bundle.say(&["state", &bundle.id]).0, 1);
}

#[test]
fn a_container_outlives_a_checkpoint_that_fails() {
    if !privileged() {
        return;
    }
    let (bundle, mut output) = counter();
    let images = bundle.path("images");
    let missing = bundle
        .oci(&["checkpoint", "--image-path", &images, &bundle.id])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&missing.stderr);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text.contains("executable file not found in $PATH"), "{text}");
    if !works() && std::path::Path::new("/usr/sbin/criu").exists() {
        let (code, text) = bundle.say(&["checkpoint", "--image-path", &images, &bundle.id]);
        // An administrator's newer criu may work after all.
        if code != 0 {
            assert!(text.contains("criu failed: ") && text.contains("dump.log"), "{text}");
        } else {
            return;
        }
    }
    let now = next(&mut output);
    while next(&mut output) < now + 3 {}
    for (args, want) in [
        (&["checkpoint", "--lazy-pages"][..], "--lazy-pages is not supported"),
        (&["checkpoint", "--page-server", "x:1"], "--page-server is not supported"),
        (&["checkpoint", "--manage-cgroups-mode", "odd"], "Invalid manage-cgroups-mode value"),
        (&["checkpoint", "--empty-ns", "pid"], "is not supported"),
    ] {
        let (code, text) = bundle.say(&[args, &[&bundle.id]].concat());
        assert!(code == 1 && text.contains(want), "{text}");
    }
    end(&bundle);
    let (code, text) =
        bundle.say(&["restore", "--image-path", &bundle.path("none"), "-b", &bundle.path("bundle"), "r"]);
    assert!(code == 1 && text.contains("/none: no such file or directory"), "{text}");
    assert_eq!(bundle.say(&["state", "r"]).0, 1);
}

#[test]
fn only_what_runs_has_a_checkpoint() {
    if !privileged() {
        return;
    }
    let bundle = Bundle::new(&["true"]);
    bundle.create();
    let (code, text) = bundle.say(&["checkpoint", &bundle.id]);
    assert!(code == 1 && text.contains("Container cannot be checkpointed in created state"), "{text}");
    end(&bundle);
}
