//! Wrong input: Docker's error, nothing half-made, the daemon alive.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use corten_testkit::Daemon;
use serde_json::json;

#[test]
fn the_daemon_survives_garbage() {
    let daemon = Daemon::start();
    let pid = daemon.pid();
    for raw in [
        &b"\x00\xff\xfegarbage\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nContent-Type: application/json\r\n\r\n{",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /containers/%00/json HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /images/..%2f..%2f..%2fetc%2fpasswd/json HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
        stream.write_all(raw).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let r = corten_testkit::http::request(
        &daemon.socket(),
        "POST",
        "/containers/create",
        Some(("application/json", deep.as_bytes())),
    );
    assert_eq!(r.unwrap().status, 400);
    assert_eq!(daemon.pid(), pid);
    daemon.docker(["run", "--rm", "busybox", "true"]).ok();
}

#[test]
fn archives_that_attack() {
    let daemon = Daemon::start();
    daemon.docker(["run", "-d", "--name", "cc", "busybox", "sleep", "1000"]).ok();
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("owned");
    let target_text = target.display().to_string();
    let script = format!(
        r#"
import tarfile, io, sys
def make(entries):
    f = io.BytesIO()
    with tarfile.open(fileobj=f, mode="w") as t:
        for name, kind, link, data in entries:
            i = tarfile.TarInfo(name); i.type = kind; i.linkname = link; i.size = len(data); i.mode = 0o644
            t.addfile(i, io.BytesIO(data))
    return f.getvalue()
R, S, L = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
cases = [
  [("../../../../../../../../{t}", R, "", b"x")],
  [("{t}", R, "", b"x")],
  [("l", S, "{d}", b""), ("l/owned", R, "", b"x")],
  [("l", S, "../../../../../../..{d}", b""), ("l/owned", R, "", b"x")],
  [("h", L, "../../../../../../../../etc/passwd", b""), ("h", R, "", b"x")],
  [("d", S, "{d}", b""), ("d/sub/../owned", R, "", b"x")],
]
for n, c in enumerate(cases):
    open(sys.argv[1] + "/%d.tar" % n, "wb").write(make(c))
"#,
        t = target_text,
        d = outside.path().display()
    );
    let made =
        std::process::Command::new("python3").args(["-c", &script]).arg(outside.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let passwd = std::fs::read("/etc/passwd").unwrap();
    for n in 0..6 {
        let tar = std::fs::read(outside.path().join(format!("{n}.tar"))).unwrap();
        for path in [
            "/containers/cc/archive?path=/tmp",
            "/images/load",
            "/images/create?fromSrc=-&repo=evil",
            "/build",
        ] {
            let method = if path.contains("archive") { "PUT" } else { "POST" };
            let r = corten_testkit::http::request(
                &daemon.socket(),
                method,
                path,
                Some(("application/x-tar", &tar)),
            );
            assert!(r.is_ok(), "{n} {path}: {r:?}");
            assert!(!target.exists(), "{n} {path} wrote outside");
            assert_eq!(std::fs::read("/etc/passwd").unwrap(), passwd, "{n} {path}");
        }
    }
    daemon.docker(["exec", "cc", "true"]).ok();
}

#[test]
fn a_name_conflict_leaves_the_first() {
    let daemon = Daemon::start();
    let id = daemon.docker(["create", "--name", "xx", "busybox", "true"]).ok();
    let refused = daemon.docker(["create", "--name", "xx", "busybox", "true"]).fails(1);
    assert!(
        refused.contains(&format!("The container name \"/xx\" is already in use by container \"{id}\"")),
        "{refused}"
    );
    assert_eq!(daemon.docker(["ps", "-aq", "--no-trunc"]).ok(), id);
}

#[test]
fn a_full_tmpfs_is_an_error_of_the_container() {
    let daemon = Daemon::start();
    // Bounded and private to this test; it says nothing of a full data root.
    let ran = daemon.docker([
        "run",
        "--rm",
        "--tmpfs",
        "/t:size=1m",
        "busybox",
        "dd",
        "if=/dev/zero",
        "of=/t/x",
        "bs=1M",
        "count=4",
    ]);
    assert!(ran.code == 1 && ran.stderr.contains("No space left on device"), "{}", ran.stderr);
    daemon.docker(["run", "--rm", "busybox", "true"]).ok();
}

#[test]
fn wrong_json_types_name_the_field() {
    let daemon = Daemon::start();
    let (status, body) = daemon.request("POST", "/containers/create", Some(&json!({"Image": 5})));
    assert_eq!(status, 400, "{body}");
    assert!(body["message"].as_str().unwrap().contains("cannot unmarshal number"), "{body}");
}
