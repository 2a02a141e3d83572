//! Attacks on the engine as a whole: by images, by steps of builds, by what runs in a container and by other users
//! of the machine. Attacks on the runtime alone are in its own tests.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use corten_testkit::daemon::DaemonOptions;
use corten_testkit::image::{tar_of, write_tree};
use corten_testkit::{Daemon, Ran, http};

fn start(args: &[&str]) -> Daemon {
    let args = args.iter().map(ToString::to_string).collect();
    let daemon = Daemon::start_with(DaemonOptions { args, ..DaemonOptions::default() });
    daemon.import_busybox();
    daemon
}

fn build(daemon: &Daemon, files: &[(&str, &str)], args: &[&str]) -> Ran {
    let context = tempfile::tempdir().expect("a temporary directory");
    write_tree(context.path(), files).expect("a context");
    let path = context.path().display().to_string();
    daemon.docker([&["build"], args, &[path.as_str()]].concat())
}

/// CVE-2026-53488, CVE-2026-53492: what an image says of itself stays a label. No runtime, restart or log driver and
/// no device hears of it.
#[test]
fn labels_of_images_stay_labels() {
    // A runtime that keeps what it is told to run.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (runtime, kept) = (dir.path().join("runtime"), dir.path().join("config.json"));
    let script = format!(
        "#!/bin/sh\nfor a; do [ \"$was\" = --bundle ] && cp \"$a/config.json\" {}; was=$a; done\nexec runc \"$@\"\n",
        kept.display()
    );
    std::fs::write(&runtime, script).unwrap();
    std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = start(&["--add-runtime", &format!("kept={}", runtime.display())]);
    let owned = dir.path().join("owned");
    let labels = [
        format!("containerd.io/restart.loguri=binary:///bin/touch?{}", owned.display()),
        "containerd.io/restart.status=running".to_owned(),
        "cdi.k8s.io/gpu=vendor.com/gpu=0".to_owned(),
        format!("run.oci.hooks.stderr={}", owned.display()),
        "run.oci.keep_original_groups=1".to_owned(),
        "io.kubernetes.cri-o.Devices=/dev/mem:/dev/mem:rwm".to_owned(),
        "org.systemd.property.ExecStopPost='/bin/true'".to_owned(),
        format!("org.criu.config={}", owned.display()),
        "io.katacontainers.config.hypervisor.path=/bin/sh".to_owned(),
    ];
    let file: String =
        labels.iter().map(|l| format!("LABEL \"{}\"\n", l.replacen('=', "\"=\"", 1))).collect();
    build(&daemon, &[("Dockerfile", &format!("FROM busybox\n{file}"))], &["-t", "hostile"]).ok();
    let devices = |image: &str| {
        let ls = ["run", "--rm", "--runtime", "kept", image, "ls", "/dev"];
        let listed = daemon.docker(ls).ok();
        let config = std::fs::read(&kept).expect("the runtime was asked");
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        (listed, config["annotations"].clone(), config["hooks"].clone(), config["linux"]["devices"].clone())
    };
    let hostile = devices("hostile");
    assert_eq!(hostile, devices("busybox"));
    assert!(!hostile.1.to_string().contains("containerd.io"), "{}", hostile.1);
    // The built-in runtime: labels are kept and shown, and that is all.
    let label =
        "{{index .Config.Labels \"containerd.io/restart.status\"}} {{.HostConfig.RestartPolicy.Name}}";
    daemon.docker(["run", "--name", "one", "hostile", "true"]).ok();
    assert_eq!(daemon.docker(["inspect", "-f", label, "one"]).ok(), "running no");
    assert_eq!(daemon.docker(["inspect", "-f", "{{json .HostConfig.Annotations}}", "one"]).ok(), "null");
    assert!(!owned.exists());
}

/// CVE-2025-9074: a container with Docker's defaults finds no way to the engine, neither by a socket in its root nor
/// by an abstract one, nor at the addresses of its gateway; one with the host's network finds what is on TCP only.
#[test]
fn the_engine_is_out_of_reach() {
    let daemon = start(&["-H", "tcp://127.0.0.1:2375"]);
    assert!(daemon.listens(2375));
    let look = "find / -xdev -type s 2>/dev/null; grep -c @ /proc/net/unix; \
                for a in $(ip route | awk '/default/{print $3}') 127.0.0.1 host.docker.internal; do \
                  nc -w 1 $a 2375 < /dev/null > /dev/null 2>&1 && echo reached $a; done; true";
    let run =
        |args: &[&str]| daemon.docker([&["run", "--rm"], args, &["busybox", "sh", "-c", look]].concat()).ok();
    assert_eq!(run(&[]), "0");
    assert_eq!(run(&["--add-host", "host.docker.internal:host-gateway"]), "0");
    assert_eq!(run(&["--network", "none"]), "0");
    daemon.docker(["network", "create", "own"]).ok();
    assert_eq!(run(&["--network", "own"]), "0");
    assert_eq!(run(&["--network", "host"]), "0\nreached 127.0.0.1");
}

/// CVE-2019-13509: with `--debug`, nothing secret is in the log.
#[test]
fn secrets_are_in_no_log() {
    let daemon = start(&["--debug", "--log-level", "debug"]);
    const SECRET: &str = "hunter2-hunter2";
    let login = serde_json::json!({"username": "u", "password": SECRET, "serveraddress": "127.0.0.1:1"});
    let _refused = daemon.request("POST", "/auth", Some(&login));
    // {"username":"u","password":"hunter2-hunter2"}
    let header = "eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6Imh1bnRlcjItaHVudGVyMiJ9";
    let pull = format!(
        "curl -s -X POST -H 'X-Registry-Auth: {header}' --unix-socket {} \
         'http://d/images/create?fromImage=127.0.0.1:1/x&tag=1'",
        daemon.socket().display()
    );
    Command::new("sh").args(["-c", &pull]).stdout(Stdio::null()).status().expect("curl");
    daemon.docker(["run", "--rm", "-e", &format!("PASSWORD={SECRET}"), "busybox", "true"]).ok();
    daemon.docker(["run", "--rm", "busybox", "echo", SECRET]).ok();
    daemon.docker(["run", "-d", "--name", "cc", "busybox", "sleep", "1000"]).ok();
    daemon.docker(["exec", "-e", &format!("PASSWORD={SECRET}"), "cc", "echo", SECRET]).ok();
    let file = [("Dockerfile", "FROM busybox\nARG PASSWORD\nRUN echo $PASSWORD > /dev/null\n")];
    build(&daemon, &file, &["--build-arg", &format!("PASSWORD={SECRET}")]).ok();
    let volume = ["volume", "create", "--opt", "type=cifs", "--opt", "device=//127.0.0.1/x"];
    let volume = [&volume[..], &["--opt", "o=username=u,password=hunter2-hunter2", "share"]].concat();
    daemon.docker(volume).ok();
    daemon.docker(["run", "--rm", "-v", "share:/s", "busybox", "true"]).fails(125);
    let log = daemon.log();
    assert!(log.contains("DEBUG"), "the log is no debug log: {log}");
    assert!(!log.contains(SECRET) && !log.contains(header), "{log}");
}

/// CVE-2021-41091: another user of the machine neither reads what containers have nor runs their setuid programs.
#[test]
fn data_is_for_root_only() {
    let daemon = start(&[]);
    // The temporary directory itself is not what is tested.
    std::fs::set_permissions(daemon.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let plant = "cp /bin/busybox /su; chmod 4755 /su; cp /su /v/su; chmod 4755 /v/su; sleep 1000";
    daemon.docker(["run", "-d", "--name", "cc", "-v", "vol:/v", "busybox", "sh", "-c", plant]).ok();
    daemon.eventually("both are there", || {
        (daemon.docker(["exec", "cc", "test", "-u", "/v/su"]).code == 0).then_some(())
    });
    let user = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).args(args);
        String::from_utf8_lossy(&command.output().expect("setpriv").stdout).trim().to_owned()
    };
    let dir = daemon.dir().display().to_string();
    assert!(user(&["ls", &dir]).contains("data"), "the user could not look at all");
    assert_eq!(user(&["find", &dir, "-mindepth", "2", "-not", "-path", "*/config/*"]), "");
    // By its full name neither.
    let mount = daemon.docker(["volume", "inspect", "-f", "{{.Mountpoint}}", "vol"]).ok();
    assert!(Path::new(&mount).join("su").exists());
    assert_eq!(user(&[&format!("{mount}/su"), "id", "-u"]), "");
    // Through the container's own root neither.
    let pid = daemon.docker(["inspect", "-f", "{{.State.Pid}}", "cc"]).ok();
    assert_eq!(user(&["ls", &format!("/proc/{pid}/root/")]), "");
}

/// CVE-2021-21285, CVE-2021-41190, CVE-2014-9358: an archive's documents are wrong, ambiguous or lead elsewhere. The
/// answer is an error, the daemon lives, and no image is there.
#[test]
fn wrong_documents_of_images() {
    let daemon = start(&[]);
    let before = daemon.docker(["images", "-aq"]).ok();
    let pid = daemon.pid();
    let outside = tempfile::tempdir().expect("a temporary directory");
    let target = outside.path().join("owned").display().to_string();
    let deep = "[".repeat(200_000);
    let index = |digest: &str, size: &str, kind: &str| {
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}]}}"#
        )
    };
    let manifest_kind = "application/vnd.oci.image.manifest.v1+json";
    let zeros = format!("sha256:{}", "0".repeat(64));
    let old = |config: &str, layers: &str| {
        format!(r#"[{{"Config":{config},"RepoTags":["evil:1"],"Layers":{layers}}}]"#)
    };
    let documents: Vec<(&str, String)> = vec![
        ("manifest.json", "null".into()),
        ("manifest.json", "[null]".into()),
        ("manifest.json", "{".into()),
        ("manifest.json", deep.clone()),
        ("manifest.json", old("null", "null")),
        ("manifest.json", old("\"c.json\"", "[null]")),
        ("manifest.json", old(&format!("\"../../../../../../..{target}\""), "[]")),
        ("manifest.json", old(&format!("\"{target}\""), "[\"/etc/shadow\"]")),
        ("manifest.json", old("\"c.json\"", &format!("[\"../../../../../..{target}\"]"))),
        ("index.json", "null".into()),
        ("index.json", deep),
        ("index.json", index(&zeros, "-1", manifest_kind)),
        ("index.json", index(&zeros, "18446744073709551615", manifest_kind)),
        ("index.json", index("sha256:../../../../etc/passwd", "10", manifest_kind)),
        ("index.json", index("", "0", "")),
        ("index.json", index(&zeros, "10", "text/plain")),
        ("index.json", r#"{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}"#.into()),
        ("repositories", format!(r#"{{"evil":{{"1":"../../../../../..{target}"}}}}"#)),
    ];
    let config = r#"{"architecture":5,"rootfs":{"type":"layers","diff_ids":[null]},"config":{"Volumes":[]}}"#;
    for (name, text) in documents {
        let layout = r#"{"imageLayoutVersion":"1.0.0"}"#;
        let files =
            [("oci-layout", layout.as_bytes()), ("c.json", config.as_bytes()), (name, text.as_bytes())];
        let tar = tar_of(&files).expect("an archive");
        let answer =
            http::request(&daemon.socket(), "POST", "/images/load", Some(("application/x-tar", &tar)));
        let answer = answer.unwrap_or_else(|e| panic!("{name} {:.60}: {e:#}", text));
        let said = String::from_utf8_lossy(&answer.body);
        assert!(answer.status >= 400 || said.contains("error"), "{name} {text:.60}: {said}");
        assert!(!said.contains("panick"), "{name} {text:.60}: {said}");
    }
    assert_eq!((daemon.pid(), daemon.docker(["images", "-aq"]).ok()), (pid, before));
    assert!(!Path::new(&target).exists());
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

/// CVE-2024-23651, CVE-2024-9407, CVE-2024-9675: mounts of a step that climb out of a cache or change how it is seen.
#[test]
fn mounts_of_steps_stay_where_they_belong() {
    let daemon = start(&[]);
    let outside = tempfile::tempdir().expect("a temporary directory");
    let out = outside.path().display().to_string();
    std::fs::write(outside.path().join("secret"), "top-secret").unwrap();
    let plant = format!(
        "FROM busybox\nRUN --mount=type=cache,id=x,target=/c rm -f /c/sub && ln -s {out} /c/sub && mkdir -p /c/dir\n"
    );
    build(&daemon, &[("Dockerfile", &plant)], &[]).ok();
    for (mount, refusal) in [
        ("type=cache,id=x,source=sub,target=/m".to_owned(), Some("no such file or directory")),
        (
            "type=cache,id=x,target=/m,bind-propagation=shared".to_owned(),
            Some("unexpected key 'bind-propagation'"),
        ),
        (
            "type=bind,from=busybox,target=/m,bind-propagation=shared".to_owned(),
            Some("unexpected key 'bind-propagation'"),
        ),
        (format!("type=cache,id=../../../../../..{out},target=/m"), None),
        (format!("type=cache,id={out},target=/m"), None),
        (format!("type=cache,from=busybox,source=../../../../../..{out},target=/m"), Some("")),
        (format!("type=bind,from=busybox,source=../../../../../..{out},target=/m"), Some("")),
        (format!("type=bind,source=../../../../../..{out},target=/m"), Some("")),
        (format!("type=secret,id=../../../../../..{out}/secret,target=/m/secret"), None),
    ] {
        let script = "cat /m/secret /m/sub/secret 2>/dev/null; touch /m/written 2>/dev/null; true";
        let file = format!("FROM busybox\nRUN --mount={mount} {script}\n");
        let ran = build(&daemon, &[("Dockerfile", &file)], &["--no-cache"]);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!said.contains("top-secret"), "{mount}: {said}");
        assert_eq!(ran.code != 0, refusal.is_some(), "{mount}: {said}");
        assert!(refusal.is_none_or(|r| said.contains(r)), "{mount}: {said}");
    }
    let left: Vec<_> = std::fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["secret"]);
}

/// CVE-2024-23652: the place of a mount is swapped for a link by the step; what is cleared away afterwards is not what
/// the link shows.
#[test]
fn clearing_mount_points_follows_no_link() {
    let daemon = start(&[]);
    let outside = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(outside.path().join("b")).unwrap();
    std::fs::write(outside.path().join("f"), "").unwrap();
    let file = format!(
        "FROM busybox\nRUN --mount=type=cache,target=/a/b --mount=type=bind,source=x,target=/a/f \
         mv /a /moved && ln -s {} /a\n",
        outside.path().display()
    );
    build(&daemon, &[("Dockerfile", &file), ("x", "x")], &["-t", "swapped"]).ok();
    let link = daemon.docker(["run", "--rm", "swapped", "readlink", "/a"]).ok();
    assert_eq!(link, outside.path().display().to_string(), "there was no attack");
    let mut left: Vec<_> =
        std::fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["b", "f"]);
}
