//! Start, failure, signals, pause, execs, daemons that come and go.

use crate::harness::{Fixture, privileged, read_all};
use corten_runtime::client::News;
use corten_wire::oci_runtime::{Memory, Resources};
use corten_wire::shim::*;

#[test]
fn failures_have_dockers_words_and_leave_nothing() {
    if !privileged() {
        return;
    }
    let lead = "failed to create task for container: failed to create shim task: OCI runtime create failed: \
                runc create failed: unable to start container process: error during container init: ";
    for (program, text, code) in [
        (
            "/no/such/program",
            "exec: \"/no/such/program\": stat /no/such/program: no such file or directory",
            127,
        ),
        ("/etc", "exec: \"/etc\": is a directory: permission denied", 126),
        ("nope", "exec: \"nope\": executable file not found in $PATH", 127),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied", 126),
    ] {
        let b = Fixture::new(&[program]);
        let fault = b.start().unwrap_err();
        assert_eq!(fault.message, format!("{lead}{text}"));
        assert_eq!((fault.exit_code, fault.kind), (code, corten_base::Kind::InvalidArgument));
        assert!(b.cgroup().pids().is_empty());
        assert!(
            !std::path::Path::new("/sys/fs/cgroup/memory").join(format!("corten-test-{}", b.id)).exists()
        );
    }
    let mut b = Fixture::new(&["true"]);
    b.bootstrap.user = Some(UserSpec { user: "nobody-here".into(), group_add: vec![] });
    let fault = b.start().unwrap_err();
    assert_eq!(fault.message, "unable to find user nobody-here: no matching entries in passwd file");
    assert_eq!(fault.kind, corten_base::Kind::Internal);
}

#[test]
fn signals_pause_and_update() {
    if !privileged() {
        return;
    }
    let b = Fixture::new(&["sleep", "60"]);
    let (shim, started) = b.start().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{}", started.pid)).exists());
    shim.pause().unwrap();
    shim.pause().unwrap();
    assert!(shim.state().unwrap().paused);
    shim.resume().unwrap();
    let memory = Some(Memory { limit: Some(64 << 20), swap: Some(128 << 20), ..Memory::default() });
    shim.update(Resources { memory, ..Resources::default() }).unwrap();
    assert_eq!(b.cgroup().stats().memory.limit, 64 << 20);
    assert_eq!(b.cgroup().pids(), [started.pid]);
    assert!(shim.kill(200, false).is_err());
    shim.pause().unwrap();
    shim.kill(9, false).unwrap();
    let exit = b.exit();
    assert_eq!((exit.code, exit.signal, exit.oom), (137, Some(9), false));
    shim.ack();
}

#[test]
fn further_processes() {
    if !privileged() {
        return;
    }
    let b = Fixture::new(&["sleep", "60"]);
    let (shim, _) = b.start().unwrap();
    let run = |spec: ExecSpec| -> Result<(i32, String), String> {
        let started = shim.exec(spec).map_err(|e| e.to_string())?;
        let texts: Vec<_> =
            started.fds.into_iter().map(|fd| String::from_utf8(read_all(fd)).unwrap()).collect();
        match b.next() {
            News::ExecExited { code, .. } => Ok((code, texts.join("|"))),
            other => panic!("{other:?}"),
        }
    };
    let spec = |script: &str| ExecSpec {
        id: "x".into(),
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        inherit_env: true,
        stdout: true,
        stderr: true,
        ..ExecSpec::default()
    };
    assert_eq!(run(spec("echo out; echo err >&2; exit 5")), Ok((5, "out\n|err\n".into())));
    let user = Some(UserSpec { user: "alice".into(), group_add: vec![] });
    let with = ExecSpec {
        user,
        env: vec!["Q=7".into()],
        cwd: Some("/tmp".into()),
        ..spec("echo $Q; id -u; pwd; echo $HOME")
    };
    assert_eq!(run(with), Ok((0, "7\n1000\n/tmp\n/home\n|".into())));
    let caps = "grep -E 'CapEff|CapBnd|Seccomp:' /proc/self/status";
    let want = "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\n|";
    assert_eq!(run(spec(caps)), Ok((0, want.into())));
    let all = run(ExecSpec { privileged: true, ..spec(caps) }).unwrap().1;
    assert!(all.starts_with("CapEff:\t000001ff") && all.contains("Seccomp:\t2"), "{all}");
    let missing = ExecSpec { args: vec!["nope".into()], ..spec("") };
    let text = "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nope\": \
                executable file not found in $PATH";
    assert_eq!(run(missing), Err(text.into()));
    assert_eq!(run(spec("ls /proc/self/fd | wc -l; cat /proc/1/comm")).unwrap().1, "4\nsleep\n|");
    let tty = shim.exec(ExecSpec { tty: true, ..spec("tty; stty size") }).unwrap();
    shim.resize(Some("x"), corten_wire::oci_runtime::ConsoleSize { height: 5, width: 6 }).unwrap();
    let mut text = Vec::new();
    let mut block = [0; 256];
    while let Ok(n @ 1..) = rustix::io::read(&tty.fds[0], &mut block) {
        text.extend_from_slice(&block[..n]);
    }
    assert!(String::from_utf8(text).unwrap().starts_with("/dev/pts/0\r\n"));
    shim.kill(9, true).unwrap();
    assert_eq!(b.exit().code, 137);
    shim.ack();
}

#[test]
fn the_shim_outlives_its_daemon() {
    if !privileged() {
        return;
    }
    let b = Fixture::new(&[
        "sh",
        "-c",
        "trap 'echo bye; exit 7' TERM; echo ready; while true; do sleep 0.02; done",
    ]);
    let (shim, started) = b.start().unwrap();
    drop(shim);
    let (again, state) = loop {
        // The door opens just after the reply.
        if let Ok(connected) = b.connect() {
            break connected;
        }
    };
    assert_eq!((state.started, state.exit), (started, None));
    b.wait_for("ready");
    again.kill(15, false).unwrap();
    assert_eq!(b.exit().code, 7);
    let record = std::fs::read(b.bootstrap.dir.join(EXIT_NAME)).unwrap();
    assert_eq!(serde_json::from_slice::<Exit>(&record).unwrap().code, 7);
    assert_eq!(b.logs().0, "ready\nbye\n");
    // Not acknowledged yet: a later daemon still hears of it.
    let (third, state) = b.connect().unwrap();
    assert_eq!(state.exit.unwrap().code, 7);
    assert_eq!(b.exit().code, 7);
    third.ack();
}

#[test]
fn killing_the_shim_kills_the_container() {
    if !privileged() {
        return;
    }
    let b = Fixture::new(&["sleep", "60"]);
    let (_shim, started) = b.start().unwrap();
    let init = corten_sys::process::pidfd_open(started.pid).unwrap();
    let record = loop {
        // Written after the reply.
        if let Ok(bytes) = std::fs::read(b.bootstrap.dir.join(SHIM_NAME)) {
            break serde_json::from_slice::<ShimRecord>(&bytes).unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    corten_sys::process::kill(record.shim_pid, 9).unwrap();
    assert_eq!(b.next(), News::Lost);
    let mut fds = [rustix::event::PollFd::new(&init, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1, "init still lives");
    b.cgroup().destroy().unwrap();
}

#[test]
fn memory_is_limited_and_the_killing_reported() {
    if !privileged() {
        return;
    }
    let b = Fixture::with(
        &["sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=40 2>/dev/null; echo survived"],
        |i| {
            i.resources.memory =
                Some(Memory { limit: Some(16 << 20), swap: Some(16 << 20), ..Memory::default() });
        },
    );
    let (shim, _) = b.start().unwrap();
    let exit = b.exit();
    shim.ack();
    assert_eq!((exit.code, exit.oom, b.logs().0.as_str()), (0, true, "survived\n"));
}
