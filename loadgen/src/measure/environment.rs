//! Where a run took place: what somebody needs to know who compares two summaries.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Machine, build and layout of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    /// The machine's name.
    pub host: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the first cpu; empty where it is not told.
    pub cpu_model: String,
    /// Cpus of the machine.
    pub cpus: usize,
    /// Cpus that this process may use; the shards are pinned to them in this order.
    pub cpu_list: Vec<usize>,
    /// Cpus' worth of time that the cgroups grant; `null` is unlimited.
    pub cpu_quota: Option<f64>,
    /// Shards that carried load.
    pub shards: usize,
    /// `release` or `debug`.
    pub build: String,
    /// What the target granted in its answer to our hello; `null` when none was sent.
    pub granted: Option<Granted>,
}

/// The target's answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Granted {
    /// `each` or `range`.
    pub replies: String,
    /// `received`, `written` or `durable`.
    pub durability: String,
}

impl Environment {
    /// Asks the machine. `cpu_list` and `cpu_quota` come from whoever sized the shards.
    pub fn detect(cpu_list: Vec<usize>, cpu_quota: Option<f64>, shards: usize) -> Environment {
        let uname = rustix::system::uname();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Environment {
            host: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            cpu_model: cpu_model(&cpuinfo).to_owned(),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            cpu_list,
            cpu_quota,
            shards,
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            granted: None,
        }
    }
}

fn cpu_model(cpuinfo: &str) -> &str {
    let field = |line: &'_ str| line.split_once(':').map(|(name, _)| name.trim() == "model name");
    let line = cpuinfo.lines().find(|line| field(line) == Some(true)).unwrap_or_default();
    line.split_once(':').map_or("", |(_, model)| model.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_model_is_taken() {
        let text = "processor\t: 0\nmodel name\t: A B @ 3 GHz\nprocessor\t: 1\nmodel name\t: C\n";
        assert_eq!(cpu_model(text), "A B @ 3 GHz");
        assert_eq!(cpu_model(""), "");
    }

    #[test]
    fn this_machine_has_a_kernel_and_cpus() {
        let environment = Environment::detect(vec![0], None, 1);
        assert!(!environment.kernel.is_empty());
        assert!(environment.cpus >= 1);
    }
}
