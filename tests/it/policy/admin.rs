//! The administrators' socket.

use std::path::PathBuf;
use std::process::Command;

use gpu_broker_protocol::admin::AdminRevoke;
use gpu_broker_protocol::execbuf::ExecbufHead;
use gpu_broker_protocol::{EpitaphCode, Request, SessionId};
use gpu_broker_tests::{Batch, Builder, Daemon, Message, Raw, Witness, binaries, eventually};

pub(super) fn daemon(more: &str) -> (Daemon, PathBuf) {
    let builder = Builder::new();
    let socket = builder.socket().with_file_name("admin.sock");
    let config = format!("{more}\n[admin]\nsocket = \"{}\"\n", socket.display());
    let daemon = builder.config(&config).start();
    (daemon, socket)
}

pub(super) fn admin(
    socket: &std::path::Path,
    arguments: &[&str],
) -> Result<serde_json::Value, String> {
    let mut command = Command::new(binaries::cli());
    command.arg("admin").arg("--admin-socket").arg(socket).arg("--json").args(arguments);
    let output = command.output().expect("gpu-broker runs");
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).expect("JSON"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// In the middle of a batch that never ends, of a persistent context: it is gone at once.
#[test]
fn a_session_is_taken_away_in_the_middle_of_a_batch() {
    let (mut daemon, socket) = daemon("");
    let witness = Witness::start(daemon.socket());
    let (mut victim, hello) = Raw::try_hello(daemon.socket(), "victim").expect("served");
    let batch = victim.create_buffer(4096);
    batch.write(0, &Batch::new().arbitration_point().jump(0x10_0000).bytes());
    let head = ExecbufHead { flags: 3, ..ExecbufHead::default() };
    for _ in 0..3 {
        let _executed = victim.execbuf(&head, &[batch.pinned(0x10_0000)], &[]).executed();
    }
    let queued =
        || daemon.status().engines.iter().any(|engine| engine.name == "bcs0" && engine.queued > 0);
    eventually("the batch runs", || queued().then_some(()));
    let number = hello.session.0.to_string();
    admin(&socket, &["revoke", &number]).expect("root");
    assert_eq!(victim.receive().epitaph().code, EpitaphCode::Revoked);
    assert!(matches!(victim.receive(), Message::Closed));
    witness.goes_on();
    witness.finish();
    eventually("its work is gone", || (!queued()).then_some(()));
    assert!(daemon.log().contains("audit: revoked"), "{}", daemon.log());
    assert!(admin(&socket, &["revoke", &number]).is_err_and(|why| why.contains("no session")));
    daemon.assert_unharmed();
}

#[test]
fn a_draining_daemon_lets_nobody_in_but_administrators() {
    let (mut daemon, socket) = daemon("");
    let witness = Witness::start(daemon.socket());
    admin(&socket, &["drain"]).expect("root");
    let stranger = Raw::connect(daemon.socket()).expect("the listener is there");
    assert_eq!(stranger.receive().epitaph().code, EpitaphCode::ShuttingDown);
    witness.goes_on();
    admin(&socket, &["resume"]).expect("root, while it drains");
    let _served = daemon.client("let in again");
    witness.finish();
    daemon.assert_unharmed();
}

#[test]
fn limits_change_while_sessions_live() {
    let (mut daemon, socket) = daemon("");
    let mut client = daemon.client("limited");
    client.create_context();
    let limit = |value: &str| admin(&socket, &["limit", "default", "contexts", value]);
    assert_eq!(limit("1").expect("root")["before"], serde_json::Value::Null);
    let create = gpu_broker_protocol::message::ContextCreate::default();
    let refusal = client.call(Request::ContextCreate(create.clone())).refusal();
    assert!(refusal.sentence.contains("limits.contexts = 1"), "{}", refusal.sentence);
    let classes = admin(&socket, &["classes"]).expect("root");
    let default = classes.as_array().and_then(|all| all.iter().find(|it| it["name"] == "default"));
    let contexts =
        default.and_then(|it| it["limits"].as_array()?.iter().find(|it| it["key"] == "contexts"));
    assert_eq!(contexts.map(|it| (&it["held"], &it["most"])), Some((&1.into(), &1.into())));
    assert_eq!(limit("none").expect("root")["before"], 1);
    let _ = client.call(Request::ContextCreate(create)).reply();
    for wrong in [["limit", "nobody", "contexts", "1"], ["limit", "default", "kittens", "1"]] {
        assert!(
            admin(&socket, &wrong)
                .is_err_and(|why| why.contains("no-such-class") || why.contains("no class"))
        );
    }
    daemon.assert_unharmed();
}

/// A full daemon, or a policy that admits nobody, keeps no administrator out; and nobody else gets
/// anything by asking.
#[test]
fn administrators_get_in_and_others_get_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    assert!(rustix::process::getuid().is_root(), "this test makes a process of another user");
    let (mut daemon, socket) = daemon("[daemon]\nsessions = 2");
    let mut client = daemon.client("fills it up");
    let revoke = AdminRevoke { session: SessionId(1) };
    let refusal = client.call(Request::AdminRevoke(revoke)).refusal();
    assert_eq!(refusal.name, "denied");
    admin(&socket, &["classes"]).expect("root, while the daemon is full");
    // Another user, whom even open permissions do not help.
    let directory = socket.parent().expect("a directory");
    for (path, mode) in [(directory, 0o755), (&socket, 0o666)] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).expect("ours");
    }
    let copy = directory.join("hoarder");
    std::fs::copy(env!("CARGO_BIN_EXE_hoarder"), &copy).expect("there is room");
    let (_hoarder, said) = super::hoarder::Hoarder::start_as(&copy, &socket, |command| {
        command.uid(4001).gid(4001);
    });
    assert!(said.contains("Denied") && said.contains("no administrator"), "{said}");
    daemon.assert_unharmed();
}
