//! The shim: one small process per container.

mod log;
