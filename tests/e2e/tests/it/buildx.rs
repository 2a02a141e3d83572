//! `docker build`, `docker buildx` and `docker compose build` with the real plugins, which `cargo xtask test` and
//! `cargo xtask clients buildx` build where there is a Go. `CORTEN_CLI_PLUGINS` says where they are.

mod contexts;
mod results;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use corten_testkit::image::{tar_of, write_tree};
use corten_testkit::{Client, Daemon, Ran};

/// A daemon, its clients' configuration with the plugins, and a context.
struct Bench {
    daemon: Daemon,
    context: tempfile::TempDir,
}

/// `None` where there are no plugins; the totals of `cargo xtask test` say so.
fn bench() -> Option<Bench> {
    let plugins = std::env::var_os("CORTEN_CLI_PLUGINS").map(PathBuf::from)?;
    let daemon = Daemon::start();
    let ours = daemon.dir().join("config/cli-plugins");
    std::fs::create_dir_all(&ours).expect("files of the test");
    for plugin in std::fs::read_dir(plugins).expect("files of the test") {
        let plugin = plugin.expect("files of the test");
        std::os::unix::fs::symlink(
            plugin.path().canonicalize().expect("files of the test"),
            ours.join(plugin.file_name()),
        )
        .expect("files of the test");
    }
    Some(Bench { daemon, context: tempfile::tempdir().expect("files of the test") })
}

impl Bench {
    fn files(&self, files: &[(&str, &str)]) {
        write_tree(self.context.path(), files).expect("files of the test");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.context.path().join(name)
    }

    /// A docker command that may use BuildKit, in the context.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.daemon.command(Client::Docker);
        command.env_remove("DOCKER_BUILDKIT").env("BUILDKIT_PROGRESS", "plain");
        command.env("HOME", self.daemon.dir()).args(args).current_dir(self.context.path());
        command
    }

    fn docker(&self, args: &[&str]) -> Ran {
        let output = self.command(args).stdin(Stdio::null()).output().expect("docker starts");
        Ran {
            command: args.join(" "),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Builds and answers with the progress.
    #[track_caller]
    fn build(&self, args: &[&str]) -> String {
        let ran = self.docker(&[&["build"], args, &["."]].concat());
        assert_eq!(ran.code, 0, "{}\n{}\n{}", ran.command, ran.stderr, self.daemon.log());
        ran.stderr
    }

    #[track_caller]
    fn fails(&self, args: &[&str]) -> String {
        self.docker(&[&["build"], args, &["."]].concat()).fails(1)
    }

    /// Nothing of a build is left: no container, no directory.
    fn assert_clean(&self) {
        assert_eq!(self.daemon.docker(["ps", "-aq"]).ok(), "");
        self.daemon.eventually("no work is left", || {
            let left = |dir: &Path| std::fs::read_dir(dir).map_or(0, Iterator::count);
            let work = left(&self.daemon.dir().join("data/build/work"));
            (work == 0 && left(&self.daemon.dir().join("exec/build")) == 0).then_some(())
        });
    }
}

#[test]
fn plain_docker_build_builds_what_is_needed() {
    let Some(b) = bench() else { return };
    b.files(&[
        (
            "Dockerfile",
            "FROM busybox AS tools\nARG WHO=nobody\nRUN echo \"hello $WHO\" > /tool\n\
             FROM busybox AS unused\nRUN exit 9\n\
             FROM busybox\nENV A=b\nWORKDIR /srv\nCOPY --from=tools /tool .\nCOPY src/ src/\nLABEL l=v\n\
             CMD [\"sh\", \"-c\", \"cat tool; ls src\"]\n",
        ),
        ("src/keep", "k"),
        ("src/x.log", "l"),
        (".dockerignore", "**/*.log\n"),
    ]);
    let first = b.build(&["-t", "app", "--build-arg", "WHO=you", "--label", "extra=1"]);
    assert!(first.contains("[tools 2/2] RUN echo \"hello $WHO\" > /tool"), "{first}");
    assert!(!first.contains("unused") && !first.contains("CACHED [tools 2/2]"), "{first}");
    assert_eq!(b.daemon.docker(["run", "--rm", "app"]).ok(), "hello you\nkeep");
    let labels = b.daemon.docker(["inspect", "-f", "{{json .Config.Labels}}", "app"]).ok();
    assert_eq!(labels, r#"{"extra":"1","l":"v"}"#);
    let id = b.daemon.docker(["inspect", "-f", "{{.Id}}", "app"]).ok();

    // The same again is the same image, and nothing runs.
    let again = b.build(&["-t", "app", "--build-arg", "WHO=you", "--label", "extra=1"]);
    assert_eq!(
        again.matches("CACHED").count(),
        first.matches("DONE").count().min(again.matches("CACHED").count())
    );
    assert!(
        again.contains("[stage-2 3/4] COPY --from=tools /tool .\n") && again.contains("CACHED"),
        "{again}"
    );
    assert_eq!(b.daemon.docker(["inspect", "-f", "{{.Id}}", "app"]).ok(), id);
    // Steps are no images.
    assert_eq!(b.daemon.docker(["images", "-aq"]).ok().lines().count(), 2);
    let other = b.build(&["-t", "app", "--build-arg", "WHO=me", "--no-cache-filter", "nothing"]);
    assert!(!other.contains("#6 CACHED\n#7 CACHED\n#8 CACHED"), "{other}");
    assert_eq!(b.daemon.docker(["run", "--rm", "app"]).ok(), "hello me\nkeep");
    b.assert_clean();
}

#[test]
fn failures_point_at_their_line() {
    let Some(b) = bench() else { return };
    for (file, wanted) in [
        (
            "FROM busybox\nRUN echo out \\\n  && exit 3\n",
            &[
                "process \"/bin/sh -c echo out   && exit 3\" did not complete successfully: exit code: 3",
                ">>> RUN echo out \\",
                "Dockerfile:2",
            ][..],
        ),
        ("FROM busybox\nCOPY nothing /\n", &["\"/nothing\": not found", ">>> COPY nothing /"]),
        (
            "FROM busybox\nFOO bar\n",
            &["dockerfile parse error on line 2: unknown instruction: FOO", ">>> FOO bar"],
        ),
        ("FROM busybox AS a\n", &["target stage \"zzz\" could not be found"]),
    ] {
        b.files(&[("Dockerfile", file)]);
        let args: &[&str] = if file.contains(" AS a") { &["--target", "zzz"] } else { &[] };
        let said = b.fails(args);
        for text in wanted {
            assert!(said.contains(text), "{file}\n{said}");
        }
        b.assert_clean();
    }
    b.files(&[("Dockerfile", "# check=error=true\nFROM busybox\nCMD shell form\n")]);
    assert!(b.fails(&[]).contains("lint violation found for rules: JSONArgsRecommended"));
    let checked = b.docker(&["build", "--check", "."]);
    assert!(
        checked.stdout.contains("WARNING: JSONArgsRecommended - https://docs.docker.com"),
        "{}",
        checked.stdout
    );
    b.files(&[("Dockerfile", "# fast is not slow\nFROM busybox AS fast\nARG SPEED=9\nFROM fast AS slow\n")]);
    let targets = b.docker(&["build", "--call=targets", "."]).ok();
    assert!(targets.contains("is not slow") && targets.contains("slow (default)"), "{targets}");
    let outline = b.docker(&["build", "--call=outline", "--build-arg", "SPEED=7", "."]).ok();
    assert!(outline.contains("SPEED") && outline.contains('7'), "{outline}");
    std::fs::remove_file(b.path("Dockerfile")).unwrap();
    assert!(b.fails(&[]).contains("failed to read dockerfile: open Dockerfile: no such file or directory"));
}

#[test]
fn secrets_and_agents_reach_their_step_only() {
    let Some(b) = bench() else { return };
    b.files(&[
        (
            "Dockerfile",
            "FROM busybox\n\
             RUN --mount=type=secret,id=s cat /run/secrets/s | rev\n\
             RUN --mount=type=secret,id=s,env=TOKEN echo \"$TOKEN\" | rev\n\
             RUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\" && echo agent\n\
             RUN test ! -e /run/secrets && test ! -e /run/buildkit && echo nothing-left\n",
        ),
        ("secret", "sesame"),
    ]);
    let agent = b.path("agent");
    let listener = std::os::unix::net::UnixListener::bind(&agent).unwrap();
    let ssh = format!("default={}", agent.display());
    let said = b.build(&["--secret", "id=s,src=secret", "--ssh", &ssh, "-t", "s"]);
    assert_eq!(said.matches("emases").count(), 2, "{said}");
    assert!(said.contains("agent\n") && said.contains("nothing-left\n"), "{said}");
    drop(listener);
    let saved = b.docker(&["save", "s", "-o", "s.tar"]);
    saved.ok();
    let bytes = std::fs::read(b.path("s.tar")).unwrap();
    assert!(!bytes.windows(6).any(|w| w == b"sesame"), "the secret is in the image");
    b.files(&[("Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=none,required=true true\n")]);
    assert!(b.fails(&[]).contains("secret none: not found"));
    b.assert_clean();
}

#[test]
fn contexts_from_everywhere() {
    let Some(b) = bench() else { return };
    b.files(&[
        ("Dockerfile", "FROM base\nCOPY --from=more /f /more\nCOPY a /a\nRUN cat /more /a\n"),
        ("a", "from-main\n"),
        ("more/f", "from-more\n"),
    ]);
    let said = b.build(&["--build-context", "base=docker-image://busybox", "--build-context", "more=more"]);
    assert!(said.contains("from-more\n") && said.contains("from-main\n"), "{said}");

    let tar =
        tar_of(&[("Dockerfile", b"FROM busybox\nCOPY x /x\nRUN cat /x\n"), ("x", b"from-tar\n")]).unwrap();
    std::fs::write(b.path("in.tar"), tar).unwrap();
    for (input, wanted) in [("in.tar", "from-tar\n"), ("plain", "from-plain\n")] {
        b.files(&[("plain", "FROM busybox\nRUN echo from-plain\n")]);
        let mut command = b.command(&["build", "-"]);
        let output = command.stdin(std::fs::File::open(b.path(input)).unwrap()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains(wanted), "{said}");
    }
    // Only what changed is sent again.
    b.files(&[("Dockerfile", "FROM busybox\nCOPY . /c\nRUN cat /c/a\n"), ("a", "changed\n")]);
    assert!(b.build(&[]).contains("changed\n"));
    b.assert_clean();
}

#[test]
fn results_leave_in_every_form() {
    let Some(b) = bench() else { return };
    b.files(&[(
        "Dockerfile",
        "FROM busybox AS b\nRUN mkdir /out && echo hi > /out/f && ln -s f /out/l && chmod 755 /out/f\n\
         FROM scratch\nCOPY --from=b /out /\n",
    )]);
    b.build(&["-o", "dir"]);
    assert_eq!(std::fs::read_to_string(b.path("dir/l")).unwrap(), "hi\n");
    assert_eq!(b.path("dir/l").read_link().unwrap(), Path::new("f"));
    b.build(&["-o", "type=tar,dest=o.tar"]);
    let list = Command::new("tar").arg("tf").arg(b.path("o.tar")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&list.stdout), "f\nl\n");
    for kind in ["docker", "oci"] {
        b.build(&["-o", &format!("type={kind},dest={kind}.tar,name=exported:{kind}")]);
        let loaded = b.docker(&["load", "-i", &format!("{kind}.tar")]).ok();
        assert_eq!(loaded, format!("Loaded image: exported:{kind}"));
    }
    b.build(&["--iidfile", "iid", "--metadata-file", "metadata.json", "-t", "m"]);
    let id = b.daemon.docker(["inspect", "-f", "{{.Id}}", "m"]).ok();
    assert_eq!(std::fs::read_to_string(b.path("iid")).unwrap(), id);
    assert!(std::fs::read_to_string(b.path("metadata.json")).unwrap().contains(&id));
    assert_eq!(b.docker(&["build", "-q", "."]).ok(), id);
    b.assert_clean();
}

/// A client that is interrupted, and one that is killed, take their build with them.
#[test]
fn a_build_ends_with_its_client() {
    let Some(b) = bench() else { return };
    b.files(&[("Dockerfile", "FROM busybox\nRUN echo here-i-am; sleep 1000\n")]);
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
        let mut child = b
            .command(&["build", "--no-cache", "."])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        b.daemon
            .eventually("the step runs", || (!b.daemon.docker(["ps", "-q"]).ok().is_empty()).then_some(()));
        // The plugin is a child of the client: both hear of it, as they would from a terminal.
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
        for pid in children.split_whitespace().map(|p| p.parse::<i32>().unwrap()) {
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
        }
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).ok();
        assert!(!child.wait().unwrap().success());
        b.daemon
            .eventually("the step is gone", || b.daemon.docker(["ps", "-aq"]).ok().is_empty().then_some(()));
        b.assert_clean();
    }
}

#[test]
fn the_cache_is_listed_and_emptied() {
    let Some(b) = bench() else { return };
    b.files(&[(
        "Dockerfile",
        "FROM busybox\nARG V\nRUN --mount=type=cache,target=/cache echo \"$V\" >> /cache/f; cat /cache/f; touch /made\n",
    )]);
    b.build(&["--build-arg", "V=alpha"]);
    let said = b.build(&["--build-arg", "V=beta", "-t", "kept"]);
    assert!(said.contains("alpha\n") && said.contains("beta\n"), "{said}");
    let listed = b.docker(&["buildx", "du"]).ok();
    assert!(listed.contains("Total:") && listed.lines().count() >= 4, "{listed}");
    b.docker(&["buildx", "prune", "-af"]).ok();
    let kept = b.daemon.docker(["run", "--rm", "kept", "ls", "/made"]).ok();
    assert_eq!(kept, "/made", "an image is no cache");
    let said = b.build(&["--build-arg", "V=gamma"]);
    assert!(!said.contains("alpha\n") && !said.contains("CACHED [2/2]"), "{said}");
    assert!(b.docker(&["buildx", "ls"]).ok().contains("running"));
    assert!(b.docker(&["buildx", "inspect"]).ok().contains("BuildKit version"));
}

#[test]
fn bake_and_compose() {
    let Some(b) = bench() else { return };
    b.files(&[
        (
            "docker-bake.json",
            r#"{"group":{"default":{"targets":["app"]}},"target":{
                "base":{"dockerfile-inline":"FROM busybox\nENV X=from-base\nRUN echo made > /base\n"},
                "app":{"contexts":{"b":"target:base"},"tags":["baked"],
                       "dockerfile-inline":"FROM b\nRUN echo $X; cat /base\n"}}}"#,
        ),
        (
            "compose.yaml",
            "services:\n  web:\n    build:\n      context: web\n      additional_contexts:\n        lib: ./lib\n  \
             inline:\n    build:\n      dockerfile_inline: |\n        FROM busybox\n        CMD [\"echo\", \"inline\"]\n",
        ),
        ("web/Dockerfile", "FROM busybox\nCOPY --from=lib f /f\nCMD [\"cat\", \"/f\"]\n"),
        ("lib/f", "library\n"),
    ]);
    let baked = b.docker(&["buildx", "bake"]);
    assert!(baked.code == 0 && baked.stderr.contains("from-base\n"), "{}", baked.stderr);
    if !b.daemon.dir().join("config/cli-plugins/docker-compose").exists() {
        println!("skipped: compose (no plugin)");
        return;
    }
    b.docker(&["compose", "build"]).ok();
    let up = b.docker(&["compose", "-p", "p", "up", "--build"]);
    assert!(up.code == 0 && up.stdout.contains("library") && up.stdout.contains("inline"), "{}", up.stderr);
    b.docker(&["compose", "-p", "p", "down"]).ok();
    b.assert_clean();
}
