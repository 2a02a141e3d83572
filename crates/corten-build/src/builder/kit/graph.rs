//! Which stages a target needs, and what each of them waits for. Pure.

use crate::dockerfile::{CopySource, Dockerfile, Instruction, MountKind, Stage};
use crate::error::BuildError;

/// Stages that are needed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Graph {
    target: usize,
    /// By stage; `None` where the stage is not needed.
    needs: Vec<Option<Vec<usize>>>,
}

impl Graph {
    /// `bases` are the stages' bases with variables expanded; `named` are the contexts that come before stages and
    /// images of the same name.
    pub(crate) fn new(
        file: &Dockerfile,
        bases: &[String],
        named: &[&str],
        target: &str,
    ) -> Result<Self, BuildError> {
        let target = find_target(file, target)?;
        let mut graph = Self { target, needs: vec![None; file.stages.len()] };
        let mut path = Vec::new();
        graph.visit(file, bases, named, target, &mut path)?;
        Ok(graph)
    }

    fn visit(
        &mut self,
        file: &Dockerfile,
        bases: &[String],
        named: &[&str],
        index: usize,
        path: &mut Vec<usize>,
    ) -> Result<(), BuildError> {
        if path.contains(&index) {
            let name = match file.stages[index].name.as_str() {
                "" => index.to_string(),
                name => name.to_owned(),
            };
            return Err(BuildError::invalid(format!("circular dependency detected on stage: {name}")));
        }
        if self.needs[index].is_some() {
            return Ok(());
        }
        path.push(index);
        let mut needs = Vec::new();
        let earlier = |name: &str| {
            // A base is one of the stages before.
            file.stages[..index].iter().rposition(|s| !s.name.is_empty() && s.name.eq_ignore_ascii_case(name))
        };
        if !named.contains(&bases[index].as_str()) {
            needs.extend(earlier(&bases[index]));
        }
        for from in sources(&file.stages[index]) {
            if named.contains(&from) {
                continue;
            }
            let by_name =
                file.stages.iter().position(|s| !s.name.is_empty() && s.name.eq_ignore_ascii_case(from));
            let by_number = || from.parse().ok();
            match by_name.or_else(by_number) {
                Some(n) if n < file.stages.len() => needs.push(n),
                Some(_) => return Err(BuildError::invalid(format!("invalid stage index {from}"))),
                None => {}
            }
        }
        needs.sort_unstable();
        needs.dedup();
        for need in &needs {
            self.visit(file, bases, named, *need, path)?;
        }
        path.pop();
        self.needs[index] = Some(needs);
        Ok(())
    }

    /// The stage whose result is wanted.
    pub(crate) const fn target(&self) -> usize {
        self.target
    }

    /// What a stage waits for.
    pub(crate) fn needs(&self, index: usize) -> &[usize] {
        self.needs[index].as_deref().unwrap_or_default()
    }

    /// The stages that are needed, as they are written.
    pub(crate) fn order(&self) -> impl Iterator<Item = usize> + '_ {
        self.needs.iter().enumerate().filter(|(_, n)| n.is_some()).map(|(i, _)| i)
    }
}

fn find_target(file: &Dockerfile, target: &str) -> Result<usize, BuildError> {
    if target.is_empty() {
        return Ok(file.stages.len() - 1);
    }
    let by_name = file.stages.iter().rposition(|s| !s.name.is_empty() && s.name.eq_ignore_ascii_case(target));
    let by_number = || target.parse().ok().filter(|n| *n < file.stages.len());
    by_name
        .or_else(by_number)
        .ok_or_else(|| BuildError::invalid(format!("target stage \"{target}\" could not be found")))
}

/// Stages, contexts and images that the commands of a stage take files from.
fn sources(stage: &Stage) -> impl Iterator<Item = &str> {
    stage
        .commands
        .iter()
        .flat_map(|c| -> Vec<&str> {
            match &c.instruction {
                Instruction::Copy(copy) | Instruction::Add(copy) => vec![&copy.from],
                Instruction::Run(run) => run.mounts.iter().map(|m| m.from.as_str()).collect(),
                _ => Vec::new(),
            }
        })
        .filter(|f| !f.is_empty())
}

/// Steps of a stage that are shown.
pub(crate) fn steps(stage: &Stage) -> usize {
    let is_step = |i: &Instruction| {
        matches!(
            i,
            Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
        )
    };
    stage.commands.iter().filter(|c| is_step(&c.instruction)).count()
}

/// Paths of the main context that any command takes; `None` for all of it. Nothing at all is an empty list.
pub(crate) fn context_paths(file: &Dockerfile) -> Option<Vec<String>> {
    let mut paths = Vec::new();
    for command in file.stages.iter().flat_map(|s| &s.commands) {
        match &command.instruction {
            Instruction::Copy(copy) | Instruction::Add(copy) if copy.from.is_empty() => {
                for source in &copy.sources {
                    let CopySource::Path(path) = source else { continue };
                    if !super::super::fetch::is_url(path) && !super::super::is_git_address(path) {
                        paths.push(path.as_str());
                    }
                }
            }
            Instruction::Run(run) => {
                let bound = |kind| matches!(kind, MountKind::Bind | MountKind::Cache);
                paths.extend(
                    run.mounts
                        .iter()
                        .filter(|m| m.from.is_empty() && bound(m.kind))
                        .filter(|m| m.kind == MountKind::Bind || !m.source.is_empty())
                        .map(|m| m.source.as_str()),
                );
            }
            // What a trigger of this image takes is for its users to send.
            _ => {}
        }
    }
    let mut clean = Vec::new();
    for path in paths {
        // With variables or steps upward nobody can tell yet.
        let path = if path.contains('$') { String::new() } else { super::super::tree::clean(path)? };
        if path.is_empty() {
            return None;
        }
        clean.push(path);
    }
    clean.sort_unstable();
    clean.dedup();
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Dockerfile {
        crate::dockerfile::parse("Dockerfile", text.as_bytes()).unwrap()
    }

    fn graph(text: &str, target: &str) -> Result<Graph, String> {
        let file = parsed(text);
        let bases: Vec<String> = file.stages.iter().map(|s| s.base.clone()).collect();
        Graph::new(&file, &bases, &["ctx"], target).map_err(|e| e.to_string())
    }

    #[test]
    fn only_what_the_target_needs() {
        let text = "FROM x AS a\nFROM x AS unused\nFROM a AS b\nCOPY --from=c /f /f\nFROM x AS c\nRUN --mount=from=0,target=/m true\nCOPY --from=ctx / /\nCOPY --from=image:1 / /\n";
        let all = graph(text, "b").unwrap();
        assert_eq!(all.order().collect::<Vec<_>>(), [0, 2, 3]);
        assert_eq!((all.needs(2), all.needs(3), all.target()), (&[0, 3][..], &[0][..], 2));
        assert_eq!(graph(text, "1").unwrap().order().collect::<Vec<_>>(), [1]);
        assert_eq!(graph(text, "").unwrap().target(), 3);
        assert_eq!(graph(text, "zzz").unwrap_err(), "target stage \"zzz\" could not be found");
        let circle = "FROM x AS a\nCOPY --from=b / /\nFROM a AS b\n";
        assert_eq!(graph(circle, "").unwrap_err(), "circular dependency detected on stage: b");
        assert_eq!(graph("FROM x\nCOPY --from=7 / /\n", "").unwrap_err(), "invalid stage index 7");
        // A stage of the base's own name is not its base.
        assert_eq!(graph("FROM x AS x\n", "").unwrap().needs(0), &[] as &[usize]);
    }

    #[test]
    fn paths_of_the_context() {
        for (text, want) in [
            ("COPY a /b/ ./c /d/", Some(vec!["a", "b", "c"])),
            ("COPY --from=x a /d/", Some(vec![])),
            ("ADD https://a.test/x git@a.test:x /d/", Some(vec![])),
            ("COPY . /d/", None),
            ("COPY a$x /d/", None),
            ("COPY ../a /d/", None),
            ("RUN --mount=target=/m true", None),
            ("RUN --mount=target=/m,source=s/t true", Some(vec!["s/t"])),
            ("RUN --mount=type=cache,target=/m true", Some(vec![])),
            ("COPY <<E /d\ntext\nE", Some(vec![])),
        ] {
            let paths = context_paths(&parsed(&format!("FROM x\n{text}\n")));
            let want = want.map(|w| w.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(paths, want, "{text}");
        }
    }
}
