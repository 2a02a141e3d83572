//! attach, exec, terminals, stdin.

use std::io::Write;
use std::process::Stdio;

use corten_testkit::{Client, Daemon};

/// Runs a client under a pseudo-terminal (`script`), types `input`, and returns what the terminal showed.
fn on_terminal(daemon: &Daemon, client: Client, args: &[&str], input: &[u8]) -> (String, i32) {
    let mut inner = daemon.command(client);
    inner.args(args);
    let quoted: Vec<String> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|a| format!("'{}'", a.to_string_lossy().replace('\'', "'\\''")))
        .collect();
    let mut command = std::process::Command::new("script");
    command.args(["-qefc", &quoted.join(" "), "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    for (key, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let mut child = command.spawn().expect("script (Debian's bsdutils)");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A terminal takes typed bytes at any time; the pauses let the client switch to raw mode first.
        std::thread::sleep(std::time::Duration::from_millis(1500));
        for byte in input {
            stdin.write_all(&[byte]).ok();
            stdin.flush().ok();
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    });
    let output = child.wait_with_output().expect("script ends");
    writer.join().ok();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code().unwrap_or(-1))
}

#[test]
fn stdin_reaches_the_container_and_ends() {
    let daemon = Daemon::start();
    for client in [Client::Docker, Client::Corten] {
        let ran = daemon.run_with(
            client,
            ["run", "-i", "--rm", "busybox", "sh", "-c", "cat; echo end"],
            b"one\ntwo\n",
        );
        assert_eq!(ran.ok(), "one\ntwo\nend", "{client:?}");
    }
}

#[test]
fn large_streams_arrive_whole() {
    let daemon = Daemon::start();
    let input: Vec<u8> = (0..3_000_000u32).map(|i| b'a' + (i % 26) as u8).collect();
    for client in [Client::Docker, Client::Corten] {
        let ran = daemon.run_with(client, ["run", "-i", "--rm", "busybox", "md5sum"], &input);
        let want = daemon.run_with(
            client,
            ["run", "-i", "--rm", "busybox", "sh", "-c", "cat > /f; md5sum < /f"],
            &input,
        );
        assert_eq!(ran.ok(), want.ok(), "{client:?}");
        let ran = daemon.run_with(client, ["run", "-i", "--rm", "busybox", "cat"], &input);
        assert_eq!(ran.stdout.len(), input.len(), "{client:?}: {}", ran.stderr);
    }
}

#[test]
fn interactive_terminal() {
    let daemon = Daemon::start();
    for client in [Client::Docker, Client::Corten] {
        let (shown, code) = on_terminal(
            &daemon,
            client,
            &["run", "-it", "--rm", "busybox", "sh"],
            b"tty; echo $((6*7)); exit 5\n",
        );
        assert!(shown.contains("/dev/pts/0") && shown.contains("42"), "{client:?}: {shown}");
        assert_eq!(code, 5, "{client:?}");
    }
}

#[test]
fn interactive_exec() {
    let daemon = Daemon::start();
    daemon.docker(["run", "-d", "--name", "cc", "busybox", "sleep", "1000"]).ok();
    for client in [Client::Docker, Client::Corten] {
        let (shown, code) =
            on_terminal(&daemon, client, &["exec", "-it", "cc", "sh"], b"tty; echo $((6*7)); exit 6\n");
        assert!(shown.contains("/dev/pts/") && shown.contains("42"), "{client:?}: {shown}");
        assert_eq!(code, 6, "{client:?}");
    }
}

#[test]
fn detach_keys_leave_the_container_running() {
    let daemon = Daemon::start();
    for (client, name) in [(Client::Docker, "d1"), (Client::Corten, "d2")] {
        let (_, code) =
            on_terminal(&daemon, client, &["run", "-it", "--name", name, "busybox", "sh"], b"\x10\x11");
        assert_eq!(code, 0, "{client:?}");
        assert_eq!(daemon.docker(["inspect", "-f", "{{.State.Running}}", name]).ok(), "true", "{client:?}");
    }
}

#[test]
fn exec_options() {
    let daemon = Daemon::start();
    daemon.docker(["run", "-d", "--name", "cc", "busybox", "sleep", "1000"]).ok();
    for client in [Client::Docker, Client::Corten] {
        let exec = |args: &[&str], stdin: &[u8]| daemon.run_with(client, [&["exec"], args].concat(), stdin);
        assert_eq!(
            exec(&["-e", "A=7", "-w", "/tmp", "-u", "alice", "cc", "sh", "-c", "echo $A; pwd; id -un"], b"")
                .ok(),
            "7\n/tmp\nalice"
        );
        assert_eq!(exec(&["-i", "cc", "cat"], b"through").ok(), "through");
        assert_eq!(exec(&["cc", "sh", "-c", "echo e >&2; exit 7"], b"").fails(7), "e");
        // The reference engine sends the reason down the stream, so it arrives on standard output.
        let missing = exec(&["cc", "nope"], b"");
        let told = format!("{}{}", missing.stdout, missing.stderr);
        assert!(
            missing.code == 127 && told.contains("executable file not found"),
            "{client:?}: {} {told}",
            missing.code
        );
        exec(&["-d", "cc", "touch", "/tmp/detached"], b"").ok();
        daemon.eventually("the detached exec", || {
            (exec(&["cc", "test", "-e", "/tmp/detached"], b"").code == 0).then_some(())
        });
        exec(&["cc", "rm", "/tmp/detached"], b"").ok();
    }
}

#[test]
fn attach_sees_output_and_exit_code() {
    let daemon = Daemon::start();
    for client in [Client::Docker, Client::Corten] {
        daemon
            .docker(["run", "-d", "-i", "--name", "aa", "busybox", "sh", "-c", "read x; echo got $x; exit 4"])
            .ok();
        let ran = daemon.run_with(client, ["attach", "aa"], b"it\n");
        assert_eq!((ran.code, ran.stdout.trim()), (4, "got it"), "{client:?}: {}", ran.stderr);
        daemon.docker(["rm", "aa"]).ok();
    }
}
