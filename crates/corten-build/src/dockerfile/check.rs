//! Build checks: what is allowed in a Dockerfile and is no good idea. Pure; rules and texts are Docker's.

use std::collections::{BTreeMap, BTreeSet};

use super::instruction::{Command, CommandLine, Dockerfile, Instruction, Stage};
use super::mount::parse_bool;
use super::split::go_quote;

/// Where the rules are explained.
const ADDRESS: &str = "https://docs.docker.com/go/dockerfile/rule/";
/// Words of a name that stand for a secret, and the one that says that it is none.
const SECRETS: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
const NO_SECRET: &str = "public";

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Name of the rule.
    pub rule: &'static str,
    /// What the rule is about.
    pub description: &'static str,
    /// What is wrong here.
    pub detail: String,
    /// First and last line.
    pub lines: (usize, usize),
}

/// `# check=`, or the build argument `BUILDKIT_DOCKERFILE_CHECK`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckOptions {
    skip_all: bool,
    skip: Vec<String>,
    /// A finding is an error.
    pub error: bool,
}

impl CheckOptions {
    /// Reads `skip=A,B;error=true`.
    ///
    /// # Errors
    /// In the reference's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for part in text.split(';').filter(|p| !p.trim().is_empty()) {
            let (key, value) =
                part.split_once('=').ok_or_else(|| format!("invalid check option {}", go_quote(part)))?;
            let value = value.trim();
            match key.trim() {
                "skip" if value == "all" => options.skip_all = true,
                "skip" => options.skip = value.split(',').map(|r| r.trim().to_owned()).collect(),
                // None of the rules here is experimental.
                "experimental" => {}
                "error" => {
                    options.error = parse_bool(value)
                        .ok_or_else(|| format!("failed to parse check option {}", go_quote(part)))?;
                }
                other => return Err(format!("invalid check option {}", go_quote(other))),
            }
        }
        Ok(options)
    }
}

/// Address of the explanation of a rule.
#[must_use]
pub fn rule_url(rule: &str) -> String {
    let mut name = String::new();
    for c in rule.replace("JSON", "Json").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(c.to_ascii_lowercase());
    }
    format!("{ADDRESS}{name}/")
}

/// Checks a file; findings in the order of their lines.
#[must_use]
pub fn check(file: &Dockerfile, options: &CheckOptions) -> Vec<Finding> {
    if options.skip_all {
        return Vec::new();
    }
    let mut checker = Checker::default();
    checker.casing(file);
    checker.stages(&file.stages);
    for command in &file.meta_args {
        checker.secrets(command);
    }
    for stage in &file.stages {
        checker.stage(stage);
    }
    let mut found = checker.found;
    found.retain(|f| !options.skip.iter().any(|s| s.eq_ignore_ascii_case(f.rule)));
    found.sort_by_key(|f| f.lines.0);
    found
}

#[derive(Default)]
struct Checker {
    found: Vec<Finding>,
}

fn first_word(source: &str) -> &str {
    source.split_whitespace().next().unwrap_or_default()
}

impl Checker {
    fn add(&mut self, rule: &'static str, description: &'static str, lines: (usize, usize), detail: String) {
        self.found.push(Finding { rule, description, detail, lines });
    }

    /// All instructions are written in upper case, or all in lower case.
    fn casing(&mut self, file: &Dockerfile) {
        let mut words: Vec<(&str, (usize, usize))> = Vec::new();
        for stage in &file.stages {
            words.push((first_word(&stage.source), (stage.line, stage.end)));
            words.extend(stage.commands.iter().map(|c| (first_word(&c.source), (c.line, c.end))));
        }
        let is_lower = |w: &str| w.chars().all(|c| c.is_ascii_lowercase());
        let is_upper = |w: &str| w.chars().all(|c| c.is_ascii_uppercase());
        let lower = words.iter().filter(|(w, _)| is_lower(w)).count();
        let upper = words.iter().filter(|(w, _)| is_upper(w)).count();
        let (fits, casing): (&dyn Fn(&str) -> bool, _) =
            if lower > upper { (&is_lower, "lowercase") } else { (&is_upper, "uppercase") };
        for (word, lines) in words.into_iter().filter(|(w, _)| !fits(w)) {
            self.add(
                "ConsistentInstructionCasing",
                "All commands within the Dockerfile should use the same casing (either upper or lower)",
                lines,
                format!("Command '{word}' should match the case of the command majority ({casing})"),
            );
        }
    }

    fn stages(&mut self, stages: &[Stage]) {
        let mut names = BTreeSet::new();
        for stage in stages {
            let lines = (stage.line, stage.end);
            let words: Vec<&str> = stage.source.split_whitespace().collect();
            let named = words.len() >= 3 && words[words.len() - 2].eq_ignore_ascii_case("as");
            if named {
                let (from, keyword, name) = (words[0], words[words.len() - 2], words[words.len() - 1]);
                let lower = |w: &str| w.chars().all(|c| c.is_ascii_lowercase());
                if lower(from) != lower(keyword) {
                    self.add(
                        "FromAsCasing",
                        "The 'as' keyword should match the case of the 'from' keyword",
                        lines,
                        format!("'{keyword}' and '{from}' keywords' casing do not match"),
                    );
                }
                if name != name.to_ascii_lowercase() {
                    self.add(
                        "StageNameCasing",
                        "Stage names should be lowercase",
                        lines,
                        format!("Stage name '{name}' should be lowercase"),
                    );
                }
            }
            if matches!(stage.name.as_str(), "context" | "scratch") {
                self.add(
                    "ReservedStageName",
                    "Reserved words should not be used as stage names",
                    lines,
                    format!(
                        "Stage name should not use the same name as reserved stage {}",
                        go_quote(&stage.name)
                    ),
                );
            }
            if !stage.name.is_empty() && !names.insert(stage.name.as_str()) {
                self.add(
                    "DuplicateStageName",
                    "Stage names should be unique",
                    lines,
                    format!("Duplicate stage name {}, stage names should be unique", go_quote(&stage.name)),
                );
            }
            self.platform(stage, lines);
        }
    }

    fn platform(&mut self, stage: &Stage, lines: (usize, usize)) {
        let platform = stage.platform.as_str();
        if matches!(platform, "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
            self.add(
                "RedundantTargetPlatform",
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
                lines,
                format!(
                    "Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"
                ),
            );
        } else if !platform.is_empty() && !platform.contains('$') {
            self.add(
                "FromPlatformFlagConstDisallowed",
                "FROM --platform flag should not use a constant value",
                lines,
                format!("FROM --platform flag should not use constant value {}", go_quote(platform)),
            );
        }
    }

    fn stage(&mut self, stage: &Stage) {
        let mut last: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let mut has_shell = false;
        let mut has_workdir = false;
        for command in &stage.commands {
            let lines = (command.line, command.end);
            let name = command.instruction.name();
            match &command.instruction {
                Instruction::Shell(_) => has_shell = true,
                Instruction::Maintainer(_) => self.add(
                    "MaintainerDeprecated",
                    "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
                    lines,
                    "Maintainer instruction is deprecated in favor of using label".to_owned(),
                ),
                Instruction::Workdir(path) => {
                    let absolute = path.starts_with(['/', '$']);
                    if !absolute && !has_workdir {
                        self.add(
                            "WorkdirRelativePath",
                            "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
                            lines,
                            format!(
                                "Relative workdir {} can have unexpected results if the base image changes",
                                go_quote(path)
                            ),
                        );
                    }
                    has_workdir |= absolute;
                }
                Instruction::Cmd(CommandLine::Shell(_)) | Instruction::Entrypoint(CommandLine::Shell(_))
                    if !has_shell =>
                {
                    self.add(
                        "JSONArgsRecommended",
                        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
                        lines,
                        format!(
                            "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
                        ),
                    );
                }
                Instruction::Env(_) | Instruction::Label(_) => self.legacy(command, name),
                _ => {}
            }
            self.secrets(command);
            let is_single = matches!(
                command.instruction,
                Instruction::Cmd(_) | Instruction::Entrypoint(_) | Instruction::Healthcheck(_)
            );
            if is_single && let Some(before) = last.insert(name, lines) {
                self.add(
                    "MultipleInstructionsDisallowed",
                    "Multiple instructions of the same type should not be used in the same stage",
                    before,
                    format!(
                        "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
                    ),
                );
            }
        }
    }

    /// `ENV key value`.
    fn legacy(&mut self, command: &Command, name: &str) {
        let Some(key) = command.source.split_whitespace().nth(1) else { return };
        if !key.contains('=') {
            self.add(
                "LegacyKeyValueFormat",
                "Legacy key/value format with whitespace separator should not be used",
                (command.line, command.end),
                format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"),
            );
        }
    }

    fn secrets(&mut self, command: &Command) {
        let keys: Vec<&str> = match &command.instruction {
            Instruction::Env(pairs) => pairs.iter().map(|(k, _)| k.as_str()).collect(),
            Instruction::Arg(args) => args.iter().map(|(k, _)| k.as_str()).collect(),
            _ => return,
        };
        for key in keys.into_iter().filter(|k| names_a_secret(k)) {
            let name = command.instruction.name();
            self.add(
                "SecretsUsedInArgOrEnv",
                "Sensitive data should not be used in the ARG or ENV commands",
                (command.line, command.end),
                format!("Do not use ARG or ENV instructions for sensitive data ({name} {})", go_quote(key)),
            );
        }
    }
}

fn names_a_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let has = |words: &[&str]| key.split('_').any(|part| words.contains(&part));
    has(&SECRETS) && !has(&[NO_SECRET])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str, options: &str) -> Vec<(&'static str, usize)> {
        let file = super::super::parse("Dockerfile", text.as_bytes()).unwrap();
        let options = CheckOptions::parse(options).unwrap();
        check(&file, &options).into_iter().map(|f| (f.rule, f.lines.0)).collect()
    }

    #[test]
    fn findings() {
        for (text, want) in [
            ("FROM x AS a\nCMD [\"x\"]\n", &[][..]),
            ("FROM x as a\n", &[("FromAsCasing", 1)]),
            ("FROM x AS Build\n", &[("StageNameCasing", 1)]),
            ("FROM x AS scratch\n", &[("ReservedStageName", 1)]),
            ("FROM x\nrun a\nRUN b\n", &[("ConsistentInstructionCasing", 2)]),
            ("FROM x AS a\nFROM y AS a\n", &[("DuplicateStageName", 2)]),
            ("FROM x\nCMD run me\n", &[("JSONArgsRecommended", 2)]),
            ("FROM x\nSHELL [\"/bin/bash\"]\nCMD run me\n", &[]),
            ("FROM x\nMAINTAINER me\n", &[("MaintainerDeprecated", 2)]),
            ("FROM x\nWORKDIR a\n", &[("WorkdirRelativePath", 2)]),
            ("FROM x\nWORKDIR /a\nWORKDIR b\n", &[]),
            ("FROM x\nCMD [\"a\"]\nCMD [\"b\"]\n", &[("MultipleInstructionsDisallowed", 2)]),
            ("FROM x\nENV a b\nLABEL c=d\n", &[("LegacyKeyValueFormat", 2)]),
            ("FROM x\nARG GITHUB_TOKEN\nENV PUBLIC_KEY=1 MONKEY=2\n", &[("SecretsUsedInArgOrEnv", 2)]),
            ("FROM --platform=linux/amd64 x\n", &[("FromPlatformFlagConstDisallowed", 1)]),
            ("FROM --platform=$TARGETPLATFORM x\n", &[("RedundantTargetPlatform", 1)]),
        ] {
            assert_eq!(rules(text, ""), want, "{text}");
        }
        let text = "FROM x as a\nMAINTAINER me\n";
        assert_eq!(rules(text, "skip=FromAsCasing;error=true"), [("MaintainerDeprecated", 2)]);
        assert_eq!(rules(text, "skip=all"), []);
        assert!(CheckOptions::parse("error=true").unwrap().error);
        assert_eq!(CheckOptions::parse("x").unwrap_err(), "invalid check option \"x\"");
        assert_eq!(rule_url("JSONArgsRecommended"), format!("{ADDRESS}json-args-recommended/"));
    }
}
