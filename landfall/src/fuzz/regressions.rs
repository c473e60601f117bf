//! What schedules have shown, each as a test of its own.

use super::handler::within;
use super::schedule::listener;
use crate::driver::sim::{Faults, Network, Sim, World};
use crate::net::TcpListener;
use crate::port::{BufferPolicy, CompletionKind, CompletionPort};
use crate::runtime::Runtime;

/// A runtime on which nothing is left to chance.
fn runtime() -> (Runtime, Network) {
    let world = World {
        seed: 0,
        tells: false,
        lanes: 1,
        buffers: BufferPolicy { size: 64, count: 1 },
        window: 64,
        places: 8,
        eagerness: 0,
        faults: Faults::default(),
    };
    let (driver, network) = Sim::new(world).expect("a few bytes are left");
    let port = CompletionPort::simulated(Box::new(driver));
    let runtime = Runtime::builder().max_spares(0).without_workers(port, 1);
    (runtime, network)
}

fn rest(runtime: &Runtime, network: &Network) {
    while runtime.step() || network.advance() {}
}

/// No place in the queue for a receive, and no pooled memory for the next one.
#[test]
fn a_read_may_be_tried_again_when_the_queue_was_full_and_needs_no_pooled_memory() {
    let (runtime, network) = runtime();
    let mut task = runtime.spawn(async {
        let listener = TcpListener::from_std(listener())?;
        let mut stream = listener.accept().await?;
        let full = stream.receive().await.err();
        let data = stream.receive().await?;
        // As much of it as the network chose to bring.
        let came = data.is_some_and(|data| !data.is_empty() && b"late".starts_with(&data));
        std::io::Result::Ok((full, came))
    });
    rest(&runtime, &network);
    let connection = network.connect(0).expect("somebody listens");
    network.refuse_next(1);
    network.starve(true);
    rest(&runtime, &network);
    network.write(connection, b"late");
    rest(&runtime, &network);
    assert!(task.is_finished());
    let result = runtime.block_on(&mut task).expect("it does not panic");
    let (full, received) = result.expect("only the first receive fails");
    let full = full.expect("the first receive is refused");
    assert_eq!(full.kind(), std::io::ErrorKind::ResourceBusy);
    assert!(received, "the second one brings what came");
}

/// A send failed for want of memory; those queued behind it were sent all the same.
#[test]
fn nothing_follows_a_send_that_failed() {
    let (runtime, network) = runtime();
    network.fail_next(CompletionKind::Send, libc::ENOMEM);
    let mut task = runtime.spawn(async {
        let listener = TcpListener::from_std(listener())?;
        let mut stream = listener.accept().await?;
        for text in ["is not sent", "nor is what follows"] {
            assert!(within(Some(0), stream.send(text)).await.is_none());
        }
        stream.send("and nothing later").await
    });
    rest(&runtime, &network);
    let connection = network.connect(0).expect("somebody listens");
    rest(&runtime, &network);
    let (_, sent) = network.read(connection, usize::MAX);
    assert_eq!(String::from_utf8_lossy(&sent), "");
    assert!(task.is_finished());
    let result = runtime.block_on(&mut task).expect("it does not panic");
    let error = result.expect_err("the send failed");
    assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
}
