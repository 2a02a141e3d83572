//! Reading ahead: one thread decompresses while another hashes and extracts.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes per chunk.
const CHUNK: usize = 256 << 10;
/// Chunks on their way.
const QUEUE: usize = 4;

/// Runs `consume` on what the stream gives that `open` makes; both belong to a thread of their own. What `consume`
/// does not read is thrown away when it returns.
pub(crate) fn read_ahead<T, R: Read>(
    open: impl FnOnce() -> io::Result<R> + Send,
    consume: impl FnOnce(&mut Ahead) -> T,
) -> T {
    let (sender, receiver) = sync_channel(QUEUE);
    let (back, used) = sync_channel(QUEUE + 1);
    std::thread::scope(|scope| {
        let producer =
            std::thread::Builder::new().name("decompress".into()).spawn_scoped(scope, move || match open() {
                Ok(mut source) => produce(&mut source, &sender, &used),
                Err(e) => drop(sender.send(Err(e))),
            });
        let mut ahead = Ahead { receiver, back, chunk: Vec::new(), at: 0, failed: producer.is_err() };
        let value = consume(&mut ahead);
        // Ends the producer at its next chunk.
        drop(ahead);
        value
    })
}

fn produce(source: &mut impl Read, sender: &SyncSender<io::Result<Vec<u8>>>, used: &Receiver<Vec<u8>>) {
    loop {
        let mut chunk = used.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let mut filled = 0;
        let ended = loop {
            match source.read(&mut chunk[filled..]) {
                Ok(0) => break Some(None),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Some(Some(e)),
            }
            if filled == CHUNK {
                break None;
            }
        };
        chunk.truncate(filled);
        if !chunk.is_empty() && sender.send(Ok(chunk)).is_err() {
            return;
        }
        match ended {
            None => {}
            Some(None) => {
                // An empty chunk is the end.
                sender.send(Ok(Vec::new())).ok();
                return;
            }
            Some(Some(error)) => {
                sender.send(Err(error)).ok();
                return;
            }
        }
    }
}

/// The consumer's end.
#[derive(Debug)]
pub(crate) struct Ahead {
    receiver: Receiver<io::Result<Vec<u8>>>,
    back: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    failed: bool,
}

impl Read for Ahead {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(io::Error::other("no thread for decompression"));
        }
        if self.at == self.chunk.len() {
            let used = std::mem::take(&mut self.chunk);
            self.back.try_send(used).ok();
            self.at = 0;
            match self.receiver.recv() {
                Ok(chunk) => self.chunk = chunk?,
                // The end was read before.
                Err(_) => return Ok(0),
            }
        }
        let n = buf.len().min(self.chunk.len() - self.at);
        buf[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_and_errors_do_too() {
        let data: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        let mut back = Vec::new();
        read_ahead(|| Ok(&data[..]), |ahead| ahead.read_to_end(&mut back)).unwrap();
        assert!(back == data);
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 > 20 { Err(io::ErrorKind::TimedOut.into()) } else { Ok(buf.len().min(100_000)) }
            }
        }
        let failed = read_ahead(|| Ok(Broken(0)), |ahead| io::copy(ahead, &mut io::sink()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // Who stops early does not hang.
        let mut first = [0; 10];
        read_ahead(|| Ok(io::repeat(1)), |ahead| ahead.read_exact(&mut first)).unwrap();
        assert_eq!(first, [1; 10]);
    }
}
