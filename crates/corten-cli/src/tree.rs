//! The tree of commands: finding one, checking its arguments, help, and running it.

use std::ffi::OsString;
use std::io::Write;
use std::pin::Pin;

use crate::cli::{Cli, Globals};
use crate::commands::{self, GROUPS};
use crate::env::Env;
use crate::error::{Failure, Result};
use crate::flags::{self, Flag, FlagSet, Flags, Kind, flag, long};
use crate::{completion, man, plugins, term};

/// How many arguments a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arity {
    None,
    Exactly(usize),
    AtLeast(usize),
    AtMost(usize),
    Between(usize, usize),
}

/// What a command does.
pub(crate) type Run = for<'a> fn(&'a Cli, &'a Flags) -> Pin<Box<dyn Future<Output = Result> + 'a>>;

/// One command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Command {
    /// Its management group; empty for commands that have only a top-level name.
    pub(crate) group: &'static str,
    /// Names within the group, the first one canonical.
    pub(crate) names: &'static [&'static str],
    /// Names at the top level.
    pub(crate) top: &'static [&'static str],
    pub(crate) about: &'static str,
    /// What follows the name in the usage line.
    pub(crate) usage: &'static str,
    pub(crate) arity: Arity,
    pub(crate) flags: FlagSet,
    /// Flags may follow arguments.
    pub(crate) interspersed: bool,
    pub(crate) run: Run,
}

/// What a command is unless its table says otherwise.
pub(crate) const PLAIN: Command = Command {
    group: "",
    names: &[],
    top: &[],
    about: "",
    usage: "",
    arity: Arity::AtLeast(1),
    flags: &[],
    interspersed: true,
    run: |_, _| Box::pin(async { Ok(()) }),
};

/// Flags before the command.
pub(crate) const GLOBAL: FlagSet = &[&[
    long("config", Kind::Text, "Directory of the client's files"),
    flag("context", 'c', Kind::Text, "Context to use"),
    flag("debug", 'D', Kind::Bool, "Debug mode"),
    flag("host", 'H', Kind::List, "Daemon to connect to"),
    flag("log-level", 'l', Kind::Text, "Level of messages: debug, info, warn, error, fatal").default("info"),
    long("tls", Kind::Bool, "Use TLS"),
    long("tlscacert", Kind::Text, "Authority that signed the daemon's certificate"),
    long("tlscert", Kind::Text, "Our certificate"),
    long("tlskey", Kind::Text, "Its key"),
    long("tlsverify", Kind::Bool, "Use TLS and check the daemon's certificate"),
    flag("version", 'v', Kind::Bool, "Print the version"),
]];

/// Runs the command line; `args[0]` is the program's name. Returns the exit status.
#[must_use]
pub fn main(args: Vec<OsString>) -> i32 {
    let result = dispatch(&args[1.min(args.len())..]);
    term::restore();
    match result {
        Ok(()) => 0,
        Err(error) => {
            let (text, code) = match error.downcast_ref::<Failure>() {
                Some(failure) => (failure.text.clone(), failure.code),
                None => match error.downcast_ref::<corten_client::Error>() {
                    // Its text is whole; the kernel's reason is for `source()`.
                    Some(api) => (api.to_string(), 1),
                    None => (format!("{error:#}"), 1),
                },
            };
            if !text.is_empty() {
                writeln!(std::io::stderr(), "{text}").ok();
            }
            code
        }
    }
}

fn failure(text: String, code: i32) -> anyhow::Error {
    Failure { text, code }.into()
}

fn dispatch(args: &[OsString]) -> Result {
    let env = Env::read();
    let global = flags::parse(GLOBAL, false, args).map_err(|text| {
        failure(format!("{text}\n\nUsage:  docker [OPTIONS] COMMAND [ARG...]\n\nRun 'docker --help' for more information"), 125)
    })?;
    let globals = read_globals(&global)?;
    let rest = global.os_args();
    if global.on("version") {
        return out(&format!(
            "Docker version {}, build corten-{}\n",
            crate::CLIENT_VERSION,
            env!("CARGO_PKG_VERSION")
        ));
    }
    let outside = Cli::new(env.clone(), globals.clone(), "docker".into());
    let Some(first) = rest.first().map(|w| w.to_string_lossy().into_owned()) else {
        return out(&top_help(&outside));
    };
    if global.help() {
        return help_for(&outside, &rest, args);
    }
    match first.as_str() {
        "help" => return help_for(&outside, &rest[1..], args),
        "completion" => return completion::run(&rest[1..]),
        "man" => return man::run(&rest[1..]),
        _ => {}
    }
    if let Some(plugin) = plugin_for(&outside, &first) {
        return plugin.run(&outside, args);
    }
    let (command, path, rest) = find(&rest)?;
    let flags = flags::parse(command.flags, command.interspersed, rest).map_err(|text| {
        failure(
            format!(
                "{text}\n\nUsage:  {}\n\nRun '{path} --help' for more information",
                usage_line(command, &path)
            ),
            125,
        )
    })?;
    if flags.help() {
        return out(&command_help(command, &path));
    }
    check_arity(command, &path, flags.args().len())?;
    check_trust(&env, &flags)?;
    let cli = Cli::new(env, globals, path);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on((command.run)(&cli, &flags));
    // A thread may still sit in a read of standard input; it must not keep us.
    runtime.shutdown_background();
    result
}

pub(crate) fn out(text: &str) -> Result {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn read_globals(flags: &Flags) -> Result<Globals> {
    let hosts = flags.list("host");
    if hosts.len() > 1 {
        return Err(failure("Specify only one -H".into(), 1));
    }
    let path = |name: &str| flags.changed(name).then(|| flags.text(name).into());
    let level = flags.text("log-level");
    if !["debug", "info", "warn", "warning", "error", "fatal", "panic", "trace"].contains(&level) {
        return Err(failure(format!("unable to parse logging level: {level}"), 1));
    }
    Ok(Globals {
        host: hosts.into_iter().next(),
        context: flags.changed("context").then(|| flags.text("context").to_owned()),
        config_dir: path("config"),
        debug: flags.on("debug"),
        tls: flags.on("tls") || flags.on("tlsverify"),
        tls_verify: flags.changed("tlsverify").then(|| flags.on("tlsverify")),
        tls_ca: path("tlscacert"),
        tls_cert: path("tlscert"),
        tls_key: path("tlskey"),
    })
}

/// The plugin that a word means where it is no command of ours.
fn plugin_for(cli: &Cli, word: &str) -> Option<plugins::Plugin> {
    let ours = commands::all().any(|c| c.top.contains(&word)) || GROUPS.iter().any(|(name, _)| *name == word);
    if ours { None } else { plugins::find(cli, word) }
}

/// Finds a command by the first words; returns it, the words as typed, and what follows them.
fn find(words: &[OsString]) -> Result<(&'static Command, String, &[OsString])> {
    let first = words[0].to_string_lossy();
    if let Some(command) = commands::all().find(|c| c.top.contains(&first.as_ref())) {
        return Ok((command, format!("docker {first}"), &words[1..]));
    }
    let Some((group, _)) = GROUPS.iter().find(|(name, _)| *name == first) else {
        let hint = match ABSENT.iter().find(|(names, _)| names.contains(&first.as_ref())) {
            Some((_, why)) => format!("\n\n{why}"),
            None => suggestion(&first, top_names(), |name| format!("docker {name}")),
        };
        let text = format!("docker: unknown command: docker {first}{hint}");
        return Err(failure(format!("{text}\n\nRun 'docker --help' for more information"), 1));
    };
    let Some(second) = words.get(1) else {
        // COMPAT: only who asks for it gets it on standard output.
        std::io::stderr().write_all(group_help(group).as_bytes())?;
        return Err(crate::error::exit(0));
    };
    let second = second.to_string_lossy();
    if second == "--help" || second == "-h" {
        out(&group_help(group))?;
        return Err(crate::error::exit(0));
    }
    if let Some(command) = commands::all().find(|c| c.group == *group && c.names.contains(&second.as_ref())) {
        return Ok((command, format!("docker {group} {second}"), &words[2..]));
    }
    // COMPAT: what is wrong with flags comes before what is wrong with the command.
    let flag = flags::parse(&[], true, &words[1..]).err();
    let text = flag.clone().unwrap_or_else(|| {
        let hint = suggestion(&second, names_in(group), |name| format!("docker {group} {name}"));
        format!("docker: unknown command: docker {group} {second}{hint}")
    });
    let more = if COMMAND_IN_USAGE.contains(group) { " COMMAND" } else { "" };
    let usage = format!("Usage:  docker {group}{more}\n\nRun 'docker {group} --help' for more information");
    Err(failure(format!("{text}\n\n{usage}"), if flag.is_some() { 125 } else { 1 }))
}

/// Docker's groups that are not here, and what to say instead of a suggestion.
const ABSENT: &[(&[&str], &str)] = &[
    (
        &["config", "node", "secret", "service", "stack", "swarm"],
        "This engine has no swarm mode: it runs containers on one machine.",
    ),
    (&["plugin"], "This engine has no plugins for networks, volumes and logs."),
    (&["trust"], "Content trust is not supported."),
];

/// COMPAT: the groups whose errors say so; all helps do.
const COMMAND_IN_USAGE: &[&str] = &["manifest", "volume"];

fn top_names() -> impl Iterator<Item = &'static str> {
    commands::all().flat_map(|c| c.top.iter().copied()).chain(GROUPS.iter().map(|(group, _)| *group))
}

fn names_in(group: &str) -> impl Iterator<Item = &'static str> {
    commands::all().filter(move |c| c.group == group).flat_map(|c| c.names.iter().copied())
}

/// The known name that a word is close to, as a line to add.
pub(crate) fn suggestion<'a>(
    word: &str,
    known: impl Iterator<Item = &'a str>,
    shown: impl Fn(&str) -> String,
) -> String {
    match known.map(|name| (distance(word, name), name)).min() {
        Some((d, name)) if d <= 2 && d * 2 < word.len().max(2) => {
            format!("\n\nDid you mean '{}'?", shown(name))
        }
        _ => String::new(),
    }
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

/// Signed images were asked for, and there are none here: to go on without would be worse than to refuse.
fn check_trust(env: &Env, flags: &Flags) -> Result {
    const FLAG: &str = "disable-content-trust";
    let wanted = if flags.changed(FLAG) { !flags.on(FLAG) } else { env.content_trust };
    if wanted && flags.has(FLAG) {
        return Err(failure(
            "content trust is not supported: give --disable-content-trust, or unset DOCKER_CONTENT_TRUST"
                .into(),
            1,
        ));
    }
    Ok(())
}

fn check_arity(command: &Command, path: &str, given: usize) -> Result {
    let plural = |n: usize| if n == 1 { "argument" } else { "arguments" };
    let (good, what) = match command.arity {
        Arity::None => (given == 0, "accepts no arguments".to_owned()),
        Arity::Exactly(n) => (given == n, format!("requires {n} {}", plural(n))),
        Arity::AtLeast(n) => (given >= n, format!("requires at least {n} {}", plural(n))),
        Arity::AtMost(n) => (given <= n, format!("requires at most {n} {}", plural(n))),
        Arity::Between(a, b) => {
            ((a..=b).contains(&given), format!("requires at least {a} and at most {b} {}", plural(b)))
        }
    };
    if good {
        return Ok(());
    }
    // COMPAT: docker's three forms of the last line differ like this.
    let verb = match command.arity {
        Arity::AtLeast(_) => "See",
        Arity::AtMost(_) => "SRun",
        _ => "Run",
    };
    Err(failure(
        format!(
            "docker: '{path}' {what}\n\nUsage:  {}\n\n{verb} '{path} --help' for more information",
            usage_line(command, path)
        ),
        1,
    ))
}

fn help_for(cli: &Cli, words: &[OsString], args: &[OsString]) -> Result {
    if words.is_empty() {
        return out(&top_help(cli));
    }
    let first = words[0].to_string_lossy();
    if let Some(plugin) = plugin_for(cli, &first) {
        return plugin.run(cli, args);
    }
    let topic = || words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ");
    if words.len() == 1
        && let Some((group, _)) = GROUPS.iter().find(|(name, _)| *name == first)
    {
        return out(&group_help(group));
    }
    match find(words) {
        Ok((command, path, _)) => out(&command_help(command, &path)),
        Err(_) => Err(failure(format!("unknown help topic: {}", topic()), 1)),
    }
}

fn usage_line(command: &Command, path: &str) -> String {
    format!("{path} {}", command.usage).trim_end().to_owned()
}

fn command_help(command: &Command, path: &str) -> String {
    let mut text = format!("Usage:  {}\n\n{}\n", usage_line(command, path), command.about);
    let grouped = (!command.group.is_empty())
        .then(|| command.names.iter().map(|n| format!("docker {} {n}", command.group)));
    let names: Vec<String> =
        grouped.into_iter().flatten().chain(command.top.iter().map(|t| format!("docker {t}"))).collect();
    if names.len() > 1 {
        text.push_str(&format!("\nAliases:\n  {}\n", names.join(", ")));
    }
    let options = flags::flag_help(command.flags, term::width().min(120));
    if !options.is_empty() {
        text.push_str(&format!("\nOptions:\n{options}"));
    }
    text
}

fn listing(entries: &mut Vec<(&str, &str)>) -> String {
    entries.sort_unstable();
    entries.dedup();
    entries.iter().map(|(name, about)| format!("  {name:<11} {about}\n")).collect()
}

fn group_help(group: &str) -> String {
    let about = GROUPS.iter().find(|(name, _)| *name == group).map_or("", |(_, about)| about);
    let mut entries: Vec<_> =
        commands::all().filter(|c| c.group == group).map(|c| (c.names[0], c.about)).collect();
    format!(
        "Usage:  docker {group} COMMAND\n\n{about}\n\nCommands:\n{}\nRun 'docker {group} COMMAND --help' for more information on a command.\n",
        listing(&mut entries)
    )
}

const COMMON: [&str; 12] =
    ["run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "search", "version", "info"];

fn top_help(cli: &Cli) -> String {
    let about = |name: &str| commands::all().find(|c| c.top.contains(&name)).map_or("", |c| c.about);
    let common: String = COMMON.iter().map(|name| format!("  {name:<11} {}\n", about(name))).collect();
    // The star marks what is not ours.
    let more = plugins::all(cli).into_iter().filter_map(|p| Some((format!("{}*", p.name), p.about()?.text)));
    let more: Vec<(String, String)> = more.collect();
    let mut groups: Vec<_> = GROUPS.to_vec();
    groups.extend(more.iter().map(|(name, about)| (name.as_str(), about.as_str())));
    let mut others: Vec<_> = commands::all()
        .flat_map(|c| c.top.iter().map(|name| (*name, c.about)))
        .filter(|(name, _)| !COMMON.contains(name))
        .collect();
    format!(
        "Usage:  docker [OPTIONS] COMMAND\n\nBuild, ship and run containers\n\nCommon Commands:\n{common}\nManagement Commands:\n{}\nCommands:\n{}\nGlobal Options:\n{}\nRun 'docker COMMAND --help' for more information on a command.\n",
        listing(&mut groups),
        listing(&mut others),
        flags::flag_help(GLOBAL, term::width().min(120)),
    )
}

/// The global flags, for completion.
pub(crate) fn global_flags() -> impl Iterator<Item = &'static Flag> {
    GLOBAL.iter().flat_map(|part| part.iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_parses_its_own_help() {
        for command in commands::all() {
            let flags = flags::parse(command.flags, command.interspersed, &["--help".into()]).unwrap();
            assert!(flags.help(), "{:?}", command.names);
            assert!(command_help(command, "docker x").starts_with("Usage:  docker x"));
        }
    }

    #[test]
    fn who_wants_signed_images_is_told_that_there_are_none() {
        let check = |top: &str, args: &[&str], content_trust: bool| {
            let command = commands::all().find(|c| c.top.contains(&top)).unwrap();
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            let flags = flags::parse(command.flags, command.interspersed, &args).unwrap();
            check_trust(&Env { content_trust, ..Env::default() }, &flags).is_ok()
        };
        for top in ["pull", "push", "build", "run", "create"] {
            assert!(check(top, &["x"], false), "{top}");
            assert!(!check(top, &["x"], true), "{top}");
            assert!(check(top, &["--disable-content-trust", "x"], true), "{top}");
            assert!(!check(top, &["--disable-content-trust=false", "x"], false), "{top}");
        }
        assert!(check("ps", &[], true));
    }

    #[test]
    fn what_is_not_here_is_not_taken_for_a_typing_error() {
        for (word, want) in [("swarm", "no swarm mode"), ("stack", "no swarm mode"), ("plugin", "no plugins")]
        {
            let error = find(&[word.into(), "ls".into()]).unwrap_err();
            let text = &error.downcast_ref::<Failure>().unwrap().text;
            assert!(text.contains(want) && !text.contains("Did you mean"), "{text}");
        }
    }

    #[test]
    fn suggestions() {
        let of = |word: &str| suggestion(word, top_names(), str::to_owned);
        assert!(of("conatiner").ends_with("Did you mean 'container'?"));
        assert!(of("imgaes").contains("'images'"));
        assert_eq!(of("xyzzy"), "");
        assert_eq!(
            suggestion("lss", names_in("container"), |n| format!("docker container {n}")).lines().last(),
            Some("Did you mean 'docker container ls'?")
        );
    }
}
