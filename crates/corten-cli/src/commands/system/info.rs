//! `info`.

use corten_base::units;
use serde_json::{Value, json};

use crate::cli::Cli;
use crate::error::{Result, fail};
use crate::flags::Flags;
use crate::{format, plugins};

/// `info`: both sides as text, or as a template over one object.
pub(super) async fn info(cli: &Cli, flags: &Flags) -> Result {
    let answer = match cli.client() {
        Ok(client) => client.info_raw().await.map_err(|e| e.to_string()),
        Err(e) => Err(format!("{e:#}")),
    };
    let plugins = plugins::all(cli).into_iter();
    let plugins: Vec<_> = plugins.filter_map(|p| p.about().map(|about| (p, about))).collect();
    let client = json!({
        "Debug": cli.globals.debug,
        "Context": cli.context_name(),
        "Plugins": plugins.iter().map(|(plugin, about)| json!({
            "SchemaVersion": "0.1.0",
            "Vendor": about.vendor,
            "Version": about.version,
            "ShortDescription": about.text,
            "Name": plugin.name,
            "Path": plugin.path,
        })).collect::<Vec<_>>(),
        "Warnings": null,
        "Version": crate::CLIENT_VERSION,
    });
    let template = flags.text("format");
    if !template.is_empty() {
        let json = match &answer {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(bytes).trim().to_owned();
                let body = text.strip_suffix('}').unwrap_or(&text);
                format!("{body},\"ClientInfo\":{client}}}")
            }
            Err(e) => json!({"ServerErrors": [e], "ClientInfo": client}).to_string(),
        };
        let line = if template == "json" { json } else { format::render(template, &json, &[])? };
        cli.line(&line)?;
        return answer.map(drop).map_err(|e| fail(e, 1));
    }
    let mut out = String::from("Client:\n");
    out.push_str(&format!(
        " Version:    {}\n Context:    {}\n Debug Mode: {}\n",
        crate::CLIENT_VERSION,
        cli.context_name(),
        cli.globals.debug
    ));
    if !plugins.is_empty() {
        out.push_str(" Plugins:\n");
    }
    for (plugin, about) in &plugins {
        out.push_str(&format!("  {}: {} ({})\n", plugin.name, about.text, about.vendor));
        if !about.version.is_empty() {
            out.push_str(&format!("    Version:  {}\n", about.version));
        }
        out.push_str(&format!("    Path:     {}\n", plugin.path.display()));
    }
    out.push_str("\nServer:\n");
    match answer {
        Ok(bytes) => {
            let value: Value = serde_json::from_slice(&bytes)?;
            out.push_str(&server(&value));
            cli.print(&out)?;
            for warning in value["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                cli.warn(warning);
            }
            Ok(())
        }
        Err(e) => {
            cli.print(&out)?;
            Err(fail(e, 1))
        }
    }
}

fn text(v: &Value, key: &str) -> String {
    match &v[key] {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn join(v: &Value) -> String {
    v.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

/// The server's part.
fn server(v: &Value) -> String {
    let mut out = String::new();
    let mut line = |label: &str, value: String| out.push_str(&format!(" {label}: {value}\n"));
    let number = |key: &str| v[key].as_i64().unwrap_or(0).to_string();
    line("Containers", number("Containers"));
    line(" Running", number("ContainersRunning"));
    line(" Paused", number("ContainersPaused"));
    line(" Stopped", number("ContainersStopped"));
    line("Images", number("Images"));
    let optional = |label: &str, value: String, out: &mut dyn FnMut(&str, String)| {
        if !value.is_empty() {
            out(label, value);
        }
    };
    optional("Server Version", text(v, "ServerVersion"), &mut line);
    optional("Storage Driver", text(v, "Driver"), &mut line);
    for pair in v["DriverStatus"].as_array().into_iter().flatten() {
        line(
            &format!(" {}", pair[0].as_str().unwrap_or_default()),
            pair[1].as_str().unwrap_or_default().to_owned(),
        );
    }
    optional("Logging Driver", text(v, "LoggingDriver"), &mut line);
    optional("Cgroup Driver", text(v, "CgroupDriver"), &mut line);
    optional("Cgroup Version", text(v, "CgroupVersion"), &mut line);
    out.push_str(" Plugins:\n");
    for kind in ["Volume", "Network", "Authorization", "Log"] {
        let names = join(&v["Plugins"][kind]);
        if !names.is_empty() {
            out.push_str(&format!("  {kind}: {names}\n"));
        }
    }
    let cdi = v["CDISpecDirs"].as_array().filter(|d| !d.is_empty());
    if let Some(dirs) = cdi {
        out.push_str(" CDI spec directories:\n");
        for dir in dirs {
            out.push_str(&format!("  {}\n", dir.as_str().unwrap_or_default()));
        }
    }
    out.push_str(&format!(" Swarm: {}\n", v["Swarm"]["LocalNodeState"].as_str().unwrap_or("inactive")));
    let runtimes: Vec<&str> =
        v["Runtimes"].as_object().into_iter().flatten().map(|(k, _)| k.as_str()).collect();
    if !runtimes.is_empty() {
        out.push_str(&format!(
            " Runtimes: {}\n Default Runtime: {}\n",
            runtimes.join(" "),
            text(v, "DefaultRuntime")
        ));
    }
    out.push_str(&format!(" Init Binary: {}\n", text(v, "InitBinary")));
    for (label, key) in [("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit")] {
        out.push_str(&format!(" {label} version: {}\n", text(&v[key], "ID")));
    }
    security(v, &mut out);
    host(v, &mut out);
    out
}

fn security(v: &Value, out: &mut String) {
    let options: Vec<&str> =
        v["SecurityOptions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if options.is_empty() {
        return;
    }
    out.push_str(" Security Options:\n");
    for option in options {
        let mut fields = option.split(',').filter_map(|f| f.split_once('='));
        let name = fields.clone().find(|(k, _)| *k == "name").map_or(option, |(_, n)| n);
        out.push_str(&format!("  {name}\n"));
        for (key, value) in fields.by_ref().filter(|(k, _)| *k != "name") {
            let label = if key == "profile" { "Profile" } else { key };
            out.push_str(&format!("   {label}: {value}\n"));
        }
    }
}

fn host(v: &Value, out: &mut String) {
    for (label, key) in [
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
    ] {
        if !text(v, key).is_empty() {
            out.push_str(&format!(" {label}: {}\n", text(v, key)));
        }
    }
    out.push_str(&format!(" Total Memory: {}\n", units::bytes_size(v["MemTotal"].as_f64().unwrap_or(0.0))));
    for (label, key) in [("Name", "Name"), ("ID", "ID"), ("Docker Root Dir", "DockerRootDir")] {
        out.push_str(&format!(" {label}: {}\n", text(v, key)));
    }
    out.push_str(&format!(" Debug Mode: {}\n", v["Debug"].as_bool().unwrap_or(false)));
    for (label, key) in [("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy")]
    {
        if !text(v, key).is_empty() {
            out.push_str(&format!(" {label}: {}\n", text(v, key)));
        }
    }
    let labels: Vec<&str> = v["Labels"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !labels.is_empty() {
        out.push_str(" Labels:\n");
        labels.iter().for_each(|label| out.push_str(&format!("  {label}\n")));
    }
    out.push_str(&format!(" Experimental: {}\n", v["ExperimentalBuild"].as_bool().unwrap_or(false)));
    let registries = &v["RegistryConfig"];
    let insecure = registries["IndexConfigs"].as_object().into_iter().flatten();
    let mut lines: Vec<String> =
        insecure.filter(|(_, c)| c["Secure"] == false).map(|(_, c)| text(c, "Name")).collect();
    lines.extend(
        registries["InsecureRegistryCIDRs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned),
    );
    if !lines.is_empty() {
        out.push_str(" Insecure Registries:\n");
        lines.iter().for_each(|l| out.push_str(&format!("  {l}\n")));
    }
    let mirrors: Vec<&str> =
        registries["Mirrors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !mirrors.is_empty() {
        out.push_str(" Registry Mirrors:\n");
        mirrors.iter().for_each(|m| out.push_str(&format!("  {m}\n")));
    }
    out.push_str(&format!(" Live Restore Enabled: {}\n", v["LiveRestoreEnabled"].as_bool().unwrap_or(false)));
    let firewall = &v["FirewallBackend"];
    if let Some(driver) = firewall["Driver"].as_str() {
        out.push_str(&format!(" Firewall Backend: {driver}\n"));
    }
    out.push('\n');
}
