//! A log line as a flat JSON object: `time`, `level`, the fields of the span it is in, and the event's own. The formatter
//! of tracing-subscriber nests the span. It also sorts the span's fields into a map of their own, parses them back from
//! their text for every line, and writes a line in about eighty parts, each checked to be UTF-8: a twelfth of the
//! computing for a small upload (`benches/runs/NOTES.md`).

use std::fmt::{self, Debug};
use std::io::Write;

use jiff::Timestamp;
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::span::Record;
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Bytes that suffice for most lines.
const LINE_CAPACITY: usize = 512;
/// Bytes that suffice for the fields of most spans.
const SPAN_CAPACITY: usize = 256;

/// Formats the fields of spans as they stand in lines: `,"name":value` for each.
pub struct SpanFields;

impl<'w> FormatFields<'w> for SpanFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut formatted = Line(Vec::with_capacity(SPAN_CAPACITY));
        fields.record(&mut formatted);
        writer.write_str(formatted.text()?)
    }

    /// A field must be recorded once: it would stand in the line twice.
    fn add_fields(
        &self,
        current: &'w mut FormattedFields<Self>,
        fields: &Record<'_>,
    ) -> fmt::Result {
        self.format_fields(current.as_writer(), fields)
    }
}

/// Formats lines. The fields of spans must be formatted by [`SpanFields`].
pub struct Lines;

impl<S> FormatEvent<S, SpanFields> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, SpanFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line(Vec::with_capacity(LINE_CAPACITY));
        line.raw("{\"time\":");
        line.quoted(format_args!("{:.6}", Timestamp::now()));
        line.raw(",\"level\":");
        line.value(event.metadata().level().as_str());
        let span =
            event.parent().and_then(|id| context.span(id)).or_else(|| context.lookup_current());
        if let Some(span) = span {
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<FormattedFields<SpanFields>>() {
                line.raw(fields.as_str());
            }
        }
        event.record(&mut line);
        line.raw("}\n");
        writer.write_str(line.text()?)
    }
}

struct Line(Vec<u8>);

impl Line {
    fn text(&self) -> Result<&str, fmt::Error> {
        std::str::from_utf8(&self.0).map_err(|_| fmt::Error)
    }

    fn raw(&mut self, json: &str) {
        self.0.extend_from_slice(json.as_bytes());
    }

    fn value(&mut self, value: impl Serialize) {
        // Serializing numbers and texts into memory does not fail.
        let _ = serde_json::to_writer(&mut self.0, &value);
    }

    /// A text that needs no escapes.
    fn quoted(&mut self, text: fmt::Arguments<'_>) {
        let _ = write!(self.0, "\"{text}\"");
    }

    /// Names of fields are in the source, and need no escapes.
    fn field(&mut self, field: &Field, value: impl Serialize) {
        self.raw(",\"");
        self.raw(field.name());
        self.raw("\":");
        self.value(value);
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;

    /// Collects what is written.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn events() {
        tracing::info!("no span");
        tracing::info_span!("bare").in_scope(|| tracing::warn!(number = -1, "in a span"));
        let later = tracing::field::Empty;
        let outer =
            tracing::info_span!("outer", id = "a\"b\n中\u{1}", count = 7, ratio = 0.5, later);
        outer.record("later", "\"now\"");
        let _entered = outer.enter();
        tracing::info_span!("inner", last = true).in_scope(|| {
            let nothing: Option<&str> = None;
            let took = std::time::Duration::from_micros(1500);
            tracing::error!(text = "\\\t\u{7f}é", nothing, some = Some(1u64), ?took, quote = %'"', "x {}", 1);
            tracing::debug!(parent: &outer, float = 1e300, yes = true, error = &io::Error::other("e") as &dyn std::error::Error);
        });
    }

    /// The lines without their times.
    fn lines(time: &str, subscriber: impl FnOnce(Log) -> tracing::Dispatch) -> Vec<Value> {
        let log = Log::default();
        tracing::dispatcher::with_default(&subscriber(log.clone()), events);
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let line = |line: &str| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            let timestamp = line.as_object_mut().unwrap().remove(time).unwrap();
            let timestamp = timestamp.as_str().unwrap();
            assert!(timestamp.parse::<Timestamp>().is_ok(), "{timestamp}");
            assert_eq!(timestamp.len(), "2026-11-26T18:00:00.000001Z".len());
            line
        };
        text.lines().map(line).collect()
    }

    #[test]
    fn lines_equal_those_of_the_library_with_the_spans_fields_beside_their_own() {
        let all =
            || tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_target(false);
        let theirs = lines("timestamp", |log| {
            let subscriber = all().json().flatten_event(true).with_span_list(false);
            subscriber.with_writer(move || log.clone()).finish().into()
        });
        let ours = lines("time", |log| {
            let subscriber = all().fmt_fields(SpanFields).event_format(Lines);
            subscriber.with_writer(move || log.clone()).finish().into()
        });
        let flat = |mut line: Value| {
            let fields = line.as_object_mut().unwrap();
            if let Some(Value::Object(mut span)) = fields.remove("span") {
                span.remove("name");
                fields.append(&mut span);
            }
            line
        };
        let theirs: Vec<_> = theirs.into_iter().map(flat).collect();
        assert_eq!(ours.len(), 4);
        assert_eq!(ours, theirs);
    }
}
