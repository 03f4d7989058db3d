//! Reads the command line and the environment into a [`Cli`], and remembers where each value came
//! from.
//!
//! A value in the environment that no knob can take is set aside and the rest read on, so that all
//! of them can be told at once; what is wrong on the command line is told first and alone.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use serde::Serialize;

use super::Cli;

/// A knob as it was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Knob {
    /// As an environment variable: SERVER_PORT.
    pub name: String,
    /// As it was written; `None` where nothing was and the default is no fixed value.
    pub value: Option<String>,
    /// Who said so.
    pub source: Source,
}

/// Where the value of a knob comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// Nobody.
    Default,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// With the default in the place of what was refused.
    pub cli: Cli,
    /// Variables of the environment with values that their knob cannot take, in words.
    pub refused: Vec<String>,
}

/// Reads `arguments`, the first of which is the program, and the environment.
///
/// # Errors
/// What clap says about the command line: wrong usage, or help and version, which are errors to it.
pub fn ask(arguments: &[OsString]) -> Result<Asked, clap::Error> {
    let mut command = Cli::command();
    let mut refused = Vec::new();
    loop {
        let error = match command.clone().try_get_matches_from(arguments) {
            Ok(matches) => {
                let mut cli = Cli::from_arg_matches(&matches)?;
                cli.config.knobs = knobs(&matches);
                return Ok(Asked { cli, refused });
            }
            Err(error) => error,
        };
        let Some(id) = refused_variable(&command, &error) else {
            return Err(advise(command, error));
        };
        refused.push(in_words(&error));
        command = command.mut_arg(id, |arg| arg.env(None::<&str>));
    }
}

/// The knob whose value was refused and that the environment may have set.
fn refused_variable(command: &clap::Command, error: &clap::Error) -> Option<clap::Id> {
    if !matches!(
        error.kind(),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue | ErrorKind::WrongNumberOfValues
    ) {
        return None;
    }
    let arg = knob(command, error)?;
    // Once its variable is set aside, it can only be the command line.
    std::env::var_os(arg.get_env()?).map(|_| arg.get_id().clone())
}

/// What clap says, without "error: " and what follows the first blank line.
fn in_words(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let words = lines.join(" ");
    words.strip_prefix("error: ").unwrap_or(&words).to_owned()
}

/// The knob that an error is about, if it is one.
fn knob<'c>(command: &'c clap::Command, error: &clap::Error) -> Option<&'c clap::Arg> {
    let flag = context(error, ContextKind::InvalidArg)?.split_whitespace().next()?;
    let name = flag.strip_prefix("--")?;
    command.get_arguments().find(|arg| arg.get_long() == Some(name))
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    }
}

/// Adds what to write instead, where a subcommand and a knob have got in each other's way.
fn advise(mut command: clap::Command, error: clap::Error) -> clap::Error {
    let Some(flag) = knob(&command, &error).and_then(clap::Arg::get_long) else { return error };
    let value = context(&error, ContextKind::InvalidValue);
    let swallowed = value.filter(|value| command.find_subcommand(value).is_some());
    let advice = match (error.kind(), swallowed) {
        (ErrorKind::InvalidValue, Some(name)) => {
            format!("`--{flag}` took `{name}` for its value; write `--{flag}=true {name}`")
        }
        (ErrorKind::UnknownArgument, _) => {
            format!("knobs stand in front of the subcommand: `--{flag} … SUBCOMMAND`")
        }
        _ => return error,
    };
    command.error(error.kind(), format!("{}\n\n  tip: {advice}", in_words(&error)))
}

/// Every knob but help and version, which are none.
fn knobs(matches: &ArgMatches) -> Vec<Knob> {
    // Not the command that was parsed with: there, refused variables are out of order.
    let command = Cli::command();
    let ids = command.get_arguments().map(|arg| arg.get_id().as_str());
    ids.filter(|id| !matches!(*id, "help" | "version"))
        .map(|id| {
            let name = id.to_uppercase();
            let source = match matches.value_source(id) {
                Some(ValueSource::CommandLine) => Source::Flag,
                Some(ValueSource::EnvVariable) => Source::Environment,
                _ => Source::Default,
            };
            let value = matches.get_raw(id).map(|values| {
                values.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(",")
            });
            let value = value.map(|value| if is_secret(&name) { "(hidden)".into() } else { value });
            Knob { name, value, source }
        })
        .collect()
}

/// Whether the value of a knob is for nobody's eyes. The path of a secret is none.
fn is_secret(name: &str) -> bool {
    ["TOKEN", "PASSWORD", "SECRET", "KEY"].iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(arguments: &[&str]) -> Result<Asked, clap::Error> {
        let arguments: Vec<_> =
            [&["logboom-engine"], arguments].concat().into_iter().map(OsString::from).collect();
        ask(&arguments)
    }

    #[test]
    fn every_knob_says_where_its_value_comes_from() {
        let knobs = asked(&["--server-port", "9050", "check"]).unwrap().cli.config.knobs;
        let find = |name: &str| knobs.iter().find(|knob| knob.name == name).unwrap();
        let port = find("SERVER_PORT");
        assert_eq!((port.value.as_deref(), port.source), (Some("9050"), Source::Flag));
        let size = find("COMMIT_BYTES_MAX");
        assert_eq!((size.value.as_deref(), size.source), (Some("4MiB"), Source::Default));
        assert_eq!(find("READY_FILE").value, None);
        let knobs = asked(&["check", "--log-dir", "x"]).unwrap().cli.config.knobs;
        assert_eq!(knobs.iter().find(|k| k.name == "LOG_DIR").unwrap().source, Source::Flag);
    }

    #[test]
    fn a_subcommand_and_a_knob_in_each_others_way_are_told_apart() {
        let text = asked(&["--enable-persistence", "doctor"]).unwrap_err().to_string();
        assert!(text.contains("--enable-persistence=true doctor"), "{text}");
        let text = asked(&["check", "--server-port", "1"]).unwrap_err().to_string();
        assert!(text.contains("in front of the subcommand"), "{text}");
        let text = asked(&["check", "--no-such"]).unwrap_err().to_string();
        assert!(!text.contains("in front of"), "{text}");
    }

    #[test]
    fn secrets_are_hidden_and_their_paths_are_not() {
        assert!(is_secret("POSTGRES_PASSWORD") && is_secret("TOKEN"));
        assert!(!is_secret("AUTH_TOKEN_FILE") && !is_secret("CERT_DIR"));
    }
}
