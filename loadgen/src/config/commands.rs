//! What the program does besides running: the subcommands.

use clap::Subcommand;
use clap_complete::Shell;

/// Instead of a run.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Measure how much this machine can send for these payloads, and keep it for the validity of
    /// later runs; knobs may stand behind it
    Calibrate,
    /// Print command lines that are worth knowing, with a sentence each
    Examples,
    /// Print completions for a shell, to be sourced
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page (roff)
    Man,
}
