//! The export of spans: its endpoint, its headers, and what a build without it says.

use secrecy::ExposeSecret;

use super::{problem, production};
use crate::settings::layers::{Layers, Reader};

const ENDPOINT: (&str, &str) = ("GATEWAY__TELEMETRY__OTLP_ENDPOINT", "http://collector:4318");

#[test]
fn headers_are_pairs_with_percent_encoded_values() {
    let text = "Authorization=Basic%20dXNlcjpwYXNz=, x-team = a%2Cb ,";
    let settings = production(&[ENDPOINT, ("GATEWAY__TELEMETRY__OTLP_HEADERS", text)]);
    let settings = settings.expect("no faults");
    let fields = settings.telemetry.otlp.fields();
    let fields: Vec<_> =
        fields.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
    assert_eq!(fields, [("authorization", "Basic dXNlcjpwYXNz="), ("x-team", "a,b")]);
    assert!(settings.describe().contains("telemetry.otlp_headers = \"***\"\n"));
    assert!(!format!("{settings:?}").contains("dXNlcjpwYXNz"));
}

#[test]
fn bad_headers_are_refused_without_being_shown() {
    for (text, says) in [
        ("hunter2", "name=value"),
        ("=hunter2", "name"),
        ("a b=hunter2", "name"),
        ("x-key=", "without a value"),
        ("x-key=hunter2%0D%0Ax: y", "printable"),
        ("Host=hunter2", "host"),
        (&"x".repeat(9000), "longer"),
    ] {
        let result = production(&[ENDPOINT, ("GATEWAY__TELEMETRY__OTLP_HEADERS", text)]);
        let problem = problem(&result, "telemetry.otlp_headers");
        assert!(problem.contains(says) && !problem.contains("hunter2"), "{text}: {problem}");
    }
}

#[test]
fn the_ratio_is_from_0_to_1() {
    for (text, ratio) in [("0", 0.0), ("1", 1.0), ("0.25", 0.25)] {
        let settings = production(&[("GATEWAY__TELEMETRY__OTLP_RATIO", text)]).expect("no faults");
        assert_eq!(settings.telemetry.otlp.ratio, ratio);
        assert!(settings.describe().contains(&format!("telemetry.otlp_ratio = {text}\n")));
    }
    for text in ["-0.1", "1.1", "NaN", "half", ""] {
        let result = production(&[("GATEWAY__TELEMETRY__OTLP_RATIO", text)]);
        problem(&result, "telemetry.otlp_ratio");
    }
}

#[test]
fn a_build_without_the_export_refuses_an_endpoint() {
    let settings = production(&[ENDPOINT]).expect("no faults");
    let faults = |is_built| {
        let mut reader = Reader::from(Layers::default());
        settings.telemetry.otlp.check(is_built, &mut reader);
        reader.finish()
    };
    assert_eq!(faults(true), []);
    let faults = faults(false);
    assert_eq!(faults[0].key, "telemetry.otlp_endpoint");
    assert!(faults[0].problem.contains("--features otlp"), "{faults:?}");
}
