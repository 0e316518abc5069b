//! What the screen is in the middle of: pure, told of keys and samples.

use super::keys::Key;
use super::model::{Column, Frame, Order, Row};
use super::sample::Sample;

/// The screen's state.
#[derive(Debug)]
pub(super) struct State {
    /// What is shown, in order; `None` until the first sample.
    pub(super) frame: Option<Frame>,
    pub(super) order: Order,
    /// The number of the session the cursor is on: it stays there when the order changes. `None`
    /// until it is moved: it stays on top.
    pub(super) cursor: Option<u64>,
    /// A question that waits for `y`.
    pub(super) asking: Option<Question>,
    /// What was done last.
    pub(super) said: Option<String>,
    /// Why what is shown is old.
    pub(super) trouble: Option<String>,
    /// Why sessions cannot be taken away.
    powerless: Option<String>,
    /// What the next sample is compared with.
    last: Option<Sample>,
}

/// Whether a session should be taken away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Question {
    pub(super) session: u64,
    pub(super) text: String,
}

/// What a key asks the world for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Nothing,
    Quit,
    Revoke(u64),
}

impl State {
    /// Nothing is known yet.
    pub(super) fn new(order: Order) -> Self {
        Self {
            frame: None,
            order,
            cursor: None,
            asking: None,
            said: None,
            trouble: None,
            powerless: None,
            last: None,
        }
    }

    /// The daemon answered.
    pub(super) fn sampled(&mut self, sample: Sample, powerless: Option<String>) {
        let mut frame = Frame::between(self.last.as_ref(), &sample);
        frame.sort(self.order);
        let place = self.place().unwrap_or_default();
        let there = |number: u64| frame.sessions.iter().any(|row| row.session == number);
        if self.cursor.is_some_and(|number| !there(number)) {
            // Whoever moved up into the place of one that is gone.
            let next = frame.sessions.get(place).or_else(|| frame.sessions.last());
            self.cursor = next.map(|row| row.session);
        }
        if let Some(asked) = self.asking.take_if(|asking| !there(asking.session)) {
            self.said = Some(format!("session {} has ended by itself", asked.session));
        }
        (self.frame, self.last) = (Some(frame), Some(sample));
        (self.trouble, self.powerless) = (None, powerless);
    }

    /// The daemon does not answer.
    pub(super) fn lost(&mut self, why: String) {
        self.asking = None;
        self.trouble = Some(why);
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: Key) -> Action {
        if key == Key::Interrupt {
            return Action::Quit;
        }
        if let Some(asked) = self.asking.take() {
            let yes = matches!(key, Key::Char('y' | 'Y'));
            return if yes { Action::Revoke(asked.session) } else { Action::Nothing };
        }
        self.said = None;
        match key {
            Key::Char('q') => return Action::Quit,
            Key::Char('k') => self.ask(),
            Key::Char('i') => self.order.descending = !self.order.descending,
            Key::Left => self.next_column(Column::ALL.len().saturating_sub(1)),
            Key::Right => self.next_column(1),
            Key::Up => self.walk(-1),
            Key::Down => self.walk(1),
            Key::PageUp => self.walk(-10),
            Key::PageDown => self.walk(10),
            Key::Home => self.walk(isize::MIN),
            Key::End => self.walk(isize::MAX),
            Key::Char(letter) => {
                let column = Column::ALL.into_iter().find(|column| column.key() == letter);
                self.order = column.map_or(self.order, Order::by);
            }
            Key::Interrupt | Key::Other => {}
        }
        let order = self.order;
        if let Some(frame) = &mut self.frame {
            frame.sort(order);
        }
        Action::Nothing
    }

    /// The sessions in order.
    pub(super) fn rows(&self) -> &[Row] {
        self.frame.as_ref().map_or(&[], |frame| &frame.sessions)
    }

    /// At which of them the cursor is.
    pub(super) fn place(&self) -> Option<usize> {
        let on = |row: &Row| self.cursor.is_none_or(|number| number == row.session);
        self.rows().iter().position(on)
    }

    fn walk(&mut self, by: isize) {
        let last = self.rows().len().saturating_sub(1);
        let place = self.place().unwrap_or_default().saturating_add_signed(by).min(last);
        self.cursor = self.rows().get(place).map(|row| row.session);
    }

    fn next_column(&mut self, by: usize) {
        let at = Column::ALL.iter().position(|column| *column == self.order.column);
        let next = (at.unwrap_or_default() + by) % Column::ALL.len();
        self.order = Column::ALL.get(next).map_or(self.order, |column| Order::by(*column));
    }

    fn ask(&mut self) {
        let Some(row) = self.place().and_then(|place| self.rows().get(place)) else {
            self.said = Some("there is no session to take away".to_owned());
            return;
        };
        if self.trouble.is_some() {
            self.said = Some("the daemon does not answer".to_owned());
        } else if let Some(why) = &self.powerless {
            self.said = Some(why.clone());
        } else {
            let Row { session, client, pid, uid, .. } = row;
            // The keys first: a long name may push the rest off the screen.
            let text = format!(
                "y/n: take session {session} away (pid {pid}, uid {uid}, {client})? Its work is lost."
            );
            self.asking = Some(Question { session: *session, text });
        }
    }
}
