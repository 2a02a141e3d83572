//! What went wrong in a process that may not ask for memory: a fixed record, put into words by who made the process.
//!
//! The record says which step it was, which of several (the third mount, the second device), and what the kernel said.
//! Who reads it has the plan at hand, and with that the names.

use std::io;

use corten_wire::oci_runtime::{Process, Spec};
use corten_wire::shim::UserSpec;
use rustix::io::Errno;

use super::{devices, rootfs};
use crate::fault::{StepError, errno_text};
use crate::user::{self, UserError};

/// Makes the steps and the list of all of them, in the order of their numbers.
macro_rules! steps {
    ($($step:ident,)*) => {
        /// A step that can fail.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Step {
            $($step,)*
        }

        const ALL: [Step; Step::Report as usize + 1] = [$(Step::$step,)*];
    };
}

steps! {
    Session,
    OomScore,
    Signal,
    Abandoned,
    Keyring,
    Join,
    UnshareCgroup,
    BecomeRoot,
    Rootfs,
    NoMappedMounts,
    PrivateMounts,
    OwnProgram,
    Mount,
    NotOrdinary,
    InProc,
    Device,
    DeviceParent,
    DeviceLink,
    HostName,
    DomainName,
    NoUser,
    NoGroup,
    Ids,
    Passwd,
    Groups,
    Terminal,
    NoDevpts,
    Console,
    Hooks,
    Stdio,
    Sysctl,
    MakeCwd,
    Readonly,
    Mask,
    NotNull,
    FinishRootfs,
    Pivot,
    Control,
    Enter,
    OpenRoot,
    Affinity,
    Rlimit,
    Scheduler,
    IoPriority,
    MemoryPolicy,
    Personality,
    Capabilities,
    SetGroups,
    SetGid,
    SetUid,
    Cwd,
    CwdOutside,
    NotFound,
    Stat,
    IsDirectory,
    NotExecutable,
    LabelFiles,
    AppArmor,
    SeLinux,
    NoNewPrivileges,
    CloseRange,
    Filter,
    FilterPage,
    FilterReport,
    FilterUnheard,
    Start,
    NoProgram,
    Clocks,
    Clone,
    Report,
}

/// A step failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    step: Step,
    /// Which one of several.
    index: u16,
    /// What the kernel said.
    errno: Option<Errno>,
}

/// What the child's functions return.
pub(super) type Outcome<T = ()> = Result<T, Failure>;

/// What an error of the kernel's is in: both of its forms, without a word about it.
pub(super) trait Code {
    fn errno(self) -> Errno;
}

impl Code for Errno {
    fn errno(self) -> Errno {
        self
    }
}

impl Code for io::Error {
    fn errno(self) -> Errno {
        match self.kind() {
            io::ErrorKind::FileTooLarge => Errno::FBIG,
            _ => Errno::from_io_error(&self).unwrap_or(Errno::IO),
        }
    }
}

impl Failure {
    /// Not the kernel's doing.
    pub(super) fn plain(step: Step) -> Self {
        Self { step, index: 0, errno: None }
    }

    pub(super) fn at(self, index: usize) -> Self {
        Self { index: u16::try_from(index).unwrap_or(u16::MAX), ..self }
    }

    /// As it is sent.
    pub(super) fn to_bytes(self) -> [u8; 7] {
        let [low, high] = self.index.to_le_bytes();
        let [a, b, c, d] = self.errno.map_or(0, Errno::raw_os_error).to_le_bytes();
        [self.step as u8, low, high, a, b, c, d]
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [step, low, high, a, b, c, d] = *bytes else { return None };
        let errno = i32::from_le_bytes([a, b, c, d]);
        Some(Self {
            step: *ALL.get(usize::from(step))?,
            index: u16::from_le_bytes([low, high]),
            errno: (errno != 0).then(|| Errno::from_raw_os_error(errno)),
        })
    }
}

/// For `map_err`: this step failed, and the kernel said why.
pub(super) fn of<E: Code>(step: Step) -> impl Fn(E) -> Failure {
    move |e| Failure { step, index: 0, errno: Some(e.errno()) }
}

/// The same of one of several.
pub(super) fn nth<E: Code>(step: Step, index: usize) -> impl Fn(E) -> Failure {
    move |e| of(step)(e).at(index)
}

/// Where the names are that a record leaves out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names<'a> {
    pub(crate) spec: Option<&'a Spec>,
    pub(crate) process: &'a Process,
    pub(crate) user: Option<&'a UserSpec>,
}

impl Names<'_> {
    /// The words of runc, and of the reference engine.
    pub(super) fn words(&self, failure: Failure) -> StepError {
        let Failure { step, index, errno } = failure;
        let (word, text) = self.sentence(step, usize::from(index));
        let reason = errno.map(io::Error::from);
        let raw = errno.map(Errno::raw_os_error);
        let text = match (&reason, step) {
            // The reason is in the sentence, or says less than it.
            (_, Step::IsDirectory | Step::NotOrdinary | Step::NotFound) | (None, _) => text,
            // COMPAT: the words of Go's os/user.
            (Some(e), Step::Passwd | Step::Groups) => format!("{text}: {e}"),
            (Some(e), _) => format!("{text}: {}", errno_text(e)),
        };
        let bare = matches!(step, Step::NoUser | Step::NoGroup | Step::Ids | Step::Passwd | Step::Groups);
        StepError { step: word.into(), errno: raw.filter(|_| !bare), text, bare }
    }

    /// The step's name, and what was being done.
    fn sentence(&self, step: Step, index: usize) -> (&'static str, String) {
        let fixed = |word, text: &str| (word, text.to_owned());
        match step {
            Step::Session => fixed("session", "setsid"),
            Step::OomScore => fixed("oom", "failed to set oom_score_adj"),
            Step::Signal => fixed("cgroup", "wait for the shim"),
            Step::Abandoned => fixed("cgroup", "the creator is gone"),
            Step::Keyring => fixed("keyring", "unable to create session key"),
            Step::Join => fixed("setns", "join namespace"),
            Step::UnshareCgroup => fixed("unshare", "unshare cgroup namespace"),
            Step::BecomeRoot => fixed("namespace", "become root of the user namespace"),
            Step::Clocks => fixed("namespace", "set time offsets"),
            Step::Clone => fixed("clone", "clone3"),
            Step::Report => fixed("report", "send report"),
            Step::Rootfs => fixed("rootfs", "error preparing rootfs"),
            Step::NoMappedMounts => {
                fixed("rootfs", "error preparing rootfs: no ID-mapped mounts on this file system")
            }
            Step::PrivateMounts => fixed("mount", "make mounts private"),
            Step::OwnProgram => fixed("mount", "take own program away"),
            Step::FinishRootfs => fixed("rootfs", "error finishing rootfs"),
            Step::Pivot => fixed("pivot_root", "pivot_root"),
            Step::HostName => fixed("hostname", "sethostname"),
            Step::DomainName => fixed("hostname", "setdomainname"),
            Step::Terminal => fixed("console", "open terminal"),
            Step::NoDevpts => fixed("console", "/dev/pts is not a devpts file system"),
            Step::Console => fixed("console", "mount /dev/console"),
            Step::Hooks => fixed("hooks", "wait for hooks"),
            Step::Stdio => fixed("stdio", "set up standard streams"),
            Step::Control => fixed("exec", "prctl"),
            Step::Enter => fixed("setns", "enter namespaces"),
            Step::OpenRoot => fixed("exec", "open /"),
            Step::Start => fixed("start", "wait for start"),
            Step::Mount
            | Step::NotOrdinary
            | Step::InProc
            | Step::Device
            | Step::DeviceParent
            | Step::DeviceLink
            | Step::Sysctl
            | Step::Readonly
            | Step::Mask
            | Step::NotNull => self.place(step, index),
            Step::NoUser => fixed("user", &self.user_error(&user::Miss::User)),
            Step::NoGroup => fixed("user", &self.user_error(&user::Miss::Group(index))),
            Step::Ids => fixed("user", &self.user_error(&user::Miss::Range)),
            Step::Passwd => fixed("user", "/etc/passwd"),
            Step::Groups => fixed("user", "/etc/group"),
            _ => self.of_program(step, index),
        }
    }

    /// Steps of the root file system.
    fn place(&self, step: Step, index: usize) -> (&'static str, String) {
        let linux = self.spec.and_then(|s| s.linux.as_ref());
        let mount = self.spec.and_then(|s| s.mounts.get(index));
        let quoted = |path: Option<&std::path::PathBuf>| {
            format!("{:?}", path.map(|p| p.display().to_string()).unwrap_or_default())
        };
        let destination = mount.map(|m| &m.destination);
        match step {
            Step::NotOrdinary => {
                let kind = mount.map(|m| m.fstype.as_str()).unwrap_or_default();
                ("mount", format!("filesystem {kind:?} must be mounted on ordinary directory"))
            }
            Step::InProc => {
                ("mount", format!("{} cannot be mounted because it is inside /proc", quoted(destination)))
            }
            Step::Device => ("device", format!("error creating device {}", devices::name(linux, index))),
            Step::DeviceParent => {
                let name = devices::name(linux, index);
                let parent = std::path::Path::new(&name).parent().map(|p| p.display().to_string());
                ("device", format!("error creating {}", parent.unwrap_or_default()))
            }
            Step::DeviceLink => {
                ("device", format!("error creating device {}", devices::LINKS[index].1.to_string_lossy()))
            }
            Step::Sysctl => {
                let key = linux.and_then(|l| l.sysctl.keys().nth(index)).map(String::as_str);
                ("sysctl", format!("write sysctl key {}", key.unwrap_or_default()))
            }
            Step::Readonly => {
                let path = quoted(linux.and_then(|l| l.readonly_paths.get(index)));
                ("readonly", format!("can't make {path} read-only"))
            }
            Step::Mask | Step::NotNull => {
                let path = quoted(linux.and_then(|l| l.masked_paths.get(index)));
                let why = if step == Step::NotNull { ": /dev/null is not the null device" } else { "" };
                ("mask", format!("can't mask path {path}{why}"))
            }
            _ => ("mount", rootfs::place(destination.map_or(std::path::Path::new(""), |d| d.as_path()))),
        }
    }

    /// Steps of the program.
    fn of_program(&self, step: Step, index: usize) -> (&'static str, String) {
        let name = self.process.args.first().map(String::as_str).unwrap_or_default();
        let cwd = self.process.cwd.display().to_string();
        let fixed = |word, text: &str| (word, text.to_owned());
        match step {
            Step::MakeCwd => ("cwd", format!("mkdir {cwd}")),
            Step::Cwd => ("cwd", format!("chdir to cwd ({cwd:?}) set in config.json failed")),
            Step::CwdOutside => fixed(
                "cwd",
                "current working directory is outside of container mount namespace root -- possible container \
                 breakout detected",
            ),
            Step::Affinity => fixed("affinity", "error setting CPU affinity"),
            Step::Rlimit => {
                let kind = self.process.rlimits.get(index).map(|l| l.kind.as_str());
                ("rlimit", format!("error setting rlimit {}", kind.unwrap_or_default()))
            }
            Step::Scheduler => fixed("scheduler", "error setting scheduler"),
            Step::IoPriority => fixed("scheduler", "failed to set io priority"),
            Step::MemoryPolicy => fixed("memory", "failed to set memory policy"),
            Step::Personality => fixed("personality", "failed to set personality"),
            Step::Capabilities => fixed("caps", "unable to apply caps"),
            Step::SetGroups => fixed("user", "setgroups"),
            Step::SetGid => fixed("user", "setgid"),
            Step::SetUid => fixed("user", "setuid"),
            Step::NotFound => ("exec", format!("exec: {name:?}: executable file not found in $PATH")),
            Step::Stat => ("exec", format!("exec: {name:?}: stat {name}")),
            // COMPAT: the two halves come from two layers of runc.
            Step::IsDirectory => ("exec", format!("exec: {name:?}: is a directory: permission denied")),
            Step::NotExecutable => ("exec", format!("exec: {name:?}")),
            Step::LabelFiles => fixed("label", "open /proc/thread-self/attr"),
            Step::AppArmor => fixed(
                "label",
                "unable to apply apparmor profile: apparmor failed to apply profile: write /proc/thread-self/attr/apparmor/exec",
            ),
            Step::SeLinux => fixed("label", "unable to set process label: write /proc/thread-self/attr/exec"),
            Step::NoNewPrivileges => fixed("no_new_privs", "set no new privileges"),
            Step::CloseRange => fixed("exec", "close_range"),
            Step::FilterPage => fixed("seccomp", "unable to init seccomp: shared page"),
            Step::FilterReport => fixed("seccomp", "unable to init seccomp: report"),
            Step::FilterUnheard => fixed("seccomp", "nobody took the listener's descriptor"),
            Step::Filter => fixed("seccomp", "unable to init seccomp"),
            Step::NoProgram => fixed("exec", "process property must not be empty"),
            _ => fixed("report", "unreadable report"),
        }
    }

    fn user_error(&self, miss: &user::Miss) -> String {
        UserError::of(miss, self.user.unwrap_or(&UserSpec::default())).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_sent() {
        for (number, step) in ALL.into_iter().enumerate() {
            assert_eq!(step as usize, number);
            for failure in [Failure::plain(step).at(3), of(step)(Errno::NOENT)] {
                assert_eq!(Failure::from_bytes(&failure.to_bytes()), Some(failure));
            }
        }
        assert_eq!(Failure::from_bytes(&[255; 7]), None);
        assert_eq!(Failure::from_bytes(&[]), None);
    }

    #[test]
    fn every_step_has_words_of_its_own() {
        let (process, spec) = (Process::default(), Spec::default());
        let names = Names { spec: Some(&spec), process: &process, user: None };
        let mut seen = std::collections::HashSet::new();
        for step in ALL {
            let text = names.words(Failure::plain(step)).text;
            assert!(text != "unreadable report" && seen.insert(text.clone()), "{step:?}: {text}");
        }
    }

    #[test]
    fn names_are_those_of_the_plan() {
        let mut process = Process { args: vec!["nope".into()], cwd: "/srv".into(), ..Process::default() };
        process.rlimits.push(Default::default());
        let mount = corten_wire::oci_runtime::Mount { destination: "/data".into(), ..Default::default() };
        let spec = Spec { mounts: vec![mount], ..Spec::default() };
        let names = Names { spec: Some(&spec), process: &process, user: None };
        for (failure, want) in [
            (nth(Step::Mount, 0)(Errno::ACCESS), "error mounting \"/data\" to rootfs: permission denied"),
            (of(Step::NotFound)(Errno::NOENT), "exec: \"nope\": executable file not found in $PATH"),
            (
                of(Step::Cwd)(Errno::NOENT),
                "chdir to cwd (\"/srv\") set in config.json failed: no such file or directory",
            ),
        ] {
            assert_eq!(names.words(failure).text, want);
        }
    }
}
