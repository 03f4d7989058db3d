//! What one function costs. The benchmarks are the `*.rs` files beside this one.
