//! `gpu-broker top` on a terminal, as people use it: a pseudo-terminal with a screen behind it.

use std::ffi::{OsStr, OsString};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use gpu_broker_protocol::EpitaphCode;
use gpu_broker_tests::{Builder, Daemon, Message, Witness, binaries, eventually};

const COLUMNS: usize = 80;
const ROWS: usize = 24;

/// What a terminal shows: as much of one as `top` asks for.
struct Screen {
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// Bytes of a sequence that has not ended.
    pending: Vec<u8>,
    /// The other screen, on which the shell's lines are not.
    alternate: bool,
}

impl Screen {
    fn new() -> Self {
        let cells = vec![vec![' '; COLUMNS]; ROWS];
        Self { cells, row: 0, column: 0, pending: Vec::new(), alternate: false }
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.pending.push(*byte);
            match self.pending.as_slice() {
                [0x1b] | [0x1b, b'['] => {}
                [0x1b, b'[', parameters @ .., last] => {
                    if (0x40..=0x7e).contains(last) {
                        let parameters = String::from_utf8_lossy(parameters).into_owned();
                        let last = *last;
                        self.control(&parameters, last);
                        self.pending.clear();
                    }
                }
                [0x1b, ..] => self.pending.clear(),
                text => {
                    if let Ok(text) = std::str::from_utf8(text) {
                        let shown = text.chars().next().filter(|c| !c.is_control());
                        if let Some(cell) = self.cells[self.row].get_mut(self.column) {
                            *cell = shown.unwrap_or(*cell);
                        }
                        self.column += usize::from(shown.is_some());
                        self.pending.clear();
                    }
                }
            }
        }
    }

    fn control(&mut self, parameters: &str, last: u8) {
        match (last, parameters) {
            (b'H', place) => {
                let mut numbers = place.split(';').map(|number| number.parse().unwrap_or(1));
                self.row = numbers.next().unwrap_or(1).clamp(1, ROWS) - 1;
                self.column = numbers.next().unwrap_or(1).clamp(1, COLUMNS) - 1;
            }
            (b'K', _) => self.cells[self.row] = vec![' '; COLUMNS],
            (b'J', _) => self.cells = vec![vec![' '; COLUMNS]; ROWS],
            (b'h', "?1049") => self.alternate = true,
            (b'l', "?1049") => self.alternate = false,
            _ => {}
        }
    }

    fn lines(&self) -> Vec<String> {
        self.cells.iter().map(|row| row.iter().collect()).collect()
    }
}

/// `top` on a terminal of 80 columns and 24 lines, which `script` makes.
struct Top {
    script: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<Screen>>,
}

/// Runs its arguments and compares the terminal's modes before and after.
const MODES: &str = "stty rows 24 columns 80 && before=$(stty -g) && \"$@\"; status=$?; \
    [ \"$before\" = \"$(stty -g)\" ] || status=99; exit $status";

impl Top {
    fn start(arguments: &[&OsStr]) -> Self {
        let mut command = Command::new("script");
        // It takes one string for a shell.
        let program = binaries::cli();
        let mut line = OsString::from("set -- ");
        let words = [program.as_os_str(), OsStr::new("top"), OsStr::new("--interval=50")];
        for word in words.iter().chain(arguments) {
            line.push("'");
            line.push(word);
            line.push("' ");
        }
        line.push("; ");
        line.push(MODES);
        command.arg("--quiet").arg("--return").arg("--command").arg(line).arg("/dev/null");
        for name in ["GPU_BROKER_SOCKET", "GPU_BROKER_ADMIN_SOCKET"] {
            command.env_remove(name);
        }
        command.env("TERM", "xterm").env("SHELL", "/bin/sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut script = command.spawn().expect("script is there (Debian: bsdutils)");
        let keys = script.stdin.take().expect("a pipe");
        let mut output = script.stdout.take().expect("a pipe");
        let screen = Arc::new(Mutex::new(Screen::new()));
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                shown.lock().expect("the screen").take(&bytes[..length]);
            }
        });
        Self { script, keys, screen }
    }

    fn press(&mut self, keys: &str) {
        let written = self.keys.write_all(keys.as_bytes()).and_then(|()| self.keys.flush());
        written.expect("the terminal takes keys");
    }

    fn lines(&self) -> Vec<String> {
        self.screen.lock().expect("the screen").lines()
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        let seen = || self.lines().iter().any(|line| line.contains(text)).then_some(());
        eventually(&format!("the screen shows {text:?}"), seen);
    }

    /// How it ended; 99 if it did not leave the terminal as it was.
    fn ends(&mut self) -> ExitStatus {
        let script = &mut self.script;
        let status = eventually("top ends", || script.try_wait().expect("our own child"));
        let shown = || !self.screen.lock().expect("the screen").alternate;
        eventually("the shell's screen is back", || shown().then_some(()));
        status
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the screen:\n{}", self.lines().join("\n"));
        }
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

fn options<'a>(socket: &'a Path, admin: &'a Path) -> [&'a OsStr; 4] {
    let option = |name: &'static str| OsStr::from_bytes(name.as_bytes());
    [option("--socket"), socket.as_os_str(), option("--admin-socket"), admin.as_os_str()]
}

#[test]
fn it_shows_who_works_and_leaves_the_terminal_as_it_was() {
    let mut daemon = Daemon::start();
    let _client = daemon.client("cube");
    let nowhere = Path::new("/nonexistent/admin.sock");
    for quit in ["q", "\u{3}"] {
        let mut top = Top::start(&options(daemon.socket(), nowhere));
        top.shows("cube");
        for text in ["rcs0", "bcs0", "default", "on soft", "q quit"] {
            top.shows(text);
        }
        top.press("k");
        top.shows("/nonexistent/admin.sock");
        top.press(quit);
        assert_eq!(top.ends().code(), Some(0), "{quit:?}");
    }
    daemon.assert_unharmed();
}

#[test]
fn a_key_takes_a_session_away() {
    let builder = Builder::new();
    let admin = builder.socket().with_file_name("admin.sock");
    let config = format!("[admin]\nsocket = \"{}\"\n", admin.display());
    let mut daemon = builder.config(&config).start();
    let witness = Witness::start(daemon.socket());
    let victim = daemon.client("victim");
    let mut top = Top::start(&options(daemon.socket(), &admin));
    top.shows("victim");
    // The last session to come is top itself, the one before it the victim.
    top.press("s\u{1b}[F\u{1b}[Ak");
    top.shows("y/n: take session");
    let asked = top.lines().into_iter().find(|line| line.contains("y/n"));
    assert!(asked.is_some_and(|line| line.contains("victim")));
    top.press("y");
    assert_eq!(victim.receive().epitaph().code, EpitaphCode::Revoked);
    assert!(matches!(victim.receive(), Message::Closed));
    top.shows("is taken away");
    let gone = || !top.lines().iter().any(|line| line.contains("victim"));
    eventually("it is not listed any more", || gone().then_some(()));
    witness.goes_on();
    witness.finish();
    top.press("q");
    assert_eq!(top.ends().code(), Some(0));
    daemon.assert_unharmed();
}

#[test]
fn a_daemon_that_goes_away_is_missed_and_found_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("broker.sock");
    let point_at = |daemon: &Daemon| {
        let _ = std::fs::remove_file(&socket);
        std::os::unix::fs::symlink(daemon.socket(), &socket).expect("a link");
    };
    let first = Daemon::start();
    point_at(&first);
    let _client = first.client("before");
    let mut top = Top::start(&options(&socket, Path::new("/nonexistent/admin.sock")));
    top.shows("before");
    drop(first);
    top.shows("no daemon listens");
    top.shows("before");
    let mut second = Daemon::start();
    let _client = second.client("after");
    point_at(&second);
    top.shows("after");
    let gone =
        || !top.lines().iter().any(|line| line.contains("no daemon") || line.contains("before"));
    eventually("what was before is not shown any more", || gone().then_some(()));
    top.press("q");
    assert_eq!(top.ends().code(), Some(0));
    second.assert_unharmed();
}

#[test]
fn once_prints_text_and_json_an_object() {
    let daemon = Daemon::start();
    let _client = daemon.client("shown");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binaries::cli());
        command.arg("top").args(arguments).args(["--interval", "50", "--socket"]);
        command.arg(daemon.socket()).stdin(Stdio::null());
        command.output().expect("gpu-broker runs")
    };
    let text = run(&["--once"]);
    assert!(text.status.success());
    let text = String::from_utf8(text.stdout).expect("text");
    for word in ["rcs0", "shown", "busy%", "default"] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "a terminal is driven:\n{text}");
    let json = run(&["--json", "--sort", "name"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("an object");
    let names: Vec<_> = json["sessions"].as_array().expect("a list").iter().collect();
    assert!(
        names.iter().any(|row| row["client"] == "shown" && row["class"] == "default"),
        "{json}"
    );
    assert!(json["over_ns"].as_u64().is_some_and(|ns| ns >= 50_000_000), "{json}");
    let nothing = run(&[]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("--once"), "no word on what to do");
}
