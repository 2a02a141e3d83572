//! The default bridge, published ports, user networks.

use corten_testkit::Daemon;

#[test]
fn default_bridge() {
    let daemon = Daemon::start();
    daemon.docker(["run", "-d", "--name", "aa", "busybox", "sleep", "1000"]).ok();
    let ip = daemon.docker(["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "aa"]).ok();
    assert!(ip.starts_with("172.17.0."), "{ip}");
    daemon.docker(["run", "--rm", "busybox", "ping", "-c1", "-W2", &ip]).ok();
    daemon.docker(["run", "--rm", "busybox", "ping", "-c1", "-W2", "172.17.0.1"]).ok();
    assert_eq!(
        daemon.docker(["run", "--rm", "--network", "none", "busybox", "sh", "-c", "ip -o link | wc -l"]).ok(),
        "1"
    );
    assert!(
        daemon.docker(["run", "--rm", "--network", "host", "busybox", "ip", "link"]).ok().contains("docker0")
    );
}

#[test]
fn published_ports() {
    let daemon = Daemon::start();
    daemon.serve(["--name", "web", "-p", "127.0.0.1:18080:80", "-p", "18081-18083:81-83"]).ok();
    daemon.eventually("the page through loopback", || {
        daemon.fetch("http://127.0.0.1:18080/").filter(|b| b == "hello from busybox\n")
    });
    assert_eq!(daemon.docker(["port", "web", "80"]).ok(), "127.0.0.1:18080");
    assert!(daemon.docker(["port", "web"]).ok().contains("82/tcp -> 0.0.0.0:18082"));
    let refused = daemon.docker(["run", "--rm", "-p", "127.0.0.1:18080:80", "busybox", "true"]).fails(125);
    assert!(
        refused.contains("port is already allocated") || refused.contains("address already in use"),
        "{refused}"
    );
    daemon.docker(["rm", "-f", "web"]).ok();
    daemon.docker(["run", "--rm", "-p", "127.0.0.1:18080:80", "busybox", "true"]).ok();
    daemon.serve(["--name", "any", "-p", "80"]).ok();
    let port = daemon.docker(["port", "any", "80/tcp"]).ok();
    let port = port.lines().next().and_then(|l| l.rsplit(':').next()).unwrap().to_owned();
    daemon.eventually("the ephemeral port", || daemon.fetch(&format!("http://127.0.0.1:{port}/")));
}

#[test]
fn user_networks_resolve_names() {
    let daemon = Daemon::start();
    daemon.docker(["network", "create", "--subnet", "10.77.0.0/24", "n1"]).ok();
    daemon
        .docker([
            "run",
            "-d",
            "--name",
            "srv",
            "--network",
            "n1",
            "--network-alias",
            "web",
            "--ip",
            "10.77.0.50",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    for name in ["srv", "web"] {
        let out =
            daemon.docker(["run", "--rm", "--network", "n1", "busybox", "ping", "-c1", "-W2", name]).ok();
        assert!(out.contains("10.77.0.50"), "{out}");
    }
    daemon.docker(["network", "create", "n2"]).ok();
    daemon.docker(["run", "-d", "--name", "other", "--network", "n2", "busybox", "sleep", "1000"]).ok();
    let ran = daemon.docker(["exec", "other", "ping", "-c1", "-W1", "10.77.0.50"]);
    assert_ne!(ran.code, 0, "networks are isolated");
    daemon.docker(["network", "connect", "n1", "other"]).ok();
    daemon.docker(["exec", "other", "ping", "-c1", "-W2", "srv"]).ok();
    daemon.docker(["network", "disconnect", "n1", "other"]).ok();
    for _ in 0..3 {
        // The only network of a running container goes and comes back at once.
        daemon.docker(["network", "disconnect", "n2", "other"]).ok();
        daemon.docker(["network", "connect", "n2", "other"]).ok();
    }
    assert_ne!(daemon.docker(["exec", "other", "ping", "-c1", "-W1", "10.77.0.50"]).code, 0);
    assert!(daemon.docker(["network", "rm", "n1"]).fails(1).contains("has active endpoints"));
    daemon.docker(["rm", "-f", "srv", "other"]).ok();
    daemon.docker(["network", "rm", "n1", "n2"]).ok();
}

#[test]
fn ports_of_a_running_container_change() {
    let mut daemon = Daemon::start();
    daemon.serve(["--name", "web", "-p", "127.0.0.1:18080:80"]).ok();
    let page = |daemon: &Daemon, port: u16| daemon.fetch(&format!("http://127.0.0.1:{port}/"));
    daemon.eventually("the page", || page(&daemon, 18080));
    let pid = daemon.docker(["inspect", "-f", "{{.State.Pid}}", "web"]).ok();
    daemon.corten(["update", "--publish-add", "127.0.0.1:18090:80", "web"]).ok();
    assert!(page(&daemon, 18080).is_some() && page(&daemon, 18090).is_some());
    daemon.corten(["update", "--publish-rm", "18080:80", "--publish-add", "18091:80", "web"]).ok();
    assert!(
        page(&daemon, 18080).is_none() && page(&daemon, 18090).is_some() && page(&daemon, 18091).is_some()
    );
    let shown = "80/tcp -> 0.0.0.0:18091\n80/tcp -> 127.0.0.1:18090\n80/tcp -> [::]:18091";
    assert_eq!(daemon.docker(["port", "web"]).ok(), shown);
    assert_eq!(daemon.docker(["inspect", "-f", "{{.State.Pid}}", "web"]).ok(), pid, "it is the same run");
    let no = daemon.corten(["update", "--publish-rm", "81", "web"]).fails(1);
    assert!(no.contains("port 81/tcp is not published"), "{no}");
    let taken = daemon.corten(["update", "--publish-add", "127.0.0.1:18090:81", "web"]).fails(1);
    assert!(taken.contains("port is already allocated"), "{taken}");
    // The next daemon and the next run know them.
    daemon.kill();
    daemon.restart();
    assert!(page(&daemon, 18080).is_none() && page(&daemon, 18090).is_some());
    daemon.docker(["restart", "-t", "0", "web"]).ok();
    daemon.eventually("the page after a restart", || page(&daemon, 18090));
    assert_eq!(daemon.docker(["port", "web"]).ok(), shown);
    daemon.corten(["update", "--publish-rm", "80", "web"]).ok();
    assert_eq!(daemon.docker(["port", "web"]).ok(), "");
    // A container that does not run.
    daemon.docker(["stop", "-t", "0", "web"]).ok();
    daemon.corten(["update", "--publish-add", "18092:80", "web"]).ok();
    daemon.docker(["start", "web"]).ok();
    daemon.eventually("the page after a start", || page(&daemon, 18092));
}

/// Published ports belong to the network that answers leave by.
#[test]
fn ports_follow_the_gateway() {
    let daemon = Daemon::start();
    daemon.docker(["network", "create", "aa"]).ok();
    daemon.docker(["network", "create", "bb"]).ok();
    daemon.serve(["--name", "web", "--network", "bb", "-p", "127.0.0.1:18080:80"]).ok();
    let page = || daemon.fetch("http://127.0.0.1:18080/");
    let route = || daemon.docker(["exec", "web", "ip", "route"]).ok();
    daemon.eventually("the page", page);
    let steps: [(&[&str], &str); 3] = [
        (&["network", "connect", "--gw-priority", "5", "aa", "web"], "aa"),
        (&["network", "disconnect", "aa", "web"], "bb"),
        (&["network", "connect", "aa", "web"], "aa"),
    ];
    for (step, network) in steps {
        daemon.docker(step).ok();
        let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).Gateway}}}}");
        let gateway = daemon.docker(["inspect", "-f", &format, "web"]).ok();
        assert!(route().contains(&format!("default via {gateway} ")), "{step:?}: {}", route());
        assert!(page().is_some(), "{step:?}");
        let map = daemon.in_netns("nft").args(["list", "ruleset"]).output().unwrap();
        let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
        let ip = daemon.docker(["inspect", "-f", &format, "web"]).ok();
        let map = String::from_utf8_lossy(&map.stdout);
        assert!(map.contains(&format!("127.0.0.1 . tcp . 18080 : {ip} . 80")), "{step:?}: {map}");
        assert_eq!(daemon.docker(["port", "web"]).ok(), "80/tcp -> 127.0.0.1:18080");
    }
    daemon.docker(["rm", "-f", "web"]).ok();
    daemon.docker(["network", "rm", "aa", "bb"]).ok();
}

#[test]
fn bandwidth_limits() {
    let daemon = Daemon::start();
    daemon
        .corten([
            "run",
            "-d",
            "--name",
            "slow",
            "--net-rate-in",
            "5mbit",
            "--net-rate-out",
            "2.5mbit",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    let queues = || {
        let output = daemon.in_netns("tc").args(["qdisc", "show"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(queues().contains("rate 5Mbit") && queues().contains("rate 2500Kbit"), "{}", queues());
    daemon.docker(["exec", "slow", "ping", "-c1", "-W2", "172.17.0.1"]).ok();
    daemon.corten(["update", "--net-rate-in", "0", "--net-rate-out", "1gbit", "slow"]).ok();
    assert!(!queues().contains("rate 5Mbit") && queues().contains("rate 1Gbit"), "{}", queues());
    daemon.docker(["exec", "slow", "ping", "-c1", "-W2", "172.17.0.1"]).ok();
    let bad = daemon.corten(["run", "--rm", "--net-rate-in", "fast", "busybox", "true"]).fails(125);
    assert!(bad.contains("invalid bandwidth"), "{bad}");
    let slow = daemon.corten(["update", "--net-rate-in", "1kbit", "slow"]).fails(1);
    assert!(slow.contains("less than 8000 bits per second"), "{slow}");
    daemon.docker(["rm", "-f", "slow"]).ok();
    daemon.eventually("no queue is left", || (!queues().contains("tbf")).then_some(()));
}
