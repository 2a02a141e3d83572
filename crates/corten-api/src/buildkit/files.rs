//! Files from the client, and to it: the packets of `DiffCopy`.
//!
//! ```text
//!   sender     STAT file 0, STAT file 1, … STAT (none)      DATA n … DATA n (empty)                FIN
//!   receiver                  REQ n for each file that it wants                        FIN (all is here)
//! ```

use std::collections::HashMap;
use std::io;

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};
use corten_build::{BuildError, FileSink, FileStat, FilesWanted};
use http::HeaderMap;
use tokio::sync::mpsc;

use super::session::{Session, add_values};
use crate::grpc::{Messages, Sender, Status};

const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";

/// Brings files of the client.
pub(super) async fn receive(
    session: &Session,
    wanted: &FilesWanted<'_>,
    sink: &mut dyn FileSink,
) -> Result<(), BuildError> {
    let failed = |e: Status| BuildError::Client(e.message);
    let (sender, mut messages) = open(session, wanted).map_err(failed)?;
    // Requests have a queue of their own: a client that waits for us to take its data must not make us wait for it.
    let (requests, mut queue) = mpsc::unbounded_channel::<Packet>();
    let sending = async move {
        while let Some(packet) = queue.recv().await {
            sender.send(&packet).await?;
        }
        Ok::<_, Status>(())
    };
    let receiving = async move {
        let mut transfer = Transfer { requests, number: 0, waiting: 0, all_told: false };
        while let Some(packet) = messages.next::<Packet>().await.map_err(failed)? {
            if transfer.take(packet, sink)? {
                return Ok(());
            }
        }
        Err(BuildError::Client("the client ended the transfer of files early".into()))
    };
    let (sent, received) = tokio::join!(sending, receiving);
    received?;
    sent.map_err(failed)
}

fn open(session: &Session, wanted: &FilesWanted<'_>) -> Result<(Sender, Messages), Status> {
    let mut metadata = HeaderMap::new();
    add_values(&mut metadata, "dir-name", &[wanted.directory.to_owned()])?;
    add_values(&mut metadata, "exclude-patterns", wanted.exclude)?;
    add_values(&mut metadata, "followpaths", wanted.follow)?;
    session.channel(DIFF_COPY)?.stream(DIFF_COPY, metadata)
}

/// The receiver's side.
struct Transfer {
    requests: mpsc::UnboundedSender<Packet>,
    number: u32,
    /// Files that were asked for and are not complete.
    waiting: usize,
    all_told: bool,
}

impl Transfer {
    /// Takes a packet; whether it was the last.
    fn take(&mut self, packet: Packet, sink: &mut dyn FileSink) -> Result<bool, BuildError> {
        match PacketType::try_from(packet.r#type) {
            Ok(PacketType::PacketStat) => match packet.stat {
                Some(stat) => {
                    if sink.stat(from_wire(stat))? {
                        self.waiting += 1;
                        self.send(PacketType::PacketReq, self.number);
                    }
                    self.number += 1;
                }
                None => self.all_told = true,
            },
            Ok(PacketType::PacketData) => {
                sink.data(packet.id, &packet.data)?;
                if packet.data.is_empty() {
                    self.waiting = self.waiting.saturating_sub(1);
                }
            }
            Ok(PacketType::PacketFin) => return Ok(true),
            Ok(PacketType::PacketErr) => {
                let text = String::from_utf8_lossy(&packet.data);
                return Err(BuildError::Client(format!("error from sender: {text}")));
            }
            Ok(PacketType::PacketReq) | Err(_) => {
                return Err(BuildError::Client("the client sent an unknown packet".into()));
            }
        }
        if self.all_told && self.waiting == 0 {
            self.all_told = false;
            self.send(PacketType::PacketFin, 0);
        }
        Ok(false)
    }

    fn send(&self, kind: PacketType, id: u32) {
        // Whoever should send it is gone: the next message from there says so.
        let _ = self.requests.send(Packet { r#type: kind as i32, id, ..Packet::default() });
    }
}

/// Bits of Go's `os.FileMode` and of `st_mode`.
const GO_KINDS: [(u32, u32); 6] = [
    (1 << 31, 0o040_000),
    (1 << 27, 0o120_000),
    (1 << 25, 0o010_000),
    (1 << 24, 0o140_000),
    // A character device has the bit of a device, too.
    (1 << 21, 0o020_000),
    (1 << 26, 0o060_000),
];
const GO_FLAGS: [(u32, u32); 3] = [(1 << 23, 0o4000), (1 << 22, 0o2000), (1 << 20, 0o1000)];

fn from_go(mode: u32) -> u32 {
    let kind = GO_KINDS.iter().find(|(go, _)| mode & go != 0).map_or(0o100_000, |(_, kind)| *kind);
    let flags = GO_FLAGS.iter().filter(|(go, _)| mode & go != 0).map(|(_, flag)| *flag);
    flags.fold(kind | (mode & 0o777), |all, flag| all | flag)
}

pub(super) fn to_go(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o020_000 => (1 << 26) | (1 << 21),
        kind => GO_KINDS.iter().find(|(_, k)| *k == kind).map_or(0, |(go, _)| *go),
    };
    let flags = GO_FLAGS.iter().filter(|(_, flag)| mode & flag != 0).map(|(go, _)| *go);
    flags.fold(kind | (mode & 0o777), |all, flag| all | flag)
}

fn from_wire(stat: Stat) -> FileStat {
    FileStat {
        path: stat.path,
        mode: from_go(stat.mode),
        size: u64::try_from(stat.size).unwrap_or_default(),
        modified_ns: stat.mod_time,
        link: stat.linkname,
        device: (
            u32::try_from(stat.devmajor).unwrap_or_default(),
            u32::try_from(stat.devminor).unwrap_or_default(),
        ),
        xattrs: stat.xattrs.into_iter().collect(),
    }
}

/// Where the files come from that a client is to be sent.
pub(super) trait FileSource {
    /// Tells every file, parents first; stops at an error.
    fn walk(&mut self, each: &mut dyn FnMut(Stat) -> Result<(), Status>) -> Result<(), Status>;

    /// Opens one of the files by the path that `walk` told.
    fn open(&mut self, path: &str) -> io::Result<std::fs::File>;
}

/// Sends files to the client; blocks.
pub(super) fn send(
    source: &mut dyn FileSource,
    sender: Sender,
    mut messages: Messages,
    runtime: &tokio::runtime::Handle,
) -> Result<(), Status> {
    let packet = |kind: PacketType| Packet { r#type: kind as i32, ..Packet::default() };
    let mut files: HashMap<u32, String> = HashMap::new();
    let mut number = 0;
    // Requests are taken by a task: a client that sends one while we still tell files must not wait for us.
    let (requests, mut queue) = mpsc::unbounded_channel();
    let listening = runtime.spawn(async move {
        loop {
            match messages.next::<Packet>().await {
                Ok(Some(packet)) => {
                    let last = packet.r#type == PacketType::PacketFin as i32;
                    if requests.send(Ok(packet)).is_err() || last {
                        // What follows is only the end of the call.
                        return if last { messages.next::<Packet>().await.map(|_| ()) } else { Ok(()) };
                    }
                }
                Ok(None) => return Ok(()),
                Err(e) => {
                    let _ = requests.send(Err(e.clone()));
                    return Err(e);
                }
            }
        }
    });
    source.walk(&mut |stat| {
        if stat.mode & 0o170_000 == 0o100_000 {
            files.insert(number, stat.path.clone());
        }
        number += 1;
        let stat = Stat { mode: to_go(stat.mode), ..stat };
        sender.blocking_send(&Packet { stat: Some(stat), ..packet(PacketType::PacketStat) })
    })?;
    sender.blocking_send(&packet(PacketType::PacketStat))?;
    while let Some(request) = queue.blocking_recv() {
        let request = request?;
        match PacketType::try_from(request.r#type) {
            Ok(PacketType::PacketReq) => {
                let path = files.get(&request.id).ok_or_else(|| Status::protocol("invalid file id"))?;
                content(source, path, request.id, &sender)?;
            }
            Ok(PacketType::PacketFin) => {
                sender.blocking_send(&packet(PacketType::PacketFin))?;
                drop(sender);
                return runtime.block_on(listening).unwrap_or_else(|e| Err(Status::protocol(e)));
            }
            Ok(PacketType::PacketErr) => {
                let text = String::from_utf8_lossy(&request.data).into_owned();
                return Err(Status::new(crate::grpc::Code::Unknown, format!("error from receiver: {text}")));
            }
            _ => return Err(Status::protocol("unknown packet")),
        }
    }
    Err(Status::gone("the transfer of files ended early"))
}

fn content(source: &mut dyn FileSource, path: &str, id: u32, sender: &Sender) -> Result<(), Status> {
    use std::io::Read;
    let mut file = source.open(path).map_err(Status::protocol)?;
    let mut block = vec![0; 128 << 10];
    loop {
        let n = file.read(&mut block).map_err(Status::protocol)?;
        let packet =
            Packet { r#type: PacketType::PacketData as i32, id, data: block[..n].to_vec(), stat: None };
        sender.blocking_send(&packet)?;
        if n == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_go() {
        for (go, st) in [
            (0o644, 0o100_644),
            ((1 << 31) | 0o755, 0o040_755),
            ((1 << 31) | (1 << 20) | 0o777, 0o041_777),
            ((1 << 27) | 0o777, 0o120_777),
            ((1 << 23) | 0o755, 0o104_755),
            ((1 << 26) | (1 << 21) | 0o666, 0o020_666),
            ((1 << 26) | 0o660, 0o060_660),
            ((1 << 25) | 0o600, 0o010_600),
        ] {
            assert_eq!(from_go(go), st, "{go:o}");
            assert_eq!(to_go(st), go, "{st:o}");
        }
    }
}
