//! Netlink messages: a writer for batches, a reader for answers, and the conversation with the kernel.
//!
//! ```text
//! message   = nlmsghdr { len u32, type u16, flags u16, seq u32, port u32 } family-header attributes
//! attribute = nlattr { len u16, type u16 } payload, padded to 4 bytes
//! ```

use std::io;

use corten_sys::netlink::{Family, Socket};

/// `NLM_F_REQUEST` and its companions.
pub(crate) mod flag {
    pub(crate) const REQUEST: u16 = 0x1;
    pub(crate) const ACK: u16 = 0x4;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const REPLACE: u16 = 0x100;
    pub(crate) const EXCL: u16 = 0x200;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Messages to be sent in one datagram.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    buffer: Vec<u8>,
    last: usize,
    count: u32,
}

impl Batch {
    /// Appends a message; `body` writes its attributes.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family_header: &[u8],
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.buffer.len();
        self.last = start;
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&(flags | flag::REQUEST).to_ne_bytes());
        // Sequence numbers count from 0 here; the conversation adds its own.
        self.buffer.extend_from_slice(&self.count.to_ne_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        self.count += 1;
        self.buffer.extend_from_slice(family_header);
        self.pad();
        body(self);
        self.pad();
        let length = (self.buffer.len() - start) as u32;
        self.buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Takes the last message back if it is of this kind.
    pub(crate) fn take_back_end(&mut self, kind: u16) {
        let found = self.buffer.get(self.last + 4..self.last + 6).map(|b| u16::from_ne_bytes([b[0], b[1]]));
        if self.count > 0 && found == Some(kind) {
            self.buffer.truncate(self.last);
            self.count -= 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// An attribute with a payload of bytes.
    pub(crate) fn put(&mut self, kind: u16, payload: &[u8]) {
        self.buffer.extend_from_slice(&((payload.len() + 4) as u16).to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(payload);
        self.pad();
    }

    pub(crate) fn put_u8(&mut self, kind: u16, value: u8) {
        self.put(kind, &[value]);
    }

    /// A number in the host's byte order, as rtnetlink has them.
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// A number in network byte order, as nftables has them.
    pub(crate) fn put_be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Text with its terminating zero.
    pub(crate) fn put_str(&mut self, kind: u16, value: &str) {
        let mut payload = Vec::with_capacity(value.len() + 1);
        payload.extend_from_slice(value.as_bytes());
        payload.push(0);
        self.put(kind, &payload);
    }

    /// An attribute made of attributes (and, for veth peers, of a header before them).
    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 2]);
        self.buffer.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(self);
        let length = self.buffer.len() - start;
        debug_assert!(length <= usize::from(u16::MAX), "an attribute is limited to 64 KiB");
        self.buffer[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        self.pad();
    }

    /// Bytes without a header of their own, inside a nest.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.buffer.len().is_multiple_of(4) {
            self.buffer.push(0);
        }
    }

    /// Asks for an acknowledgement of the message at `offset`.
    fn acknowledge(&mut self, offset: usize) {
        let flags = u16::from_ne_bytes([self.buffer[offset + 6], self.buffer[offset + 7]]) | flag::ACK;
        self.buffer[offset + 6..offset + 8].copy_from_slice(&flags.to_ne_bytes());
    }

    fn number(&mut self, base: u32) {
        let mut offset = 0;
        while offset < self.buffer.len() {
            let field = offset + 8..offset + 12;
            let own = u32::from_ne_bytes(self.buffer[field.clone()].try_into().expect("four bytes"));
            self.buffer[field].copy_from_slice(&base.wrapping_add(own).to_ne_bytes());
            let length = &self.buffer[offset..offset + 4];
            offset += u32::from_ne_bytes(length.try_into().expect("four bytes")) as usize;
        }
    }
}

/// Attributes of an answer, read without copying; a malformed rest ends the iteration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, payload))
    }
}

impl<'a> Attributes<'a> {
    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find(|(k, _)| *k == kind).map(|(_, payload)| payload)
    }
}

/// A number in the host's byte order.
pub(crate) fn u32_of(payload: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(payload.get(..4)?.try_into().ok()?))
}

/// Text up to its terminating zero.
pub(crate) fn str_of(payload: &[u8]) -> String {
    let end = payload.iter().position(|b| *b == 0).unwrap_or(payload.len());
    String::from_utf8_lossy(&payload[..end]).into_owned()
}

/// A socket with its sequence numbers.
#[derive(Debug)]
pub(crate) struct Conversation {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Conversation {
    pub(crate) fn open(family: Family) -> io::Result<Self> {
        Ok(Self { socket: Socket::open(family)?, sequence: 1, buffer: Vec::new() })
    }

    /// The number by which the kernel knows this side.
    pub(crate) fn port(&self) -> io::Result<u32> {
        self.socket.port()
    }

    /// Sends the batch and waits until the kernel has worked on all of it. Only the last message is acknowledged;
    /// failures of earlier ones come unasked. The first failure is returned.
    pub(crate) fn execute(&mut self, batch: Batch) -> io::Result<()> {
        let last = batch.last;
        self.exchange(batch, last, 1)
    }

    /// The same for an nfnetlink batch, whose last message (the end marker) is acknowledged by new kernels only:
    /// the one before it is asked for instead.
    pub(crate) fn execute_before_last(&mut self, batch: Batch, acknowledged: usize) -> io::Result<()> {
        self.exchange(batch, acknowledged, 2)
    }

    fn exchange(&mut self, mut batch: Batch, acknowledged: usize, from_end: u32) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let first = self.sequence;
        self.sequence = self.sequence.wrapping_add(batch.count);
        let awaited = first.wrapping_add(batch.count - from_end);
        batch.acknowledge(acknowledged);
        batch.number(first);
        self.socket.send(&batch.buffer)?;
        let mut outcome = Ok(());
        loop {
            self.socket.receive(&mut self.buffer)?;
            for (kind, sequence, payload) in Messages(&self.buffer) {
                let ours = sequence.wrapping_sub(first) < batch.count;
                if kind != ERROR || !ours {
                    continue;
                }
                let code = payload.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                if code != 0 && outcome.is_ok() {
                    outcome = Err(io::Error::from_raw_os_error(-code));
                }
                // A batch that is refused as a whole is answered under the number of its first message.
                let refused = code != 0 && from_end == 2 && sequence == first;
                if sequence == awaited || refused {
                    return outcome;
                }
            }
        }
    }

    /// Sends one request for a dump and gives every message of the answer to `each`.
    pub(crate) fn dump(&mut self, mut batch: Batch, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let first = self.sequence;
        self.sequence = self.sequence.wrapping_add(batch.count);
        batch.number(first);
        self.socket.send(&batch.buffer)?;
        loop {
            self.socket.receive(&mut self.buffer)?;
            for (kind, sequence, payload) in Messages(&self.buffer) {
                if sequence != first {
                    continue;
                }
                match kind {
                    DONE => return Ok(()),
                    ERROR => {
                        let code =
                            payload.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => each(kind, payload),
                }
            }
        }
    }

    /// Sends one request whose answer is one message, followed by the acknowledgement.
    pub(crate) fn get(&mut self, mut batch: Batch) -> io::Result<Option<(u16, Vec<u8>)>> {
        batch.acknowledge(batch.last);
        let mut answer = None;
        self.dump(batch, |kind, payload| answer = Some((kind, payload.to_vec())))?;
        Ok(answer)
    }
}

/// Notices of the kernel: type, who caused it, payload.
pub(crate) fn notices(datagram: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    let causes = Messages(datagram).scan(0, |offset, (_, _, payload)| {
        let port = datagram.get(*offset + 12..*offset + 16).and_then(u32_of);
        *offset += (payload.len() + HEADER).next_multiple_of(4);
        port
    });
    Messages(datagram).zip(causes).map(|((kind, _, payload), port)| (kind, port, payload))
}

/// The messages of one datagram: type, sequence number, payload.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..HEADER)?;
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
        let payload = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, sequence, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut batch = Batch::default();
        batch.message(7, 0, &[1, 2], |m| {
            m.put_str(3, "abc");
            m.nest(4, |m| m.put_u32(5, 42));
        });
        let (kind, sequence, payload) = Messages(&batch.buffer).next().unwrap();
        assert_eq!((kind, sequence), (7, 0));
        let attributes = Attributes(&payload[4..]);
        assert_eq!(str_of(attributes.get(3).unwrap()), "abc");
        let inner = Attributes(attributes.get(4).unwrap());
        assert_eq!(u32_of(inner.get(5).unwrap()), Some(42));
        assert_eq!(Attributes(&[200, 0, 1, 0, 9]).next(), None);
    }
}
