//! A file.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::calls::{Call, Calls};
use super::options;
use crate::buffer::Buffer;
use crate::port::{Handle, Operation};
use crate::runtime;

/// A file, read and written at offsets that the program names: there is no position in it that
/// moves, so any number of tasks may share it.
///
/// A read that is dropped is ended if it can be; a write that is dropped goes on. In both cases the
/// buffer is kept until the system is done with it. The file is closed when it is dropped and what
/// was begun on it has ended.
pub struct File {
    handle: Handle,
    calls: Arc<Calls>,
    file: Arc<std::fs::File>,
}

impl File {
    /// Opens a file for reading. That blocks the worker, which is covered by another one.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::open`]; outside of a runtime.
    pub async fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_std(options().read(true).open(path)?)
    }

    /// Makes a file, or empties the one that is there, and opens it for reading and writing. That
    /// blocks the worker, which is covered by another one.
    ///
    /// # Errors
    ///
    /// As [`std::fs::File::create`]; outside of a runtime.
    pub async fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let mut options = options();
        options.read(true).write(true).create(true).truncate(true);
        Self::from_std(options.open(path)?)
    }

    /// Takes a file of the standard library over, or shares it. On Windows it must have been opened
    /// with [`options`], and belong to no other runtime or port.
    ///
    /// # Errors
    ///
    /// Outside of a runtime, or when the port refuses the file.
    pub fn from_std(file: impl Into<Arc<std::fs::File>>) -> io::Result<Self> {
        let file = file.into();
        let (handle, calls) = Calls::associate(runtime::current_or_error()?, file.clone())?;
        Ok(File {
            handle,
            calls,
            file,
        })
    }

    /// Reads at an offset into the spare capacity of a vector, after its length, and gives it back
    /// with its length grown: by one byte or more, nearly always by as many as fit or the file has.
    /// 0 bytes: the file ends at or before the offset.
    ///
    /// # Errors
    ///
    /// What the system answers; [`InvalidInput`](io::ErrorKind::InvalidInput) when the vector has no
    /// spare capacity, or no file has room for the range. The vector comes back, unless the runtime
    /// is gone.
    pub fn read_at(
        &self,
        buffer: Vec<u8>,
        offset: u64,
    ) -> impl Future<Output = (io::Result<usize>, Vec<u8>)> + Send + '_ {
        Read(self.call(Operation::ReadAt { offset, buffer }))
    }

    /// Writes all of a buffer at an offset, and gives it back. The file grows as needed.
    ///
    /// Nothing happens before the future is polled. Once it has been, the buffer is written even if
    /// the future is dropped.
    ///
    /// # Errors
    ///
    /// What the system answers, [`StorageFull`](io::ErrorKind::StorageFull) for one: a part of the
    /// buffer may have been written. The buffer comes back, unless the runtime is gone.
    pub fn write_at(
        &self,
        buffer: impl Into<Buffer>,
        offset: u64,
    ) -> impl Future<Output = (io::Result<()>, Buffer)> + Send + '_ {
        let buffer = buffer.into();
        Write(self.call(Operation::WriteAt { offset, buffer }))
    }

    /// Has the system store what has been written, and the file's metadata, so that it outlasts a
    /// loss of power. Covers writes that have ended, not those under way.
    ///
    /// # Errors
    ///
    /// What the system answers. What was written since the last success may then be lost.
    pub fn sync_all(&self) -> impl Future<Output = io::Result<()>> + Send + '_ {
        Sync(self.call(Operation::SyncAll))
    }

    /// As [`sync_all`](Self::sync_all), without the metadata that reading the data does not need.
    ///
    /// # Errors
    ///
    /// As [`sync_all`](Self::sync_all).
    pub fn sync_data(&self) -> impl Future<Output = io::Result<()>> + Send + '_ {
        Sync(self.call(Operation::SyncData))
    }

    /// The file's metadata, its length above all. Asks the system there and then.
    ///
    /// # Errors
    ///
    /// What the system answers.
    pub fn metadata(&self) -> io::Result<std::fs::Metadata> {
        self.file.metadata()
    }

    /// The file of the standard library that this is.
    pub fn as_std(&self) -> &Arc<std::fs::File> {
        &self.file
    }

    fn call(&self, operation: Operation) -> Call<'_> {
        Call::new(&self.handle, &self.calls, operation)
    }
}

/// For [`send_file`](crate::net::TcpStream::send_file).
impl From<&File> for Arc<std::fs::File> {
    fn from(file: &File) -> Self {
        file.file.clone()
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// What [`File::read_at`] returns.
struct Read<'a>(Call<'a>);

impl Future for Read<'_> {
    type Output = (io::Result<usize>, Vec<u8>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let done = ready!(Pin::new(&mut self.0).poll(cx));
        let vec = done.buffer.map(Buffer::into_vec);
        Poll::Ready((done.result, vec.unwrap_or_default()))
    }
}

/// What [`File::write_at`] returns.
struct Write<'a>(Call<'a>);

impl Future for Write<'_> {
    type Output = (io::Result<()>, Buffer);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let done = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready((done.result.map(drop), done.buffer.unwrap_or_default()))
    }
}

/// What [`File::sync_all`] returns.
struct Sync<'a>(Call<'a>);

impl Future for Sync<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let done = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(done.result.map(drop))
    }
}
