//! The packet filter is a function of the state: whatever happens, it is the same again.

use corten_testkit::{Client, Daemon, DaemonOptions};

/// All tables as text, without counters, elements in order.
fn tables(daemon: &Daemon) -> String {
    let output = daemon.in_netns("nft").args(["-s", "list", "ruleset"]).output().expect("nft");
    // Who has the table is known while a daemon runs.
    let text = String::from_utf8(output.stdout).expect("text").replace(" # progname corten", "");
    let text: Vec<&str> =
        text.lines().filter(|l| !matches!(l.trim_end(), "\tflags" | "\tflags owner")).collect();
    let text = text.join("\n");
    let mut parts = text.split("elements = {");
    let mut sorted = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (elements, rest) = part.split_once('}').expect("the end of the elements");
        let mut elements: Vec<&str> = elements.split(',').map(str::trim).collect();
        elements.sort_unstable();
        sorted += &format!("elements = {{ {} }}{rest}", elements.join(", "));
    }
    sorted
}

/// Two networks, one of them for insiders, and ports of every kind; all come back by themselves.
fn populate(daemon: &Daemon) {
    daemon.docker(["network", "create", "--subnet", "10.91.0.0/24", "n1"]).ok();
    daemon.docker(["network", "create", "--internal", "--subnet", "10.92.0.0/24", "n2"]).ok();
    let ports = ["-p", "8080:80", "-p", "127.0.0.1:8081:81/udp", "-p", "9000-9100:9000-9100"];
    let mut run =
        vec!["run", "-d", "--restart", "always", "--name", "web", "--network", "n1", "--ip", "10.91.0.9"];
    run.extend(ports);
    run.extend(["busybox", "sleep", "1000"]);
    daemon.docker(&run).ok();
    let run = [
        "run",
        "-d",
        "--restart",
        "always",
        "--name",
        "in",
        "--network",
        "n2",
        "--ip",
        "10.92.0.9",
        "busybox",
        "sleep",
        "1000",
    ];
    daemon.docker(run).ok();
}

fn both_run(daemon: &Daemon) {
    daemon.eventually("both containers run", || {
        (daemon.docker(["ps", "-q"]).ok().lines().count() == 2).then_some(())
    });
}

#[test]
fn it_is_the_same_after_a_flush_a_crash_and_a_reboot() {
    let mut daemon = Daemon::start();
    populate(&daemon);
    let before = tables(&daemon);
    for want in [
        "tcp . 8080 : 10.91.0.9 . 80",
        "127.0.0.1 . udp . 8081",
        "tcp . 9000-9100 : 10.91.0.9",
        "DOCKER-USER",
    ] {
        assert!(before.contains(want), "{want} in {before}");
    }
    // On kernels that protect our table only the others go; both ways all is there again.
    daemon.in_netns("nft").args(["flush", "ruleset"]).output().unwrap();
    daemon.eventually("the rules after a flush", || (tables(&daemon) == before).then_some(()));
    daemon.kill();
    assert_eq!(tables(&daemon), before, "while no daemon runs");
    daemon.in_netns("nft").args(["flush", "ruleset"]).output().unwrap();
    daemon.restart();
    daemon.eventually("the rules after a crash and a flush", || (tables(&daemon) == before).then_some(()));
    // That the containers ran is on disk some seconds after their start, or when a daemon ends.
    daemon.stop();
    daemon.restart();
    daemon.reboot();
    both_run(&daemon);
    daemon.eventually("the rules after a reboot", || (tables(&daemon) == before).then_some(()));
    daemon.docker(["exec", "web", "ping", "-c1", "-W2", "10.91.0.1"]).ok();
    daemon.docker(["rm", "-f", "web", "in"]).ok();
    daemon.docker(["network", "rm", "n1", "n2"]).ok();
}

#[test]
fn it_is_the_same_after_a_crash_at_every_failpoint_of_networks() {
    let table = include_str!("../../../../docs/failpoints.md");
    let points = table.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next());
    let points: Vec<&str> =
        points.filter(|p| p.starts_with("engine.network.") || p.starts_with("engine.publish.")).collect();
    assert_eq!(points.len(), 4);
    for point in points {
        let mut daemon = Daemon::start_with(DaemonOptions::default());
        daemon.import_busybox();
        populate(&daemon);
        let without = tables(&daemon);
        daemon.docker(["network", "create", "--subnet", "10.93.0.0/24", "gone"]).ok();
        daemon.stop();
        daemon.options_mut().env = vec![("CORTEN_FAILPOINT".into(), point.into())];
        daemon.restart();
        let step: &[&str] = match point {
            "engine.network.after_kernel" => &["network", "rm", "gone"],
            "engine.publish.before_record" => &["update", "--publish-add", "7777:80", "web"],
            _ => &["network", "create", "--subnet", "10.94.0.0/24", "new"],
        };
        assert_ne!(daemon.run_with(Client::Corten, step, b"").code, 0, "{point} was not reached");
        daemon.wait_death();
        daemon.options_mut().env.clear();
        daemon.restart();
        both_run(&daemon);
        let names = daemon.docker(["network", "ls", "--format", "{{.Name}}"]).ok();
        // Who was told nothing finds the network whole, or not at all.
        for name in names.lines().filter(|n| ["new", "gone"].contains(n)) {
            daemon.docker(["network", "rm", name]).ok();
        }
        assert_eq!(tables(&daemon), without, "{point}");
        daemon.docker(["rm", "-f", "web", "in"]).ok();
        daemon.docker(["network", "rm", "n1", "n2"]).ok();
    }
}

#[test]
fn daemons_without_rules_forwarding_or_masquerading() {
    let with = |args: &[&str]| {
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        let daemon = Daemon::start_with(DaemonOptions { args, ..DaemonOptions::default() });
        daemon.import_busybox();
        daemon.serve(["--name", "web", "-p", "18080:80"]).ok();
        daemon
    };
    let daemon = with(&["--iptables=false", "--ip6tables=false"]);
    assert_eq!(tables(&daemon), "");
    let ip = daemon.docker(["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"]).ok();
    daemon.eventually("the container itself", || daemon.fetch(&format!("http://{ip}:80/")));
    assert!(daemon.fetch("http://127.0.0.1:18080/").is_none(), "nobody translates");
    drop(daemon);
    let daemon = with(&["--ip-masq=false"]);
    let rules = tables(&daemon);
    assert!(!rules.contains("oifname != \"docker0\" masquerade"), "{rules}");
    daemon.eventually("the published port", || daemon.fetch("http://127.0.0.1:18080/"));
    drop(daemon);
    let daemon = with(&["--userland-proxy=false", "--ip-forward=false", "--icc=false"]);
    daemon.eventually("the published port", || daemon.fetch("http://127.0.0.1:18080/"));
    let ip = daemon.docker(["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"]).ok();
    assert_ne!(daemon.docker(["run", "--rm", "busybox", "ping", "-c1", "-W1", &ip]).code, 0, "--icc=false");
    drop(daemon);
    let refused = |args: &[&str]| {
        let mut command = std::process::Command::new(corten_testkit::daemon::bin_dir().join("corten"));
        let output = command.args(["daemon", "--validate"]).args(args).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = refused(&["--firewall=respect", "--iptables=false", "--ip6tables=false"]);
    assert!(text.contains("--firewall=respect needs packet filter rules"), "{text}");
    assert!(refused(&["--iptables=false", "--ip6tables=true"]).contains("must be the same"));
    assert!(refused(&["--userland-proxy-path=/x"]).contains("--userland-proxy-path is not supported"));
}
