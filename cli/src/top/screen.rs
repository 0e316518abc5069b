//! The terminal: keys in, frames out. The daemon is asked by a thread of its own, so that one that
//! does not answer never holds up a key.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use super::draw::draw;
use super::model::Order;
use super::sample::Sample;
use super::source::{Sockets, Source};
use super::state::{Action, State};
use super::terminal::{Terminal, give_back};
use crate::output::Failure;

/// How long news of the daemon may wait for keys.
const GLANCE: Duration = Duration::from_millis(50);

/// Between attempts to reach a daemon that is gone, and before the second sample of a new one.
const SOON: Duration = Duration::from_millis(250);

/// A daemon that needs longer to answer than this, and three intervals, is said not to answer.
const SILENCE: Duration = Duration::from_secs(3);

/// How long the screen has to put the terminal in order when a signal ends us.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the daemon's thread tells.
enum News {
    Sample { sample: Sample, powerless: Option<String> },
    Lost(String),
    Said(String),
}

/// A session to take away.
struct Revoke(u64);

/// Shows the daemon until `q`.
///
/// # Errors
/// The terminal does not do as it is told.
pub(super) fn run(
    sockets: Sockets,
    source: Source,
    interval: Duration,
    order: Order,
) -> Result<(), Failure> {
    let (orders, to_do) = channel();
    // A terminal that takes nothing (Ctrl-S) must not make news pile up.
    let (news, heard) = sync_channel(1);
    let asker = Asker { sockets, source: Some(source), interval, news, to_do };
    std::thread::spawn(move || asker.run());
    let ended = Arc::new(AtomicBool::new(false));
    restore_on_signal(&ended)?;
    let failed = |error: io::Error| Failure::new(format!("cannot use the terminal: {error}"));
    let mut terminal = Terminal::take().map_err(failed)?;
    let mut screen = Screen { state: State::new(order), heard, orders, interval, ended };
    screen.show(&mut terminal).map_err(failed)
}

/// A signal (not Ctrl-C, which is a key here) ends the loop; where that is stuck, for example
/// because the terminal is gone, the process.
fn restore_on_signal(ended: &Arc<AtomicBool>) -> Result<(), Failure> {
    const INTERRUPTED: i32 = 130;
    let ended = Arc::clone(ended);
    let handler = move || {
        ended.store(true, Ordering::Relaxed);
        std::thread::sleep(FAREWELL);
        give_back();
        std::process::exit(INTERRUPTED);
    };
    ctrlc::set_handler(handler)
        .map_err(|error| Failure::new(format!("cannot be told of signals: {error}")))
}

struct Screen {
    state: State,
    heard: Receiver<News>,
    orders: Sender<Revoke>,
    interval: Duration,
    ended: Arc<AtomicBool>,
}

impl Screen {
    fn show(&mut self, terminal: &mut Terminal) -> io::Result<()> {
        let mut heard_at = Instant::now();
        let mut silent_s = 0;
        let mut changed = true;
        let mut size = (0, 0);
        while !self.ended.load(Ordering::Relaxed) {
            while let Ok(news) = self.heard.try_recv() {
                self.hear(news);
                (heard_at, silent_s, changed) = (Instant::now(), 0, true);
            }
            let silence = heard_at.elapsed();
            if silence > SILENCE.max(self.interval * 3) && silence.as_secs() != silent_s {
                silent_s = silence.as_secs();
                self.state.lost(format!("the daemon has not answered for {silent_s} s"));
                changed = true;
            }
            let now = Terminal::size();
            if std::mem::take(&mut changed) || now != size {
                size = now;
                terminal.show(size, draw(&self.state, size))?;
            }
            let Some(keys) = Terminal::keys(GLANCE)? else { break };
            for key in keys {
                changed = true;
                match self.state.key(key) {
                    Action::Nothing => {}
                    Action::Quit => return Ok(()),
                    Action::Revoke(session) => {
                        // The thread only ends with the process.
                        let _ = self.orders.send(Revoke(session));
                    }
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Sample { sample, powerless } => self.state.sampled(sample, powerless),
            News::Lost(why) => self.state.lost(why),
            News::Said(what) => self.state.said = Some(what),
        }
    }
}

/// The thread that asks the daemon.
struct Asker {
    sockets: Sockets,
    source: Option<Source>,
    interval: Duration,
    news: SyncSender<News>,
    to_do: Receiver<Revoke>,
}

impl Asker {
    /// Until nobody listens.
    fn run(mut self) {
        let mut pause = SOON.min(self.interval);
        loop {
            let news = match self.ask() {
                Ok(news) => news,
                Err(why) => {
                    self.source = None;
                    pause = SOON;
                    News::Lost(why.sentence().to_owned())
                }
            };
            if self.news.send(news).is_err() {
                return;
            }
            if let Ok(Revoke(session)) = self.to_do.recv_timeout(pause) {
                let said = self.source.as_ref().map_or_else(
                    || "the daemon is gone, and its sessions with it".to_owned(),
                    |source| source.revoke(session),
                );
                if self.news.send(News::Said(said)).is_err() {
                    return;
                }
            }
            pause = if self.source.is_some() { self.interval } else { SOON };
        }
    }

    fn ask(&mut self) -> Result<News, Failure> {
        let source = match &mut self.source {
            Some(source) => source,
            gone => {
                let source = self.sockets.open()?;
                // Numbers that were meant for the daemon that is gone mean other sessions here.
                while self.to_do.try_recv().is_ok() {}
                gone.insert(source)
            }
        };
        let sample = source.sample()?;
        Ok(News::Sample { sample, powerless: source.powerless() })
    }
}
