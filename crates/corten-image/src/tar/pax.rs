//! PAX records: `length key=value\n`, strictly.

use super::{Attribute, TarError};

/// Largest extended header or long name that is read; Go's limit.
pub(crate) const MAX_SPECIAL: u64 = 1 << 20;

/// What the records of one `x` header say about the next member.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<Attribute>,
    pub(crate) sparse: bool,
}

/// Reads all records; one malformed record refuses the archive (a lenient reader and a strict one would see
/// different members).
pub(crate) fn parse(mut data: &[u8]) -> Result<Records, TarError> {
    let mut records = Records::default();
    while !data.is_empty() {
        let length = length(data)?;
        apply(&mut records, &data[..length])?;
        data = &data[length..];
    }
    Ok(records)
}

/// Length of the first record, which counts itself and ends in a newline.
fn length(data: &[u8]) -> Result<usize, TarError> {
    let space = data.iter().take(12).position(|b| *b == b' ').ok_or(TarError::Header)?;
    let length = std::str::from_utf8(&data[..space])
        .ok()
        .filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|d| d.parse::<usize>().ok())
        .ok_or(TarError::Header)?;
    if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
        return Err(TarError::Header);
    }
    Ok(length)
}

fn apply(records: &mut Records, record: &[u8]) -> Result<(), TarError> {
    let space = record.iter().position(|b| *b == b' ').ok_or(TarError::Header)?;
    let body = &record[space + 1..record.len() - 1];
    let equals = body.iter().position(|b| *b == b'=').filter(|n| *n > 0).ok_or(TarError::Header)?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    if key.contains(&0) || (matches!(key, b"path" | b"linkpath" | b"uname" | b"gname") && value.contains(&0))
    {
        return Err(TarError::Header);
    }
    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
        records.xattrs.retain(|(n, _)| n != name);
        records.xattrs.push((name.to_vec(), value.to_vec()));
        return Ok(());
    }
    if key.starts_with(b"GNU.sparse.") {
        records.sparse = true;
        return Ok(());
    }
    // An empty value takes an earlier record back.
    let text = || std::str::from_utf8(value).map_err(|_| TarError::Header);
    match key {
        b"path" => records.path = (!value.is_empty()).then(|| value.to_vec()),
        b"linkpath" => records.link = (!value.is_empty()).then(|| value.to_vec()),
        b"size" | b"uid" | b"gid" | b"mtime" if value.is_empty() => match key {
            b"size" => records.size = None,
            b"uid" => records.uid = None,
            b"gid" => records.gid = None,
            _ => records.mtime = None,
        },
        b"size" => records.size = Some(decimal(text()?)?),
        b"uid" => records.uid = Some(u32::try_from(decimal(text()?)?).map_err(|_| TarError::Header)?),
        b"gid" => records.gid = Some(u32::try_from(decimal(text()?)?).map_err(|_| TarError::Header)?),
        b"mtime" => records.mtime = Some(time(text()?)?),
        _ => {}
    }
    Ok(())
}

fn decimal(text: &str) -> Result<u64, TarError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TarError::Header);
    }
    text.parse::<u64>().ok().filter(|n| i64::try_from(*n).is_ok()).ok_or(TarError::Header)
}

/// `[-]seconds[.fraction]`; more than nine digits of fraction are cut.
fn time(text: &str) -> Result<(i64, u32), TarError> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = seconds.starts_with('-');
    let digits = seconds.strip_prefix('-').unwrap_or(seconds);
    let seconds = i64::try_from(decimal(digits)?).map_err(|_| TarError::Header)?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TarError::Header);
    }
    let nanos = format!("{fraction:0<9}")[..9].parse::<u32>().map_err(|_| TarError::Header)?;
    Ok(match (negative, nanos) {
        (false, n) => (seconds, n),
        (true, 0) => (-seconds, 0),
        (true, n) => (-seconds - 1, 1_000_000_000 - n),
    })
}

/// Appends one record, whose length counts itself.
pub(crate) fn write(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body + digits(body);
    if digits(length) != digits(body) {
        length = body + digits(length);
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

const fn digits(n: usize) -> usize {
    n.ilog10() as usize + 1
}
