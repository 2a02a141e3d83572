//! Tests of `cgroup`.

use super::*;
use corten_wire::oci_runtime::{Linux, Memory, Pids};

#[test]
fn mounts_of_a_hybrid_machine() {
    let text = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
34 30 0:27 /docker/x /sys/fs/cgroup/bound rw - cgroup cgroup rw,cpu,cpuacct
";
    let parse = |count| parse_mounts(text.lines().map(str::to_owned), count, Path::new("docker/y"));
    assert_eq!(parse(2).len(), 2);
    let all = parse(9);
    let names: Vec<_> = all.iter().map(|h| (h.name.as_str(), h.controllers.len(), h.unified)).collect();
    assert_eq!(names, [("cpu,cpuacct", 2, false), ("systemd", 0, false), ("unified", 0, true)]);
    assert_eq!(all[0].group, Path::new("/sys/fs/cgroup/cpu,cpuacct/docker/y"));
    let group = Cgroup { hierarchies: all, relative: "docker/y".into(), unit: None };
    assert!(!group.is_v2());
    assert_eq!(group.v1_links().collect::<Vec<_>>(), [("cpu", "cpu,cpuacct"), ("cpuacct", "cpu,cpuacct")]);
}

#[test]
fn climbing_paths_stay_below_the_root() {
    let group = Cgroup::at(Path::new("/../../corten-x/../y")).unwrap();
    assert_eq!(group.path(), Path::new("/corten-x/y"));
}

#[test]
fn a_group_lives_and_dies() {
    let path = format!("/corten-test/{}", std::process::id());
    let group = Cgroup::at(Path::new(&path)).unwrap();
    let resources = Resources {
        memory: Some(Memory { limit: Some(64 << 20), swap: Some(128 << 20), ..Memory::default() }),
        pids: Some(Pids { limit: 33 }),
        ..Resources::default()
    };
    let linux = Linux { resources: Some(resources), ..Linux::default() };
    drop(group.create(&Spec { linux: Some(linux), ..Spec::default() }).unwrap());
    let stats = group.stats();
    assert_eq!((stats.memory.limit, stats.pids.limit), (64 << 20, 33));
    // Down, then up again over the old sum of memory and swap.
    for limit in [32i64 << 20, 512 << 20] {
        let memory = Some(Memory { limit: Some(limit), swap: Some(limit), ..Memory::default() });
        group.update(&Resources { memory, ..Resources::default() }).unwrap();
        assert_eq!(group.stats().memory.limit, limit as u64);
    }
    assert!(group.oom_events().is_some());
    assert_eq!(group.oom_kills(), 0);
    group.destroy().unwrap();
    group.destroy().unwrap();
    for h in &group.hierarchies {
        assert!(!h.group.exists());
        fs::remove_dir(h.group.parent().unwrap()).ok();
    }
}
