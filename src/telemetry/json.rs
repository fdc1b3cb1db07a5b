//! A log line as a flat JSON object: `time`, `level`, the fields of the span it is in, and the event's own. The formatter
//! of tracing-subscriber nests the span. It also sorts the span's fields into a map of their own, parses them back from
//! their text for every line, and writes a line in about eighty parts, each checked to be UTF-8: a twelfth of the
//! computing for a small upload (`benches/runs/NOTES.md`).

use std::cell::Cell;
use std::fmt::{self, Debug};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::span::Record;
use tracing::{Event, Level, Subscriber};
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
        begin(&mut line.0, *event.metadata().level());
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

/// Begins a line.
pub(super) fn begin(line: &mut Vec<u8>, level: Level) {
    line.extend_from_slice(b"{\"time\":\"");
    now(line);
    line.extend_from_slice(b"\",\"level\":\"");
    line.extend_from_slice(level.as_str().as_bytes());
    line.push(b'"');
}

/// A date and a time to the second.
type Second = [u8; "2026-11-26T18:00:00".len()];

/// The time to the microsecond. Its second is formatted once.
fn now(line: &mut Vec<u8>) {
    thread_local! {
        static LAST: Cell<(u64, Second)> = const { Cell::new((u64::MAX, [0; _])) };
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut last = LAST.get();
    if last.0 != now.as_secs() {
        let second = i64::try_from(now.as_secs()).ok().and_then(|s| Timestamp::from_second(s).ok());
        let text = second.unwrap_or_default().to_string();
        // After the year 9999 it would be longer.
        let Ok(text) = text.as_bytes()[..text.len() - 1].try_into() else { return };
        last = (now.as_secs(), text);
        LAST.set(last);
    }
    line.extend_from_slice(&last.1);
    let mut fraction = *b".000000Z";
    let mut rest = now.subsec_micros();
    for digit in fraction[1..7].iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    line.extend_from_slice(&fraction);
}

/// A text in quotes. Most need no escapes.
pub(super) fn text(line: &mut Vec<u8>, text: &str) {
    // Without a branch for each byte.
    let is_escaped = |byte: u8| u8::from((byte < 0x20) | (byte == b'"') | (byte == b'\\'));
    if text.bytes().fold(0, |found, byte| found | is_escaped(byte)) != 0 {
        // Serializing a text into memory does not fail.
        let _ = serde_json::to_writer(line, text);
        return;
    }
    line.push(b'"');
    line.extend_from_slice(text.as_bytes());
    line.push(b'"');
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

    /// Names of fields are in the source, and need no escapes.
    fn name(&mut self, field: &Field) {
        self.raw(",\"");
        self.raw(field.name());
        self.raw("\":");
    }

    fn field(&mut self, field: &Field, value: impl Serialize) {
        self.name(field);
        self.value(value);
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        text(&mut self.0, value);
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
