//! A daemon on hosts that have a firewall already: iptables of both kinds, ufw, firewalld.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use corten_testkit::Transport::Tcp;
use corten_testkit::hosts::{Hosts, NEAR};

/// A container with a page at the host's ports 8080 and 8081, and one that goes out.
fn populate(hosts: &Hosts) {
    let web = hosts.run("web", &["-p", "8080:80", "-p", "8081:81"]);
    web.serve(Tcp, 80);
    web.serve(Tcp, 81);
    hosts.far.serve(Tcp, 80);
}

const OPEN: &str = "198.51.100.1:8080";
const CLOSED: &str = "198.51.100.1:8081";
const OUTSIDE: &str = "192.0.2.2:80";

/// Programs of other people may take their time on a busy machine.
#[track_caller]
fn eventually(hosts: &Hosts, what: &str, mut test: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !test() {
        let rules = || hosts.host().sh("nft list ruleset");
        assert!(
            Instant::now() < deadline,
            "not within a minute: {what}\n{}\n{}",
            rules(),
            hosts.daemon.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn reached(hosts: &Hosts, address: &str) -> bool {
    hosts.near.try_ask(Tcp, address).as_deref() == Some(NEAR)
}

#[test]
fn iptables_that_drop_let_containers_pass() {
    let mut hosts = Hosts::start();
    populate(&hosts);
    hosts.host().does("iptables -P FORWARD DROP; ip6tables -P FORWARD DROP; iptables -A FORWARD -j REJECT");
    eventually(&hosts, "in, beside a FORWARD that drops", || reached(&hosts, OPEN));
    assert_eq!(hosts.inside("web").ask(Tcp, OUTSIDE), "192.0.2.1", "and out");
    // As every guide has it; the port is the container's by then.
    hosts.host().does("iptables -I DOCKER-USER -i up0 -p tcp --dport 81 -j DROP");
    hosts.near.reaches_nobody(Tcp, CLOSED);
    assert!(reached(&hosts, OPEN));
    // What the user wrote stays, through a crash and a restart of the daemon.
    hosts.daemon.kill();
    hosts.near.reaches_nobody(Tcp, CLOSED);
    assert!(reached(&hosts, OPEN), "while no daemon runs");
    hosts.daemon.restart();
    hosts.near.reaches_nobody(Tcp, CLOSED);
    eventually(&hosts, "in, after a restart", || reached(&hosts, OPEN));
    // And through an iptables-restore that knows nothing of us.
    hosts.host().does(
        "printf '*filter\\n:INPUT ACCEPT\\n:FORWARD DROP\\n:OUTPUT ACCEPT\\nCOMMIT\\n' | iptables-restore",
    );
    eventually(&hosts, "in, after iptables-restore", || reached(&hosts, OPEN));
    assert!(hosts.host().sh("iptables -S").contains("-N DOCKER-USER"));
    hosts.host().does("iptables -P FORWARD ACCEPT; ip6tables -P FORWARD ACCEPT");
}

#[test]
fn legacy_iptables_beside_us() {
    let hosts = Hosts::start();
    populate(&hosts);
    let legacy = |command: &str| {
        let output = hosts.host().command("iptables-legacy").args(command.split(' ')).output().unwrap();
        output.status.success()
    };
    if !legacy("-P FORWARD DROP") {
        return corten_testkit::say("not tested: legacy iptables (the kernel has none)");
    }
    // Documented: they are another filter of the kernel, which we do not write to.
    hosts.near.reaches_nobody(Tcp, OPEN);
    assert!(legacy("-A FORWARD -i docker0 -j ACCEPT") && legacy("-A FORWARD -o docker0 -j ACCEPT"));
    assert!(reached(&hosts, OPEN));
    assert_eq!(hosts.inside("web").ask(Tcp, OUTSIDE), "192.0.2.1");
    assert!(legacy("-I FORWARD -i up0 -p tcp --dport 81 -j DROP"));
    hosts.near.reaches_nobody(Tcp, CLOSED);
    assert!(legacy("-F FORWARD") && legacy("-P FORWARD ACCEPT"));
}

/// A part of the host that has files and processes of its own, for programs that are only ever there once.
struct Private<'a> {
    hosts: &'a Hosts,
    keeper: Child,
    pid: String,
}

impl<'a> Private<'a> {
    /// Runs `setup` in there first; all processes of it end with it.
    fn new(hosts: &'a Hosts, setup: &str) -> Self {
        let marker = hosts.daemon.dir().join("ready");
        let script =
            format!("mount -t proc proc /proc; {setup}; touch {}; exec sleep 100000", marker.display());
        let mut command = hosts.host().command("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", &script]);
        let log =
            std::fs::File::create(hosts.daemon.dir().join("private")).expect("a file or process of ours");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file or process of ours")).stderr(log);
        let keeper = command.spawn().expect("unshare");
        let mut private = Self { hosts, keeper, pid: String::new() };
        let said = || std::fs::read_to_string(hosts.daemon.dir().join("private")).unwrap_or_default();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !marker.exists() {
            let ended = private.keeper.try_wait().expect("a file or process of ours");
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}: {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        let id = private.keeper.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))
            .expect("a file or process of ours");
        private.pid = children.trim().to_owned();
        private
    }

    fn try_sh(&self, script: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid, "--mount", "--pid", "--net", "sh", "-ec", script]);
        command.output().expect("nsenter")
    }

    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let log = || std::fs::read_to_string(self.hosts.daemon.dir().join("private")).unwrap_or_default();
        assert!(output.status.success(), "{script}: {text}\n{}", log());
        text
    }
}

impl Drop for Private<'_> {
    fn drop(&mut self) {
        self.keeper.kill().ok();
        self.keeper.wait().ok();
    }
}

/// ufw as Debian has it: its rules and its switch are files.
#[test]
fn ufw_is_respected_where_that_is_asked_for() {
    const OWN: &str = "mount -t tmpfs none /mnt; for d in etc/ufw etc/default lib/ufw run; do mkdir -p /mnt/$d; done; \
         cp -a /etc/ufw/. /mnt/etc/ufw; cp -a /etc/default/. /mnt/etc/default; cp -a /lib/ufw/. /mnt/lib/ufw; \
         mount --bind /mnt/etc/ufw /etc/ufw; mount --bind /mnt/etc/default /etc/default; \
         mount --bind /mnt/lib/ufw /lib/ufw; mount --bind /mnt/run /run; \
         sed -i 's/^IPT_MODULES=.*/IPT_MODULES=\"\"/' /etc/default/ufw";
    for (mode, closes) in [("docker", false), ("respect", true)] {
        let hosts = Hosts::start_with(&["--firewall", mode]);
        populate(&hosts);
        let ufw = Private::new(&hosts, OWN);
        ufw.sh("ufw --force reset; ufw default deny incoming; ufw allow 8080/tcp; ufw --force enable");
        assert!(ufw.sh("ufw status").contains("Status: active"));
        eventually(&hosts, "what is allowed", || reached(&hosts, OPEN));
        eventually(&hosts, mode, || reached(&hosts, CLOSED) != closes);
        assert_eq!(hosts.inside("web").ask(Tcp, OUTSIDE), "192.0.2.1", "containers get out");
        assert!(!hosts.host().ask(Tcp, "127.0.0.1:8081").is_empty(), "the host itself");
        // A port that is published now is under the same rules from its first packet on.
        hosts.run("late", &["-p", "8082:80"]).serve(Tcp, 80);
        assert_eq!(reached(&hosts, "198.51.100.1:8082"), !closes);
        ufw.sh("ufw delete allow 8080/tcp; ufw allow 8081/tcp; ufw reload");
        eventually(&hosts, "what is allowed now", || reached(&hosts, CLOSED));
        eventually(&hosts, mode, || reached(&hosts, OPEN) != closes);
        ufw.sh("ufw --force disable");
        eventually(&hosts, "no ufw, nothing closed", || reached(&hosts, OPEN) && reached(&hosts, CLOSED));
    }
}

/// firewalld as Debian has it, with a system bus of its own.
#[test]
fn firewalld_before_and_after_a_reload() {
    const OWN: &str = "mount -t tmpfs none /mnt; mkdir -p /mnt/etc /mnt/run/dbus /mnt/run/firewalld /mnt/log; \
         cp -a /etc/firewalld/. /mnt/etc; mount --bind /mnt/etc /etc/firewalld; mount --bind /mnt/log /var/log; \
         mount --bind /mnt/run /run; dbus-daemon --system --nofork --nopidfile & \
         for i in $(seq 600); do [ -S /run/dbus/system_bus_socket ] && break; sleep 0.1; done; \
         firewalld --nofork --nopid & \
         for i in $(seq 600); do firewall-cmd --state && break; sleep 0.1; done; firewall-cmd --state";
    for (mode, closes) in [("docker", false), ("respect", true)] {
        let hosts = Hosts::start_with(&["--firewall", mode]);
        populate(&hosts);
        let firewalld = Private::new(&hosts, OWN);
        let zone = "firewall-cmd --get-default-zone; firewall-cmd --list-ports";
        assert!(firewalld.sh(zone).starts_with("public"));
        hosts.host().serve(Tcp, 8070);
        eventually(&hosts, "firewalld closes the host", || !reached(&hosts, "198.51.100.1:8070"));
        for round in ["started", "reloaded", "restarted"] {
            match round {
                "reloaded" => drop(firewalld.sh("firewall-cmd --reload")),
                "restarted" => drop(firewalld.sh("firewall-cmd --complete-reload")),
                _ => {}
            }
            eventually(&hosts, round, || reached(&hosts, OPEN) != closes);
            eventually(&hosts, round, || reached(&hosts, CLOSED) != closes);
            let web = hosts.inside("web");
            eventually(&hosts, "a way out", || web.try_ask(Tcp, OUTSIDE).as_deref() == Some("192.0.2.1"));
            firewalld.sh("firewall-cmd --zone=public --add-port=8080/tcp");
            eventually(&hosts, "a port of the zone", || reached(&hosts, OPEN));
            assert_eq!(reached(&hosts, CLOSED), !closes, "{round}");
        }
        hosts.run("late", &["-p", "8082:80"]).serve(Tcp, 80);
        eventually(&hosts, "a port that is published later", || {
            reached(&hosts, "198.51.100.1:8082") != closes
        });
    }
}
