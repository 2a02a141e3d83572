//! Instructions that change the configuration only: what they set, and how history tells it.
//!
//! Used by the builder and by `--change` of `commit` and `import`.

use corten_base::units::format_duration;
use corten_wire::oci_image::{ContainerConfig, Empty, HealthcheckConfig};

use crate::dockerfile::{CommandLine, Expander, Instruction, go_quote, parse_change};
use crate::error::BuildError;

/// Docker's default path, set where an image has none.
pub(crate) const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Shell of shell forms.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// A configuration being changed, with what must be remembered between instructions.
pub(crate) struct Editor<'a> {
    pub(crate) config: &'a mut ContainerConfig,
    pub(crate) author: &'a mut String,
    /// Whether this stage had a `CMD`: else an `ENTRYPOINT` takes away the inherited one.
    pub(crate) cmd_set: &'a mut bool,
    pub(crate) expander: Expander,
    /// The environment and the build arguments.
    pub(crate) get: &'a dyn Fn(&str) -> Option<String>,
}

/// Applies the instructions of `--change`; each text may hold several lines.
///
/// # Errors
/// `RUN is not a valid change command` and the like, all `InvalidArgument`.
pub fn apply_changes(config: &mut ContainerConfig, changes: &[String]) -> Result<(), BuildError> {
    let (mut author, mut cmd_set) = (String::new(), false);
    for instruction in parse_change(&changes.join("\n"))? {
        let env = config.env.clone().unwrap_or_default();
        let get = |name: &str| lookup(&env, name);
        let expander = Expander { escape: '\\' };
        if let Instruction::Workdir(path) = &instruction {
            let path = expand(expander, path, &get)?;
            config.working_dir = join(&config.working_dir, &path);
            continue;
        }
        Editor { config, author: &mut author, cmd_set: &mut cmd_set, expander, get: &get }
            .apply(&instruction)?;
    }
    Ok(())
}

/// Value of a variable in a list of `NAME=value`.
pub(crate) fn lookup(env: &[String], name: &str) -> Option<String> {
    env.iter().find_map(|e| e.split_once('=').filter(|(k, _)| *k == name).map(|(_, v)| v.to_owned()))
}

/// Expands one word; errors name it.
pub(crate) fn expand(
    expander: Expander,
    word: &str,
    get: &dyn Fn(&str) -> Option<String>,
) -> Result<String, BuildError> {
    expander.word(word, get).map_err(|source| BuildError::Expand { word: go_quote(word), source })
}

/// Shell of a configuration.
pub(crate) fn shell(config: &ContainerConfig) -> Vec<String> {
    match &config.shell {
        Some(shell) if !shell.is_empty() => shell.clone(),
        _ => DEFAULT_SHELL.map(str::to_owned).to_vec(),
    }
}

/// Go's `filepath.Join` of a working directory and a path: absolute and clean.
pub(crate) fn join(base: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("/{base}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

impl Editor<'_> {
    /// Applies one instruction; returns what history says, without the shell in front.
    ///
    /// The instructions that touch files (`RUN`, `COPY`, `ADD`, `WORKDIR`) and `ARG` are not for here.
    pub(crate) fn apply(&mut self, instruction: &Instruction) -> Result<String, BuildError> {
        Ok(match instruction {
            Instruction::Env(pairs) => self.env(pairs)?,
            Instruction::Label(pairs) => self.label(pairs)?,
            Instruction::Maintainer(name) => {
                name.clone_into(self.author);
                format!("MAINTAINER {name}")
            }
            Instruction::Expose(ports) => self.expose(ports)?,
            Instruction::Volume(volumes) => self.volume(volumes)?,
            Instruction::User(user) => {
                self.config.user = self.word(user)?;
                format!("USER {}", self.config.user)
            }
            Instruction::StopSignal(signal) => {
                let signal = self.word(signal)?;
                if !is_signal(&signal) {
                    return Err(BuildError::invalid(format!("invalid signal: {signal}")));
                }
                self.config.stop_signal.clone_from(&signal);
                format!("STOPSIGNAL {signal}")
            }
            Instruction::Cmd(line) => {
                let words = self.command(line);
                if !words.is_empty() {
                    *self.cmd_set = true;
                }
                let text = format!("CMD {}", quoted(&words));
                self.config.cmd = Some(words);
                self.config.args_escaped = false;
                text
            }
            Instruction::Entrypoint(line) => {
                let words = self.command(line);
                let text = format!("ENTRYPOINT {}", quoted(&words));
                self.config.entrypoint = (!words.is_empty()).then_some(words);
                if !*self.cmd_set {
                    self.config.cmd = None;
                }
                text
            }
            Instruction::Healthcheck(check) => {
                self.config.healthcheck = Some(check.clone());
                format!("HEALTHCHECK {}", healthcheck_text(check))
            }
            Instruction::Shell(shell) => {
                self.config.shell = Some(shell.clone());
                format!("SHELL [{}]", shell.join(" "))
            }
            Instruction::Onbuild(trigger) => {
                self.config.on_build.get_or_insert_default().push(trigger.clone());
                format!("ONBUILD {trigger}")
            }
            Instruction::Run(_)
            | Instruction::Copy(_)
            | Instruction::Add(_)
            | Instruction::Workdir(_)
            | Instruction::Arg(_) => {
                return Err(BuildError::invalid(format!("{} cannot be applied here", instruction.name())));
            }
        })
    }

    fn word(&self, text: &str) -> Result<String, BuildError> {
        expand(self.expander, text, self.get)
    }

    fn pairs(&self, pairs: &[(String, String)]) -> Result<Vec<(String, String)>, BuildError> {
        pairs.iter().map(|(k, v)| Ok((self.word(k)?, self.word(v)?))).collect()
    }

    fn command(&self, line: &CommandLine) -> Vec<String> {
        if line.is_empty() { Vec::new() } else { line.resolve(&shell(self.config)) }
    }

    fn env(&mut self, pairs: &[(String, String)]) -> Result<String, BuildError> {
        // All values are expanded before any is set: one instruction sees one environment.
        let pairs = self.pairs(pairs)?;
        let env = self.config.env.get_or_insert_default();
        let mut text = "ENV".to_owned();
        for (name, value) in pairs {
            if name.is_empty() {
                return Err(BuildError::invalid("ENV names can not be blank"));
            }
            let entry = format!("{name}={value}");
            text.push(' ');
            text.push_str(&entry);
            match env.iter_mut().find(|e| e.split('=').next() == Some(name.as_str())) {
                Some(old) => *old = entry,
                None => env.push(entry),
            }
        }
        Ok(text)
    }

    fn label(&mut self, pairs: &[(String, String)]) -> Result<String, BuildError> {
        let pairs = self.pairs(pairs)?;
        let labels = self.config.labels.get_or_insert_default();
        let mut text = "LABEL".to_owned();
        for (name, value) in pairs {
            if name.is_empty() {
                return Err(BuildError::invalid("LABEL names can not be blank"));
            }
            text.push_str(&format!(" {name}={value}"));
            labels.insert(name, value);
        }
        Ok(text)
    }

    fn expose(&mut self, ports: &[String]) -> Result<String, BuildError> {
        let mut words = Vec::new();
        for port in ports {
            let expanded = self.expander.words(port, self.get);
            words.extend(expanded.map_err(|source| BuildError::Expand { word: go_quote(port), source })?);
        }
        words.sort();
        let set = self.config.exposed_ports.get_or_insert_default();
        for word in &words {
            for port in ports_of(word)? {
                set.insert(port, Empty {});
            }
        }
        Ok(format!("EXPOSE {}", words.join(" ")))
    }

    fn volume(&mut self, volumes: &[String]) -> Result<String, BuildError> {
        let volumes: Vec<String> = volumes.iter().map(|v| self.word(v)).collect::<Result<_, _>>()?;
        let set = self.config.volumes.get_or_insert_default();
        for volume in &volumes {
            if volume.is_empty() {
                return Err(BuildError::invalid("VOLUME specified can not be an empty string"));
            }
            set.insert(volume.clone(), Empty {});
        }
        Ok(format!("VOLUME [{}]", volumes.join(" ")))
    }
}

/// Go's `%q` of a list of strings.
fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|w| go_quote(w)).collect();
    format!("[{}]", words.join(" "))
}

/// Go's `%+v` of the reference's structure.
fn healthcheck_text(check: &HealthcheckConfig) -> String {
    let time = |ns: i64| format_duration(std::time::Duration::from_nanos(u64::try_from(ns).unwrap_or(0)));
    format!(
        "&{{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        check.test.join(" "),
        time(check.interval),
        time(check.timeout),
        time(check.start_period),
        time(check.start_interval),
        check.retries
    )
}

/// `80`, `80/udp`, `8000-8010`, with a host part that is not used.
fn ports_of(spec: &str) -> Result<Vec<String>, BuildError> {
    let (ports, protocol) = spec.rsplit_once('/').unwrap_or((spec, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(BuildError::invalid(format!("invalid proto: {protocol}")));
    }
    let container = ports.rsplit(':').next().unwrap_or_default();
    if container.is_empty() {
        return Err(BuildError::invalid(format!("no port specified: {spec}<empty>")));
    }
    let invalid = || BuildError::invalid(format!("invalid containerPort: {container}"));
    let (first, last) = container.split_once('-').unwrap_or((container, container));
    let (first, last): (u16, u16) =
        (first.parse().map_err(|_| invalid())?, last.parse().map_err(|_| invalid())?);
    if first > last {
        return Err(invalid());
    }
    Ok((first..=last).map(|p| format!("{p}/{protocol}")).collect())
}

/// Names of Linux's signals, without `SIG`.
const SIGNALS: [&str; 33] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU",
];

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, sign: char, limit: u32| {
        name.strip_prefix(prefix).is_some_and(|rest| {
            rest.is_empty()
                || rest.strip_prefix(sign).and_then(|n| n.parse().ok()).is_some_and(|n: u32| n <= limit)
        })
    };
    SIGNALS.contains(&name) || name == "XFSZ" || real_time("RTMIN", '+', 15) || real_time("RTMAX", '-', 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(lines: &[&str]) -> (ContainerConfig, Vec<String>) {
        let mut config =
            ContainerConfig { env: Some(vec![DEFAULT_PATH.into()]), ..ContainerConfig::default() };
        let (mut author, mut cmd_set) = (String::new(), false);
        let mut texts = Vec::new();
        let file = format!("FROM x\n{}\n", lines.join("\n"));
        for command in &crate::dockerfile::parse("D", file.as_bytes()).unwrap().stages[0].commands {
            let env = config.env.clone().unwrap();
            let mut editor = Editor {
                config: &mut config,
                author: &mut author,
                cmd_set: &mut cmd_set,
                expander: Expander { escape: '\\' },
                get: &|name| lookup(&env, name),
            };
            let text = editor.apply(&command.instruction).unwrap();
            texts.push(format!("{} #(nop)  {text}", shell(&config).join(" ")));
        }
        (config, texts)
    }

    #[test]
    fn texts_and_configuration_as_recorded_from_the_reference() {
        let (config, texts) = edit(&[
            "ENV A=1 B=\"two words\"",
            "LABEL l=v",
            "EXPOSE 80 53/udp",
            "USER alice",
            "VOLUME /data",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK --interval=5s --retries=2 CMD true",
            "SHELL [\"/bin/sh\",\"-ec\"]",
            "ENTRYPOINT [\"echo\"]",
            "CMD [\"x\"]",
        ]);
        assert_eq!(
            texts,
            [
                "/bin/sh -c #(nop)  ENV A=1 B=two words",
                "/bin/sh -c #(nop)  LABEL l=v",
                "/bin/sh -c #(nop)  EXPOSE 53/udp 80",
                "/bin/sh -c #(nop)  USER alice",
                "/bin/sh -c #(nop)  VOLUME [/data]",
                "/bin/sh -c #(nop)  STOPSIGNAL SIGINT",
                "/bin/sh -c #(nop)  HEALTHCHECK &{Test:[CMD-SHELL true] Interval:5s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}",
                "/bin/sh -ec #(nop)  SHELL [/bin/sh -ec]",
                "/bin/sh -ec #(nop)  ENTRYPOINT [\"echo\"]",
                "/bin/sh -ec #(nop)  CMD [\"x\"]",
            ]
        );
        assert_eq!(config.env.unwrap(), [DEFAULT_PATH, "A=1", "B=two words"]);
        assert_eq!(config.exposed_ports.unwrap().into_keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!((config.cmd, config.entrypoint), (Some(vec!["x".into()]), Some(vec!["echo".into()])));
    }

    #[test]
    fn inheritance_of_commands() {
        let mut config = ContainerConfig { cmd: Some(vec!["old".into()]), ..ContainerConfig::default() };
        apply_changes(&mut config, &["ENTRYPOINT [\"e\"]".into()]).unwrap();
        assert_eq!(config.cmd, None);
        apply_changes(
            &mut config,
            &["CMD a b\nENTRYPOINT e2\nENV X=1\nENV X=${X}2".into(), "WORKDIR w".into()],
        )
        .unwrap();
        assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "a b"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "e2"]);
        assert_eq!((config.env.unwrap(), config.working_dir.as_str()), (vec!["X=12".to_owned()], "/w"));
    }

    #[test]
    fn refusals() {
        for (change, want) in [
            ("RUN x", "RUN is not a valid change command"),
            ("EXPOSE 80/xyz", "invalid proto: xyz"),
            ("EXPOSE 70000", "invalid containerPort: 70000"),
            ("STOPSIGNAL SIGNOPE", "invalid signal: SIGNOPE"),
            ("ENV A=${B:?missing}", "failed to process \"${B:?missing}\""),
        ] {
            let e = apply_changes(&mut ContainerConfig::default(), &[change.to_owned()]).unwrap_err();
            assert_eq!((e.to_string().as_str(), e.kind()), (want, corten_base::Kind::InvalidArgument));
        }
        for good in ["15", "term", "SIGRTMIN+3", "SIGXFSZ", "rtmax-1"] {
            assert!(is_signal(good), "{good}");
        }
        assert_eq!(ports_of("8000-8002/udp").unwrap(), ["8000/udp", "8001/udp", "8002/udp"]);
    }

    #[test]
    fn joined_paths() {
        for (base, path, want) in
            [("", "w", "/w"), ("/a", "b/../c", "/a/c"), ("/a", "/b", "/b"), ("/a", "../../..", "/")]
        {
            assert_eq!(join(base, path), want);
        }
    }
}
