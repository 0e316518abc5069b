//! The programs: what each is started with, and what must be seen of it. Every one runs as a user
//! starts it, and in the sandbox, where no device node is in sight.

use gpu_broker_tests::{binaries, eventually};

use super::sandbox;
use super::{Said, Stage, VULKAN_DRIVER, installed};

/// Where Debian puts the benchmark programs of intel-gpu-tools.
macro_rules! igt_path {
    () => {
        "/usr/libexec/igt-gpu-tools/benchmarks/"
    };
}

/// A workload of `gem_wsim`: an engine map, and steps that wait for each other.
const WORKLOAD: &str = "M.1.RCS\n1.RCS.200-400.0.0\n2.BCS.300.-1.0\n2.BCS.100.0.1\n";

/// Another: virtual engines of two, in several contexts, beside engines that are named. Steps wait
/// for each other by buffers and by fences. No step names vcs1, which IGT counts as VCS2.
const BALANCED: &str = "M.1.VCS\nB.1\nM.2.VCS1|VCS2\nB.2\nM.3.RCS\nM.4.VCS1|VCS2\nB.4\n\
    1.DEFAULT.500-1000.0.0\n2.DEFAULT.500-1000.f-1.0\n2.VCS1.300.-1.0\n4.DEFAULT.1000.-2.0\n\
    1.DEFAULT.1000.-1.0\n3.RCS.400.-2/-1.0\n2.DEFAULT.600.0.1\n";

/// Where a program comes from.
enum Origin {
    /// A Debian package; the program's path is the first word.
    Debian(&'static str),
    /// A benchmark program of intel-gpu-tools; its name is the first word.
    Igt,
    /// A C program beside this file, and what it is linked with.
    C(&'static [&'static str]),
    /// An example program of the tests' package.
    Example,
}

/// How a program must end.
#[derive(Clone, Copy)]
enum Ends {
    Well,
    /// It also tries what is not there, and says so in its status.
    Anyhow,
}

struct Program {
    origin: Origin,
    words: &'static [&'static str],
    ends: Ends,
    /// All of this must be in its output; if it is nothing, a number that was measured.
    shows: &'static [&'static str],
    /// Headings of which each must be followed by all of it, if there are any.
    under: &'static [&'static str],
}

const fn of(origin: Origin, words: &'static [&'static str]) -> Program {
    Program { origin, words, ends: Ends::Well, shows: &[], under: &[] }
}

const fn debian(package: &'static str, words: &'static [&'static str]) -> Program {
    of(Origin::Debian(package), words)
}

const fn igt(words: &'static [&'static str]) -> Program {
    of(Origin::Igt, words)
}

/// Those that measure for a moment. What they measure is not looked at.
const BENCHMARKS: &[Program] = &[
    igt(&["gem_exec_nop"]),
    igt(&["gem_exec_ctx"]),
    igt(&["gem_create", "-r", "1", "-s", "4096"]),
    igt(&["gem_busy", "-r", "1"]),
    igt(&["gem_exec_reloc"]),
    igt(&["gem_prw"]),
    Program { shows: &["size=1048576"], ..igt(&["gem_set_domain", "-r", "1"]) },
    igt(&["gem_blt", "-r", "1"]),
    Program { shows: &["workloads/s"], ..igt(&["gem_wsim", "-w", "workload", "-r", "5"]) },
];

/// 512 sessions import buffers of another, which has 32 768, from fds that get old: 1024 each by
/// itself, for which a process needs 524 801 fds. Where it may not have them, 32, for 16 897.
const PRIME: &[&str] = &[
    "/usr/bin/sh",
    "-c",
    "if ulimit -n 524802; then exec \"$0\"; else exec \"$0\" -a 32; fi",
    concat!(igt_path!(), "prime_lookup"),
];
const LOOKUPS: Program =
    Program { shows: &["estimated we need", " us\n"], ..debian("intel-gpu-tools", PRIME) };

/// Three clients, twenty times [`BALANCED`]. The program balances loads on Gen11 and later only,
/// where a batch need not know on which engine it runs; so it is told that this is one.
const BALANCES: &[Program] = &[Program {
    shows: &["workloads/s"],
    ..debian(
        "intel-gpu-tools",
        &[
            "/usr/bin/env",
            "INTEL_DEVID_OVERRIDE=0x8a52",
            concat!(igt_path!(), "gem_wsim"),
            "-w",
            "balanced",
            "-r",
            "20",
            "-c",
            "3",
        ],
    )
}];

/// It measures for longer, whatever one asks for.
const UPLOADS: &[Program] =
    &[Program { shows: &["1000 iterations in"], ..igt(&["intel_upload_blit_small"]) }];

/// Ninety-six measurements of three seconds each, of what userptr costs who uses memory that the GPU
/// has and who does not. `hurry.c` makes them shorter, so that all are made.
const OWN_MEMORY: &[Program] = &[Program {
    shows: &[
        "userptr-sync: SUCCESS",
        "userptr-impact-sync: SUCCESS",
        "10000 bos",
        "userptr-impact-sync-overlap: SUCCESS",
    ],
    ..debian("intel-gpu-tools", HURRIED)
}];
const HURRIED: &[&str] = &[
    "/usr/bin/sh",
    "-c",
    "LD_PRELOAD=\"$LD_PRELOAD:$PWD/hurry\" exec \"$0\"",
    concat!(igt_path!(), "gem_userptr_benchmark"),
];

/// Its message queue needs more room than a machine gives by itself, so it gets a namespace.
const FAULTS: &[Program] = &[Program {
    origin: Origin::Debian("util-linux"),
    words: &["/usr/bin/unshare", "-Uri", "sh", "-c", ROOM, concat!(igt_path!(), "gem_exec_fault")],
    ends: Ends::Well,
    shows: &[],
    under: &[],
}];
const ROOM: &str = "sysctl -qw kernel.msgmnb=1000000 && exec \"$0\"";

/// Mesa, the media driver and the compute runtime, and programs of ours on Mesa.
const STACKS: &[Program] = &[
    Program {
        shows: &["0x8086", "0x5926", "DRIVER_ID_INTEL_OPEN_SOURCE_MESA", "KBL GT3"],
        ..debian("vulkan-tools", &["/usr/bin/vulkaninfo", "--summary"])
    },
    Program {
        // It also tries platforms that are not there, and fails for those.
        ends: Ends::Anyhow,
        shows: &["EGL driver name: iris"],
        under: &["Surfaceless platform:", "Device platform:"],
        ..debian("mesa-utils-bin", &["/usr/bin/eglinfo.x86_64-linux-gnu"])
    },
    Program {
        shows: &["Intel iHD driver", "VAProfileH264Main", "VAProfileHEVCMain"],
        ..debian("vainfo and intel-media-va-driver", VAINFO)
    },
    // The compute runtime starts by giving the GPU a page of its own, and ends the program when it
    // may not.
    Program {
        shows: &["Intel(R) OpenCL HD Graphics", "Intel(R) Iris(R) Plus Graphics 640 [0x5926]"],
        ..debian("clinfo and intel-opencl-icd", &["/usr/bin/clinfo"])
    },
    Program { shows: &["KBL GT3", "done\n"], ..of(Origin::Example, &["vulkan"]) },
    Program { shows: &["Intel", "done\n"], ..of(Origin::C(&["-lEGL", "-lGLESv2"]), &["gles"]) },
];
const VAINFO: &[&str] = &["/usr/bin/vainfo", "--display", "drm", "--device", "/dev/dri/renderD128"];

impl Program {
    /// The command, of words that hold in the stage's directory.
    #[track_caller]
    fn command(&self, stage: &Stage) -> Vec<String> {
        let mut words: Vec<_> = self.words.iter().map(|word| (*word).to_owned()).collect();
        match self.origin {
            Origin::Debian(package) => installed(&words[0], package),
            Origin::Igt => {
                words[0].insert_str(0, igt_path!());
                installed(&words[0], "intel-gpu-tools");
            }
            Origin::C(libraries) => {
                stage.compile(&words[0], libraries);
                words[0].insert_str(0, "./");
            }
            Origin::Example => {
                // Others cannot enter the directory it is built in.
                let built = binaries::example(&words[0]);
                std::fs::copy(built, stage.runtime.path().join(&words[0])).expect("it is built");
                words[0].insert_str(0, "./");
            }
        }
        words
    }

    #[track_caller]
    fn judge(&self, told: &Said) {
        match self.ends {
            Ends::Well => drop(told.succeeded()),
            Ends::Anyhow => {}
        }
        if self.shows.is_empty() {
            let measured = |word: &str| word.parse().is_ok_and(|number: f64| number > 0.0);
            assert!(told.text.split_whitespace().any(measured), "no number in:\n{}", told.text);
        }
        if self.under.is_empty() {
            told.says(self.shows);
        }
        for heading in self.under {
            let section = told.text.split(heading).nth(1).unwrap_or_default();
            let section = section.split("platform:").next().unwrap_or_default();
            let missing = self.shows.iter().find(|word| !section.contains(*word));
            assert!(missing.is_none(), "{heading} lacks {missing:?} in:\n{}", told.text);
        }
    }
}

/// Where programs run.
#[derive(Clone, Copy)]
enum Where {
    /// As whoever runs the tests, with the library.
    Plain,
    /// As somebody else, in `gpu-broker run --sandbox`.
    Sandbox,
}

/// A daemon, and where programs are run on it.
struct Runs {
    stage: Stage,
    place: Where,
}

impl Runs {
    fn new(place: Where) -> Self {
        let stage = match place {
            Where::Plain => Stage::new(),
            Where::Sandbox => sandbox::open_to_all(),
        };
        for (name, steps) in [("workload", WORKLOAD), ("balanced", BALANCED)] {
            std::fs::write(stage.runtime.path().join(name), steps).expect("it is ours");
        }
        stage.compile("hurry", &["-shared", "-fPIC"]);
        installed(VULKAN_DRIVER, "mesa-vulkan-drivers");
        Self { stage, place }
    }

    /// Runs one, and judges it.
    #[track_caller]
    fn run(&mut self, program: &Program) {
        let words = program.command(&self.stage);
        eprintln!("{}", words.join(" "));
        let told = match self.place {
            Where::Plain => self.stage.run(&words[0], &words[1..]),
            Where::Sandbox => sandbox::without_a_node(&self.stage, &words),
        };
        program.judge(&told);
        // A process that ends closes fds of syncobjs after its sessions; they are found when others
        // end.
        for _ in 0..32 {
            drop(self.stage.daemon.client("passer-by"));
        }
        self.stage.daemon.assert_unharmed();
    }
}

/// Runs all of them, and sees that nothing of them is left in the daemon.
fn all_of(programs: &[Program], place: Where) -> Stage {
    let mut runs = Runs::new(place);
    let before = runs.stage.daemon.footprint();
    for program in programs {
        runs.run(program);
        runs.stage.daemon.settles_to(&before);
    }
    runs.stage
}

#[test]
fn benchmarks_complete() {
    all_of(BENCHMARKS, Where::Plain);
}

#[test]
fn benchmarks_complete_in_the_sandbox() {
    all_of(BENCHMARKS, Where::Sandbox);
}

/// The work is done, for as long as it was to take, and the broker has spread it.
#[track_caller]
fn balanced(stage: &Stage) {
    let engines = stage.daemon.status().engines;
    let of = |name: &str| engines.iter().find(|engine| engine.name == name).expect("Kaby Lake GT3");
    let done = engines.iter().map(|engine| engine.completed).sum::<u64>();
    assert_eq!(done, 3 * 20 * 7, "{engines:?}");
    assert_eq!(of("rcs0").completed, 3 * 20);
    assert!(of("vcs0").completed > 0 && of("vcs1").completed > 0, "{engines:?}");
    // Ticks of the GPU's clock, which the batches count themselves: 400 µs each.
    assert!(of("rcs0").busy_ns > 3 * 20 * 390_000, "{engines:?}");
}

#[test]
fn a_workload_is_balanced() {
    balanced(&all_of(BALANCES, Where::Plain));
}

#[test]
fn a_workload_is_balanced_in_the_sandbox() {
    balanced(&all_of(BALANCES, Where::Sandbox));
}

/// The allocator keeps much of what it once had for so many buffers; a second run leaves no more.
fn lookups(place: Where) {
    let mut runs = Runs::new(place);
    let alone = runs.stage.daemon.status().daemon.sessions;
    runs.run(&LOOKUPS);
    eventually("the sessions end", || {
        (runs.stage.daemon.status().daemon.sessions == alone).then_some(())
    });
    let before = runs.stage.daemon.footprint();
    runs.run(&LOOKUPS);
    runs.stage.daemon.settles_to(&before);
}

#[test]
fn lookups_of_many_buffers_complete() {
    lookups(Where::Plain);
}

#[test]
fn lookups_of_many_buffers_complete_in_the_sandbox() {
    lookups(Where::Sandbox);
}

#[test]
fn uploads_and_blits_complete() {
    all_of(UPLOADS, Where::Plain);
}

#[test]
fn uploads_and_blits_complete_in_the_sandbox() {
    all_of(UPLOADS, Where::Sandbox);
}

#[test]
fn own_memory_is_measured_to_the_end() {
    all_of(OWN_MEMORY, Where::Plain);
}

#[test]
fn own_memory_is_measured_to_the_end_in_the_sandbox() {
    all_of(OWN_MEMORY, Where::Sandbox);
}

#[test]
fn batches_that_fault_pages_in_complete() {
    all_of(FAULTS, Where::Plain);
}

#[test]
fn batches_that_fault_pages_in_complete_in_the_sandbox() {
    all_of(FAULTS, Where::Sandbox);
}

#[test]
fn drivers_name_the_gpu_and_submit() {
    all_of(STACKS, Where::Plain);
}

#[test]
fn drivers_name_the_gpu_and_submit_in_the_sandbox() {
    all_of(STACKS, Where::Sandbox);
}
