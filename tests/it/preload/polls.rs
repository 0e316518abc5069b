//! What drivers ask again and again.

use gpu_broker_tests::Builder;

use super::Stage;
use crate::policy::metrics;

#[test]
fn polls_cost_no_messages_and_a_child_makes_no_answer_stale() {
    let builder = Builder::new();
    let socket = builder.socket().with_file_name("metrics.sock");
    let config = format!("[metrics]\nlisten = \"{}\"", socket.display());
    let mut stage = Stage::with(builder.config(&config).start());
    let before = stage.daemon.footprint();
    let arguments: &[&str] = &[];
    let told = stage.run(stage.compile("polls", &[]), arguments);
    assert_eq!(told.succeeded(), "done\n");
    stage.daemon.settles_to(&before);
    let requests = metrics::value(
        &socket,
        "gpu_broker_request_seconds_count{class=\"default\",request=\"other\"}",
    );
    // Of 400000 questions a few dozen are asked.
    assert!((10.0..2000.0).contains(&requests), "{requests} requests");
    stage.daemon.assert_unharmed();
}
