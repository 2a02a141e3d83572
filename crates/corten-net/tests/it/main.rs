//! Real bridges, real packet filter, real connections: each test in namespaces of its own, nothing left behind.

mod bench;
mod dns;
mod networks;
mod ports;
mod world;
