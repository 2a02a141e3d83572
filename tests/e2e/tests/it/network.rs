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
    daemon
        .docker([
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            "127.0.0.1:18080:80",
            "-p",
            "18081-18083:81-83",
            "busybox",
            "httpd",
            "-f",
            "-p",
            "80",
            "-h",
            "/www",
        ])
        .ok();
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
    daemon
        .docker([
            "run", "-d", "--name", "any", "-p", "80", "busybox", "httpd", "-f", "-p", "80", "-h", "/www",
        ])
        .ok();
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
