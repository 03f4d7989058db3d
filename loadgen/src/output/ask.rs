//! Questions that are answered without sending anything: `--explain`, `--print-config`, `--schema`,
//! and the subcommands.
//!
//! Owns which question is asked. Each answer is one text for stdout.

mod examples;
mod explain;
mod print;

use loadgen::Error;
use loadgen::config::{self, Args, Command, Config};

/// The answer, if something was asked; `None` is a run.
///
/// # Errors
/// The run that is asked about makes no sense.
pub(crate) fn answer(args: &Args, config: &Config) -> Option<Result<String, Error>> {
    if let Some(command) = &args.command {
        return Some(Ok(match command {
            Command::Calibrate | Command::Record(_) => return None,
            Command::Examples { name: None } => examples::text(),
            Command::Examples { name: Some(name) } => name.text().to_owned(),
            Command::Completions { shell } => completions(*shell),
            Command::Man => manual(),
        }));
    }
    if args.schema {
        return Some(Ok(schema()));
    }
    let resolved = || loadgen::resolved(config);
    if args.explain {
        return Some(resolved().and_then(|config| explain::text(&config, args)));
    }
    let format = args.print_config.as_deref()?;
    Some(resolved().map(|config| match format {
        "json" => serde_json::to_string_pretty(&config).expect("a config is plain data") + "\n",
        _ => print::toml(&config, args),
    }))
}

fn completions(shell: clap_complete::Shell) -> String {
    let mut command = config::command();
    let name = command.get_name().to_owned();
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut out);
    String::from_utf8(out).expect("completions are text")
}

fn manual() -> String {
    let mut out = Vec::new();
    clap_mangen::Man::new(config::command())
        .render(&mut out)
        .expect("writing into memory does not fail");
    String::from_utf8(out).expect("a manual page is text")
}

fn schema() -> String {
    let schema = loadgen::summary::schema::schema();
    serde_json::to_string_pretty(&schema).expect("a schema is plain data") + "\n"
}
