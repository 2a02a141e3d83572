//! Snapshots on a real overlay.
