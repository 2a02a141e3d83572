//! Sandboxes: the network namespaces of containers, made ahead of need, forgotten behind the caller's back.
//!
//! Making a namespace takes the kernel milliseconds, so a few are kept ready. Deleting a link takes it tens of
//! milliseconds; most links never need that, because they die with their namespace. The thread `net-sandbox` does both.
//!
//! INVARIANT: only that thread and the threads of `corten_sys::netns::run_in` change their namespace.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use corten_base::Id;
use corten_sys::netns::{self, Owner};
use corten_wire::oci_runtime::IdMapping;

use crate::endpoint::{Mac, Users};
use crate::route::{Changes, Rtnetlink, is_absent};

/// How long a link that was cut off may wait for its namespace to end.
const LINGER: Duration = Duration::from_millis(300);
/// How long after the last container the store of namespaces is filled up: making them would compete with setting that
/// container up for the same locks of the kernel.
const PAUSE: Duration = Duration::from_millis(15);
/// How long a namespace of a container that is attached to nothing is kept open for its first attachment.
const FRESH: Duration = Duration::from_secs(10);

/// A namespace that is open, with rtnetlink inside it.
#[derive(Debug)]
pub(crate) struct OpenSandbox {
    pub(crate) ns: OwnedFd,
    pub(crate) route: Rtnetlink,
}

/// All namespaces of this daemon.
#[derive(Debug)]
pub(crate) struct Sandboxes {
    directory: PathBuf,
    ready: Arc<Mutex<Vec<OpenSandbox>>>,
    /// Of containers that are being set up: spares the first attachment from entering.
    fresh: Mutex<HashMap<Id, (Instant, OpenSandbox)>>,
    /// Files that are to go. Whoever takes a path out of here removes it: the thread, or somebody who needs the name.
    leaving: Arc<Mutex<HashSet<PathBuf>>>,
    jobs: Option<Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug)]
enum Job {
    Refill,
    Unpin(PathBuf),
    DeleteLink(String),
    Announce(PathBuf, Announcement),
}

/// Neighbours are to be told of a link's addresses: several times, as nobody confirms that he heard it.
#[derive(Debug)]
pub(crate) struct Announcement {
    pub(crate) ifname: String,
    pub(crate) mac: Mac,
    pub(crate) left: u8,
    pub(crate) interval: Duration,
}

impl Announcement {
    /// Tells them once, in the namespace that `route` is of; what is left to do.
    pub(crate) fn make(self, route: &mut Rtnetlink) -> io::Result<Self> {
        // Somebody in the container may have given the link another, or another name.
        let Some(link) = route.link(&self.ifname)?.filter(|link| link.mac == Some(self.mac)) else {
            return Ok(Self { left: 0, ..self });
        };
        let mut changes = Changes::default();
        changes.set_mac(link.index, self.mac);
        route.apply(changes)?;
        Ok(Self { left: self.left.saturating_sub(1), ..self })
    }
}

impl Sandboxes {
    /// Starts the thread; `ready` namespaces will be kept. `host` is rtnetlink of the host's namespace.
    pub(crate) fn open(directory: PathBuf, ready: usize, host: Rtnetlink) -> io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        let pool = Arc::new(Mutex::new(Vec::new()));
        let (jobs, queue) = mpsc::channel();
        let leaving = Arc::new(Mutex::default());
        let worker = Worker {
            queue,
            pool: Arc::clone(&pool),
            leaving: Arc::clone(&leaving),
            target: ready,
            home: netns::current()?,
            host,
        };
        let thread = std::thread::Builder::new()
            .name("net-sandbox".into())
            .stack_size(128 * 1024)
            .spawn(move || worker.run())?;
        Ok(Self {
            directory,
            ready: pool,
            fresh: Mutex::default(),
            leaving,
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Where the namespace of a container is.
    pub(crate) fn path(&self, container: &Id) -> PathBuf {
        self.directory.join(&crate::sandbox_id(container)[..12])
    }

    /// Makes the namespace of a container unless it exists.
    pub(crate) fn ensure(&self, container: &Id, users: Option<&Users>) -> io::Result<PathBuf> {
        let path = self.path(container);
        if lock(&self.leaving).remove(&path) {
            netns::unpin(&path)?;
        } else if is_namespace(&path) {
            return Ok(path);
        }
        let sandbox = match users {
            Some(users) => OpenSandbox::make_for(users)?,
            None => self.take()?,
        };
        netns::pin(&sandbox.ns, &path)?;
        let now = Instant::now();
        let mut fresh = lock(&self.fresh);
        fresh.retain(|_, (since, _)| now - *since < FRESH);
        fresh.insert(container.clone(), (now, sandbox));
        Ok(path)
    }

    fn take(&self) -> io::Result<OpenSandbox> {
        let ready = lock(&self.ready).pop();
        let sandbox = match ready {
            Some(sandbox) => sandbox,
            None => OpenSandbox::make()?,
        };
        self.send(Job::Refill);
        Ok(sandbox)
    }

    /// Takes away the file, in a moment; the kernel ends the namespace when the last process in it is gone.
    pub(crate) fn ensure_none(&self, container: &Id) {
        lock(&self.fresh).remove(container);
        let path = self.path(container);
        lock(&self.leaving).insert(path.clone());
        self.send(Job::Unpin(path));
    }

    /// The namespace with rtnetlink inside, for one use: kept from [`Self::ensure`] or opened again.
    pub(crate) fn enter(&self, container: &Id) -> io::Result<OpenSandbox> {
        if let Some((_, sandbox)) = lock(&self.fresh).remove(container) {
            return Ok(sandbox);
        }
        let ns = netns::open(&self.path(container))?;
        let route = netns::run_in(ns.as_fd(), Rtnetlink::open)?;
        Ok(OpenSandbox { ns, route })
    }

    /// Removes the files of namespaces whose container has no record.
    pub(crate) fn sweep(&self, keep: impl Fn(&str) -> bool) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_name().to_str().is_none_or(|name| !keep(name)) {
                netns::unpin(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Deletes a link, later and elsewhere, if its namespace has not ended by then.
    pub(crate) fn delete_link_later(&self, name: String) {
        self.send(Job::DeleteLink(name));
    }

    /// Makes the rest of an announcement, as long as the namespace is there.
    pub(crate) fn announce_later(&self, container: &Id, announcement: Announcement) {
        if announcement.left > 0 {
            self.send(Job::Announce(self.path(container), announcement));
        }
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only after the sender is gone.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Sandboxes {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl OpenSandbox {
    /// On a thread of its own, for callers that must stay where they are.
    fn make() -> io::Result<Self> {
        let (ns, route) = netns::create_with(prepare_here)?;
        Ok(Self { ns, route })
    }

    /// One that belongs to other users than we are.
    fn make_for(users: &Users) -> io::Result<Self> {
        let lines = |all: &[IdMapping]| {
            let line = |m: &IdMapping| format!("{} {} {}\n", m.container_id, m.host_id, m.size);
            all.iter().map(line).collect::<String>()
        };
        let ns = match users {
            Users::New { uids, gids } => netns::create_for(Owner::New(&lines(uids), &lines(gids)))?,
            Users::Of(path) => netns::create_for(Owner::Of(netns::open(path)?.as_fd()))?,
        };
        let route = netns::run_in(ns.as_fd(), prepare_here)?;
        Ok(Self { ns, route })
    }
}

/// What every sandbox has: `lo` up, and Docker's network settings for containers.
fn prepare_here() -> io::Result<Rtnetlink> {
    const LOOPBACK: u32 = 1;
    let mut route = Rtnetlink::open()?;
    let mut changes = Changes::default();
    changes.set_up(LOOPBACK);
    route.apply(changes)?;
    // Interfaces of IPv4-only networks must not speak IPv6 (CVE-2024-32473); attachments to networks that do switch
    // it on for their own link. `lo` keeps ::1.
    write_setting("net/ipv6/conf/default/disable_ipv6", "1")?;
    write_setting("net/ipv4/ip_unprivileged_port_start", "0")?;
    // In a user namespace the kernel takes no other groups than those that are known in it.
    let last = corten_sys::users::last_group().min(2_147_483_647);
    write_setting("net/ipv4/ping_group_range", &format!("0 {last}"))?;
    Ok(route)
}

/// Writes a kernel setting of the calling thread's namespace; one that the kernel does not have is no error.
pub(crate) fn write_setting(path: &str, value: &str) -> io::Result<()> {
    match std::fs::write(Path::new("/proc/sys").join(path), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// A kernel setting of the calling thread's namespace.
pub(crate) fn read_setting(path: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(Path::new("/proc/sys").join(path))?.trim().to_owned())
}

fn is_namespace(path: &Path) -> bool {
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|s| u64::try_from(s.f_type).is_ok_and(|t| t == NSFS_MAGIC))
}

/// The thread `net-sandbox`.
struct Worker {
    queue: Receiver<Job>,
    pool: Arc<Mutex<Vec<OpenSandbox>>>,
    leaving: Arc<Mutex<HashSet<PathBuf>>>,
    target: usize,
    home: OwnedFd,
    host: Rtnetlink,
}

impl Worker {
    fn run(mut self) {
        let mut links: Vec<(Instant, String)> = Vec::new();
        let mut announcements: Vec<(Instant, PathBuf, Announcement)> = Vec::new();
        let mut refill = Some(Instant::now());
        loop {
            let first = links.first().map(|(due, _)| *due);
            let due = announcements.iter().map(|(due, ..)| *due).chain(first).chain(refill).min();
            let wait = due.map_or(Duration::from_secs(3600), |d| d.saturating_duration_since(Instant::now()));
            match self.queue.recv_timeout(wait) {
                Ok(Job::Refill) => refill = Some(Instant::now() + PAUSE),
                Ok(Job::Unpin(path)) => self.unpin(&path),
                Ok(Job::DeleteLink(name)) => links.push((Instant::now() + LINGER, name)),
                Ok(Job::Announce(ns, rest)) => {
                    announcements.push((Instant::now() + rest.interval, ns, rest));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            while links.first().is_some_and(|(due, _)| *due <= now) {
                let (_, name) = links.remove(0);
                self.delete_link(&name);
            }
            for (_, ns, rest) in announcements.extract_if(.., |(due, ..)| *due <= now).collect::<Vec<_>>() {
                if let Some(rest) = announce(&ns, rest) {
                    announcements.push((now + rest.interval, ns, rest));
                }
            }
            if refill.is_some_and(|due| due <= now) {
                refill = None;
                self.refill();
            }
        }
        for (_, name) in links {
            self.delete_link(&name);
        }
    }

    fn unpin(&self, path: &Path) {
        // Under the lock, so that nobody makes a new namespace of that name meanwhile.
        let mut leaving = lock(&self.leaving);
        if leaving.remove(path)
            && let Err(error) = netns::unpin(path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot forget a network namespace");
        }
    }

    fn refill(&mut self) {
        while lock(&self.pool).len() < self.target {
            match self.make_here() {
                Ok(sandbox) => lock(&self.pool).push(sandbox),
                Err(error) => {
                    tracing::warn!(%error, "cannot make a network namespace ready");
                    return;
                }
            }
        }
    }

    fn make_here(&self) -> io::Result<OpenSandbox> {
        netns::unshare()?;
        let made = netns::current().and_then(|ns| Ok(OpenSandbox { ns, route: prepare_here()? }));
        netns::enter(self.home.as_fd())?;
        made
    }

    fn delete_link(&mut self, name: &str) {
        let outcome = self.host.link(name).and_then(|link| {
            let Some(link) = link else { return Ok(()) };
            let mut changes = Changes::default();
            changes.delete_link(link.index);
            self.host.apply(changes)
        });
        match outcome {
            Err(error) if !is_absent(&error) => tracing::warn!(link = name, %error, "cannot delete a link"),
            _ => {}
        }
    }
}

/// What is left to announce; nothing where the namespace is gone, or has no such link any more.
fn announce(ns: &Path, announcement: Announcement) -> Option<Announcement> {
    let ns = netns::open(ns).ok()?;
    let made = netns::run_in(ns.as_fd(), || announcement.make(&mut Rtnetlink::open()?));
    made.ok().filter(|rest| rest.left > 0)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
