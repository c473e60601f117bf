//! Where the result goes, and in which form.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::messages::{Messages, Verbosity};
use crate::exit::{Exit, Failure};

/// The output flags every subcommand has.
#[derive(Args, Clone, Debug)]
pub struct OutputArgs {
    /// Print the result as one JSON object (its keys are in landfall-cli/README.md)
    #[arg(long, env = "LANDFALL_JSON", help_heading = "Output")]
    pub json: bool,

    /// Write the result to FILE; `-` is standard output
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "-",
        env = "LANDFALL_OUTPUT",
        help_heading = "Output"
    )]
    pub output: PathBuf,

    /// Say nothing but errors and the result
    #[arg(
        short,
        long,
        env = "LANDFALL_QUIET",
        help_heading = "Output",
        conflicts_with = "verbose"
    )]
    pub quiet: bool,

    /// Say more
    #[arg(short, long, env = "LANDFALL_VERBOSE", help_heading = "Output")]
    pub verbose: bool,
}

impl OutputArgs {
    /// The messages these flags ask for.
    pub fn messages(&self) -> Messages {
        Messages::new(match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, true) => Verbosity::Verbose,
            (false, false) => Verbosity::Normal,
        })
    }
}

/// A result: an object for programs, a table for people.
pub trait Report: Serialize {
    /// The table, ending in a newline.
    fn table(&self) -> String;
}

/// The place a result is written to. Opened before the work starts, so that a wrong path costs no
/// run.
#[derive(Debug)]
pub struct Sink {
    json: bool,
    path: PathBuf,
    file: Option<File>,
}

impl Sink {
    /// Opens what the flags name.
    pub fn open(args: &OutputArgs) -> Result<Self, Failure> {
        let path = args.output.clone();
        let file = if path.as_os_str() == "-" {
            None
        } else {
            Some(File::create(&path).map_err(|error| cannot_create("-o", &path, &error))?)
        };
        Ok(Self {
            json: args.json,
            path,
            file,
        })
    }

    /// Writes the result.
    pub fn write(&mut self, report: &impl Report) -> Result<(), Failure> {
        let text = if self.json {
            json_line(report)?
        } else {
            report.table()
        };
        let written = match &mut self.file {
            Some(file) => file.write_all(text.as_bytes()),
            None => write_stdout(&text),
        };
        written.map_err(|error| {
            Failure::failed(format!(
                "cannot write the result to {}: {error}",
                self.place()
            ))
        })
    }

    fn place(&self) -> String {
        match self.file {
            Some(_) => self.path.display().to_string(),
            None => String::from("standard output"),
        }
    }
}

/// A file that cannot be is a mistake on the command line, unless a limit is in the way.
pub fn cannot_create(flag: &str, path: &Path, error: &io::Error) -> Failure {
    let exit = match Exit::of_system(error) {
        Exit::Failed => Exit::Usage,
        exit => exit,
    };
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "; there is no such directory, make it first",
        io::ErrorKind::IsADirectory => "; name a file in it",
        _ => "",
    };
    let path = path.display();
    Failure::new(
        exit,
        format!("cannot create {flag} {path}: {error}{advice}"),
    )
}

/// An object on a line of its own.
pub fn json_line(object: &impl Serialize) -> Result<String, Failure> {
    let mut text = serde_json::to_string(object)
        .map_err(|error| Failure::failed(format!("cannot put the result into JSON: {error}")))?;
    text.push('\n');
    Ok(text)
}

/// Writes to standard output at once, without the panic of `println!` when nobody reads any more.
pub fn write_stdout(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
