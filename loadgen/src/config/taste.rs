//! What a person wants of a terminal, beside the knobs: what every program is told by NO_COLOR and
//! TERM. With `args`, the only file that reads the environment.

/// How a terminal may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taste {
    /// It shows text line by line, and nothing else (TERM is `dumb` or not set).
    pub is_dumb: bool,
    /// Colours are welcome (NO_COLOR is not set, or empty).
    pub has_color: bool,
}

/// Asks the environment.
pub fn taste() -> Taste {
    let term = std::env::var_os("TERM").unwrap_or_default();
    let no_color = std::env::var_os("NO_COLOR").unwrap_or_default();
    Taste { is_dumb: term.is_empty() || term == "dumb", has_color: no_color.is_empty() }
}
