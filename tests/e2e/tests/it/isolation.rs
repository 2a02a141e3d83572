//! What a container is given, and what it is kept from.

use corten_testkit::Daemon;

fn sh(daemon: &Daemon, flags: &[&str], script: &str) -> String {
    let args = [&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat();
    daemon.docker(args).ok()
}

#[test]
fn limits_reach_the_kernel() {
    let daemon = Daemon::start();
    assert_eq!(sh(&daemon, &["-m", "64m"], "cat /sys/fs/cgroup/memory/memory.limit_in_bytes"), "67108864");
    assert_eq!(sh(&daemon, &["--pids-limit", "33"], "cat /sys/fs/cgroup/pids/pids.max"), "33");
    assert_eq!(sh(&daemon, &["--cpus", "0.25"], "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"), "25000");
    assert_eq!(sh(&daemon, &["--cpu-shares", "77"], "cat /sys/fs/cgroup/cpu/cpu.shares"), "77");
    assert_eq!(sh(&daemon, &["--cpuset-cpus", "0"], "cat /sys/fs/cgroup/cpuset/cpuset.cpus"), "0");
    assert_eq!(sh(&daemon, &["--ulimit", "nofile=512:1024"], "ulimit -Sn; ulimit -Hn"), "512\n1024");
    assert_eq!(sh(&daemon, &["--shm-size", "8m"], "df -k /dev/shm | awk 'END{print $2}'"), "8192");
    assert_eq!(
        sh(&daemon, &["--sysctl", "net.core.somaxconn=777"], "cat /proc/sys/net/core/somaxconn"),
        "777"
    );
    assert_eq!(sh(&daemon, &["--tmpfs", "/t:size=64k"], "df -k /t | awk 'END{print $2}'"), "64");
}

#[test]
fn out_of_memory_is_seen() {
    let daemon = Daemon::start();
    let ran = daemon.docker([
        "run",
        "--name",
        "big",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "busybox",
        "dd",
        "if=/dev/zero",
        "of=/dev/shm/x",
        "bs=1M",
        "count=40",
    ]);
    assert_eq!(ran.code, 137, "{}", ran.stderr);
    assert_eq!(daemon.docker(["inspect", "-f", "{{.State.OOMKilled}}", "big"]).ok(), "true");
}

#[test]
fn capabilities_and_seccomp() {
    let daemon = Daemon::start();
    let caps = "grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status | awk '{print $2}' | xargs";
    assert_eq!(sh(&daemon, &[], caps), "00000000a80425fb 0 2");
    assert_eq!(sh(&daemon, &["--cap-drop", "ALL"], caps), "0000000000000000 0 2");
    assert_eq!(sh(&daemon, &["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"], caps), "0000000000001000 0 2");
    assert_eq!(sh(&daemon, &["--security-opt", "no-new-privileges"], caps), "00000000a80425fb 1 2");
    assert!(sh(&daemon, &["--security-opt", "seccomp=unconfined"], caps).ends_with(" 0 0"));
    assert!(sh(&daemon, &["--privileged"], caps).ends_with(" 0 0"));
    assert!(sh(&daemon, &[], "mount -t tmpfs x /tmp 2>&1 || true").contains("denied"));
    assert!(
        sh(&daemon, &[], "unshare 2>&1; mknod /tmp/k b 8 0 && cat /tmp/k 2>&1 || true")
            .contains("not permitted")
    );
}

#[test]
fn kernel_files_are_masked_and_read_only() {
    let daemon = Daemon::start();
    assert_eq!(sh(&daemon, &[], "wc -c < /proc/keys"), "0");
    assert!(sh(&daemon, &[], "(echo x > /proc/sys/kernel/hostname) 2>&1 || true").contains("Read-only"));
    assert!(sh(&daemon, &[], "touch /sys/x 2>&1 || true").contains("Read-only"));
    let ran = daemon.docker(["run", "--rm", "--read-only", "busybox", "touch", "/x"]);
    assert!(ran.code == 1 && ran.stderr.contains("Read-only file system"), "{}", ran.stderr);
}

#[test]
fn identity_of_the_container() {
    let daemon = Daemon::start();
    assert_eq!(sh(&daemon, &["-h", "box"], "hostname; cat /etc/hostname"), "box\nbox");
    assert_eq!(sh(&daemon, &["-u", "alice", "--group-add", "77"], "id -u; id -G"), "1000\n1000 10 77");
    assert_eq!(sh(&daemon, &["-w", "/made/here"], "pwd"), "/made/here");
    assert!(sh(&daemon, &["--add-host", "db:192.0.2.9"], "cat /etc/hosts").contains("192.0.2.9\tdb"));
    assert!(sh(&daemon, &["--dns", "192.0.2.53"], "cat /etc/resolv.conf").contains("nameserver 192.0.2.53"));
    assert_eq!(sh(&daemon, &["-e", "A=b"], "echo $A $HOME"), "b /root");
    assert_eq!(sh(&daemon, &["--device", "/dev/null:/dev/mynull"], "echo x > /dev/mynull && echo ok"), "ok");
}

#[test]
fn namespaces_can_be_shared() {
    let daemon = Daemon::start();
    daemon.docker(["run", "-d", "--name", "base", "busybox", "sleep", "1000"]).ok();
    assert!(sh(&daemon, &["--pid", "container:base"], "ps").contains("sleep 1000"));
    let ip = daemon.docker(["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "base"]).ok();
    assert!(sh(&daemon, &["--network", "container:base"], "ip addr").contains(&ip));
    assert_eq!(sh(&daemon, &["--pid", "host"], "[ $$ -gt 1 ] && echo host"), "host");
}

/// CVE-2019-5736, CVE-2024-21626: neither the runtime's program nor a descriptor of the host is in reach.
#[test]
fn nothing_of_the_host_is_open() {
    let daemon = Daemon::start();
    let runtime = corten_testkit::daemon::bin_dir().join("corten-runtime");
    let before = std::fs::read(&runtime).unwrap();
    assert_eq!(sh(&daemon, &[], "ls /proc/self/fd | wc -l"), "4");
    for fd in 3..12 {
        let ran = daemon.docker([
            "run",
            "--rm",
            "-w",
            &format!("/proc/self/fd/{fd}"),
            "busybox",
            "cat",
            "../../etc/shadow",
        ]);
        assert_ne!(ran.code, 0, "fd {fd}");
    }
    daemon.docker(["run", "-d", "--name", "tt", "busybox", "sleep", "1000"]).ok();
    daemon.docker(["exec", "tt", "/proc/self/exe", "--version"]);
    let _whatever =
        daemon.docker(["exec", "tt", "sh", "-c", "for p in /proc/[0-9]*; do echo x > $p/exe; done"]);
    assert_eq!(std::fs::read(&runtime).unwrap(), before);
}

#[test]
fn shared_memory_can_be_shared() {
    let daemon = Daemon::start();
    daemon.docker(["run", "-d", "--name", "donor", "--ipc", "shareable", "busybox", "sleep", "1000"]).ok();
    daemon.docker(["run", "--rm", "--ipc", "container:donor", "busybox", "touch", "/dev/shm/a"]).ok();
    assert_eq!(daemon.docker(["exec", "donor", "ls", "/dev/shm"]).ok(), "a");
}

#[test]
fn control_groups_are_writable_where_asked_for() {
    let daemon = Daemon::start();
    let make = "cd /sys/fs/cgroup; [ ! -d memory ] || cd memory; mkdir x && echo made";
    let run = |flags: [&str; 2]| {
        let [first, second] = flags;
        daemon.docker(["run", "--rm", first, second, "busybox", "sh", "-c", make])
    };
    let writable = "--security-opt=writable-cgroups=true";
    assert_eq!(run(["--cgroupns=private", writable]).ok(), "made");
    let refused = run(["--privileged", "--security-opt=writable-cgroups=false"]).fails(1);
    assert!(refused.contains("Read-only file system"), "{refused}");
    let refused = run(["--cgroupns=host", writable]).fails(125);
    assert!(refused.contains("conflicts with the host's cgroup namespace"), "{refused}");
}
