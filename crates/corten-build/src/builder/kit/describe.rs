//! What a Dockerfile offers, without building it: its targets, and what one of them takes (`--call`).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use corten_base::{Cancel, Platform};

use super::super::Builder;
use super::graph;
use crate::args::Args;
use crate::config::expand;
use crate::dockerfile::{Dockerfile, Expander, Instruction, MountKind};
use crate::error::BuildError;
use crate::solve::{BuildClient, SolveError, SolveEvent, SolveRequest, SourceFile};

/// First and last line.
type Lines = (usize, usize);

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Empty where it has none.
    pub name: String,
    /// What the comment before it says of it.
    pub description: String,
    /// As written.
    pub base: String,
    /// As written.
    pub platform: String,
    /// Where it begins.
    pub lines: Lines,
}

/// Something that a target takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// What the comment before it says of it.
    pub description: String,
    /// Its value; empty for secrets and agents.
    pub value: String,
    /// The build fails without it.
    pub required: bool,
    /// Where it is first asked for.
    pub lines: Lines,
}

/// What a Dockerfile offers.
#[derive(Debug, Clone)]
pub struct Described {
    /// The file.
    pub source: Arc<SourceFile>,
    /// All stages; the last is the default.
    pub targets: Vec<Target>,
    /// Place of the target that was asked about.
    pub target: usize,
    /// Its arguments.
    pub args: Vec<Parameter>,
    /// Its secrets.
    pub secrets: Vec<Parameter>,
    /// Its ssh agents.
    pub agents: Vec<Parameter>,
}

impl Builder {
    /// Reads the Dockerfile and says what it offers, without building anything.
    ///
    /// # Errors
    /// The file cannot be had, has errors, or has no such target.
    pub fn describe(
        &self,
        request: &SolveRequest,
        client: &dyn BuildClient,
        say: &(dyn Fn(SolveEvent) + Sync),
        cancel: &Cancel,
    ) -> Result<Described, SolveError> {
        let (file, source) = self.read(request, client, say, cancel)?;
        Ok(describe(request, &file, &source)?)
    }
}

fn describe(
    request: &SolveRequest,
    file: &Dockerfile,
    source: &Arc<SourceFile>,
) -> Result<Described, BuildError> {
    let text = String::from_utf8_lossy(&source.text);
    let lines: Vec<&str> = text.lines().collect();
    let targets: Vec<Target> = file
        .stages
        .iter()
        .map(|s| Target {
            name: s.name.clone(),
            description: description(&lines, s.line, &s.name),
            base: s.base.clone(),
            platform: s.platform.clone(),
            lines: (s.line, s.end),
        })
        .collect();
    let platform = request.platforms.first().cloned().unwrap_or_else(Platform::host);
    let given = request.build_args.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
    let mut args = Args::new(given, &platform);
    let expander = Expander { escape: file.directives.escape };
    let mut found = Found { lines: &lines, args: Vec::new(), secrets: Vec::new(), agents: Vec::new() };
    let mut meta = Vec::new();
    for command in &file.meta_args {
        let Instruction::Arg(list) = &command.instruction else { continue };
        for (name, default) in list {
            let default = match default {
                Some(text) => Some(expand(expander, text, &|n| args.meta_value(n))?),
                None => None,
            };
            args.add_meta(name, default);
            meta.push((name.clone(), (command.line, command.end)));
        }
    }
    let asked = RefCell::new(BTreeSet::new());
    let get = |name: &str| {
        asked.borrow_mut().insert(name.to_owned());
        args.meta_value(name)
    };
    let bases = file.stages.iter().map(|s| expand(expander, &s.base, &get)).collect::<Result<Vec<_>, _>>()?;
    let named: Vec<&str> = request.contexts.keys().map(String::as_str).collect();
    let graph = graph::Graph::new(file, &bases, &named, &request.target)?;
    // Only what the needed stages stand on counts.
    asked.borrow_mut().clear();
    for stage in graph.order().map(|n| &file.stages[n]) {
        expand(expander, &stage.base, &get)?;
        expand(expander, &stage.platform, &get)?;
    }
    for (name, lines) in meta.iter().filter(|(n, _)| asked.borrow().contains(n)) {
        found.arg(name, args.meta_value(name), *lines);
    }
    for stage in graph.order().map(|n| &file.stages[n]) {
        let mut args = args.clone();
        for command in &stage.commands {
            let place = (command.line, command.end);
            match &command.instruction {
                Instruction::Arg(list) => {
                    for (name, default) in list {
                        let known = args.in_force(&[]);
                        let default = match default {
                            Some(text) => Some(expand(expander, text, &|n| known.get(n).cloned())?),
                            None => None,
                        };
                        args.add(name, default);
                        found.arg(name, args.in_force(&[]).remove(name), place);
                    }
                }
                Instruction::Run(run) => {
                    for mount in &run.mounts {
                        let default = match mount.kind {
                            MountKind::Secret => mount.target.rsplit('/').next().unwrap_or_default(),
                            MountKind::Ssh => "default",
                            _ => continue,
                        };
                        let id = if mount.id.is_empty() { default } else { &mount.id };
                        found.mount(mount.kind, id, mount.required, place);
                    }
                }
                _ => {}
            }
        }
    }
    let Found { mut args, secrets, agents, .. } = found;
    args.sort_by_key(|a| a.lines);
    Ok(Described { source: Arc::clone(source), targets, target: graph.target(), args, secrets, agents })
}

struct Found<'a> {
    lines: &'a [&'a str],
    args: Vec<Parameter>,
    secrets: Vec<Parameter>,
    agents: Vec<Parameter>,
}

impl Found<'_> {
    fn arg(&mut self, name: &str, value: Option<String>, lines: Lines) {
        if is_automatic(name) || self.args.iter().any(|a| a.name == name) {
            return;
        }
        let description = description(self.lines, lines.0, name);
        let value = value.unwrap_or_default();
        self.args.push(Parameter { name: name.to_owned(), description, value, required: false, lines });
    }

    fn mount(&mut self, kind: MountKind, id: &str, required: bool, lines: Lines) {
        let list = if kind == MountKind::Ssh { &mut self.agents } else { &mut self.secrets };
        match list.iter_mut().find(|p| p.name == id) {
            Some(known) => known.required |= required,
            None => list.push(Parameter {
                name: id.to_owned(),
                description: String::new(),
                value: String::new(),
                required,
                lines,
            }),
        }
    }
}

/// Arguments that have their values without being given.
fn is_automatic(name: &str) -> bool {
    let rest = name.strip_prefix("TARGET").or_else(|| name.strip_prefix("BUILD"));
    rest.is_some_and(|r| matches!(r, "PLATFORM" | "OS" | "ARCH" | "VARIANT"))
}

/// `# NAME what it is` in the comment right before a line.
fn description(lines: &[&str], line: usize, name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    let before = lines[..line.saturating_sub(1).min(lines.len())].iter().rev();
    let comments = before.map(|l| l.trim()).take_while(|l| l.starts_with('#'));
    comments
        .filter_map(|l| l.trim_start_matches('#').trim().strip_prefix(name)?.strip_prefix(' '))
        .map(|d| d.trim().to_owned())
        .next()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(text: &str, target: &str) -> Result<Described, String> {
        let file = crate::dockerfile::parse("Dockerfile", text.as_bytes()).unwrap();
        let source = Arc::new(SourceFile { name: "Dockerfile".into(), text: text.into() });
        let request = SolveRequest {
            target: target.to_owned(),
            build_args: [("GIVEN".to_owned(), "mine".to_owned())].into(),
            ..SolveRequest::default()
        };
        describe(&request, &file, &source).map_err(|e| e.to_string())
    }

    const FILE: &str = "# BASE what it stands on\nARG BASE=busybox\nARG UNUSED=1\n\
        # build compiles\nFROM $BASE AS build\nARG GIVEN\nARG NEXT=$GIVEN-2\nARG TARGETARCH\n\
        RUN --mount=type=secret,id=token,required=true --mount=type=ssh true\n\
        FROM busybox AS other\nARG NOT_NEEDED\nRUN --mount=type=secret,id=none true\n\n\
        # not right before\n\nFROM build\nRUN --mount=type=secret,target=/run/x true\n";

    #[test]
    fn targets_and_what_they_take() {
        let all = described(FILE, "").unwrap();
        let shown: Vec<(&str, &str)> =
            all.targets.iter().map(|t| (t.name.as_str(), t.description.as_str())).collect();
        assert_eq!(shown, [("build", "compiles"), ("other", ""), ("", "")]);
        let args: Vec<(&str, &str, &str)> =
            all.args.iter().map(|a| (a.name.as_str(), a.value.as_str(), a.description.as_str())).collect();
        assert_eq!(
            args,
            [("BASE", "busybox", "what it stands on"), ("GIVEN", "mine", ""), ("NEXT", "mine-2", "")]
        );
        let secrets: Vec<(&str, bool)> = all.secrets.iter().map(|s| (s.name.as_str(), s.required)).collect();
        assert_eq!(secrets, [("token", true), ("x", false)]);
        assert_eq!((all.agents.len(), all.agents[0].name.as_str(), all.target), (1, "default", 2));
        let other = described(FILE, "other").unwrap();
        assert_eq!((other.args.len(), other.secrets[0].name.as_str()), (1, "none"));
        assert!(described(FILE, "nothing").is_err());
    }
}
