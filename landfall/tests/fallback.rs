//! Which driver a port gets where the system refuses io_uring, and what it says about that.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use landfall::port::{Accept, CompletionPort, DriverChoice, Operation};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

const LONG: Duration = Duration::from_secs(20);

/// Runs a test on a thread of its own for which setting io_uring up fails with this error, as under
/// a container's profile.
fn where_io_uring_fails_with(code: i32, test: fn()) {
    if std::env::var_os("LANDFALL_DRIVER").is_some() {
        eprintln!("skipped: the environment names the driver, so nothing is chosen");
        return;
    }
    let thread = thread::spawn(move || {
        let filter = SeccompFilter::new(
            BTreeMap::from([(libc::SYS_io_uring_setup, vec![])]),
            SeccompAction::Allow,
            SeccompAction::Errno(code as u32),
            std::env::consts::ARCH
                .try_into()
                .expect("a known processor"),
        );
        let program: BpfProgram = filter.expect("a filter").try_into().expect("a program");
        seccompiler::apply_filter(&program).expect("a thread may restrict itself");
        test();
    });
    thread.join().expect("the test passes");
}

fn automatic() -> io::Result<CompletionPort> {
    CompletionPort::builder().driver(DriverChoice::Auto).build()
}

fn expect_poll(reason: &str) {
    let port = automatic().expect("a port");
    assert_eq!(port.driver(), "poll");
    assert!(
        port.driver_reason().contains(reason) && !port.driver_reason().contains('\n'),
        "{}",
        port.driver_reason()
    );
}

#[test]
fn a_forbidden_io_uring_leads_to_readiness_and_the_port_says_so() {
    where_io_uring_fails_with(libc::EPERM, || expect_poll("io_uring is forbidden here"));
}

#[test]
fn a_kernel_without_io_uring_leads_to_readiness_and_the_port_says_so() {
    where_io_uring_fails_with(libc::ENOSYS, || expect_poll("this kernel has no io_uring"));
}

#[test]
fn an_io_uring_that_is_too_old_leads_to_readiness_and_the_port_says_so() {
    where_io_uring_fails_with(libc::EINVAL, || expect_poll("io_uring is too old"));
}

#[test]
fn a_lack_of_memory_or_descriptors_is_an_error_and_hides_behind_nothing() {
    where_io_uring_fails_with(libc::ENOMEM, || {
        let error = automatic().expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    });
    where_io_uring_fails_with(libc::EMFILE, || {
        let error = automatic().expect_err("refused");
        assert!(error.to_string().contains("raise the limit"), "{error}");
    });
}

#[test]
fn io_uring_asked_for_and_forbidden_is_an_error_that_says_what_to_do() {
    where_io_uring_fails_with(libc::EPERM, || {
        let error = CompletionPort::builder()
            .driver(DriverChoice::Uring)
            .build()
            .expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("permit it"), "{error}");
    });
}

#[test]
fn a_port_on_readiness_serves_where_io_uring_is_forbidden() {
    where_io_uring_fails_with(libc::EPERM, || {
        let port = automatic().expect("a port");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        let listener = port.associate(listener, 0).expect("associates");
        let accept = Operation::Accept(Accept::once());
        listener.submit(accept, 0).expect("submits");
        let mut client = TcpStream::connect(address).expect("connect");
        client.set_read_timeout(Some(LONG)).expect("a socket");
        let mut accepted = port.get(Some(LONG)).expect("an accept");
        let connection = accepted.take_accepted().expect("a connection");
        let connection = port.associate(connection, 1).expect("associates");
        client.write_all(b"hello").expect("write");
        connection
            .submit(Operation::ReceiveOnce, 0)
            .expect("submits");
        let mut received = port.get(Some(LONG)).expect("a receive");
        let data = received.take_buffer().expect("data");
        connection
            .submit(Operation::Send(data), 0)
            .expect("submits");
        let mut echo = [0; 5];
        client.read_exact(&mut echo).expect("an echo");
        assert_eq!(&echo, b"hello");
    });
}

#[test]
fn a_refusal_names_the_variable_that_asked_for_the_driver() {
    const NAME: &str = "a_refusal_names_the_variable_that_asked_for_the_driver";
    const CHILD: &str = "LANDFALL_TEST_IS_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let error = automatic().expect_err("there is none on Linux");
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(text.contains("LANDFALL_DRIVER asks for `iocp`"), "{text}");
        return;
    }
    // The environment belongs to the whole process.
    let itself = std::env::current_exe().expect("this program");
    let status = Command::new(itself)
        .args(["--exact", NAME])
        .env(CHILD, "yes")
        .env("LANDFALL_DRIVER", "iocp")
        .status();
    assert!(status.expect("it runs").success());
}
