//! `GET /system/df` before API 1.53: a list for each type. 1.52 has both, as clients of both kinds speak it.

use serde_json::{Map, Value, json};

const LISTS: [(&str, &str); 4] = [
    ("Images", "ImageUsage"),
    ("Containers", "ContainerUsage"),
    ("Volumes", "VolumeUsage"),
    ("BuildCache", "BuildCacheUsage"),
];

/// Adds `LayersSize`, `Images`, `Containers`, `Volumes` and `BuildCache`; `null` for a type that was not asked for.
pub(super) fn add_lists(usage: &mut Value) {
    let mut old = Map::new();
    if let Some(layers) = usage.pointer("/ImageUsage/TotalSize") {
        old.insert("LayersSize".to_owned(), layers.clone());
    }
    for (list, totals) in LISTS {
        let items =
            usage.get(totals).map_or(Value::Null, |t| t.get("Items").cloned().unwrap_or_else(|| json!([])));
        old.insert(list.to_owned(), items);
    }
    if let Some(map) = usage.as_object_mut() {
        old.append(map);
        *map = old;
    }
}

/// Removes the totals.
pub(super) fn remove_totals(usage: &mut Value) {
    super::remove(usage, &LISTS.map(|(_, totals)| totals));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_for_old_clients() {
        let usage = json!({
            "ImageUsage": { "TotalSize": 100, "Items": [{ "Size": 60 }] },
            "VolumeUsage": { "TotalSize": 5, "Items": [] },
        });
        let mut both = usage.clone();
        add_lists(&mut both);
        assert_eq!(both["LayersSize"], 100);
        assert_eq!(both["Images"], json!([{ "Size": 60 }]));
        assert_eq!((&both["Volumes"], &both["Containers"]), (&json!([]), &Value::Null));
        assert_eq!(both["ImageUsage"], usage["ImageUsage"]);
        remove_totals(&mut both);
        assert_eq!(both.as_object().unwrap().len(), 5);
    }
}
