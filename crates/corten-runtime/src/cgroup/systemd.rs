//! Control groups that systemd makes: each container is a transient scope, `<slice>/<prefix>-<name>.scope`.
//!
//! ```text
//!  start ── StartTransientUnit with a placeholder process, its limits as properties ──▶ the group is there
//!           everything else, and what systemd has no property for, is written to the group as without systemd
//!           the container's first process is made in the group, the placeholder ends
//!  set ──── SetUnitProperties, then the group's files
//!  stop ─── StopUnit, ResetFailedUnit
//! ```
//!
//! systemd must know the limits, or it sets its own when it looks at the unit again (`daemon-reload`).
//!
//! COMPAT: names, properties and texts are runc's.

mod annotations;
mod bus;
mod message;
mod properties;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use corten_base::Kind;
use corten_wire::oci_runtime::Resources;
use serde::{Deserialize, Serialize};

use crate::fault::errno_text;
pub(crate) use bus::Placeholder;
use bus::{Bus, Refusal};
use message::Value;

/// systemd could not be asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// Something else is the first process of this machine.
    #[error("systemd not running on this host, cannot use systemd cgroups manager")]
    NotRunning,
    /// Not `slice:prefix:name`.
    #[error(
        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {0:?} instead"
    )]
    Path(String),
    /// Not the name of a slice.
    #[error("invalid slice name: {0}")]
    Slice(String),
    /// Neither the user's systemd nor the user's bus are known.
    #[error("systemd of this user: neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS is set")]
    NoBus,
    /// Nobody answers.
    #[error("connect to systemd at {path}: {reason}", path = path.display(), reason = errno_text(source))]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke, or the answer did not come in time.
    #[error("talk to systemd: {}", errno_text(.0))]
    Talk(#[source] io::Error),
    /// What came is no answer.
    #[error("systemd's answer cannot be understood")]
    Nonsense,
    /// systemd says no.
    #[error("{what}: {text}{}", if text.is_empty() { name.as_str() } else { "" })]
    Refused {
        /// `unable to start unit "…"`, …
        what: String,
        /// The error's name.
        name: String,
        /// Its text.
        text: String,
    },
    /// The job ended in another way.
    #[error("error creating systemd unit `{unit}`: got `{result}`")]
    Job {
        /// Whose.
        unit: String,
        /// `failed`, `canceled`, …
        result: String,
    },
    /// The job did not end.
    #[error("Timeout waiting for systemd to create {0}")]
    Late(String),
    /// `org.systemd.property.…` cannot be read.
    #[error("annotation {0}")]
    Annotation(String),
    /// A list of processors or memory nodes cannot be read.
    #[error("invalid list of processors or memory nodes: {0:?}")]
    Set(String),
}

impl UnitError {
    /// For the API's status.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Path(_) | Self::Slice(_) | Self::Annotation(_) | Self::Set(_) => Kind::InvalidArgument,
            Self::NotRunning
            | Self::NoBus
            | Self::Connect { .. }
            | Self::Talk(_)
            | Self::Nonsense
            | Self::Refused { .. }
            | Self::Job { .. }
            | Self::Late(_) => Kind::Internal,
        }
    }
}

const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const UNKNOWN: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// What systemd does with a unit of the same name that has a job already.
const MODE: &str = "replace";

/// systemd is the first process, so that it can be asked for units.
#[must_use]
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A unit's property.
type Property = (String, Value);

/// The scope of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    name: String,
    slice: String,
    /// Of the user's systemd.
    user: bool,
}

impl Unit {
    /// The unit that `slice:prefix:name` means; `None` for a path in the hierarchies.
    pub(crate) fn named(path: &Path) -> Option<Self> {
        let text = path.to_str().filter(|t| !t.starts_with('/'))?;
        let [slice, prefix, name] = text.split(':').collect::<Vec<_>>().try_into().ok()?;
        Some(Self::new(slice, prefix, name, !is_root()))
    }

    fn new(slice: &str, prefix: &str, name: &str, user: bool) -> Self {
        let slice = match slice {
            "" if user => "user.slice",
            "" => "system.slice",
            given => given,
        };
        Self { name: format!("{prefix}-{name}.scope"), slice: slice.to_owned(), user }
    }

    /// Where its group is below the hierarchies' roots.
    pub(super) fn path(&self) -> Result<PathBuf, UnitError> {
        if !is_running() {
            return Err(UnitError::NotRunning);
        }
        let below = expand(&self.slice)?;
        if self.name.contains('/') {
            return Err(UnitError::Path(self.name.clone()));
        }
        let root = if self.user { Bus::open(true)?.property("ControlGroup")? } else { "/".to_owned() };
        Ok(Path::new(&root).join(below).join(&self.name))
    }

    /// Makes the unit with these limits. It stays as long as the placeholder lives, or another process in it.
    pub(super) fn start(
        &self,
        resources: &Resources,
        annotations: &BTreeMap<String, String>,
        v2: bool,
    ) -> Result<Placeholder, UnitError> {
        let mut all = self.essential(v2);
        all.extend(properties::limits(resources, v2)?);
        if !self.user {
            all.extend(properties::devices(&resources.devices));
        }
        all.extend(annotations::properties(annotations)?);
        let (mut bus, placeholder) = Bus::open_as_other(self.user)?;
        let arguments = [
            Value::text(&self.name),
            Value::text(MODE),
            properties::list(all),
            Value::List("(sa(sv))".into(), Vec::new()),
        ];
        let mut answer = bus.manage("StartTransientUnit", &arguments)?;
        if answer.as_ref().is_err_and(|e| e.name == EXISTS) {
            // One that has failed is forgotten only when somebody says so.
            self.forget(&mut bus)?;
            answer = bus.manage("StartTransientUnit", &arguments)?;
        }
        let started = answer.map_err(|e| self.refused("start", e))?;
        let result = bus.job(&started)?;
        if result.as_deref() == Some("done") {
            return Ok(placeholder);
        }
        self.forget(&mut bus)?;
        Err(match result {
            Some(result) => UnitError::Job { unit: self.name.clone(), result },
            None => UnitError::Late(self.name.clone()),
        })
    }

    /// What does not depend on limits.
    fn essential(&self, v2: bool) -> Vec<Property> {
        let yes = |name: &str| (name.to_owned(), Value::Bool(true));
        let name = self.name.trim_end_matches(".scope");
        let io = if v2 { "IOAccounting" } else { "BlockIOAccounting" };
        let mut all = vec![
            ("Description".to_owned(), Value::Text(format!("Container {name}"))),
            ("Slice".to_owned(), Value::text(&self.slice)),
            // Who asks: the placeholder has made the connection.
            ("PIDs".to_owned(), Value::List("u".into(), vec![Value::U32(0)])),
            ("DefaultDependencies".to_owned(), Value::Bool(false)),
        ];
        all.extend(["Delegate", "MemoryAccounting", "CPUAccounting", io, "TasksAccounting"].map(yes));
        all
    }

    /// Changes limits.
    pub(super) fn set(&self, resources: &Resources, v2: bool) -> Result<(), UnitError> {
        let all = properties::limits(resources, v2)?;
        if all.is_empty() {
            return Ok(());
        }
        let arguments = [Value::text(&self.name), Value::Bool(true), properties::list(all)];
        let answer = Bus::open(self.user)?.manage("SetUnitProperties", &arguments)?;
        answer.map(drop).map_err(|e| self.refused("set properties of", e))
    }

    /// Ends the unit; that there is none is a success. Its processes must be gone: systemd asks them first.
    pub(super) fn stop(&self) -> Result<(), UnitError> {
        let mut bus = Bus::open(self.user)?;
        match bus.manage("StopUnit", &[Value::text(&self.name), Value::text(MODE)])? {
            Ok(started) => drop(bus.job(&started)?),
            Err(e) if e.name == UNKNOWN => return Ok(()),
            Err(e) => return Err(self.refused("stop", e)),
        }
        self.forget(&mut bus)
    }

    /// Whether it failed is of no interest any more. That there is none is a success.
    fn forget(&self, bus: &mut Bus) -> Result<(), UnitError> {
        match bus.manage("ResetFailedUnit", &[Value::text(&self.name)])? {
            Err(e) if e.name != UNKNOWN => Err(self.refused("reset", e)),
            _ => Ok(()),
        }
    }

    fn refused(&self, what: &str, e: Refusal) -> UnitError {
        UnitError::Refused {
            what: format!("unable to {what} unit {:?}", self.name),
            name: e.name,
            text: e.text,
        }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root() && corten_sys::users::initial()
}

/// Where a slice's group is: `a-b.slice` is in `a.slice`.
fn expand(slice: &str) -> Result<PathBuf, UnitError> {
    let wrong = || UnitError::Slice(slice.to_owned());
    let name =
        slice.strip_suffix(".slice").filter(|n| !n.is_empty() && !n.contains('/')).ok_or_else(wrong)?;
    if name == "-" {
        return Ok(PathBuf::new());
    }
    let (mut path, mut before) = (PathBuf::new(), String::new());
    for part in name.split('-') {
        if part.is_empty() {
            return Err(wrong());
        }
        before.push_str(part);
        path.push(format!("{before}.slice"));
        before.push('-');
    }
    Ok(path)
}

/// Whether this is the name of a slice, as `--cgroup-parent` must be.
#[must_use]
pub fn is_slice(name: &str) -> bool {
    expand(name).is_ok()
}
