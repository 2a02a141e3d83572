//! What containers wrote, read back.

use corten_testkit::{Client, Daemon};

#[test]
fn selections() {
    let daemon = Daemon::start();
    daemon
        .docker([
            "run",
            "--name",
            "ll",
            "busybox",
            "sh",
            "-c",
            "for i in 1 2 3 4 5; do echo line $i; done; echo bad >&2",
        ])
        .ok();
    for client in [Client::Docker, Client::Corten] {
        let logs = |args: &[&str]| daemon.run_with(client, [&["logs"], args, &["ll"]].concat(), b"");
        let all = logs(&[]);
        assert_eq!((all.stdout.lines().count(), all.stderr.trim()), (5, "bad"), "{client:?}");
        assert_eq!(
            logs(&["--tail", "2"]).stdout.trim(),
            "line 5",
            "{client:?}: the last two are line 5 and the error"
        );
        let stamped = logs(&["-t", "--tail", "3"]).stdout;
        assert!(
            stamped.lines().all(|l| l.as_bytes()[4] == b'-' && l.contains("Z line ")),
            "{client:?}: {stamped}"
        );
        assert_eq!(logs(&["--since", "1h"]).stdout.lines().count(), 5, "{client:?}");
        assert_eq!(logs(&["--until", "1h"]).stdout, "", "{client:?}");
        assert_eq!(logs(&["--since", "2030-01-01T00:00:00Z"]).stdout, "", "{client:?}");
    }
}

#[test]
fn following_ends_with_the_container() {
    let daemon = Daemon::start();
    for client in [Client::Docker, Client::Corten] {
        daemon
            .docker([
                "run",
                "-d",
                "--name",
                "ff",
                "busybox",
                "sh",
                "-c",
                "for i in 1 2 3; do echo $i; sleep 0.3; done",
            ])
            .ok();
        assert_eq!(daemon.run_with(client, ["logs", "-f", "ff"], b"").ok(), "1\n2\n3", "{client:?}");
        daemon.docker(["rm", "-f", "ff"]).ok();
    }
}

#[test]
fn rotation_keeps_the_newest() {
    let daemon = Daemon::start();
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    daemon
        .docker([
            "run",
            "--name",
            "rr",
            "--log-opt",
            "max-size=100k",
            "--log-opt",
            "max-file=3",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
    let logs = daemon.docker(["logs", "rr"]).ok();
    assert!(logs.ends_with("line 19999"), "the newest line is there");
    assert!(!logs.contains("line 0\n"), "the oldest is gone");
    assert_eq!(daemon.docker(["logs", "--tail", "1000", "rr"]).ok().lines().count(), 1000);
}

#[test]
fn drivers_none_and_local() {
    let daemon = Daemon::start();
    daemon.docker(["run", "--name", "nn", "--log-driver", "none", "busybox", "echo", "x"]).ok();
    assert!(
        daemon.docker(["logs", "nn"]).fails(1).contains("configured logging driver does not support reading")
    );
    daemon
        .docker(["run", "--name", "oo", "--log-driver", "local", "busybox", "sh", "-c", "echo x; echo y >&2"])
        .ok();
    let ran = daemon.docker(["logs", "oo"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("x\n", "y\n"));
}

#[test]
fn many_lines_lose_nothing() {
    let daemon = Daemon::start();
    daemon.docker(["run", "-d", "--name", "mm", "busybox", "seq", "1", "200000"]).ok();
    daemon.docker(["wait", "mm"]).ok();
    let logs = daemon.corten(["logs", "mm"]).ok();
    assert_eq!(logs.lines().count(), 200_000);
    assert_eq!(logs.lines().last(), Some("200000"));
}

/// Reads datagrams until one ends with `end`; all of them, joined.
fn datagrams(socket: &std::os::unix::net::UnixDatagram, end: &str) -> String {
    socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("a timeout above zero");
    let mut all = String::new();
    let mut buffer = vec![0; 70_000];
    while !all.ends_with(end) {
        let n = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{e}: waiting for {end:?} after {all}"));
        all.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    all
}

/// The receiver gets everything once and in order, and `docker logs` has it as well, although the daemon is killed
/// and the receiver goes away meanwhile.
#[test]
fn delivery_survives_daemon_and_receiver() {
    let mut daemon = Daemon::start();
    let path = daemon.dir().join("syslog");
    let receiver = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let address = format!("syslog-address=unixgram://{}", path.display());
    let script = "echo begin; while [ ! -e /go ]; do sleep 0.05; done; for i in 1 2 3 4 5; do echo down $i; done; \
                  while [ ! -e /end ]; do sleep 0.05; done; echo over >&2";
    daemon
        .docker([
            "run",
            "-d",
            "--name",
            "ss",
            "--log-driver",
            "syslog",
            "--log-opt",
            &address,
            "--log-opt",
            "tag={{.Name}}/{{.ImageName}}",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
    let first = datagrams(&receiver, "begin\n");
    assert!(first.starts_with("<30>") && first.contains(" ss/busybox["), "{first}");
    drop(receiver);
    std::fs::remove_file(&path).unwrap();
    daemon.docker(["exec", "ss", "touch", "/go"]).ok();
    daemon.eventually("the log", || daemon.docker(["logs", "ss"]).stdout.contains("down 5").then_some(()));
    daemon.kill();
    let receiver = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    daemon.restart();
    let rest = datagrams(&receiver, "down 5\n");
    let numbers: Vec<&str> = rest.lines().filter_map(|l| l.rsplit_once(' ').map(|(_, n)| n)).collect();
    assert_eq!(numbers, ["1", "2", "3", "4", "5"], "each once: {rest}");
    daemon.docker(["exec", "ss", "touch", "/end"]).ok();
    let last = datagrams(&receiver, "over\n");
    assert!(last.starts_with("<27>"), "standard error has severity 3: {last}");
    let logs = daemon.docker(["logs", "ss"]);
    assert_eq!(logs.stdout, "begin\ndown 1\ndown 2\ndown 3\ndown 4\ndown 5\n");
    assert_eq!(logs.stderr, "over\n");
}

/// What a container wrote that removes itself is delivered before its files go.
#[test]
fn delivery_of_a_container_that_removes_itself() {
    use std::io::Read;
    let daemon = Daemon::start();
    let path = daemon.dir().join("fluentd");
    let receiver = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let address = format!("fluentd-address=unix://{}", path.display());
    let ran = daemon.docker([
        "run",
        "--rm",
        "--log-driver",
        "fluentd",
        "--log-opt",
        &address,
        "--log-opt",
        "fluentd-async=true",
        "busybox",
        "sh",
        "-c",
        "seq 1 20000 | sed 's/.*/number &./'",
    ]);
    assert_eq!(ran.ok().lines().count(), 20_000);
    let (mut stream, _) = receiver.accept().unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let mut all = Vec::new();
    let mut block = vec![0; 1 << 16];
    while !all.windows(13).rev().take(200_000).any(|w| w == b"number 20000.") {
        let n = stream.read(&mut block).unwrap();
        assert!(n > 0, "closed after {} bytes", all.len());
        all.extend_from_slice(&block[..n]);
    }
    let text = String::from_utf8_lossy(&all);
    assert_eq!(text.matches("number ").count(), 20_000);
}

#[test]
fn drivers_are_refused_in_dockers_words() {
    let daemon = Daemon::start();
    for (driver, option, text) in [
        ("splunk", "a=b", "logger: no log driver named 'splunk' is registered"),
        ("syslog", "a=b", "unknown log opt 'a' for syslog log driver"),
        ("syslog", "syslog-address=unix:///none", "stat /none: no such file or directory"),
        ("gelf", "tag=x", "gelf-address is a required parameter"),
        ("local", "mode=fast", "logger: logging mode not supported: fast"),
    ] {
        let ran = daemon.docker(["create", "--log-driver", driver, "--log-opt", option, "busybox", "true"]);
        let error = ran.fails(1);
        assert!(error.contains(text), "{driver} {option}: {error}");
    }
    // The receiver is looked for when the container starts.
    let options = ["--log-driver", "fluentd", "--log-opt", "fluentd-address=unix:///none", "busybox", "true"];
    // The client reads "no such file" as a missing program.
    let error = daemon.docker([&["run", "--rm"][..], &options].concat()).fails(127);
    assert!(
        error.contains(
            "failed to initialize logging driver: dial unix /none: connect: no such file or directory"
        ),
        "{error}"
    );
    let cached = ["--log-opt", "fluentd-async=true", "--log-opt", "cache-disabled=true"];
    daemon.docker([&["run", "--name", "cc"][..], &cached, &options].concat()).ok();
    let error = daemon.docker(["logs", "cc"]).fails(1);
    assert!(error.contains("configured logging driver does not support reading"), "{error}");
}

/// `mode=blocking`: the container waits for a receiver that does not read, and nothing is lost.
#[test]
fn a_blocking_log_holds_the_container() {
    use std::io::{BufRead, BufReader};
    let daemon = Daemon::start();
    let path = daemon.dir().join("syslog");
    let receiver = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let address = format!("syslog-address=unix://{}", path.display());
    let options =
        ["mode=blocking", "cache-max-size=50k", "cache-max-file=2", "cache-compress=false", &address];
    let options = options.iter().flat_map(|o| ["--log-opt", o]);
    let start = ["run", "-d", "--name", "bb", "--log-driver", "syslog"];
    let args: Vec<&str> = start.into_iter().chain(options).chain(["busybox", "seq", "1", "40000"]).collect();
    let id = daemon.docker(args).ok();
    let log = daemon.dir().join(format!("data/containers/{0}/{0}-json.log", id.trim()));
    let rotated = log.with_extension("log.1");
    let size = || std::fs::metadata(&log).map_or(0, |m| m.len());
    daemon.eventually("a full log", || (rotated.exists() && size() > 40_000).then_some(()));
    assert_eq!(daemon.docker(["inspect", "-f", "{{.State.Running}}", "bb"]).ok().trim(), "true");
    // The first connection is the look whether somebody listens, at the start.
    drop(receiver.accept().unwrap());
    let (stream, _) = receiver.accept().unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let lines = BufReader::new(stream).lines().take(40_000);
    let numbers: Vec<u32> =
        lines.map(|l| l.unwrap().rsplit_once(' ').unwrap().1.parse::<u32>().unwrap()).collect();
    assert_eq!(numbers, (1..=40_000).collect::<Vec<_>>());
    assert_eq!(daemon.docker(["wait", "bb"]).ok().trim(), "0");
}
