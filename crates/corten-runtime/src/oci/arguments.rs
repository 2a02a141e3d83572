//! runc's command line: which flags each command has, and how they are written (as Go's flag package reads them:
//! one dash or two, `--name value` or `--name=value`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{OciError, absolute};

/// A flag: its names, and whether it takes a value.
type Flag = (&'static [&'static str], bool);

const HELP: Flag = (&["help", "h"], false);

pub(super) const GLOBAL: &[Flag] = &[
    (&["root"], true),
    (&["log"], true),
    (&["log-format"], true),
    (&["debug"], false),
    (&["systemd-cgroup"], false),
    (&["cgroup-manager"], true),
    (&["criu"], true),
    (&["rootless"], true),
    (&["version", "v"], false),
    HELP,
];

const CREATE: &[Flag] = &[
    (&["bundle", "b"], true),
    (&["console-socket"], true),
    (&["pidfd-socket"], true),
    (&["pid-file"], true),
    (&["no-pivot"], false),
    (&["no-new-keyring"], false),
    (&["preserve-fds"], true),
    HELP,
];

const RUN: &[Flag] = &[
    (&["bundle", "b"], true),
    (&["console-socket"], true),
    (&["pidfd-socket"], true),
    (&["detach", "d"], false),
    (&["keep"], false),
    (&["pid-file"], true),
    (&["no-subreaper"], false),
    (&["no-pivot"], false),
    (&["no-new-keyring"], false),
    (&["preserve-fds"], true),
    HELP,
];

const EXEC: &[Flag] = &[
    (&["console-socket"], true),
    (&["pidfd-socket"], true),
    (&["cwd"], true),
    (&["env", "e"], true),
    (&["tty", "t"], false),
    (&["user", "u"], true),
    (&["additional-gids", "g"], true),
    (&["process", "p"], true),
    (&["detach", "d"], false),
    (&["pid-file"], true),
    (&["process-label"], true),
    (&["apparmor"], true),
    (&["no-new-privs"], false),
    (&["cap", "c"], true),
    (&["preserve-fds"], true),
    (&["cgroup"], true),
    (&["ignore-paused"], false),
    HELP,
];

const UPDATE: &[Flag] = &[
    (&["resources", "r"], true),
    (&["blkio-weight"], true),
    (&["cpu-period"], true),
    (&["cpu-quota"], true),
    (&["cpu-rt-period"], true),
    (&["cpu-rt-runtime"], true),
    (&["cpu-share"], true),
    (&["cpu-burst"], true),
    (&["cpu-idle"], true),
    (&["cpuset-cpus"], true),
    (&["cpuset-mems"], true),
    (&["memory"], true),
    (&["memory-reservation"], true),
    (&["memory-swap"], true),
    (&["pids-limit"], true),
    (&["l3-cache-schema"], true),
    (&["mem-bw-schema"], true),
    HELP,
];

const CHECKPOINT: &[Flag] = &[
    (&["image-path"], true),
    (&["work-path"], true),
    (&["parent-path"], true),
    (&["leave-running"], false),
    (&["tcp-established"], false),
    (&["tcp-skip-in-flight"], false),
    (&["link-remap"], false),
    (&["ext-unix-sk"], false),
    (&["shell-job"], false),
    (&["lazy-pages"], false),
    (&["status-fd"], true),
    (&["page-server"], true),
    (&["file-locks"], false),
    (&["pre-dump"], false),
    (&["manage-cgroups-mode"], true),
    (&["empty-ns"], true),
    (&["auto-dedup"], false),
    HELP,
];

const RESTORE: &[Flag] = &[
    (&["console-socket"], true),
    (&["image-path"], true),
    (&["work-path"], true),
    (&["tcp-established"], false),
    (&["ext-unix-sk"], false),
    (&["shell-job"], false),
    (&["file-locks"], false),
    (&["manage-cgroups-mode"], true),
    (&["bundle", "b"], true),
    (&["detach", "d"], false),
    (&["pid-file"], true),
    (&["no-subreaper"], false),
    (&["no-pivot"], false),
    (&["empty-ns"], true),
    (&["auto-dedup"], false),
    (&["lazy-pages"], false),
    (&["lsm-profile"], true),
    (&["lsm-mount-context"], true),
    HELP,
];

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Create,
    Start,
    Run,
    Exec,
    Kill,
    Delete,
    State,
    List,
    Ps,
    Pause,
    Resume,
    Update,
    Events,
    Spec,
    Features,
    Checkpoint,
    Restore,
}

/// Name, flags and description of each command.
pub(super) const COMMANDS: &[(&str, Command, &[Flag], &str)] = &[
    ("create", Command::Create, CREATE, "create a container"),
    (
        "delete",
        Command::Delete,
        &[(&["force", "f"], false), HELP],
        "delete what a container holds; often used with a stopped one",
    ),
    (
        "events",
        Command::Events,
        &[(&["stats"], false), (&["interval"], true), HELP],
        "show a container's statistics and when it ran out of memory",
    ),
    ("exec", Command::Exec, EXEC, "run a further process in a container"),
    ("features", Command::Features, &[HELP], "show what this runtime can do"),
    ("kill", Command::Kill, &[(&["all", "a"], false), HELP], "send a signal to a container's init process"),
    ("list", Command::List, &[(&["format", "f"], true), (&["quiet", "q"], false), HELP], "list containers"),
    ("pause", Command::Pause, &[HELP], "suspend all processes of a container"),
    ("ps", Command::Ps, &[(&["format", "f"], true), HELP], "show the processes of a container"),
    ("resume", Command::Resume, &[HELP], "resume all processes of a container"),
    ("run", Command::Run, RUN, "create and start a container"),
    (
        "spec",
        Command::Spec,
        &[(&["bundle", "b"], true), (&["rootless"], false), HELP],
        "write a first config.json",
    ),
    ("start", Command::Start, &[HELP], "start the program of a created container"),
    ("state", Command::State, &[HELP], "show the state of a container"),
    ("update", Command::Update, UPDATE, "change the limits of a container"),
    ("checkpoint", Command::Checkpoint, CHECKPOINT, "write a running container to files (needs criu)"),
    ("restore", Command::Restore, RESTORE, "make a container from the files of a checkpoint (needs criu)"),
];

impl Command {
    pub(super) fn of(name: &str) -> Option<Self> {
        COMMANDS.iter().find(|c| c.0 == name).map(|c| c.1)
    }

    pub(super) fn flags(self) -> &'static [Flag] {
        COMMANDS.iter().find(|c| c.1 == self).map_or(&[], |c| c.2)
    }

    fn name(self) -> &'static str {
        COMMANDS.iter().find(|c| c.1 == self).map_or("", |c| c.0)
    }

    /// How many arguments there may be.
    fn arity(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Spec | Self::Features | Self::List => 0..=0,
            Self::Exec | Self::Ps => 1..=usize::MAX,
            Self::Kill => 1..=2,
            _ => 1..=1,
        }
    }

    /// Whether there are as many arguments as there must be.
    pub(super) fn check(self, given: &Arguments) -> Result<(), OciError> {
        let arity = self.arity();
        if arity.contains(&given.positional.len()) {
            return Ok(());
        }
        let program = std::env::args().next().unwrap_or_default();
        let (least, most) = (*arity.start(), *arity.end());
        let wanted = match given.positional.len() {
            _ if least == most => format!("exactly {least} argument(s)"),
            count if count < least => format!("a minimum of {least} argument(s)"),
            _ => format!("a maximum of {most} argument(s)"),
        };
        Err(OciError::Usage(format!("{program}: {:?} requires {wanted}", self.name())))
    }

    /// What follows the container's id are the words of another program.
    pub(super) fn flags_end_with_id(self) -> bool {
        matches!(self, Self::Exec | Self::Ps)
    }
}

/// A command line, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    values: BTreeMap<&'static str, Vec<String>>,
    pub(super) positional: Vec<String>,
}

impl Arguments {
    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some_and(|v| v != "false")
    }

    /// The last value given.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).last().map(String::as_str)
    }

    pub(super) fn values(&self, name: &str) -> &[String] {
        self.values.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, OciError> {
        let parse = |v: &str| {
            v.parse()
                .map_err(|_| OciError::Usage(format!("invalid value {v:?} for flag -{name}: parse error")))
        };
        self.value(name).map(parse).transpose()
    }

    /// A file, as meant where we were started; an empty name is none.
    pub(super) fn path(&self, name: &str) -> Result<Option<PathBuf>, OciError> {
        self.value(name).filter(|p| !p.is_empty()).map(absolute).transpose()
    }

    /// The container's id: the first argument, of which [`Command::check`] says that it is there.
    pub(super) fn id(&self) -> &str {
        self.positional.first().map_or("", String::as_str)
    }
}

/// Takes a command line apart. With `in_order` the first word that is no flag ends the flags.
pub(super) fn parse(flags: &[Flag], args: &[String], in_order: bool) -> Result<Arguments, OciError> {
    let mut all = Arguments::default();
    let mut rest = args.iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            all.positional.extend(rest.cloned());
            break;
        }
        let Some(name) = word.strip_prefix('-').filter(|n| !n.is_empty()) else {
            all.positional.push(word.clone());
            if in_order {
                all.positional.extend(rest.cloned());
                break;
            }
            continue;
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        let (name, inline) = name.split_once('=').map_or((name, None), |(n, v)| (n, Some(v.to_owned())));
        let Some((names, takes_value)) = flags.iter().find(|(names, _)| names.contains(&name)) else {
            return Err(OciError::Usage(format!("flag provided but not defined: -{name}")));
        };
        let value = match (inline, takes_value) {
            (Some(value), _) => value,
            (None, false) => "true".to_owned(),
            (None, true) => match rest.next() {
                Some(value) => value.clone(),
                None => return Err(OciError::Usage(format!("flag needs an argument: -{name}"))),
            },
        };
        all.values.entry(names[0]).or_default().push(value);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn flags_as_go_writes_them() {
        let a = parse(EXEC, &words("-t --env A=1 -e B=2 --cwd=/x box ls -l --env C"), true).unwrap();
        assert!(a.has("tty") && !a.has("detach"));
        assert_eq!(a.values("env"), ["A=1", "B=2"]);
        assert_eq!(a.value("cwd"), Some("/x"));
        assert_eq!(a.positional, words("box ls -l --env C"));
        let a = parse(Command::Kill.flags(), &words("box KILL --all"), false).unwrap();
        assert!(a.has("all"));
        assert_eq!(a.positional, words("box KILL"));
        let error = |text: &str| parse(GLOBAL, &words(text), true).unwrap_err().to_string();
        assert_eq!(error("--colour x"), "flag provided but not defined: -colour");
        assert_eq!(error("--root"), "flag needs an argument: -root");
    }
}
