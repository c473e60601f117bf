//! The calls of Winsock that neither the standard library nor `socket2` has.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::net::SocketAddr;
use std::os::windows::io::{AsRawHandle, AsRawSocket, FromRawSocket, IntoRawSocket};
use std::ptr::{NonNull, null, null_mut};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use windows_sys::Win32::Foundation::{HANDLE, STATUS_PENDING};
use windows_sys::Win32::Networking::WinSock::{
    LPFN_ACCEPTEX, LPFN_CONNECTEX, LPFN_GETACCEPTEXSOCKADDRS, LPFN_TRANSMITFILE, MSG_PEEK,
    SIO_GET_EXTENSION_FUNCTION_POINTER, SIO_UDP_CONNRESET, SIO_UDP_NETRESET, SO_ACCEPTCONN,
    SO_EXCLUSIVEADDRUSE, SO_UPDATE_ACCEPT_CONTEXT, SO_UPDATE_CONNECT_CONTEXT, SOCKET, SOL_SOCKET,
    WSA_IO_PENDING, WSABUF, WSAEWOULDBLOCK, WSAGetLastError, WSAID_ACCEPTEX, WSAID_CONNECTEX,
    WSAID_GETACCEPTEXSOCKADDRS, WSAID_TRANSMITFILE, WSAIoctl, WSARecv, WSARecvFrom, WSASend,
    WSASendTo, closesocket, getsockopt, setsockopt,
};
use windows_sys::Win32::System::IO::{CancelIoEx, OVERLAPPED};
use windows_sys::core::GUID;

use super::wine;

/// Bytes that `AcceptEx` wants for each of the two addresses: the largest one and 16 more.
const ADDRESS_ROOM: usize = size_of::<SockAddrStorage>() + 16;

/// Room for both addresses of an accept, aligned for them.
type Addresses = [u64; 2 * ADDRESS_ROOM / size_of::<u64>()];

/// What a call that starts an operation says: started, or the code of its failure. In both cases
/// of success, at once and later, a packet follows.
pub(super) type Started = Result<(), i32>;

/// Memory that the kernel writes to while an operation is pending, at an address of its own. It is
/// reached through raw pointers only, so that no reference ever claims it for us alone.
pub(super) struct KernelMemory<T>(NonNull<T>);

// SAFETY: the owner may free the memory from any thread; it is plain data.
unsafe impl<T: Copy> Send for KernelMemory<T> {}

impl<T: Copy> KernelMemory<T> {
    fn new(value: T) -> Self {
        KernelMemory(NonNull::from(Box::leak(Box::new(value))))
    }

    fn set(&mut self, value: T) {
        // SAFETY: allocated in `new`; operations are not started with a block that the kernel has.
        unsafe { self.0.as_ptr().write(value) };
    }

    fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }
}

impl<T> Drop for KernelMemory<T> {
    fn drop(&mut self) {
        // SAFETY: made from a box in `new`. Whoever drops it knows that the kernel is done: the
        // packet was taken, or the operation never started.
        unsafe { drop(Box::from_raw(self.0.as_ptr())) };
    }
}

/// The block that names one operation to the kernel, and comes back in its packet.
pub(super) struct Block(KernelMemory<OVERLAPPED>);

impl Block {
    pub(super) fn new() -> Self {
        Block(KernelMemory::new(OVERLAPPED::default()))
    }

    /// What a packet's pointer is compared with. It is never made a pointer of again.
    pub(super) fn address(&self) -> usize {
        self.0.address()
    }

    /// Whether the kernel has not reported on the operation. Windows itself leaves the block as it is
    /// until the packet is taken, so this is for Wine.
    fn is_pending(&self) -> bool {
        // SAFETY: the memory is there; whoever else writes to it is not a reference's business.
        let status = unsafe { (&raw const (*self.0.0.as_ptr()).Internal).read_volatile() };
        status == STATUS_PENDING as u32 as usize
    }

    fn clear(&mut self) -> *mut OVERLAPPED {
        self.at(0)
    }

    /// The block for an operation at an offset of a file.
    pub(super) fn at(&mut self, offset: u64) -> *mut OVERLAPPED {
        let mut block = OVERLAPPED::default();
        block.Anonymous.Anonymous.Offset = offset as u32;
        block.Anonymous.Anonymous.OffsetHigh = (offset >> 32) as u32;
        self.0.set(block);
        self.0.0.as_ptr()
    }

    /// To be compared with those of pending operations.
    pub(super) fn pointer(&self) -> *const OVERLAPPED {
        self.0.0.as_ptr()
    }
}

fn raw(socket: &Socket) -> SOCKET {
    socket.as_raw_socket() as SOCKET
}

fn last_error() -> i32 {
    // SAFETY: reads a number of the calling thread's.
    unsafe { WSAGetLastError() }
}

/// What a call that returns 0 for success has started.
fn started(result: i32) -> Started {
    match result {
        0 => Ok(()),
        _ => match last_error() {
            WSA_IO_PENDING => Ok(()),
            code => Err(code),
        },
    }
}

/// A buffer's description. The kernel copies descriptions while the call runs.
pub(super) fn description(bytes: *const u8, length: usize) -> WSABUF {
    WSABUF {
        len: u32::try_from(length).unwrap_or(u32::MAX),
        buf: bytes.cast_mut(),
    }
}

/// Starts a receive.
///
/// # Safety
///
/// The block and the memory described stay where they are, and are not touched, until the packet
/// of this block has been taken, or the call has failed.
pub(super) unsafe fn receive(
    socket: &Socket,
    buffers: &[WSABUF],
    peek: bool,
    block: &mut Block,
) -> Started {
    let mut flags = if peek { MSG_PEEK as u32 } else { 0 };
    // SAFETY: the caller keeps the memory; the count is that of the slice.
    started(unsafe {
        WSARecv(
            raw(socket),
            buffers.as_ptr(),
            buffers.len() as u32,
            null_mut(),
            &mut flags,
            block.clear(),
            None,
        )
    })
}

/// The largest address, in words, so that it is aligned.
const SENDER_WORDS: usize = size_of::<SockAddrStorage>() / size_of::<u64>();

/// Room for what the kernel says of a datagram beside its bytes.
pub(super) struct Sender(KernelMemory<SenderMemory>);

#[repr(C)]
#[derive(Clone, Copy)]
struct SenderMemory {
    /// Zeroes, which are no address, until the kernel has written one.
    address: [u64; SENDER_WORDS],
    length: i32,
    flags: u32,
}

impl SenderMemory {
    fn empty() -> Self {
        SenderMemory {
            address: [0; SENDER_WORDS],
            length: size_of::<SockAddrStorage>() as i32,
            flags: 0,
        }
    }
}

impl Sender {
    pub(super) fn new() -> Self {
        Sender(KernelMemory::new(SenderMemory::empty()))
    }

    /// Who has sent what an operation that has ended received, if it has received anything.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        // SAFETY: allocated in `new`, and the kernel is done with it.
        let memory = unsafe { self.0.0.as_ptr().read() };
        address((&raw const memory.address).cast(), memory.length)
    }
}

/// Starts a receive of a datagram with its sender.
///
/// # Safety
///
/// As for [`receive`]; the sender's memory is the kernel's meanwhile, too.
pub(super) unsafe fn receive_from(
    socket: &Socket,
    buffers: &[WSABUF],
    sender: &mut Sender,
    block: &mut Block,
) -> Started {
    sender.0.set(SenderMemory::empty());
    let memory = sender.0.0.as_ptr();
    // SAFETY: the caller keeps the memory, whose parts have an address of their own; the count is
    // that of the slice.
    started(unsafe {
        WSARecvFrom(
            raw(socket),
            buffers.as_ptr(),
            buffers.len() as u32,
            null_mut(),
            &raw mut (*memory).flags,
            (&raw mut (*memory).address).cast(),
            &raw mut (*memory).length,
            block.clear(),
            None,
        )
    })
}

/// Starts a send of a datagram to an address, which is read while the call runs.
///
/// # Safety
///
/// As for [`receive`].
pub(super) unsafe fn send_to(
    socket: &Socket,
    buffers: &[WSABUF],
    address: &SockAddr,
    block: &mut Block,
) -> Started {
    // SAFETY: the caller keeps the memory; the count is that of the slice.
    started(unsafe {
        WSASendTo(
            raw(socket),
            buffers.as_ptr(),
            buffers.len() as u32,
            null_mut(),
            0,
            address.as_ptr().cast(),
            address.len(),
            block.clear(),
            None,
        )
    })
}

/// Starts a send.
///
/// # Safety
///
/// As for [`receive`].
pub(super) unsafe fn send(socket: &Socket, buffers: &[WSABUF], block: &mut Block) -> Started {
    // SAFETY: the caller keeps the memory; the count is that of the slice.
    started(unsafe {
        WSASend(
            raw(socket),
            buffers.as_ptr(),
            buffers.len() as u32,
            null_mut(),
            0,
            block.clear(),
            None,
        )
    })
}

/// Asks for the end of one operation; nothing happens when it has ended already.
pub(super) fn cancel(socket: &Socket, block: &Block) {
    // SAFETY: the pointer is only compared with those of pending operations.
    let ask = || unsafe { CancelIoEx(raw(socket) as HANDLE, block.pointer()) != 0 };
    if !ask() && wine::runs_us() {
        wine::settle(|| ask() || !block.is_pending());
    }
}

/// Asks for the end of every operation of a socket, whichever thread started it.
pub(super) fn cancel_all(socket: &Socket) {
    // SAFETY: the socket is open.
    unsafe { CancelIoEx(raw(socket) as HANDLE, null()) };
}

/// Closes a socket without a wait. Winsock refuses that (`WSAEWOULDBLOCK`) to one that is non-blocking
/// and lingers, and leaves it open; then what is left to send is left to the system.
pub(super) fn close(socket: Socket) {
    let number = socket.into_raw_socket();
    // SAFETY: nobody else owns the socket.
    if unsafe { closesocket(number as SOCKET) } != 0 && last_error() == WSAEWOULDBLOCK {
        // SAFETY: as above, and it is still open.
        let socket = unsafe { Socket::from_raw_socket(number) };
        // It fails for a connection that is gone, which has nothing to linger for.
        let _ = socket.set_linger(None);
    }
}

/// Sets an option of [`SOL_SOCKET`] to a plain value.
fn set_option<T: Copy>(socket: &Socket, name: i32, value: Option<T>) -> io::Result<()> {
    let (pointer, length) = match &value {
        Some(value) => (std::ptr::from_ref(value).cast(), size_of::<T>() as i32),
        None => (null(), 0),
    };
    // SAFETY: the pointer and the length are those of `value`, which lives on.
    match unsafe { setsockopt(raw(socket), SOL_SOCKET, name, pointer, length) } {
        0 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(last_error())),
    }
}

/// Keeps every other program from binding to the same address, even with `SO_REUSEADDR`.
pub(crate) fn use_address_exclusively(socket: &Socket) -> io::Result<()> {
    set_option(socket, SO_EXCLUSIVEADDRUSE, Some(1_i32))
}

/// Has a datagram socket not fail its receives because what it sent found nobody
/// (`WSAECONNRESET`) or was on its way for too long (`WSAENETRESET`): elsewhere that concerns nobody.
pub(super) fn ignore_undelivered(socket: &Socket) {
    let off = 0_u32;
    let mut bytes = 0;
    for told in [SIO_UDP_CONNRESET, SIO_UDP_NETRESET] {
        // SAFETY: the pointers lead to variables of this function, with their sizes. A system without
        // the option refuses it, and has nothing to be switched off.
        unsafe {
            WSAIoctl(
                raw(socket),
                told,
                (&raw const off).cast(),
                size_of::<u32>() as u32,
                null_mut(),
                0,
                &mut bytes,
                null_mut(),
                None,
            )
        };
    }
}

/// Whether a socket listens.
pub(super) fn is_listener(socket: &Socket) -> bool {
    let mut value = 0_i32;
    let mut length = size_of::<i32>() as i32;
    // SAFETY: both pointers lead to variables of this function.
    let result = unsafe {
        getsockopt(
            raw(socket),
            SOL_SOCKET,
            SO_ACCEPTCONN,
            (&raw mut value).cast(),
            &mut length,
        )
    };
    result == 0 && value != 0
}

/// The functions that a provider hands out at run time, looked up once.
pub(super) struct Extensions {
    accept: LPFN_ACCEPTEX,
    addresses: LPFN_GETACCEPTEXSOCKADDRS,
    connect: LPFN_CONNECTEX,
    transmit: LPFN_TRANSMITFILE,
}

impl Extensions {
    pub(super) fn look_up() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        // SAFETY: each function is asked for by its identifier, and comes with its own type.
        unsafe {
            Ok(Extensions {
                accept: look_up(&socket, WSAID_ACCEPTEX)?,
                addresses: look_up(&socket, WSAID_GETACCEPTEXSOCKADDRS)?,
                connect: look_up(&socket, WSAID_CONNECTEX)?,
                transmit: look_up(&socket, WSAID_TRANSMITFILE)?,
            })
        }
    }

    /// Starts to send `length` bytes of a file, which has them: one or more, as 0 stands for all.
    ///
    /// # Safety
    ///
    /// The file stays open, and the block where it is, until the packet of this block has been
    /// taken, or the call has failed.
    pub(super) unsafe fn transmit(
        &self,
        socket: &Socket,
        file: &File,
        offset: u64,
        length: u32,
        block: &mut Block,
    ) -> Started {
        let transmit = self.transmit.expect("looked up");
        // SAFETY: the caller keeps the file and the block; there are no other buffers.
        let done = unsafe {
            transmit(
                raw(socket),
                file.as_raw_handle(),
                length,
                0,
                block.at(offset),
                null(),
                0,
            )
        };
        started(i32::from(done == 0))
    }

    /// Starts a connect. The socket must be bound.
    pub(super) fn connect(
        &self,
        socket: &Socket,
        address: &SockAddr,
        block: &mut Block,
    ) -> Started {
        let connect = self.connect.expect("looked up");
        // SAFETY: the address is read while the call runs; the block is the operation's, which
        // keeps it until its packet has been taken.
        let done = unsafe {
            connect(
                raw(socket),
                address.as_ptr().cast(),
                address.len(),
                null(),
                0,
                null_mut(),
                block.clear(),
            )
        };
        started(i32::from(done == 0))
    }
}

/// # Safety
///
/// `F` is an `Option` of the type of the function that the identifier stands for.
unsafe fn look_up<F>(socket: &Socket, id: GUID) -> io::Result<Option<F>> {
    let mut function: Option<F> = None;
    let mut bytes = 0;
    // SAFETY: the pointers lead to variables of this function, with their sizes; an absent
    // function is null, as an absent option is.
    let result = unsafe {
        WSAIoctl(
            raw(socket),
            SIO_GET_EXTENSION_FUNCTION_POINTER,
            (&raw const id).cast(),
            size_of::<GUID>() as u32,
            (&raw mut function).cast(),
            size_of::<Option<F>>() as u32,
            &mut bytes,
            null_mut(),
            None,
        )
    };
    match (result, &function) {
        (0, Some(_)) => Ok(function),
        (0, None) => Err(io::ErrorKind::Unsupported.into()),
        _ => Err(io::Error::from_raw_os_error(last_error())),
    }
}

/// One posted accept: a socket made beforehand, and room for the addresses of the connection.
pub(super) struct Accept {
    pub(super) block: Block,
    pub(super) socket: Socket,
    addresses: KernelMemory<Addresses>,
}

impl Accept {
    pub(super) fn new(domain: Domain) -> io::Result<Self> {
        Ok(Accept {
            block: Block::new(),
            socket: Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?,
            addresses: KernelMemory::new([0; 2 * ADDRESS_ROOM / size_of::<u64>()]),
        })
    }

    /// Starts the accept, which keeps itself until its packet has been taken.
    pub(super) fn start(&mut self, extensions: &Extensions, listener: &Socket) -> Started {
        let accept = extensions.accept.expect("looked up");
        let mut bytes = 0;
        // SAFETY: the memory for the addresses and the block belong to this accept.
        let done = unsafe {
            accept(
                raw(listener),
                raw(&self.socket),
                self.addresses.0.as_ptr().cast(),
                0,
                ADDRESS_ROOM as u32,
                ADDRESS_ROOM as u32,
                &mut bytes,
                self.block.clear(),
            )
        };
        started(i32::from(done == 0))
    }

    /// Makes an ordinary connection of it. Until this option is set most calls refuse the socket
    /// (`shutdown` and `getpeername` for two). Its value is the listener's handle.
    pub(super) fn finish(
        self,
        extensions: &Extensions,
        listener: &Socket,
    ) -> io::Result<(Socket, Option<SocketAddr>)> {
        set_option(&self.socket, SO_UPDATE_ACCEPT_CONTEXT, Some(raw(listener)))?;
        let peer = self.peer(extensions);
        Ok((self.socket, peer))
    }

    fn peer(&self, extensions: &Extensions) -> Option<SocketAddr> {
        let addresses = extensions.addresses.expect("looked up");
        let (mut local, mut remote) = (null_mut(), null_mut());
        let (mut local_length, mut remote_length) = (0, 0);
        // SAFETY: the accept has succeeded and left both addresses in this memory, into which the
        // call sets the pointers.
        unsafe {
            addresses(
                self.addresses.0.as_ptr().cast(),
                0,
                ADDRESS_ROOM as u32,
                ADDRESS_ROOM as u32,
                &mut local,
                &mut local_length,
                &mut remote,
                &mut remote_length,
            );
        }
        address(remote.cast::<c_void>(), remote_length)
    }
}

/// An address that a call left in memory of ours.
fn address(from: *const c_void, length: i32) -> Option<SocketAddr> {
    let mut storage = SockAddrStorage::zeroed();
    let length = usize::try_from(length).ok()?;
    if from.is_null() || length > size_of::<SockAddrStorage>() {
        return None;
    }
    // SAFETY: the system says that so many bytes of address are there, and they fit.
    unsafe {
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut storage).cast(), length);
        SockAddr::new(storage, length as i32).as_socket()
    }
}

/// Makes an ordinary connection of a socket that `ConnectEx` has connected.
pub(super) fn finish_connect(socket: &Socket) -> io::Result<()> {
    set_option::<i32>(socket, SO_UPDATE_CONNECT_CONTEXT, None)
}
