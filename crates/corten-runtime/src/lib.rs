//! OCI runtime and shim.
