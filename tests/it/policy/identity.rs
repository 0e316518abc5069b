//! Who the daemon takes a client for.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

use gpu_broker_protocol::identity::{IdentityQuery, SessionIdentity};
use gpu_broker_protocol::{Reply, Request, SessionId};
use gpu_broker_tests::{Builder, Message, Raw};

use super::hoarder::Hoarder;

fn identity(client: &mut Raw, session: u64) -> Result<SessionIdentity, String> {
    let query = IdentityQuery { session: SessionId(session) };
    match client.call(Request::Identity(query)) {
        Message::Reply(_, Reply::Identity(identity)) => Ok(identity),
        Message::Refused(_, refusal) => Err(refusal.name),
        other @ (Message::Reply(..)
        | Message::Epitaph(_)
        | Message::Hang(_)
        | Message::News(_)
        | Message::Closed) => {
            panic!("{other:?}")
        }
    }
}

fn number(said: &str) -> u64 {
    said.strip_prefix("session ").and_then(|number| number.parse().ok()).expect(said)
}

#[test]
fn a_client_is_known_by_its_process_and_listener() {
    let mut daemon = Builder::new().start();
    let (hoarder, said) = Hoarder::start(daemon.socket());
    let mut client = daemon.client("asks");
    let other = identity(&mut client, number(&said)).expect("of our user");
    let own = identity(&mut client, 0).expect("our own");
    assert_eq!(own.pid, std::process::id());
    assert_eq!((other.uid, other.gid), (own.uid, own.gid));
    assert_ne!(other.pid, own.pid);
    assert_eq!((&*own.class, &*own.listener), ("default", "main"));
    // A child of ours is in our control group, which the kernel shows us as well.
    assert!(own.cgroup.starts_with('/') && own.cgroup == other.cgroup, "{own:?}");
    assert_eq!(own.app_id, "");
    assert_eq!(identity(&mut client, 4711), Err("no-such-session".to_owned()));
    drop(hoarder);
    daemon.assert_unharmed();
}

/// Needs root, to make a process of another user.
#[test]
fn classes_and_identities_of_several_users() {
    assert!(rustix::process::getuid().is_root(), "this test makes a process of another user");
    let program = env!("CARGO_BIN_EXE_hoarder");
    let builder = Builder::new();
    let directory = builder.socket().parent().expect("a directory").to_owned();
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&directory, all.clone()).expect("ours");
    // Where the test's programs lie, other users may not look.
    let copy = directory.join("hoarder");
    std::fs::copy(program, &copy).expect("there is room");
    std::fs::set_permissions(&copy, all).expect("ours");
    let config = "socket_mode = \"0666\"\n[[class]]\nname = \"guests\"\n\
                  match.uid = [\"4000-4999\"]\nlimits.contexts = 1";
    let mut daemon = builder.config(config).start();
    let (mut guest, said) = Hoarder::start_as(&copy, daemon.socket(), |command| {
        command.uid(4001).gid(4002);
    });
    let session = number(&said);
    let mut root = daemon.client("root");
    let seen = identity(&mut root, session).expect("root sees all");
    assert_eq!((seen.uid, seen.gid, &*seen.class), (4001, 4002, "guests"));
    assert!(guest.ask("take contexts 2").starts_with("took 1 context-limit"));
    let own = identity(&mut root, 0).expect("our own");
    assert_eq!(own.class, "default");
    let line = format!("class=\"guests\" peer=\"uid=4001 gid=4002 pid={} listener=main", seen.pid);
    let log = daemon.log();
    assert!(log.contains(&line) && log.contains("audit: refused: "), "{log}");
    daemon.assert_unharmed();
}

/// The process that connected may be gone while somebody else speaks for it. A class that asks for
/// its control group cannot be judged then, and nobody slips past it into a better one.
#[test]
fn a_peer_whose_process_is_gone_is_not_let_past_a_class_that_asks() {
    let config = "[[class]]\nname = \"contained\"\nmatch.cgroup = [\"/no/such/group\"]";
    let mut daemon = Builder::new().config(config).start();
    // Who connects is a shell's child that has ended when the daemon looks.
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .expect("fds are left");
    let script = "import array,os,socket,sys\n\
        s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); s.connect(sys.argv[1])\n\
        socket.socket(fileno=0).sendmsg([b'x'],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,\
        array.array('i',[s.fileno()]))])\n";
    daemon.signal(rustix::process::Signal::STOP);
    let status = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(daemon.socket())
        .stdin(theirs)
        .status()
        .expect("python3");
    assert!(status.success());
    daemon.signal(rustix::process::Signal::CONT);
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(
        &ours,
        &mut [std::io::IoSliceMut::new(&mut byte)],
        &mut control,
        rustix::net::RecvFlags::CMSG_CLOEXEC,
    )
    .expect("the child sent it");
    let fd = control.drain().find_map(|message| match message {
        rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let epitaph = Raw::over(fd.expect("a connection")).receive().epitaph();
    assert_eq!(epitaph.code, gpu_broker_protocol::EpitaphCode::Denied);
    assert!(epitaph.text.contains("contained") && epitaph.text.contains("gone"), "{epitaph:?}");
    let _living = daemon.client("lives, and is in no such group");
    daemon.assert_unharmed();
}
