//! What a process finds inside its container.

use crate::harness::{Fixture, output, privileged, sh};
use corten_runtime::spec::{DeviceRequest, SeccompChoice, Shm};
use corten_wire::oci_runtime::{Mount, Rlimit};
use corten_wire::shim::UserSpec;

#[test]
fn a_program_runs_and_its_end_is_reported() {
    if !privileged() {
        return;
    }
    let (code, out, err) = Fixture::new(&["sh", "-c", "echo out; echo err >&2; exit 42"]).run();
    assert_eq!((code, out.as_str(), err.as_str()), (42, "out\n", "err\n"));
}

#[test]
fn defaults_are_dockers() {
    if !privileged() {
        return;
    }
    for (script, want) in [
        (
            "grep -E 'Cap|NoNewPrivs|Seccomp' /proc/self/status",
            "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n\
             CapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n",
        ),
        ("id", "uid=0(root) gid=0(root) groups=0(root)\n"),
        (
            "env -u PWD | sort | grep -v SHLVL",
            "HOME=/root\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
        ),
        ("hostname; pwd; umask; echo $$", "box\n/\n0022\n1\n"),
        ("ls /proc/self/fd | wc -l", "4\n"),
        ("cat /proc/1/cmdline | tr '\\0' ' '", "sh -c cat /proc/1/cmdline | tr '\\0' ' ' "),
        ("df -k /dev/shm | awk 'END{print $2}'", "65536\n"),
        ("touch /sys/x 2>&1 | sed 's/.*: //'", "Read-only file system\n"),
        ("mknod /tmp/k c 1 11 && cat /tmp/k 2>&1 | sed 's/.*: //'", "Operation not permitted\n"),
        ("mount -t tmpfs x /tmp 2>&1; true", "mount: permission denied (are you root?)\n"),
        ("(echo x > /proc/sys/kernel/hostname) 2>&1 | sed 's/.*: //'", "Read-only file system\n"),
        (
            "ls -l /dev | awk '{print $1, $3, $4, $NF}' | sort",
            "crw-rw-rw- root root full\ncrw-rw-rw- root root null\ncrw-rw-rw- root root random\n\
             crw-rw-rw- root root tty\ncrw-rw-rw- root root urandom\ncrw-rw-rw- root root zero\n\
             drwxr-xr-x root root pts\ndrwxrwxrwt root root mqueue\ndrwxrwxrwt root root shm\n\
             lrwxrwxrwx root root /proc/self/fd\nlrwxrwxrwx root root /proc/self/fd/0\n\
             lrwxrwxrwx root root /proc/self/fd/1\nlrwxrwxrwx root root /proc/self/fd/2\n\
             lrwxrwxrwx root root pts/ptmx\ntotal   0\n",
        ),
    ] {
        assert_eq!(sh(script), want, "{script}");
    }
}

#[test]
fn mounts_and_their_flags() {
    if !privileged() {
        return;
    }
    let mounts = sh("awk '{print $2, $3}' /proc/mounts | grep -v -E '^/sys/fs/cgroup/' | sort");
    for line in [
        "/ overlay",
        "/dev tmpfs",
        "/dev/mqueue mqueue",
        "/dev/pts devpts",
        "/dev/shm tmpfs",
        "/proc proc",
        "/proc/sys proc",
        "/sys sysfs",
        "/sys/firmware tmpfs",
        "/proc/keys tmpfs",
    ] {
        assert!(mounts.lines().any(|l| l == line), "{line} in {mounts}");
    }
    let flags = sh("awk '{print $2, $4}' /proc/mounts");
    for line in [
        "/dev rw,nosuid,size=65536k,mode=755",
        "/dev/mqueue rw,nosuid,nodev,noexec,relatime",
        "/dev/pts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666",
        "/dev/shm rw,nosuid,nodev,noexec,relatime,size=65536k",
        "/proc rw,nosuid,nodev,noexec,relatime",
        "/proc/sys ro,nosuid,nodev,noexec,relatime",
        "/sys ro,nosuid,nodev,noexec,relatime",
    ] {
        assert!(flags.contains(line), "{line} in {flags}");
    }
    if !corten_runtime::cgroup::Cgroup::host_is_v2() {
        assert!(flags.contains("/sys/fs/cgroup rw,nosuid,nodev,noexec,relatime,mode=755"), "{flags}");
        assert!(flags.contains("/sys/fs/cgroup/memory ro,nosuid,nodev,noexec"), "{flags}");
        assert!(sh("cut -d: -f3 /proc/self/cgroup | sort -u").starts_with("/corten-test-"));
    }
}

#[test]
fn users_and_groups() {
    if !privileged() {
        return;
    }
    for (user, add, want) in [
        ("alice", &[][..], "uid=1000(alice) gid=1000(alice) groups=10(wheel),1000(alice)\n"),
        ("1234:4321", &[], "uid=1234 gid=4321 groups=4321\n"),
        ("alice:wheel", &[], "uid=1000(alice) gid=10(wheel) groups=10(wheel)\n"),
        (
            "alice",
            &["daemon", "77"],
            "uid=1000(alice) gid=1000(alice) groups=1(daemon),10(wheel),77,1000(alice)\n",
        ),
    ] {
        let mut b = Fixture::new(&["id"]);
        let group_add = add.iter().map(ToString::to_string).collect();
        b.bootstrap.user = Some(UserSpec { user: user.into(), group_add });
        assert_eq!(b.run().1, want);
    }
    let mut b = Fixture::new(&["sh", "-c", "grep Cap /proc/self/status; echo $HOME; echo x > /dev/stdout"]);
    b.bootstrap.user = Some(UserSpec { user: "alice".into(), group_add: vec![] });
    let want = "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
                CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n/home\nx\n";
    assert_eq!(b.run().1, want);
}

#[test]
fn options() {
    if !privileged() {
        return;
    }
    let script =
        |s: &str, change: &dyn Fn(&mut corten_runtime::spec::SpecInput)| output(&["sh", "-c", s], change);
    let nnp = script("grep NoNewPrivs /proc/self/status", &|i| i.no_new_privileges = true);
    assert_eq!(nnp, "NoNewPrivs:\t1\n");
    let open = script("grep Seccomp: /proc/self/status", &|i| i.seccomp = SeccompChoice::Unconfined);
    assert_eq!(open, "Seccomp:\t0\n");
    let privileged = script(
        "grep Seccomp: /proc/self/status; ls -d /dev/net/tun; touch /proc/sys/x 2>&1 | sed 's/.*: //'",
        &|i| {
            i.privileged = true;
        },
    );
    assert!(privileged.starts_with("Seccomp:\t0\n"), "{privileged}");
    let cwd = script("pwd; ls -ld $PWD | cut -c1-10", &|i| i.cwd = "/a/b/c".into());
    assert_eq!(cwd, "/a/b/c\ndrwxr-xr-x\n");
    let limits = script("ulimit -Sn; ulimit -Hn", &|i| {
        i.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 512, hard: 1024 }];
    });
    assert_eq!(limits, "512\n1024\n");
    let sysctl =
        script("cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/ip_unprivileged_port_start", &|i| {
            i.sysctls = [("net.core.somaxconn".to_owned(), "777".to_owned())].into();
            i.private_network = true;
        });
    assert_eq!(sysctl, "777\n0\n");
    assert_eq!(script("cat /proc/self/oom_score_adj", &|i| i.oom_score_adj = Some(321)), "321\n");
    let shm = script("df -k /dev/shm | awk 'END{print $2}'", &|i| i.shm = Shm::Private(8 << 20));
    assert_eq!(shm, "8192\n");
    let device =
        script("ls -l /dev/mynull | awk '{print $1, $5, $6}'; echo x > /dev/mynull && echo ok", &|i| {
            let access = "rwm".into();
            i.devices = vec![DeviceRequest {
                on_host: "/dev/null".into(),
                in_container: "/dev/mynull".into(),
                access,
            }];
        });
    assert_eq!(device, "crw-rw-rw- 1, 3\nok\n");
    let mount = |destination: &str, fstype: &str, source: &str, options: &str| Mount {
        destination: destination.into(),
        fstype: fstype.into(),
        source: source.into(),
        options: options.split(',').map(str::to_owned).collect(),
        ..Mount::default()
    };
    let tmpfs = script("grep ' /t ' /proc/mounts | cut -d' ' -f3,4 | tr ',' '\\n' | sort", &|i| {
        i.mounts = vec![mount("/t", "tmpfs", "tmpfs", "noexec,nosuid,nodev,size=64k,mode=700")];
    });
    assert_eq!(tmpfs, "mode=700\nnodev\nnoexec\nnosuid\nrelatime\nsize=64k\ntmpfs rw\n");
    let read_only = script(
        "touch /x 2>&1; touch /tmp/x 2>&1; touch /dev/shm/y && echo shm ok; touch /h/x 2>&1; true",
        &|i| {
            i.readonly_root = true;
            i.mounts = vec![
                mount("/tmp", "tmpfs", "tmpfs", "nosuid"),
                mount("/h", "bind", "/usr", "rbind,rro,rprivate"),
            ];
        },
    );
    let want = "touch: /x: Read-only file system\nshm ok\ntouch: /h/x: Read-only file system\n";
    assert_eq!(read_only, want);
    assert_eq!(
        script("grep CapEff /proc/self/status", &|i| {
            i.cap_drop = vec!["ALL".into()];
            i.cap_add = vec!["NET_ADMIN".into()];
        }),
        "CapEff:\t0000000000001000\n"
    );
}

#[test]
fn the_tiny_init() {
    if !privileged() {
        return;
    }
    let mut b = Fixture::new(&["sh", "-c", "cat /proc/1/comm; (sleep 0.01 &); exit 3"]);
    b.bootstrap.init = true;
    let (code, out, _) = b.run();
    assert_eq!((code, out.as_str()), (3, "docker-init\n"));
    let mut b =
        Fixture::new(&["sh", "-c", "trap 'exit 4' TERM; echo ready; while true; do sleep 0.01; done"]);
    b.bootstrap.init = true;
    let (shim, _) = b.start().unwrap();
    b.wait_for("ready");
    shim.kill(15, false).unwrap();
    assert_eq!(b.exit().code, 4);
    shim.ack();
}

#[test]
fn terminal() {
    if !privileged() {
        return;
    }
    let b = Fixture::with(
        &["sh", "-c", "tty; stty size; ls /dev | sort | head -1; ls -l /dev/console | cut -c1"],
        |i| {
            i.tty = true;
            i.console_size = Some(corten_wire::oci_runtime::ConsoleSize { height: 10, width: 20 });
        },
    );
    assert_eq!(b.run().1, "/dev/pts/0\r\n10 20\r\nconsole\r\nc\r\n");
}
