//! journald: datagrams of its native protocol, one for each record.

use std::collections::BTreeMap;

use super::Packets;
use crate::error::LogError;
use crate::info::Info;
use crate::json::{Part, Record};

pub(crate) const SOCKET: &str = "/run/systemd/journal/socket";
const INFO: &str = "6";
const ERROR: &str = "3";

/// Makes packets for one container.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// Fields that are the same in all records.
    fixed: Vec<u8>,
    /// Tells this encoder's ordinals from those of others.
    epoch: String,
    ordinal: u64,
    parts: PartIds,
}

impl Encoder {
    pub(crate) fn new(info: &Info) -> Result<Self, LogError> {
        let tag = info.tag("{{.ID}}")?;
        let short: String = info.id.chars().take(12).collect();
        let mut fields = BTreeMap::from([
            ("CONTAINER_ID".to_owned(), short),
            ("CONTAINER_ID_FULL".to_owned(), info.id.clone()),
            ("CONTAINER_NAME".to_owned(), info.name.clone()),
            ("CONTAINER_TAG".to_owned(), tag.clone()),
            ("IMAGE_NAME".to_owned(), info.image_name.clone()),
            ("SYSLOG_IDENTIFIER".to_owned(), tag),
        ]);
        fields.extend(info.attributes(field_name)?);
        let mut fixed = Vec::new();
        for (name, value) in &fields {
            field(&mut fixed, name, value.as_bytes());
        }
        let epoch = corten_base::Id::random().to_string();
        Ok(Self { fixed, epoch, ordinal: 0, parts: PartIds::default() })
    }

    pub(crate) fn encode(&mut self, record: &Record, out: &mut Packets) {
        self.ordinal += 1;
        let bytes = &mut out.bytes;
        field(bytes, "MESSAGE", record.line());
        field(bytes, "PRIORITY", if record.stderr { ERROR } else { INFO }.as_bytes());
        bytes.extend_from_slice(&self.fixed);
        field(bytes, "SYSLOG_TIMESTAMP", corten_base::time::rfc3339_nano(record.time_ns).as_bytes());
        field(bytes, "CONTAINER_LOG_EPOCH", self.epoch.as_bytes());
        field(bytes, "CONTAINER_LOG_ORDINAL", self.ordinal.to_string().as_bytes());
        if let Some(part) = record.part {
            let id = self.parts.id(part, record.stderr);
            field(bytes, "CONTAINER_PARTIAL_ID", id.as_bytes());
            field(bytes, "CONTAINER_PARTIAL_ORDINAL", part.ordinal.to_string().as_bytes());
            field(bytes, "CONTAINER_PARTIAL_LAST", part.last.to_string().as_bytes());
            if !part.last {
                field(bytes, "CONTAINER_PARTIAL_MESSAGE", b"true");
            }
        }
        out.end_packet();
    }
}

/// `NAME=value\n`, or the form with a length where the value has line ends.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Capital letters, digits and underscores, none of the latter at the start.
fn field_name(name: &str) -> String {
    let plain = |c: char| {
        let c = c.to_ascii_uppercase();
        if c.is_ascii_uppercase() || c.is_ascii_digit() { c } else { '_' }
    };
    name.chars().map(plain).collect::<String>().trim_start_matches('_').to_owned()
}

/// Names of long lines that come in parts, per stream.
#[derive(Debug, Default)]
pub(crate) struct PartIds([String; 2]);

impl PartIds {
    pub(crate) fn id(&mut self, part: Part, stderr: bool) -> &str {
        let id = &mut self.0[usize::from(stderr)];
        if part.ordinal == 1 || id.is_empty() {
            *id = corten_base::Id::random().to_string();
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::tests::info;

    #[test]
    fn packets() {
        let mut encoder = Encoder::new(&info(&[("labels", "com.team"), ("tag", "{{.Name}}")])).unwrap();
        encoder.epoch = "e".into();
        let mut out = Packets::default();
        let record = |text: &[u8], part| Record { text: text.to_vec(), stderr: true, time_ns: 0, part };
        encoder.encode(&record(b"two\nlines\n", None), &mut out);
        encoder.encode(&record(b"x", Some(Part { ordinal: 1, last: false })), &mut out);
        let packets: Vec<&[u8]> = out.packets().collect();
        let first = packets[0];
        assert!(first.starts_with(b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\nPRIORITY=3\n"));
        let text = String::from_utf8_lossy(first);
        for line in [
            "COM_TEAM=blue",
            "CONTAINER_ID=0123456789ab",
            "CONTAINER_NAME=web",
            "CONTAINER_TAG=web",
            "IMAGE_NAME=app:1",
            "SYSLOG_IDENTIFIER=web",
            "SYSLOG_TIMESTAMP=1970-01-01T00:00:00Z",
            "CONTAINER_LOG_EPOCH=e",
            "CONTAINER_LOG_ORDINAL=1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        let text = String::from_utf8_lossy(packets[1]);
        assert!(
            text.starts_with("MESSAGE=x\n") && text.contains("CONTAINER_PARTIAL_MESSAGE=true\n"),
            "{text}"
        );
        assert!(text.contains("CONTAINER_PARTIAL_ORDINAL=1\nCONTAINER_PARTIAL_LAST=false\n"), "{text}");
    }
}
