//! Contexts that the client has not itself: git repositories, archives behind HTTP, OCI layouts.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use corten_testkit::Daemon;
use corten_testkit::image::tar_of;

use super::{Bench, bench};

/// A server in the daemon's network; ends with the test.
struct Server(Child);

impl Server {
    fn start(daemon: &Daemon, port: u16, program: &str, args: &[&str], directory: &Path) -> Self {
        let mut command = daemon.in_netns(program);
        command.args(args).current_dir(directory).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self(command.spawn().expect("set-up"));
        daemon.eventually("the server", || daemon.listens(port).then_some(()));
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn git(directory: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=me", "-c", "user.email=me@a.test", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .expect("git starts");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A repository with a branch and a tag below `served/repo.git`; answers with its first commit.
fn repository(b: &Bench) -> String {
    b.files(&[
        ("source/Dockerfile", "FROM busybox\nCOPY word /word\nRUN cat /word; ls -A /; test ! -e /.git\n"),
        ("source/word", "first\n"),
        ("source/sub/Dockerfile", "FROM busybox\nCOPY . /c\nRUN echo sub; ls -A /c\n"),
    ]);
    let source = b.path("source");
    git(&source, &["init", "--quiet"]);
    git(&source, &["add", "."]);
    git(&source, &["commit", "--quiet", "-m", "one"]);
    let first = git(&source, &["rev-parse", "HEAD"]);
    git(&source, &["tag", "v1"]);
    b.files(&[("source/word", "second\n")]);
    git(&source, &["commit", "--quiet", "-am", "two"]);
    std::fs::create_dir(b.path("served")).expect("files of the test");
    git(b.context.path(), &["clone", "--quiet", "--bare", "source", "served/repo.git"]);
    git(&b.path("served/repo.git"), &["update-server-info"]);
    first
}

#[test]
fn git_repositories() {
    let Some(b) = bench() else { return };
    let first = repository(&b);
    let served = b.path("served");
    let base = format!("--base-path={}", served.display());
    let args = ["daemon", "--export-all", "--listen=127.0.0.1", &base, "--reuseaddr"];
    let _git = Server::start(&b.daemon, 9418, "git", &args, &served);
    // A server that knows nothing of git: all of the repository is fetched.
    let args = ["-m", "http.server", "--bind", "127.0.0.1", "8080"];
    let _web = Server::start(&b.daemon, 8080, "python3", &args, &served);
    let build = |address: &str| b.docker(&["build", "--no-cache", address]);
    for (address, wanted) in [
        ("git://127.0.0.1/repo.git".to_owned(), "second\n"),
        ("git://127.0.0.1/repo.git#v1".to_owned(), "first\n"),
        ("git://127.0.0.1/repo.git#main:sub".to_owned(), "sub\n"),
        (format!("git://127.0.0.1/repo.git#{first}"), "first\n"),
        ("http://127.0.0.1:8080/repo.git#v1".to_owned(), "first\n"),
        ("http://127.0.0.1:8080/repo.git".to_owned(), "second\n"),
    ] {
        let ran = build(&address);
        assert!(ran.code == 0 && ran.stderr.contains(wanted), "{address}\n{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("load git source {address}")), "{}", ran.stderr);
    }
    for (address, wanted) in [
        ("git://127.0.0.1/repo.git#none", "couldn't find remote ref none"),
        ("git://127.0.0.1/none.git", "failed to fetch remote git://127.0.0.1/none.git"),
        ("git://127.0.0.1/repo.git#main:none", "subdir none not found in repository"),
    ] {
        let ran = build(address);
        assert!(ran.code != 0 && ran.stderr.contains(wanted), "{address}\n{}", ran.stderr);
    }
    // As a source of ADD, and as a further context.
    let file = format!(
        "FROM busybox\nADD --keep-git-dir git://127.0.0.1/repo.git#v1 /kept\nADD git://127.0.0.1/repo.git:/no /\n\
         ADD --checksum={first} git://127.0.0.1/repo.git#v1 /checked\n"
    );
    let file = file.replace("ADD git://127.0.0.1/repo.git:/no /\n", "COPY --from=more word /more\n");
    b.files(&[(
        "Dockerfile",
        &format!("{file}RUN ls -d /kept/.git && cat /kept/word /more && test ! -e /checked/.git\n"),
    )]);
    let said = b.build(&["--build-context", "more=git://127.0.0.1/repo.git"]);
    assert!(said.contains("/kept/.git\n") && said.contains("first\n") && said.contains("second\n"), "{said}");
    b.files(&[("Dockerfile", "FROM busybox\nADD --checksum=abcdef0 git://127.0.0.1/repo.git /x\n")]);
    assert!(b.fails(&[]).contains("expected checksum to match abcdef0"));

    // Archives and Dockerfiles.
    let tar =
        tar_of(&[("Dockerfile", b"FROM busybox\nCOPY x /x\nRUN cat /x\n"), ("x", b"from-web\n")]).unwrap();
    std::fs::write(served.join("context.tar"), tar).unwrap();
    std::fs::write(served.join("file"), "FROM busybox\nRUN echo only-a-file\n").unwrap();
    for (name, wanted) in [("context.tar", "from-web\n"), ("file", "only-a-file\n")] {
        let ran = build(&format!("http://127.0.0.1:8080/{name}"));
        assert!(ran.code == 0 && ran.stderr.contains(wanted), "{}", ran.stderr);
    }
    b.assert_clean();
}

#[test]
fn oci_layouts() {
    let Some(b) = bench() else { return };
    let both = ["--platform", "linux/amd64,linux/arm64"];
    b.files(&[
        ("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\nENV FROM_LAYOUT=yes\n"),
        ("f", "f\n"),
    ]);
    b.build(&[&both[..], &["-o", "type=oci,dest=l.tar,name=l:1"]].concat());
    std::fs::create_dir(b.path("layout")).unwrap();
    let unpacked =
        Command::new("tar").args(["xf", "l.tar", "-C", "layout"]).current_dir(b.context.path()).status();
    assert!(unpacked.unwrap().success());
    b.docker(&["builder", "prune", "-af"]).ok();
    b.files(&[("Dockerfile", "FROM base\nCOPY --from=base / /copied/\n")]);
    let mut digest = std::fs::read_to_string(b.path("layout/index.json")).unwrap();
    digest = digest.split("sha256:").nth(1).unwrap()[..64].to_owned();
    let context = format!("base=oci-layout://{}@sha256:{digest}", b.path("layout").display());
    b.build(&[&both[..], &["--build-context", &context, "-o", "out"]].concat());
    for arch in ["amd64", "arm64"] {
        for path in [format!("out/linux_{arch}/{arch}"), format!("out/linux_{arch}/copied/{arch}")] {
            assert_eq!(std::fs::read_to_string(b.path(&path)).unwrap(), "f\n", "{path}");
        }
    }
    b.build(&["--build-context", &context, "-t", "on-layout"]);
    let env = b.docker(&["inspect", "-f", "{{json .Config.Env}}", "on-layout"]).ok();
    assert!(env.contains("FROM_LAYOUT=yes"), "{env}");
    b.assert_clean();
}
