//! `tracing` events of firstmate's own code and of its libraries as lines in the same log.
//!
//! The engine's notices do not come this way: they are rendered straight by [`super::notice`], because the sentence and any fields of it
//! are then made from one value and cannot disagree, and because nothing has to be kept for spans. What does come this way is
//! what the shell says by itself, `warn!(path = ..., "cannot read it")`: message first, then its fields as `key=value`.
//!
//! The layer needs no span storage, so [`install`] puts it on a base that has none: tracing-subscriber's own registry was
//! measured to take 160 KiB before the first event.

use std::fmt::{self, Write};
use std::sync::Mutex;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::{Format, Level};

/// A tracing layer that hands each event to `write` as one finished line, line feed included.
pub struct OwnLines<W> {
    most: tracing::Level,
    state: Mutex<State>,
    write: W,
}

struct State {
    format: Format,
    text: String,
    line: Vec<u8>,
}

impl<W> fmt::Debug for OwnLines<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnLines").field("most", &self.most).finish_non_exhaustive()
    }
}

impl<W: Fn(&[u8]) + Send + Sync + 'static> OwnLines<W> {
    /// Events up to `most` (INFO: errors, warnings and information), looking as `format` says.
    pub fn new(most: tracing::Level, format: Format, write: W) -> Self {
        Self { most, state: Mutex::new(State { format, text: String::new(), line: Vec::new() }), write }
    }
}

impl<S: Subscriber, W: Fn(&[u8]) + Send + Sync + 'static> Layer<S> for OwnLines<W> {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.most
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Held by this very thread when `write` logs something itself; waiting would be for ever.
        let Ok(mut state) = self.state.try_lock() else { return };
        let State { format, text, line } = &mut *state;
        text.clear();
        line.clear();
        event.record(&mut Message(text));
        let message = text.len();
        event.record(&mut Fields(text));
        if message == 0 && text.starts_with(' ') {
            text.remove(0);
        }
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO | tracing::Level::DEBUG | tracing::Level::TRACE => Level::Info,
        };
        format.own_line(line, SystemTime::now(), level, text);
        (self.write)(line);
    }
}

const MESSAGE: &str = "message";

/// Writes the message, wherever it stands among the fields.
struct Message<'a>(&'a mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == MESSAGE {
            // Writing to a String cannot fail; the value's own Debug may, and then the line says less.
            let _written = write!(self.0, "{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            self.0.push_str(value);
        }
    }
}

/// Writes ` key=value` for every other field; text that is not one plain word is quoted.
struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != MESSAGE {
            let _written = write!(self.0, " {}={value:?}", field.name());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let plain = !value.is_empty() && value.chars().all(|c| !c.is_whitespace() && !c.is_control() && !"\"=".contains(c));
        if plain && field.name() != MESSAGE {
            let _written = write!(self.0, " {}={value}", field.name());
        } else {
            self.record_debug(field, &value);
        }
    }
}

/// Lets every event through to the layers above it, and has no spans.
struct Base;

impl Subscriber for Base {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::always()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_non_zero_u64(std::num::NonZeroU64::MIN)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Makes `lines` the destination of every `tracing` event of this process. Once: false when another has been installed before.
pub fn install<W: Fn(&[u8]) + Send + Sync + 'static>(lines: OwnLines<W>) -> bool {
    tracing::subscriber::set_global_default(Base.with(lines)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn told(work: impl FnOnce()) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let layer = OwnLines::new(tracing::Level::INFO, Format::detect(false, false), move |line: &[u8]| {
            sink.lock().unwrap().push(String::from_utf8(line.to_vec()).unwrap());
            tracing::error!("of the sink itself");
        });
        tracing::subscriber::with_default(Base.with(layer), work);
        let lines = lines.lock().unwrap();
        lines.iter().map(|line| line.split_once("Z ").unwrap().1.to_owned()).collect()
    }

    #[test]
    fn an_event_is_a_line_with_its_fields_and_level() {
        let error = std::io::Error::from_raw_os_error(2);
        let lines = told(|| {
            tracing::info!("listening");
            tracing::warn!(path = "/run/x.sock", tries = 3, late = true, "cannot bind");
            tracing::error!(%error, what = "two words", none = "", text = "a\nb", "cannot read {}", "it");
            tracing::info!(alone = 1);
            tracing::info!(who = ?Some("web"), "debug");
        });
        assert_eq!(
            lines,
            [
                "firstmate | listening\n",
                "firstmate warn | cannot bind path=/run/x.sock tries=3 late=true\n",
                "firstmate error | cannot read it error=No such file or directory (os error 2) what=\"two words\" none=\"\" text=\"a\\nb\"\n",
                "firstmate | alone=1\n",
                "firstmate | debug who=Some(\"web\")\n",
            ]
        );
    }

    #[test]
    fn finer_events_and_spans_leave_no_line() {
        let lines = told(|| {
            tracing::debug!("detail");
            tracing::trace!("more detail");
            let span = tracing::info_span!("work", number = 1);
            span.in_scope(|| tracing::info!("inside"));
        });
        assert_eq!(lines, ["firstmate | inside\n"]);
    }
}
