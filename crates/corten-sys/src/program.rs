//! The program that this process runs, as others see it: the file that `/proc/self/exe` leads to and that the pages of
//! its code come from.
//!
//! A container that gets hold of that file and may write to it has the host (CVE-2019-5736). [`become_of`] makes the
//! process forget its file for one with the same content that cannot be written to. Others start a second time from
//! such a file; that costs them the start of a process, most of it spent in the C library asking the processor what it
//! is, which in a virtual machine is answered by the hypervisor.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};

use crate::mount::{self, Change, attr};
use crate::process::check;

const OWN: &str = "/proc/self/exe";

/// Whether nobody can write to the file of our program through us: it is a sealed copy in memory, or on a mount that
/// is read-only.
#[must_use]
pub fn is_protected() -> bool {
    let read_only = rustix::fs::statvfs(OWN).is_ok_and(|s| s.f_flag.contains(StatVfsMountFlags::RDONLY));
    let sealed =
        || std::fs::read_link(OWN).is_ok_and(|p| p.as_os_str().as_encoded_bytes().starts_with(b"/memfd:"));
    read_only || sealed()
}

/// A mount of our program's file alone that is read-only and in no mount namespace, and the file opened through it.
///
/// A process that runs or maps the file knows the mount, but whoever comes to it that way can write nothing: nobody can
/// attach the mount, copy it or change its properties, because each of these wants a mount of the caller's own
/// namespace. That is so for all capabilities, once the mount has ended.
///
/// It ends with the last descriptor of it, and the kernel makes whoever closes that wait for all processors (a
/// hundred milliseconds on a busy machine), unless it was attached in a mount namespace and unmounted there, with the
/// rest of what is not wanted there any more.
#[derive(Debug)]
pub struct ReadOnly {
    /// The mount, to be attached over a file.
    pub mount: OwnedFd,
    /// The file.
    pub file: OwnedFd,
}

impl ReadOnly {
    /// Makes one.
    ///
    /// LINUX 5.12: `mount_setattr`.
    ///
    /// # Errors
    /// Those of open_tree(2) and mount_setattr(2): `EPERM` for those who may not mount, `EINVAL` where the file is in
    /// another mount namespace.
    pub fn of_own() -> io::Result<Self> {
        let mount = mount::bind(OWN, false)?;
        mount::change(mount.as_fd(), Change { set: attr::RDONLY, ..Change::default() }, false)?;
        // The descriptor of a mount is a place; to be mapped, the file must be open.
        let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { mount, file })
    }
}

/// A copy of our program in memory that is sealed.
///
/// # Errors
/// Those of reading the program and of memfd_create(2).
pub fn sealed_copy(name: &str) -> io::Result<OwnedFd> {
    crate::memfd::sealed_program(name, &mut std::fs::File::open(OWN)?)
}

/// Makes this process one that was started from `file`, which must have the content of its program: its code is mapped
/// from there in place, its data becomes memory of its own, and `/proc/self/exe` leads there. Nothing is copied but the
/// data, and no program is started.
///
/// To be called by a process with one thread.
///
/// # Errors
/// Those of mmap(2) and of `PR_SET_MM_MAP`: `EPERM` without `CAP_SYS_ADMIN` or `CAP_CHECKPOINT_RESTORE` in its user
/// namespace, `EINVAL` for a kernel without checkpoints, `EBUSY` if the old file is mapped otherwise, which includes
/// the loader of a program that is not static. The process works on as before then, and [`is_protected`] says no.
pub fn become_of(file: BorrowedFd<'_>) -> io::Result<()> {
    let layout = Layout::read()?;
    let mut wanted = Move { file: file.as_raw_fd(), error: None };
    // SAFETY: the callback has the type that is wanted, its data is a `Move` that lives during the call, and it does
    // not unwind.
    unsafe { libc::dl_iterate_phdr(Some(map_again), (&raw mut wanted).cast()) };
    match wanted.error {
        Some(error) => Err(error),
        None => layout.announce(file),
    }
}

struct Move {
    file: c_int,
    error: Option<io::Error>,
}

/// Maps the segments of the first object, which is the program, again.
unsafe extern "C" fn map_again(object: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
    // SAFETY: dl_iterate_phdr(3) passes a valid object, whose headers are an array of that length, and our own data.
    let (object, headers, wanted) = unsafe {
        let object = &*object;
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum));
        (object, headers, &mut *data.cast::<Move>())
    };
    let page = rustix::param::page_size() as u64;
    let down = |address: u64| address & !(page - 1);
    let base = object.dlpi_addr;
    let pages = |address: u64, length: u64| {
        let first = down(base + address);
        (first as *mut c_void, (down(base + address + length + page - 1) - first) as usize)
    };
    let constant_later =
        headers.iter().find(|h| h.p_type == libc::PT_GNU_RELRO).map(|h| pages(h.p_vaddr, h.p_memsz));
    for segment in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_filesz > 0) {
        let (at, length) = pages(segment.p_vaddr, segment.p_filesz);
        let mapped = if segment.p_flags & libc::PF_W == 0 {
            // SAFETY: these pages show the same part of a file with the same content, which nobody can write to while it
            // is executed; the kernel exchanges the mapping as one step, so that even the code that runs here goes on.
            unsafe { from_file(at, length, segment, wanted.file, down(segment.p_offset)) }
        } else {
            // SAFETY: as above for what has been written to, with one thread; only system calls are made between the
            // copy and the exchange, so that the copy stays equal.
            unsafe { from_copy(at, length, constant_later) }
        };
        if let Err(e) = mapped {
            wanted.error = Some(e);
            return 1;
        }
    }
    1
}

/// SAFETY: see the caller.
unsafe fn from_file(
    at: *mut c_void,
    length: usize,
    segment: &libc::Elf64_Phdr,
    file: c_int,
    offset: u64,
) -> io::Result<()> {
    let bit = |flag, protection| if segment.p_flags & flag == 0 { 0 } else { protection };
    let protection = bit(libc::PF_R, libc::PROT_READ) | bit(libc::PF_X, libc::PROT_EXEC);
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    // SAFETY: the caller's.
    let mapped = unsafe { libc::mmap(at, length, protection, flags, file, offset as libc::off_t) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// SAFETY: see the caller.
unsafe fn from_copy(
    at: *mut c_void,
    length: usize,
    constant_later: Option<(*mut c_void, usize)>,
) -> io::Result<()> {
    let (writable, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: new memory, of the length that is copied, and no reference to it outlives this function.
    unsafe {
        let copy = libc::mmap(std::ptr::null_mut(), length, writable, flags, -1, 0);
        if copy == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        std::ptr::copy_nonoverlapping(at.cast::<u8>(), copy.cast::<u8>(), length);
        if libc::mremap(copy, length, length, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, at)
            == libc::MAP_FAILED
        {
            let error = io::Error::last_os_error();
            libc::munmap(copy, length);
            return Err(error);
        }
    }
    if let Some((constant, size)) =
        constant_later.filter(|(c, _)| (at..at.wrapping_byte_add(length)).contains(c))
    {
        // SAFETY: what the linker says is constant once the program has started.
        check(unsafe { libc::mprotect(constant, size, libc::PROT_READ) }.into())?;
    }
    Ok(())
}

/// `struct prctl_mm_map` of `linux/prctl.h`, without the auxiliary vector.
#[repr(C)]
#[derive(Debug, Default)]
struct Layout {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

impl Layout {
    /// Where the kernel has our parts, from `/proc/self/stat` (proc_pid_stat(5)).
    fn read() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/self/stat")?;
        // The name may contain anything; after it comes the third field.
        let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let fields: Vec<u64> = rest.split(' ').map(|f| f.trim().parse().unwrap_or(0)).collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
        // SAFETY: asks where the heap ends, without moving it.
        let brk = unsafe { libc::sbrk(0) } as u64;
        Ok(Self {
            start_code: field(26),
            end_code: field(27),
            start_stack: field(28),
            start_data: field(45),
            end_data: field(46),
            start_brk: field(47),
            brk,
            arg_start: field(48),
            arg_end: field(49),
            env_start: field(50),
            env_end: field(51),
            ..Self::default()
        })
    }

    /// Sets the file of the program, which the kernel takes only together with the rest.
    fn announce(self, file: BorrowedFd<'_>) -> io::Result<()> {
        let map = Self { exe_fd: file.as_raw_fd() as u32, ..self };
        // SAFETY: the struct is as the kernel defines it, lives during the call, and its size is given.
        let result = unsafe {
            libc::prctl(
                libc::PR_SET_MM,
                libc::PR_SET_MM_MAP as libc::c_ulong,
                &raw const map,
                std::mem::size_of::<Self>() as libc::c_ulong,
                0 as libc::c_ulong,
            )
        };
        check(result.into())?;
        Ok(())
    }
}
