//! The operator's tool, as people run it.

use std::path::Path;
use std::process::{Command, Output};

use gpu_broker_tests::{Daemon, binaries, picture};
use serde_json::Value;

fn run(arguments: &[&str], socket: Option<&Path>) -> Output {
    let mut command = Command::new(binaries::cli());
    command.env_remove("GPU_BROKER_SOCKET").env_remove("XDG_RUNTIME_DIR");
    if let Some(socket) = socket {
        command.arg("--socket").arg(socket);
    }
    command.args(arguments).output().expect("gpu-broker can be started")
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let complained = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}\n{said}\n{complained}", output.status);
    said
}

#[track_caller]
fn json(output: &Output) -> Value {
    let said = succeeded(output);
    serde_json::from_str(&said).unwrap_or_else(|problem| panic!("{problem}: {said}"))
}

/// The demo as in the README: it starts everything itself and ends with a picture.
#[test]
fn the_demo_paints_a_picture() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = directory.path().join("picture.png");
    let out = path.to_str().expect("ASCII");
    let said = succeeded(&run(&["demo", "--out", out], None));
    let last = said.trim_end().lines().last().unwrap_or_default();
    assert!(last.contains(out), "the demo ends with the picture's path, not with {last:?}");
    for word in ["proto", "EXECBUF", "held in"] {
        let found = said.to_lowercase().contains(&word.to_lowercase());
        assert!(found, "the demo does not say {word:?}:\n{said}");
    }
    let painted = picture::check(&path).unwrap_or_else(|problem| panic!("{problem}"));
    assert!(painted.width >= 800 && painted.height >= 600, "{painted:?}");

    let second = directory.path().join("second.png");
    let told = json(&run(&["demo", "--json", "--out", second.to_str().expect("ASCII")], None));
    assert!(told.is_object(), "{told}");
    // No clock, no randomness: the GPU paints the same picture every time.
    let (first, second) = (std::fs::read(&path), std::fs::read(&second));
    assert_eq!(first.expect("it is there"), second.expect("it is there"), "two pictures differ");
}

/// A demo that cannot save its picture says so and leaves no process behind.
#[test]
fn the_demo_fails_with_a_sentence() {
    let output = run(&["demo", "--out", "/nonexistent/picture.png"], None);
    assert_eq!(output.status.code(), Some(1));
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(complained.contains("/nonexistent/picture.png"), "{complained}");
}

#[test]
fn status_shows_sessions_and_contexts() {
    let daemon = Daemon::start();
    let mut client = daemon.client("shown");
    let (proto, live) = (client.create_context(), client.create_context());
    let query = gpu_broker_protocol::message::ContextResetStats { context: live, flags: 0, pad: 0 };
    let _stats = client.call(gpu_broker_protocol::Request::ContextResetStats(query)).reply();

    let status = json(&run(&["status", "--json"], Some(daemon.socket())));
    let text = status.to_string();
    for word in ["shown", "rcs0", "bcs0", "proto", "live"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    let sessions = status["sessions"].as_array().expect("sessions are an array");
    let shown = sessions.iter().find(|session| session.to_string().contains("\"shown\""));
    let contexts = shown.expect("our session is listed")["contexts"].as_array();
    assert_eq!(contexts.expect("contexts are an array").len(), 3, "the default one, and {proto}");

    let table = succeeded(&run(&["status"], Some(daemon.socket())));
    for word in ["shown", "rcs0", "proto"] {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }
    assert!(!table.contains('\u{1b}'), "colours in a pipe");
}

#[test]
fn without_a_daemon_it_says_what_to_do() {
    let nowhere = Path::new("/nonexistent/broker.sock");
    let output = run(&["status"], Some(nowhere));
    assert_eq!(output.status.code(), Some(3));
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(complained.contains("/nonexistent/broker.sock"), "{complained}");
    assert!(complained.contains("daemon"), "no word on what to start: {complained}");
    assert!(output.stdout.is_empty(), "errors belong on standard error");
    assert_eq!(run(&["no-such-command"], None).status.code(), Some(2));
}

#[test]
fn completions_and_manual_pages_are_generated() {
    for shell in ["bash", "zsh", "fish"] {
        let script = succeeded(&run(&["completions", shell], None));
        assert!(script.contains("demo") && script.contains("status"), "{shell}");
        assert!(!script.contains("demo-client"), "{shell} completes a hidden command");
    }
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let _said = succeeded(&run(&["man", directory.path().to_str().expect("ASCII")], None));
    let mut pages: Vec<String> = std::fs::read_dir(directory.path())
        .expect("it is ours")
        .flatten()
        .map(|entry| entry.file_name().into_string().expect("ASCII"))
        .collect();
    pages.sort();
    for page in ["gpu-broker.1", "gpu-broker-demo.1", "gpu-broker-status.1"] {
        assert!(pages.iter().any(|name| name == page), "{page} is not among {pages:?}");
    }
    assert!(!pages.iter().any(|name| name.contains("demo-client")), "{pages:?}");
}

/// `gpu-broker daemon` is `gpu-brokerd`.
#[test]
fn the_tool_can_be_the_daemon() {
    let output = run(&["daemon", "--check-config", "--device", "soft"], Some(Path::new("/x.sock")));
    let _said = succeeded(&output);
}
