//! Runs a command where io_uring is forbidden, as in a container whose profile refuses it.
//!
//! ```text
//! without-io-uring cargo test
//! ```
//!
//! Setting a ring up fails with `EPERM` for the command and for all that it starts.

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    use std::collections::BTreeMap;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use anyhow::Context;
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

    let mut arguments = std::env::args_os().skip(1);
    let program = arguments
        .next()
        .context("usage: without-io-uring <command> [argument]…")?;
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_io_uring_setup, vec![])]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    let filter: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&filter).context("cannot restrict itself")?;
    let error = Command::new(&program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("only Linux has io_uring");
    std::process::exit(2);
}
