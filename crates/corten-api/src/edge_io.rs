//! The byte stream between the socket and hyper. It does three things that hyper cannot:
//!
//! - Docker's old way to hijack: `POST …/attach` or `…/exec/…/start` **without** `Upgrade` is answered `200 OK` and
//!   is a raw stream in both directions from then on. Such a head gets an upgrade added on its way to hyper, and
//!   hyper's `101` is turned into `200` on its way out.
//! - A client that closes its writing side ends an ordinary request (as in Go's server, hyper then drops the
//!   handler), but not a hijack that is being answered: there the end of input waits until hyper has let go.
//!
//! - docker-py reads the head of a hijack through a buffer, and the stream past that buffer: what arrives together
//!   with the head is lost to it. So the first byte after such a head waits until the client has read the head.
//!
//! Heads are only looked at, never trusted: hyper parses them again. Bodies are skipped; after one that has neither a
//! length nor chunks nothing on this connection is looked at any more.

mod chunks;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use chunks::{Chunks, Progress};

/// Added to the head of an old hijack, so that the handler knows.
pub(crate) const RAW_HEADER: &str = "x-corten-raw-hijack";
/// A head that is longer is hyper's to refuse.
const MAX_HEAD: usize = 64 * 1024;

/// How hyper's head of a hijack begins.
const SWITCHING: &[u8] = b"HTTP/1.1 101 ";
/// How often, and how many times at most, is looked whether a client has read the head of its hijack.
const LOOK: std::time::Duration = std::time::Duration::from_micros(500);
const LOOKS: u32 = 1000;

/// A stream that may know what its other side has not read yet.
pub(crate) trait Unread {
    /// Whether there is something; false where it cannot be known.
    fn unread(&self) -> bool {
        false
    }
}

impl Unread for tokio::net::UnixStream {
    fn unread(&self) -> bool {
        use std::os::fd::AsFd;
        corten_sys::outq::unread(self.as_fd()).is_ok_and(|n| n > 0)
    }
}

impl Unread for tokio::net::TcpStream {}

impl<S> Unread for tokio_rustls::server::TlsStream<S> {}

/// What hyper's service and the stream tell each other.
#[derive(Debug, Default)]
pub(crate) struct Link {
    hold: AtomicBool,
    waker: std::sync::Mutex<Option<Waker>>,
}

impl Link {
    /// The request at hand will be hijacked: keep the end of input back.
    pub(crate) fn hold_end(&self) {
        self.hold.store(true, Ordering::Release);
    }

    /// The hijack is over or was refused.
    pub(crate) fn release_end(&self) {
        self.hold.store(false, Ordering::Release);
        let waker = self.waker.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[derive(Debug)]
enum Reading {
    /// Collecting a head.
    Head,
    /// So many bytes of a body are left.
    Body(u64),
    /// In a chunked body.
    Chunks(Chunks),
    /// No longer looking.
    Through,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct EdgeIo<S> {
    inner: S,
    link: Arc<Link>,
    reading: Reading,
    /// Bytes of a head that is not complete.
    head: Vec<u8>,
    /// Bytes for hyper.
    ready: Vec<u8>,
    at: usize,
    ended: bool,
    /// The next head that hyper writes belongs to an old hijack.
    rewrite: bool,
    out: Vec<u8>,
    out_at: usize,
    /// The head of a hijack is out; how often its reader may still be waited for.
    looks: u32,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<S> EdgeIo<S> {
    pub(crate) fn new(inner: S, link: Arc<Link>) -> Self {
        Self {
            inner,
            link,
            reading: Reading::Head,
            head: Vec::new(),
            ready: Vec::new(),
            at: 0,
            ended: false,
            rewrite: false,
            out: Vec::new(),
            out_at: 0,
            looks: 0,
            pause: None,
        }
    }

    /// How many of these bytes belong to the body (or whatever else is not looked at) that is under way.
    fn of_body(&mut self, data: &[u8]) -> usize {
        let n = match &mut self.reading {
            Reading::Head => return 0,
            Reading::Through => return data.len(),
            Reading::Body(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                *left -= n as u64;
                if *left > 0 {
                    return n;
                }
                n
            }
            Reading::Chunks(chunks) => match chunks.pass(data) {
                Progress::End(n) => n,
                Progress::More => return data.len(),
                Progress::Malformed => {
                    self.reading = Reading::Through;
                    return data.len();
                }
            },
        };
        self.reading = Reading::Head;
        n
    }

    /// Sorts bytes from the socket into `head` and `ready`.
    fn take_in(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if !matches!(self.reading, Reading::Head) {
                let n = self.of_body(data);
                self.ready.extend_from_slice(&data[..n]);
                data = &data[n..];
                continue;
            }
            let from = self.head.len().saturating_sub(3);
            self.head.extend_from_slice(data);
            let Some(end) = find(&self.head[from..], b"\r\n\r\n").map(|p| from + p + 4) else {
                if self.head.len() > MAX_HEAD {
                    self.reading = Reading::Through;
                    self.ready.append(&mut self.head);
                }
                return;
            };
            let rest = self.head.split_off(end);
            let head = std::mem::take(&mut self.head);
            self.pass_head(head);
            data = &data[data.len() - rest.len()..];
        }
    }

    fn pass_head(&mut self, head: Vec<u8>) {
        let seen = Head::look(&head);
        self.reading = match seen.body {
            Body::Bytes(0) => Reading::Head,
            Body::Bytes(n) => Reading::Body(n),
            Body::Chunked => Reading::Chunks(Chunks::new()),
            Body::Unknown => Reading::Through,
        };
        if seen.upgrade {
            self.reading = Reading::Through;
            self.ready.extend_from_slice(&head);
        } else if seen.hijack {
            self.reading = Reading::Through;
            self.rewrite = true;
            self.ready.extend_from_slice(&head[..head.len() - 2]);
            self.ready.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: tcp\r\n");
            self.ready.extend_from_slice(RAW_HEADER.as_bytes());
            self.ready.extend_from_slice(b": 1\r\n\r\n");
        } else {
            self.ready.extend_from_slice(&head);
        }
    }
}

struct Head {
    hijack: bool,
    upgrade: bool,
    body: Body,
}

/// What comes after a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Bytes(u64),
    Chunked,
    Unknown,
}

impl Head {
    fn look(head: &[u8]) -> Self {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.split("\r\n");
        let mut request = lines.next().unwrap_or_default().split(' ');
        let (method, target) = (request.next().unwrap_or_default(), request.next().unwrap_or_default());
        let path = target.split('?').next().unwrap_or_default();
        let mut seen =
            Self { hijack: method == "POST" && is_hijack_path(path), upgrade: false, body: Body::Bytes(0) };
        for line in lines {
            let Some((name, value)) = line.split_once(':') else { continue };
            match name.trim().to_ascii_lowercase().as_str() {
                "upgrade" => seen.upgrade = true,
                "content-length" if matches!(seen.body, Body::Bytes(_)) => {
                    seen.body = value.trim().parse().map_or(Body::Unknown, Body::Bytes);
                }
                "transfer-encoding" if value.trim().eq_ignore_ascii_case("chunked") => {
                    seen.body = Body::Chunked
                }
                "transfer-encoding" => seen.body = Body::Unknown,
                _ => {}
            }
        }
        seen
    }
}

/// Paths whose answer is a stream in both directions.
pub(crate) fn is_hijack_path(path: &str) -> bool {
    let mut back = path.rsplit('/');
    matches!(
        (back.next(), back.next(), back.next()),
        (Some("attach"), Some(_), Some("containers")) | (Some("start"), Some(_), Some("exec"))
    )
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|w| w == needle)
}

impl<S: AsyncRead + Unpin> AsyncRead for EdgeIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.at < this.ready.len() {
                let n = buf.remaining().min(this.ready.len() - this.at);
                buf.put_slice(&this.ready[this.at..this.at + n]);
                this.at += n;
                if this.at == this.ready.len() {
                    this.ready.clear();
                    this.at = 0;
                }
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return this.end(cx);
            }
            // Bodies go to hyper's buffer at once.
            if !matches!(this.reading, Reading::Head) {
                let before = buf.filled().len();
                std::task::ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
                let got = &buf.filled()[before..];
                if got.is_empty() {
                    this.ended = true;
                    continue;
                }
                let n = this.of_body(got);
                let rest = got[n..].to_vec();
                buf.set_filled(before + n);
                this.take_in(&rest);
                return Poll::Ready(Ok(()));
            }
            let mut space = [std::mem::MaybeUninit::uninit(); 8 * 1024];
            let mut block = ReadBuf::uninit(&mut space);
            std::task::ready!(Pin::new(&mut this.inner).poll_read(cx, &mut block))?;
            if block.filled().is_empty() {
                this.ended = true;
                this.ready.append(&mut this.head);
                continue;
            }
            this.take_in(block.filled());
        }
    }
}

impl<S> EdgeIo<S> {
    fn end(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if !self.link.hold.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        *self.link.waker.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(cx.waker().clone());
        if self.link.hold.load(Ordering::Acquire) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl<S: AsyncWrite + Unpin> EdgeIo<S> {
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out_at < self.out.len() {
            let n = std::task::ready!(Pin::new(&mut self.inner).poll_write(cx, &self.out[self.out_at..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out_at += n;
        }
        self.out.clear();
        self.out_at = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: Unread> EdgeIo<S> {
    /// Ready when the client has read the head of its hijack, or takes too long.
    fn head_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.looks > 0 && self.inner.unread() {
            let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
            std::task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
            self.looks -= 1;
        }
        self.looks = 0;
        Poll::Ready(())
    }
}

impl<S: AsyncWrite + Unread + Unpin> AsyncWrite for EdgeIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        std::task::ready!(this.drain(cx))?;
        std::task::ready!(this.head_read(cx));
        if buf.starts_with(SWITCHING) {
            this.looks = LOOKS;
        }
        if this.rewrite {
            this.rewrite = false;
            if let Some(end) = buf.starts_with(SWITCHING).then(|| find(buf, b"\r\n\r\n")).flatten() {
                this.out = plain_head(&buf[..end]);
                // What cannot go out now does so before the next write.
                let _ = this.drain(cx)?;
                return Poll::Ready(Ok(end + 4));
            }
        }
        Pin::new(&mut this.inner).poll_write(cx, buf)
    }

    /// Large bodies go to the kernel without being copied together first.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // hyper's head is one buffer, the first.
        let first = bufs.iter().find(|b| !b.is_empty()).map_or(&[][..], |b| &**b);
        if self.rewrite || self.looks > 0 || first.starts_with(SWITCHING) {
            return self.poll_write(cx, first);
        }
        let this = self.get_mut();
        std::task::ready!(this.drain(cx))?;
        Pin::new(&mut this.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        std::task::ready!(this.drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        std::task::ready!(this.drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

/// The head that dockerd sends on an old hijack: status and content type, nothing else.
fn plain_head(head: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(head);
    let mut out = b"HTTP/1.1 200 OK\r\n".to_vec();
    for line in text.split("\r\n").skip(1) {
        if line.to_ascii_lowercase().starts_with("content-type:") {
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    impl Unread for tokio::io::DuplexStream {}

    fn passed(chunks: &[&[u8]]) -> (String, bool) {
        let mut io = EdgeIo::new((), Arc::new(Link::default()));
        for c in chunks {
            io.take_in(c);
        }
        (String::from_utf8(io.ready).unwrap(), io.rewrite)
    }

    #[test]
    fn ordinary_requests_pass_unchanged() {
        let text = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyzGET /b HTTP/1.1\r\n\r\n";
        assert_eq!(passed(&[text]), (String::from_utf8(text.to_vec()).unwrap(), false));
        for n in 1..text.len() {
            assert_eq!(passed(&[&text[..n], &text[n..]]).0.as_bytes(), text, "cut at {n}");
        }
    }

    #[tokio::test]
    async fn a_hijack_is_seen_after_a_chunked_body() {
        let body = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        let hijack = b"POST /containers/x/attach HTTP/1.1\r\n\r\n";
        let all = [&body[..], hijack].concat();
        for cut in [1, body.len() - 3, body.len(), body.len() + 5, all.len()] {
            let (near, mut far) = tokio::io::duplex(1024);
            let mut io = EdgeIo::new(near, Arc::new(Link::default()));
            far.write_all(&all[..cut]).await.unwrap();
            let mut got = vec![0; 1024];
            let n = if cut == 1 { 0 } else { io.read(&mut got).await.unwrap() };
            far.write_all(&all[cut..]).await.unwrap();
            drop(far);
            let mut rest = Vec::new();
            io.read_to_end(&mut rest).await.unwrap();
            let text = String::from_utf8([&got[..n], &rest].concat()).unwrap();
            assert!(
                io.rewrite && text.starts_with(std::str::from_utf8(body).unwrap()),
                "cut at {cut}: {text}"
            );
            assert!(text.ends_with("x-corten-raw-hijack: 1\r\n\r\n"), "cut at {cut}: {text}");
        }
    }

    #[test]
    fn old_hijacks_get_an_upgrade() {
        let (text, rewrite) =
            passed(&[b"POST /a HTTP/1.1\r\nContent-Length: 1\r\n\r\nxPOST /v1.50/containers/x/attach?stdin=1 HTTP/1.1\r\nHost: d\r\n\r\nraw"]);
        assert!(rewrite && text.ends_with("Upgrade: tcp\r\nx-corten-raw-hijack: 1\r\n\r\nraw"), "{text}");
        let (text, rewrite) = passed(&[b"POST /exec/x/start HTTP/1.1\r\nUpgrade: tcp\r\n\r\n"]);
        assert!(!rewrite && !text.contains("corten"));
        assert!(!passed(&[b"POST /containers/x/start HTTP/1.1\r\n\r\n"]).1);
    }

    #[tokio::test]
    async fn the_answer_is_a_plain_200() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut io = EdgeIo::new(near, Arc::new(Link::default()));
        io.rewrite = true;
        io.write_all(b"HTTP/1.1 101 UPGRADED\r\nContent-Type: a/b\r\nUpgrade: tcp\r\n\r\nmore")
            .await
            .unwrap();
        io.shutdown().await.unwrap();
        drop(io);
        let mut got = String::new();
        far.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\nmore");
    }

    #[tokio::test]
    async fn the_stream_waits_for_the_reader_of_the_head() {
        for vectored in [false, true] {
            let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
            let mut io = EdgeIo::new(ours, Arc::new(Link::default()));
            let head = b"HTTP/1.1 101 UPGRADED\r\n\r\n";
            if vectored {
                assert_eq!(io.write_vectored(&[io::IoSlice::new(head)]).await.unwrap(), head.len());
            } else {
                io.write_all(head).await.unwrap();
            }
            let writer = tokio::spawn(async move { io.write_all(b"stream").await });
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            let mut buffer = [0; 100];
            assert_eq!(theirs.read(&mut buffer).await.unwrap(), head.len(), "vectored: {vectored}");
            assert_eq!(theirs.read(&mut buffer).await.unwrap(), 6);
            writer.await.unwrap().unwrap();
        }
    }
}
