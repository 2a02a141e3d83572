//! The 512-byte header block.

use super::TarError;

pub(crate) const BLOCK: usize = 512;

/// One raw header block whose checksum was verified.
pub(crate) struct Block<'a>(pub(crate) &'a [u8; BLOCK]);

impl Block<'_> {
    /// Checks the checksum: unsigned as POSIX says, or signed as ancient programs computed it.
    pub(crate) fn verify(&self) -> Result<(), TarError> {
        let stored = octal(&self.0[148..156])?;
        let (unsigned, signed) = checksums(self.0);
        let stored = i64::try_from(stored).map_err(|_| TarError::Header)?;
        if stored == unsigned || stored == signed { Ok(()) } else { Err(TarError::Header) }
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.0.iter().all(|b| *b == 0)
    }

    pub(crate) fn type_flag(&self) -> u8 {
        self.0[156]
    }

    /// Name with the ustar prefix, where the format has one.
    pub(crate) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        // GNU's magic is `ustar  \0`; it uses the prefix field for other things.
        if &self.0[257..263] == b"ustar\0" {
            let prefix = text(&self.0[345..500]);
            if !prefix.is_empty() {
                return [prefix, b"/", name].concat();
            }
        }
        name.to_vec()
    }

    pub(crate) fn link(&self) -> &[u8] {
        text(&self.0[157..257])
    }

    pub(crate) fn mode(&self) -> Result<u32, TarError> {
        Ok((number(&self.0[100..108])? & 0o7777) as u32)
    }

    pub(crate) fn uid(&self) -> Result<u32, TarError> {
        id(number(&self.0[108..116])?)
    }

    pub(crate) fn gid(&self) -> Result<u32, TarError> {
        id(number(&self.0[116..124])?)
    }

    pub(crate) fn size(&self) -> Result<u64, TarError> {
        u64::try_from(number(&self.0[124..136])?).map_err(|_| TarError::Header)
    }

    pub(crate) fn mtime(&self) -> Result<i64, TarError> {
        number(&self.0[136..148])
    }

    pub(crate) fn device(&self) -> Result<(u32, u32), TarError> {
        if !self.0[257..262].eq(b"ustar") {
            return Ok((0, 0));
        }
        Ok((id(number(&self.0[329..337])?)?, id(number(&self.0[337..345])?)?))
    }
}

pub(crate) fn id(n: i64) -> Result<u32, TarError> {
    u32::try_from(n).map_err(|_| TarError::Header)
}

pub(crate) fn checksums(block: &[u8; BLOCK]) -> (i64, i64) {
    let (mut unsigned, mut signed) = (0, 0);
    for (i, b) in block.iter().enumerate() {
        let b = if (148..156).contains(&i) { b' ' } else { *b };
        unsigned += i64::from(b);
        signed += i64::from(b.cast_signed());
    }
    (unsigned, signed)
}

/// Text up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number in octal, or in base 256 where the first bit is set.
fn number(field: &[u8]) -> Result<i64, TarError> {
    if field[0] & 0x80 == 0 {
        return i64::try_from(octal(field)?).map_err(|_| TarError::Header);
    }
    // Two's complement, big endian, the first bit is the marker and the second the sign.
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (i, b) in field.iter().enumerate() {
        let byte = if i == 0 && negative {
            b | 0x80
        } else if i == 0 {
            b & 0x7f
        } else {
            *b
        };
        if value.unsigned_abs() >= 1 << 100 {
            return Err(TarError::Header);
        }
        value = (value << 8) | i128::from(byte);
    }
    i64::try_from(value).map_err(|_| TarError::Header)
}

fn octal(field: &[u8]) -> Result<u64, TarError> {
    let digits = field.iter().position(|b| *b != b' ' && *b != 0).map_or(&[][..], |start| &field[start..]);
    let end = digits.iter().position(|b| *b == b' ' || *b == 0).unwrap_or(digits.len());
    if digits[end..].iter().any(|b| *b != b' ' && *b != 0) {
        return Err(TarError::Header);
    }
    digits[..end].iter().try_fold(0u64, |n, b| match b {
        b'0'..=b'7' => {
            n.checked_mul(8).and_then(|n| n.checked_add(u64::from(b - b'0'))).ok_or(TarError::Header)
        }
        _ => Err(TarError::Header),
    })
}
