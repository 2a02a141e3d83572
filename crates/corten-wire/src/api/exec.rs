//! Further processes in a running container.

use serde::{Deserialize, Serialize};

use super::is_default;

/// Body of `POST /containers/{id}/exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ExecCreateRequest {
    /// `user[:group]`.
    pub user: String,
    /// All capabilities.
    pub privileged: bool,
    /// With a terminal.
    pub tty: bool,
    /// Rows and columns of the terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<[u32; 2]>,
    /// Connect standard input.
    pub attach_stdin: bool,
    /// Connect standard error.
    pub attach_stderr: bool,
    /// Connect standard output.
    pub attach_stdout: bool,
    /// Sent by clients, decided at start.
    #[serde(skip_serializing_if = "is_default")]
    pub detach: bool,
    /// Keys that detach; `None` for the daemon's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detach_keys: Option<String>,
    /// `NAME=value`.
    pub env: Option<Vec<String>>,
    /// Where the process starts.
    pub working_dir: String,
    /// Program and arguments.
    pub cmd: Option<Vec<String>>,
}

/// Body of `POST /exec/{id}/start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ExecStartRequest {
    /// Do not connect.
    pub detach: bool,
    /// Must agree with create.
    pub tty: bool,
    /// Rows and columns of the terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<[u32; 2]>,
}

/// Answer of `GET /exec/{id}/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ExecInspect {
    /// Id of the exec.
    #[serde(rename = "ID")]
    pub id: String,
    /// Still running.
    pub running: bool,
    /// `null` until it has ended.
    pub exit_code: Option<i64>,
    /// What runs.
    pub process_config: ExecProcessConfig,
    /// Standard input is connected.
    pub open_stdin: bool,
    /// Standard error is connected.
    pub open_stderr: bool,
    /// Standard output is connected.
    pub open_stdout: bool,
    /// Ended and not yet cleaned away.
    pub can_remove: bool,
    /// Where it runs.
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    /// Keys that detach.
    pub detach_keys: String,
    /// On the host; 0 before the start.
    pub pid: i32,
}

/// What an exec runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecProcessConfig {
    /// With a terminal.
    pub tty: bool,
    /// Program.
    pub entrypoint: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// All capabilities; absent where it was not asked for before API 1.25.
    pub privileged: bool,
    /// User, where one was given.
    #[serde(skip_serializing_if = "is_default")]
    pub user: String,
}
