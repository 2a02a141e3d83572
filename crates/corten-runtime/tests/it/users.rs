//! User and time namespaces, and mounts that show other owners.

use std::os::unix::fs::MetadataExt;

use corten_wire::oci_runtime::{IdMapping, Mount};
use serde_json::json;

use crate::harness::{Fixture, privileged};
use crate::oci::Bundle;

const OUTSIDE: u32 = 200_000;

fn mapping() -> Vec<IdMapping> {
    vec![IdMapping { container_id: 0, host_id: OUTSIDE, size: 65_536 }]
}

/// A container of the engine's whose root is nobody outside.
fn remapped(script: &str) -> Fixture {
    Fixture::with(&["sh", "-c", script], |i| (i.uid_mappings, i.gid_mappings) = (mapping(), mapping()))
}

#[test]
fn root_inside_is_nobody_outside_and_layers_are_its_own() {
    if !privileged() {
        return;
    }
    let b = remapped(
        "id -u; stat -c %u:%g /bin/busybox /etc/passwd; cat /proc/self/uid_map | tr -s ' '; echo hello > /made; \
         touch /theirs; chown 7:8 /theirs; ls -l /dev/null | cut -c1-10; echo x > /dev/null; echo out > /dev/stdout; \
         hostname; ls /sys/class/net; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo $$; sleep 60",
    );
    let (shim, started) = b.start().unwrap_or_else(|f| panic!("{f:?}"));
    b.wait_for("\n1\n");
    let (out, err) = b.logs();
    let want = "0\n0:0\n0:0\n 0 200000 65536\ncrw-rw-rw-\nout\nbox\nlo\n";
    assert!(out.starts_with(want) && err.is_empty(), "{out}{err}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", started.pid)).unwrap();
    assert!(status.contains("Uid:\t200000\t200000\t200000\t200000"), "{status}");
    // On disk nothing tells that there was a mapping.
    let owner = |name: &str| {
        let m = std::fs::metadata(b.base.join("upper").join(name)).unwrap();
        (m.uid(), m.gid())
    };
    assert_eq!((owner("made"), owner("theirs")), ((0, 0), (7, 8)));
    shim.kill(9, false).unwrap();
    b.exit();
    shim.ack();
}

#[test]
fn further_processes_are_in_the_same_user_namespace() {
    if !privileged() {
        return;
    }
    let b = remapped("sleep 60");
    let (shim, _) = b.start().unwrap_or_else(|f| panic!("{f:?}"));
    let run = |user: &str| {
        let spec = corten_wire::shim::ExecSpec {
            id: format!("e{user}"),
            args: ["sh", "-c", "id -u; cut -d' ' -f1 /proc/self/stat >/dev/null; tr -s ' ' < /proc/self/uid_map; echo x > /dev/stderr; touch /by$(id -u) /tmp/x"].map(str::to_owned).to_vec(),
            user: Some(corten_wire::shim::UserSpec { user: user.into(), group_add: Vec::new() }),
            env: vec!["PATH=/bin".into()],
            stdout: true,
            stderr: true,
            ..corten_wire::shim::ExecSpec::default()
        };
        let mut started = shim.exec(spec).unwrap();
        let err = crate::harness::read_all(started.fds.pop().unwrap());
        let out = crate::harness::read_all(started.fds.pop().unwrap());
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    assert_eq!(run("0"), ("0\n 0 200000 65536\n".into(), "x\n".into()));
    let (out, err) = run("1000");
    assert_eq!(out, "1000\n 0 200000 65536\n");
    assert!(err.starts_with("x\n") && err.contains("/by1000: Permission denied"), "{err}");
    assert_eq!(std::fs::metadata(b.base.join("upper/by0")).unwrap().uid(), 0);
    shim.kill(9, false).unwrap();
    b.exit();
    shim.ack();
}

#[test]
fn root_inside_has_no_power_outside() {
    if !privileged() {
        return;
    }
    let secret = std::env::temp_dir().join(format!("corten-secret-{}", std::process::id()));
    std::fs::write(&secret, "secret").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut b = remapped(
        "cat /secret; echo x > /secret; chown 0 /secret; ls -ln /secret | tr -s ' ' | cut -d' ' -f3,4",
    );
    b.bootstrap.spec.mounts.push(Mount {
        destination: "/secret".into(),
        fstype: "bind".into(),
        source: secret.display().to_string(),
        options: vec!["bind".into()],
        ..Mount::default()
    });
    let (_, out, err) = b.run();
    std::fs::remove_file(&secret).unwrap();
    assert_eq!(out, "65534 65534\n");
    assert_eq!(err.matches("ermission denied").count() + err.matches("not permitted").count(), 3, "{err}");
}

#[test]
fn a_bind_mount_shows_other_owners() {
    if !privileged() {
        return;
    }
    // (options, mappings of its own, the container has a user namespace, who owns it inside, who owns what it makes)
    let own = json!([{ "containerID": 0, "hostID": 5000, "size": 1000 }]);
    for (options, maps, users, inside, outside) in [
        (json!(["bind"]), None, true, "65534", None),
        (json!(["bind", "idmap"]), None, true, "0", Some(0)),
        (json!(["rbind", "ridmap"]), None, true, "0", Some(0)),
        (json!(["bind"]), Some(&own), false, "5000", Some(0)),
        (json!(["bind", "idmap"]), Some(&own), false, "5000", Some(0)),
    ] {
        let b =
            Bundle::with(&["sh", "-c", "ls -ldn /data | tr -s ' ' | cut -d' ' -f3; touch /data/new"], |c| {
                let mut mount = json!({ "destination": "/data", "type": "bind", "options": options });
                mount["source"] = json!("../data");
                if let Some(maps) = maps {
                    (mount["uidMappings"], mount["gidMappings"]) = (maps.clone(), maps.clone());
                    c["process"]["user"] = json!({ "uid": 5000, "gid": 5000 });
                }
                c["mounts"].as_array_mut().unwrap().push(mount);
                if users {
                    let map = json!([{ "containerID": 0, "hostID": OUTSIDE, "size": 65536 }]);
                    (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
                    c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
                }
            });
        std::fs::create_dir(b.base.join("data")).unwrap();
        if users {
            std::os::unix::fs::chown(b.base.join("bundle/rootfs"), Some(OUTSIDE), Some(OUTSIDE)).unwrap();
        }
        let (_, text) = b.run(&[]);
        assert!(text.starts_with(&format!("{inside}\n")), "{options} {maps:?}: {text}");
        let made = std::fs::metadata(b.base.join("data/new")).ok().map(|m| m.uid());
        assert_eq!(made, outside, "{options} {maps:?}: {text}");
    }
}

#[test]
fn a_user_namespace_through_the_command_line() {
    if !privileged() {
        return;
    }
    let script = "id -u; tr -s ' ' < /proc/self/gid_map; ulimit -Hn; cat /proc/self/oom_score_adj; mkdir /x; ls /sys/class/net";
    let b = Bundle::with(&["sh", "-c", script], |c| {
        let map = json!([{ "containerID": 0, "hostID": OUTSIDE, "size": 65536 }]);
        (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        c["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "hard": 10_000, "soft": 2000 }]);
        c["process"]["oomScoreAdj"] = json!(500);
    });
    std::os::unix::fs::chown(b.base.join("bundle/rootfs"), Some(OUTSIDE), Some(OUTSIDE)).unwrap();
    let want = "0\n 0 200000 65536\n10000\n500\nlo\n";
    assert_eq!(b.run(&[]), (0, want.into()));
    assert_eq!(std::fs::metadata(b.base.join("bundle/rootfs/x")).unwrap().uid(), OUTSIDE);
    // Created, entered, and started.
    let b = Bundle::with(&["sleep", "60"], |c| {
        let map = json!([{ "containerID": 0, "hostID": OUTSIDE, "size": 65536 }]);
        (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    });
    std::os::unix::fs::chown(b.base.join("bundle/rootfs"), Some(OUTSIDE), Some(OUTSIDE)).unwrap();
    b.create();
    assert_eq!(b.say(&["start", &b.id]), (0, String::new()));
    assert_eq!(b.say(&["exec", &b.id, "sh", "-c", "id -u; id -g"]), (0, "0\n0\n".into()));
    // Another container joins the same one.
    let pid = b.state()["pid"].clone();
    let other = Bundle::with(
        &["sh", "-c", "tr -s ' ' < /proc/self/uid_map; ls -l /proc/1/ns/user | sed 's/.*-> //'"],
        |c| {
            let path = format!("/proc/{pid}/ns/user");
            c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user", "path": path }));
        },
    );
    std::os::unix::fs::chown(other.base.join("bundle/rootfs"), Some(OUTSIDE), Some(OUTSIDE)).unwrap();
    let link = std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_eq!(other.run(&[]), (0, format!(" 0 200000 65536\n{}\n", link.display())));
}

#[test]
fn mappings_that_cannot_be() {
    if !privileged() {
        return;
    }
    let map = json!([{ "containerID": 0, "hostID": OUTSIDE, "size": 65536 }]);
    for (linux, mount, want) in [
        (json!({ "uidMappings": map }), None, "user namespace isn't enabled"),
        (json!({ "namespaces": [{ "type": "mount" }, { "type": "user" }] }), None, "no user mappings found"),
        (
            json!({ "namespaces": [{ "type": "mount" }], "timeOffsets": { "boottime": { "secs": 1 } } }),
            None,
            "time namespace offsets need a new time namespace",
        ),
        (
            json!({}),
            Some(json!({ "destination": "/t", "type": "tmpfs", "uidMappings": map, "gidMappings": map })),
            "only supported for bind-mounts",
        ),
        (
            json!({}),
            Some(json!({ "destination": "/t", "type": "bind", "source": "/", "options": ["bind", "idmap"] })),
            "idmap needs mappings",
        ),
    ] {
        let b = Bundle::with(&["true"], |c| {
            for (key, value) in linux.as_object().unwrap() {
                c["linux"][key] = value.clone();
            }
            c["mounts"].as_array_mut().unwrap().extend(mount);
        });
        let (code, text) = b.run(&[]);
        assert!(code == 1 && text.contains(want), "{want}: {text}");
    }
}

#[test]
fn clocks_of_its_own() {
    if !privileged() {
        return;
    }
    let b = Bundle::with(&["sh", "-c", "cut -d. -f1 /proc/uptime; sleep 60"], |c| {
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "time" }));
        c["linux"]["timeOffsets"] =
            json!({ "boottime": { "secs": 1_000_000_000 }, "monotonic": { "secs": 5, "nanosecs": 7 } });
    });
    assert_eq!(b.run(&["-d"]).0, 0);
    let uptime = || b.say(&["exec", &b.id, "sh", "-c", "cut -d. -f1 /proc/uptime"]).1;
    let seconds: u64 = uptime().trim().parse().unwrap();
    assert!(seconds >= 1_000_000_000, "{seconds}");
}
