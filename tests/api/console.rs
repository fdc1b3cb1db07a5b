//! `GET /console/info`: what the upload page is told of its user's limits, and what a stranger is not.

use serde_json::{Value, json};

use crate::harness::{KEY, Setup, World};
use crate::tickets::{self, ticket};

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
