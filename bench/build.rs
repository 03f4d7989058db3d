//! Routes glommio's ring set-up through `ring_flags`; every package that links an executor has this file.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg=-Wl,--wrap=io_uring_queue_init_params");
}
