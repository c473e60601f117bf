//! The server's handlers: all of them echo, each with its own habits.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;

use crate::buffer::Buffer;
use crate::net::{ReadHalf, TcpStream, WriteHalf};
use crate::runtime::time::timeout;
use crate::runtime::{self, JoinHandle};
use crate::server::Connection;

/// Unfinished sends that a stream keeps at least, whatever becomes of their futures, and still
/// takes another.
const MOST_UNFINISHED: u32 = 7;
/// Timeouts in a row that a handler puts up with.
const MOST_TIMEOUTS: u32 = 3;

const LONGEST_CONNECT: Duration = Duration::from_millis(5);

/// By connection that was served, whether all that came was sent back.
pub(super) type Reports = Arc<Mutex<BTreeMap<usize, bool>>>;

#[derive(Clone, Debug)]
pub(super) struct Habits {
    rng: Rng,
    /// Drops futures before they are ready.
    gives_up: bool,
    /// Reads into vectors of its own at times.
    reads: bool,
    /// Shuts its side down at the end, instead of only leaving.
    shuts: bool,
    /// Receives and sends in a task each.
    splits: bool,
    /// Connects to others as well.
    reaches_out: bool,
    fault: Option<Fault>,
    /// Rounds until then.
    rounds: u32,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Panics,
    Fails,
    Leaves,
}

impl Habits {
    pub(super) fn of(seed: u64, connection: usize) -> Self {
        let mut rng = Rng::with_seed(seed ^ (connection as u64 + 1) << 48);
        let fault = match rng.u8(..12) {
            0 => Some(Fault::Panics),
            1 => Some(Fault::Fails),
            2 => Some(Fault::Leaves),
            _ => None,
        };
        Habits {
            gives_up: rng.bool(),
            reads: rng.bool(),
            shuts: rng.bool(),
            splits: rng.u8(..3) == 0,
            reaches_out: rng.u8(..8) == 0,
            fault,
            rounds: rng.u32(..6),
            rng,
        }
    }

    /// Whether the handler does its work to the end.
    pub(super) fn is_faithful(&self) -> bool {
        self.fault.is_none()
    }

    /// Ends the handler in its own way, when the time has come.
    fn round(&mut self) -> io::Result<bool> {
        let Some(fault) = self.fault else {
            return Ok(true);
        };
        if self.rounds > 0 {
            self.rounds -= 1;
            return Ok(true);
        }
        match fault {
            // As a panic, without the report of the hook.
            Fault::Panics => std::panic::resume_unwind(Box::new("on purpose")),
            Fault::Fails => Err(io::Error::other("on purpose")),
            Fault::Leaves => Ok(false),
        }
    }

    /// How often to poll a future before it is dropped; `None`: until it is ready.
    fn patience(&mut self) -> Option<u32> {
        (self.gives_up && self.rng.bool()).then(|| self.rng.u32(..4))
    }
}

pub(super) async fn echo(connection: Connection, seed: u64, reports: Reports) -> io::Result<()> {
    let number = usize::from(connection.peer_addr()?.port()) - 1;
    reports.lock().insert(number, false);
    let habits = Habits::of(seed, number);
    let stream = connection.into_stream();
    if habits.reaches_out {
        reach_out().await;
    }
    let done = match habits.splits {
        true => echo_in_two(stream, habits).await?,
        false => echo_in_one(stream, habits).await?,
    };
    reports.lock().insert(number, done);
    Ok(())
}

/// Whether everything was sent back.
async fn echo_in_one(stream: TcpStream, habits: Habits) -> io::Result<bool> {
    let mut source = Source::new(Input::Stream, &habits);
    let mut sink = Sink::new(&habits);
    let mut stream = stream;
    let mut habits = habits;
    while let Some(data) = source.next(Some(&mut stream)).await? {
        if !habits.round()? {
            return Ok(false);
        }
        sink.send(Output::Stream(&mut stream), data).await?;
    }
    if habits.shuts {
        stream.shutdown(Shutdown::Write).await?;
    }
    Ok(true)
}

async fn echo_in_two(stream: TcpStream, habits: Habits) -> io::Result<bool> {
    let (read, mut write) = stream.split();
    let queue = Queue::default();
    let end = End(queue.clone());
    let mut source = Source::new(Input::Half(read), &habits);
    let mut sink = Sink::new(&habits);
    let (shuts, mut writing) = (habits.shuts, habits.clone());
    let mut writer = Writer(runtime::spawn(async move {
        while let Some(data) = queue.next().await {
            if !writing.round()? {
                return Ok(false);
            }
            sink.send(Output::Half(&mut write), data).await?;
        }
        if shuts {
            write.shutdown(Shutdown::Write).await?;
        }
        Ok::<_, io::Error>(true)
    }));
    while let Some(data) = source.next(None).await? {
        end.0.push(data);
    }
    if shuts {
        drop(source);
        drop(end);
        return (&mut writer.0).await?;
    }
    drop(end);
    let result = (&mut writer.0).await?;
    drop(source);
    result
}

/// The task that sends, which ends with the handler: when the server cuts a connection, it drops
/// the handler, and knows of no other task.
struct Writer(JoinHandle<io::Result<bool>>);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Polls a future once, and again so many times; then drops it, later than that, without asking it
/// once more.
pub(super) async fn within<F: Future>(again: Option<u32>, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = again.map(|again| again + 1);
    poll_fn(|cx| {
        if left == Some(0) {
            return Poll::Ready(None);
        }
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if let Some(left) = &mut left {
            *left -= 1;
            // The last wait may be until there is a result, which then is not taken.
            if *left > 0 || again.is_some_and(|again| again % 2 == 0) {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    })
    .await
}

/// Connects to somebody, who may not answer, and leaves again.
async fn reach_out() {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    // Refused or not, there is nothing to say.
    let _ = timeout(LONGEST_CONNECT, TcpStream::connect(address)).await;
}

fn is_timeout<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::TimedOut)
}

enum Input {
    Stream,
    Half(ReadHalf),
}

struct Source {
    input: Input,
    habits: Habits,
    timeouts: u32,
}

impl Source {
    fn new(input: Input, habits: &Habits) -> Self {
        let mut habits = habits.clone();
        habits.rng = habits.rng.fork();
        Source {
            input,
            habits,
            timeouts: 0,
        }
    }

    /// What comes next, in whatever way; nothing at the end.
    async fn next(&mut self, mut stream: Option<&mut TcpStream>) -> io::Result<Option<Vec<u8>>> {
        loop {
            let patience = self.habits.patience();
            let reads = self.habits.reads && self.habits.rng.bool();
            let next = match reads {
                true => self.read(patience, stream.as_deref_mut()).await,
                false => {
                    let received = match (&mut self.input, stream.as_deref_mut()) {
                        (Input::Half(half), _) => within(patience, half.receive()).await,
                        (_, Some(stream)) => within(patience, stream.receive()).await,
                        _ => return Ok(None),
                    };
                    received.map(|received| received.map(|data| data.map(Buffer::into_vec)))
                }
            };
            match next {
                // Let go of; what was to come still comes.
                None => runtime::yield_now().await,
                Some(next) if is_timeout(&next) && self.timeouts < MOST_TIMEOUTS => {
                    self.timeouts += 1;
                }
                Some(next) => {
                    self.timeouts = 0;
                    return next;
                }
            }
        }
    }

    /// Reads behind something that is in the vector already.
    async fn read(
        &mut self,
        patience: Option<u32>,
        stream: Option<&mut TcpStream>,
    ) -> Option<io::Result<Option<Vec<u8>>>> {
        let own = self.habits.rng.usize(..4);
        let mut vec = Vec::with_capacity(own + self.habits.rng.usize(1..40));
        vec.resize(own, 0xee);
        let read = match (&mut self.input, stream) {
            (Input::Half(half), _) => within(patience, half.read(vec)).await,
            (_, Some(stream)) => within(patience, stream.read(vec)).await,
            _ => None,
        };
        let (result, mut vec) = read?;
        Some(result.map(|count| {
            if count == 0 {
                return None;
            }
            assert_eq!(vec.len(), own + count, "the stream came with other bytes");
            let received = vec.split_off(own);
            assert!(
                vec.iter().all(|&byte| byte == 0xee),
                "the stream was put elsewhere"
            );
            Some(received)
        }))
    }
}

enum Output<'a> {
    Stream(&'a mut TcpStream),
    Half(&'a mut WriteHalf),
}

struct Sink {
    habits: Habits,
    /// Sends, since the last that is known to be finished, of which that is not known.
    unfinished: u32,
}

impl Sink {
    fn new(habits: &Habits) -> Self {
        let mut habits = habits.clone();
        habits.rng = habits.rng.fork();
        habits.rng = habits.rng.fork();
        Sink {
            habits,
            unfinished: 0,
        }
    }

    /// Sends in whatever way, without always waiting for the end of it.
    async fn send(&mut self, output: Output<'_>, data: Vec<u8>) -> io::Result<()> {
        let patience = match self.unfinished < MOST_UNFINISHED {
            true => self.habits.patience(),
            false => None,
        };
        let form = self.habits.rng.u8(..4);
        let cut = self.habits.rng.usize(..=data.len());
        let parts = || {
            vec![
                Buffer::from(data[..cut].to_vec()),
                data[cut..].to_vec().into(),
            ]
        };
        let sent = match output {
            Output::Stream(stream) => match form {
                0 => within(patience, stream.send_vectored(parts())).await,
                1 => alone(within(patience, stream.send_owned(data)).await),
                2 => alone(within(patience, stream.send_zero_copy(data)).await),
                _ => within(patience, stream.send(data)).await,
            },
            Output::Half(half) => match form {
                0 => within(patience, half.send_vectored(parts())).await,
                1 => alone(within(patience, half.send_owned(data)).await),
                2 => alone(within(patience, half.send_zero_copy(data)).await),
                _ => within(patience, half.send(data)).await,
            },
        };
        match sent {
            None => self.unfinished += 1,
            // It is sent all the same.
            Some(sent) if is_timeout(&sent) && self.unfinished < MOST_UNFINISHED => {
                self.unfinished += 1;
            }
            Some(sent) => {
                sent?;
                self.unfinished = 0;
            }
        }
        Ok(())
    }
}

fn alone(sent: Option<(io::Result<()>, Buffer)>) -> Option<io::Result<()>> {
    sent.map(|(result, _)| result)
}

/// From the task that receives to the one that sends.
#[derive(Clone, Default)]
struct Queue(Arc<Mutex<Queued>>);

#[derive(Default)]
struct Queued {
    data: VecDeque<Vec<u8>>,
    ended: bool,
    waker: Option<Waker>,
}

impl Queue {
    fn push(&self, data: Vec<u8>) {
        let mut queue = self.0.lock();
        queue.data.push_back(data);
        let waker = queue.waker.take();
        drop(queue);
        waker.into_iter().for_each(Waker::wake);
    }

    async fn next(&self) -> Option<Vec<u8>> {
        poll_fn(|cx| {
            let mut queue = self.0.lock();
            match (queue.data.pop_front(), queue.ended) {
                (None, false) => {
                    let last = queue.waker.replace(cx.waker().clone());
                    drop(queue);
                    drop(last);
                    Poll::Pending
                }
                (next, _) => Poll::Ready(next),
            }
        })
        .await
    }
}

/// Ends the queue, however the task that receives ends.
struct End(Queue);

impl Drop for End {
    fn drop(&mut self) {
        let mut queue = self.0.0.lock();
        queue.ended = true;
        let waker = queue.waker.take();
        drop(queue);
        waker.into_iter().for_each(Waker::wake);
    }
}
