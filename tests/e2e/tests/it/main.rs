//! End-to-end tests. Each starts its own daemon in its own network namespace and leaves nothing behind.

mod bad_input;
mod build;
mod buildx;
mod checkpoint;
mod clients;
mod crash;
mod devices;
mod files;
mod firewall;
mod hostile;
mod hosts;
mod images;
mod isolation;
mod lifecycle;
mod links;
mod logs;
mod network;
mod operation;
mod registry;
mod rootless;
mod runtimes;
mod soak;
mod streams;
mod system;
mod users;
mod volumes;
