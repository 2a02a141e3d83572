//! Our registry with our client, docker's client and skopeo.

use std::process::{Child, Command, Stdio};

use corten_testkit::Daemon;
use corten_testkit::daemon::bin_dir;

pub(crate) struct Registry {
    child: Child,
    _root: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn start(daemon: &Daemon, extra: &[&str]) -> Self {
        let root = tempfile::tempdir().expect("set-up");
        let child = daemon
            .in_netns(bin_dir().join("corten"))
            .args(["registry", "serve", "--addr", "127.0.0.1:5000", "--root"])
            .arg(root.path())
            .args(extra)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("set-up");
        let registry = Self { child, _root: root };
        daemon.eventually("the registry", || daemon.listens(5000).then_some(()));
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn push_and_pull() {
    let daemon = Daemon::start();
    let _registry = Registry::start(&daemon, &[]);
    let id = daemon.docker(["inspect", "-f", "{{.Id}}", "busybox"]).ok();
    daemon.docker(["tag", "busybox", "127.0.0.1:5000/team/box:1"]).ok();
    let pushed = daemon.docker(["push", "127.0.0.1:5000/team/box:1"]).ok();
    assert!(pushed.contains("1: digest: sha256:"), "{pushed}");
    assert!(daemon.corten(["push", "127.0.0.1:5000/team/box:1"]).ok().contains("Layer already exists"));
    daemon.docker(["rmi", "127.0.0.1:5000/team/box:1", "busybox"]).ok();
    let pulled = daemon.docker(["pull", "127.0.0.1:5000/team/box:1"]).ok();
    assert!(pulled.contains("Status: Downloaded newer image"), "{pulled}");
    assert_eq!(daemon.docker(["inspect", "-f", "{{.Id}}", "127.0.0.1:5000/team/box:1"]).ok(), id);
    assert!(daemon.corten(["pull", "127.0.0.1:5000/team/box:1"]).ok().contains("Image is up to date"));
    daemon.docker(["rmi", "127.0.0.1:5000/team/box:1"]).ok();
    assert_eq!(daemon.corten(["run", "--rm", "127.0.0.1:5000/team/box:1", "echo", "pulled"]).ok(), "pulled");
    let missing = daemon.docker(["pull", "127.0.0.1:5000/team/none"]).fails(1);
    assert!(missing.contains("not found") || missing.contains("does not exist"), "{missing}");
}

#[test]
fn skopeo_reads_what_we_push_and_we_what_it_pushes() {
    let daemon = Daemon::start();
    let _registry = Registry::start(&daemon, &[]);
    daemon.docker(["tag", "busybox", "127.0.0.1:5000/ours:1"]).ok();
    daemon.docker(["push", "127.0.0.1:5000/ours:1"]).ok();
    let dir = tempfile::tempdir().unwrap();
    let skopeo = |args: &[&str]| {
        let out = daemon.in_netns("skopeo").args(args).output().expect("skopeo");
        assert!(out.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let oci = format!("oci:{}/copy:1", dir.path().display());
    skopeo(&["copy", "--src-tls-verify=false", "docker://127.0.0.1:5000/ours:1", &oci]);
    for (format, name) in [("oci", "theirs-oci"), ("v2s2", "theirs-docker")] {
        let to = format!("docker://127.0.0.1:5000/{name}:1");
        skopeo(&["copy", "--dest-tls-verify=false", "--format", format, &oci, &to]);
        assert_eq!(
            daemon.docker(["run", "--rm", &format!("127.0.0.1:5000/{name}:1"), "echo", "alive"]).ok(),
            "alive"
        );
    }
    assert!(skopeo(&["list-tags", "--tls-verify=false", "docker://127.0.0.1:5000/ours"]).contains("\"1\""));
}

#[test]
fn passwords() {
    let daemon = Daemon::start();
    // "secret" hashed once by htpasswd -nbB; a hash is no secret and saves the tests a package.
    let users = daemon.dir().join("htpasswd");
    let hash = Command::new("python3").args(["-c", "import crypt; print('me:' + crypt.crypt('secret', crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))"]).output().unwrap();
    std::fs::write(&users, hash.stdout).unwrap();
    let _registry = Registry::start(&daemon, &["--htpasswd", &users.display().to_string()]);
    daemon.docker(["tag", "busybox", "127.0.0.1:5000/private:1"]).ok();
    let refused = daemon.docker(["push", "127.0.0.1:5000/private:1"]).fails(1);
    assert!(
        refused.contains("no basic auth credentials") || refused.contains("authentication required"),
        "{refused}"
    );
    let login = |password: &str| {
        daemon.run_with(
            corten_testkit::Client::Docker,
            ["login", "-u", "me", "--password-stdin", "127.0.0.1:5000"],
            password.as_bytes(),
        )
    };
    assert_ne!(login("wrong").code, 0);
    assert!(login("secret").ok().contains("Login Succeeded"));
    daemon.docker(["push", "127.0.0.1:5000/private:1"]).ok();
    daemon.docker(["rmi", "127.0.0.1:5000/private:1"]).ok();
    daemon.corten(["pull", "127.0.0.1:5000/private:1"]).ok();
    daemon.docker(["logout", "127.0.0.1:5000"]).ok();
    assert_ne!(daemon.docker(["pull", "127.0.0.1:5000/private:1"]).code, 0);
}
