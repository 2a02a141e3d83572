//! Containers, execs, volumes, networks, events.
