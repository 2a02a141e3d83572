//! The Engine API over one kept-alive connection, with as little client around it as can be.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail};

use crate::engine::Engine;

/// A kept-alive connection to an engine's socket.
#[derive(Debug)]
pub(crate) struct Api {
    stream: BufReader<UnixStream>,
}

impl Api {
    pub(crate) fn connect(engine: &Engine) -> Result<Self> {
        let socket = engine.socket().context("podman is measured by its command line only")?;
        Ok(Self { stream: BufReader::new(UnixStream::connect(socket)?) })
    }

    pub(crate) fn call(&mut self, method: &str, path: &str, body: &str) -> Result<String> {
        let request = format!(
            "{method} /v1.41{path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status: u16 = line.split(' ').nth(1).context("status")?.parse()?;
        let (mut length, mut chunked) = (0usize, false);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let lower = line.trim().to_ascii_lowercase();
            if lower.is_empty() {
                break;
            }
            if let Some(n) = lower.strip_prefix("content-length: ") {
                length = n.parse()?;
            }
            chunked |= lower == "transfer-encoding: chunked";
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        if chunked {
            self.read_chunks(&mut answer)?;
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if status >= 300 {
            bail!("{method} {path}: {status} {answer}");
        }
        Ok(answer)
    }

    fn read_chunks(&mut self, answer: &mut Vec<u8>) -> Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16)?;
            let mut chunk = vec![0; size + 2];
            self.stream.read_exact(&mut chunk)?;
            if size == 0 {
                return Ok(());
            }
            answer.extend_from_slice(&chunk[..size]);
        }
    }

    /// Makes a process in a container, and reads what it writes until its end; the connection belongs to it.
    pub(crate) fn exec(engine: &Engine, container: &str, command: &str) -> Result<()> {
        let mut api = Self::connect(engine)?;
        let body = format!(r#"{{"Cmd":{command},"AttachStdout":true,"AttachStderr":true}}"#);
        let answer = api.call("POST", &format!("/containers/{container}/exec"), &body)?;
        let value: serde_json::Value = serde_json::from_str(&answer)?;
        let id = value["Id"].as_str().context("an id")?;
        let body = r#"{"Detach":false,"Tty":false}"#;
        let request = format!(
            "POST /v1.41/exec/{id}/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        api.stream.get_mut().write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        api.stream.read_to_end(&mut answer)?;
        if answer.starts_with(b"HTTP/1.1 200") {
            Ok(())
        } else {
            bail!("{}", String::from_utf8_lossy(&answer))
        }
    }

    pub(crate) fn create(&mut self, network: &str, command: &str) -> Result<String> {
        let body =
            format!(r#"{{"Image":"busybox","Cmd":{command},"HostConfig":{{"NetworkMode":"{network}"}}}}"#);
        let answer = self.call("POST", "/containers/create", &body)?;
        let value: serde_json::Value = serde_json::from_str(&answer)?;
        Ok(value["Id"].as_str().context("an id")?.to_owned())
    }
}
