//! Metrics, and people who read them badly.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use gpu_broker_tests::{Builder, Witness, eventually};

fn ask(path: &Path, request: &str) -> Option<String> {
    let mut stream = UnixStream::connect(path).ok()?;
    stream.set_read_timeout(Some(gpu_broker_tests::PATIENCE)).expect("a socket");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text).filter(|text| !text.is_empty())
}

/// One number of the metrics.
pub(crate) fn value(path: &Path, name: &str) -> f64 {
    let text = eventually("metrics are served", || ask(path, "GET /metrics HTTP/1.1\r\n\r\n"));
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.unwrap_or_else(|| panic!("no {name} in:\n{text}"));
    number.trim().parse().expect("a number")
}

#[test]
fn metrics_say_what_happened() {
    let builder = Builder::new();
    let path = builder.socket().with_file_name("metrics.sock");
    let config = format!("[metrics]\nlisten = \"{}\"", path.display());
    let mut daemon = builder.config(&config).start();
    Witness::start(daemon.socket()).finish();
    let mut client = daemon.client("counted");
    let destroy = gpu_broker_protocol::message::ContextDestroy {
        context: gpu_broker_protocol::ContextId(9),
        pad: 0,
    };
    let _ = client.call(gpu_broker_protocol::Request::ContextDestroy(destroy)).refusal();
    client.create_context();
    let refused = "gpu_broker_refusals_total{class=\"default\",reason=\"no-such-context\"}";
    assert_eq!(value(&path, refused), 1.0);
    let held = |resource: &str| {
        value(&path, &format!("gpu_broker_class_held{{class=\"default\",resource=\"{resource}\"}}"))
    };
    assert_eq!((held("contexts"), held("sessions")), (1.0, 2.0), "ours, and the monitor");
    assert!(value(&path, "gpu_broker_engine_batches_total{engine=\"rcs0\"}") >= 1.0);
    let had = |class: &str, engine: &str| {
        let labels = format!("{{class=\"{class}\",engine=\"{engine}\"}}");
        value(&path, &format!("gpu_broker_class_engine_seconds_total{labels}"))
    };
    assert!(had("default", "render") > 0.0, "the witness is gone, what it had is not");
    assert_eq!((had("default", "compute"), had("deny", "render")), (0.0, 0.0));
    let execbufs = "gpu_broker_request_seconds_count{class=\"default\",request=\"execbuf\"}";
    assert!(value(&path, execbufs) >= 8.0, "the witness's");
    let text = ask(&path, "GET / HTTP/1.0\r\n\r\n").expect("served");
    assert!(text.contains("_bucket{le=\"+Inf\","), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert!(ask(&path, "POST / HTTP/1.1\r\n\r\n").is_some_and(|text| text.contains("405")));
    daemon.assert_unharmed();
}

/// Who says nothing, asks for ever or does not read costs nobody else anything.
#[test]
fn slow_readers_of_metrics_are_cut_off() {
    let builder = Builder::new();
    let path = builder.socket().with_file_name("metrics.sock");
    let config = format!("[metrics]\nlisten = \"{}\"", path.display());
    let mut daemon = builder.config(&config).start();
    let before = daemon.footprint();
    let witness = Witness::start(daemon.socket());
    let silent: Vec<UnixStream> =
        (0..100).map(|_| UnixStream::connect(&path).expect("the queue has room")).collect();
    for mut stream in silent.iter().take(50) {
        // It may have been hung up on already.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n");
    }
    witness.goes_on();
    let endless = "GET /".repeat(4000);
    eventually("places become free again", || {
        ask(&path, "GET /metrics HTTP/1.1\r\n\r\n").filter(|text| text.contains("# EOF"))
    });
    assert!(ask(&path, &endless).is_none_or(|answer| answer.contains("431")));
    witness.goes_on();
    witness.finish();
    drop(silent);
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}
