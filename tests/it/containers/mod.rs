//! Clients in containers: no device node, no network, nothing of the host's but a socket.
//!
//! The containers are made of the programs that run in them and the libraries those need, so no
//! image is fetched. `tests/run tools` installs the engines; these tests need root.

mod cdi;
mod engines;
mod podman;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use gpu_broker_protocol::identity::{IdentityQuery, SessionIdentity};
use gpu_broker_protocol::{Reply, Request, SessionId};
use gpu_broker_tests::{Builder, Daemon, Raw, binaries};

/// Where containers have the socket.
const INSIDE: &str = "/run/gpu-broker/gpu-broker.sock";

/// The files of a container.
struct Tree(tempfile::TempDir);

impl Tree {
    /// A shell, `cat`, `ls`, `stat`, a client that stays, and what is asked for besides.
    fn new(programs: &[&Path]) -> Self {
        let tree = Self(tempfile::tempdir().expect("a temporary directory can be made"));
        let mode = |path: PathBuf| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        };
        mode(tree.0.path().to_owned());
        for directory in ["bin", "etc", "dev", "proc", "sys", "tmp", "run", "usr/lib"] {
            fs::create_dir_all(tree.0.path().join(directory)).expect("it is ours");
        }
        fs::write(tree.0.path().join("etc/os-release"), "ID=test\n").expect("it is ours");
        let usual = ["/bin/sh", "/bin/cat", "/bin/ls", "/usr/bin/stat"].map(Path::new);
        let client = Path::new(env!("CARGO_BIN_EXE_hoarder"));
        for program in usual.into_iter().chain([client]).chain(programs.iter().copied()) {
            tree.add(program);
        }
        tree
    }

    fn path(&self) -> &str {
        self.0.path().to_str().expect("text")
    }

    /// Puts a program into `/bin`, and the libraries that it needs where they are outside.
    fn add(&self, program: &Path) {
        let name = program.file_name().expect("a program has a name");
        let inside = self.0.path().join("bin").join(name);
        fs::copy(program, &inside).expect("there is room");
        let output = Command::new("ldd").arg(program).output().expect("ldd comes with libc");
        for word in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            let library = Path::new(word);
            let ours = word.contains("libgpu_broker");
            if library.is_absolute() && !ours {
                let to = self.0.path().join(library.strip_prefix("/").expect("absolute"));
                fs::create_dir_all(to.parent().expect("in a directory")).expect("it is ours");
                fs::copy(library, to).expect("there is room");
            }
        }
    }
}

/// A daemon that other users may connect to, with a second socket for the class "batch".
fn broker() -> (Daemon, PathBuf, PathBuf) {
    let builder = Builder::new();
    let place = builder.socket().parent().expect("in a directory").to_owned();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).expect("ours");
    let batch = place.join("batch.sock");
    let config = format!(
        "socket_mode = \"0666\"\n\
         [[listener]]\nname = \"slow\"\nsocket = \"{}\"\nsocket_mode = \"0666\"\n\
         [[class]]\nname = \"batch\"\nmatch.listener = [\"slow\"]\nlimits.contexts = 7",
        batch.display()
    );
    let file = place.join("policy.toml");
    fs::write(&file, &config).expect("ours");
    (builder.config(&config).start(), batch, file)
}

/// A program that an engine is needed for.
fn need(program: &str, package: &str) {
    assert!(rustix::process::geteuid().is_root(), "containers are made by root here");
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let found = found.expect("sh").status.success();
    assert!(found, "{program} is missing: tests/run tools, or apt-get install {package}");
}

/// What an engine finds: mount and process namespaces of its own, so that nothing it leaves stays;
/// control groups as they are on machines of today, whatever this one has; an empty `/run`; and the
/// CDI file `$1`, if there is one. Users that containers are run as have a name.
const STAGE: &str = r#"
    set -e
    if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
        umount -R /sys/fs/cgroup
        mount -t cgroup2 none /sys/fs/cgroup
    fi
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /dev/shm
    mkdir /run/cdi /run/etc /run/home /run/user
    [ -z "$1" ] || cp "$1" /run/cdi/gpu-broker.json
    for file in passwd group; do
        cp /etc/$file /run/etc/$file
        mount --bind /run/etc/$file /etc/$file
    done
    echo "guest:x:4321:4321::/run/home:/bin/sh" >>/etc/passwd
    echo "guest:x:4321:" >>/etc/group
    chown 4321:4321 /run/home /run/user
    chmod 0700 /run/user
    shift
    exec "$@"
"#;

/// A command on that stage.
fn staged(cdi: Option<&Path>) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["bash", "-c", STAGE, "stage"]).arg(cdi.unwrap_or_else(|| Path::new("")));
    command.env_remove("XDG_RUNTIME_DIR").env_remove("LISTEN_FDS").current_dir("/");
    command
}

/// Runs it to its end.
#[track_caller]
fn told(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("unshare comes with util-linux");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}{complained}", output.status);
    said
}

/// A container in which `sh` runs [`Guest::SCRIPT`], and stays until it is told to end.
struct Guest {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: u64,
}

impl Guest {
    /// No device node of a GPU may be there; then a session.
    const SCRIPT: &str = "for n in /dev/dri /dev/kfd; do [ ! -e $n ] || echo has $n; done; \
                          exec hoarder \"$GPU_BROKER_SOCKET\"";

    fn start(command: &mut Command) -> Self {
        command.args(["/bin/sh", "-c", Self::SCRIPT]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("unshare comes with util-linux");
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, mut output) = (input.expect("piped"), BufReader::new(output.expect("piped")));
        let mut line = String::new();
        output.read_line(&mut line).expect("text");
        let session = line.trim_end().strip_prefix("session ").map(str::parse);
        let Some(Ok(session)) = session else {
            let _ = child.kill();
            let mut complaint = String::new();
            let _ = child.stderr.take().expect("piped").read_to_string(&mut complaint);
            panic!("no session but {line:?}: {complaint}");
        };
        Self { child, input, output, session }
    }

    /// Who the daemon takes it for.
    fn identity(&self, daemon: &Daemon) -> SessionIdentity {
        let mut observer: Raw = daemon.client("observer");
        let query = IdentityQuery { session: SessionId(self.session) };
        let reply = observer.call(Request::Identity(query)).reply();
        let Reply::Identity(identity) = reply else { panic!("{reply:?}") };
        identity
    }

    /// Has it take contexts until its class has no more.
    fn contexts(&mut self) -> String {
        use std::io::Write as _;
        writeln!(self.input, "take contexts 100").expect("it lives");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("text");
        line
    }

    fn end(self) {
        let Self { mut child, input, output: _, session: _ } = self;
        drop(input);
        let status = child.wait().expect("ours");
        assert!(status.success(), "{status}");
    }
}

/// The tool, and what it prints.
fn cli(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(binaries::cli())
        .args(arguments)
        .env_remove("GPU_BROKER_SOCKET")
        .output()
        .expect("gpu-broker can be started");
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}
