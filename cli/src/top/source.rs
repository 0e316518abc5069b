//! Where samples come from: the administrators' socket if it can be opened, else the clients'.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use gpu_broker_client::protocol::SessionId;
use gpu_broker_client::protocol::refusal::errno::ENOENT;
use gpu_broker_client::{Connection, Error};

use super::sample::{Daemon, Engine, Sample, Session};
use crate::connect::connect;
use crate::output::{Failure, harmless};

/// The sockets, as far as the command line names them.
#[derive(Clone, Debug)]
pub(super) struct Sockets {
    pub(super) clients: Option<PathBuf>,
    pub(super) admin: Option<PathBuf>,
}

/// A daemon that is asked.
pub(super) struct Source {
    connection: Connection,
    /// Why sessions cannot be taken away, if they cannot.
    powerless: Option<String>,
    /// Classes of sessions: a session stays in its class, so each is asked for once.
    classes: HashMap<u64, String>,
}

impl Sockets {
    /// Connects. The administrators' socket at its usual place may be another daemon's than the one
    /// that is asked for: it counts if the same process serves both.
    ///
    /// # Errors
    /// Neither socket can be had; why not the clients'.
    pub(super) fn open(&self) -> Result<Source, Failure> {
        if let Some(path) = &self.admin {
            return match connect(Some(path.clone())) {
                Ok(connection) => Ok(Source::new(connection, None)),
                Err(why) => {
                    let clients = connect(self.clients.clone())?;
                    Ok(Source::new(clients, Some(why.sentence().to_owned())))
                }
            };
        }
        let path = Path::new(crate::admin::DEFAULT_SOCKET);
        let (admin, why) = match connect(Some(path.to_owned())) {
            Ok(admin) => (Some(admin), String::new()),
            Err(why) => (None, why.sentence().to_owned()),
        };
        let clients = match (connect(self.clients.clone()), admin.as_ref()) {
            // The daemon may be full or draining for everybody else.
            (Err(_), Some(admin)) if self.clients.is_none() => admin.clone(),
            (clients, _) => clients?,
        };
        match admin {
            Some(admin) if serves(&admin)? == serves(&clients)? => Ok(Source::new(admin, None)),
            Some(_) => {
                let why = format!("{} is the socket of another daemon", path.display());
                Ok(Source::new(clients, Some(why)))
            }
            None => Ok(Source::new(clients, Some(why))),
        }
    }
}

/// Which process serves the connection.
fn serves(connection: &Connection) -> Result<u32, Failure> {
    let page = connection.status().map_err(|error| silent("its status", &error))?;
    Ok(page.daemon.pid)
}

fn silent(what: &str, error: &Error) -> Failure {
    Failure::new(harmless(&format!("the daemon did not say {what}: {error}")))
}

impl Source {
    fn new(connection: Connection, powerless: Option<String>) -> Self {
        Self { connection, powerless, classes: HashMap::new() }
    }

    /// Why sessions cannot be taken away, if they cannot: a sentence that says what to do.
    pub(super) fn powerless(&self) -> Option<String> {
        let why = self.powerless.as_ref()?;
        Some(harmless(&format!(
            "only administrators can take sessions away, by a socket of their own (--admin-socket): \
             {why}"
        )))
    }

    /// Asks for everything.
    ///
    /// # Errors
    /// The daemon is gone or does not say.
    pub(super) fn sample(&mut self) -> Result<Sample, Failure> {
        let page = self.connection.status().map_err(|error| silent("its status", &error))?;
        if self.powerless.is_none() {
            // Administrators are told all of it at once.
            let told = crate::admin::sessions(&self.connection);
            let told = told.map_err(|error| silent("its sessions", &error))?;
            return Ok(Sample {
                daemon: Daemon::new(&page.daemon),
                engines: page.engines.iter().map(Engine::new).collect(),
                sessions: told.into_iter().map(Session::of_list).collect(),
            });
        }
        let mut sessions: Vec<_> = page.sessions.iter().map(Session::new).collect();
        for session in &mut sessions {
            self.complete(session)?;
        }
        self.classes.retain(|known, _| {
            sessions.binary_search_by_key(known, |session| session.session).is_ok()
        });
        let hangs = crate::hang::all(&self.connection)?;
        for session in &mut sessions {
            let own = hangs.iter().filter(|hang| hang.session == session.session).count();
            session.hangs = u64::try_from(own).ok();
        }
        Ok(Sample {
            daemon: Daemon::new(&page.daemon),
            engines: page.engines.iter().map(Engine::new).collect(),
            sessions,
        })
    }

    /// What STATUS does not say of a session. One that has ended meanwhile stays as it is.
    fn complete(&mut self, session: &mut Session) -> Result<(), Failure> {
        let number = SessionId(session.session);
        match self.connection.usage(Some(number)) {
            Ok(usage) => session.engines = usage.engines,
            Err(error) if error.errno() == ENOENT => return Ok(()),
            Err(error) => return Err(silent("what sessions used", &error)),
        }
        if !self.classes.contains_key(&session.session) {
            match self.connection.identity(number) {
                Ok(identity) => {
                    self.classes.insert(session.session, harmless(&identity.class));
                }
                Err(error) if error.errno() == ENOENT => return Ok(()),
                Err(error) => return Err(silent("whose sessions are", &error)),
            }
        }
        session.class = self.classes.get(&session.session).cloned();
        Ok(())
    }

    /// Takes a session away; what to tell whoever asked for it.
    pub(super) fn revoke(&self, session: u64) -> String {
        if let Some(why) = self.powerless() {
            return why;
        }
        match self.connection.admin_revoke(SessionId(session)) {
            Ok(()) => format!("session {session} is taken away"),
            Err(error) => harmless(&format!("session {session} is not taken away: {error}")),
        }
    }
}
