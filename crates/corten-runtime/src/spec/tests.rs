//! Tests of `spec`.

use super::*;

#[test]
fn capabilities_follow_docker() {
    let list = |add: &[&str], drop: &[&str]| {
        let own = |l: &[&str]| l.iter().map(ToString::to_string).collect::<Vec<_>>();
        capabilities(&own(add), &own(drop), false).map(|l| l.join(" "))
    };
    assert_eq!(list(&["NET_ADMIN"], &["ALL"]).unwrap(), "CAP_NET_ADMIN");
    assert_eq!(list(&[], &["all"]).unwrap(), "");
    assert_eq!(list(&["cap_chown"], &[]).unwrap().split(' ').count(), 14);
    assert_eq!(list(&["ALL"], &["SYS_ADMIN"]).unwrap().split(' ').count(), ALL_CAPABILITIES.len() - 1);
    assert_eq!(
        list(&["NOPE"], &[]).unwrap_err().to_string(),
        r#"invalid CapAdd: unknown capability: "CAP_NOPE""#
    );
}

#[test]
fn device_rules() {
    let rule = parse_device_rule("c 1:* rw").unwrap();
    assert_eq!((rule.major, rule.minor, rule.access.as_str()), (Some(1), Some(-1), "rw"));
    for bad in ["", "c", "x 1:2 r", "c 1 r", "c 1:2 q", "c 1:2 r x", "c 1:2 rwmr"] {
        assert!(parse_device_rule(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_user_mount_replaces_the_default_of_its_place() {
    let shm = Mount { destination: "/dev/shm".into(), fstype: "tmpfs".into(), ..Mount::default() };
    let sys = Mount { destination: "/sys".into(), fstype: "bind".into(), ..Mount::default() };
    let built = build(SpecInput { mounts: vec![shm, sys], ..SpecInput::default() }).unwrap();
    let places: Vec<_> = built.spec.mounts.iter().map(|m| m.destination.to_str().unwrap()).collect();
    assert_eq!(places, ["/sys", "/proc", "/dev", "/dev/pts", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm"]);
}

#[test]
fn privileged_means_everything() {
    let built = build(SpecInput { privileged: true, ..SpecInput::default() }).unwrap();
    let linux = built.spec.linux.unwrap();
    assert!(!built.default_seccomp && linux.masked_paths.is_empty() && linux.readonly_paths.is_empty());
    assert!(linux.devices.iter().any(|d| d.path == std::path::Path::new("/dev/null")));
    assert_eq!(linux.resources.unwrap().devices.len(), 1);
}
