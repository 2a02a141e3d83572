//! Starts shims.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_wire::shim::{Bootstrap, BootstrapReply, Started};

use super::{Connection, Monitor, Shim, ShimError};
use crate::channel::{self, Received};

/// The program `corten-runtime` in a sealed memfd, ready to be started.
#[derive(Debug)]
pub struct Launcher {
    program: OwnedFd,
    null: File,
}

/// A shim reads a configuration, and then sits for as long as its container with next to nothing. Without a cache per
/// thread, what it has freed becomes whole pages again that can be given back; large buffers are mappings of their own.
const ALLOCATOR: &std::ffi::CStr =
    c"GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0:glibc.malloc.mmap_threshold=32768";

impl Launcher {
    /// Loads the program: `path`, or `corten-runtime` beside the running program.
    ///
    /// # Errors
    /// [`ShimError::Io`] if it cannot be read.
    pub fn open(path: Option<&Path>) -> Result<Self, ShimError> {
        let beside = || -> std::io::Result<PathBuf> {
            let mut path = std::env::current_exe()?;
            path.set_file_name("corten-runtime");
            Ok(path)
        };
        let path =
            path.map_or_else(beside, |p| Ok(p.to_owned())).map_err(ShimError::io("find own program"))?;
        let mut source = File::open(path).map_err(ShimError::io("open corten-runtime"))?;
        let program = corten_sys::memfd::sealed_program("corten-runtime", &mut source)
            .map_err(ShimError::io("copy corten-runtime"))?;
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(ShimError::io("open /dev/null"))?;
        Ok(Self { program, null })
    }

    /// Starts a shim, which creates and starts its container; waits until the program runs or could not be
    /// started (a few milliseconds). `attach` are the sockets of `bootstrap.attach`. The monitor's sink may
    /// hear of the container's exit before this returns.
    ///
    /// # Errors
    /// [`ShimError::Fault`] with Docker's text if the container could not be started; nothing is left then.
    pub fn spawn(
        &self,
        monitor: &Monitor,
        bootstrap: &Bootstrap,
        attach: Vec<OwnedFd>,
    ) -> Result<(Shim, Started), ShimError> {
        let (ours, theirs) = corten_sys::seqpacket::pair().map_err(ShimError::io("socket pair"))?;
        let args = ["corten-runtime", "shim", &bootstrap.id]
            .map(|a| CString::new(a.replace('\0', "")).unwrap_or_default());
        let fds = [(theirs.as_fd(), 0), (self.null.as_fd(), 1), (self.null.as_fd(), 2)];
        let env = [ALLOCATOR.to_owned()];
        let child = corten_sys::process::spawn(self.program.as_fd(), &args, &env, &fds)
            .map_err(ShimError::io("start corten-runtime"))?;
        drop(theirs);
        let borrowed: Vec<_> = attach.iter().map(AsFd::as_fd).collect();
        let sent = channel::send(ours.as_fd(), bootstrap, &borrowed, true);
        drop(attach);
        let reply = sent.map_err(ShimError::io("send bootstrap")).and_then(|()| {
            channel::recv::<BootstrapReply>(ours.as_fd(), &mut channel::buffer(), true)
                .map_err(ShimError::io("read bootstrap reply"))
        });
        monitor.reap(child.pidfd)?;
        match reply? {
            Received::Message(BootstrapReply::Started(started), _) => {
                let connection = Connection::new(bootstrap.id.clone(), ours);
                monitor.watch(&connection)?;
                Ok((Shim { connection }, started))
            }
            Received::Message(BootstrapReply::Failed(fault), _) => Err(ShimError::Fault(fault)),
            Received::Nothing => Err(ShimError::Protocol),
            Received::End => Err(ShimError::Gone),
        }
    }
}
