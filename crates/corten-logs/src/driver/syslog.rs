//! syslog: RFC 3164, RFC 5424 and the short local format; over unix sockets, UDP, TCP and TLS.
//!
//! COMPAT: formats are those of Docker's library, tag as application name included; times are those of the records.

use std::path::{Path, PathBuf};

use corten_wire::api::TextMap;
use jiff::tz::TimeZone;

use super::Packets;
use crate::connection::{Endpoint, TlsFiles};
use crate::error::{LogError, bad};
use crate::info::{Info, hostname};
use crate::json::Record;

pub(crate) const OPTIONS: &[&str] = &[
    "syslog-address",
    "syslog-facility",
    "syslog-tls-ca-cert",
    "syslog-tls-cert",
    "syslog-tls-key",
    "syslog-tls-skip-verify",
    "syslog-format",
];

/// By their numbers.
const FACILITIES: [&str; 12] =
    ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"];
const INFO: u8 = 6;
const ERROR: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Unix,
    Rfc3164,
    Rfc5424,
    Rfc5424Micro,
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// `None` is the host's own daemon, wherever its socket is.
    endpoint: Option<Endpoint>,
    facility: u8,
    format: Format,
}

impl Options {
    pub(crate) fn parse(options: &TextMap) -> Result<Self, LogError> {
        let get = |key: &str| options.get(key).map_or("", String::as_str);
        let tls = TlsFiles {
            authority: options.get("syslog-tls-ca-cert").map(PathBuf::from),
            certificate: options.get("syslog-tls-cert").map(PathBuf::from),
            key: options.get("syslog-tls-key").map(PathBuf::from),
            // COMPAT: its presence counts, not its value.
            skip_verify: options.contains_key("syslog-tls-skip-verify"),
        };
        Ok(Self {
            endpoint: address(get("syslog-address"), tls)?,
            facility: facility(get("syslog-facility"))?,
            format: match get("syslog-format") {
                "" => Format::Unix,
                "rfc3164" => Format::Rfc3164,
                "rfc5424" => Format::Rfc5424,
                "rfc5424micro" => Format::Rfc5424Micro,
                _ => return Err(bad("Invalid syslog format")),
            },
        })
    }

    /// COMPAT: Docker refuses a socket that does not exist.
    pub(crate) fn check_socket(&self) -> Result<(), LogError> {
        match &self.endpoint {
            Some(Endpoint::Unix(path) | Endpoint::Unixgram(path)) if !path.exists() => {
                Err(bad(format!("stat {}: no such file or directory", path.display())))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint, LogError> {
        if let Some(endpoint) = &self.endpoint {
            return Ok(endpoint.clone());
        }
        let place =
            ["/dev/log", "/var/run/syslog", "/var/run/log"].into_iter().find(|p| Path::new(p).exists());
        match place {
            Some(path) => Ok(Endpoint::AnyUnix(path.into())),
            None => Err(LogError::Receiver("Unix syslog delivery error".into())),
        }
    }
}

fn address(text: &str, tls: TlsFiles) -> Result<Option<Endpoint>, LogError> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || bad(format!("syslog-address should be in form proto://address, got {text}"));
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let host = || with_port(rest, 514);
    Ok(Some(match scheme {
        "unix" => Endpoint::Unix(rest.into()),
        "unixgram" => Endpoint::Unixgram(rest.into()),
        "udp" => Endpoint::Udp(host()),
        "tcp" => Endpoint::Tcp(host()),
        "tcp+tls" => Endpoint::Tls(host(), Box::new(tls)),
        _ => return Err(wrong()),
    }))
}

/// `host:port`; brackets around an IPv6 address stay.
pub(crate) fn with_port(host: &str, port: u16) -> String {
    let tail = host.rfind(']').map_or(host, |i| &host[i..]);
    if tail.contains(':') { host.to_owned() } else { format!("{host}:{port}") }
}

fn facility(text: &str) -> Result<u8, LogError> {
    if text.is_empty() {
        return Ok(3);
    }
    let named = FACILITIES.iter().position(|f| *f == text).and_then(|n| u8::try_from(n).ok());
    let local = text.strip_prefix("local").and_then(|n| n.parse::<u8>().ok()).filter(|n| *n < 8);
    let number = text.parse::<u8>().ok().filter(|n| *n <= 23);
    named.or(local.map(|n| n + 16)).or(number).ok_or_else(|| bad("invalid syslog facility"))
}

/// Makes packets for one container.
#[derive(Debug)]
pub(crate) struct Encoder {
    facility: u8,
    format: Format,
    /// RFC 5425: the length stands before each message.
    counted: bool,
    hostname: String,
    tag: String,
    pid: u32,
    zone: TimeZone,
}

impl Encoder {
    pub(crate) fn new(options: &Options, info: &Info) -> Result<Self, LogError> {
        let long = matches!(options.format, Format::Rfc5424 | Format::Rfc5424Micro);
        Ok(Self {
            facility: options.facility,
            format: options.format,
            counted: long && matches!(options.endpoint, Some(Endpoint::Tls(..))),
            hostname: hostname(),
            tag: info.tag("{{.ID}}")?,
            pid: std::process::id(),
            zone: TimeZone::system(),
        })
    }

    pub(crate) fn encode(&self, record: &Record, out: &mut Packets) {
        let priority = self.facility * 8 + if record.stderr { ERROR } else { INFO };
        let Self { hostname, tag, pid, .. } = self;
        let time = self.time(record.time_ns);
        let head = match self.format {
            Format::Unix => format!("<{priority}>{time} {tag}[{pid}]: "),
            Format::Rfc3164 => format!("<{priority}>{time} {hostname} {tag}[{pid}]: "),
            Format::Rfc5424 | Format::Rfc5424Micro => {
                format!("<{priority}>1 {time} {hostname} {tag} {pid} {tag} - ")
            }
        };
        let text = record.line();
        if self.counted {
            out.bytes.extend_from_slice(format!("{} ", head.len() + text.len() + 1).as_bytes());
        }
        out.bytes.extend_from_slice(head.as_bytes());
        out.bytes.extend_from_slice(text);
        out.bytes.push(b'\n');
        out.end_packet();
    }

    fn time(&self, ns: i128) -> String {
        let Ok(time) = jiff::Timestamp::from_nanosecond(ns) else { return String::new() };
        let time = time.to_zoned(self.zone.clone());
        let zone = if time.offset().is_zero() { "Z" } else { "%:z" };
        let pattern = match self.format {
            Format::Unix | Format::Rfc3164 => "%b %e %H:%M:%S".to_owned(),
            Format::Rfc5424 => format!("%Y-%m-%dT%H:%M:%S{zone}"),
            Format::Rfc5424Micro => format!("%Y-%m-%dT%H:%M:%S.%6f{zone}"),
        };
        time.strftime(&pattern).to_string()
    }
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
    fn addresses() {
        for (text, want) in [
            ("udp://10.0.0.1", "10.0.0.1:514"),
            ("tcp://[fd00::1]", "[fd00::1]:514"),
            ("tcp+tls://logs.test:6514", "logs.test:6514"),
        ] {
            let endpoint = options(&[("syslog-address", text)]).unwrap().endpoint().unwrap();
            let (Endpoint::Udp(host) | Endpoint::Tcp(host) | Endpoint::Tls(host, _)) = endpoint else {
                panic!("{text}")
            };
            assert_eq!(host, want);
        }
        for (key, value, text) in [
            ("syslog-address", "nope", "syslog-address should be in form proto://address, got nope"),
            ("syslog-address", "http://x", "syslog-address should be in form proto://address, got http://x"),
            ("syslog-facility", "local9", "invalid syslog facility"),
            ("syslog-facility", "24", "invalid syslog facility"),
            ("syslog-format", "x", "Invalid syslog format"),
        ] {
            assert_eq!(options(&[(key, value)]).map(|_| ()).unwrap_err(), text);
        }
    }

    #[test]
    fn sockets() {
        let absent = options(&[("syslog-address", "unix:///no/such")]).unwrap();
        let text = absent.check_socket().unwrap_err().to_string();
        assert_eq!(text, "stat /no/such: no such file or directory");
        assert!(options(&[("syslog-address", "udp://x")]).unwrap().check_socket().is_ok());
    }

    #[test]
    fn facilities() {
        for (text, want) in [("", 3), ("kern", 0), ("ftp", 11), ("local0", 16), ("local7", 23), ("20", 20)] {
            assert_eq!(facility(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn formats() {
        let record = |stderr| Record {
            text: b"hello\n".to_vec(),
            stderr,
            time_ns: 1_700_000_000_120_000_000,
            part: None,
        };
        for (format, stderr, want) in [
            ("", false, "<134>Nov 14 22:13:20 web[7]: hello\n"),
            ("rfc3164", true, "<131>Nov 14 22:13:20 host web[7]: hello\n"),
            ("rfc5424", false, "<134>1 2023-11-14T22:13:20Z host web 7 web - hello\n"),
            ("rfc5424micro", false, "<134>1 2023-11-14T22:13:20.120000Z host web 7 web - hello\n"),
        ] {
            let chosen = options(&[("syslog-format", format), ("syslog-facility", "local0")]).unwrap();
            let mut encoder = Encoder::new(&chosen, &info(&[("tag", "{{.Name}}")])).unwrap();
            (encoder.hostname, encoder.pid, encoder.zone) = ("host".into(), 7, TimeZone::UTC);
            for counted in [false, true] {
                encoder.counted = counted;
                let mut out = Packets::default();
                encoder.encode(&record(stderr), &mut out);
                let text = String::from_utf8(out.bytes).unwrap();
                let want = if counted { format!("{} {want}", want.len()) } else { want.to_owned() };
                assert_eq!(text, want, "{format}");
            }
        }
    }
}
