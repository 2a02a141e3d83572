//! Flags as one table per command: parsed by clap, refused in the words of docker, listed by our own help.
//!
//! Values are checked while they are parsed, so that the first wrong one is the one reported; the getters of
//! [`Flags`] read them again from their text.

mod check;
mod help;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};

pub(crate) use check::parse_bool;
pub(crate) use help::{default_note, flag_help, type_name};

/// What a flag's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Text,
    Int,
    Int64,
    Uint,
    Uint16,
    Bytes,
    /// As `Bytes`, and -1.
    SwapBytes,
    Cpus,
    Duration,
    Ip,
    Ulimit,
    Mount,
    Network,
    Gpus,
    Filter,
    Env,
    /// Repeatable.
    List,
    /// Repeatable, each value a comma-separated list.
    Strings,
    /// Repeatable `key=value`.
    Map,
    /// Repeatable, each value a comma-separated list of `key=value`.
    Pairs,
}

/// Checks a value beyond its kind; the error is what docker says.
pub(crate) type Check = fn(&str) -> Result<(), String>;

/// One flag.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
    pub(crate) default: &'static str,
    pub(crate) aliases: &'static [&'static str],
    pub(crate) hidden: bool,
    pub(crate) check: Option<Check>,
}

/// A flag without a short form.
pub(crate) const fn long(long: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag { long, short: None, kind, help, default: "", aliases: &[], hidden: false, check: None }
}

/// A flag with a short form.
pub(crate) const fn flag(long: &'static str, short: char, kind: Kind, help: &'static str) -> Flag {
    Flag { long, short: Some(short), kind, help, default: "", aliases: &[], hidden: false, check: None }
}

impl Flag {
    pub(crate) const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    pub(crate) const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    pub(crate) const fn alias(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    pub(crate) const fn check(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// `-m, --memory` or `--rm`, as errors name it.
    fn display(&self) -> String {
        match self.short {
            Some(c) => format!("-{c}, --{}", self.long),
            None => format!("--{}", self.long),
        }
    }

    pub(crate) fn is_list(&self) -> bool {
        use Kind::{Env, Filter, Gpus, List, Map, Mount, Network, Pairs, Strings, Ulimit};
        matches!(self.kind, List | Strings | Map | Pairs | Filter | Env | Ulimit | Mount | Network | Gpus)
    }
}

/// A table of flags: several slices, so that commands share parts.
pub(crate) type FlagSet = &'static [&'static [Flag]];

/// The arguments of a command, parsed.
#[derive(Debug)]
pub(crate) struct Flags {
    matches: ArgMatches,
    set: Vec<Flag>,
}

const ARGS: &str = "\0args";

/// Builds clap's description of a command from its table.
pub(crate) fn command(name: &'static str, set: FlagSet, interspersed: bool) -> clap::Command {
    let mut command = clap::Command::new(name)
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args_override_self(true);
    let all: Vec<Flag> = set.iter().flat_map(|part| part.iter().copied()).collect();
    for flag in &all {
        command = command.arg(argument(flag));
    }
    let mut help = argument(&long("help", Kind::Bool, "Show what is here"));
    if !all.iter().any(|f| f.short == Some('h')) {
        help = help.short('h');
    }
    let rest = Arg::new(ARGS).num_args(0..).value_parser(clap::value_parser!(std::ffi::OsString));
    command.arg(help).arg(if interspersed { rest } else { rest.trailing_var_arg(true) })
}

fn argument(flag: &Flag) -> Arg {
    let checked = *flag;
    let mut arg = Arg::new(flag.long)
        .long(flag.long)
        .hide(flag.hidden)
        .help(flag.help)
        .value_parser(move |text: &str| check::value(&checked, text).map(|()| text.to_owned()));
    if let Some(short) = flag.short {
        arg = arg.short(short);
    }
    for alias in flag.aliases {
        arg = arg.alias(*alias);
    }
    match flag.kind {
        Kind::Bool => {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true").action(ArgAction::Set)
        }
        _ if flag.is_list() => arg.num_args(1).allow_hyphen_values(true).action(ArgAction::Append),
        _ => arg.num_args(1).allow_hyphen_values(true).action(ArgAction::Set),
    }
}

/// Parses a command's arguments.
///
/// # Errors
/// Docker's text of what is wrong with them, without the usage lines that follow it.
pub(crate) fn parse(set: FlagSet, interspersed: bool, args: &[std::ffi::OsString]) -> Result<Flags, String> {
    let flags: Vec<Flag> = set.iter().flat_map(|part| part.iter().copied()).collect();
    match command("docker", set, interspersed).try_get_matches_from(args) {
        Ok(matches) => Ok(Flags { matches, set: flags }),
        Err(error) => Err(translate(&error, &flags, args)),
    }
}

/// Says what clap found in the words of docker's flag library.
fn translate(error: &clap::Error, flags: &[Flag], args: &[std::ffi::OsString]) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(s)) => s.clone(),
        Some(ContextValue::Strings(s)) => s.first().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let name = text(ContextKind::InvalidArg);
    let words: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let flag =
        flags.iter().find(|f| name.trim_start_matches('-').split([' ', '=', '[']).next() == Some(f.long));
    match error.kind() {
        ErrorKind::UnknownArgument => {
            if let Some(word) = words.iter().find(|w| w.starts_with("---") || w.starts_with("--=")) {
                return format!("bad flag syntax: {word}");
            }
            if name.starts_with("--") {
                let name = name.split('=').next().unwrap_or(&name);
                let known = flags.iter().filter(|f| !f.hidden).map(|f| f.long);
                let hint = crate::tree::suggestion(&name[2..], known, |flag| format!("--{flag}"));
                return format!("unknown flag: {name}{hint}");
            }
            let unknown = name.chars().nth(1).unwrap_or('-');
            let rest = words
                .iter()
                .filter(|w| w.starts_with('-') && !w.starts_with("--"))
                .find_map(|w| w[1..].find(unknown).map(|at| w[1 + at..].to_owned()))
                .unwrap_or_else(|| unknown.to_string());
            format!("unknown shorthand flag: '{unknown}' in -{rest}")
        }
        ErrorKind::ValueValidation => {
            use std::error::Error as _;
            let why = error.source().map(ToString::to_string).unwrap_or_default();
            let value = text(ContextKind::InvalidValue);
            let shown =
                flag.map_or_else(|| name.split('[').next().unwrap_or_default().to_owned(), Flag::display);
            format!("invalid argument {value:?} for {shown:?} flag: {why}")
        }
        _ => match (words.last(), flag) {
            (Some(last), _) if last.starts_with("--") => format!("flag needs an argument: {last}"),
            (Some(last), Some(Flag { short: Some(c), .. })) => {
                format!("flag needs an argument: '{c}' in -{}", {
                    last.find(*c).map_or_else(|| c.to_string(), |at| last[at..].to_owned())
                })
            }
            _ => error.to_string(),
        },
    }
}

impl Flags {
    /// Whether the user gave this flag.
    pub(crate) fn changed(&self, name: &str) -> bool {
        self.has(name) && self.matches.value_source(name) == Some(ValueSource::CommandLine)
    }

    /// `--help` was given.
    pub(crate) fn help(&self) -> bool {
        self.matches.get_one::<String>("help").is_some_and(|text| check::parse_bool(text) == Some(true))
    }

    fn default_of(&self, name: &str) -> &'static str {
        self.set.iter().find(|f| f.long == name).map_or("", |f| f.default)
    }

    /// A text, the default or empty.
    pub(crate) fn text(&self, name: &str) -> &str {
        match self.has(name) {
            true => {
                self.matches.get_one::<String>(name).map_or_else(|| self.default_of(name), String::as_str)
            }
            false => "",
        }
    }

    /// Whether the command has this flag at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.set.iter().any(|f| f.long == name)
    }

    /// A boolean.
    pub(crate) fn on(&self, name: &str) -> bool {
        parse_bool(self.text(name)).unwrap_or(false)
    }

    /// A number; 0 where it was not given and has no default.
    pub(crate) fn int(&self, name: &str) -> i64 {
        check::parse_int(self.text(name)).unwrap_or(0)
    }

    /// A size in bytes.
    pub(crate) fn bytes(&self, name: &str) -> i64 {
        match self.text(name) {
            "-1" => -1,
            text => corten_base::units::ram_in_bytes(text).unwrap_or(0),
        }
    }

    /// A duration in nanoseconds.
    pub(crate) fn duration_ns(&self, name: &str) -> i64 {
        let duration = corten_base::units::parse_duration(self.text(name)).unwrap_or_default();
        i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
    }

    /// All values of a repeatable flag, comma-separated ones split.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        let Some(flag) = self.set.iter().find(|f| f.long == name) else { return Vec::new() };
        let values = self.matches.get_many::<String>(name).into_iter().flatten();
        if flag.kind == Kind::Strings {
            return values.flat_map(|v| v.split(',').map(str::to_owned)).filter(|v| !v.is_empty()).collect();
        }
        values.cloned().collect()
    }

    /// The arguments that are not flags.
    pub(crate) fn args(&self) -> Vec<String> {
        let values = self.matches.get_many::<std::ffi::OsString>(ARGS).into_iter().flatten();
        values.map(|v| v.to_string_lossy().into_owned()).collect()
    }

    /// The same, as the kernel gave them.
    pub(crate) fn os_args(&self) -> Vec<std::ffi::OsString> {
        self.matches.get_many::<std::ffi::OsString>(ARGS).into_iter().flatten().cloned().collect()
    }

    /// The `n`th argument.
    pub(crate) fn arg(&self, n: usize) -> String {
        self.args().into_iter().nth(n).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: FlagSet = &[&[
        flag("interactive", 'i', Kind::Bool, ""),
        flag("tty", 't', Kind::Bool, ""),
        long("rm", Kind::Bool, ""),
        flag("env", 'e', Kind::Env, ""),
        flag("memory", 'm', Kind::Bytes, ""),
        long("name", Kind::Text, "").alias(&["nom"]),
        long("alias", Kind::Strings, ""),
        long("num", Kind::Int, "").default("-1"),
    ]];

    fn run(words: &[&str], interspersed: bool) -> Result<Flags, String> {
        parse(SET, interspersed, &words.iter().map(Into::into).collect::<Vec<_>>())
    }

    #[test]
    fn good_ones() {
        let f =
            run(&["-it", "--rm=false", "-eA=1", "-e", "-B", "--nom=x", "img", "-x", "--rm"], false).unwrap();
        assert!(f.on("interactive") && f.on("tty") && !f.on("rm") && f.changed("rm"));
        assert_eq!(f.list("env"), ["A=1", "-B"]);
        assert_eq!((f.text("name"), f.args().join(" ").as_str(), f.int("num")), ("x", "img -x --rm", -1));
        let f = run(&["a", "--name", "1", "--name", "", "-m=1k", "b", "--", "-i"], true).unwrap();
        assert_eq!(
            (f.args(), f.text("name"), f.bytes("memory")),
            (vec!["a".into(), "b".into(), "-i".into()], "", 1024)
        );
        assert_eq!(run(&["--alias", "a,b", "--alias=c"], true).unwrap().list("alias"), ["a", "b", "c"]);
        assert_eq!(run(&["-", "x"], true).unwrap().args(), ["-", "x"]);
    }

    #[test]
    fn bad_ones() {
        for (words, want) in [
            (&["--foo"][..], "unknown flag: --foo"),
            (&["--foo=1"], "unknown flag: --foo"),
            (&["-X"], "unknown shorthand flag: 'X' in -X"),
            (&["-itXy"], "unknown shorthand flag: 'X' in -Xy"),
            (&["--name"], "flag needs an argument: --name"),
            (&["-e"], "flag needs an argument: 'e' in -e"),
            (&["-ie"], "flag needs an argument: 'e' in -e"),
            (&["-m", "abc", "x"], "invalid argument \"abc\" for \"-m, --memory\" flag: invalid size: 'abc'"),
            (&["---x"], "bad flag syntax: ---x"),
            (&["--=x"], "bad flag syntax: --=x"),
            (
                &["--rm=foo"],
                "invalid argument \"foo\" for \"--rm\" flag: strconv.ParseBool: parsing \"foo\": invalid syntax",
            ),
            (
                &["--num", "x"],
                "invalid argument \"x\" for \"--num\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
        ] {
            for interspersed in [false, true] {
                assert_eq!(run(words, interspersed).unwrap_err(), want, "{words:?}");
            }
        }
    }
}
