//! The templates that are part of the program.
//!
//! Owns their names and files. `default` is printed as a template, and sent by
//! [`super::records`], which costs less.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What messages look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Builtin {
    /// Log lines of a shop's services, some 190 bytes.
    #[default]
    Default,
    /// A web application.
    App,
    /// Access logs.
    Nginx,
    /// Linux machines.
    Syslog,
    /// Containers, with their pods.
    K8s,
    /// Stack traces among ordinary lines.
    Stacktrace,
    /// Readings of devices.
    Iot,
}

impl Builtin {
    /// All of them.
    pub const ALL: [Builtin; 7] = [
        Builtin::Default,
        Builtin::App,
        Builtin::Nginx,
        Builtin::Syslog,
        Builtin::K8s,
        Builtin::Stacktrace,
        Builtin::Iot,
    ];

    /// As a knob has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Builtin::Default => "default",
            Builtin::App => "app",
            Builtin::Nginx => "nginx",
            Builtin::Syslog => "syslog",
            Builtin::K8s => "k8s",
            Builtin::Stacktrace => "stacktrace",
            Builtin::Iot => "iot",
        }
    }

    /// The template, in TOML.
    pub fn template(self) -> &'static str {
        match self {
            Builtin::Default => include_str!("builtin/default.toml"),
            Builtin::App => include_str!("builtin/app.toml"),
            Builtin::Nginx => include_str!("builtin/nginx.toml"),
            Builtin::Syslog => include_str!("builtin/syslog.toml"),
            Builtin::K8s => include_str!("builtin/k8s.toml"),
            Builtin::Stacktrace => include_str!("builtin/stacktrace.toml"),
            Builtin::Iot => include_str!("builtin/iot.toml"),
        }
    }
}

impl fmt::Display for Builtin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Builtin {
    type Err = String;

    fn from_str(text: &str) -> Result<Builtin, String> {
        Builtin::ALL.into_iter().find(|it| it.as_str() == text).ok_or_else(|| {
            let names = Builtin::ALL.map(Builtin::as_str).join(", ");
            format!("\"{text}\" is not one of {names} (a file is a TEMPLATE)")
        })
    }
}
