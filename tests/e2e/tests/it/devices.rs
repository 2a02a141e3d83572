//! Devices by name, as specification files define them.

use corten_testkit::Daemon;
use corten_testkit::daemon::DaemonOptions;

const SPEC: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.test/dev
containerEdits:
  env: ["VENDOR=here"]
devices:
  - name: plain
    containerEdits:
      deviceNodes:
        - path: /dev/vendor0
          hostPath: /dev/zero
          permissions: r
      mounts:
        - hostPath: "@DIR@/lib"
          containerPath: /usr/vendor
          options: [ro, bind]
      additionalGids: [77]
  - name: hooked
    containerEdits:
      hooks:
        - hookName: createContainer
          path: /bin/sh
          args: [sh, -c, "cat > @DIR@/state.json"]
"#;

#[test]
fn devices_are_injected_by_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("lib")).unwrap();
    std::fs::write(dir.path().join("lib/marker"), "from the vendor").unwrap();
    let spec = SPEC.replace("@DIR@", &dir.path().display().to_string());
    std::fs::write(dir.path().join("vendor.yaml"), spec).unwrap();
    let args = vec!["--cdi-spec-dir".to_owned(), dir.path().display().to_string()];
    let daemon = Daemon::start_with(DaemonOptions { args, ..DaemonOptions::default() });
    daemon.import_busybox();
    let info = daemon.get("/info");
    assert_eq!(info["CDISpecDirs"][0], dir.path().display().to_string());
    assert_eq!(
        info["DiscoveredDevices"][0],
        serde_json::json!({"Source": "cdi", "ID": "vendor.test/dev=hooked"})
    );
    let script = "echo $VENDOR; cat /usr/vendor/marker; echo; head -c 3 /dev/vendor0 | wc -c; id -G";
    let run =
        daemon.docker(["run", "--rm", "--device", "vendor.test/dev=plain", "busybox", "sh", "-c", script]);
    assert_eq!(run.ok(), "here\nfrom the vendor\n3\n0 77");
    let hooked = ["run", "--rm", "-t", "--device", "vendor.test/dev=hooked", "busybox", "echo", "ran"];
    assert_eq!(daemon.docker(hooked).ok(), "ran");
    let state = std::fs::read(dir.path().join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    assert!(state["bundle"].as_str().unwrap().ends_with("/bundle"), "{state}");
    let missing = daemon.docker(["run", "--rm", "--device", "vendor.test/dev=nope", "busybox", "true"]);
    assert!(
        missing
            .fails(125)
            .contains("CDI device injection failed: unresolvable CDI devices vendor.test/dev=nope")
    );
    let gpus = daemon.docker(["run", "--rm", "--gpus", "all", "busybox", "true"]);
    assert!(gpus.fails(125).contains("could not select device driver \"\" with capabilities: [[gpu]]"));
}
