//! Links, and names on the default bridge.

use corten_testkit::{Daemon, DaemonOptions};

#[test]
fn links_on_the_default_bridge() {
    let mut daemon = Daemon::start();
    daemon
        .docker([
            "run",
            "-d",
            "--name",
            "db",
            "--hostname",
            "dbhost",
            "--expose",
            "5432",
            "-e",
            "PASS=secret",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    let ip = daemon.docker(["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "db"]).ok();
    daemon.docker(["run", "-d", "--name", "web", "--link", "db:store", "busybox", "sleep", "1000"]).ok();
    assert_eq!(
        daemon.docker(["inspect", "-f", "{{json .HostConfig.Links}}", "web"]).ok(),
        r#"["/db:/web/store"]"#
    );
    assert!(
        daemon
            .docker(["exec", "web", "cat", "/etc/hosts"])
            .ok()
            .contains(&format!("{ip}\tstore dbhost db\n"))
    );
    daemon.docker(["exec", "web", "ping", "-c1", "-W2", "store"]).ok();
    let env = daemon.docker(["exec", "web", "env"]).ok();
    for want in [
        format!("STORE_PORT_5432_TCP_ADDR={ip}"),
        "STORE_ENV_PASS=secret".into(),
        "STORE_NAME=/web/store".into(),
    ] {
        assert!(env.lines().any(|l| l == want), "{want}\n{env}");
    }
    // The other one comes back under another address, and is found.
    daemon.docker(["stop", "-t", "0", "db"]).ok();
    daemon.docker(["run", "-d", "--name", "squatter", "busybox", "sleep", "1000"]).ok();
    assert_eq!(daemon.docker(["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "squatter"]).ok(), ip);
    let refused = daemon.docker(["restart", "-t", "0", "web"]).fails(1);
    assert!(refused.contains("Cannot link to a non running container: /db AS /web/store"), "{refused}");
    daemon.docker(["start", "db", "web"]).ok();
    daemon.docker(["restart", "-t", "0", "db"]).ok();
    let moved = daemon.docker(["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "db"]).ok();
    assert_ne!(moved, ip);
    assert!(daemon.docker(["exec", "web", "ping", "-c1", "-W2", "store"]).ok().contains(&moved));
    let unknown = daemon.docker(["run", "--rm", "--link", "nobody", "busybox", "true"]).fails(125);
    assert!(unknown.contains("could not get container for nobody: No such container: nobody"), "{unknown}");
    // Both by themselves after a crash of the daemon and the machine's memory of them.
    daemon.docker(["update", "--restart", "always", "db", "web"]).ok();
    daemon.stop();
    daemon.restart();
    daemon.docker(["exec", "web", "ping", "-c1", "-W2", "store"]).ok();
}

#[test]
fn names_on_the_default_bridge_where_switched_on() {
    let daemon =
        Daemon::start_with(DaemonOptions { args: vec!["--bridge-dns".into()], ..DaemonOptions::default() });
    daemon.import_busybox();
    daemon.docker(["run", "-d", "--name", "srv", "busybox", "sleep", "1000"]).ok();
    daemon.docker(["run", "--rm", "busybox", "ping", "-c1", "-W2", "srv"]).ok();
    // A step of a build is on the default bridge too.
    let dir = daemon.dir().join("context");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("Dockerfile"), "FROM busybox\nRUN ping -c1 -W2 srv\n").unwrap();
    let built = daemon.corten([std::ffi::OsStr::new("build"), "-t".as_ref(), "x".as_ref(), dir.as_os_str()]);
    assert_eq!(built.code, 0, "{}{}", built.stdout, built.stderr);
}

#[test]
fn names_in_builds_on_user_networks() {
    let daemon = Daemon::start();
    daemon.docker(["network", "create", "n"]).ok();
    daemon.docker(["run", "-d", "--name", "srv", "--network", "n", "busybox", "sleep", "1000"]).ok();
    let dir = daemon.dir().join("context");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("Dockerfile"), "FROM busybox\nRUN ping -c1 -W2 srv\n").unwrap();
    let args: Vec<std::ffi::OsString> =
        ["build", "--network", "n"].map(Into::into).into_iter().chain([dir.into_os_string()]).collect();
    let built = daemon.corten(&args);
    assert_eq!(built.code, 0, "{}{}", built.stdout, built.stderr);
    daemon.docker(["rm", "-f", "srv"]).ok();
}
