//! Datagrams over IPv6 together with the address of this host that they came to, so that answers can leave from it.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for one address in control messages, aligned as they must be.
#[repr(C)]
#[derive(Clone, Copy)]
union Control {
    _align: libc::cmsghdr,
    bytes: [u8; 64],
}

/// Has the kernel tell where each datagram came to.
///
/// # Errors
/// Those of setsockopt(2).
pub fn tell_destination(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is borrowed for the call; the option takes an int, which is what is pointed to.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_RECVPKTINFO,
            (&raw const on).cast(),
            length(size_of::<libc::c_int>()),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn length(size: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(size).expect("sizes of address structures are small")
}

/// A message of one buffer and one control message; the pointers must outlive its use.
fn message(
    name: &mut libc::sockaddr_in6,
    part: &mut libc::iovec,
    control: &mut Control,
    control_size: usize,
) -> libc::msghdr {
    // SAFETY: all zeros is a valid msghdr: null pointers and lengths of nothing.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_name = (&raw mut *name).cast();
    header.msg_namelen = length(size_of::<libc::sockaddr_in6>());
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut *control).cast();
    header.msg_controllen = control_size;
    header
}

fn no_address() -> libc::sockaddr_in6 {
    // SAFETY: all zeros is a valid sockaddr_in6: no family, no address.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// The next datagram: its length, who sent it, and the address it came to (where [`tell_destination`] was called).
///
/// # Errors
/// Those of recvmsg(2), `WouldBlock` among them.
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddrV6, Option<Ipv6Addr>)> {
    let mut name = no_address();
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = Control { bytes: [0; 64] };
    let mut header = message(&mut name, &mut part, &mut control, size_of::<Control>());
    // SAFETY: the header points to an address, a buffer and control space that are valid for writing in the lengths
    // it gives, and live until the end of this function.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let from = SocketAddrV6::new(
        Ipv6Addr::from(name.sin6_addr.s6_addr),
        u16::from_be(name.sin6_port),
        0,
        name.sin6_scope_id,
    );
    let mut local = None;
    // SAFETY: the header is as the kernel left it: its control length says how much of the space is filled.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !at.is_null() {
        // SAFETY: not null, so that a whole cmsghdr is within the space that the kernel filled.
        let one = unsafe { at.read_unaligned() };
        if (one.cmsg_level, one.cmsg_type) == (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) {
            // SAFETY: a message of this type carries an in6_pktinfo; read_unaligned asks for no alignment.
            let info = unsafe { libc::CMSG_DATA(at).cast::<libc::in6_pktinfo>().read_unaligned() };
            local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
        }
        // SAFETY: as for the first one; null when there is no more.
        at = unsafe { libc::CMSG_NXTHDR(&raw const header, at) };
    }
    Ok((received, from, local))
}

/// Sends a datagram from this address of the host; from the one that routes choose if there is none.
///
/// # Errors
/// Those of sendmsg(2), `WouldBlock` among them.
pub fn send(socket: BorrowedFd<'_>, data: &[u8], to: SocketAddrV6, from: Option<Ipv6Addr>) -> io::Result<()> {
    let mut name = no_address();
    name.sin6_family = libc::sa_family_t::try_from(libc::AF_INET6).expect("a small number");
    name.sin6_port = to.port().to_be();
    name.sin6_addr.s6_addr = to.ip().octets();
    name.sin6_scope_id = to.scope_id();
    // sendmsg does not write to the buffer.
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let mut control = Control { bytes: [0; 64] };
    let size = u32::try_from(size_of::<libc::in6_pktinfo>()).expect("a small structure");
    // SAFETY: pure arithmetic.
    let (space, filled) = unsafe { (libc::CMSG_SPACE(size), libc::CMSG_LEN(size)) };
    let mut header = message(&mut name, &mut part, &mut control, space as usize);
    match from {
        None => header.msg_controllen = 0,
        Some(from) => {
            let info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 };
            // SAFETY: the control space is 64 bytes, aligned for a cmsghdr, and the message of 20 + 16 bytes fits:
            // the first header is not null, and its data has room for the structure.
            unsafe {
                let first = libc::CMSG_FIRSTHDR(&raw const header);
                (*first).cmsg_level = libc::IPPROTO_IPV6;
                (*first).cmsg_type = libc::IPV6_PKTINFO;
                (*first).cmsg_len = filled as usize;
                libc::CMSG_DATA(first).cast::<libc::in6_pktinfo>().write_unaligned(info);
            }
        }
    }
    // SAFETY: the header points to an address, data and control space that are valid for reading in the lengths it
    // gives, and live until the end of this function.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_leaves_from_where_the_question_came() {
        let Ok(server) = UdpSocket::bind("[::]:0") else { return };
        tell_destination(server.as_fd()).unwrap();
        let to = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), server.local_addr().unwrap().port());
        let client = UdpSocket::bind("[::1]:0").unwrap();
        client.connect(to).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.send(b"question").unwrap();
        let mut buffer = [0; 32];
        let (length, from, local) = loop {
            match receive(server.as_fd(), &mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                other => break other.unwrap(),
            }
        };
        assert_eq!((&buffer[..length], local), (&b"question"[..], Some(Ipv6Addr::LOCALHOST)));
        send(server.as_fd(), b"answer", from, local).unwrap();
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"answer");
    }
}
