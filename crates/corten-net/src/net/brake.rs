//! Bandwidth limits: queues of the kernel at a container's link, on the host's side, where the container cannot undo
//! them.
//!
//! ```text
//! to the container      bridge ──▶ veth… [token bucket] ──▶ eth0
//! from the container    eth0 ──▶ veth… [ingress: redirect] ──▶ ifb… [token bucket] ──▶ back to veth…, bridge
//! ```

use std::io;

use super::{Inner, lock};
use crate::endpoint::{EndpointRecord, Rates};
use crate::route::{Changes, Rtnetlink, is_absent};

impl Inner {
    /// Makes the endpoint's link as fast as `rates` says, whatever it was before.
    pub(super) fn limit(&self, record: &EndpointRecord, rates: Rates) -> io::Result<()> {
        let mut host = lock(&self.host);
        let link = host.link(&record.host_link)?.ok_or(io::ErrorKind::NotFound)?.index;
        let mut changes = Changes::default();
        match rates.inward {
            0 => changes.no_queue(link),
            rate => changes.set_token_bucket(link, rate),
        }
        absent_is_fine(rates.inward == 0, host.apply(changes))?;
        let brake = record.brake_link();
        if rates.outward == 0 {
            let mut changes = Changes::default();
            changes.no_ingress(link);
            absent_is_fine(true, host.apply(changes))?;
            return match host.link(&brake)? {
                None => Ok(()),
                Some(found) => {
                    let mut changes = Changes::default();
                    changes.delete_link(found.index);
                    absent_is_fine(true, host.apply(changes))
                }
            };
        }
        let index = self.brake(&mut host, &brake)?;
        let mut changes = Changes::default();
        changes.set_token_bucket(index, rates.outward);
        host.apply(changes)?;
        if record.rates.outward == 0 || !host.has_ingress(link)? {
            let mut changes = Changes::default();
            changes.redirect_ingress(link, index);
            host.apply(changes)?;
        }
        Ok(())
    }

    fn brake(&self, host: &mut Rtnetlink, name: &str) -> io::Result<u32> {
        if let Some(found) = host.link(name)? {
            return Ok(found.index);
        }
        let mut changes = Changes::default();
        changes.add_ifb(name);
        changes.set_alias(name, &self.mark());
        host.apply(changes)?;
        Ok(host.link(name)?.ok_or(io::ErrorKind::NotFound)?.index)
    }
}

fn absent_is_fine(fine: bool, outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        // EINVAL: the queue is the one that every link has.
        Err(error) if fine && (is_absent(&error) || error.raw_os_error() == Some(22)) => Ok(()),
        other => other,
    }
}
