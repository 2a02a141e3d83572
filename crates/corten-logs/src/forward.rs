//! Delivery: one task for each container whose driver has a receiver.
//!
//! ```text
//!            batch                     arrived
//!  Spool ───────────▶ Encoder ──▶ Connection ──▶ commit, next batch
//!    ▲                                │ failed
//!    └── changed (inotify), life ◀────┴── pause, connect anew, the same batch again
//! ```
//!
//! Invariants: a batch is committed after it has arrived, so that whatever ends the daemon repeats at most one batch
//! and loses none. A receiver that is down costs a pause, and the container nothing: its shim goes on writing. What
//! is lost at last are the oldest files, when the shim rotates them away; with `mode=non-blocking` everything beyond
//! `max-buffer-size`; with `mode=blocking` nothing, for then the shim waits (see `shim::log`).
//!
//! A task ends when its container has ended and everything is delivered.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::connection::{Connection, Endpoint};
use crate::driver::{Encoder, Packets, Patience, fluentd};
use crate::error::LogError;
use crate::info::Info;
use crate::options::Options;
use crate::spool::{Batch, Spool};
use crate::watch::{CURSOR, Watched, Watches};

/// Pauses between attempts grow to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a fluentd may take to acknowledge.
const ACK: Duration = Duration::from_secs(30);
/// COMPAT: Docker waits this long for its drivers to empty themselves before it removes a container.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

/// What is to be delivered, and where to.
#[derive(Debug)]
pub struct Job {
    path: PathBuf,
    endpoint: Endpoint,
    patience: Patience,
    max_lag: Option<u64>,
    encoder: Encoder,
}

impl Job {
    /// The delivery of a container's log at `path`; `None` where its driver has no receiver. With `probe` a receiver
    /// that is not there is an error; this blocks.
    ///
    /// # Errors
    /// A tag that cannot be made, a receiver that cannot be reached.
    pub fn new(options: &Options, info: &Info, path: PathBuf, probe: bool) -> Result<Option<Self>, LogError> {
        let Some(receiver) = &options.receiver else { return Ok(None) };
        let encoder = receiver.encoder(info)?;
        if probe {
            receiver.probe()?;
        }
        Ok(Some(Self {
            path,
            endpoint: receiver.endpoint()?,
            patience: receiver.patience(),
            max_lag: options.max_lag,
            encoder,
        }))
    }
}

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    /// Nothing will be written any more.
    Ended,
    /// Its files go away at this time.
    Removed(Instant),
}

#[derive(Debug, Default)]
struct Tasks {
    by_id: Mutex<HashMap<String, watch::Sender<Life>>>,
    watches: OnceLock<Watches>,
}

impl Tasks {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Life>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All deliveries of one daemon.
#[derive(Debug, Clone, Default)]
pub struct Forwarders(Arc<Tasks>);

impl Forwarders {
    /// Starts delivering, or goes on where the container was thought to have ended. Needs tokio's context.
    ///
    /// # Errors
    /// Cursor or inotify cannot be used.
    pub fn start(&self, id: &str, job: Job) -> io::Result<()> {
        let mut tasks = self.0.lock();
        if let Some(life) = tasks.get(id) {
            life.send_replace(Life::Running);
            return Ok(());
        }
        let directory = job.path.parent().unwrap_or(&job.path).to_owned();
        let watches = match self.0.watches.get() {
            Some(watches) => watches,
            None => {
                let started = Watches::start()?;
                self.0.watches.get_or_init(|| started)
            }
        };
        let (sender, life) = watch::channel(Life::Running);
        let delivery = Delivery {
            id: id.to_owned(),
            watched: watches.add(&directory)?,
            spool: Spool::open(&job.path, &directory.join(CURSOR))?,
            job,
            connection: None,
            down: false,
            life,
        };
        tasks.insert(id.to_owned(), sender);
        drop(tasks);
        tokio::spawn(delivery.run(self.0.clone()));
        Ok(())
    }

    /// The container has ended: what is there is delivered, and the task ends.
    pub fn ended(&self, id: &str) {
        if let Some(life) = self.0.lock().get(id) {
            life.send_if_modified(|life| {
                let was = *life;
                if was == Life::Running {
                    *life = Life::Ended;
                }
                was == Life::Running
            });
        }
    }

    /// The container is being removed: returns when everything is delivered, or after ten seconds.
    pub async fn drain(&self, id: &str) {
        let Some(gone) = self.0.lock().get(id).map(|life| {
            life.send_replace(Life::Removed(Instant::now() + DRAIN));
            life.subscribe()
        }) else {
            return;
        };
        let mut gone = gone;
        // The sender goes with the task's entry.
        while gone.changed().await.is_ok() {}
    }
}

struct Delivery {
    id: String,
    job: Job,
    spool: Spool,
    watched: Watched,
    connection: Option<(Connection, Instant)>,
    /// The receiver's absence has been logged.
    down: bool,
    life: watch::Receiver<Life>,
}

/// Nothing more is to be done.
struct Over;

impl Delivery {
    async fn run(mut self, tasks: Arc<Tasks>) {
        loop {
            let Over = self.deliver().await;
            let mut all = tasks.lock();
            // Started again while we looked at the last batch.
            if *self.life.borrow_and_update() == Life::Running {
                continue;
            }
            all.remove(&self.id);
            return;
        }
    }

    async fn deliver(&mut self) -> Over {
        loop {
            // Asked before the look: what was written before the end is then found.
            let life = *self.life.borrow_and_update();
            let batch = match self.spool.next() {
                Ok(batch) => batch,
                Err(error) => {
                    tracing::warn!(container.id = %self.id, %error, "log cannot be read for delivery");
                    return Over;
                }
            };
            if !batch.records.is_empty() {
                if let Err(over) = self.batch(batch).await {
                    return over;
                }
                continue;
            }
            self.commit(&batch);
            if life != Life::Running {
                return Over;
            }
            tokio::select! {
                () = self.watched.changed() => {}
                changed = self.life.changed() => if changed.is_err() { return Over },
                () = idle(&self.connection, &self.job.patience) => self.connection = None,
            }
        }
    }

    fn commit(&mut self, batch: &Batch) {
        if let Err(error) = self.spool.commit(batch) {
            tracing::warn!(container.id = %self.id, %error, "cursor of a log cannot be written");
        }
    }

    /// Delivers a batch, however long that takes.
    async fn batch(&mut self, mut batch: Batch) -> Result<(), Over> {
        let mut packets = self.encode(&batch);
        let mut pause = self.job.patience.pause;
        let mut attempts = 0;
        loop {
            let error = match self.attempt(&packets).await {
                Ok(()) => break,
                Err(error) => error,
            };
            self.connection = None;
            attempts += 1;
            if !self.down {
                tracing::warn!(container.id = %self.id, %error, "receiver of logs does not take them: trying again");
                self.down = true;
            }
            if self.job.patience.attempts.is_some_and(|most| attempts > most) {
                tracing::warn!(container.id = %self.id, records = batch.records.len(), "log records are given up");
                self.commit(&batch);
                return Ok(());
            }
            self.pause(pause).await?;
            if !self.job.patience.steady {
                pause = (pause * 3 / 2).min(LONGEST_PAUSE.max(self.job.patience.pause));
            }
            if let Some(newer) = self.skip() {
                batch = newer;
                packets = self.encode(&batch);
            }
        }
        if self.down {
            tracing::info!(container.id = %self.id, "receiver of logs takes them again");
            self.down = false;
        }
        self.commit(&batch);
        Ok(())
    }

    fn encode(&mut self, batch: &Batch) -> Packets {
        let mut packets = Packets::default();
        self.job.encoder.encode(&batch.records, &mut packets);
        packets
    }

    async fn attempt(&mut self, packets: &Packets) -> io::Result<()> {
        if packets.ends.is_empty() {
            return Ok(());
        }
        let patience = self.job.patience;
        let old = |since: Instant| patience.reconnect.is_some_and(|most| since.elapsed() >= most);
        if self.connection.as_ref().is_some_and(|(c, since)| c.is_closed() || old(*since)) {
            self.connection = None;
        }
        let mut life = self.life.clone();
        let sent = async {
            let connection = match &mut self.connection {
                Some((connection, _)) => connection,
                none => {
                    let opened = Connection::open(&self.job.endpoint).await?;
                    &mut none.insert((opened, Instant::now())).0
                }
            };
            connection.send(packets, patience.write_timeout).await?;
            match &packets.ack {
                Some(id) => acknowledged(connection, id, patience.read_timeout.unwrap_or(ACK)).await,
                None => Ok(()),
            }
        };
        tokio::select! {
            sent = sent => sent,
            () = deadline(&mut life) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Waits before the next attempt; not longer than the files stay.
    async fn pause(&mut self, pause: Duration) -> Result<(), Over> {
        let mut life = self.life.clone();
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = deadline(&mut life) => {
                tracing::warn!(container.id = %self.id, "a removed container's log is not delivered completely");
                Err(Over)
            }
        }
    }

    /// Leaves out what is more than the buffer may hold; the batch to go on with.
    fn skip(&mut self) -> Option<Batch> {
        let most = self.job.max_lag?;
        let mut skipped = 0;
        let mut last = None;
        while self.spool.lag() > most {
            match self.spool.next() {
                Ok(batch) if !batch.records.is_empty() => {
                    skipped += batch.records.len();
                    last = Some(batch);
                }
                _ => break,
            }
        }
        if skipped > 0 {
            tracing::warn!(container.id = %self.id, records = skipped, "buffer of logs is full: records are left out");
        }
        last
    }
}

/// The id of a batch, sent back.
async fn acknowledged(connection: &mut Connection, id: &str, limit: Duration) -> io::Result<()> {
    let mut answer = Vec::new();
    let mut block = [0; 256];
    let read = async {
        loop {
            let n = connection.receive(&mut block).await?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend_from_slice(&block[..n]);
            match fluentd::acknowledged(&answer) {
                Some(got) if got == id => return Ok(()),
                Some(_) => return Err(io::Error::other("the receiver acknowledged something else")),
                None if answer.len() > 1024 => return Err(io::Error::other("the receiver answers nonsense")),
                None => {}
            }
        }
    };
    tokio::time::timeout(limit, read).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Resolves when the files are about to go.
async fn deadline(life: &mut watch::Receiver<Life>) {
    loop {
        let now = *life.borrow_and_update();
        if let Life::Removed(at) = now {
            return tokio::time::sleep_until(at).await;
        }
        if life.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Resolves when a connection is old enough to be made anew.
async fn idle(connection: &Option<(Connection, Instant)>, patience: &Patience) {
    match (connection, patience.reconnect) {
        (Some((_, since)), Some(most)) => tokio::time::sleep_until(*since + most).await,
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
