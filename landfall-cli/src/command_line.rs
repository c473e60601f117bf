//! The command line and the environment, put together. What is given on the command line wins over
//! what the environment says against it.

use std::error::Error as _;
use std::ffi::{OsStr, OsString};

use clap::builder::{BoolishValueParser, FalseyValueParser, Resettable, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Error, Id, Parser};

/// Reads the words of a command line, the first of which is the program's name, and the
/// environment. An error is ready to be printed, and may be the help that was asked for.
pub fn read<T: Parser>(words: &[OsString]) -> Result<T, Error> {
    let given = given_in(T::command(), words);
    let mut command = T::command().mut_subcommands(|sub| with_environment(sub, &given));
    command
        .try_get_matches_from_mut(words)
        .and_then(|mut matches| T::from_arg_matches_mut(&mut matches))
        .map_err(|error| explain(error, &command, words, &given))
}

/// The names of what stands on the command line. Mistakes in it are found later, when the
/// environment is known.
fn given_in(command: Command, words: &[OsString]) -> Vec<Id> {
    let matches = command
        .mut_subcommands(|sub| sub.mut_args(without_environment))
        .ignore_errors(true)
        .try_get_matches_from(words);
    let Some((_, matches)) = matches.as_ref().ok().and_then(ArgMatches::subcommand) else {
        return Vec::new();
    };
    let stands_there =
        |id: &&Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    matches.ids().filter(stands_there).cloned().collect()
}

fn without_environment(arg: Arg) -> Arg {
    arg.env(Resettable::Reset)
}

/// Takes of the environment what says something, and nothing against what was given.
fn with_environment(command: Command, given: &[Id]) -> Command {
    let mut contradicted: Vec<Id> = Vec::new();
    for arg in command.get_arguments() {
        for other in command.get_arg_conflicts_with(arg) {
            let pair = [arg.get_id(), other.get_id()];
            if pair.iter().any(|id| given.contains(id)) {
                contradicted.extend(pair.map(Id::clone));
            }
        }
    }
    command.mut_args(|arg| {
        let arg = match is_switch(&arg) {
            true => arg.value_parser(parse_switch),
            false => arg,
        };
        match says_nothing(&arg) || contradicted.contains(arg.get_id()) {
            true => without_environment(arg),
            false => arg,
        }
    })
}

fn parse_switch(text: &str) -> Result<bool, String> {
    BoolishValueParser::new()
        .parse_ref(&Command::new(""), None, OsStr::new(text))
        .map_err(|_| String::from("it takes 1, true, yes or on, and 0, false, no or off"))
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// Whether the variable is there and empty, or a switch that is off: as good as not there.
fn says_nothing(arg: &Arg) -> bool {
    let Some(value) = arg.get_env().and_then(std::env::var_os) else {
        return false;
    };
    let is_on = FalseyValueParser::new().parse_ref(&Command::new(""), None, &value);
    value.is_empty() || is_switch(arg) && is_on.is_ok_and(|is_on| !is_on)
}

/// Says of a mistake what the plain message leaves to be guessed.
fn explain(mut error: Error, command: &Command, words: &[OsString], given: &[Id]) -> Error {
    drop_tip_to_escape(&mut error);
    let Some(sub) = words
        .iter()
        .skip(1)
        .find_map(|word| command.find_subcommand(word))
    else {
        return error;
    };
    let problem = match error.kind() {
        ErrorKind::UnknownArgument => negative(&error, words),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => in_variable(&error, sub, given),
        ErrorKind::ArgumentConflict | ErrorKind::InvalidUtf8 => beside(&error, sub, given),
        _ => None,
    };
    match problem {
        Some(problem) => sub.clone().error(error.kind(), problem),
        None => error,
    }
}

/// Operands are addresses here, which do not begin with a dash: what does is a mistake, and not to
/// be written after `--`.
fn drop_tip_to_escape(error: &mut Error) {
    if let Some(ContextValue::StyledStrs(tips)) = error.remove(ContextKind::Suggested) {
        let others: Vec<_> = tips
            .into_iter()
            .filter(|tip| !tip.to_string().contains("as a value"))
            .collect();
        if !others.is_empty() {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(others));
        }
    }
}

/// A negative number was taken for a flag.
fn negative(error: &Error, words: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if !flag.strip_prefix('-').is_some_and(is_number) {
        return None;
    }
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let place = words
        .iter()
        .position(|word| word.starts_with(flag.as_str()))?;
    let value = &words[place];
    Some(match words[place - 1].starts_with('-') {
        true => format!(
            "`{value}` for '{}' is negative: nothing here can be",
            words[place - 1]
        ),
        false => format!("`{value}` is negative: nothing here can be"),
    })
}

/// What a variable of the environment holds is wrong.
fn in_variable(error: &Error, command: &Command, given: &[Id]) -> Option<String> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) else {
        return None;
    };
    let variable = command
        .get_arguments()
        .filter(|arg| !given.contains(arg.get_id()))
        .find(|arg| arg.to_string() == *flag)
        .and_then(Arg::get_env)?;
    let reason = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(names)) => takes(names),
        _ => error.source()?.to_string(),
    };
    Some(wrong_variable(&variable.to_string_lossy(), value, &reason))
}

/// Says of a variable of the environment that it is wrong, and why.
pub fn wrong_variable(variable: &str, value: &str, reason: &str) -> String {
    format!("invalid value '{value}' for {variable} in the environment: {reason}")
}

/// Lists all that something takes.
pub fn takes(names: &[impl AsRef<str>]) -> String {
    let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
    match names.split_last() {
        Some((last, [])) => format!("it takes {last}"),
        Some((last, others)) => format!("it takes {} or {last}", others.join(", ")),
        None => String::from("it takes nothing"),
    }
}

/// The message, and which variables the reader may have forgotten.
fn beside(error: &Error, command: &Command, given: &[Id]) -> Option<String> {
    let variables: Vec<_> = command
        .get_arguments()
        .filter(|arg| !given.contains(arg.get_id()))
        .filter_map(Arg::get_env)
        .filter(|variable| std::env::var_os(variable).is_some())
        .map(|variable| variable.to_string_lossy())
        .collect();
    let message = error.to_string();
    let message = message.strip_prefix("error: ")?.split("\n\n").next()?;
    (!variables.is_empty()).then(|| {
        format!(
            "{message}\n\n  the environment has: {}",
            variables.join(", ")
        )
    })
}
