//! After a daemon is gone, nothing of it may remain: no process, mount, cgroup or file outside its data root.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is still there, one line each. Teardown behind the scenes (network namespaces, cgroups) gets 5 seconds.
#[must_use]
pub fn check(dir: &Path, container_ids: &[String]) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let found = find(dir, container_ids);
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Unmounts what a peer's engine left mounted below `dir`, so that the directory can go.
pub fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().rev().filter_map(|l| l.split(' ').nth(1));
    for point in points.filter(|point| Path::new(point).starts_with(dir)) {
        rustix::mount::unmount(point, rustix::mount::UnmountFlags::empty()).ok();
    }
}

fn find(dir: &Path, container_ids: &[String]) -> Vec<String> {
    let needle = dir.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for mount in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        if mount.contains(&needle) {
            found.push(format!("mount: {mount}"));
        }
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|b| b.is_ascii_digit()) || name == std::process::id().to_string() {
            continue;
        }
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let ours = command.contains(&needle)
            || container_ids.iter().any(|id| command.contains(id.as_str()) || cgroup.contains(id.as_str()));
        if ours {
            found.push(format!("process {name}: {command}"));
        }
    }
    for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        for id in container_ids {
            if controller.path().join("docker").join(id).exists() {
                found.push(format!("cgroup: {}/docker/{id}", controller.path().display()));
            }
        }
    }
    for (what, sub) in [
        ("container files", "exec/containers"),
        ("network namespace", "exec/netns"),
        ("container data", "data/containers"),
    ] {
        for entry in fs::read_dir(dir.join(sub)).into_iter().flatten().flatten() {
            // Namespaces that the daemon keeps ready for the next container go with the daemon's own.
            found.push(format!("{what}: {}", entry.path().display()));
        }
    }
    found
}
