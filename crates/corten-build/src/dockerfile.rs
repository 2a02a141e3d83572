//! The Dockerfile language: text to stages and instructions. Pure; no input makes it panic or take long.
//!
//! ```text
//!   bytes ─ lines ─▶ logical lines, heredocs, directives ─ parse ─▶ Dockerfile { meta_args, stages }
//!                                                                        │ (while building)
//!                                          expand: ${variables} ◀────────┘
//! ```
//! Error texts are those of the reference engine's classic builder.

mod check;
mod expand;
mod heredoc;
mod instruction;
mod lines;
mod mount;
mod parse;
mod split;

pub use check::{CheckOptions, Finding, check, rule_url};
pub use expand::{ExpandError, Expander};
pub use heredoc::Heredoc;
pub use instruction::{Command, CommandLine, CopySource, CopySpec, Dockerfile, Instruction, RunSpec, Stage};
pub use lines::Directives;
pub use mount::{MountKind, MountSpec, Sharing};
pub use parse::{ParseError, parse, parse_change, parse_trigger};
pub(crate) use split::go_quote;

#[cfg(test)]
mod tests;
