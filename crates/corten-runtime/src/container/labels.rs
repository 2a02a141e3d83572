//! AppArmor profiles and SELinux labels: what a program is executed under.
//!
//! The files to write to are opened on the host's /proc, before anything of the container's could stand in their
//! place (CVE-2025-52881), and written just before the program is executed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;

use corten_wire::oci_runtime::Process;
use rustix::fs::{Mode, OFlags};

use super::failure::{Outcome, Step, of};
use crate::fault::StepError;

/// What this process is to be executed under.
#[derive(Debug, Default)]
pub(super) struct Labels {
    apparmor: Option<Label>,
    selinux: Option<Label>,
}

/// A label, and where to write it.
#[derive(Debug)]
struct Label {
    text: String,
    file: Option<OwnedFd>,
}

/// The kernel confines with AppArmor.
#[must_use]
pub fn has_apparmor() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    let read = || std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with(b"Y"));
    *ENABLED.get_or_init(read)
}

/// The kernel labels with SELinux.
#[must_use]
pub fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Refuses what the kernel does not have. To be asked on the host's side.
pub(super) fn check(process: &Process, mount_label: &str) -> Result<(), StepError> {
    if !process.apparmor_profile.is_empty() && process.apparmor_profile != "unconfined" && !has_apparmor() {
        return Err(StepError::new("label", "apparmor: config provided but apparmor not supported"));
    }
    let wanted = !process.selinux_label.is_empty() || !mount_label.is_empty();
    if wanted && !has_selinux() {
        let text = "selinux label is specified in config, but selinux is disabled or not supported";
        return Err(StepError::new("label", text));
    }
    Ok(())
}

impl Labels {
    pub(super) fn of(process: &Process) -> Self {
        let label = |text: String| Label { text, file: None };
        let profile = &process.apparmor_profile;
        let confined = !profile.is_empty() && has_apparmor();
        Self {
            apparmor: confined.then(|| label(format!("exec {profile}"))),
            selinux: (!process.selinux_label.is_empty()).then(|| label(process.selinux_label.clone())),
        }
    }

    /// Opens what [`Labels::apply`] writes to; /proc is the host's still.
    pub(super) fn open(&mut self) -> Outcome {
        let open = |path| rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        if let Some(label) = &mut self.apparmor {
            // LINUX 5.8: before, all modules share one file.
            let file = open(c"/proc/thread-self/attr/apparmor/exec");
            let file = file.or_else(|_| open(c"/proc/thread-self/attr/exec"));
            label.file = Some(file.map_err(of(Step::LabelFiles))?);
        }
        if let Some(label) = &mut self.selinux {
            label.file = Some(open(c"/proc/thread-self/attr/exec").map_err(of(Step::LabelFiles))?);
        }
        Ok(())
    }

    pub(super) fn apply(&self) -> Outcome {
        for (label, step) in [(&self.apparmor, Step::AppArmor), (&self.selinux, Step::SeLinux)] {
            let Some(Label { text, file: Some(file) }) = label else { continue };
            match rustix::io::write(file, text.as_bytes()).map_err(of(step))? {
                n if n == text.len() => {}
                _ => return Err(of(step)(io::Error::from(io::ErrorKind::WriteZero))),
            }
        }
        Ok(())
    }
}

/// The option that labels a file system; none for those that cannot have one.
pub(super) fn mount_option(fstype: &str, label: &str) -> Option<String> {
    let without = ["proc", "sysfs", "mqueue", "cgroup", "cgroup2"];
    (!label.is_empty() && !without.contains(&fstype)).then(|| format!("context={label}"))
}
