//! The log of the running agent: lines on standard error, as text or as JSON, one for each thing that happens.
//!
//! What is said goes through `tracing`. Events with a name of [`events::EVENTS`] are said always; all others are the library's
//! own records, which [`Levels`] choose from. Whoever reads nothing of it is no reason to stop.

pub mod events;
pub mod levels;
pub mod line;
mod record;
pub mod repeats;

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

pub use self::levels::{LevelError, Levels};
pub use self::line::{Form, printable};
pub use self::record::{Record, Severity};
use self::repeats::Repeats;

/// How the log is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Text or JSON.
    pub form: Form,
    /// What is said beyond what is said always.
    pub levels: Levels,
    /// Whether lines begin with the priority that the journal understands, `<4>` for a warning.
    pub priorities: bool,
    /// Whether the words `error:` and `warning:` are coloured.
    pub colour: bool,
}

/// The one log of a process.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    form: Form,
    priorities: bool,
    colour: bool,
    levels: RwLock<Levels>,
    repeats: Mutex<Repeats>,
    /// Which records may be written at all, whatever the levels ask for.
    may_be_logged: fn(&Metadata<'_>) -> bool,
}

/// What hands records to [`LOG`].
struct Tap;

/// Begins the log of this process. `may_be_logged` has the last word: records of libraries can hold what is secret.
///
/// A second call, and one beside a subscriber of an embedding program, changes nothing.
pub fn install(settings: Settings, may_be_logged: fn(&Metadata<'_>) -> bool) {
    let Settings { form, levels, priorities, colour } = settings;
    let (levels, repeats) = (RwLock::new(levels), Mutex::new(Repeats::default()));
    let log = Log { form, priorities, colour, levels, repeats, may_be_logged };
    if LOG.set(log).is_ok() {
        let _ = tracing_subscriber::registry().with(Tap).try_init();
    }
}

/// Whether [`install`] was called.
#[must_use]
pub fn is_installed() -> bool {
    LOG.get().is_some()
}

/// Other levels from now on, as after a reload of the configuration. Without a log nothing happens.
pub fn set_levels(levels: Levels) {
    if let Some(log) = LOG.get() {
        *log.levels.write().unwrap_or_else(PoisonError::into_inner) = levels;
        tracing::callsite::rebuild_interest_cache();
    }
}

/// Says what was left out of repeated lines whose time is over. To be called now and then.
pub fn flush() {
    if let Some(log) = LOG.get() {
        let over = lock(&log.repeats).over(Instant::now());
        over.iter().for_each(|record| log.write(record));
    }
}

/// The same for all of them, at the end.
pub fn flush_all() {
    if let Some(log) = LOG.get() {
        let all = lock(&log.repeats).end();
        all.iter().for_each(|record| log.write(record));
    }
}

/// Says a line of the program as a record: `error: `, `warning: ` and `note: ` at its beginning are its severity.
pub fn say(line: &str) {
    let (severity, text) = Severity::split(line);
    match severity {
        Severity::Error => tracing::error!(name: events::MESSAGE, target: "ckpt_db", "{text}"),
        Severity::Warning => tracing::warn!(name: events::MESSAGE, target: "ckpt_db", "{text}"),
        Severity::Notice => tracing::info!(name: events::NOTE, target: "ckpt_db", "{text}"),
        Severity::Info | Severity::Debug | Severity::Trace => {
            tracing::info!(name: events::MESSAGE, target: "ckpt_db", "{text}");
        }
    }
}

/// Whether standard error is the stream to the journal, as `JOURNAL_STREAM` says it (systemd.exec(5)).
#[must_use]
pub fn is_journal(journal_stream: Option<&str>) -> bool {
    let Some((device, inode)) = journal_stream.and_then(|stream| stream.split_once(':')) else { return false };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr().as_fd()) else { return false };
    device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino)
}

impl Log {
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        if !metadata.is_event() || !(self.may_be_logged)(metadata) {
            return false;
        }
        let levels = self.levels.read().unwrap_or_else(PoisonError::into_inner);
        events::find(metadata.name()).is_some() || levels.wants(metadata.target(), metadata.level())
    }

    fn take(&self, record: Record) {
        let now = Instant::now();
        let (over, is_said) = {
            let mut repeats = lock(&self.repeats);
            (repeats.over(now), repeats.is_said(&record, now))
        };
        over.iter().for_each(|record| self.write(record));
        if is_said {
            self.write(&record);
        }
    }

    fn write(&self, record: &Record) {
        let mut line = match self.form {
            Form::Text => line::text(record, self.colour),
            Form::Json => line::json(record, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
        };
        if self.priorities {
            line.insert_str(0, &format!("<{}>", record.severity.priority()));
        }
        line.push('\n');
        // In one piece, so that lines of several threads do not mix. When nobody reads it there is nobody to tell.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

fn lock(repeats: &Mutex<Repeats>) -> std::sync::MutexGuard<'_, Repeats> {
    repeats.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Subscriber> Layer<S> for Tap {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        LOG.get().is_some_and(|log| log.wants(metadata))
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if let Some(log) = LOG.get() {
            log.take(Record::of(event));
        }
    }
}
