//! What receivers want: each driver's options, and its encoding of one record.

pub(crate) mod fluentd;
pub(crate) mod gelf;
pub(crate) mod journald;
pub(crate) mod syslog;

use std::path::PathBuf;
use std::time::Duration;

use crate::connection::{Endpoint, dial_error};
use crate::error::LogError;
use crate::info::Info;
use crate::json::Record;

/// How long a start waits for a receiver to take its connection.
const PROBE: Duration = Duration::from_secs(5);

/// A driver that delivers, with its own options.
#[derive(Debug, Clone)]
pub(crate) enum Receiver {
    Syslog(syslog::Options),
    Fluentd(fluentd::Options),
    Gelf(gelf::Options),
    Journald,
}

/// Encoded records, each one packet where the transport has packets.
#[derive(Debug, Default)]
pub(crate) struct Packets {
    pub(crate) bytes: Vec<u8>,
    /// Where each packet ends.
    pub(crate) ends: Vec<usize>,
    /// What the receiver is to acknowledge.
    pub(crate) ack: Option<String>,
}

impl Packets {
    pub(crate) fn end_packet(&mut self) {
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn packets(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }
}

/// A driver set up for one container.
#[derive(Debug)]
pub(crate) enum Encoder {
    Syslog(syslog::Encoder),
    Fluentd(fluentd::Encoder),
    Gelf(gelf::Encoder),
    Journald(journald::Encoder),
}

impl Encoder {
    pub(crate) fn encode(&mut self, records: &[Record], out: &mut Packets) {
        for record in records {
            match self {
                Self::Syslog(e) => e.encode(record, out),
                Self::Fluentd(e) => e.encode(record, out),
                Self::Gelf(e) => e.encode(record, out),
                Self::Journald(e) => e.encode(record, out),
            }
        }
        if let Self::Fluentd(e) = self {
            e.finish(out);
        }
    }
}

/// What a driver does about a receiver that does not take records.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// First pause; later ones are longer.
    pub(crate) pause: Duration,
    /// Pauses do not grow.
    pub(crate) steady: bool,
    /// Attempts after which a batch is given up; `None` never.
    pub(crate) attempts: Option<u32>,
    /// A connection is made anew when it is so old.
    pub(crate) reconnect: Option<Duration>,
    pub(crate) write_timeout: Option<Duration>,
    pub(crate) read_timeout: Option<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            pause: Duration::from_millis(100),
            steady: false,
            attempts: None,
            reconnect: None,
            write_timeout: None,
            read_timeout: None,
        }
    }
}

impl Receiver {
    pub(crate) fn encoder(&self, info: &Info) -> Result<Encoder, LogError> {
        Ok(match self {
            Self::Syslog(o) => Encoder::Syslog(syslog::Encoder::new(o, info)?),
            Self::Fluentd(o) => Encoder::Fluentd(fluentd::Encoder::new(o, info)?),
            Self::Gelf(o) => Encoder::Gelf(gelf::Encoder::new(o, info)?),
            Self::Journald => Encoder::Journald(journald::Encoder::new(info)?),
        })
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint, LogError> {
        match self {
            Self::Syslog(o) => o.endpoint(),
            Self::Fluentd(o) => Ok(o.endpoint.clone()),
            Self::Gelf(o) => Ok(o.endpoint.clone()),
            Self::Journald => Ok(Endpoint::Unixgram(PathBuf::from(journald::SOCKET))),
        }
    }

    pub(crate) fn patience(&self) -> Patience {
        match self {
            Self::Fluentd(o) => o.patience,
            Self::Gelf(o) => o.patience,
            Self::Syslog(_) | Self::Journald => Patience::default(),
        }
    }

    /// Whether the receiver is there. COMPAT: Docker's drivers connect when the container starts, and the start fails
    /// where they cannot, unless delivery is asynchronous.
    pub(crate) fn probe(&self) -> Result<(), LogError> {
        let endpoint = self.endpoint()?;
        let failed = |e: &std::io::Error| dial_error(&endpoint, e);
        match self {
            Self::Journald if !std::path::Path::new(journald::SOCKET).exists() => {
                Err(LogError::Receiver("journald is not enabled on this host".into()))
            }
            Self::Journald => Ok(()),
            Self::Fluentd(o) if o.asynchronous => Ok(()),
            Self::Fluentd(_) | Self::Syslog(_) => {
                endpoint.probe(PROBE).map_err(|e| LogError::Receiver(failed(&e)))
            }
            Self::Gelf(o) => endpoint.probe(PROBE).map_err(|e| {
                LogError::Receiver(format!(
                    "gelf: cannot connect to GELF endpoint: {} {}",
                    o.address,
                    failed(&e)
                ))
            }),
        }
    }
}
