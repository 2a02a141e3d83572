//! `top`: the container's processes as the host's `ps` shows them.
//!
//! The default columns come from /proc without executing anything; other `ps` arguments run the host's `ps`, whose
//! output is then cut down to the container's processes.

use std::collections::BTreeSet;

use corten_runtime::cgroup::Cgroup;
use corten_wire::api::container::TopResponse;

use super::{Container, blocking};
use crate::error::{Error, Result, conflict, internal, invalid};
use crate::spec;
use crate::view::Status;

impl Container {
    /// Lists processes; empty arguments are `-ef`.
    ///
    /// # Errors
    /// Not running; `ps` failed; no PID column.
    pub async fn top(&self, ps_args: &str) -> Result<TopResponse> {
        let view = self.view();
        match view.status {
            Status::Running | Status::Paused => {}
            Status::Restarting => {
                return Err(conflict(format!(
                    "container {} is restarting, wait until the container is running",
                    self.id()
                )));
            }
            _ => return Err(Error::NotRunning(self.id().to_string())),
        }
        let args = ps_args.trim().to_owned();
        check(&args)?;
        let path = spec::cgroup_path(&view.record, &self.shared().config());
        let init = view.pid;
        let response = blocking(move || {
            let group = Cgroup::at(&path).map_err(|e| internal(e.to_string()))?;
            let pids: BTreeSet<i32> =
                if group.is_none() { of_namespace(init) } else { group.pids().into_iter().collect() };
            if args.is_empty() || args == "-ef" { Ok(from_proc(&pids)) } else { from_ps(&args, &pids) }
        })
        .await?;
        self.publish_plain("top");
        Ok(response)
    }
}

/// Processes of the same PID namespace, where there are no control groups.
fn of_namespace(init: i32) -> BTreeSet<i32> {
    let of = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = of(init);
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| wanted.is_some() && of(*pid) == wanted).collect()
}

/// COMPAT: Docker refuses a custom heading of the PID column, which it could not recognise.
fn check(args: &str) -> Result<()> {
    for word in args.split_whitespace() {
        for column in word.split(',') {
            if let Some((name, heading)) = column.split_once('=')
                && (name.trim_start_matches("-o") == "pid" || heading.eq_ignore_ascii_case("pid"))
            {
                return Err(invalid(format!("specification \"{column}\" is not allowed")));
            }
        }
    }
    Ok(())
}

fn from_ps(args: &str, pids: &BTreeSet<i32>) -> Result<TopResponse> {
    let output = std::process::Command::new("ps")
        .args(args.split_whitespace())
        .output()
        .map_err(|e| internal(format!("error running ps: {e}")))?;
    if !output.status.success() {
        return Err(internal(format!(
            "error running ps: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )));
    }
    parse(&String::from_utf8_lossy(&output.stdout), pids)
}

/// Keeps the lines of these processes.
fn parse(text: &str, pids: &BTreeSet<i32>) -> Result<TopResponse> {
    let mut lines = text.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let at = titles
        .iter()
        .position(|t| t == "PID")
        .ok_or_else(|| internal("Couldn't find PID field in ps output"))?;
    let mut processes = Vec::new();
    let mut before = false;
    for line in lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let Some(&pid) = fields.get(at) else { continue };
        // Threads of a process (`-m`, `H`) have a dash where the PID would be.
        let ours = match pid {
            "-" => before,
            pid => pid.parse().is_ok_and(|p| pids.contains(&p)),
        };
        before = ours;
        if ours {
            processes.push(columns(&fields, titles.len()));
        }
    }
    Ok(TopResponse { titles, processes })
}

/// The last column has what is left of the line.
fn columns(fields: &[&str], count: usize) -> Vec<String> {
    let last = count.saturating_sub(1).min(fields.len());
    let mut row: Vec<String> = fields[..last].iter().map(|f| (*f).to_owned()).collect();
    row.push(fields[last..].join(" "));
    row
}

/// `ps -ef` of these processes.
fn from_proc(pids: &BTreeSet<i32>) -> TopResponse {
    let titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"].map(str::to_owned).to_vec();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let processes = pids.iter().filter_map(|pid| row(*pid, &passwd)).collect();
    TopResponse { titles, processes }
}

fn row(pid: i32, passwd: &str) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let (ticks, began) = ((number(11) + number(12)), number(19));
    let uid = status.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_whitespace().nth(1)?;
    let user = passwd
        .lines()
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find(|f| f.get(2) == Some(&uid))
        .map_or(uid, |f| f[0]);
    let uptime = uptime();
    let lived = (uptime - began as f64 / 100.0).max(0.01);
    let seconds = ticks / 100;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage")]
    let share = ((ticks as f64 / lived) as u64).min(99);
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command: Vec<String> = command
        .split(|b| *b == 0)
        .filter(|a| !a.is_empty())
        .map(|a| String::from_utf8_lossy(a).into_owned())
        .collect();
    Some(vec![
        user.to_owned(),
        pid.to_string(),
        (*fields.get(1)?).to_owned(),
        share.to_string(),
        start_time(lived),
        tty(number(4)),
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        if command.is_empty() { format!("[{name}]") } else { command.join(" ") },
    ])
}

fn uptime() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().and_then(|t| t.parse().ok()).unwrap_or(0.0)
}

/// `14:03` today, `Nov21` before.
fn start_time(lived_seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "seconds since boot")]
    let began = corten_base::time::now_ns() - (lived_seconds * 1e9) as i128;
    let local = corten_base::time::rfc3339_nano(began);
    let today = corten_base::time::rfc3339_nano(corten_base::time::now_ns());
    if local.get(..10) == today.get(..10) {
        return local.get(11..16).unwrap_or_default().to_owned();
    }
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = local.get(5..7).and_then(|m| m.parse::<usize>().ok()).unwrap_or(1);
    format!("{}{}", months[(month - 1).min(11)], local.get(8..10).unwrap_or_default())
}

fn tty(device: u64) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    match major {
        0 => "?".into(),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_other_processes_go() {
        let text = "  PID COMMAND\n    1 init\n   42 sleep 600\n";
        let top = parse(text, &BTreeSet::from([42])).unwrap();
        assert_eq!(
            (top.titles, top.processes),
            (vec!["PID".into(), "COMMAND".into()], vec![vec!["42".into(), "sleep 600".into()]])
        );
        assert_eq!(
            parse("COMMAND\nx\n", &BTreeSet::new()).unwrap_err().to_string(),
            "Couldn't find PID field in ps output"
        );
    }

    #[test]
    fn own_process_is_found_in_proc() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let top = from_proc(&BTreeSet::from([pid]));
        assert_eq!(top.processes.len(), 1);
        assert_eq!(top.processes[0][1], pid.to_string());
    }
}
