//! The flags of `landfall files`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::exit::Failure;
use crate::metrics::MetricsArgs;
use crate::options::RuntimeOptions;
use crate::output::OutputArgs;
use crate::system::sending::{SENDING, Sending};
use crate::units::{ByteRate, Limit, parse_byte_rate, parse_count, parse_time};

/// Serve the files of a directory over HTTP/1.1.
///
/// Nothing outside of DIR is ever served, whatever is asked for. Prints the addresses it listens on
/// to standard output as soon as clients can come, their URLs to standard error, and what it has served
/// when it ends: after SIGINT or SIGTERM, when the answers under way have been sent or --drain-timeout
/// is over.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  landfall files .
  landfall files /srv/images --listen 0.0.0.0:8000 --rate-limit 10Mi/s -v
  curl -C - -O http://127.0.0.1:8000/image.iso   resumes a download
  curl 'http://127.0.0.1:8000/?format=json'      lists a directory for a program

Exit codes: 0 done, 1 failed, 2 usage, 4 a limit of this machine, 130 or 143
stopped by a second signal.")]
pub struct FilesArgs {
    /// The directory to serve
    #[arg(value_name = "DIR", env = "LANDFALL_DIRECTORY")]
    pub directory: PathBuf,

    /// Where to listen, as HOST:PORT; port 0 lets the system choose
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:8000",
        env = "LANDFALL_LISTEN",
        value_delimiter = ','
    )]
    pub listen: Vec<String>,

    /// The file that stands for a directory that has it
    #[arg(
        long, value_name = "NAME", default_value = "index.html", value_parser = parse_index,
        env = "LANDFALL_INDEX"
    )]
    pub index: String,

    /// Do not list directories: one without an index is forbidden (403)
    #[arg(long, env = "LANDFALL_NO_LIST")]
    pub no_list: bool,

    /// Serve and list names that begin with a dot; otherwise there are none (404)
    #[arg(long, env = "LANDFALL_HIDDEN")]
    pub hidden: bool,

    /// Follow symbolic links that lead to what is beneath DIR; otherwise they are forbidden (403) and not
    /// listed
    #[arg(long, env = "LANDFALL_FOLLOW_SYMLINKS")]
    pub follow_symlinks: bool,

    /// The most that one connection is sent, in bytes
    #[arg(
        long, value_name = "SIZE/s", default_value = "none",
        value_parser = Limit::parser(parse_byte_rate), env = "LANDFALL_RATE_LIMIT"
    )]
    pub rate_limit: Limit<ByteRate>,

    /// Whether the system sends from files without copying
    #[arg(
        long, value_enum, value_name = "WHEN", default_value_t = ZeroCopy::Auto,
        env = "LANDFALL_FILES_ZERO_COPY"
    )]
    pub zero_copy: ZeroCopy,

    /// Connections served at any one time, more wait; `none` is a third of the limit on
    /// descriptors
    #[arg(
        long, value_name = "COUNT", default_value = "none",
        value_parser = Limit::parser(parse_count), env = "LANDFALL_MAX_CONNS"
    )]
    pub max_conns: Limit<u32>,

    /// How long a client may take over the head of a request, from its first byte
    #[arg(
        long, value_name = "TIME", default_value = "10s", value_parser = parse_time,
        env = "LANDFALL_FILES_TIMEOUT"
    )]
    pub timeout: Duration,

    /// Close a connection that has no request, or whose client takes nothing of its answer, for this
    /// long
    #[arg(
        long, value_name = "TIME", default_value = "1m", value_parser = Limit::parser(parse_time),
        env = "LANDFALL_IDLE_TIMEOUT"
    )]
    pub idle_timeout: Limit<Duration>,

    /// How long to let answers finish after SIGINT or SIGTERM; a second signal stops at once
    #[arg(
        long, value_name = "TIME", default_value = "30s", value_parser = parse_time,
        env = "LANDFALL_DRAIN_TIMEOUT"
    )]
    pub drain_timeout: Duration,

    /// Where metrics are to be had.
    #[command(flatten)]
    pub metrics: MetricsArgs,

    /// The flags all subcommands share.
    #[command(flatten)]
    pub runtime: RuntimeOptions,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Whether files are copied on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ZeroCopy {
    /// Not copied where the system can
    Auto,
    /// Not copied (Linux: sendfile; Windows: TransmitFile)
    On,
    /// Copied (Linux)
    Off,
}

impl ZeroCopy {
    /// Refuses what this system cannot have.
    pub fn check(self) -> Result<(), Failure> {
        match (self, SENDING) {
            (Self::On, Sending::Copies) => Err(Failure::usage(
                "--zero-copy on: files are copied on this system; leave it to `auto`",
            )),
            (Self::Off, Sending::Kernel) => Err(Failure::usage(
                "--zero-copy off: files are never copied on this system; leave it to `auto`",
            )),
            _ => Ok(()),
        }
    }

    /// Whether the system is asked to send what it takes at once.
    pub fn sends_at_once(self) -> bool {
        self != Self::Off && SENDING == Sending::Either
    }
}

/// A plain name: the index is looked for in the directory itself.
fn parse_index(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains(['/', '\\', '\0']) || text == "." || text == ".." {
        true => Err(String::from(
            "it is the name of a file, without a directory, as in index.html",
        )),
        false => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_a_plain_name() {
        assert_eq!(parse_index("start.htm").as_deref(), Ok("start.htm"));
        for wrong in ["", ".", "..", "../x", "a/b", "a\\b", "a\0"] {
            assert!(parse_index(wrong).is_err(), "{wrong:?}");
        }
    }
}
