//! Where metrics are asked for: one page over HTTP.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use landfall::runtime::Runtime;
use landfall::runtime::time::timeout;
use landfall::server::{Connection, Server};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text::{CONTENT_TYPE, encode};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::exit::Failure;
use crate::http::{MOST_FIELDS, Method, Request, Status, origin_form};
use crate::output::Log;
use crate::serve::listen;
use crate::system::limits::MOST_WAITING;
use crate::system::systemd::Sockets;

/// Where the page is.
const PATH: &str = "/metrics";

/// Connections at any one time; more wait.
const MOST_CONNECTIONS: usize = 8;

/// How long one may take to send its request, and to end after its answer: those that are silent keep
/// others out.
const SILENCE: Duration = Duration::from_secs(2);
/// How long it may take for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What listens for those who ask.
#[derive(Debug)]
pub struct Endpoint {
    server: Server,
}

impl Endpoint {
    /// How many sockets it has open at most.
    pub(super) const SOCKETS: u64 = MOST_CONNECTIONS as u64 + 1 + MOST_WAITING;

    /// Listens, if that is asked for. Whoever comes waits for [`serve`](Self::serve).
    pub fn listen(
        address: Option<&str>,
        inherited: &mut Sockets,
        descriptor_limit: u64,
    ) -> Result<Option<Self>, Failure> {
        let Some(address) = address else {
            return Ok(None);
        };
        let server = listen(&[address.to_owned()], inherited, descriptor_limit)?;
        Ok(Some(Self {
            server: server.max_connections(MOST_CONNECTIONS),
        }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Answers with what the collectors know, for as long as the runtime is there: a drain of the
    /// program's own server does not end it, and nothing waits for it.
    pub fn serve(
        self,
        runtime: &Runtime,
        log: &Log,
        collectors: impl IntoIterator<Item = Box<dyn Collector>>,
    ) {
        log.note(format_args!("metrics at http://{}{PATH}", self.address()));
        let registry = Arc::new(registry_of(runtime.port().driver(), collectors));
        let serve = move |connection| {
            let registry = Arc::clone(&registry);
            async move { serve_one(connection, &registry).await }
        };
        let log = log.clone();
        drop(runtime.spawn(async move {
            if let Err(error) = self.server.run(serve).await {
                log.error(format_args!("no metrics are to be had any more: {error}"));
            }
        }));
    }
}

fn registry_of(driver: &str, collectors: impl IntoIterator<Item = Box<dyn Collector>>) -> Registry {
    let mut registry = Registry::with_prefix("landfall");
    registry.register(
        "build",
        "The version of the tool, and the driver that runs",
        Info::new([
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("driver", driver.to_owned()),
        ]),
    );
    for collector in collectors {
        registry.register_collector(collector);
    }
    registry
}

/// Answers one request. Another one needs another connection.
async fn serve_one(mut connection: Connection, registry: &Registry) -> io::Result<()> {
    let answer = within(SILENCE, answer(&mut connection, registry)).await?;
    let Some(answer) = answer else {
        return Ok(());
    };
    let sending = async {
        connection.send(answer).await?;
        connection.shutdown(Shutdown::Write).await
    };
    within(PATIENCE, sending).await?;
    // Closed with something unread, it would be reset, and what is still on the way lost.
    let ending = async {
        while connection.receive().await?.is_some() {}
        Ok(())
    };
    within(SILENCE, ending).await
}

async fn within<T>(time: Duration, what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let done = timeout(time, what).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The answer to the request that comes, if one does.
async fn answer(connection: &mut Connection, registry: &Registry) -> io::Result<Option<String>> {
    let mut input = Vec::new();
    while let Some(data) = connection.receive().await? {
        input.extend_from_slice(&data);
        if let Some(answer) = answer_to(&input, registry) {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

/// The answer to a request. `None`: its head is not there as a whole.
fn answer_to(input: &[u8], registry: &Registry) -> Option<String> {
    let mut room = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let request = Request::read(input, &mut room).transpose()?;
    let has_body = !matches!(&request, Ok(request) if request.method == Method::Head);
    let page = request.and_then(|request| page(&request, registry));
    let (status, kind, body) = match page {
        Ok(page) => (Status::OK, CONTENT_TYPE, page),
        Err(status) => (status, "text/plain; charset=utf-8", format!("{status}\n")),
    };
    let allow = match status {
        Status::METHOD_NOT_ALLOWED => "Allow: GET, HEAD\r\n",
        _ => "",
    };
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nDate: {}\r\nConnection: close\r\n{allow}Content-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n",
        httpdate::fmt_http_date(SystemTime::now()),
        body.len()
    );
    if has_body {
        answer.push_str(&body);
    }
    Some(answer)
}

fn page(request: &Request<'_>, registry: &Registry) -> Result<String, Status> {
    let target = origin_form(request.target).unwrap_or_default();
    let (path, _query) = target.split_once('?').unwrap_or((target, ""));
    match request.method {
        _ if path != PATH => Err(Status::NOT_FOUND),
        Method::Other => Err(Status::METHOD_NOT_ALLOWED),
        Method::Get | Method::Head => {
            let mut page = String::new();
            let written = encode(&mut page, registry);
            written.map(|()| page).map_err(|_| Status::INTERNAL_ERROR)
        }
    }
}
