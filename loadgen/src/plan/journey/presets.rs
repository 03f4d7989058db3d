//! Journeys that come with the program: `--journey simple`, `medium`, `complex`.
//!
//! Each is a file beside this one, as a scenario file has it: to be run as it is where a server
//! has these paths, and to be copied and changed elsewhere.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::StepText;

/// One that is built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// A page, and the same page again, if it has changed. Any web server that serves files.
    Simple,
    /// Log in, list, look at one.
    Medium,
    /// Log in, create, read, change, find, remove, and see that it is gone.
    Complex,
}

impl Preset {
    /// From little to much.
    pub const ALL: [Preset; 3] = [Preset::Simple, Preset::Medium, Preset::Complex];

    /// Its scenario file: one flow without a target.
    pub fn text(self) -> &'static str {
        match self {
            Preset::Simple => include_str!("presets/simple.toml"),
            Preset::Medium => include_str!("presets/medium.toml"),
            Preset::Complex => include_str!("presets/complex.toml"),
        }
    }

    /// Its steps.
    pub fn steps(self) -> Vec<StepText> {
        #[derive(Deserialize)]
        struct File {
            flow: [Flow; 1],
        }
        #[derive(Deserialize)]
        struct Flow {
            step: Vec<StepText>,
        }
        let file: File = toml::from_str(self.text()).expect("a test reads it");
        let [flow] = file.flow;
        flow.step
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> Result<Preset, String> {
        let found = Preset::ALL.into_iter().find(|preset| preset.to_string() == text);
        found.ok_or_else(|| format!("\"{text}\" is not simple, medium or complex"))
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Preset::Simple => "simple",
            Preset::Medium => "medium",
            Preset::Complex => "complex",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::journey::Journey;

    #[test]
    fn every_preset_is_a_journey() {
        let lengths = Preset::ALL.map(|preset| {
            assert_eq!(preset.to_string().parse(), Ok(preset));
            Journey::new(&preset.steps()).unwrap().steps().len()
        });
        assert_eq!(lengths, [2, 3, 7]);
    }
}
