//! The commands, settings and outputs of the guides that are no client's (those are in readme.rs), run as they stand;
//! and that no block of code stands in a guide without a test.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tcb_upload_gateway::sandbox::Options;

use crate::harness::{Form, Gateway, Setup, command, noise};
use crate::pages::{english, page, project};

/// The names of all that a document has, by where they stand.
fn shape(value: &Value) -> Vec<String> {
    match value {
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, value)| {
                let below = shape(value);
                std::iter::once(name.clone())
                    .chain(below.into_iter().map(move |at| format!("{name}.{at}")))
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(shape).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_first_screen_s_commands_give_what_stands_there() {
    let readme = page("README");
    let shell = readme.open_blocks("sh");
    assert_eq!(shell[0], "cargo run --release\n");
    let folder = tempfile::tempdir().expect("a folder");
    let own = [
        ("GATEWAY__SERVER__BIND", "127.0.0.1:0".to_owned()),
        ("GATEWAY__SANDBOX__DATA", folder.path().join("objects").display().to_string()),
    ];
    let variables = own.map(|(name, value)| (name.to_owned(), value)).into();
    let gateway = Gateway::start(&[], &variables, folder.path());

    std::fs::write(folder.path().join("photo.png"), noise(100_000, 1)).expect("written");
    let curl = shell[2].replace("127.0.0.1:8080", &gateway.address.to_string());
    let output = Command::new("sh").args(["-c", &curl]).current_dir(folder.path()).output();
    let response = serde_json::from_slice::<Value>(&output.expect("curl").stdout).expect("JSON");
    let told = serde_json::from_str::<Value>(&readme.open_blocks("json")[0]).expect("JSON");
    assert_eq!(shape(&response), shape(&told), "{response}");
    for same in ["name", "size", "content_type", "verified"] {
        assert_eq!(response["files"][0][same], told["files"][0][same], "{same}");
    }
}

/// What a block of shell sets, with something that could be there for `…`.
fn variables(block: &str) -> BTreeMap<String, String> {
    let lines = block.lines().map(|line| line.trim().trim_start_matches("export "));
    let set = lines
        .filter_map(|line| line.split_once('='))
        // Others are those of the guides' programs.
        .filter(|(name, _)| name.starts_with("GATEWAY__") || *name == "GATEWAY_PROFILE");
    set.map(|(name, value)| {
        let (value, _) = value.split_once("  ").unwrap_or((value, ""));
        let value = match name {
            "GATEWAY__AUTH__KEYS__PANEL__SHA256" => value.replace('…', &"0".repeat(64)),
            _ => value.replace('…', &"0123456789abcdef".repeat(2)),
        };
        (name.to_owned(), value)
    })
    .collect()
}

/// What a gateway in production prints of these settings; it accepts them.
fn checked(variables: &BTreeMap<String, String>, arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let output = command(arguments, variables, folder.path()).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    assert!(output.status.success(), "{variables:?}: {}", text(output.stderr));
    text(output.stdout)
}

#[test]
fn what_the_guides_set_is_understood() {
    let blocks = english().into_iter().flat_map(|page| page.open_blocks("sh"));
    let sets: Vec<_> =
        blocks.map(|block| variables(&block)).filter(|set| !set.is_empty()).collect();
    assert_eq!(sets.len(), 5, "production, tickets, cloud hosting, nginx, client paths");
    for set in &sets {
        // All but those of cloud hosting are more of the first.
        let mut all = if set.contains_key("GATEWAY__WECHAT__ENV") {
            BTreeMap::new()
        } else {
            sets[0].clone()
        };
        all.extend(set.clone());
        all.insert("GATEWAY_PROFILE".to_owned(), "production".to_owned());
        let printed = checked(&all, &["--check"]);
        for (name, value) in set.iter().filter(|(name, _)| name.contains("__")) {
            let key = name.trim_start_matches("GATEWAY__").replace("__", ".").to_lowercase();
            let line = printed.lines().find(|line| line.starts_with(&key)).unwrap_or_default();
            assert!(line.contains(value.trim()) || line.ends_with("\"***\""), "{key}: {line}");
        }
    }
}

/// The example of permissions, as a file given by `--config`.
#[test]
fn the_policies_of_the_tickets_guide_are_understood() {
    let toml = page("tickets").open_blocks("toml").remove(0);
    let toml = toml.replace("sha256 = \"…\"", &format!("sha256 = \"{}\"", "0".repeat(64)));
    let toml = toml.replacen("0\"", "1\"", 1).replace('…', &"0123456789abcdef".repeat(2));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, &toml).expect("written");
    let mut all = variables(&page("README").open_blocks("sh")[3]);
    all.retain(|name, _| !name.contains("AUTH"));
    let file = file.display().to_string();
    let printed = checked(&all, &["--check", "--profile", "production", "--config", &file]);
    for line in [
        "auth.keys.reports.can = [\"upload\"]",
        "auth.keys.reports.prefix = \"reports/\"",
        "auth.keys.reports.rate = \"60/m\"",
        "auth.jwt.algorithm = \"HS256\"",
        "auth.jwt.prefix = \"users/\"",
        "upload.allowed_types = [\"image/*\", \"application/pdf\"]",
        "links.access = \"signed\"",
    ] {
        assert!(printed.contains(line), "no {line} in\n{printed}");
    }
}

/// The tickets of an identity provider.
#[test]
fn the_key_set_of_the_tickets_guide_is_understood() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, page("tickets").open_blocks("toml").remove(1)).expect("written");
    let mut all = variables(&page("README").open_blocks("sh")[3]);
    all.retain(|name, _| !name.contains("JWT"));
    let file = file.display().to_string();
    let printed = checked(&all, &["--check", "--profile", "production", "--config", &file]);
    for line in [
        "auth.jwt.algorithm = \"RS256\"",
        "auth.jwt.jwks_url = \"https://login.example.com/oauth2/keys\"",
        "auth.jwt.audience = \"files\"",
    ] {
        assert!(printed.contains(line), "no {line} in\n{printed}");
    }
}

#[test]
fn the_settings_of_the_guides_are_understood() {
    let pages = ["back-end", "operations"].map(|name| page(name).open_blocks("toml").concat());
    let toml = pages.concat();
    let toml = toml.replace('…', &"0123456789abcdef".repeat(2));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, &toml).expect("written");
    let all = variables(&page("README").open_blocks("sh")[3]);
    let file = file.display().to_string();
    let printed = checked(&all, &["--check", "--profile", "production", "--config", &file]);
    for line in [
        "hooks.stored_url = \"https://panel.example.com/events\"",
        "hooks.wait = false",
        "auth.forward_url = \"https://panel.example.com/upload-auth\"",
        "auth.forward_headers = [\"x-csrf-token\"]",
        "auth.forward.prefix = \"users/\"",
        "cors.origins = [\"https://panel.example.com\"]",
        "quota.daily.files_per_day = 500",
        "auth.jwt.quota = \"daily\"",
        "telemetry.otlp_endpoint = \"http://collector:4318\"",
        "telemetry.otlp_ratio = 0.1",
    ] {
        assert!(printed.contains(line), "no {line} in\n{printed}");
    }
}

#[test]
fn the_readme_s_excerpt_is_that_of_the_upload_button_s_page() {
    let excerpt = page("README").open_blocks("js").concat();
    let code = page("upload-button").code("Node");
    let functions: Vec<_> = excerpt.split("\n\n").collect();
    assert_eq!(functions.len(), 2);
    assert!(functions.iter().all(|function| code.contains(function.trim_end())), "{excerpt}");
}

/// Cloud hosting permits the listed calls, and the gateway makes these and no other.
#[test]
fn the_permissions_of_cloud_hosting_are_the_calls_that_are_made() {
    let listed = page("deploy-cloud-hosting").open_blocks("text").concat();
    let listed: BTreeSet<_> = listed.lines().collect();
    assert_eq!(listed.len(), 3);
    let world = Setup::new().start();
    let stored = world.post(&Form::new().file("file", "x.txt", "text/plain", b"x")).stored();
    let path = stored["path"].clone();
    assert_eq!(world.call("POST", "/v1/download-links", &json!({"files": [path]})).status, 200);
    assert_eq!(world.call("POST", "/v1/delete", &json!({"files": [path]})).status, 200);
    for path in listed {
        let call = path.strip_prefix("/tcb/").expect("a call of /tcb");
        assert!(world.count(call) > 0, "{path} is listed, and not called");
    }
}

/// Its build is in the Dockerfile's first lines, too, beside the reason for the network.
#[test]
fn the_image_of_the_readme_is_the_dockerfile_s() {
    let blocks = page("README").open_blocks("sh");
    let docker = blocks.iter().find(|block| block.starts_with("docker ")).expect("a block");
    let (build, run) = docker.trim_end().split_once('\n').expect("two commands");
    let dockerfile = source("Dockerfile");
    assert!(dockerfile.contains(&format!("\n#   {build}\n")), "{build}");
    let option = "--network host";
    assert!(run.contains(option) && dockerfile.contains(option), "{run}");
    let tag = build.split(' ').find(|word| word.contains(':')).expect("a tag");
    assert!(run.ends_with(tag), "{run}");
    assert!(dockerfile.contains("\nARG PROFILE="));
}

/// What `doctor` prints where WeChat does not know the server's address.
#[test]
fn the_doctor_s_output_is_what_stands_in_the_guide() {
    let told = page("operations").open_blocks("").concat();
    let world = Setup::new().start();
    let refusal = "invalid ip 203.0.113.7, not in whitelist";
    world.faults(&json!([
        {"stage": "token", "fault": "errcode", "errcode": 40164, "errmsg": refusal}
    ]));
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = ["doctor", "--profile", "production"];
    let output = command(&arguments, world.variables(), folder.path()).output().expect("it runs");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    for line in told.lines() {
        let beginning = line.split('…').next().unwrap_or_default();
        let beginning = match beginning.split_once("0.0.0.0") {
            Some((before, _)) => before,
            None => beginning,
        };
        assert!(printed.lines().any(|line| line.starts_with(beginning)), "no {line} in\n{printed}");
    }
}

/// What `doctor --slow --probe` prints where COS refuses both; the durations are shorter here.
#[test]
fn the_results_of_the_doctor_s_options_are_what_stands_in_the_guide() {
    let without_numbers = |line: &str| {
        let words = line.split(|character: char| character.is_ascii_digit() || character == '.');
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("#")
    };
    let told = page("operations").open_blocks("text").concat();
    assert_eq!(told.lines().count(), 5);
    let limit = |options: &mut Options| options.upload_limit = Some(Duration::from_secs(1));
    let world = Setup::new().set("cos.slow_limit", "1s").sandbox(limit).start();
    let folder = tempfile::tempdir().expect("a folder");
    let arguments =
        ["doctor", "--profile", "production", "--slow", "--slow-seconds", "2", "--probe"];
    let mut variables = world.variables().clone();
    variables.insert("GATEWAY__COS__VIA".to_owned(), "form".to_owned());
    let output = command(&arguments, &variables, folder.path()).output().expect("it runs");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    for line in told.lines() {
        let beginning = without_numbers(line.split('…').next().unwrap_or_default());
        let is_printed = |line: &str| without_numbers(line).starts_with(&beginning);
        assert!(printed.lines().any(is_printed), "no {line} in\n{printed}");
    }
}

/// Blocks of code that stand open in the guides: their page, how they begin, and the test that runs or checks them.
const OPEN: &[(&str, &str, &str)] = &[
    ("README", "docker build", "commands::the_image_of_the_readme_is_the_dockerfile_s"),
    (
        "README",
        "cargo run --release",
        "commands::the_first_screen_s_commands_give_what_stands_there",
    ),
    ("README", "curl -F", "commands::the_first_screen_s_commands_give_what_stands_there"),
    ("README", "{", "commands::the_first_screen_s_commands_give_what_stands_there"),
    ("README", "export GATEWAY_PROFILE", "commands::what_the_guides_set_is_understood"),
    (
        "README",
        "tcb-upload-gateway --check",
        "commands::the_doctor_s_output_is_what_stands_in_the_guide",
    ),
    ("README", "export GATEWAY__AUTH__JWT", "commands::what_the_guides_set_is_understood"),
    (
        "README",
        "function ticket(user)",
        "commands::the_readme_s_excerpt_is_that_of_the_upload_button_s_page",
    ),
    (
        "upload-button",
        "[auth]",
        "upload_button::a_file_gets_a_row_of_its_user_and_both_are_deleted",
    ),
    (
        "upload-button",
        "npm install",
        "upload_button::the_commands_of_the_page_are_those_of_its_table_and_its_settings",
    ),
    ("tickets", "[auth.keys.panel]", "commands::the_policies_of_the_tickets_guide_are_understood"),
    ("tickets", "[auth.jwt]", "commands::the_key_set_of_the_tickets_guide_is_understood"),
    ("tickets", "{", "minting::the_request_of_the_guide_is_understood"),
    (
        "deploy-cloud-hosting",
        "/tcb/",
        "commands::the_permissions_of_cloud_hosting_are_the_calls_that_are_made",
    ),
    ("deploy-cloud-hosting", "GATEWAY__WECHAT", "commands::what_the_guides_set_is_understood"),
    (
        "deploy-nginx",
        "# Without the query",
        "deploy::nginx_as_the_guide_has_it_logs_no_ticket_and_says_who_calls",
    ),
    ("deploy-nginx", "export", "commands::what_the_guides_set_is_understood"),
    ("operations", "[quota.daily]", "commands::the_settings_of_the_guides_are_understood"),
    (
        "operations",
        "# The ten slowest",
        "logs::the_guide_s_commands_find_what_was_slow_what_failed_and_who_stored",
    ),
    ("operations", "[telemetry]", "commands::the_settings_of_the_guides_are_understood"),
    ("operations", "ok ", "commands::the_doctor_s_output_is_what_stands_in_the_guide"),
    (
        "operations",
        "note ",
        "commands::the_results_of_the_doctor_s_options_are_what_stands_in_the_guide",
    ),
    ("back-end", "[hooks]", "commands::the_settings_of_the_guides_are_understood"),
    ("back-end", "{", "hooks::the_back_end_is_told_of_stored_and_deleted_files"),
    ("back-end", "[receipts]", "commands::the_settings_of_the_guides_are_understood"),
    ("back-end", "[auth]", "commands::the_settings_of_the_guides_are_understood"),
    ("clients-web", "[links]", "pictures::the_guide_s_presets_make_the_thumbnails_that_it_shows"),
    ("clients-web", "<img", "pictures::the_guide_s_presets_make_the_thumbnails_that_it_shows"),
    ("migrate", "export", "readme::a_back_end_that_speaks_tcb_changes_its_address_and_its_token"),
    ("metrics", "scrape_configs:", "alerts::each_alert_fires_when_it_should_and_only_then"),
    ("errors", "{", "generated::a_problem_document_is_as_the_guide_shows_it"),
    ("performance", "cargo bench", "commands::commands_that_take_long_are_those_there_are"),
    (
        "performance",
        "read -rs GATEWAY_KEY",
        "target_bounds::the_guide_s_commands_are_understood_and_its_output_is_a_run_s",
    ),
    (
        "performance",
        "| | |",
        "target_bounds::the_guide_s_commands_are_understood_and_its_output_is_a_run_s",
    ),
    ("testing", "tests/run", "commands::commands_that_take_long_are_those_there_are"),
    ("testing", "cargo test", "commands::commands_that_take_long_are_those_there_are"),
    ("testing", "SOAK_MINUTES", "commands::commands_that_take_long_are_those_there_are"),
];

/// Pages with code that is folded away, and the source that quotes each summary to run its code.
const FOLDED: &[(&str, &str)] = &[
    ("upload-button", "tests/browser/upload-button.test.js"),
    ("upload-button", "tests/api/upload_button.rs"),
    ("clients-server", "tests/api/readme.rs"),
    ("clients-mobile", "tests/api/readme.rs"),
    ("tickets", "tests/api/readme.rs"),
    ("migrate", "tests/api/readme.rs"),
    ("clients-web", "tests/browser/clients"),
    ("clients-resumable", "tests/browser/clients"),
    ("clients-resumable", "tests/api/resumable_clients.rs"),
    ("editors", "tests/browser/clients"),
];

/// The text of a file, or of all files of a folder.
fn source(place: &str) -> String {
    let place = project().join(place);
    if place.is_file() {
        return std::fs::read_to_string(place).expect("a file");
    }
    let files = std::fs::read_dir(place).expect("a folder");
    files.map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("text")).collect()
}

/// No code stands in any guide that no test runs or checks.
#[test]
fn every_block_of_the_guides_is_tried() {
    let (mut open, mut folded) = (0, 0);
    for page in english() {
        let name = page.file.rsplit('/').next().and_then(|name| name.strip_suffix(".md"));
        let name = name.expect("a page");
        let places = FOLDED.iter().filter(|(page, _)| *page == name);
        let sources: String = places.map(|(_, place)| source(place)).collect();
        for block in page.blocks() {
            let Some(summary) = &block.summary else {
                // A diagram is nothing to run; guides.rs compares both languages' diagrams.
                if block.language == "mermaid" {
                    assert_eq!(name, "architecture");
                    continue;
                }
                let listed = OPEN.iter().find(|(page, beginning, _)| {
                    *page == name && block.code.trim_start().starts_with(beginning)
                });
                let Some((_, _, test)) = listed else {
                    panic!("{name}: no test runs\n{}", block.code)
                };
                let (file, test) = test.split_once("::").expect("file::test");
                let there = source(&format!("tests/api/{file}.rs"));
                assert!(there.contains(&format!("fn {test}()")), "no such test: {test}");
                open += 1;
                continue;
            };
            // Nothing here compiles them; resumable_apps.rs replays what they send.
            if ["iOS: TUSKit", "Android: tus-android-client"].contains(&summary.as_str()) {
                continue;
            }
            let quotes = [
                format!("\"{summary}\""),
                // As tests/browser/pages.js has it.
                format!("// GUIDE: {summary}\n"),
                format!("GUIDE(\"{summary}\")"),
            ];
            assert!(
                quotes.iter().any(|quote| sources.contains(quote)),
                "{name}: no test runs the code of {summary}"
            );
            folded += 1;
        }
    }
    assert_eq!(open, OPEN.len(), "each of the list is a block");
    assert_eq!(folded, 40, "folded blocks");
}

#[test]
fn commands_that_take_long_are_those_there_are() {
    let shell: String = english().iter().flat_map(|page| page.open_blocks("sh")).collect();
    for (said, file, there) in [
        ("tests/run", "tests/run", "cargo test --release"),
        ("--test api faults::the_matrix", "tests/api/faults.rs", "fn the_matrix"),
        ("SOAK_MINUTES=60", "tests/api/soak.rs", "\"SOAK_MINUTES\""),
        ("cargo bench --bench relay", "benches/relay.rs", "#[derive(Parser)]"),
        ("-- --check --record", "benches/relay.rs", "record: bool"),
        ("-- --polling http-small https-small", "benches/relay.rs", "polling: bool"),
        ("cargo bench --bench encode", "benches/encode.rs", "--instructions"),
    ] {
        assert!(shell.contains(said), "{said}");
        assert!(source(file).contains(there), "{there}");
    }
}
