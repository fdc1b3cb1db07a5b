//! `GET /console/info`: what the upload page is told of its user's limits, and what a stranger is not. Also what the page
//! has to say about each code.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tcb_upload_gateway::http::problem::Code;

use crate::harness::{KEY, Setup, World};
use crate::pages::read;
use crate::tickets::{self, ticket};

/// The codes of requests that the page does not send: it needs no advice about them.
const WITHOUT_ADVICE: [&str; 9] = [
    "malformed_form",
    "no_file",
    "field_after_file",
    "file_not_last",
    "tus_version",
    "length_required",
    "not_multipart",
    "not_offset_stream",
    "encoding_not_supported",
];

fn info(world: &World, credential: Option<&str>) -> Value {
    let authorization = credential.map(|text| format!("Bearer {text}"));
    let headers: Vec<_> =
        authorization.iter().map(|text| ("authorization", text.as_str())).collect();
    let response = world.call_with("GET", "/console/info", &headers, "");
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("cache-control"), Some("no-store"));
    response.json()
}

fn setup() -> Setup {
    tickets::setup()
        .set("console.enabled", true)
        .set("wechat.env", "shop-1a2b")
        .set("upload.max_file_size", "5MiB")
        .set("upload.allowed_types", "image/*,application/x-pdf")
        .set("links.presets.thumb", "imageMogr2/thumbnail/200x")
}

#[test]
fn the_limits_are_those_of_the_request_s_client() {
    let world = setup().start();
    let mut own = info(&world, Some(KEY));
    assert_eq!(own["client"]["can"].take().as_array().map(Vec::len), Some(5));
    let expected = json!({"sandbox": false, "client": {
        "environment": "shop-1a2b",
        "can": null,
        "max_file_size": 5 << 20,
        "types": [["image/*", "application/pdf"]],
        "presets": ["thumb"],
    }});
    assert_eq!(own, expected);

    let claims = json!({"can": ["download"], "max_file_size": 1000, "types": ["image/png"]});
    let restricted = info(&world, Some(&ticket(claims)));
    let expected = json!({"sandbox": false, "client": {
        "can": ["download"],
        "max_file_size": 1000,
        "types": [["image/*", "application/pdf"], ["image/png"]],
        "presets": ["thumb"],
    }});
    assert_eq!(restricted, expected, "a client without uploads is not told the environment");
}

#[test]
fn a_stranger_learns_nothing() {
    let world = setup().start();
    for credential in [None, Some("wrong")] {
        assert_eq!(info(&world, credential), json!({"sandbox": false, "client": null}));
    }
    let world = tickets::setup().start();
    world.call_with("GET", "/console/info", &[], "").problem(404, "not_found");
}

/// The names in an object of words.zh.js: `export const NAME = {`, then lines `name: "…",`.
fn named(object: &str) -> BTreeSet<String> {
    let file = "src/http/console/words.zh.js";
    let text = read(file.to_owned()).text;
    let begin = format!("export const {object} = {{\n");
    let (_, rest) = text.split_once(&begin).expect("the object");
    let (lines, _) = rest.split_once("\n};").expect("its end");
    let mut names = BTreeSet::new();
    for line in lines.lines() {
        let (name, text) = line.trim().split_once(": ").expect("a name");
        assert!(text.len() > 4, "{file}: {object} says nothing about {name}");
        assert!(names.insert(name.to_owned()), "{file}: {object} has {name} twice");
    }
    names
}

/// English needs neither, because the page shows the gateway's own title and detail.
#[test]
fn the_chinese_page_has_a_title_and_advice_for_every_code() {
    let codes: BTreeSet<_> = Code::ALL.iter().map(|code| code.name().to_owned()).collect();
    let without = WITHOUT_ADVICE.map(ToOwned::to_owned).into();
    assert_eq!(named("problems"), codes);
    assert_eq!(named("advice"), codes.difference(&without).cloned().collect());
}
