//! Networks between three hosts: who reaches whom, and what each sees of the other.

mod drivers;
mod firewalls;
mod isolation;
mod names;
mod ports;
