//! `linux.netDevices`: network devices of the runtime's namespace that a container gets.
//!
//! The creator does it when the container's namespace exists and its process waits to be let go. A device goes by one
//! message, with its new name; the kernel takes its addresses away on the move, so they are read before and set again
//! inside. Giving a device back is the kernel's business: a physical one returns when the namespace ends.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use corten_sys::netlink::{Family, Socket};
use corten_sys::netns;
use corten_wire::oci_runtime::NetDevice;
use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use crate::fault::StepError;

/// The kernel's limit, without the NUL byte.
const MAX_NAME: usize = 15;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;

const LINK_NAME: u16 = 3;
const LINK_NAMESPACE: u16 = 28;
const ADDRESS_LABEL: u16 = 3;
const ADDRESS_CACHE: u16 = 6;
const PERMANENT: u8 = 0x80;
const HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;

/// Says before anything is made what the kernel would not take.
pub(super) fn check(wanted: &BTreeMap<String, NetDevice>, own_network: bool) -> Result<(), StepError> {
    let wrong = |text: String| Err(StepError::new("netdevice", text));
    if !wanted.is_empty() && !own_network {
        return wrong("unable to move network devices without a NET namespace".to_owned());
    }
    let mut seen = std::collections::HashSet::new();
    for (name, device) in wanted {
        let inside = if device.name.is_empty() { name } else { &device.name };
        for name in [name, inside] {
            let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0';
            if name.is_empty()
                || name.len() > MAX_NAME
                || matches!(name.as_str(), "." | "..")
                || name.contains(bad)
            {
                return wrong(format!("invalid network device name: {name}"));
            }
        }
        if !seen.insert(inside) {
            return wrong(format!("two network devices are to have the name {inside}"));
        }
    }
    Ok(())
}

/// Moves the devices into `target`.
pub(super) fn give(wanted: &BTreeMap<String, NetDevice>, target: BorrowedFd<'_>) -> Result<(), StepError> {
    for (name, device) in wanted {
        let inside = if device.name.is_empty() { name } else { &device.name };
        move_one(name, inside, target)
            .map_err(|e| StepError::os("netdevice", format!("move network device {name}"), &e))?;
    }
    Ok(())
}

fn index_of(name: &str) -> io::Result<u32> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(netdevice::name_to_index(any, name)?)
}

fn move_one(name: &str, inside: &str, target: BorrowedFd<'_>) -> io::Result<()> {
    let here = Socket::open(Family::Route)?;
    let index = index_of(name)?;
    let addresses = addresses(&here, index)?;
    let mut change = link(index, false);
    attribute(&mut change, LINK_NAMESPACE, &target.as_raw_fd().to_ne_bytes());
    attribute(&mut change, LINK_NAME, &[inside.as_bytes(), b"\0"].concat());
    ask(&here, NEW_LINK, ACK, &change, |_| {})?;
    netns::run_in(target.as_fd(), || {
        let there = Socket::open(Family::Route)?;
        let index = index_of(inside)?;
        for mut address in addresses {
            address[4..ADDRESS_HEADER].copy_from_slice(&index.to_ne_bytes());
            ask(&there, NEW_ADDRESS, ACK | CREATE, &address, |_| {})?;
        }
        ask(&there, NEW_LINK, ACK, &link(index, true), |_| {})
    })
}

/// `struct ifinfomsg`, to change nothing or to switch the device on.
fn link(index: u32, up: bool) -> Vec<u8> {
    let flags = u32::from(up);
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), flags.to_ne_bytes()].concat()
}

/// The permanent addresses of global scope, as messages that set them.
fn addresses(socket: &Socket, index: u32) -> io::Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    ask(socket, GET_ADDRESS, DUMP, &[0; ADDRESS_HEADER], |body| {
        let Some((&[family, prefix, flags, scope, a, b, c, d], rest)) = body.split_first_chunk() else {
            return;
        };
        if u32::from_ne_bytes([a, b, c, d]) != index || scope != 0 || flags & PERMANENT == 0 {
            return;
        }
        let mut message = vec![family, prefix, flags, scope, a, b, c, d];
        for (kind, value) in attributes(rest) {
            // A label begins with the name of the device, which may change; times are for those that are not permanent.
            if !matches!(kind, ADDRESS_LABEL | ADDRESS_CACHE) {
                attribute(&mut message, kind, value);
            }
        }
        all.push(message);
    })?;
    Ok(all)
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (&[a, b, c, d], _) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]), value))
    })
}

/// Sends a request and reads what is answered until the end: of a dump, or the acknowledgement.
fn ask(socket: &Socket, kind: u16, flags: u16, body: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let length = u32::try_from(HEADER + body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(body);
    socket.send(&message)?;
    let mut buffer = Vec::new();
    loop {
        socket.receive(&mut buffer)?;
        let mut rest = buffer.as_slice();
        while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let Some(body) = rest.get(HEADER..length) else { return Err(io::ErrorKind::InvalidData.into()) };
            match u16::from_ne_bytes([header[4], header[5]]) {
                DONE => return Ok(()),
                ERROR => {
                    let code = body.first_chunk().map_or(0, |c| i32::from_ne_bytes(*c));
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => each(body),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_not_take() {
        let check = |pairs: &[(&str, &str)], own| {
            let device = |name: &str| NetDevice { name: name.to_owned() };
            let all = pairs.iter().map(|(n, inside)| ((*n).to_owned(), device(inside))).collect();
            super::check(&all, own).map_err(|e| e.text)
        };
        assert_eq!(check(&[], false), Ok(()));
        assert_eq!(check(&[("eth7", ""), ("eth8", "eth0")], true), Ok(()));
        for bad in
            [&[("eth7", "a/b")][..], &[("sixteencharacter", "")], &[("a", "c"), ("b", "c")], &[("", "")]]
        {
            assert!(check(bad, true).is_err(), "{bad:?}");
        }
        assert!(check(&[("eth7", "")], false).is_err());
    }

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let mut message = Vec::new();
        attribute(&mut message, 1, b"abc");
        attribute(&mut message, 2, b"");
        assert_eq!(attributes(&message).collect::<Vec<_>>(), [(1, &b"abc"[..]), (2, &b""[..])]);
        assert_eq!(attributes(&message[..5]).count(), 0);
    }
}
