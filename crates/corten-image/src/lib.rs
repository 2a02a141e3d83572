//! Content store, snapshots, pull, push, load, save, import, commit.
