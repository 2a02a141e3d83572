//! The name server of containers on user-defined networks, at 127.0.0.11 inside each sandbox.
//!
//! Names of containers are answered here, everything else goes to the host's name servers. Wire format:
//! `simple-dns`. One thread (`net-dns`) serves all sandboxes; it starts with the first.
//!
//! ```text
//! container ──53──▶ nft in the sandbox rewrites the port ──▶ our socket on 127.0.0.11:<any>, inside the sandbox
//!                                                              │ name known in a network of the container: answer
//!                                                              ▼ else
//!                                            socket in the sandbox (or the host, for its loopback) ──▶ upstream
//! ```

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corten_base::Id;
use corten_sys::netns;

use crate::endpoint::EndpointRecord;
use crate::nft::{Table, TableFamily};
use crate::plan;
use crate::worker::Worker;

mod server;
mod zones;

pub(crate) use zones::View;
use zones::Zones;

/// Where containers ask.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// The sockets of one sandbox.
#[derive(Debug)]
pub(crate) struct Listener {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Listener {
    /// Opens the sockets in the calling thread's namespace, and leads port 53 of 127.0.0.11 to them.
    pub(crate) fn open_here() -> io::Result<Self> {
        let udp = UdpSocket::bind((ADDRESS, 0))?;
        let tcp = TcpListener::bind((ADDRESS, 0))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let opened = Self { udp, tcp };
        opened.lead_here()?;
        Ok(opened)
    }

    /// Takes up the sockets of an earlier daemon, in the calling thread's namespace.
    pub(crate) fn adopt_here(kept: Vec<OwnedFd>) -> io::Result<Self> {
        let [udp, tcp] = <[OwnedFd; 2]>::try_from(kept).map_err(|_| io::ErrorKind::InvalidInput)?;
        let adopted = Self { udp: udp.into(), tcp: tcp.into() };
        adopted.lead_here()?;
        Ok(adopted)
    }

    /// Copies of the sockets, for [`Listener::adopt_here`].
    pub(crate) fn copies(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.udp.try_clone()?.into(), self.tcp.try_clone()?.into()])
    }

    fn lead_here(&self) -> io::Result<()> {
        let mut table = Table::open(TableFamily::Ip, "corten-dns".to_owned())?;
        table.commit(&plan::sandbox_dns(self.udp.local_addr()?.port(), self.tcp.local_addr()?.port()))?;
        Ok(())
    }
}

/// What the thread is told.
#[derive(Debug)]
enum Order {
    Serve(Id, Arc<Listener>),
    Stop(Id),
}

/// The handle.
#[derive(Debug)]
pub(crate) struct Dns {
    zones: Arc<Mutex<Zones>>,
    served: Mutex<HashMap<Id, Arc<Listener>>>,
    running: Mutex<Option<Worker<Order>>>,
    directory: PathBuf,
    home: Arc<OwnedFd>,
}

impl Dns {
    /// `directory` holds the sandboxes' namespaces. The calling thread's namespace is the host.
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        Ok(Self {
            zones: Arc::default(),
            served: Mutex::default(),
            running: Mutex::default(),
            directory,
            home: Arc::new(netns::current()?),
        })
    }

    /// Whether the sandbox has its sockets.
    pub(crate) fn serves(&self, container: &Id) -> bool {
        lock(&self.served).contains_key(container)
    }

    /// Copies of the sandbox's sockets; none where it has none.
    pub(crate) fn sockets(&self, container: &Id) -> io::Result<Vec<OwnedFd>> {
        let listener = lock(&self.served).get(container).cloned();
        listener.map_or(Ok(Vec::new()), |listener| listener.copies())
    }

    /// Answers on these sockets from now on.
    pub(crate) fn serve(&self, container: &Id, listener: Listener) -> io::Result<()> {
        let mut running = lock(&self.running);
        if running.is_none() {
            *running = Some(self.start()?);
        }
        let listener = Arc::new(listener);
        if let Some(running) = running.as_ref() {
            running.order(Order::Serve(container.clone(), Arc::clone(&listener)))?;
        }
        lock(&self.served).insert(container.clone(), listener);
        Ok(())
    }

    /// Closes the sandbox's sockets, which keep its namespace alive.
    pub(crate) fn stop(&self, container: &Id) {
        lock(&self.zones).set_view(container, None);
        if lock(&self.served).remove(container).is_none() {
            return;
        }
        if let Some(running) = lock(&self.running).as_ref() {
            // A thread that has ended has closed its sockets.
            let _ = running.order(Order::Stop(container.clone()));
        }
    }

    /// Makes an endpoint known by its names, instead of the names it had.
    pub(crate) fn announce(&self, record: &EndpointRecord, network_name: &str) {
        lock(&self.zones).announce(record, network_name);
    }

    /// Makes it unknown.
    pub(crate) fn forget(&self, network: &Id, endpoint: &Id) {
        lock(&self.zones).forget(network, endpoint);
    }

    /// What a container sees, from now on.
    pub(crate) fn set_view(&self, container: &Id, view: Option<View>) {
        lock(&self.zones).set_view(container, view);
    }

    fn start(&self) -> io::Result<Worker<Order>> {
        let (zones, directory, home) =
            (Arc::clone(&self.zones), self.directory.clone(), Arc::clone(&self.home));
        Worker::start("net-dns", |orders| {
            let server = server::Server::new(zones, orders, directory, home)?;
            Ok(move || server.run())
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
