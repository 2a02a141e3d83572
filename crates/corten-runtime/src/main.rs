//! The program `corten-runtime`: shim, OCI command line, in-container init.

fn main() {}
