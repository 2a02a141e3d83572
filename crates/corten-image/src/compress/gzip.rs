//! A gzip writer that uses all processors.
//!
//! The input is cut into blocks of a fixed size, each a gzip member of its own: every gunzip reads them as one
//! stream, the bytes do not depend on the number of threads, and threads are made only for input that is longer
//! than one block.
//!
//! ```text
//!   write ─▶ block n ─▶ worker n mod N ─▶ member n ─▶ out      (members are fetched in the order of their blocks)
//! ```

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use flate2::{Compression, write::GzEncoder};

use super::GZIP_LEVEL;

/// Input of one member. Larger blocks compress hardly better.
const BLOCK: usize = 1 << 20;
/// Most workers of one stream.
const MAX_WORKERS: usize = 8;

/// Compresses what is written to it.
#[derive(Debug)]
pub(crate) struct GzipWriter<W> {
    out: W,
    block: Vec<u8>,
    workers: Vec<Worker>,
    /// Blocks given to workers, and members fetched from them.
    given: usize,
    fetched: usize,
}

#[derive(Debug)]
struct Worker {
    blocks: Option<SyncSender<Vec<u8>>>,
    members: Receiver<io::Result<Member>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Member {
    bytes: Vec<u8>,
    /// The block's memory, to be used again.
    block: Vec<u8>,
}

impl<W: Write> GzipWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, block: Vec::new(), workers: Vec::new(), given: 0, fetched: 0 }
    }

    /// Compresses the rest; gives the underlying writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        let last = std::mem::take(&mut self.block);
        while self.fetched < self.given {
            self.fetch()?;
        }
        if !last.is_empty() || self.given == 0 {
            self.out.write_all(&member(&last)?)?;
        }
        Ok(self.out)
    }

    fn give(&mut self) -> io::Result<()> {
        if self.workers.is_empty() {
            let count = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
            self.workers = (0..count).map(|_| Worker::start()).collect::<io::Result<_>>()?;
        }
        let mut empty = Vec::new();
        if self.given - self.fetched == 2 * self.workers.len() {
            empty = self.fetch()?;
        }
        let block = std::mem::replace(&mut self.block, empty);
        let worker = &self.workers[self.given % self.workers.len()];
        worker.blocks.as_ref().and_then(|w| w.send(block).ok()).ok_or(io::ErrorKind::BrokenPipe)?;
        self.given += 1;
        Ok(())
    }

    /// Writes the next member; gives its block's memory back.
    fn fetch(&mut self) -> io::Result<Vec<u8>> {
        let worker = &self.workers[self.fetched % self.workers.len()];
        let member = worker.members.recv().map_err(|_| io::ErrorKind::BrokenPipe)??;
        self.fetched += 1;
        self.out.write_all(&member.bytes)?;
        let mut block = member.block;
        block.clear();
        Ok(block)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK {
            self.give()?;
        }
        let n = buf.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Worker {
    fn start() -> io::Result<Self> {
        // Two of each: one in work, one in the channel.
        let (blocks, work) = sync_channel::<Vec<u8>>(1);
        let (done, members) = sync_channel(1);
        let thread = std::thread::Builder::new().name("gzip".into()).spawn(move || {
            while let Ok(block) = work.recv() {
                let compressed = member(&block).map(|bytes| Member { bytes, block });
                if done.send(compressed).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { blocks: Some(blocks), members, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.blocks = None;
        // A worker that waits to hand over a member must not wait for ever.
        while self.members.recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn member(block: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(block.len() / 2 + 64), Compression::new(GZIP_LEVEL));
    encoder.write_all(block)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn any_length_comes_back() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 9 * BLOCK + 12345] {
            let mut state = 1u32;
            let data: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 28) as u8
                })
                .collect();
            let compress = || {
                let mut writer = GzipWriter::new(Vec::new());
                writer.write_all(&data).unwrap();
                writer.finish().unwrap()
            };
            let compressed = compress();
            assert_eq!(compressed, compress(), "the same bytes each time");
            let mut back = Vec::new();
            flate2::read::MultiGzDecoder::new(&compressed[..]).read_to_end(&mut back).unwrap();
            assert!(back == data, "{length}");
        }
    }

    #[test]
    fn errors_and_drops_end_the_threads() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut writer = GzipWriter::new(Full);
        let failed = (0..100).try_for_each(|_| writer.write_all(&vec![7; BLOCK]));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        drop(writer);
        let mut dropped = GzipWriter::new(Vec::new());
        dropped.write_all(&vec![7; 5 * BLOCK]).unwrap();
        drop(dropped);
    }
}
