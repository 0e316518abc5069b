//! Gives the shared library its SONAME: programs ask for the interface they were built with.

fn main() {
    // Raised when a function or a structure of gpu_broker.h changes in a way that old programs
    // would notice; `gpu_broker.pc.in` and the README's install commands name the same file.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libgpu_broker.so.0");
    println!("cargo::rerun-if-changed=build.rs");
}
