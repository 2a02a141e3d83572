//! `--mount type=…,source=…,target=…`.

use corten_base::units;
use serde_json::{Map, Value, json};

use super::{absolute, csv};
use crate::flags::parse_bool;

/// Reads one `--mount` into the API's `Mount`.
pub(crate) fn mount(text: &str) -> Result<Value, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("EOF".into());
    }
    let mut kind = "volume".to_owned();
    let (mut top, mut bind, mut volume) = (Map::new(), Map::new(), Map::new());
    let (mut tmpfs, mut image) = (Map::new(), Map::new());
    for field in csv(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), value.to_owned()),
            None => {
                let key = field.to_lowercase();
                let bare = ["readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src"];
                if !bare.contains(&key.as_str()) {
                    return Err(format!("invalid field '{field}' must be a key=value pair"));
                }
                (key, "true".into())
            }
        };
        let boolean = || parse_bool(&value).ok_or_else(|| format!("invalid value for {key}: {value}"));
        match key.as_str() {
            "type" => kind = value.to_lowercase(),
            "source" | "src" => {
                let source = if value.starts_with('.') { absolute(&value) } else { value };
                top.insert("Source".into(), source.into());
            }
            "target" | "dst" | "destination" => drop(top.insert("Target".into(), value.into())),
            "readonly" | "ro" => drop(top.insert("ReadOnly".into(), boolean()?.into())),
            "consistency" => drop(top.insert("Consistency".into(), value.to_lowercase().into())),
            "bind-propagation" => drop(bind.insert("Propagation".into(), value.to_lowercase().into())),
            "bind-nonrecursive" => drop(bind.insert("NonRecursive".into(), boolean()?.into())),
            "bind-create-src" => drop(bind.insert("CreateMountpoint".into(), boolean()?.into())),
            "bind-recursive" => match value.as_str() {
                "enabled" => {}
                "disabled" => drop(bind.insert("NonRecursive".into(), true.into())),
                "writable" => drop(bind.insert("ReadOnlyNonRecursive".into(), true.into())),
                "readonly" => drop(bind.insert("ReadOnlyForceRecursive".into(), true.into())),
                _ => {
                    return Err(format!(
                        "invalid value for {key}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                    ));
                }
            },
            "volume-subpath" => drop(volume.insert("Subpath".into(), value.into())),
            "volume-nocopy" => drop(volume.insert("NoCopy".into(), boolean()?.into())),
            "volume-label" => add_pair(&mut volume, "Labels", &value),
            "volume-driver" => {
                let driver = volume.entry("DriverConfig").or_insert_with(|| json!({}));
                driver["Name"] = value.into();
            }
            "volume-opt" => {
                let driver = volume.entry("DriverConfig").or_insert_with(|| json!({}));
                if let Some(driver) = driver.as_object_mut() {
                    add_pair(driver, "Options", &value);
                }
            }
            // Ours, not docker's: other owners than on disk.
            "idmap" => drop(bind.insert("IDMap".into(), value.into())),
            "image-subpath" => drop(image.insert("Subpath".into(), value.into())),
            "tmpfs-size" => {
                let size =
                    units::ram_in_bytes(&value).ok_or_else(|| format!("invalid value for {key}: {value}"))?;
                tmpfs.insert("SizeBytes".into(), size.into());
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(&value, 8)
                    .map_err(|_| format!("invalid value for {key}: {value}"))?;
                tmpfs.insert("Mode".into(), mode.into());
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if kind.is_empty() {
        return Err("type is required".into());
    }
    if top.get("Target").and_then(Value::as_str).unwrap_or_default().is_empty() {
        return Err("target is required".into());
    }
    let parts = [
        ("VolumeOptions", "volume", volume),
        ("ImageOptions", "image", image),
        ("BindOptions", "bind", bind),
        ("TmpfsOptions", "tmpfs", tmpfs),
    ];
    for (name, owner, part) in parts {
        if part.is_empty() {
            continue;
        }
        if owner != kind {
            return Err(format!("cannot mix '{owner}-*' options with mount type '{kind}'"));
        }
        top.insert(name.into(), Value::Object(part));
    }
    if let Some(bind) = top.get("BindOptions") {
        if bind.get("ReadOnlyForceRecursive").is_some() && top.get("ReadOnly") != Some(&Value::Bool(true)) {
            return Err(
                "option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction".into(),
            );
        }
        if bind.get("ReadOnlyForceRecursive").is_some() && bind.get("Propagation") != Some(&"rprivate".into())
        {
            return Err("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction".into());
        }
        if bind.get("ReadOnlyNonRecursive").is_some() && top.get("ReadOnly") != Some(&Value::Bool(true)) {
            return Err(
                "option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction".into(),
            );
        }
    }
    if top.get("ReadOnly") == Some(&Value::Bool(false)) {
        top.remove("ReadOnly");
    }
    top.insert("Type".into(), kind.into());
    Ok(Value::Object(top))
}

fn add_pair(object: &mut Map<String, Value>, name: &str, text: &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    object.entry(name).or_insert_with(|| json!({}))[key] = value.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_mounts() {
        for (text, want) in [
            (
                "type=bind,src=/a,dst=/b,ro",
                json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true}),
            ),
            ("target=/x", json!({"Type": "volume", "Target": "/x"})),
            (
                "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777",
                json!({"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777}}),
            ),
            (
                "type=volume,src=v,dst=/v,volume-opt=a=b,volume-driver=d,\"volume-label=x=1,2\"",
                json!({"Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions":
                    {"DriverConfig": {"Name": "d", "Options": {"a": "b"}}, "Labels": {"x": "1,2"}}}),
            ),
        ] {
            assert_eq!(mount(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn bad_mounts() {
        for (text, want) in [
            ("", "EOF"),
            ("foo", "invalid field 'foo' must be a key=value pair"),
            ("type=bind,foo=bar", "unexpected key 'foo' in 'foo=bar'"),
            ("type=bind,src=/a", "target is required"),
            ("type=bind,dst=/a,ro=x", "invalid value for ro: x"),
            ("type=bind,dst=/a,volume-nocopy", "cannot mix 'volume-*' options with mount type 'bind'"),
            ("type=tmpfs,dst=/a,tmpfs-size=z", "invalid value for tmpfs-size: z"),
        ] {
            assert_eq!(mount(text), Err(want.into()), "{text}");
        }
    }
}
