//! Attached clients, standard input, logs.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::harness::{Fixture, privileged};
use corten_runtime::client::{Reconnected, Shim};
use corten_wire::shim::{Attach, LogDriver, Stdin};

const BOTH: Attach = Attach { stdin: true, stdout: true, stderr: true };

fn attached(b: &mut Fixture) -> (UnixStream, Vec<OwnedFd>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    b.bootstrap.attach = vec![BOTH];
    (ours, vec![theirs.into()])
}

/// Takes Docker's frames apart.
fn demux(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut streams = [Vec::new(), Vec::new()];
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
        streams[usize::from(bytes[0]) - 1].extend_from_slice(&bytes[8..8 + length]);
        bytes = &bytes[8 + length..];
    }
    let [out, err] = streams;
    (out, err)
}

#[test]
fn input_reaches_the_container_and_its_end_too() {
    if !privileged() {
        return;
    }
    let mut b = Fixture::new(&["cat"]);
    b.bootstrap.stdin = Stdin { open: true, once: true };
    let (mut client, fds) = attached(&mut b);
    let (shim, _) = b.start_attached(fds).unwrap();
    client.write_all(b"ping\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert_eq!(demux(&bytes), (b"ping\n".to_vec(), vec![]));
    assert_eq!(b.exit().code, 0);
    shim.ack();
}

#[test]
fn what_a_daemon_leaves_the_next_one_finds() {
    if !privileged() {
        return;
    }
    let mut b = Fixture::new(&["cat"]);
    b.bootstrap.stdin = Stdin { open: true, once: true };
    let (client, mut fds) = attached(&mut b);
    let (mut first, kept) = UnixStream::pair().unwrap();
    fds.push(kept.into());
    let (shim, _) = b.start_attached(fds).unwrap();
    let read = |found: Reconnected| {
        let [kept] = <[OwnedFd; 1]>::try_from(found.kept).unwrap();
        let mut text = [0; 16];
        let length = UnixStream::from(kept).read(&mut text).unwrap();
        text[..length].to_vec()
    };
    first.write_all(b"one").unwrap();
    assert_eq!(read(b.reconnect().unwrap()), b"one");
    first.write_all(b"again").unwrap();
    assert_eq!(read(b.reconnect().unwrap()), b"again");
    let (mut second, kept) = UnixStream::pair().unwrap();
    Shim::entrust(&b.bootstrap.dir, &[kept.as_fd()]).unwrap();
    drop(kept);
    second.write_all(b"two").unwrap();
    assert_eq!(read(b.reconnect().unwrap()), b"two");
    assert_eq!(first.read(&mut [0]).unwrap(), 0, "what is replaced is closed");
    // Sockets would keep the network namespace of a container that has ended.
    drop(client);
    assert_eq!(b.exit().code, 0);
    assert!(b.reconnect().unwrap().kept.is_empty());
    assert_eq!(second.read(&mut [0]).unwrap(), 0);
    shim.ack();
}

#[test]
fn a_late_client_gets_what_comes_after_it() {
    if !privileged() {
        return;
    }
    let mut b = Fixture::new(&["sh", "-c", "read x; echo got $x; echo e >&2"]);
    b.bootstrap.stdin = Stdin { open: true, once: false };
    let (shim, _) = b.start().unwrap();
    let (mut client, theirs) = UnixStream::pair().unwrap();
    let only_out = Attach { stderr: false, ..BOTH };
    shim.attach(only_out, std::os::fd::AsFd::as_fd(&theirs)).unwrap();
    drop(theirs);
    client.write_all(b"this\n").unwrap();
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert_eq!(demux(&bytes), (b"got this\n".to_vec(), vec![]));
    b.exit();
    shim.ack();
}

#[test]
fn a_terminal_is_raw_both_ways() {
    if !privileged() {
        return;
    }
    let mut b = Fixture::with(&["sh", "-c", "read x; echo got $x"], |i| i.tty = true);
    b.bootstrap.stdin = Stdin { open: true, once: true };
    let (mut client, fds) = attached(&mut b);
    let (shim, _) = b.start_attached(fds).unwrap();
    client.write_all(b"this\n").unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "this\r\ngot this\r\n");
    b.exit();
    shim.ack();
}

#[test]
fn a_slow_client_loses_nothing_and_a_vanished_one_blocks_nobody() {
    if !privileged() {
        return;
    }
    let mut b = Fixture::new(&["sh", "-c", "seq 1 400000"]);
    b.bootstrap.logging.driver = LogDriver::None;
    let (mut slow, theirs) = UnixStream::pair().unwrap();
    let (vanished, vanished_theirs) = UnixStream::pair().unwrap();
    b.bootstrap.attach = vec![BOTH, BOTH];
    let (shim, _) = b.start_attached(vec![theirs.into(), vanished_theirs.into()]).unwrap();
    drop(vanished);
    std::thread::sleep(std::time::Duration::from_millis(200));
    let mut bytes = Vec::new();
    slow.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(demux(&bytes).0).unwrap();
    assert!(text.lines().eq((1..=400_000).map(|n| n.to_string())), "{} bytes", text.len());
    assert_eq!(b.exit().code, 0);
    shim.ack();
}
