//! The program `corten`: dispatches to the daemon or the command line.

fn main() {}
