//! Settings of the kernel (`sysctl`), written through a procfs by names that follow no link.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use corten_sys::mount::Recipe;
use corten_sys::path;
use corten_wire::oci_runtime::Linux;
use rustix::fs::OFlags;

use super::c_path;
use super::failure::{Outcome, Step, nth};
use super::rootfs::recipe;
use crate::fault::StepError;

/// Settings, ready to be written.
#[derive(Debug)]
pub(super) struct Settings {
    all: Vec<Setting>,
    /// Where no procfs is known.
    proc: Recipe,
}

#[derive(Debug)]
struct Setting {
    /// For failures.
    index: usize,
    /// Below a procfs.
    path: CString,
    value: String,
}

impl Settings {
    /// Those of the configuration that are wanted.
    pub(super) fn of(linux: &Linux, wanted: impl Fn(&str) -> bool) -> Result<Self, StepError> {
        let all = linux.sysctl.iter().enumerate().filter(|(_, (name, _))| wanted(name));
        let all = all.map(|(index, (name, value))| {
            // A name with slashes may have dots in its parts (`net/ipv4/conf/eth0.1/forwarding`).
            let relative = if name.contains('/') { name.clone() } else { name.replace('.', "/") };
            let path = c_path("sysctl", &Path::new("sys").join(relative))?;
            Ok(Setting { index, path, value: value.clone() })
        });
        Ok(Self { all: all.collect::<Result<_, StepError>>()?, proc: recipe("proc", "proc", &[], 0)? })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Writes them through a procfs that is known, or a new one.
    pub(super) fn write(&self, proc: Option<BorrowedFd<'_>>) -> Outcome {
        let Some(first) = self.all.first() else { return Ok(()) };
        let own;
        let proc = match proc {
            Some(proc) => proc,
            None => {
                own = self.proc.make().map_err(nth(Step::Sysctl, first.index))?;
                own.as_fd()
            }
        };
        for setting in &self.all {
            setting.write(proc).map_err(nth(Step::Sysctl, setting.index))?;
        }
        Ok(())
    }
}

impl Setting {
    fn write(&self, proc: BorrowedFd<'_>) -> io::Result<()> {
        let file = path::open_strict(proc, self.path.as_c_str(), OFlags::WRONLY)?;
        rustix::io::write(&file, self.value.as_bytes())?;
        Ok(())
    }
}
