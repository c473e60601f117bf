//! `landfall`: the command-line tool of Landfall. One folder for each subcommand; what they share
//! is beside them.

mod command_line;
mod demo;
mod exit;
mod files;
mod http;
mod load;
mod map;
mod metrics;
mod options;
mod output;
mod scan;
mod serve;
mod system;
mod units;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::{Exit, Failure};

/// Completion ports on every system: serves and loads TCP with tens of thousands of connections,
/// forwards ports, scans them, and serves files.
///
/// Data goes to standard output, messages to standard error. Times need a unit (500ms, 2s, 1m30s);
/// sizes take k M G (1000) and Ki Mi Gi (1024); rates say what they are per (2000/s). Every flag
/// can be set in the environment, under the name its help shows.
#[derive(Debug, Parser)]
#[command(
    name = "landfall",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  landfall demo                          server and client on this machine
  landfall serve 127.0.0.1:7000
  landfall load 127.0.0.1:7000 -c 30k
  landfall files .                       a directory over HTTP
  landfall map 127.0.0.1:9000=127.0.0.1:7000
  landfall scan localhost -p -

Exit codes: 0 done, 1 failed, 2 usage, 3 a check failed, 4 a limit of this
machine, 130 or 143 stopped by a signal before the end."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Load(load::LoadArgs),
    Demo(demo::DemoArgs),
    Files(files::FilesArgs),
    Map(map::MapArgs),
    Scan(scan::ScanArgs),
}

fn main() -> ExitCode {
    let words = match scan::spell_out(std::env::args_os().collect()) {
        Ok(words) => words,
        Err(failure) => return report_failure(failure).into(),
    };
    let cli: Cli = match command_line::read(&words) {
        Ok(cli) => cli,
        // Also the help and the version, for which the code is 0.
        Err(refusal) => refusal.exit(),
    };
    let result = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Files(args) => files::run(&args),
        Command::Map(args) => map::run(&args),
        Command::Scan(args) => scan::run(&args),
    };
    result.unwrap_or_else(report_failure).into()
}

fn report_failure(failure: Failure) -> Exit {
    if !failure.is_told() {
        output::Messages::error(&failure);
    }
    failure.exit
}

#[cfg(test)]
mod tests {
    use clap::{ArgAction, CommandFactory};

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn examples_and_exit_codes_fit_a_narrow_terminal() {
        let mut tool = Cli::command();
        tool.build();
        for command in tool.get_subcommands().chain([&tool]) {
            let text = command.get_after_help().map(ToString::to_string);
            for line in text.iter().flat_map(|text| text.lines()) {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }

    #[test]
    fn every_flag_can_be_set_in_the_environment_and_shows_its_default() {
        for command in Cli::command().get_subcommands() {
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let name = format!("{} {}", command.get_name(), arg.get_id());
                let variable = arg
                    .get_env()
                    .unwrap_or_else(|| panic!("{name} has no environment variable"));
                assert!(
                    variable.to_string_lossy().starts_with("LANDFALL_"),
                    "{name}"
                );
                // A list is empty by default, a text absent, a switch off, an operand required.
                let speaks_for_itself = arg.is_positional()
                    || matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::Append)
                    || arg.get_id() == "message";
                assert!(
                    speaks_for_itself || !arg.get_default_values().is_empty(),
                    "{name} has no default"
                );
            }
        }
    }

    /// Flags that mean something of their own in a subcommand, beside those of the same name in others.
    const OWN: [(&str, &str); 9] = [
        ("load", "rate"),
        ("load", "timeout"),
        ("demo", "timeout"),
        ("files", "timeout"),
        ("files", "zero-copy"),
        ("map", "zero-copy"),
        ("scan", "timeout"),
        ("scan", "rate"),
        ("scan", "concurrency"),
    ];

    #[test]
    fn a_variable_is_called_like_its_flag_with_the_subcommand_where_that_has_its_own_meaning() {
        for command in Cli::command().get_subcommands() {
            let subcommand = command.get_name();
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let (Some(flag), Some(variable)) = (arg.get_long(), arg.get_env()) else {
                    continue;
                };
                let name = match OWN.contains(&(subcommand, flag)) {
                    true => format!("landfall-{subcommand}-{flag}"),
                    false => format!("landfall-{flag}"),
                };
                let name = name.replace('-', "_").to_uppercase();
                assert_eq!(variable.to_str(), Some(&*name), "{subcommand} --{flag}");
            }
        }
    }
}
