//! Images: list, tag, save, load, remove.

use corten_testkit::{Client, Daemon};

#[test]
fn save_and_load_keep_the_id() {
    let daemon = Daemon::start();
    let id = daemon.docker(["inspect", "-f", "{{.Id}}", "busybox"]).ok();
    let dir = tempfile::tempdir().unwrap();
    for client in [Client::Docker, Client::Corten] {
        let tar = dir.path().join(format!("{client:?}.tar")).display().to_string();
        daemon.run_with(client, ["save", "-o", &tar, "busybox:latest"], b"").ok();
        daemon.run_with(client, ["rmi", "busybox"], b"").ok();
        assert_eq!(daemon.docker(["images", "-q"]).ok(), "");
        assert!(
            daemon.run_with(client, ["load", "-i", &tar], b"").ok().contains("Loaded image: busybox:latest")
        );
        assert_eq!(daemon.docker(["inspect", "-f", "{{.Id}}", "busybox"]).ok(), id, "{client:?}");
    }
    assert_eq!(daemon.docker(["run", "--rm", "busybox", "echo", "alive"]).ok(), "alive");
}

#[test]
fn tags_and_removal() {
    let daemon = Daemon::start();
    daemon.docker(["tag", "busybox", "me/copy:2"]).ok();
    let listed = daemon.corten(["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok();
    assert!(listed.contains("me/copy:2") && listed.contains("busybox:latest"), "{listed}");
    daemon.docker(["create", "--name", "user", "busybox", "true"]).ok();
    daemon.docker(["rmi", "me/copy:2"]).ok();
    let refused = daemon.docker(["rmi", "no-such-image"]).fails(1);
    assert!(refused.contains("No such image: no-such-image"), "{refused}");
    assert!(daemon.docker(["history", "busybox"]).ok().contains("Imported from -"));
}
