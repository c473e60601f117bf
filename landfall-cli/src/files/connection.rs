//! One connection: requests come, answers go in the same order.

use std::fs::File;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use landfall::runtime::time::timeout;
use landfall::server::Connection;

use super::access::{Access, first_line};
use super::pace::Pace;
use super::range::Span;
use super::respond::{Answer, FilePart, Site};
use crate::http::{MOST_FIELDS, Request, Status};
use crate::system::signals::StopRequest;
use crate::units::ByteRate;

/// Answers that are kept to go together, in bytes. Behind the last of them, one more file is read.
const MOST_TOGETHER: usize = 64 * 1024;

/// What is read and thrown away, in bytes, of a client that goes on sending after its last answer.
const MOST_THROWN_AWAY: usize = 64 * 1024 * 1024;
/// For how long,
const LINGER: Duration = Duration::from_secs(10);
/// and for how long without a byte of it: the network's own times are shorter.
const LINGER_SILENCE: Duration = Duration::from_secs(2);

/// What every connection is treated to.
#[derive(Debug)]
pub struct Service {
    /// What is served.
    pub site: Site,
    /// What one connection is sent at most.
    pub rate: Option<ByteRate>,
    /// How long a head may take.
    pub head_timeout: Duration,
    /// Whether every answer is told.
    pub tells_answers: bool,
    /// The wish to stop: answers say that no other request will be taken.
    pub stop: StopRequest,
}

/// A connection and what has come on it.
struct Session {
    service: Arc<Service>,
    connection: Connection,
    pace: Option<Pace>,
    /// What has come and was not taken yet,
    input: Vec<u8>,
    /// from here on.
    taken: usize,
    /// How much of the body of the last request is still to come.
    skipping: u64,
    /// When the first byte of the request came that is not there as a whole.
    begun: Option<Instant>,
    /// Answers that have not gone.
    out: Vec<u8>,
    /// Bytes of those that have.
    sent: u64,
    /// What is to be told of them once they have.
    untold: Vec<Access>,
    /// A drain has begun amid a request, which is waited for.
    outlasts_drain: bool,
}

/// What comes next.
enum Step {
    /// More of a request has to come.
    Receive,
    /// An answer is among those to go.
    Answered {
        /// What it has of a file follows.
        rest: Option<FilePart>,
        /// If it is the last one, how the connection ends.
        ending: Option<Ending>,
    },
    /// So is the last answer, to what was no request: more of that may come.
    Refused,
}

/// How a connection ends.
enum Ending {
    /// Its client sends nothing more, or has all of its answers.
    AtOnce,
    /// Its client has said that it sends nothing more, and is not waited for unless it would have much to
    /// lose: what it sends nevertheless (an empty line behind its request, say) ends all in a reset.
    AtItsWord,
    /// Its client may go on sending, and has not had all of its answers yet.
    Lingering,
}

impl Service {
    /// Serves one connection to its end.
    pub async fn serve(self: Arc<Self>, connection: Connection) -> io::Result<()> {
        let mut session = Session {
            pace: self.rate.map(Pace::new),
            service: self,
            connection,
            input: Vec::new(),
            taken: 0,
            skipping: 0,
            begun: None,
            out: Vec::new(),
            sent: 0,
            untold: Vec::new(),
            outlasts_drain: false,
        };
        let result = session.run().await;
        session.tell();
        let lingers = match result? {
            Ending::AtOnce => false,
            Ending::AtItsWord => session.sent >= MOST_TOGETHER as u64 && !session.has_arrived(),
            Ending::Lingering => true,
        };
        if lingers {
            session.linger().await;
        }
        Ok(())
    }
}

impl Session {
    async fn run(&mut self) -> io::Result<Ending> {
        loop {
            let step = match self.next() {
                Ok(step) => step,
                Err(error) => {
                    // A file was cut short. What was answered before is as good as ever.
                    self.flush().await?;
                    return Err(error);
                }
            };
            match step {
                Step::Receive => {
                    self.flush().await?;
                    if let Some(ending) = self.receive().await? {
                        return Ok(ending);
                    }
                }
                Step::Answered { rest, ending } => {
                    match rest {
                        Some(part) => self.send_file(part).await?,
                        None if ending.is_some() || self.out.len() >= MOST_TOGETHER => {
                            self.send_out().await?
                        }
                        None => {}
                    }
                    if self.out.is_empty() {
                        self.tell();
                    }
                    if let Some(ending) = ending {
                        return Ok(ending);
                    }
                }
                Step::Refused => {
                    self.flush().await?;
                    return Ok(Ending::Lingering);
                }
            }
        }
    }

    /// Takes the next request, if it is there, and writes its answer.
    fn next(&mut self) -> io::Result<Step> {
        self.skip_body();
        if self.skipping > 0 || self.taken == self.input.len() {
            return Ok(Step::Receive);
        }
        let service = &self.service;
        let input = &self.input[self.taken..];
        let mut room = [const { MaybeUninit::uninit() }; MOST_FIELDS];
        let request = match Request::read(input, &mut room) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(Step::Receive),
            Err(status) => return Ok(self.refuse(status)),
        };
        let may_go_on = service.stop.drain().is_none();
        let answer = service
            .site
            .answer(&request, may_go_on, &mut self.out)
            .inspect_err(|error| {
                let target = request.target.escape_default();
                service
                    .site
                    .log
                    .note(format_args!("cannot send {target}: {error}"));
            })?;
        let (head_length, body_length) = (request.head_length, request.body_length);
        let is_its_last = !request.keeps_alive && body_length == 0 && head_length == input.len();
        let ending = match (answer.keeps_alive, is_its_last) {
            (true, _) => None,
            // RFC 9112, 9.6.
            (false, true) => Some(Ending::AtItsWord),
            (false, false) => Some(Ending::Lingering),
        };
        if service.tells_answers {
            self.remember(&answer);
        }
        self.taken += head_length;
        self.skipping = body_length;
        // If there is more, it is of the next request.
        self.begun = Some(Instant::now());
        Ok(Step::Answered {
            rest: answer.rest,
            ending,
        })
    }

    /// Passes over what has come of the last request's body.
    fn skip_body(&mut self) {
        let come = self.input.len() - self.taken;
        let skipped = usize::try_from(self.skipping).map_or(come, |skipping| skipping.min(come));
        self.taken += skipped;
        self.skipping -= skipped as u64;
    }

    /// Answers what is no request, or not in time.
    fn refuse(&mut self, status: Status) -> Step {
        let answer = self.service.site.refuse(status, &mut self.out);
        if self.service.tells_answers {
            self.remember(&answer);
        }
        Step::Refused
    }

    /// Waits for more of a request. If there will be none, says how the connection ends.
    async fn receive(&mut self) -> io::Result<Option<Ending>> {
        self.input.drain(..self.taken);
        self.taken = 0;
        if self.input.is_empty() {
            // Connections without a request hold no memory.
            self.input = Vec::new();
            self.begun = self.begun.filter(|_| self.skipping > 0);
        }
        let receive = self.connection.receive();
        let received = match self.begun {
            None => receive.await?,
            Some(begun) => {
                let left = self.service.head_timeout.saturating_sub(begun.elapsed());
                match timeout(left, receive).await {
                    Ok(received) => received?,
                    Err(_) => return self.give_up().await,
                }
            }
        };
        let Some(data) = received else {
            return Ok(self.end_of_stream());
        };
        self.begun.get_or_insert_with(Instant::now);
        self.input.extend_from_slice(&data);
        Ok(None)
    }

    /// The client has ended its sending; or a drain has begun, which looks the same.
    fn end_of_stream(&mut self) -> Option<Ending> {
        if self.service.stop.drain().is_none() || self.outlasts_drain {
            return Some(Ending::AtOnce);
        }
        if !self.input.is_empty() {
            // A request that has begun to come is answered.
            self.connection.outlast_drain();
            self.outlasts_drain = true;
            return None;
        }
        Some(match self.skipping == 0 && self.has_arrived() {
            true => Ending::AtOnce,
            // What it sends meanwhile would cost it its last answer.
            false => Ending::Lingering,
        })
    }

    /// Whether the client's system is known to have all that was sent.
    fn has_arrived(&self) -> bool {
        self.connection.unacknowledged_bytes().ok() == Some(0)
    }

    /// A client took too long over a request.
    async fn give_up(&mut self) -> io::Result<Option<Ending>> {
        if self.skipping == 0 {
            self.refuse(Status::REQUEST_TIMEOUT);
        }
        self.flush().await?;
        Ok(Some(Ending::Lingering))
    }

    /// Sends what has been answered.
    async fn flush(&mut self) -> io::Result<()> {
        self.send_out().await?;
        self.tell();
        Ok(())
    }

    async fn send_out(&mut self) -> io::Result<()> {
        let out = mem::take(&mut self.out);
        if out.is_empty() {
            return Ok(());
        }
        self.sent += out.len() as u64;
        let Some(pace) = &mut self.pace else {
            return self.connection.send(out).await;
        };
        let mut rest = Bytes::from(out);
        while !rest.is_empty() {
            let piece = pace.piece(rest.len() as u64);
            pace.wait(piece).await;
            // No longer than the rest.
            self.connection.send(rest.split_to(piece as usize)).await?;
        }
        Ok(())
    }

    /// Sends what has been answered, and the part of a file that follows it.
    async fn send_file(&mut self, part: FilePart) -> io::Result<()> {
        let FilePart { file, span } = part;
        let Span { mut offset, length } = span;
        if self.pace.is_some() || !self.service.site.sends_at_once {
            self.send_out().await?;
        }
        let end = offset + length;
        while offset < end {
            let mut piece = end - offset;
            if let Some(pace) = &mut self.pace {
                piece = pace.piece(piece);
                pace.wait(piece).await;
            }
            let sent = self.send_piece(&file, offset, piece).await?;
            offset += sent;
            self.sent += sent;
            if let Some(last) = self.untold.last_mut() {
                last.bytes += sent;
            }
            if sent < piece {
                let log = &self.service.site.log;
                log.note("a file has been cut short while it was sent: its connection ends");
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Sends what has been answered and a piece of a file; returns how much of that, which is less
    /// than all if the file ends before.
    async fn send_piece(&mut self, file: &Arc<File>, offset: u64, length: u64) -> io::Result<u64> {
        if !self.service.site.sends_at_once {
            return self
                .connection
                .send_file(file.clone(), offset, length)
                .await;
        }
        let head = mem::take(&mut self.out);
        let mut head = &head[..];
        let mut sent = 0;
        while sent < length {
            let (from, left) = (offset + sent, length - sent);
            match self.connection.try_send_file(head, file, from, left) {
                Ok(0) => break,
                Ok(more) => {
                    let of_head = more.min(head.len() as u64);
                    head = &head[of_head as usize..];
                    sent += more - of_head;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if sent < length {
                // It waits for a slow client, and lets others have their turn before a quick one.
                self.connection.writable().await?;
            }
        }
        Ok(sent)
    }

    /// Ends the connection. Closed before all has been read that the client sends, it would be reset,
    /// and with it would be lost what the system still has of the answers.
    async fn linger(&mut self) {
        let connection = &mut self.connection;
        connection.outlast_drain();
        if connection.shutdown(Shutdown::Write).await.is_err() {
            return;
        }
        let began = Instant::now();
        let mut bytes = 0;
        while bytes < MOST_THROWN_AWAY && began.elapsed() < LINGER {
            match timeout(LINGER_SILENCE, connection.receive()).await {
                Ok(Ok(Some(data))) => bytes += data.len(),
                // It has had its answers, or does not want them.
                _ => return,
            }
        }
    }

    /// Keeps what is to be told of an answer until it has gone.
    fn remember(&mut self, answer: &Answer) {
        let in_file = answer.rest.as_ref().map_or(0, |part| part.span.length);
        self.untold.push(Access {
            peer: self.connection.peer_addr().ok().map(|address| address.ip()),
            at: SystemTime::now(),
            line: first_line(&self.input[self.taken..]),
            status: answer.status,
            bytes: answer.length - in_file,
            begun: self.begun,
        });
    }

    /// Tells the answers that have gone.
    fn tell(&mut self) {
        for access in self.untold.drain(..) {
            self.service.site.log.detail(access);
        }
    }
}
