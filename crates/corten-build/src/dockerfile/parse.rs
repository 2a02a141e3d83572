//! Logical lines to instructions.

use corten_base::Kind;
use corten_base::units::parse_duration;
use corten_wire::oci_image::HealthcheckConfig;

use super::heredoc::Heredoc;
use super::instruction::{
    Command, CommandLine, CopySource, CopySpec, Dockerfile, Instruction, RunSpec, Stage,
};
use super::lines::{self, Line};
use super::mount::{MountSpec, parse_bool};
use super::split::{blanks, go_quote, json, pairs, split_command, words};

/// Names of all instructions, for suggestions.
const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];
/// Most instructions of one file.
const INSTRUCTIONS: usize = 10_000;

/// The text is no Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Nothing in it.
    #[error("the Dockerfile ({0}) cannot be empty")]
    Empty(String),
    /// Only comments.
    #[error("file with no instructions")]
    NoInstructions,
    /// Not even lines and words.
    #[error("failed to parse {name}: {message}")]
    File {
        /// Path of the Dockerfile.
        name: String,
        /// Why.
        message: String,
    },
    /// An instruction that is wrong.
    #[error("dockerfile parse error on line {line}: {message}")]
    Line {
        /// From 1.
        line: usize,
        /// Why.
        message: String,
    },
    /// An instruction before the first `FROM`.
    #[error("no build stage in current context")]
    NoStage,
    /// A trigger or change that is wrong.
    #[error("{0}")]
    Instruction(String),
}

impl ParseError {
    pub(crate) fn file(message: String) -> Self {
        Self::File { name: "Dockerfile".into(), message }
    }

    /// Always the user's mistake.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}

/// Parses a Dockerfile; `name` is its path, for messages.
///
/// # Errors
/// In the reference's words.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Dockerfile, ParseError> {
    if bytes.is_empty() {
        return Err(ParseError::Empty(name.to_owned()));
    }
    let named = |e| match e {
        ParseError::File { message, .. } => ParseError::File { name: name.to_owned(), message },
        other => other,
    };
    let (directives, lines) = lines::split(bytes).map_err(named)?;
    if lines.is_empty() {
        return Err(ParseError::NoInstructions);
    }
    if lines.len() > INSTRUCTIONS {
        return Err(named(ParseError::file(format!("more than {INSTRUCTIONS} instructions"))));
    }
    let mut out = Dockerfile { directives, ..Dockerfile::default() };
    // The reference reads all words first: errors there come before those of instructions.
    for line in &lines {
        check_words(line, out.directives.escape).map_err(|message| named(ParseError::file(message)))?;
    }
    for line in lines {
        let at = |message| ParseError::Line { line: line.number, message };
        let escape = out.directives.escape;
        let (name, flags, rest) = split_command(&line.text, escape);
        if name == "from" {
            let stage = from(&line, flags, rest).map_err(at)?;
            out.stages.push(stage);
            continue;
        }
        let instruction = instruction(&name, flags, rest, &line.heredocs, escape).map_err(at)?;
        let command = Command { source: line.text.clone(), line: line.number, end: line.end, instruction };
        match (out.stages.last_mut(), &command.instruction) {
            (Some(stage), _) => stage.commands.push(command),
            (None, Instruction::Arg(_)) => out.meta_args.push(command),
            (None, _) => return Err(ParseError::NoStage),
        }
    }
    if out.stages.is_empty() {
        return Err(ParseError::NoStage);
    }
    Ok(out)
}

/// Parses the text of an `ONBUILD` trigger.
///
/// # Errors
/// In the reference's words.
pub fn parse_trigger(text: &str) -> Result<Command, ParseError> {
    let (directives, lines) = lines::split(text.as_bytes())?;
    let [line] = &lines[..] else {
        return Err(ParseError::Instruction("onbuild trigger should be a single expression".into()));
    };
    let (name, flags, rest) = split_command(&line.text, directives.escape);
    let parsed = instruction(&name, flags, rest, &line.heredocs, directives.escape);
    let instruction = parsed.map_err(ParseError::Instruction)?;
    Ok(Command { source: line.text.clone(), line: line.number, end: line.end, instruction })
}

/// Parses one value of `--change` (of `commit` and `import`), which may hold several lines.
///
/// # Errors
/// `RUN is not a valid change command`, or what is wrong with it.
pub fn parse_change(text: &str) -> Result<Vec<Instruction>, ParseError> {
    let (directives, lines) = lines::split(text.as_bytes())?;
    let mut out = Vec::new();
    for line in lines {
        let (name, flags, rest) = split_command(&line.text, directives.escape);
        let allowed = matches!(
            name.as_str(),
            "cmd"
                | "entrypoint"
                | "healthcheck"
                | "env"
                | "expose"
                | "label"
                | "onbuild"
                | "stopsignal"
                | "user"
                | "volume"
                | "workdir"
        );
        if !allowed {
            return Err(ParseError::Instruction(format!(
                "{} is not a valid change command",
                name.to_uppercase()
            )));
        }
        let parsed = instruction(&name, flags, rest, &line.heredocs, directives.escape);
        out.push(parsed.map_err(ParseError::Instruction)?);
    }
    Ok(out)
}

fn check_words(line: &Line, escape: char) -> Result<(), String> {
    let (name, _, rest) = split_command(&line.text, escape);
    match name.as_str() {
        "env" | "label" => pairs(rest, &name.to_uppercase(), escape).map(|_| ()),
        "add" | "copy" | "cmd" | "entrypoint" | "run" | "shell" | "volume" => json(rest).map(|_| ()),
        _ => Ok(()),
    }
}

/// Flags of one instruction: known ones are taken out by name.
struct Flags {
    given: Vec<(String, Option<String>)>,
}

impl Flags {
    fn new(flags: &[String], known: &[&str], repeatable: &[&str]) -> Result<Self, String> {
        let mut given: Vec<(String, Option<String>)> = Vec::new();
        for flag in flags {
            let flag = flag.trim_start_matches("--");
            let (name, value) = flag.split_once('=').map_or((flag, None), |(n, v)| (n, Some(v.to_owned())));
            if !known.contains(&name) {
                return Err(format!(
                    "unknown flag: --{name}{}",
                    suggestion(name, known, |k| format!("--{k}"))
                ));
            }
            if given.iter().any(|(n, _)| n == name) && !repeatable.contains(&name) {
                return Err(format!("duplicate flag specified: {name}"));
            }
            given.push((name.to_owned(), value));
        }
        Ok(Self { given })
    }

    fn text(&self, name: &str) -> Result<String, String> {
        match self.given.iter().find(|(n, _)| n == name) {
            None => Ok(String::new()),
            Some((_, Some(value))) => Ok(value.clone()),
            Some((_, None)) => Err(format!("missing a value on flag: {name}")),
        }
    }

    fn list(&self, name: &str) -> Result<Vec<String>, String> {
        self.given
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.clone().ok_or_else(|| format!("missing a value on flag: {name}")))
            .collect()
    }

    fn switch(&self, name: &str) -> Result<Option<bool>, String> {
        match self.given.iter().find(|(n, _)| n == name) {
            None => Ok(None),
            Some((_, None)) => Ok(Some(true)),
            Some((_, Some(value))) => parse_bool(value)
                .map(Some)
                .ok_or_else(|| format!("expecting boolean value for flag {name}, not: {value}")),
        }
    }
}

fn instruction(
    name: &str,
    flags: Vec<String>,
    rest: &str,
    heredocs: &[Heredoc],
    escape: char,
) -> Result<Instruction, String> {
    let upper = name.to_uppercase();
    let no_flags = || Flags::new(&flags, &[], &[]).map(|_| ());
    match name {
        "add" => copy(&flags, rest, heredocs, true).map(Instruction::Add),
        "copy" => copy(&flags, rest, heredocs, false).map(Instruction::Copy),
        "run" => run(flags, rest, heredocs).map(Instruction::Run),
        "healthcheck" => healthcheck(&flags, rest).map(Instruction::Healthcheck),
        "from" => Err("FROM isn't allowed here".into()),
        _ => {
            if NAMES.contains(&upper.as_str()) {
                no_flags()?;
            }
            plain(name, &upper, rest, escape)
        }
    }
}

/// Instructions without flags.
fn plain(name: &str, upper: &str, rest: &str, escape: char) -> Result<Instruction, String> {
    let one = || {
        let text = rest.trim();
        if text.is_empty() {
            Err(format!("{upper} requires exactly one argument"))
        } else {
            Ok(text.to_owned())
        }
    };
    let some = |list: Vec<String>| {
        if list.is_empty() { Err(format!("{upper} requires at least one argument")) } else { Ok(list) }
    };
    Ok(match name {
        "arg" => Instruction::Arg(arg(&words(rest, escape))?),
        "cmd" => Instruction::Cmd(command_line(rest)?),
        "entrypoint" => {
            let line = command_line(rest)?;
            if matches!(&line, CommandLine::Shell(t) if t.is_empty()) {
                return Err("ENTRYPOINT requires at least one argument".into());
            }
            Instruction::Entrypoint(line)
        }
        "env" => Instruction::Env(named(pairs(rest, upper, escape)?, upper)?),
        "label" => Instruction::Label(named(pairs(rest, upper, escape)?, upper)?),
        "expose" => {
            let mut ports = some(blanks(rest))?;
            ports.sort();
            Instruction::Expose(ports)
        }
        "maintainer" => Instruction::Maintainer(one()?),
        "onbuild" => Instruction::Onbuild(onbuild(rest, escape)?),
        "shell" => match json(rest)? {
            Some(words) if words.is_empty() => return Err("SHELL requires at least one argument".into()),
            Some(words) => Instruction::Shell(words),
            None if rest.trim().is_empty() => return Err("SHELL requires at least one argument".into()),
            None => return Err("SHELL requires the arguments to be in JSON form".into()),
        },
        "stopsignal" => Instruction::StopSignal(one()?),
        "user" => Instruction::User(one()?),
        "volume" => {
            let volumes = some(json(rest)?.unwrap_or_else(|| blanks(rest)))?;
            let volumes: Vec<String> = volumes.iter().map(|v| v.trim().to_owned()).collect();
            if volumes.iter().any(String::is_empty) {
                return Err("VOLUME specified can not be an empty string".into());
            }
            Instruction::Volume(volumes)
        }
        "workdir" => Instruction::Workdir(one()?),
        _ => {
            let hint = suggestion(upper, &NAMES, str::to_owned);
            return Err(format!("unknown instruction: {upper}{hint}"));
        }
    })
}

fn command_line(rest: &str) -> Result<CommandLine, String> {
    Ok(match json(rest)? {
        Some(words) => CommandLine::Exec(words),
        None => CommandLine::Shell(rest.trim().to_owned()),
    })
}

fn named(pairs: Vec<(String, String)>, upper: &str) -> Result<Vec<(String, String)>, String> {
    if pairs.is_empty() {
        return Err(format!("{upper} requires at least one argument"));
    }
    if pairs.iter().any(|(k, _)| k.is_empty()) {
        return Err(format!("{upper} names can not be blank"));
    }
    Ok(pairs)
}

fn arg(words: &[String]) -> Result<Vec<(String, Option<String>)>, String> {
    if words.is_empty() {
        return Err("ARG requires at least one argument".into());
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err("ARG names can not be blank".to_owned()),
            Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
            None => Ok((word.clone(), None)),
        })
        .collect()
}

fn onbuild(rest: &str, escape: char) -> Result<String, String> {
    let rest = rest.trim();
    if rest.is_empty() {
        return Err("ONBUILD requires at least one argument".into());
    }
    let (name, flags, inner) = split_command(rest, escape);
    match name.as_str() {
        "onbuild" => return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into()),
        "maintainer" | "from" => {
            return Err(format!("{} isn't allowed as an ONBUILD trigger", name.to_uppercase()));
        }
        _ => {}
    }
    // A trigger that cannot be parsed must fail now, not in the build that uses the image.
    instruction(&name, flags, inner, &super::heredoc::in_line(inner, escape), escape)?;
    Ok(rest.to_owned())
}

fn from(line: &Line, flags: Vec<String>, rest: &str) -> Result<Stage, String> {
    let flags = Flags::new(&flags, &["platform"], &[])?;
    let args = blanks(rest);
    let name = match &args[..] {
        [_] => String::new(),
        [_, word, name] if word.eq_ignore_ascii_case("as") => {
            let name = name.to_ascii_lowercase();
            let valid = name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
            if !valid {
                return Err(format!(
                    "invalid name for build stage: {}, name can't start with a number or contain symbols",
                    go_quote(&args[2])
                ));
            }
            name
        }
        _ => return Err("FROM requires either one or three arguments".into()),
    };
    Ok(Stage {
        name,
        base: args[0].clone(),
        platform: flags.text("platform")?,
        source: line.text.clone(),
        line: line.number,
        end: line.end,
        commands: Vec::new(),
    })
}

fn copy(flags: &[String], rest: &str, heredocs: &[Heredoc], is_add: bool) -> Result<CopySpec, String> {
    let name = if is_add { "ADD" } else { "COPY" };
    let known: &[&str] = if is_add {
        &["chown", "chmod", "link", "keep-git-dir", "checksum", "exclude", "unpack"]
    } else {
        &["chown", "chmod", "from", "link", "parents", "exclude"]
    };
    let flags = Flags::new(flags, known, &["exclude"])?;
    let args = json(rest)?.unwrap_or_else(|| blanks(rest));
    let Some((destination, sources)) = args.split_last().filter(|(_, s)| !s.is_empty()) else {
        return Err(if args.is_empty() {
            format!("{name} requires at least two arguments")
        } else {
            format!(
                "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
            )
        });
    };
    if Heredoc::parse(destination).is_some() && !heredocs.is_empty() {
        return Err(format!("{name} cannot accept a heredoc as a destination"));
    }
    let mut inline = heredocs.iter();
    let sources = sources.iter().map(|source| match Heredoc::parse(source) {
        Some(head) => inline
            .find(|h| h.name == head.name)
            .map_or_else(|| CopySource::Path(source.clone()), |h| CopySource::Inline(h.clone())),
        None => CopySource::Path(source.clone()),
    });
    Ok(CopySpec {
        sources: sources.collect(),
        destination: destination.clone(),
        from: flags.text("from")?,
        chown: flags.text("chown")?,
        chmod: flags.text("chmod")?,
        checksum: flags.text("checksum")?,
        link: flags.switch("link")?.unwrap_or(false),
        parents: flags.switch("parents")?.unwrap_or(false),
        exclude: flags.list("exclude")?,
        keep_git_dir: flags.switch("keep-git-dir")?.unwrap_or(false),
        unpack: flags.switch("unpack")?,
    })
}

fn run(flags: Vec<String>, rest: &str, heredocs: &[Heredoc]) -> Result<RunSpec, String> {
    let parsed = Flags::new(&flags, &["mount", "network", "security"], &["mount"])?;
    let mounts = parsed.list("mount")?.iter().map(|m| MountSpec::parse(m)).collect::<Result<_, _>>()?;
    let network = parsed.text("network")?;
    if !matches!(network.as_str(), "" | "default" | "none" | "host") {
        return Err(format!("invalid network mode {}", go_quote(&network)));
    }
    let security = parsed.text("security")?;
    if !matches!(security.as_str(), "" | "sandbox" | "insecure") {
        return Err(format!("security {} is not valid", go_quote(&security)));
    }
    let command = command_line(rest)?;
    if command.is_empty() {
        return Err("RUN requires at least one argument".into());
    }
    Ok(RunSpec { command, heredocs: heredocs.to_vec(), mounts, network, security, flags })
}

fn healthcheck(flags: &[String], rest: &str) -> Result<HealthcheckConfig, String> {
    let names = ["interval", "timeout", "start-period", "start-interval", "retries"];
    let flags = Flags::new(flags, &names, &[])?;
    let rest = rest.trim();
    if rest.is_empty() {
        return Err("HEALTHCHECK requires at least one argument".into());
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    let test = match kind.to_uppercase().as_str() {
        "NONE" if command.is_empty() => vec!["NONE".to_owned()],
        "NONE" => return Err("HEALTHCHECK NONE takes no arguments".into()),
        "CMD" => match json(command)? {
            Some(words) if !words.is_empty() => [vec!["CMD".to_owned()], words].concat(),
            None if !command.is_empty() => vec!["CMD-SHELL".into(), command.to_owned()],
            _ => return Err("Missing command after HEALTHCHECK CMD".into()),
        },
        other => return Err(format!("Unknown type {} in HEALTHCHECK (try CMD)", go_quote(other))),
    };
    let duration = |name: &str, label: &str| -> Result<i64, String> {
        let text = flags.text(name)?;
        if text.is_empty() {
            return Ok(0);
        }
        let parsed =
            parse_duration(&text).ok_or_else(|| format!("time: invalid duration {}", go_quote(&text)))?;
        if !parsed.is_zero() && parsed.as_micros() < 1000 {
            return Err(format!("Interval {} cannot be less than 1ms", go_quote(label)));
        }
        i64::try_from(parsed.as_nanos()).map_err(|_| format!("time: invalid duration {}", go_quote(&text)))
    };
    let retries = match flags.text("retries")? {
        text if text.is_empty() => 0,
        text => {
            let n: i64 = text
                .parse()
                .map_err(|_| format!("strconv.ParseInt: parsing {}: invalid syntax", go_quote(&text)))?;
            if n < 0 {
                return Err(format!("--retries cannot be negative: {n}"));
            }
            n
        }
    };
    Ok(HealthcheckConfig {
        test,
        interval: duration("interval", "interval")?,
        timeout: duration("timeout", "timeout")?,
        start_period: duration("start-period", "start-period")?,
        start_interval: duration("start-interval", "start-interval")?,
        retries,
    })
}

/// ` (did you mean X?)` where something known is at most two edits away.
fn suggestion(text: &str, known: &[&str], show: impl Fn(&str) -> String) -> String {
    let best = known.iter().map(|k| (distance(text, k), *k)).min().filter(|(d, _)| *d > 0 && *d < 3);
    best.map_or_else(String::new, |(_, k)| format!(" (did you mean {}?)", show(k)))
}

/// Levenshtein's distance; words much longer than any name are not compared.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 32 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = usize::from(ca != *cb);
            let next = (diagonal + cost).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}
