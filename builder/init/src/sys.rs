//! The system calls that std and rustix have no safe function for, or whose errors need words: the only place with
//! `unsafe`.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::ioctl::{Setter, ioctl};
use rustix::mount::MountFlags;
use rustix::process::{WaitOptions, waitpid};
use socket2::{Domain, MaybeUninitSlice, MsgHdrMut, Protocol, SockAddr, SockAddrStorage, SockRef, Socket, Type};

use crate::error::{Error, Result};

/// `LOOP_CTL_GET_FREE` of `<linux/loop.h>`.
const LOOP_CTL_GET_FREE: rustix::ioctl::Opcode = 0x4C82;
/// `LOOP_CONFIGURE`, Linux 5.8.
const LOOP_CONFIGURE: rustix::ioctl::Opcode = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232);
const _: () = assert!(size_of::<LoopConfig>() == 304);

/// Puts a file behind a read-only loop device, which lets go of it when its last user is gone.
///
/// # Errors
///
/// [`Error::Loop`] when there is no free device or the kernel does not want the file.
pub fn attach_loop(path: &Path) -> Result<(PathBuf, File)> {
    let failed = |what: &'static str| move |source: io::Error| Error::Loop { file: path.to_path_buf(), what, source };
    let file = File::open(path).map_err(failed("open the file"))?;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")
        .map_err(failed("open /dev/loop-control"))?;
    for _ in 0..16 {
        let number = free_loop(&control).map_err(failed("LOOP_CTL_GET_FREE"))?;
        let device = PathBuf::from(format!("/dev/loop{number}"));
        let loop_file = OpenOptions::new().read(true).open(&device).map_err(failed("open the loop device"))?;
        let mut file_name = [0; 64];
        let name = path.as_os_str().as_encoded_bytes();
        for (to, from) in file_name.iter_mut().zip(name.iter().take(63)) {
            *to = *from;
        }
        let config = LoopConfig {
            fd: u32::try_from(file.as_raw_fd()).unwrap_or(u32::MAX),
            block_size: 0,
            info: LoopInfo {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: 0,
                size_limit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
                file_name,
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, whose layout is asserted above, and keeps no pointer.
        let done = unsafe { ioctl(&loop_file, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) };
        match done {
            Ok(()) => return Ok((device, loop_file)),
            // Somebody else took it between the two calls.
            Err(rustix::io::Errno::BUSY) => {}
            Err(e) => return Err(failed("LOOP_CONFIGURE")(e.into())),
        }
    }
    Err(failed("find a free loop device")(rustix::io::Errno::BUSY.into()))
}

/// An ioctl whose result is what it returns.
struct GetFree;

// SAFETY: LOOP_CTL_GET_FREE takes no argument and writes nothing; the number is the return value.
unsafe impl rustix::ioctl::Ioctl for GetFree {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> rustix::ioctl::Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut core::ffi::c_void {
        core::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        out: rustix::ioctl::IoctlOutput,
        _: *mut core::ffi::c_void,
    ) -> rustix::io::Result<Self::Output> {
        Ok(out)
    }
}

fn free_loop(control: &File) -> io::Result<i32> {
    // SAFETY: see `GetFree`.
    Ok(unsafe { ioctl(control, GetFree) }?)
}

/// `RNDADDENTROPY` of `<linux/random.h>`: `_IOW('R', 0x03, int [2])`.
const RNDADDENTROPY: rustix::ioctl::Opcode = 0x4008_5203;

/// `struct rand_pool_info`, with room for one seed.
#[repr(C)]
#[derive(Clone, Copy)]
struct PoolInfo {
    entropy_count: i32,
    buf_size: i32,
    buf: [u8; 64],
}

const _: () = assert!(size_of::<PoolInfo>() == 72);

/// Gives the kernel's random number generator a seed of which so many bits count.
///
/// # Errors
///
/// Whatever the kernel says.
pub fn add_entropy(seed: &[u8; 64], bits: u32) -> io::Result<()> {
    let random = OpenOptions::new().write(true).open("/dev/random")?;
    let entropy_count = i32::try_from(bits).unwrap_or_default();
    let pool = PoolInfo { entropy_count, buf_size: 64, buf: *seed };
    // SAFETY: RNDADDENTROPY reads two ints and `buf_size` bytes after them, which is the whole of `PoolInfo`, and keeps no
    // pointer.
    Ok(unsafe { ioctl(&random, Setter::<RNDADDENTROPY, PoolInfo>::new(pool)) }?)
}

/// Makes a child see `root` as its root folder, and stand in it.
pub fn chroot_child(command: &mut Command, root: &Path) {
    let root = root.to_path_buf();
    // SAFETY: between fork and exec only chroot(2) and chdir(2) are called: no allocation but of what rustix needs for
    // short paths on the stack, no lock.
    unsafe {
        command.pre_exec(move || {
            rustix::process::chroot(&root)?;
            rustix::process::chdir("/")?;
            Ok(())
        });
    }
}

/// Makes a child lead a session of its own whose terminal is its standard input, so that Ctrl-C reaches what it runs;
/// `root` is what it sees as its root folder.
pub fn session_child(command: &mut Command, root: Option<&Path>) {
    if let Some(root) = root {
        chroot_child(command, root);
    }
    // SAFETY: between fork and exec only setsid(2) and ioctl(2) are called: no allocation, no lock. Descriptor 0 is the
    // standard input that the command was given.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            // Without a terminal of its own a shell works too, but for Ctrl-C.
            let _ = rustix::process::ioctl_tiocsctty(BorrowedFd::borrow_raw(0));
            Ok(())
        });
    }
}

/// Mounts a file system.
///
/// # Errors
///
/// [`Error::Mount`] with everything that was asked for.
pub fn mount(source: &str, target: &Path, fstype: &str, flags: MountFlags, options: &str) -> Result<()> {
    let data = CString::new(options).map_err(|e| mount_error(source, target, fstype, options, e.into()))?;
    rustix::mount::mount(source, target, fstype, flags, data.as_c_str())
        .map_err(|e| mount_error(source, target, fstype, options, e.into()))
}

/// Moves a mount with everything below it.
///
/// # Errors
///
/// [`Error::Mount`].
pub fn move_mount(source: &Path, target: &Path) -> Result<()> {
    rustix::mount::mount_move(source, target)
        .map_err(|e| mount_error(&source.to_string_lossy(), target, "move", "", e.into()))
}

fn mount_error(source: &str, target: &Path, fstype: &str, options: &str, error: io::Error) -> Error {
    Error::Mount {
        from: source.to_owned(),
        target: target.to_path_buf(),
        fstype: fstype.to_owned(),
        options: options.to_owned(),
        source: error,
    }
}

/// Loads a module; one that is there already is fine.
///
/// # Errors
///
/// Whatever the kernel says, untranslated.
pub fn load_module(path: &Path, parameters: &str) -> io::Result<()> {
    let file = File::open(path)?;
    let parameters = CString::new(parameters)?;
    match rustix::system::finit_module(&file, &parameters, 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// `struct sockaddr_ll`.
#[repr(C)]
struct PacketAddress {
    family: u16,
    /// In network byte order.
    protocol: u16,
    index: i32,
    hardware_type: u16,
    packet_type: u8,
    address_length: u8,
    address: [u8; 8],
}

const _: () = assert!(size_of::<PacketAddress>() == 20);
const AF_PACKET: u16 = 17;
/// The Ethernet type of IPv4.
pub const ETH_P_IP: u16 = 0x0800;
/// That of ARP.
pub const ETH_P_ARP: u16 = 0x0806;

/// A socket that sees every packet of a protocol arriving on the interface with this number, without its Ethernet header.
///
/// # Errors
///
/// The kernel's.
pub fn packet_socket(index: u32, protocol: u16) -> io::Result<Socket> {
    // Protocol 0: nothing arrives before it is bound.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))?;
    socket.bind(&packet_address(index, protocol, &[])?)?;
    Ok(socket)
}

/// Everybody on the network of the interface with this number, as whom to send a packet of a protocol to.
///
/// # Errors
///
/// When that is no interface's number.
pub fn broadcast_address(index: u32, protocol: u16) -> io::Result<SockAddr> {
    packet_address(index, protocol, &[0xff; 6])
}

fn packet_address(index: u32, protocol: u16, hardware: &[u8]) -> io::Result<SockAddr> {
    let mut address = [0; 8];
    for (to, from) in address.iter_mut().zip(hardware) {
        *to = *from;
    }
    let address = PacketAddress {
        family: AF_PACKET,
        protocol: protocol.to_be(),
        index: i32::try_from(index).map_err(io::Error::other)?,
        hardware_type: 0,
        packet_type: 0,
        address_length: u8::try_from(hardware.len()).map_err(io::Error::other)?,
        address,
    };
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `PacketAddress` is the platform's `sockaddr_ll`, 20 bytes of integers, and fits into the storage.
    Ok(unsafe {
        *storage.view_as::<PacketAddress>() = address;
        SockAddr::new(storage, 20)
    })
}

/// `IPPROTO_IPV6` and `IPV6_HOPLIMIT`.
const HOP_LIMIT: (i32, i32) = (41, 52);

/// A message that came over IPv6.
#[derive(Debug)]
pub struct Message {
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Who sent it.
    pub from: Ipv6Addr,
    /// The hop limit that it arrived with; known where the socket was told to ask for it (`IPV6_RECVHOPLIMIT`).
    pub hop_limit: Option<i32>,
}

/// Receives a message of at most 2048 bytes, with its hop limit.
///
/// # Errors
///
/// The kernel's, the socket's timeout among them.
pub fn receive_message(socket: &UdpSocket) -> io::Result<Message> {
    let mut from = SockAddr::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
    let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
    let mut control = [MaybeUninit::<u8>::uninit(); 64];
    let mut slices = [MaybeUninitSlice::new(&mut buffer)];
    let mut header = MsgHdrMut::new().with_addr(&mut from).with_buffers(&mut slices).with_control(&mut control);
    let length = SockRef::from(socket).recvmsg(&mut header, 0)?;
    let control_length = header.control_len();
    // SAFETY: the kernel has written so many bytes from the beginning of each buffer on; without MSG_TRUNC it does not say
    // more than it has written.
    let (bytes, control) = unsafe {
        (
            std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length.min(buffer.len())).to_vec(),
            std::slice::from_raw_parts(control.as_ptr().cast::<u8>(), control_length.min(control.len())),
        )
    };
    let from = from.as_socket_ipv6().map_or(Ipv6Addr::UNSPECIFIED, |from| *from.ip());
    Ok(Message { bytes, from, hop_limit: hop_limit(control) })
}

/// Reads `struct cmsghdr` (length, level, type) and the number behind it.
fn hop_limit(control: &[u8]) -> Option<i32> {
    const LENGTH: usize = size_of::<usize>();
    let number = |at: usize| Some(i32::from_ne_bytes(control.get(at..at + 4)?.try_into().ok()?));
    let kind = (number(LENGTH)?, number(LENGTH + 4)?);
    if kind == HOP_LIMIT { number(LENGTH + 8) } else { None }
}

/// Buries children that nobody waits for: those of hooks, which PID 1 inherits.
pub fn reap_orphans() {
    while let Ok(Some(_)) = waitpid(None, WaitOptions::NOHANG) {}
}
