//! Delivery to real receivers: there, gone, back; and a daemon that ends in between.

use std::io::Write;
use std::os::fd::AsFd;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket, UnixDatagram, UnixListener};

use super::*;
use crate::info::tests::info;

/// For what must come; much longer than it takes.
const PATIENCE: Duration = Duration::from_secs(60);

struct Log {
    dir: tempfile::TempDir,
    lines: u32,
}

impl Log {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), lines: 0 }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("c.log")
    }

    fn line(&mut self, text: &str) {
        self.lines += 1;
        let mut file = std::fs::File::options().create(true).append(true).open(self.path()).unwrap();
        let text = serde_json::Value::from(format!("{text}\n"));
        let record = format!(
            "{{\"log\":{text},\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05.{:09}Z\"}}\n",
            self.lines
        );
        file.write_all(record.as_bytes()).unwrap();
    }

    fn job(&self, driver: &str, options: &[(&str, &str)]) -> Job {
        let map = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let options_of = Options::parse(driver, &map).unwrap();
        Job::new(&options_of, &info(options), self.path(), false).unwrap().unwrap()
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// Reads until `end` has been seen.
async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), end: &str) -> String {
    let mut all = Vec::new();
    soon(async {
        while !String::from_utf8_lossy(&all).contains(end) {
            let mut block = [0; 4096];
            let n = stream.read(&mut block).await.unwrap();
            assert!(n > 0, "closed before {end}: {}", String::from_utf8_lossy(&all));
            all.extend_from_slice(&block[..n]);
        }
    })
    .await;
    String::from_utf8_lossy(&all).into_owned()
}

async fn packet(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let n = soon(socket.recv(&mut buffer)).await.unwrap();
    buffer.truncate(n);
    buffer
}

#[tokio::test]
async fn syslog_over_udp() {
    let receiver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = format!("udp://{}", receiver.local_addr().unwrap());
    let mut log = Log::new();
    let all = Forwarders::default();
    log.line("before");
    all.start("c", log.job("syslog", &[("syslog-address", &address), ("tag", "t")])).unwrap();
    let first = String::from_utf8(packet(&receiver).await).unwrap();
    assert!(first.starts_with("<30>") && first.contains(" t[") && first.ends_with("]: before\n"), "{first}");
    log.line("after");
    assert!(packet(&receiver).await.ends_with(b"]: after\n"));
}

#[tokio::test]
async fn udp_receiver_comes_later() {
    let address = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut log = Log::new();
    let all = Forwarders::default();
    log.line("one");
    let target = format!("udp://{address}");
    all.start("c", log.job("syslog", &[("syslog-address", &target)])).unwrap();
    // Usually told by now that nobody is there.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let receiver = UdpSocket::bind(address).await.unwrap();
    assert!(packet(&receiver).await.ends_with(b"]: one\n"));
}

#[tokio::test]
async fn tcp_receiver_goes_and_comes_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = format!("tcp://{address}");
    let mut log = Log::new();
    let all = Forwarders::default();
    let options = [("syslog-address", target.as_str()), ("syslog-format", "rfc5424"), ("tag", "t")];
    all.start("c", log.job("syslog", &options)).unwrap();
    log.line("first");
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    let text = read_until(&mut stream, "first\n").await;
    assert!(text.starts_with("<30>1 2026-01-02T03:04:05") && text.ends_with(" - first\n"), "{text}");
    drop((stream, listener));
    for n in 0..50 {
        log.line(&format!("meanwhile {n}"));
    }
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    let text = read_until(&mut stream, "meanwhile 49\n").await;
    assert_eq!(text.lines().count(), 50, "{text}");
    all.ended("c");
    soon(all.drain("c")).await;
    assert!(all.0.lock().is_empty());
}

#[tokio::test]
async fn a_restarted_container_goes_on() {
    let receiver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = format!("udp://{}", receiver.local_addr().unwrap());
    let options = [("syslog-address", address.as_str())];
    let mut log = Log::new();
    let all = Forwarders::default();
    for n in 0..20 {
        all.start("c", log.job("syslog", &options)).unwrap();
        log.line(&format!("run {n}"));
        all.ended("c");
        assert!(packet(&receiver).await.ends_with(format!("]: run {n}\n").as_bytes()));
    }
}

#[test]
fn another_daemon_goes_on_at_the_cursor() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let target = format!("unix://{}", socket.display());
    let mut log = Log::new();
    log.line("one");
    {
        let first = runtime();
        first.block_on(async {
            let listener = UnixListener::bind(&socket).unwrap();
            let all = Forwarders::default();
            all.start("c", log.job("syslog", &[("syslog-address", &target)])).unwrap();
            let (mut stream, _) = soon(listener.accept()).await.unwrap();
            read_until(&mut stream, "one\n").await;
            let saved = log.dir.path().join(CURSOR);
            soon(async {
                while std::fs::read(&saved).unwrap().is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
        });
        // Nothing is told to end: that is what kill -9 looks like.
        first.shutdown_background();
    }
    log.line("two");
    std::fs::remove_file(&socket).unwrap();
    runtime().block_on(async {
        let listener = UnixListener::bind(&socket).unwrap();
        let all = Forwarders::default();
        all.start("c", log.job("syslog", &[("syslog-address", &target)])).unwrap();
        let (mut stream, _) = soon(listener.accept()).await.unwrap();
        let text = read_until(&mut stream, "two\n").await;
        assert!(!text.contains("one"), "{text}");
    });
}

#[tokio::test]
async fn journald_gets_datagrams() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("journal");
    let receiver = UnixDatagram::bind(&socket).unwrap();
    let mut log = Log::new();
    let all = Forwarders::default();
    let mut job = log.job("journald", &[("env", "STAGE")]);
    job.endpoint = Endpoint::Unixgram(socket);
    all.start("c", job).unwrap();
    log.line("hello");
    let mut buffer = vec![0; 70_000];
    let n = soon(receiver.recv(&mut buffer)).await.unwrap();
    let text = String::from_utf8_lossy(&buffer[..n]);
    assert!(text.starts_with("MESSAGE=hello\nPRIORITY=6\n") && text.contains("\nSTAGE=live\n"), "{text}");
}

/// A batch that is not acknowledged is sent again, on another connection.
#[tokio::test]
async fn fluentd_acknowledges() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let mut log = Log::new();
    let all = Forwarders::default();
    let options = [
        ("fluentd-address", target.as_str()),
        ("fluentd-request-ack", "true"),
        ("fluentd-retry-wait", "10ms"),
    ];
    all.start("c", log.job("fluentd", &options)).unwrap();
    log.line("precious");
    let read = |text: &str| {
        let at = text.find("chunk").unwrap() + 5;
        text[at..].chars().skip(1).take(24).collect::<String>()
    };
    let (mut lost, _) = soon(listener.accept()).await.unwrap();
    let before = read_until(&mut lost, "size").await;
    assert!(before.contains("precious"));
    drop(lost);
    let (mut kept, _) = soon(listener.accept()).await.unwrap();
    let after = read_until(&mut kept, "size").await;
    assert_eq!(read(&before), read(&after), "the same chunk, so that the receiver can tell");
    let mut answer = b"\x81\xa3ack\xb8".to_vec();
    answer.extend_from_slice(read(&after).as_bytes());
    kept.write_all(&answer).await.unwrap();
    log.line("next");
    assert!(read_until(&mut kept, "next").await.contains("next"), "on the same connection");
}

#[tokio::test]
async fn gelf_over_tcp_and_limited_attempts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = format!("tcp://{address}");
    drop(listener);
    let mut log = Log::new();
    let all = Forwarders::default();
    log.line("given up");
    let options = [
        ("gelf-address", target.as_str()),
        ("gelf-tcp-max-reconnect", "1"),
        ("gelf-tcp-reconnect-delay", "0"),
    ];
    all.start("c", log.job("gelf", &options)).unwrap();
    let cursor = log.dir.path().join(CURSOR);
    soon(async {
        while std::fs::read(&cursor).unwrap_or_default().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let listener = TcpListener::bind(address).await.unwrap();
    log.line("kept");
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    let text = read_until(&mut stream, "\0").await;
    assert!(text.contains("\"short_message\":\"kept\"") && !text.contains("given up"), "{text}");
}

#[tokio::test]
async fn a_full_buffer_leaves_records_out() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let target = format!("unix://{}", socket.display());
    let mut log = Log::new();
    // 2 MB: no batch holds that.
    for n in 0..2000 {
        log.line(&format!("{n} {}", "x".repeat(1000)));
    }
    let options =
        [("syslog-address", target.as_str()), ("mode", "non-blocking"), ("max-buffer-size", "100k")];
    let all = Forwarders::default();
    all.start("c", log.job("syslog", &options)).unwrap();
    // Hung up without having read: the attempt has failed, and with that the buffer is looked at.
    drop(soon(listener.accept()).await.unwrap());
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    let text = read_until(&mut stream, ": 1999 ").await;
    let lines = text.lines().count();
    assert!((50..300).contains(&lines), "{lines} lines of 2000 are within the buffer and a batch");
}

#[tokio::test]
async fn removal_does_not_wait_for_ever() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let target = format!("tcp://{address}");
    let mut log = Log::new();
    log.line("nobody hears this");
    let all = Forwarders::default();
    all.start("c", log.job("syslog", &[("syslog-address", &target)])).unwrap();
    soon(all.drain("c")).await;
    assert!(all.0.lock().is_empty());
}

#[test]
fn sealed_files_carry_what_a_datagram_cannot() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let receiver = UnixDatagram::bind(dir.path().join("s")).unwrap();
        let mut connection = Connection::open(&Endpoint::Unixgram(dir.path().join("s"))).await.unwrap();
        let mut packets = Packets { bytes: vec![b'x'; 4 << 20], ..Packets::default() };
        packets.end_packet();
        connection.send(&packets, None).await.unwrap();
        receiver.readable().await.unwrap();
        let mut fds = Vec::new();
        corten_sys::seqpacket::recv(receiver.as_fd(), &mut [0; 16], &mut fds, true).unwrap();
        let size = rustix::fs::fstat(&fds[0]).unwrap().st_size;
        assert_eq!(size, 4 << 20);
    });
}

/// A certificate for 127.0.0.1 that signs itself.
fn certificate(dir: &std::path::Path) {
    let output = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem"])
        .args(["-days", "2", "-subj", "/CN=logs", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn syslog_over_tls_checks_the_certificate() {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path());
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&cert).unwrap()],
            PrivateKeyDer::from_pem_file(&key).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("tcp+tls://{}", listener.local_addr().unwrap());
    let authority = cert.display().to_string();
    let trusted = ("syslog-tls-ca-cert", authority.as_str());
    let careless = ("syslog-tls-skip-verify", "1");
    for (extra, works) in [(Some(trusted), true), (Some(careless), true), (None, false)] {
        let mut options =
            vec![("syslog-address", target.as_str()), ("syslog-format", "rfc5424"), ("tag", "t")];
        options.extend(extra);
        let mut log = Log::new();
        log.line("secret");
        let all = Forwarders::default();
        all.start("c", log.job("syslog", &options)).unwrap();
        let (stream, _) = soon(listener.accept()).await.unwrap();
        match soon(acceptor.accept(stream)).await {
            Ok(mut stream) => {
                assert!(works, "{extra:?}: nobody signed this certificate");
                let text = read_until(&mut stream, "secret\n").await;
                let (length, rest) = text.split_once(' ').unwrap();
                assert_eq!(length.parse::<usize>().unwrap(), rest.len(), "{text}");
            }
            Err(error) => assert!(!works, "{extra:?}: {error}"),
        }
        // Without a certificate to trust it tries again, and must not be who the next round waits for: it is last.
    }
}
