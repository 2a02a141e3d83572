//! Host networking by netlink and nftables.
