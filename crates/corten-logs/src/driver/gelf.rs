//! GELF 1.1: compressed and chunked over UDP, ended by a zero byte over TCP.

use std::io::Write;
use std::time::Duration;

use corten_wire::api::TextMap;
use flate2::Compression;

use super::{Packets, Patience};
use crate::connection::Endpoint;
use crate::error::{LogError, bad};
use crate::info::{Info, hostname};
use crate::json::Record;

pub(crate) const OPTIONS: &[&str] = &[
    "gelf-address",
    "gelf-compression-level",
    "gelf-compression-type",
    "gelf-tcp-max-reconnect",
    "gelf-tcp-reconnect-delay",
];

/// Payload of one chunk, as Docker's library cuts them, without the header.
const CHUNK: usize = 1420 - 12;
/// The protocol's limit.
const MAX_CHUNKS: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Squeeze {
    Gzip(Compression),
    Zlib(Compression),
    None,
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) endpoint: Endpoint,
    pub(crate) address: String,
    pub(crate) patience: Patience,
    squeeze: Squeeze,
}

impl Options {
    pub(crate) fn parse(options: &TextMap) -> Result<Self, LogError> {
        let (tcp, address) = address(options.get("gelf-address").map_or("", String::as_str))?;
        let mut patience = Patience::default();
        for key in ["gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"] {
            let Some(text) = options.get(key) else { continue };
            if !tcp {
                return Err(bad(format!("{key:?} is only valid for TCP")));
            }
            let number: u32 = text.parse().map_err(|_| bad(format!("{key:?} must be a positive integer")))?;
            if key == "gelf-tcp-max-reconnect" {
                patience.attempts = Some(number);
            } else {
                patience.pause = Duration::from_secs(number.into()).max(Duration::from_millis(10));
                patience.steady = true;
            }
        }
        let unknown = |key: &str, text: &str| {
            bad(format!("unknown value {text:?} for log opt {key:?} for gelf log driver"))
        };
        let mut level = Compression::fast();
        for key in ["gelf-compression-level", "gelf-compression-type"] {
            if tcp && options.contains_key(key) {
                return Err(bad("compression is only supported on UDP"));
            }
        }
        if let Some(text) = options.get("gelf-compression-level") {
            level = match text.parse::<i32>() {
                Ok(-1) => Compression::default(),
                Ok(n @ 0..=9) => Compression::new(n.unsigned_abs()),
                _ => return Err(unknown("gelf-compression-level", text)),
            };
        }
        let squeeze = match options.get("gelf-compression-type").map(String::as_str) {
            _ if tcp => Squeeze::None,
            None | Some("gzip") => Squeeze::Gzip(level),
            Some("zlib") => Squeeze::Zlib(level),
            Some("none") => Squeeze::None,
            Some(text) => return Err(unknown("gelf-compression-type", text)),
        };
        let endpoint = if tcp { Endpoint::Tcp(address.clone()) } else { Endpoint::Udp(address.clone()) };
        Ok(Self { endpoint, address, patience, squeeze })
    }
}

/// Whether it is TCP, and `host:port`.
fn address(text: &str) -> Result<(bool, String), LogError> {
    if text.is_empty() {
        return Err(bad("gelf-address is a required parameter"));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(bad(format!("gelf-address should be in form proto://address, got {text}")));
    };
    let tcp = match scheme {
        "tcp" => true,
        "udp" => false,
        _ => return Err(bad("gelf: endpoint needs to be TCP or UDP")),
    };
    let port = rest.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    if port.is_none_or(|(host, _)| host.contains(':') && !host.ends_with(']')) {
        return Err(bad("gelf: please provide gelf-address as proto://host:port"));
    }
    Ok((tcp, rest.to_owned()))
}

/// Makes packets for one container.
#[derive(Debug)]
pub(crate) struct Encoder {
    tcp: bool,
    squeeze: Squeeze,
    fixed: serde_json::Map<String, serde_json::Value>,
}

impl Encoder {
    pub(crate) fn new(options: &Options, info: &Info) -> Result<Self, LogError> {
        let mut fixed = serde_json::Map::new();
        for (key, value) in [
            ("version", "1.1".to_owned()),
            ("host", hostname()),
            ("_container_id", info.id.clone()),
            ("_container_name", info.name.clone()),
            ("_image_id", info.image_id.clone()),
            ("_image_name", info.image_name.clone()),
            ("_command", info.command_line()),
            ("_tag", info.tag("{{.ID}}")?),
            ("_created", info.created.clone()),
        ] {
            fixed.insert(key.to_owned(), value.into());
        }
        let name = |key: &str| if key.starts_with('_') { key.to_owned() } else { format!("_{key}") };
        fixed.extend(info.attributes(name)?.into_iter().map(|(k, v)| (k, v.into())));
        Ok(Self { tcp: matches!(options.endpoint, Endpoint::Tcp(_)), squeeze: options.squeeze, fixed })
    }

    pub(crate) fn encode(&self, record: &Record, out: &mut Packets) {
        let text = String::from_utf8_lossy(record.line());
        if text.is_empty() {
            // The protocol demands a message.
            return;
        }
        let mut message = self.fixed.clone();
        message.insert("short_message".into(), text.into());
        let milliseconds = i64::try_from(record.time_ns / 1_000_000).unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds fit into 53 bits until the year 287396")]
        let seconds = milliseconds as f64 / 1000.0;
        message.insert("timestamp".into(), seconds.into());
        message.insert("level".into(), if record.stderr { 3 } else { 6 }.into());
        let json = serde_json::Value::Object(message).to_string().into_bytes();
        if self.tcp {
            out.bytes.extend_from_slice(&json);
            out.bytes.push(0);
            out.end_packet();
            return;
        }
        let body = self.squeeze(json);
        chunks(&body, out);
    }

    fn squeeze(&self, json: Vec<u8>) -> Vec<u8> {
        let done = match self.squeeze {
            Squeeze::None => return json,
            Squeeze::Gzip(level) => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(&json).and_then(|()| encoder.finish())
            }
            Squeeze::Zlib(level) => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(&json).and_then(|()| encoder.finish())
            }
        };
        done.expect("writing into memory does not fail")
    }
}

/// `1e 0f`, message id, number, count, then the piece.
fn chunks(body: &[u8], out: &mut Packets) {
    if body.len() <= CHUNK + 12 {
        out.bytes.extend_from_slice(body);
        out.end_packet();
        return;
    }
    let count = body.len().div_ceil(CHUNK);
    if count > MAX_CHUNKS {
        tracing::warn!(bytes = body.len(), "a log record is too long for GELF and is left out");
        return;
    }
    let id = corten_base::Id::random();
    for (n, piece) in body.chunks(CHUNK).enumerate() {
        out.bytes.extend_from_slice(&[0x1e, 0x0f]);
        out.bytes.extend_from_slice(&id.as_str().as_bytes()[..8]);
        out.bytes.extend_from_slice(&[u8::try_from(n).unwrap_or(0), u8::try_from(count).unwrap_or(0)]);
        out.bytes.extend_from_slice(piece);
        out.end_packet();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::info::tests::info;

    fn options(pairs: &[(&str, &str)]) -> Result<Options, String> {
        let map = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Options::parse(&map).map_err(|e| e.to_string())
    }

    fn encode(pairs: &[(&str, &str)], text: &[u8]) -> Packets {
        let encoder = Encoder::new(&options(pairs).unwrap(), &info(&[("env", "STAGE")])).unwrap();
        let mut out = Packets::default();
        let record =
            Record { text: text.to_vec(), stderr: false, time_ns: 1_700_000_000_123_456_789, part: None };
        encoder.encode(&record, &mut out);
        out
    }

    #[test]
    fn refusals() {
        for (pairs, text) in [
            (&[][..], "gelf-address is a required parameter"),
            (&[("gelf-address", "x")], "gelf-address should be in form proto://address, got x"),
            (&[("gelf-address", "http://x:1")], "gelf: endpoint needs to be TCP or UDP"),
            (&[("gelf-address", "udp://x")], "gelf: please provide gelf-address as proto://host:port"),
            (
                &[("gelf-address", "tcp://x:1"), ("gelf-compression-type", "gzip")],
                "compression is only supported on UDP",
            ),
            (
                &[("gelf-address", "udp://x:1"), ("gelf-compression-type", "zip")],
                "unknown value \"zip\" for log opt \"gelf-compression-type\" for gelf log driver",
            ),
            (
                &[("gelf-address", "udp://x:1"), ("gelf-tcp-max-reconnect", "1")],
                "\"gelf-tcp-max-reconnect\" is only valid for TCP",
            ),
            (
                &[("gelf-address", "tcp://x:1"), ("gelf-tcp-reconnect-delay", "-3")],
                "\"gelf-tcp-reconnect-delay\" must be a positive integer",
            ),
        ] {
            assert_eq!(options(pairs).map(|_| ()).unwrap_err(), text);
        }
    }

    #[test]
    fn messages() {
        let tcp = encode(&[("gelf-address", "tcp://x:1")], b"hello\n").bytes;
        let (zero, json) = tcp.split_last().unwrap();
        assert_eq!(*zero, 0);
        let message: serde_json::Value = serde_json::from_slice(json).unwrap();
        assert_eq!(message["short_message"], "hello");
        assert_eq!(message["timestamp"], 1_700_000_000.123);
        assert_eq!((&message["level"], &message["_STAGE"]), (&6.into(), &"live".into()));
        assert_eq!(message["_container_name"], "web");
    }

    #[test]
    fn compressed_and_chunked() {
        for kind in ["gzip", "zlib", "none"] {
            // Not compressible: three chunks at least.
            let text: String = (0..100).map(|_| corten_base::Id::random().to_string()).collect();
            let out =
                encode(&[("gelf-address", "udp://x:1"), ("gelf-compression-type", kind)], text.as_bytes());
            let mut body = Vec::new();
            for (n, packet) in out.packets().enumerate() {
                assert_eq!((packet[0], packet[1], usize::from(packet[10])), (0x1e, 0x0f, n));
                assert_eq!(
                    (usize::from(packet[11]), packet[2..10] == out.bytes[2..10]),
                    (out.ends.len(), true)
                );
                body.extend_from_slice(&packet[12..]);
            }
            assert!(out.ends.len() >= 3, "{kind}");
            let mut json = Vec::new();
            match kind {
                "gzip" => drop(flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut json).unwrap()),
                "zlib" => drop(flate2::read::ZlibDecoder::new(&body[..]).read_to_end(&mut json).unwrap()),
                _ => json = body,
            }
            let message: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(message["short_message"], text, "{kind}");
        }
    }
}
