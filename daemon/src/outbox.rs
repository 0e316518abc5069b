//! Events that a connection has not sent yet. Of a client that does not read, the oldest are lost,
//! and counted.

use gpu_broker_protocol::admin::{AdminEvent, AdminNews};
use gpu_broker_protocol::hang::HangEvent;
use gpu_broker_protocol::message::Event;
use gpu_broker_protocol::queue::{EventQueue, Lossy};

/// Both kinds. Most connections never have one.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    hangs: EventQueue<HangEvent>,
    news: EventQueue<AdminEvent>,
}

impl Outbox {
    pub(crate) fn push_hang(&mut self, event: HangEvent) {
        self.hangs.push(event);
    }

    /// What happens often is told once, with how often: a client that is refused without end must not
    /// push everything else out.
    pub(crate) fn push_news(&mut self, event: AdminEvent) {
        let again = self.news.newest_first().any(|told| counts(&mut told.what, &event));
        if !again {
            self.news.push(event);
        }
    }

    /// Hands out all of them, until there are none or `send` answers false. True if none is left.
    pub(crate) fn send(&mut self, mut send: impl FnMut(Event) -> bool) -> bool {
        drain(&mut self.hangs, |event| send(Event::Hang(event)))
            && drain(&mut self.news, |event| send(Event::Admin(event)))
    }
}

/// Whether an event that was not sent yet tells of the same, and counts it now.
fn counts(told: &mut AdminNews, event: &AdminEvent) -> bool {
    use AdminNews::{Refused, TurnedAway};
    let (count, more) = match (told, &event.what) {
        (
            Refused { session, reason, count, .. },
            Refused { session: again, reason: same, count: more, .. },
        ) if session == again && reason == same => (count, more),
        (TurnedAway { peer, why, count }, TurnedAway { peer: again, why: same, count: more })
            if peer == again && why == same =>
        {
            (count, more)
        }
        _ => return false,
    };
    *count = count.saturating_add(*more);
    true
}

/// Hands them out one by one, until there are none or `send` answers false; that one stays.
fn drain<E: Lossy + Clone>(queue: &mut EventQueue<E>, mut send: impl FnMut(E) -> bool) -> bool {
    while let Some(first) = queue.front() {
        if !send(first.clone()) {
            return false;
        }
        let _ = queue.pop();
    }
    true
}

#[cfg(test)]
mod tests {
    use gpu_broker_protocol::SessionId;
    use gpu_broker_protocol::limits::ADMIN_EVENTS_PENDING_MAX;

    use super::*;

    fn news(number: u64) -> AdminEvent {
        let what = AdminNews::SessionEnded { session: SessionId(number), why: String::new() };
        AdminEvent { at_ns: number, lost: 0, what }
    }

    fn refused(session: u64, reason: &str) -> AdminEvent {
        let (reason, sentence) = (reason.to_owned(), String::new());
        let session = SessionId(session);
        let what = AdminNews::Refused { session, reason, sentence, count: 1 };
        AdminEvent { at_ns: 0, lost: 0, what }
    }

    /// Sends so many, and answers number and lost of each.
    fn sent(outbox: &mut Outbox, most: usize) -> Vec<(u64, u32)> {
        let mut sent = Vec::new();
        outbox.send(|event| {
            if sent.len() == most {
                return false;
            }
            let Event::Admin(event) = event else { panic!("no hang was put in") };
            sent.push((event.at_ns, event.lost));
            true
        });
        sent
    }

    #[test]
    fn the_oldest_are_dropped_and_the_next_says_how_many() {
        let mut outbox = Outbox::default();
        assert_eq!(sent(&mut outbox, 1), []);
        let most = ADMIN_EVENTS_PENDING_MAX as u64;
        (0..most + 3).for_each(|number| outbox.push_news(news(number)));
        // Asked for, not sent, and dropped in its turn.
        assert_eq!(sent(&mut outbox, 0), []);
        outbox.push_news(news(most + 3));
        assert_eq!(sent(&mut outbox, 2), [(4, 4), (5, 0)]);
        assert_eq!(sent(&mut outbox, usize::MAX).len() as u64, most - 2);
        assert!(outbox.send(|_| panic!("empty")));
    }

    #[test]
    fn a_flood_of_refusals_is_one_event_with_a_count() {
        let mut outbox = Outbox::default();
        outbox.push_news(news(7));
        for _ in 0..1000 {
            outbox.push_news(refused(1, "denied"));
            outbox.push_news(refused(2, "denied"));
        }
        outbox.push_news(refused(1, "context-limit"));
        let mut counts = Vec::new();
        outbox.send(|event| {
            if let Event::Admin(AdminEvent { what: AdminNews::Refused { count, .. }, .. }) = event {
                counts.push(count);
            }
            true
        });
        assert_eq!(counts, [1000, 1000, 1]);
    }
}
