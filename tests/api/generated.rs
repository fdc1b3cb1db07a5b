//! The pages of the guide that are written from the code, in both languages: settings, from the comments of
//! config/default.toml, and errors, from the table in src/http/problem/code.rs.
//!
//! `UPDATE_DOCS=1 cargo test --test api generated::` writes them. What the code cannot say, the Chinese texts, stands in
//! docs/zh/settings.toml and docs/zh/errors.toml.

use std::collections::BTreeMap;
use std::fmt::Write;

use tcb_upload_gateway::http::problem::Code;

use crate::harness::{Setup, authorization};
use crate::pages::{Page, page, project, read};

const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Settings that share a comment in `config/default.toml`, and what it says.
#[derive(Debug)]
struct Row {
    keys: Vec<String>,
    defaults: Vec<String>,
    meaning: String,
}

/// Reads `config/default.toml` as a person does: a comment is of the keys right below it, or of their section.
fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let row = |key: String, value: &str, comment: &mut Vec<&str>| Row {
        keys: vec![key],
        defaults: vec![default(value)],
        meaning: meaning(&std::mem::take(comment)),
    };
    let (mut section, mut above, mut comment, mut first) =
        (String::new(), Vec::new(), Vec::new(), true);
    let (_, lines) = DEFAULTS.split_once("\n\n").expect("a head");
    let mut table = String::new();
    for line in lines.lines() {
        let named = line.strip_prefix("# [").and_then(|rest| rest.strip_suffix(']'));
        if let Some((section, _)) = named.and_then(|name| name.rsplit_once('.')) {
            table = format!("{section}.NAME");
            rows.push(row(table.clone(), "", &mut comment));
        } else if line.starts_with("# keys.") {
            rows.push(row("auth.jwt.keys.NAME".to_owned(), "", &mut comment));
        } else if line.starts_with("# presets.") {
            rows.push(row("links.presets.NAME".to_owned(), "", &mut comment));
        } else if let Some((name, rest)) = line.strip_prefix("# ").and_then(example) {
            let (value, text) = rest.split_once("  ").expect("a meaning");
            rows.push(row(format!("{table}.{name}"), value, &mut vec![text]));
        } else if let Some(text) = line.strip_prefix('#') {
            comment.push(text);
        } else if let Some(name) = line.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut section);
            above = std::mem::take(&mut comment);
            first = true;
        } else if let Some((name, value)) = line.split_once(" = ") {
            if std::mem::take(&mut first) && !above.is_empty() {
                if comment.is_empty() {
                    std::mem::swap(&mut comment, &mut above);
                } else {
                    rows.push(row(section.clone(), "", &mut above));
                }
            }
            let key = format!("{section}.{name}");
            if comment.is_empty() {
                let shared = rows.last_mut().expect("a comment");
                shared.keys.push(key);
                shared.defaults.push(default(value));
            } else {
                rows.push(row(key, value, &mut comment));
            }
        }
    }
    rows
}

/// `name = value  meaning`, of a key that stands in a comment.
fn example(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.split_once(" = ")?;
    let is_name =
        name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit());
    (is_name && rest.contains("  ")).then_some((name, rest))
}

fn default(value: &str) -> String {
    let value = value.trim_matches('"');
    if value == "[]" { String::new() } else { value.to_owned() }
}

/// A comment as a cell. A line that begins with a quoted value is an item of a list.
fn meaning(comment: &[&str]) -> String {
    let mut text = String::new();
    for line in comment {
        let line = if line.starts_with("   \"") {
            text.push_str("<br>");
            line.trim().replacen("\"  ", "\": ", 1)
        } else {
            text.push(' ');
            line.trim().to_owned()
        };
        text.push_str(&line);
    }
    let words: Vec<_> = text.split_whitespace().collect();
    words
        .join(" ")
        .replace(" <br>", "<br>")
        .replace('*', "\\*")
        .replace('|', "\\|")
        .trim()
        .to_owned()
}

/// The rows under a heading for each section. `meanings` are the Chinese ones, by a row's first key.
fn settings(head: &str, meanings: Option<&BTreeMap<String, String>>) -> String {
    let code = |values: &[String]| {
        let values = values.iter();
        let cells: Vec<_> = values
            .map(|value| if value.is_empty() { "-".to_owned() } else { format!("`{value}`") })
            .collect();
        cells.join("<br>")
    };
    let (mut text, mut last) = (String::new(), "");
    let rows = rows();
    for Row { keys, defaults, meaning } in &rows {
        let section = keys[0].split('.').next().unwrap_or_default();
        if section != last {
            let _ = write!(text, "\n## {section}\n\n{head}\n|---|---|---|\n");
            last = section;
        }
        let meaning = match meanings {
            Some(meanings) => &meanings[&keys[0]],
            None => meaning,
        };
        let _ = writeln!(text, "| {} | {} | {meaning} |", code(keys), code(defaults));
    }
    text + "\n"
}

/// Texts of docs/zh: lines `key = 'text'`, below `[section]` or not, by `section.key`.
fn texts(file: &str) -> BTreeMap<String, String> {
    let (mut texts, mut section) = (BTreeMap::new(), String::new());
    for line in read(file.to_owned()).text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((key, text)) = line.split_once(" = ").filter(|_| !line.starts_with('#'))
        {
            let text = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
            let text = text.unwrap_or_else(|| panic!("{file}: {key} has no quoted text"));
            let known =
                texts.insert(format!("{section}{}", key.trim_matches('\'')), text.to_owned());
            assert_eq!(known, None, "{file}: {key} twice");
        }
    }
    texts
}

/// That a page has `written` between its markers; with `UPDATE_DOCS` it is put there.
fn written(page: &Page, source: &str, written: &str) {
    let (begin, end) = (format!("<!-- {source}: begin -->\n"), format!("<!-- {source}: end -->\n"));
    let there = page.between(&begin, &end);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let updated = page.text.replacen(there, written, 1);
        std::fs::write(project().join(&page.file), updated).expect("written");
        return;
    }
    let missing: Vec<_> =
        written.lines().filter(|line| !there.lines().any(|known| known == *line)).collect();
    assert!(
        there == written,
        "{} should have (UPDATE_DOCS=1 writes it):\n{}",
        page.file,
        missing.join("\n")
    );
}

fn chinese(name: &str) -> Page {
    read(format!("docs/zh/{name}.md"))
}

#[test]
fn every_setting_has_its_default_and_its_meaning_in_both_languages() {
    let first_keys: Vec<_> = rows().iter().map(|row| row.keys[0].clone()).collect();
    let keys = rows().iter().map(|row| row.keys.len()).sum::<usize>();
    assert!(keys > 80, "{keys} keys");
    let meanings = texts("docs/zh/settings.toml");
    for key in &first_keys {
        assert!(meanings.contains_key(key), "docs/zh/settings.toml does not say what {key} means");
    }
    for key in meanings.keys() {
        assert!(first_keys.contains(key), "docs/zh/settings.toml: no setting is called {key}");
    }
    let english = settings("| key | default | meaning |", None);
    written(&page("settings"), "config/default.toml", &english);
    let meanings = settings("| 配置项 | 默认值 | 含义 |", Some(&meanings));
    written(&chinese("settings"), "config/default.toml", &meanings);
}

/// How a page tells of each code.
struct Words {
    head: &'static str,
    transient: &'static str,
    retry_after: &'static str,
    lasting: &'static str,
    again: &'static str,
    stop: &'static str,
}

const ENGLISH: Words = Words {
    head: "| `code` | status | send again? |",
    transient: "Transient: the same request may succeed when it is sent again.",
    retry_after: "Transient: send the same request again after `Retry-After`.",
    lasting: "Lasting: the same request fails again until something is changed.",
    again: "yes",
    stop: "no",
};
const CHINESE: Words = Words {
    head: "| `code` | 状态码 | 可重试 |",
    transient: "暂时性错误：原样重发可能成功。",
    retry_after: "暂时性错误：等待 `Retry-After` 指定的时间后，原样重发。",
    lasting: "非暂时性错误：问题解决之前，原样重发仍会失败。",
    again: "是",
    stop: "否",
};

/// A table of all codes, then each under a heading of its own, so that `errors.md#file_too_large` leads there.
fn errors(words: &Words, mut explained: impl FnMut(Code) -> String) -> String {
    let mut text = format!("\n{}\n|---|---:|---|\n", words.head);
    for code in Code::ALL {
        let (name, status) = (code.name(), code.status().as_u16());
        let again = match (code.is_transient(), code.has_retry_after()) {
            (_, true) => format!("{}, `Retry-After`", words.again),
            (true, false) => words.again.to_owned(),
            (false, false) => words.stop.to_owned(),
        };
        let _ = writeln!(text, "| [`{name}`](#{name}) | {status} | {again} |");
    }
    for code in Code::ALL {
        let (name, status) = (code.name(), code.status().as_u16());
        let again = match (code.is_transient(), code.has_retry_after()) {
            (_, true) => words.retry_after,
            (true, false) => words.transient,
            (false, false) => words.lasting,
        };
        let _ = write!(text, "\n### {name}\n\nHTTP {status}. {}\n\n{again}\n", explained(*code));
    }
    text + "\n"
}

#[test]
fn every_code_is_explained_in_both_languages() {
    for code in Code::ALL {
        assert!(code.is_transient() || !code.has_retry_after(), "{}", code.name());
    }
    let english = errors(&ENGLISH, |code| format!("**{}.** {}", code.title(), code.remedy()));
    written(&page("errors"), "src/http/problem/code.rs", &english);

    let mut texts = texts("docs/zh/errors.toml");
    let chinese_errors = errors(&CHINESE, |code| {
        let mut text = |what| {
            let key = format!("{}.{what}", code.name());
            texts.remove(&key).unwrap_or_else(|| panic!("docs/zh/errors.toml has no {key}"))
        };
        let (title, remedy) = (text("title"), text("remedy"));
        // With the full stop inside, `**` before a Chinese letter does not end the emphasis in CommonMark.
        format!("**{title}**。{remedy}")
    });
    assert!(texts.is_empty(), "docs/zh/errors.toml: no such code: {texts:?}");
    written(&chinese("errors"), "src/http/problem/code.rs", &chinese_errors);
}

#[test]
fn a_problem_document_is_as_the_guide_shows_it() {
    let world = Setup::new().start();
    let mut client = world.client();
    client.send_head("PUT", "/v1/files/x", &[authorization(), ("content-length", "200000000")]);
    let response = client.response();
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    let mut got = response.json();
    let json = page("errors").open_blocks("json").concat();
    let told: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    got["request_id"] = told["request_id"].clone();
    assert_eq!(got, told);
}

#[test]
fn the_type_of_a_problem_leads_to_the_page_that_is_set() {
    let page = "https://help.example.com/zh/errors.html";
    let world = Setup::new().set("server.errors_url", page).start();
    let anchor = |reply: serde_json::Value| {
        let kind = reply["type"].as_str().expect("a type").to_owned();
        kind.strip_prefix(page).expect("the page").to_owned()
    };
    assert_eq!(anchor(world.call_with("GET", "/none", &[], "").json()), "#not_found");
    // In an editor's shape, and for one file of several.
    let post = |path: &str| world.call_with("POST", path, &[], "").json();
    assert_eq!(anchor(post("/v1/files?reply=dropzone")["problem"].take()), "#unauthenticated");
    let list = serde_json::json!({"files": ["../x"]});
    let reply = world.call("POST", "/v1/delete", &list).json();
    assert_eq!(anchor(reply["files"][0]["error"].clone()), "#invalid_path");
}
