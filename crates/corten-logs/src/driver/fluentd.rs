//! fluentd: its forward protocol, messages in MessagePack.
//!
//! Records of one batch go as one `Forward` mode entry: `[tag, [[time, record], …], option]`. With `request-ack` the
//! option carries a chunk id, and the receiver answers `{"ack": id}` once it has stored the batch.

use std::collections::BTreeMap;
use std::time::Duration;

use corten_base::units;
use corten_wire::api::TextMap;

use super::journald::PartIds;
use super::syslog::with_port;
use super::{Packets, Patience};
use crate::connection::Endpoint;
use crate::error::{LogError, bad};
use crate::info::Info;
use crate::json::Record;
use crate::options::{flag, syntax};

pub(crate) const OPTIONS: &[&str] = &[
    "fluentd-address",
    "fluentd-async",
    "fluentd-async-connect",
    "fluentd-async-reconnect-interval",
    "fluentd-buffer-limit",
    "fluentd-max-retries",
    "fluentd-read-timeout",
    "fluentd-request-ack",
    "fluentd-retry-wait",
    "fluentd-sub-second-precision",
    "fluentd-write-timeout",
];

/// Docker waits this long before it tries again.
const RETRY_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) endpoint: Endpoint,
    pub(crate) asynchronous: bool,
    /// Undelivered bytes beyond it are skipped, where it was given.
    pub(crate) buffer_limit: Option<u64>,
    pub(crate) patience: Patience,
    ack: bool,
    sub_second: bool,
}

impl Options {
    pub(crate) fn parse(options: &TextMap) -> Result<Self, LogError> {
        let get = |key: &str| options.get(key).map(String::as_str).filter(|v| !v.is_empty());
        let duration = |key: &str| {
            let parsed = get(key).map(|text| {
                units::parse_duration(text).ok_or_else(|| bad(format!("time: invalid duration {text:?}")))
            });
            parsed.transpose()
        };
        if get("fluentd-async").is_some() && get("fluentd-async-connect").is_some() {
            return Err(bad(
                "conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect",
            ));
        }
        let buffer_limit = get("fluentd-buffer-limit").map(|text| {
            let bytes = units::ram_in_bytes(text).and_then(|n| u64::try_from(n).ok());
            bytes.ok_or_else(|| bad(format!("invalid size: '{text}'")))
        });
        let attempts = get("fluentd-max-retries")
            .map(|text| text.parse::<u64>().map_err(|_| syntax("ParseUint", text)))
            .transpose()?;
        let reconnect = duration("fluentd-async-reconnect-interval")?;
        if reconnect.is_some_and(|d| {
            !d.is_zero() && !(Duration::from_millis(100)..=Duration::from_secs(10)).contains(&d)
        }) {
            return Err(bad(
                "invalid value for fluentd-async-reconnect-interval: value should be between 100ms and 10s",
            ));
        }
        let asynchronous = flag(options, "fluentd-async")? || flag(options, "fluentd-async-connect")?;
        Ok(Self {
            endpoint: address(get("fluentd-address").unwrap_or_default())?,
            asynchronous,
            buffer_limit: buffer_limit.transpose()?,
            patience: Patience {
                pause: duration("fluentd-retry-wait")?.unwrap_or(RETRY_WAIT).max(Duration::from_millis(10)),
                steady: false,
                attempts: attempts.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
                reconnect: reconnect.filter(|d| !d.is_zero() && asynchronous),
                write_timeout: duration("fluentd-write-timeout")?.filter(|d| !d.is_zero()),
                read_timeout: duration("fluentd-read-timeout")?.filter(|d| !d.is_zero()),
            },
            ack: flag(options, "fluentd-request-ack")?,
            sub_second: flag(options, "fluentd-sub-second-precision")?,
        })
    }
}

fn address(text: &str) -> Result<Endpoint, LogError> {
    let wrong = |why: &str| bad(format!("invalid fluentd-address {text}: {why}"));
    let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
    match scheme {
        "unix" => Ok(Endpoint::Unix(rest.into())),
        "tcp" => {
            let host = with_port(if rest.is_empty() { "127.0.0.1" } else { rest }, 24224);
            let port = host.rsplit_once(':').map_or("", |(_, port)| port);
            match port.parse::<u16>() {
                Ok(_) => Ok(Endpoint::Tcp(host)),
                Err(_) => Err(wrong(&format!("strconv.Atoi: parsing {port:?}: invalid syntax"))),
            }
        }
        // COMPAT: Docker's driver takes TLS and unixgram addresses, and its library then cannot dial them.
        other => Err(wrong(&format!("unsupported scheme: {other}"))),
    }
}

/// Makes packets for one container.
#[derive(Debug)]
pub(crate) struct Encoder {
    tag: String,
    fixed: BTreeMap<String, String>,
    ack: bool,
    sub_second: bool,
    entries: Vec<u8>,
    count: u32,
    parts: PartIds,
}

impl Encoder {
    pub(crate) fn new(options: &Options, info: &Info) -> Result<Self, LogError> {
        let mut fixed = BTreeMap::from([
            ("container_id".to_owned(), info.id.clone()),
            ("container_name".to_owned(), format!("/{}", info.name)),
        ]);
        fixed.extend(info.attributes(str::to_owned)?);
        Ok(Self {
            tag: info.tag("{{.ID}}")?,
            fixed,
            ack: options.ack,
            sub_second: options.sub_second,
            entries: Vec::new(),
            count: 0,
            parts: PartIds::default(),
        })
    }

    pub(crate) fn encode(&mut self, record: &Record, _: &mut Packets) {
        let mut own: Vec<(&str, Vec<u8>)> = vec![
            ("source", if record.stderr { "stderr" } else { "stdout" }.into()),
            ("log", record.line().to_vec()),
        ];
        if let Some(part) = record.part {
            own.push(("partial_message", "true".into()));
            own.push(("partial_id", self.parts.id(part, record.stderr).into()));
            own.push(("partial_ordinal", part.ordinal.to_string().into()));
            own.push(("partial_last", part.last.to_string().into()));
        }
        let out = &mut self.entries;
        out.push(0x92);
        let seconds = u32::try_from(record.time_ns / 1_000_000_000).unwrap_or(0);
        if self.sub_second {
            // The extension EventTime: seconds and nanoseconds.
            out.extend_from_slice(&[0xd7, 0x00]);
            out.extend_from_slice(&seconds.to_be_bytes());
            let nanoseconds = u32::try_from(record.time_ns % 1_000_000_000).unwrap_or(0);
            out.extend_from_slice(&nanoseconds.to_be_bytes());
        } else {
            out.push(0xce);
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        map_head(out, self.fixed.len() + own.len());
        for (key, value) in &self.fixed {
            string(out, key.as_bytes());
            string(out, value.as_bytes());
        }
        for (key, value) in own {
            string(out, key.as_bytes());
            string(out, &value);
        }
        self.count += 1;
    }

    /// Puts what was encoded into one message.
    pub(crate) fn finish(&mut self, out: &mut Packets) {
        if self.count == 0 {
            return;
        }
        out.bytes.push(0x93);
        string(&mut out.bytes, self.tag.as_bytes());
        out.bytes.push(0xdd);
        out.bytes.extend_from_slice(&self.count.to_be_bytes());
        out.bytes.append(&mut self.entries);
        if self.ack {
            use base64::Engine;
            let random = corten_base::Id::random();
            let id = base64::engine::general_purpose::STANDARD.encode(&random.as_str().as_bytes()[..16]);
            out.bytes.push(0x82);
            string(&mut out.bytes, b"chunk");
            string(&mut out.bytes, id.as_bytes());
            out.ack = Some(id);
        } else {
            out.bytes.push(0x81);
        }
        string(&mut out.bytes, b"size");
        out.bytes.push(0xce);
        out.bytes.extend_from_slice(&self.count.to_be_bytes());
        self.count = 0;
        out.end_packet();
    }
}

fn map_head(out: &mut Vec<u8>, members: usize) {
    match u8::try_from(members) {
        Ok(n @ 0..=15) => out.push(0x80 | n),
        _ => {
            out.push(0xde);
            out.extend_from_slice(&u16::try_from(members).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
}

/// A text. Docker writes whatever bytes a container wrote, and so do we.
fn string(out: &mut Vec<u8>, text: &[u8]) {
    match u32::try_from(text.len()) {
        Ok(n @ 0..=31) => out.push(0xa0 | u8::try_from(n).unwrap_or(0)),
        Ok(n @ 32..=0xffff) => {
            out.push(0xda);
            out.extend_from_slice(&u16::try_from(n).unwrap_or(0).to_be_bytes());
        }
        n => {
            out.push(0xdb);
            out.extend_from_slice(&n.unwrap_or(u32::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(text);
}

/// The id in an answer `{"ack": id}`; `None` while it is not complete.
pub(crate) fn acknowledged(answer: &[u8]) -> Option<String> {
    let rest = answer.strip_prefix(b"\x81\xa3ack")?;
    let (&head, rest) = rest.split_first()?;
    let (length, rest) = match head {
        0xa0..=0xbf => (usize::from(head & 0x1f), rest),
        0xd9 => (usize::from(*rest.first()?), &rest[1..]),
        _ => return None,
    };
    rest.get(..length).map(|id| String::from_utf8_lossy(id).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::tests::info;

    fn options(pairs: &[(&str, &str)]) -> Result<Options, String> {
        let map = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Options::parse(&map).map_err(|e| e.to_string())
    }

    #[test]
    fn addresses_and_refusals() {
        for (text, want) in [
            ("", "127.0.0.1:24224"),
            ("10.0.0.1", "10.0.0.1:24224"),
            ("tcp://h:1", "h:1"),
            ("[::1]:7", "[::1]:7"),
        ] {
            let Endpoint::Tcp(host) = options(&[("fluentd-address", text)]).unwrap().endpoint else {
                panic!()
            };
            assert_eq!(host, want);
        }
        for (key, value, text) in [
            (
                "fluentd-address",
                "h:x",
                "invalid fluentd-address h:x: strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            ("fluentd-buffer-limit", "x", "invalid size: 'x'"),
            ("fluentd-async", "maybe", "strconv.ParseBool: parsing \"maybe\": invalid syntax"),
            ("fluentd-retry-wait", "x", "time: invalid duration \"x\""),
            ("fluentd-max-retries", "-1", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
        ] {
            assert_eq!(options(&[(key, value)]).map(|_| ()).unwrap_err(), text);
        }
    }

    #[test]
    fn messages() {
        let with = |pairs: &[(&str, &str)]| {
            let mut encoder = Encoder::new(&options(pairs).unwrap(), &info(&[("tag", "t")])).unwrap();
            let mut out = Packets::default();
            let record = Record {
                text: b"hi\n".to_vec(),
                stderr: false,
                time_ns: 0x0102_0304 * 1_000_000_000 + 5,
                part: None,
            };
            encoder.encode(&record, &mut out);
            encoder.finish(&mut out);
            out
        };
        let plain = with(&[]).bytes;
        let head = b"\x93\xa1t\xdd\0\0\0\x01\x92\xce\x01\x02\x03\x04\x84\xaccontainer_id\xda\0\x40";
        assert_eq!(&plain[..head.len()], head);
        assert!(plain.ends_with(
            b"\xaecontainer_name\xa4/web\xa6source\xa6stdout\xa3log\xa2hi\x81\xa4size\xce\0\0\0\x01"
        ));
        let precise = with(&[("fluentd-sub-second-precision", "true"), ("fluentd-request-ack", "true")]);
        assert_eq!(&precise.bytes[9..19], b"\xd7\0\x01\x02\x03\x04\0\0\0\x05");
        let id = precise.ack.unwrap();
        let mut answer = b"\x81\xa3ack".to_vec();
        string(&mut answer, id.as_bytes());
        assert_eq!(acknowledged(&answer), Some(id));
        assert_eq!(acknowledged(&answer[..9]), None);
    }
}
