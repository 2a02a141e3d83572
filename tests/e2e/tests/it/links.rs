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
    daemon.docker(["rm", "--link", "web/store"]).ok();
    assert!(!daemon.docker(["exec", "web", "cat", "/etc/hosts"]).ok().contains("store"));
    assert_eq!(daemon.docker(["inspect", "-f", "{{json .HostConfig.Links}}", "web"]).ok(), "[]");
    assert!(daemon.docker(["rm", "--link", "web/store"]).fails(1).contains("No such container: web/store"));
    let unknown = daemon.docker(["run", "--rm", "--link", "nobody", "busybox", "true"]).fails(125);
    assert!(unknown.contains("could not get container for nobody: No such container: nobody"), "{unknown}");
    daemon.docker(["rm", "-f", "web"]).ok();
    daemon.docker(["run", "-d", "--name", "web", "--link", "db:db2", "busybox", "sleep", "1000"]).ok();
    // Both by themselves after a crash of the daemon and the machine's memory of them.
    daemon.docker(["update", "--restart", "always", "db", "web"]).ok();
    daemon.stop();
    daemon.restart();
    daemon.docker(["exec", "web", "ping", "-c1", "-W2", "db2"]).ok();
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

/// Asks 127.0.0.11 for `srv` every few milliseconds until its standard input ends; prints the longest time without an
/// answer.
const ASKER: &str = "import socket,sys,threading,time
done=[]
threading.Thread(target=lambda:(sys.stdin.read(),done.append(1)),daemon=True).start()
q=b'\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\3srv\\0\\0\\1\\0\\1'
last=time.monotonic(); longest=0; first=True
while not done:
    s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(0.1)
    try:
        s.connect(('127.0.0.11',53)); s.send(q); ok=s.recv(512)[7]>0
    except OSError: ok=False
    s.close(); now=time.monotonic()
    if ok:
        longest=max(longest,now-last); last=now
        if first: print('ready',flush=True); first=False
    time.sleep(0.005)
print(max(longest,time.monotonic()-last),flush=True)
";

/// Names come back with the daemon. How fast is a matter of the machine; docs/networking.md has a figure.
#[test]
fn names_survive_a_crash_of_the_daemon() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let mut daemon = Daemon::start();
    daemon.docker(["network", "create", "n"]).ok();
    for name in ["srv", "asker"] {
        daemon.docker(["run", "-d", "--name", name, "--network", "n", "busybox", "sleep", "1000"]).ok();
    }
    let pid = daemon.docker(["inspect", "-f", "{{.State.Pid}}", "asker"]).ok();
    let mut asker = Command::new("nsenter")
        .args([&format!("--net=/proc/{pid}/ns/net"), "python3", "-c", ASKER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("nsenter and python3");
    let mut lines = BufReader::new(asker.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "ready");
    daemon.kill();
    daemon.restart();
    daemon.docker(["exec", "asker", "ping", "-c1", "-W2", "srv"]).ok();
    drop(asker.stdin.take());
    let gap: f64 = lines.next().expect("a line").expect("text").parse().expect("seconds");
    asker.wait().expect("its end");
    assert!(gap < 20.0, "{gap}");
    corten_testkit::say(format_args!("no names for {gap:.3} s"));
    daemon.docker(["rm", "-f", "srv", "asker"]).ok();
}

/// What a resolver is told, and what it makes of it.
#[test]
fn resolver_files() {
    let daemon = Daemon::start();
    daemon.docker(["network", "create", "n"]).ok();
    let file = |args: &[&str]| {
        let mut all = vec!["run", "--rm"];
        all.extend(args);
        all.extend(["busybox", "cat", "/etc/resolv.conf"]);
        daemon.docker(all).ok()
    };
    let user =
        file(&["--network", "n", "--dns", "192.0.2.5", "--dns-search", "a.test", "--dns-option", "ndots:2"]);
    for want in ["nameserver 127.0.0.11", "search a.test", "options ndots:2", "ExtServers: [192.0.2.5]"] {
        assert!(user.contains(want), "{want}\n{user}");
    }
    let plain = file(&["--dns", "192.0.2.5"]);
    assert!(plain.contains("nameserver 192.0.2.5") && !plain.contains("127.0.0.11"), "{plain}");
}

/// A container in another's network has its address, its ports and its names.
#[test]
fn a_network_is_shared() {
    let daemon = Daemon::start();
    daemon.docker(["network", "create", "n"]).ok();
    daemon
        .docker([
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "n",
            "-p",
            "18080:80",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    daemon.serve(["--name", "side", "--network", "container:web"]).ok();
    daemon.eventually("the page of the container beside", || daemon.fetch("http://127.0.0.1:18080/"));
    daemon.docker(["exec", "side", "ping", "-c1", "-W2", "web"]).ok();
    let addresses =
        |name: &str| daemon.docker(["exec", name, "ip", "-4", "addr", "show", "dev", "eth0"]).ok();
    assert_eq!(addresses("web"), addresses("side"));
    let graph = daemon.corten(["network", "graph"]).ok();
    assert!(
        graph.contains("from outside: 0.0.0.0:18080 → 80/tcp")
            && graph.contains("side shares the network of"),
        "{graph}"
    );
    assert!(daemon.corten(["network", "graph", "--svg", "n"]).ok().starts_with("<svg"));
    assert!(daemon.corten(["network", "graph", "nope"]).fails(1).contains("network nope not found"));
    daemon.docker(["rm", "-f", "side", "web"]).ok();
}

#[test]
fn links_are_names_in_lists() {
    let daemon = Daemon::start();
    daemon.docker(["run", "-d", "--name", "db", "busybox", "sleep", "1000"]).ok();
    daemon.docker(["run", "-d", "--name", "web", "--link", "db:store", "busybox", "sleep", "1000"]).ok();
    let named = daemon.docker(["ps", "--no-trunc", "--format", "{{.Names}}", "--filter", "name=store"]);
    assert_eq!(named.ok(), "db,web/store");
}
