//! Hangs and bans (rule table §11, §12), with a clock that the test holds.

use gpu_broker_core::Time;
use gpu_broker_core::hands::Outcome;
use gpu_broker_protocol::param::*;

use crate::fake::Event;
use crate::refused;
use crate::rig::*;

/// One of its batches hangs at `at` seconds.
fn hang(rig: &Rig, context: u32, at: u64) {
    let buffer = rig.buffer(1);
    rig.run(context, &[object(buffer)]).unwrap();
    let tag = rig.device.last_submission().tag;
    rig.session.handle_completion(Time::from_secs(at), tag, Outcome::Guilty);
}

fn is_banned(rig: &Rig, context: u32) -> bool {
    rig.context(context).unwrap().banned
}

fn score(rig: &Rig) -> u32 {
    rig.session.status(0).ban_score
}

#[test]
fn the_third_hang_within_two_minutes_bans() {
    let rig = rig();
    let context = rig.create();
    for (at, banned) in [(2000, false), (2060, false), (2119, true)] {
        hang(&rig, context, at);
        assert_eq!(is_banned(&rig, context), banned, "after the hang at {at}");
    }
    let buffer = rig.buffer(1);
    refused!(ContextBanned, rig.run(context, &[object(buffer)]));
    // Only the context: others of the session go on, and so does CREATE.
    rig.run(0, &[object(buffer)]).unwrap();
    rig.create();
    assert_eq!(rig.stats(context).unwrap().batch_active, 3);
    assert_eq!(rig.stats(0).unwrap().batch_active, 0);
}

#[test]
fn slow_hangs_never_ban() {
    let rig = rig();
    let context = rig.create();
    for at in (2000..4000).step_by(60) {
        hang(&rig, context, at);
        assert!(!is_banned(&rig, context), "after the hang at {at}");
    }
    // Sixty seconds apart is not fast: the score does not move.
    assert_eq!(score(&rig), 0);
}

#[test]
fn a_hang_bans_a_context_that_is_not_recoverable_and_three_end_the_session() {
    let rig = rig();
    for hangs in 1..=3 {
        let context =
            rig.create_ext(vec![set_node(ContextParam::scalar(number::RECOVERABLE, 0))]).unwrap();
        hang(&rig, context, 1000 + 100 * hangs);
        assert!(is_banned(&rig, context));
        assert_eq!(score(&rig), 3 * u32::try_from(hangs).unwrap());
    }
    refused!(SessionBanned, rig.create_with(0, Vec::new()));
    // Contexts that are not banned work on.
    let buffer = rig.buffer(1);
    rig.run(0, &[object(buffer)]).unwrap();
}

#[test]
fn a_hang_in_the_first_minute_counts_as_fast() {
    let rig = rig();
    // The session was opened at 1000 s.
    hang(&rig, 0, 1059);
    assert_eq!(score(&rig), 1);
    hang(&rig, 0, 1119);
    assert_eq!(score(&rig), 1, "sixty seconds are not fast");
    hang(&rig, 0, 1178);
    assert!(is_banned(&rig, 0), "three hangs in 119 seconds");
    assert_eq!(score(&rig), 1 + 3 + 1);
}

#[test]
fn who_is_not_bannable_is_spared_and_counted() {
    let rig = rig_with(kbl(), ADMIN);
    let context = rig.create();
    rig.set(context, ContextParam::scalar(number::BANNABLE, 0)).unwrap();
    rig.set(context, ContextParam::scalar(number::RECOVERABLE, 0)).unwrap();
    for at in 1001..1020 {
        hang(&rig, context, at);
    }
    assert!(!is_banned(&rig, context));
    assert_eq!(score(&rig), 0);
    let stats = rig.stats(context).unwrap();
    assert_eq!((stats.batch_active, stats.batch_pending, stats.reset_count), (19, 0, 19));
}

/// Innocent work that a reset hits is counted for its context alone, and costs nothing.
#[test]
fn who_is_innocent_is_counted_apart_and_pays_nothing() {
    let rig = rig();
    let context = rig.create();
    rig.run(context, &[object(rig.buffer(1))]).unwrap();
    let tag = rig.device.last_submission().tag;
    for _ in 0..5 {
        rig.session.handle_replay(tag);
    }
    rig.session.handle_completion(Time::from_secs(2000), tag, Outcome::Completed);
    let stats = rig.stats(context).unwrap();
    assert_eq!((stats.batch_active, stats.batch_pending), (0, 5));
    assert_eq!(rig.stats(0).unwrap().batch_pending, 0);
    assert!(!is_banned(&rig, context));
    assert_eq!((score(&rig), rig.registry.resets()), (0, 0));
    // A context that is gone, or another that has its id by now, is not counted.
    rig.destroy(context).unwrap();
    rig.session.handle_replay(tag);
    assert_eq!(rig.create(), context, "ids are used again");
    rig.session.handle_replay(tag);
    assert_eq!(rig.stats(context).unwrap().batch_pending, 0);
}

#[test]
fn the_reset_count_is_for_the_privileged() {
    let rig = rig();
    hang(&rig, 0, 5000);
    assert_eq!(rig.registry.resets(), 1);
    assert_eq!(rig.stats(0).unwrap().reset_count, 0);
}

#[test]
fn a_ban_cancels_and_a_later_submission_that_slipped_in_is_cancelled_too() {
    let rig = rig();
    let context = rig.create_ext(vec![set_node(ContextParam::scalar(number::RECOVERABLE, 0))]);
    let context = context.unwrap();
    hang(&rig, context, 5000);
    let tag = rig.device.last_submission().tag;
    assert_eq!(rig.device.take_events(), [Event::Cancelled { tag }]);
    // The default context is banned by a batch that is found guilty at once.
    rig.set(0, ContextParam::scalar(number::RECOVERABLE, 0)).unwrap();
    rig.device.take_events();
    *rig.device.done.lock().unwrap() = Some(Outcome::Guilty);
    rig.run(0, &[object(rig.buffer(1))]).unwrap();
    assert!(is_banned(&rig, 0));
    let tag = rig.device.last_submission().tag;
    assert_eq!(rig.device.take_events(), [Event::Cancelled { tag }]);
}

#[test]
fn a_closed_context_adds_no_score_even_when_its_id_is_used_again() {
    let rig = rig();
    let context = rig.create();
    let buffer = rig.buffer(1);
    rig.run(context, &[object(buffer)]).unwrap();
    let tag = rig.device.last_submission().tag;
    rig.destroy(context).unwrap();
    assert_eq!(rig.create(), context);
    rig.run(context, &[object(buffer)]).unwrap();
    rig.session.handle_completion(Time::from_secs(1001), tag, Outcome::Guilty);
    assert_eq!(score(&rig), 0);
    assert_eq!(rig.stats(context).unwrap().batch_active, 0);
    assert_eq!(rig.registry.resets(), 1);
    assert_eq!(rig.session.status(0).in_flight, 1);
}

#[test]
fn a_wedged_device_refuses_work_and_contexts() {
    let rig = rig();
    let buffer = rig.buffer(1);
    rig.registry.set_wedged(true);
    refused!(DeviceWedged, rig.create_with(0, Vec::new()));
    refused!(ContextFlags, rig.create_with(4, Vec::new()));
    refused!(DeviceWedged, rig.run(0, &[object(buffer)]));
    rig.registry.set_gone(true);
    refused!(DeviceGone, rig.create_with(0, Vec::new()));
    refused!(DeviceGone, rig.run(0, &[object(buffer)]));
    rig.registry.set_gone(false);
    rig.registry.set_wedged(false);
    rig.run(0, &[object(buffer)]).unwrap();
}

/// What CLONE was made for: a context that hung is replaced by a fresh one that is like it.
#[test]
fn a_banned_context_is_cloned_into_a_fresh_one_that_runs() {
    let rig = rig();
    let vm = rig.vm();
    let nodes = vec![
        set_node(map_with(&[RCS, EngineId::GAP], vec![balance(1, &[VCS0, VCS1])])),
        set_node(ContextParam::scalar(number::RECOVERABLE, 0)),
        set_node(ContextParam::scalar(number::VM, vm.into())),
        set_node(ContextParam::priority(-3)),
    ];
    let lost = rig.create_ext(nodes).unwrap();
    let buffer = rig.buffer(4096);
    let objects = [pinned(buffer, 1 << 40)];
    rig.run(lost, &objects).unwrap();
    let tag = rig.device.last_submission().tag;
    rig.session.handle_completion(Time::from_secs(5000), tag, Outcome::Guilty);
    refused!(ContextBanned, rig.run(lost, &objects));
    let fresh = rig.create_ext(vec![clone_node(lost, clone_flag::ALL)]).unwrap();
    rig.destroy(lost).unwrap();
    assert!(!is_banned(&rig, fresh), "the ban was cloned");
    // In the address space of the old one nothing moved: the same objects are where they were.
    assert_eq!(rig.run(fresh, &objects).unwrap(), []);
    let seen = rig.device.last_submission();
    assert_eq!((seen.addresses, seen.fresh), (vec![1 << 40], vec![false]));
    let made = rig.device.made.lock().unwrap().clone();
    let [_, old, new] = &made[..] else { panic!("{made:?}") };
    assert_eq!(crate::fake::Made { tag: old.tag, ..new.clone() }, old.clone());
    let stats = rig.stats(fresh).unwrap();
    assert_eq!((stats.batch_active, stats.batch_pending), (0, 0), "the history was cloned");
    // Not recoverable, so the next hang bans again, on its own account.
    rig.session.handle_completion(Time::from_secs(6000), seen.tag, Outcome::Guilty);
    refused!(ContextBanned, rig.run(fresh, &objects));
}
