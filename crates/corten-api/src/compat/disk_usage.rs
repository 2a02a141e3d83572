//! `GET /system/df` from API 1.52 on: totals for each type, with the lists as `Items`. The old lists stay, as clients
//! of both kinds speak the versions around the change.

use serde_json::{Value, json};

/// Adds `ImageUsage`, `ContainerUsage`, `VolumeUsage` and `BuildCacheUsage`, each where its list is.
pub(super) fn add_totals(usage: &mut Value) {
    let layers = usage.get("LayersSize").and_then(Value::as_i64);
    let images = totals(usage, "Images", |i| (number(i, "/Containers") > 0, number(i, "/Size") - shared(i)));
    let containers = totals(usage, "Containers", |c| {
        let state = c.get("State").and_then(Value::as_str).unwrap_or_default();
        (matches!(state, "running" | "paused" | "restarting"), number(c, "/SizeRw"))
    });
    let volumes =
        totals(usage, "Volumes", |v| (number(v, "/UsageData/RefCount") > 0, number(v, "/UsageData/Size")));
    let cache = totals(usage, "BuildCache", |c| {
        (c.get("InUse").and_then(Value::as_bool).unwrap_or_default(), number(c, "/Size"))
    });
    let Some(map) = usage.as_object_mut() else { return };
    for (name, value) in
        [("ContainerUsage", containers), ("VolumeUsage", volumes), ("BuildCacheUsage", cache)]
    {
        if let Some(value) = value {
            map.insert(name.to_owned(), value);
        }
    }
    if let Some(mut value) = images {
        // Layers that images share count once; what active images need cannot be reclaimed.
        let used = number(&value, "/TotalSize") - number(&value, "/Reclaimable");
        let total = layers.unwrap_or_default();
        value["TotalSize"] = total.into();
        value["Reclaimable"] = (total - used).max(0).into();
        map.insert("ImageUsage".to_owned(), value);
    }
}

fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default().max(0)
}

fn shared(image: &Value) -> i64 {
    number(image, "/SharedSize")
}

/// Totals of a list; `look` says of an item whether it is active, and its size.
fn totals(usage: &Value, list: &str, look: impl Fn(&Value) -> (bool, i64)) -> Option<Value> {
    let items = usage.get(list)?.as_array()?;
    let (mut active, mut total, mut reclaimable) = (0i64, 0i64, 0i64);
    for (is_active, size) in items.iter().map(look) {
        active += i64::from(is_active);
        total += size;
        reclaimable += if is_active { 0 } else { size };
    }
    Some(json!({
        "ActiveCount": active,
        "TotalCount": items.len(),
        "TotalSize": total,
        "Reclaimable": reclaimable,
        "Items": items,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_of_each_type() {
        let mut usage = json!({
            "LayersSize": 100,
            "Images": [{ "Containers": 1, "Size": 60, "SharedSize": 10 }, { "Containers": 0, "Size": 50, "SharedSize": 10 }],
            "Containers": [{ "State": "running", "SizeRw": 5 }, { "State": "exited", "SizeRw": 7 }],
            "Volumes": null,
        });
        add_totals(&mut usage);
        assert_eq!(usage.pointer("/ImageUsage/Reclaimable"), Some(&json!(50)));
        assert_eq!(usage.pointer("/ContainerUsage/TotalSize"), Some(&json!(12)));
        assert_eq!(usage.pointer("/ContainerUsage/ActiveCount"), Some(&json!(1)));
        assert!(usage.get("VolumeUsage").is_none());
    }
}
