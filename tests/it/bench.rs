//! `gpu-broker bench`: that it measures everything it should. How fast is not a test's business.

use std::collections::BTreeMap;
use std::process::Command;

use gpu_broker_tests::binaries;
use serde_json::Value;

/// Every figure that must be there, and whether it is a ratio to the raw socket.
const FIGURES: &[(&str, bool)] = &[
    ("hello", true),
    ("create_destroy", true),
    ("setparam", true),
    ("execbuf", true),
    ("fd_call", true),
    ("execbuf_2", true),
    ("execbuf_userptr", true),
    ("userptr_invalidate", true),
    ("userptr_repin", true),
    ("userptr_register_per_mib", true),
    ("gem_exec_nop", true),
    ("gem_create", true),
    ("execbuf_rate_1", false),
    ("execbuf_rate_16", false),
    ("execbuf_rate_128", false),
    ("idle_client_bytes", false),
    ("flooded_neighbour_worst", false),
    ("share_equal", false),
    ("share_priority", false),
    ("sporadic_latency", false),
    ("spinners_cpu", false),
];

#[test]
fn json_has_every_figure() {
    let output = Command::new(binaries::cli())
        .args(["bench", "--quick", "--json"])
        .output()
        .expect("gpu-broker can be started");
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complained}");
    let parsed: Value = serde_json::from_slice(&output.stdout).expect("it is JSON and only JSON");
    let mut figures = BTreeMap::new();
    for figure in parsed.as_array().expect("it is an array") {
        let name = figure["name"].as_str().expect("name is text");
        assert!(figure["value"].is_number(), "{figure}");
        assert!(!figure["unit"].as_str().expect("unit is text").is_empty(), "{figure}");
        let ratio = figure.get("ratio").expect("ratio is there, if only as null");
        assert!(ratio.is_number() || ratio.is_null(), "{figure}");
        assert!(figures.insert(name, figure).is_none(), "{name} is there twice");
    }
    for (name, has_ratio) in FIGURES {
        let figure = figures.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        let value = figure["value"].as_f64().expect("checked above");
        assert!(value.is_finite() && value > 0.0, "{figure}");
        assert!(
            !has_ratio || figure["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0),
            "{figure}"
        );
    }
}
