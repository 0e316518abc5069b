//! Model, state and screen, from samples made up here.

use gpu_broker_client::protocol::usage::ClassUsage;

use unicode_width::UnicodeWidthStr as _;

use super::draw::draw;
use super::keys::{Key, keys};
use super::model::{Column, Frame, Order};
use super::sample::{Daemon, Engine, Sample, Session};
use super::state::{Action, State};

const MS: u64 = 1_000_000;

fn session(number: u64, client: &str, render_ns: u64, video_ns: u64) -> Session {
    let class = |class, capacity, busy_ns| ClassUsage { class, capacity, busy_ns };
    Session {
        session: number,
        pid: 100 + u32::try_from(number).unwrap(),
        uid: 1000,
        client: client.to_owned(),
        class: Some("games".to_owned()),
        age_ns: 5_000 * MS,
        contexts: 2,
        buffer_bytes: number << 20,
        in_flight: 3,
        submissions: 9,
        engines: vec![class(0, 1, render_ns), class(2, 2, video_ns)],
        refusals: Some(4),
        hangs: Some(1),
    }
}

fn sample(uptime_ms: u64, busy_ms: u64, sessions: Vec<Session>) -> Sample {
    let engine = |name: &str, busy_ns| Engine { name: name.to_owned(), busy_ns, queued: 7 };
    Sample {
        daemon: Daemon {
            version: "0.1.0".to_owned(),
            driver: "soft".to_owned(),
            pid: 77,
            uptime_ns: uptime_ms * MS,
            sessions: u32::try_from(sessions.len()).unwrap(),
            sessions_max: 4096,
            refusals: 2,
            violations: 0,
        },
        engines: vec![engine("rcs0", busy_ms * MS), engine("bcs0", 0)],
        sessions,
    }
}

fn numbers(frame: &Frame) -> Vec<u64> {
    frame.sessions.iter().map(|row| row.session).collect()
}

#[test]
fn percentages_are_of_the_time_between_two_samples() {
    let before = sample(1000, 500, vec![session(1, "a", 100 * MS, 0)]);
    let after = sample(1200, 550, vec![session(1, "a", 150 * MS, 300 * MS)]);
    let frame = Frame::between(Some(&before), &after);
    assert_eq!(frame.over_ns, 200 * MS);
    assert_eq!(frame.engines[0].busy_percent, 25.0);
    assert_eq!(frame.engines[1].busy_percent, 0.0);
    let row = &frame.sessions[0];
    assert_eq!((row.engines[0].busy_percent, row.engines[1].busy_percent), (25.0, 150.0));
    assert_eq!(row.busy_percent, 175.0, "of one engine's time");
    let json = serde_json::to_value(&frame).unwrap();
    assert_eq!(json["sessions"][0]["engines"][1]["class"], "video");
    assert_eq!(json["daemon"]["driver"], "soft");
}

#[test]
fn nothing_has_more_time_than_there_was() {
    let before = sample(1000, 0, vec![session(1, "a", 0, 0)]);
    let after = sample(1100, 5000, vec![session(1, "a", 5000 * MS, 5000 * MS)]);
    let frame = Frame::between(Some(&before), &after);
    assert_eq!(frame.engines[0].busy_percent, 100.0);
    assert_eq!(frame.sessions[0].busy_percent, 300.0, "one of render, two of video");
}

#[test]
fn the_first_sample_has_no_percentages() {
    let frame = Frame::between(None, &sample(1000, 900, vec![session(1, "a", 900 * MS, 0)]));
    assert_eq!((frame.over_ns, frame.engines[0].busy_percent), (0, 0.0));
    assert_eq!(frame.sessions[0].busy_percent, 0.0);
}

#[test]
fn counters_that_go_back_are_nothing_not_a_wrap() {
    let before = sample(1000, 500, vec![session(1, "a", 100 * MS, 0)]);
    let after = sample(1200, 400, vec![session(1, "a", 50 * MS, 20 * MS)]);
    let frame = Frame::between(Some(&before), &after);
    assert_eq!(frame.engines[0].busy_percent, 0.0);
    assert_eq!(frame.sessions[0].busy_percent, 10.0);
}

/// Its session 1 is another one, and its clock began anew.
#[test]
fn another_daemons_sample_does_not_count() {
    let before = sample(1000, 0, vec![session(1, "a", 0, 0)]);
    let mut other = sample(2000, 1000, vec![session(1, "b", 1000 * MS, 0)]);
    other.daemon.pid = 78;
    let restarted = sample(900, 800, vec![session(1, "b", 800 * MS, 0)]);
    for after in [other, restarted] {
        let frame = Frame::between(Some(&before), &after);
        assert_eq!((frame.over_ns, frame.engines[0].busy_percent), (0, 0.0));
        assert_eq!(frame.sessions[0].busy_percent, 0.0);
    }
}

#[test]
fn sessions_come_and_go_between_samples() {
    let before = sample(1000, 0, vec![session(1, "gone", 0, 0), session(3, "stays", 0, 0)]);
    let mut new = session(4, "new", 50 * MS, 0);
    new.age_ns = 100 * MS;
    // Older than the interval, but not seen before: what it had, it may have had earlier.
    let hidden = session(5, "hidden before", 5000 * MS, 0);
    let after = sample(1200, 0, vec![session(3, "stays", 20 * MS, 0), new, hidden]);
    let frame = Frame::between(Some(&before), &after);
    assert_eq!(numbers(&frame), [3, 4, 5]);
    let busy: Vec<_> = frame.sessions.iter().map(|row| row.busy_percent).collect();
    assert_eq!(busy, [10.0, 25.0, 0.0]);
}

#[test]
fn every_column_sorts_and_equal_ones_stay_in_their_places() {
    let mut first = session(1, "zebra", 0, 0);
    first.class = None;
    first.refusals = None;
    let second = session(2, "ant", 100 * MS, 0);
    let third = session(3, "ant", 0, 0);
    let before = sample(1000, 0, vec![]);
    let mut frame = Frame::between(Some(&before), &sample(9000, 0, vec![first, second, third]));
    let mut sorted = |column, descending| {
        frame.sort(Order { column, descending });
        numbers(&frame)
    };
    assert_eq!(sorted(Column::Busy, true), [2, 1, 3]);
    assert_eq!(sorted(Column::Busy, false), [1, 3, 2]);
    assert_eq!(sorted(Column::Name, false), [2, 3, 1]);
    assert_eq!(sorted(Column::Memory, true), [3, 2, 1]);
    assert_eq!(sorted(Column::Refusals, true), [2, 3, 1], "what is not known comes last");
    assert_eq!(sorted(Column::Flight, true), [1, 2, 3]);
    let mut keys: Vec<_> = Column::ALL.iter().map(|column| column.key()).collect();
    keys.extend(['q', 'k', 'i', 'y']);
    keys.sort_unstable();
    let distinct = keys.windows(2).all(|pair| pair[0] != pair[1]);
    assert!(distinct, "two keys are the same: {keys:?}");
}

fn press(state: &mut State, key: Key) -> Action {
    state.key(key)
}

/// Three sessions, by name.
fn watched(powerless: Option<&str>) -> State {
    let mut state = State::new(Order::by(Column::Name));
    let all = || vec![session(1, "a", 0, 0), session(2, "b", 0, 0), session(3, "c", 0, 0)];
    state.sampled(sample(1000, 0, all()), powerless.map(str::to_owned));
    state
}

#[test]
fn a_session_is_only_taken_away_after_a_yes() {
    let mut state = watched(None);
    assert_eq!(press(&mut state, Key::Down), Action::Nothing);
    assert_eq!(press(&mut state, Key::Char('k')), Action::Nothing);
    let question = state.asking.clone().unwrap();
    assert_eq!(question.session, 2);
    assert!(question.text.contains("pid 102"), "{}", question.text);
    // `q` is no yes, and does not quit while a question is open.
    assert_eq!(press(&mut state, Key::Char('q')), Action::Nothing);
    assert_eq!(press(&mut state, Key::Char('y')), Action::Nothing, "nothing is asked");
    press(&mut state, Key::Char('k'));
    assert_eq!(press(&mut state, Key::Char('y')), Action::Revoke(2));
    assert_eq!(state.asking, None);
    assert_eq!(press(&mut state, Key::Char('q')), Action::Quit);
    assert_eq!(press(&mut state, Key::Interrupt), Action::Quit);
}

#[test]
fn without_the_right_a_sentence_says_so() {
    let mut state = watched(Some("only administrators can"));
    assert_eq!(press(&mut state, Key::Char('k')), Action::Nothing);
    assert_eq!(state.said.as_deref(), Some("only administrators can"));
    assert_eq!(press(&mut state, Key::Char('y')), Action::Nothing);
}

#[test]
fn the_cursor_stays_with_its_session_and_moves_on_when_that_ends() {
    let mut state = watched(None);
    press(&mut state, Key::Down);
    press(&mut state, Key::Char('s'));
    press(&mut state, Key::Char('i'));
    assert_eq!((state.cursor, state.place()), (Some(2), Some(1)));
    press(&mut state, Key::Char('k'));
    let left = vec![session(1, "a", 0, 0), session(3, "c", 0, 0)];
    state.sampled(sample(1100, 0, left), None);
    assert_eq!(state.asking, None, "there is nothing left to ask");
    assert!(state.said.as_deref().is_some_and(|said| said.contains("session 2 has ended")));
    assert_eq!(state.cursor, Some(1), "3, 2, 1 became 3, 1");
    press(&mut state, Key::Home);
    assert_eq!(state.cursor, Some(3));
    press(&mut state, Key::End);
    press(&mut state, Key::Down);
    assert_eq!(state.cursor, Some(1));
    state.sampled(sample(1200, 0, vec![]), None);
    assert_eq!((state.cursor, state.place()), (None, None));
    assert_eq!(press(&mut state, Key::Char('k')), Action::Nothing);
}

#[test]
fn nothing_is_taken_away_from_a_daemon_that_is_gone() {
    let mut state = watched(None);
    press(&mut state, Key::Char('k'));
    state.lost("gone".to_owned());
    assert_eq!(press(&mut state, Key::Char('y')), Action::Nothing);
    press(&mut state, Key::Char('k'));
    assert_eq!(state.asking, None);
    state.sampled(sample(100, 0, vec![]), None);
    assert_eq!(state.trouble, None);
}

fn painted(state: &State, width: usize, height: usize) -> Vec<String> {
    let lines = draw(state, (width, height));
    assert_eq!(lines.len(), height);
    let text = |line: super::draw::Line| line.into_iter().map(|(_, part)| part).collect();
    let lines: Vec<String> = lines.into_iter().map(text).collect();
    assert!(lines.iter().all(|line| line.width() <= width), "{width}: {lines:#?}");
    lines
}

fn shown(clients: usize) -> State {
    let mut state = State::new(Order::by(Column::Busy));
    let all = |busy_ns| {
        (1..=clients).map(move |n| session(n as u64, &format!("client-{n}"), n as u64 * busy_ns, 0))
    };
    state.sampled(sample(1000, 0, all(0).collect()), None);
    state.sampled(sample(1100, 50, all(MS).collect()), None);
    state
}

#[test]
fn eighty_by_twenty_four_shows_everything() {
    let lines = painted(&shown(3), 80, 24);
    assert_eq!(
        lines[0].trim_end(),
        "gpu-brokerd 0.1.0 on soft, up 1.1 s, 3 sessions, 2 refusals, 0 violations"
    );
    assert_eq!(
        lines[1].trim_end(),
        "rcs0   [|||||     ]  50.0 %    7 queued bcs0   [          ]   0.0 %    7 queued"
    );
    assert_eq!(
        lines[2],
        "  Sess     Pid   Uid Name       cLass      Ctx    Memory   Fly  Busy%   Ref Hung"
    );
    let first = "     3     103  1000 client-3   games        2     3 MiB     3    3.0     4    1";
    assert_eq!(lines[3], first, "who is busiest comes first");
}

#[test]
fn long_lists_scroll_with_the_cursor() {
    let mut state = shown(100);
    assert!(painted(&state, 80, 24).iter().any(|line| line.contains("client-100")));
    press(&mut state, Key::End);
    let lines = painted(&state, 80, 24);
    assert!(lines.iter().any(|line| line.contains("client-1 ")), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("client-100")));
    assert!(lines[2].contains("Sess"), "the headings stay");
}

#[test]
fn what_is_asked_said_and_wrong_is_on_the_last_lines() {
    let mut state = shown(2);
    assert!(painted(&state, 80, 24)[23].contains("q quit"));
    press(&mut state, Key::Char('k'));
    assert!(painted(&state, 80, 24)[23].starts_with("y/n: take session 2 away"));
    state.lost("no daemon listens on /run/gpu-broker/gpu-broker.sock; start one".to_owned());
    let lines = painted(&state, 40, 12);
    assert!(lines.concat().contains("no daemon listens"), "{lines:#?}");
    assert_eq!(lines[11].trim_end(), "one", "a long sentence takes more lines: {lines:#?}");
    assert!(lines.concat().contains("client-2"), "what was known stays: {lines:#?}");
}

/// The session, its name and what it takes stay as long as there is room for anything.
#[test]
fn small_screens_show_what_matters_most() {
    let state = shown(2);
    for width in [30, 40, 60] {
        let lines = painted(&state, width, 10);
        let row = lines.iter().find(|line| line.contains("client-2"));
        assert!(row.is_some_and(|row| row.contains("2.0")), "{width}: {lines:#?}");
    }
    for (width, height) in [(1, 1), (2, 3), (10, 2), (300, 1), (1, 100), (300, 100)] {
        painted(&state, width, height);
    }
    painted(&State::new(Order::by(Column::Busy)), 80, 24);
}

#[test]
fn names_in_wide_characters_take_their_place() {
    let mut state = State::new(Order::by(Column::Session));
    state.sampled(sample(1000, 0, vec![session(1, "絵を描く人", 0, 0)]), None);
    for width in 0..100 {
        painted(&state, width, 8);
    }
    assert!(painted(&state, 80, 24)[3].contains("絵を描く人"));
}

#[test]
fn keys_are_what_terminals_send() {
    assert_eq!(
        keys(b"q\x1b[A\x1bOB\x1b[5~k\x03"),
        [Key::Char('q'), Key::Up, Key::Down, Key::PageUp, Key::Char('k'), Key::Interrupt,]
    );
    assert_eq!(keys(b"\x1b[1;5Ax"), [Key::Other, Key::Char('x')]);
    assert_eq!(keys(b"\x1b[F\x1b[1~"), [Key::End, Key::Home]);
    assert_eq!(keys(b"\x1b"), [Key::Other]);
    assert_eq!(keys(b"\x1b[12"), [Key::Other]);
}
