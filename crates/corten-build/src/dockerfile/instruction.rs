//! What a Dockerfile says, instruction by instruction, before variables are expanded.

use corten_wire::oci_image::HealthcheckConfig;

use super::heredoc::Heredoc;
use super::lines::Directives;
use super::mount::MountSpec;

/// A parsed Dockerfile.
#[derive(Debug, Clone, Default)]
pub struct Dockerfile {
    /// From the top of the file.
    pub directives: Directives,
    /// `ARG`s before the first `FROM`.
    pub meta_args: Vec<Command>,
    /// At least one.
    pub stages: Vec<Stage>,
}

/// `FROM` and what follows it.
#[derive(Debug, Clone)]
pub struct Stage {
    /// After `AS`, in lower case; empty where there is none.
    pub name: String,
    /// Image, stage or `scratch`, unexpanded.
    pub base: String,
    /// `--platform`, unexpanded; empty where there is none.
    pub platform: String,
    /// The line as written, continuation lines joined.
    pub source: String,
    /// Where it begins.
    pub line: usize,
    /// Where it ends.
    pub end: usize,
    /// In order.
    pub commands: Vec<Command>,
}

/// One instruction and where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The line as written, continuation lines joined.
    pub source: String,
    /// Where it begins.
    pub line: usize,
    /// Where it ends.
    pub end: usize,
    /// What it says.
    pub instruction: Instruction,
}

/// The instructions but `FROM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// `ADD`.
    Add(CopySpec),
    /// `ARG name[=default]…`.
    Arg(Vec<(String, Option<String>)>),
    /// `CMD`.
    Cmd(CommandLine),
    /// `COPY`.
    Copy(CopySpec),
    /// `ENTRYPOINT`.
    Entrypoint(CommandLine),
    /// `ENV`.
    Env(Vec<(String, String)>),
    /// `EXPOSE`.
    Expose(Vec<String>),
    /// `HEALTHCHECK`; `test` is `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`.
    Healthcheck(HealthcheckConfig),
    /// `LABEL`.
    Label(Vec<(String, String)>),
    /// `MAINTAINER`.
    Maintainer(String),
    /// `ONBUILD`: the trigger's text.
    Onbuild(String),
    /// `RUN`.
    Run(RunSpec),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `STOPSIGNAL`.
    StopSignal(String),
    /// `USER`.
    User(String),
    /// `VOLUME`.
    Volume(Vec<String>),
    /// `WORKDIR`.
    Workdir(String),
}

impl Instruction {
    /// Upper-case name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// Shell form or JSON form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// A text for the shell.
    Shell(String),
    /// Arguments as they are.
    Exec(Vec<String>),
}

impl CommandLine {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Shell(text) => text.is_empty(),
            Self::Exec(words) => words.is_empty(),
        }
    }

    /// The arguments, with the shell in front of a text.
    #[must_use]
    pub fn resolve(&self, shell: &[String]) -> Vec<String> {
        match self {
            Self::Shell(text) => shell.iter().cloned().chain([text.clone()]).collect(),
            Self::Exec(words) => words.clone(),
        }
    }
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopySpec {
    /// In order.
    pub sources: Vec<CopySource>,
    /// Unexpanded.
    pub destination: String,
    /// `--from`: stage, number of a stage, or image.
    pub from: String,
    /// `--chown`.
    pub chown: String,
    /// `--chmod`.
    pub chmod: String,
    /// `--checksum` of `ADD`.
    pub checksum: String,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// `--keep-git-dir` of `ADD`.
    pub keep_git_dir: bool,
    /// `--unpack` of `ADD`; by default local archives are unpacked and downloads are not.
    pub unpack: Option<bool>,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// Path, pattern or URL, unexpanded.
    Path(String),
    /// Text within the Dockerfile.
    Inline(Heredoc),
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSpec {
    /// The command.
    pub command: CommandLine,
    /// Texts that belong to the command.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, unexpanded.
    pub mounts: Vec<MountSpec>,
    /// `--network`: empty, `default`, `none`, `host`.
    pub network: String,
    /// `--security`: empty, `sandbox`, `insecure`.
    pub security: String,
    /// Flags as written; part of the cache key.
    pub flags: Vec<String>,
}
