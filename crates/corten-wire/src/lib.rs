//! Types that cross a process or disk-format boundary.
