//! A chat room: what one client says, all others hear.
//!
//! ```text
//! cargo run --release -p landfall --example chat -- 127.0.0.1:7000
//! nc 127.0.0.1 7000    # in several terminals
//! ```
//!
//! Every client has two halves and so two tasks: one receives and hands on to all, the other sends
//! what has been handed to it. A client that does not read what it is sent is left out.

mod common;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use landfall::Server;
use landfall::net::{ReadHalf, WriteHalf};
use landfall::runtime;
use landfall::server::Connection;
use mailbox::{Mailbox, mailbox};

/// Messages kept for a client that is slow; more are dropped.
const MOST_KEPT: usize = 100;

/// The clients that are in the room.
#[derive(Clone, Default)]
struct Room(Arc<Mutex<HashMap<SocketAddr, mailbox::Sender>>>);

impl Room {
    fn enter(&self, client: SocketAddr) -> Mailbox {
        let (sender, mailbox) = mailbox(MOST_KEPT);
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(client, sender);
        mailbox
    }

    fn leave(&self, client: SocketAddr) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&client);
    }

    /// Hands a message to everybody but its author. All share its bytes.
    fn say(&self, author: SocketAddr, message: Bytes) {
        let clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (client, sender) in clients.iter() {
            if *client != author {
                sender.send(message.clone());
            }
        }
    }
}

fn main() -> ExitCode {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    common::report(&format!("cannot serve {address}"), serve(&address))
}

fn serve(address: &str) -> landfall::Result<()> {
    let server = Server::bind(address)?;
    println!("listening on {}", server.local_addr());
    let room = Room::default();
    server.serve(move |connection| talk(room.clone(), connection))?;
    Ok(())
}

async fn talk(room: Room, connection: Connection) -> landfall::Result<()> {
    let client = connection.peer_addr()?;
    let (reader, writer) = connection.into_stream().split();
    let mailbox = room.enter(client);
    // Ends when the client has left the room, as its mailbox then closes.
    let writing = runtime::spawn(write_mail(mailbox, writer));
    room.say(client, format!("* {client} came\n").into());
    let heard = listen(&room, client, reader).await;
    room.leave(client);
    room.say(client, format!("* {client} left\n").into());
    writing.await??;
    heard
}

async fn listen(room: &Room, client: SocketAddr, mut reader: ReadHalf) -> landfall::Result<()> {
    while let Some(data) = reader.receive().await? {
        let text = String::from_utf8_lossy(&data);
        room.say(client, format!("{client}: {}\n", text.trim_end()).into());
    }
    Ok(())
}

async fn write_mail(mut mailbox: Mailbox, mut writer: WriteHalf) -> landfall::Result<()> {
    while let Some(message) = mailbox.next().await {
        writer.send(message).await?;
    }
    Ok(())
}

/// A bounded queue between tasks. A program would take a channel from a crate; any does that wakes
/// the task that waits.
mod mailbox {
    use std::collections::VecDeque;
    use std::future::poll_fn;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
    use std::task::{Poll, Waker};

    use bytes::Bytes;

    #[derive(Default)]
    struct Queue {
        messages: VecDeque<Bytes>,
        most: usize,
        reader: Option<Waker>,
        closed: bool,
    }

    pub struct Sender(Arc<Mutex<Queue>>);

    pub struct Mailbox(Arc<Mutex<Queue>>);

    pub fn mailbox(most: usize) -> (Sender, Mailbox) {
        let queue = Arc::new(Mutex::new(Queue {
            most,
            ..Queue::default()
        }));
        (Sender(queue.clone()), Mailbox(queue))
    }

    fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
        queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl Sender {
        /// Drops the message if the mailbox is full.
        pub fn send(&self, message: Bytes) {
            let mut queue = lock(&self.0);
            if queue.messages.len() < queue.most {
                queue.messages.push_back(message);
            }
            let reader = queue.reader.take();
            drop(queue);
            reader.into_iter().for_each(Waker::wake);
        }
    }

    impl Drop for Sender {
        fn drop(&mut self) {
            let mut queue = lock(&self.0);
            queue.closed = true;
            let reader = queue.reader.take();
            drop(queue);
            reader.into_iter().for_each(Waker::wake);
        }
    }

    impl Mailbox {
        /// The next message; `None` when the sender is gone.
        pub async fn next(&mut self) -> Option<Bytes> {
            poll_fn(|cx| {
                let mut queue = lock(&self.0);
                match queue.messages.pop_front() {
                    Some(message) => Poll::Ready(Some(message)),
                    None if queue.closed => Poll::Ready(None),
                    None => {
                        queue.reader = Some(cx.waker().clone());
                        Poll::Pending
                    }
                }
            })
            .await
        }
    }
}
