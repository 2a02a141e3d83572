//! Finds the end of a chunked body, without looking at what is in it.
//!
//! ```text
//!  Size ──digits, extension, LF──▶ Data(n + CRLF) ──▶ Size …
//!    └── size 0 ──▶ Trailer ──empty line──▶ done
//! ```

/// Where in a chunked body we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunks {
    /// In the line with a chunk's size.
    Size { so_far: u64, digits: bool },
    /// So many bytes of a chunk and its end of line are left.
    Data(u64),
    /// In the lines after the last chunk.
    Trailer { empty: bool },
}

/// What became of a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All of it belongs to the body.
    More,
    /// The body ends after so many of its bytes.
    End(usize),
    /// This is no chunked body.
    Malformed,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self::Size { so_far: 0, digits: true }
    }

    /// Walks over one block.
    pub(super) fn pass(&mut self, block: &[u8]) -> Progress {
        let mut at = 0;
        while let Some(&byte) = block.get(at) {
            match self {
                Self::Data(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(block.len() - at);
                    at += n;
                    *left -= n as u64;
                    if *left == 0 {
                        *self = Self::new();
                    }
                    continue;
                }
                Self::Size { so_far, digits } => match (char::from(byte).to_digit(16), byte) {
                    (_, b'\n') if *so_far == 0 => *self = Self::Trailer { empty: true },
                    (_, b'\n') => match so_far.checked_add(2) {
                        Some(with_end) => *self = Self::Data(with_end),
                        None => return Progress::Malformed,
                    },
                    (Some(digit), _) if *digits => {
                        let Some(grown) = so_far.checked_mul(16) else { return Progress::Malformed };
                        *so_far = grown + u64::from(digit);
                    }
                    (_, b'\r') => {}
                    _ => *digits = false,
                },
                Self::Trailer { empty } => match byte {
                    b'\n' if *empty => return Progress::End(at + 1),
                    b'\n' => *empty = true,
                    b'\r' => {}
                    _ => *empty = false,
                },
            }
            at += 1;
        }
        Progress::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_however_the_body_is_cut() {
        let body =
            b"5\r\nhello\r\n1A;name=value\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nTrailer: x\r\n\r\nPOST /next";
        let end = body.len() - "POST /next".len();
        assert_eq!(Chunks::new().pass(body), Progress::End(end));
        for cut in 1..end {
            let mut chunks = Chunks::new();
            assert_eq!(chunks.pass(&body[..cut]), Progress::More, "{cut}");
            assert_eq!(chunks.pass(&body[cut..]), Progress::End(end - cut), "{cut}");
        }
        let mut chunks = Chunks::new();
        let last = body[..end].iter().map(|b| chunks.pass(&[*b])).last();
        assert_eq!(last, Some(Progress::End(1)));
    }

    #[test]
    fn no_end_and_no_panic_for_other_bytes() {
        assert_eq!(Chunks::new().pass(b"ffffffffffffffffff\r\n"), Progress::Malformed);
        assert_eq!(Chunks::new().pass(b"ffffffffffffffff\r\n"), Progress::Malformed);
        assert_eq!(Chunks::new().pass(b"0\r\n\r\n"), Progress::End(5));
        assert_eq!(Chunks::new().pass(b"0\r\n"), Progress::More);
    }
}
