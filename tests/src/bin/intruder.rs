//! Somebody who took the daemon over: confines itself as the daemon does, with the daemon's own code,
//! and makes one system call that a test names.
//!
//! `intruder on|kill soft|i915 DIRECTORY NUMBER ARGUMENT…`, where DIRECTORY holds `config.toml` and
//! `sockets/`. An argument is a number, a path, `code` (the address of a page of its own), `other`
//! (the process that started it) or `self`. It prints `ok` or the errno; with `thread` instead of a
//! number it makes a thread.
#![expect(unsafe_code, reason = "system calls that no safe function makes")]

use std::ffi::CString;
use std::path::Path;

use gpu_brokerd::args::Args;
use gpu_brokerd::config::Config;
use gpu_brokerd::confine::{Confinement, Role};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [sandbox, role, directory, call, rest @ ..] = &*arguments else {
        panic!("usage: intruder on|kill soft|i915 DIRECTORY NUMBER ARGUMENT…")
    };
    let directory = Path::new(directory);
    let (role, device) = match &**role {
        "soft" => (Role::Soft, "soft"),
        "i915" => (Role::I915, "/dev/dri/renderD128"),
        other => panic!("no role: {other}"),
    };
    let args = Args {
        config: Some(directory.join("config.toml")),
        device: Some(device.to_owned()),
        sandbox: Some(sandbox.clone()),
        ..Args::default()
    };
    let config = Config::load(&args).expect("a configuration");
    // As large as a page, and where one begins.
    let page = vec![0_u8; 8192];
    let code = page.as_ptr().expose_provenance().next_multiple_of(4096);
    let paths: Vec<CString> =
        rest.iter().map(|argument| CString::new(argument.as_str()).expect("no zero")).collect();
    let mut values = [0_usize; 6];
    for ((value, argument), path) in values.iter_mut().zip(rest).zip(&paths) {
        *value = match &**argument {
            "code" => code,
            "other" => rustix::process::getppid().map_or(0, number),
            "self" => number(rustix::process::getpid()),
            path_text if path_text.starts_with('/') => path.as_ptr().expose_provenance(),
            negative if negative.starts_with('-') => {
                negative.parse::<isize>().expect("a number").cast_unsigned()
            }
            positive => positive.parse().expect("a number"),
        };
    }
    let sockets = [directory.join("sockets")];
    let sockets = || sockets.iter().map(AsRef::as_ref);
    let mut confinement = Confinement::begin(&config, &args, sockets());
    if role == Role::Soft {
        confinement.narrow(&config, &args, sockets());
    }
    confinement.complete(role);
    assert!(confinement.holds(), "not confined: {confinement:?}");
    if call == "thread" {
        std::thread::spawn(|| ()).join().expect("threads are made");
        println!("ok");
        return;
    }
    let [a, b, c, d, e, f] = values;
    let call: libc::c_long = call.parse().expect("a system call's number");
    // SAFETY: the page and the paths live until the end of `main`. Whatever else the call does, the
    // process does nothing after it but print the answer.
    let answer = unsafe { libc::syscall(call, a, b, c, d, e, f) };
    match answer {
        -1 => println!(
            "{}",
            rustix::io::Errno::from_io_error(&std::io::Error::last_os_error())
                .map_or(0, rustix::io::Errno::raw_os_error)
        ),
        _ => println!("ok"),
    }
}

fn number(pid: rustix::process::Pid) -> usize {
    usize::try_from(pid.as_raw_nonzero().get()).unwrap_or(0)
}
