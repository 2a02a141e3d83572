//! docker build (the classic builder) and ours.

use corten_testkit::image::write_tree;
use corten_testkit::{Client, Daemon};

#[test]
fn instructions_end_up_in_the_image() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let dockerfile = "# escape=\\\nARG BASE=busybox\nFROM $BASE AS tools\nRUN echo from-tools > /tool\n\nFROM busybox\n\
        ARG WHO=nobody\nENV GREETING=\"hello $WHO\" OTHER=1\nLABEL a=b\nWORKDIR /srv/app\nCOPY --from=tools /tool .\n\
        COPY --chown=alice:wheel src/ ./src/\nADD side.tar /unpacked/\nRUN <<EOF\necho one > made\necho two >> made\nEOF\n\
        EXPOSE 80/tcp 53/udp\nVOLUME /data\nUSER alice\nSTOPSIGNAL SIGINT\n\
        HEALTHCHECK --interval=5s CMD true\nENTRYPOINT [\"sh\", \"-c\"]\nCMD [\"echo $GREETING; cat tool made; ls src\"]\n";
    write_tree(
        dir.path(),
        &[("Dockerfile", dockerfile), ("src/keep", "k"), ("src/x.log", "l"), (".dockerignore", "**/*.log\n")],
    )
    .unwrap();
    std::fs::write(dir.path().join("side.tar"), corten_testkit::image::tar_of(&[("in-tar", b"t")]).unwrap())
        .unwrap();
    for client in [Client::Docker, Client::Corten] {
        let context = dir.path().display().to_string();
        let built = daemon.run_with(client, ["build", "--build-arg", "WHO=you", "-t", "app", &context], b"");
        let built = built.ok();
        assert!(built.contains("Successfully tagged app:latest"), "{client:?}: {built}");
        assert_eq!(
            daemon.docker(["run", "--rm", "app"]).ok(),
            "hello you\nfrom-tools\none\ntwo\nkeep",
            "{client:?}"
        );
        let config = daemon
            .docker([
                "inspect",
                "-f",
                "{{.Config.User}} {{.Config.StopSignal}} {{.Config.Labels.a}} {{.Config.WorkingDir}}",
                "app",
            ])
            .ok();
        assert_eq!(config, "alice SIGINT b /srv/app", "{client:?}");
        assert_eq!(
            daemon.docker(["run", "--rm", "app", "stat -c %U:%G src/keep; ls /unpacked"]).ok(),
            "alice:wheel\nin-tar",
            "{client:?}"
        );
    }
}

#[test]
fn the_cache_follows_the_content() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().display().to_string();
    write_tree(
        dir.path(),
        &[("Dockerfile", "FROM busybox\nRUN echo first\nCOPY f /f\nRUN cat /f\n"), ("f", "1")],
    )
    .unwrap();
    let build = || daemon.docker(["build", "-t", "c", &context]).ok();
    assert!(!build().contains("Using cache"));
    assert_eq!(build().matches("Using cache").count(), 3, "everything is cached");
    std::fs::write(dir.path().join("f"), "2").unwrap();
    assert_eq!(build().matches("Using cache").count(), 1, "from the changed copy on nothing is");
    assert!(!daemon.docker(["build", "--no-cache", &context]).ok().contains("Using cache"));
}

#[test]
fn failures_say_what_failed_and_leave_nothing() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().display().to_string();
    for (dockerfile, want) in [
        ("FROM busybox\nRUN exit 9\n", "returned a non-zero code: 9"),
        ("FROM busybox\nBOGUS x\n", "unknown instruction: BOGUS"),
        ("FROM busybox\nCOPY nope /x\n", "COPY failed: file not found in build context"),
        ("RUN x\n", "no build stage in current context"),
        ("FROM busybox\nCOPY ../../etc/passwd /x\n", "forbidden path outside the build context"),
    ] {
        write_tree(dir.path(), &[("Dockerfile", dockerfile)]).unwrap();
        for client in [Client::Docker, Client::Corten] {
            let ran = daemon.run_with(client, ["build", "--force-rm", &context], b"");
            assert!(
                ran.code != 0 && ran.stderr.contains(want),
                "{client:?} {dockerfile:?}: {} {}",
                ran.code,
                ran.stderr
            );
        }
    }
    assert_eq!(daemon.docker(["ps", "-aq"]).ok(), "", "no step's container stays");
}

#[test]
fn target_and_onbuild() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().display().to_string();
    write_tree(dir.path(), &[("Dockerfile", "FROM busybox AS one\nRUN echo 1 > /n\nONBUILD RUN echo triggered > /t\nFROM one AS two\nRUN exit 1\n")]).unwrap();
    daemon.docker(["build", "--target", "one", "-t", "one", &context]).ok();
    write_tree(dir.path(), &[("Dockerfile", "FROM one\n")]).unwrap();
    daemon.docker(["build", "-t", "child", &context]).ok();
    assert_eq!(daemon.docker(["run", "--rm", "child", "cat", "/n", "/t"]).ok(), "1\ntriggered");
}
