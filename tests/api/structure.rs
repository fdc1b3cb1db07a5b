//! The structure of the source: which module may import which, how long a file may be, and which names are retired.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

/// What each folder (or file) directly under `src` may import of the others. `cli` and `app` are on top, then `http`,
/// then `guard`, `inbound`, `wechat` and `cos`; the rest is below. `main.rs` is a crate of its own.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("cli", &["app", "cos", "file_stream", "guard", "key", "memory", "net", "settings", "wechat"]),
    (
        "app",
        &[
            "cos",
            "guard",
            "hooks",
            "http",
            "key",
            "memory",
            "metrics",
            "net",
            "quota",
            "sandbox",
            "server",
            "settings",
            "shutdown",
            "spool",
            "telemetry",
            "wechat",
        ],
    ),
    (
        "http",
        &[
            "cos",
            "file_stream",
            "guard",
            "hooks",
            "inbound",
            "key",
            "memory",
            "metrics",
            "net",
            "quota",
            "server",
            "settings",
            "spool",
            "telemetry",
            "wechat",
        ],
    ),
    ("quota", &["file_stream", "metrics", "net", "settings"]),
    ("spool", &["file_stream", "memory"]),
    ("guard", &["inbound", "key", "memory", "metrics", "net", "settings"]),
    ("inbound", &["file_stream", "memory", "net"]),
    ("wechat", &["key", "metrics", "net", "settings"]),
    ("hooks", &["metrics", "net", "settings"]),
    ("cos", &["file_stream", "key", "memory", "net"]),
    ("server", &["memory", "metrics", "net", "settings"]),
    ("net", &["settings"]),
    ("shutdown", &["server"]),
    ("telemetry", &["metrics", "net", "settings"]),
    ("settings", &["key"]),
];

/// These are at the top: only they and `main.rs` may import one another.
const TOP: &[&str] = &["app", "cli"];

/// These know nothing of what an upload is.
const BASE: &[&str] = &["server", "net", "memory"];
const ABOUT_UPLOADS: &[&str] =
    &["http", "guard", "inbound", "wechat", "cos", "spool", "hooks", "quota"];

const MAX_MEDIAN_LINES: usize = 150;
const MAX_LINES: usize = 450;
/// In the first lines of a file that is longer than [`MAX_LINES`], before the reason.
const LONG_FILE_REASON: &str = "One file:";

/// A retired name as it would stand in code, and the name to use instead. Where a word alone is an ordinary word of
/// Rust or HTTP (`Iterator::find`, `str::repeat`, `web::post`), only its retired use is listed.
const RETIRED_NAMES: &[(&str, &str)] = &[
    ("Crowd", "ConnectionLimits"),
    ("Room", "WorkerLimits"),
    ("Seat", "ConnectionHandle"),
    ("standing", "over_limit"),
    ("seated", "admitted"),
    ("vacate", "closed"),
    ("rise", "mark_active"),
    ("Shedding", "LoadShedLog"),
    ("Episode", "LoadShedLog"),
    ("Inlet", "ConnReader"),
    ("Meter", "BodyReader"),
    ("Metered", "ReaderIo"),
    ("Answering", "ResponseInProgress"),
    ("Flow", "ReadState"),
    ("due", "head_for_actix, or deadline"),
    ("ahead", "read_ahead"),
    ("allowance", "read_budget"),
    ("hold", "pause, or buffer"),
    ("abandon", "discard_rest"),
    ("give_up", "close"),
    ("Framing", "HeadScan"),
    ("Doubtful", "Ambiguous"),
    ("curtailed", "zero_length_head"),
    ("Inflow", "RequestBody"),
    ("skim", "discard_buffered"),
    ("is_in_the_way", "must_close"),
    ("Account", "FloodDetector"),
    ("mod turn", "what the module does"),
    ("turn::", "what the module does"),
    ("holding", "batched"),
    ("held", "buffered"),
    ("outbox", "queue"),
    ("are_several", "what it says of the uploads"),
    ("Parcel", "WriteQueue"),
    ("Outflow", "BodySource"),
    ("Headers", "HeaderVisitor"),
    ("Pulse", "WriteProgress"),
    ("Tap", "StickyWriteErrors"),
    ("Wire", "MaybeTlsStream"),
    ("Framed", "FileLength"),
    ("struct Frame", "FormEnvelope"),
    ("Piece", "FileEvent"),
    ("enum End", "FileEnd"),
    ("Outgoing", "ReplayableFile"),
    ("Pass", "Attempt"),
    ("Marks", "CosHeaders"),
    ("unsettled", "outcome_unknown"),
    ("Blocks", "ReplayBuffer"),
    ("Shelf", "SizeClass"),
    ("fn behind", "pooled_capacity_of"),
    ("intake", "upload_request"),
    ("fn settle", "resolve_length"),
    ("fn place", "resolve_target"),
    ("looked_at", "sniffed"),
    ("Watch", "UploadMetricsGuard"),
    ("struct Done", "UploadResult"),
    ("beside", "poll_while"),
    ("deliver", "transfer"),
    ("mod find", "file_ref"),
    ("find::", "file_ref::"),
    ("struct Found", "FileRef"),
    ("enum Found", "FileRef"),
    ("Lost", "ResolveError"),
    ("confine", "check_scope"),
    ("mod caller", "auth, or client"),
    ("caller::", "auth::, or client::"),
    ("struct Given", "QueryCredentials"),
    ("fn holds", "verify_key"),
    ("mod repeat", "idempotency"),
    ("repeat::", "idempotency::"),
    ("fn essence", "fingerprint"),
    ("Turn", "IdempotencyGuard"),
    ("Begun", "Claim"),
    ("Narrowing", "ClaimLimits"),
    ("neighbours", "rate_limit_key"),
    ("defused", "served_as_binary"),
    ("INERT", "SAFE_TYPE"),
    ("Access", "ApiAuth"),
    ("Away", "RedisUnavailable"),
    ("Direct", "UploadLinkClient"),
    ("Allowance", "SlidingWindow"),
    ("fetch_at_leisure", "fetch_untimed"),
    ("Patience", "ShutdownTimeouts"),
    ("fn keep", "store"),
    ("fn raise", "raise_nofile_limit"),
    ("fn together", "batch_lines"),
    ("DRESSED_PATIENCE", "ERROR_AS_200_LINGER_FACTOR"),
    ("drain_timeout", "lingering_timeout"),
    ("hold_limit", "max_buffered_file"),
];

/// Retired names that may stay: the file, the name as in [`RETIRED_NAMES`], and the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Words that leave open what is meant: a comment names the client, the caller, the worker, the upload.
const VAGUE: &[&str] = &["who", "whoever", "nobody", "somebody", "anybody", "everybody"];

/// Comment lines that may have such a word: a part of the line, and the reason.
const VAGUE_EXCEPTIONS: &[(&str, &str)] = &[];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under `folder`, by its path from the repository's root, with its text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut folders = vec![root().join(folder)];
    let mut found: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    let named = found.into_iter().map(|path| {
        let name = path.strip_prefix(root()).expect("below the root").to_str().expect("UTF-8");
        (name.to_owned(), std::fs::read_to_string(&path).expect("a file"))
    });
    named.collect()
}

/// A word, `::`, or one other character of code, and the line it is on.
type Token<'a> = (&'a str, usize);

/// The code of `source` without comments, strings, character literals and lifetimes.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            string_length(rest)
        } else if let Some(length) = raw_string_length(rest) {
            length
        } else if first == '\'' {
            quoted_length(rest)
        } else if first.is_alphanumeric() || first == '_' {
            let length = word_length(rest);
            tokens.push((&rest[..length], line));
            length
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                tokens.push((&rest[..length], line));
            }
            length
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

fn word_length(text: &str) -> usize {
    text.find(|character: char| !(character.is_alphanumeric() || character == '_'))
        .unwrap_or(text.len())
}

/// Of a string that begins `text`, with both quotes.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (index, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string_length(text: &str) -> Option<usize> {
    let opening = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = opening.len() - opening.trim_start_matches('#').len();
    let content = opening[hashes..].strip_prefix('"')?;
    let closing = format!("\"{}", "#".repeat(hashes));
    let end = content.find(&closing)?;
    Some(text.len() - content.len() + end + closing.len())
}

/// Of a character literal or a lifetime that begins `text`.
fn quoted_length(text: &str) -> usize {
    let inner = &text[1..];
    if inner.starts_with('\\') {
        // The escaped character itself may be a quote.
        return inner[2..].find('\'').map_or(text.len(), |end| end + 4);
    }
    let mut characters = inner.chars();
    match (characters.next(), characters.next()) {
        (Some(only), Some('\'')) => only.len_utf8() + 2,
        _ => 1 + word_length(inner),
    }
}

/// The code up to its module of unit tests.
fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<&'a str> {
    const TESTS: [&str; 10] = ["#", "[", "cfg", "(", "test", ")", "]", "mod", "tests", "{"];
    let words: Vec<_> = tokens.iter().map(|(word, _)| *word).collect();
    let end = words.windows(TESTS.len()).position(|window| window == TESTS);
    words[..end.unwrap_or(words.len())].to_vec()
}

/// `src/http/api/mod.rs` is the module `["http", "api"]`.
fn module_of(file: &str) -> Vec<&str> {
    let path = file.strip_prefix("src/").and_then(|path| path.strip_suffix(".rs"));
    let mut module: Vec<_> = path.expect("a file of src").split('/').collect();
    if matches!(module.last(), Some(&"mod" | &"lib")) {
        module.pop();
    }
    module
}

/// Every path of one `use` tree, whose tokens begin after `use` (or after a comma or a brace within it).
fn use_paths<'a>(tokens: &mut &[&'a str], prefix: &[&'a str], paths: &mut Vec<Vec<&'a str>>) {
    let mut path = prefix.to_vec();
    while let Some((token, rest)) = tokens.split_first() {
        match *token {
            "," | "}" | ";" => break,
            "{" => {
                *tokens = rest;
                while !matches!(tokens.first(), None | Some(&"}")) {
                    use_paths(tokens, &path, paths);
                    if let [",", rest @ ..] = *tokens {
                        *tokens = rest;
                    }
                }
                *tokens = tokens.get(1..).unwrap_or_default();
                return;
            }
            // The other name does not matter.
            "as" => *tokens = &rest[1..],
            "::" => *tokens = rest,
            name => {
                path.push(name);
                *tokens = rest;
            }
        }
    }
    paths.push(path);
}

/// Every path in code, by `use` or in place.
fn paths_in<'a>(code: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut paths = Vec::new();
    let mut rest = code;
    let mut before = "";
    while let Some((&token, after)) = rest.split_first() {
        rest = after;
        if token == "use" && after.first() != Some(&"<") {
            use_paths(&mut rest, &[], &mut paths);
        } else if before != "::" && before != "." && after.first() == Some(&"::") {
            let mut path = vec![token];
            while let ["::", name, after @ ..] = rest {
                path.push(name);
                rest = after;
            }
            paths.push(path);
        }
        before = token;
    }
    paths
}

/// Module → the modules it imports, each by its path from the crate's root. `main.rs` and unit tests are left out.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn imports(files: &[(String, String)]) -> Imports {
    let files: Vec<_> = files
        .iter()
        .filter(|(file, _)| file != "src/main.rs")
        .filter(|(file, _)| !file.ends_with("/tests.rs") && !file.contains("/tests/"))
        .map(|(file, text)| (module_of(file), without_tests(&tokens(text))))
        .collect();
    let known: BTreeSet<String> = files.iter().map(|(module, _)| module.join("::")).collect();
    let mut imports = Imports::new();
    for (module, code) in &files {
        let imported = imports.entry(module.join("::")).or_default();
        for path in paths_in(code) {
            let Some(mut path) = absolute(module, &path, &known) else { continue };
            while !known.contains(&path.join("::")) {
                path.pop();
            }
            if !path.is_empty() && path != *module {
                imported.insert(path.join("::"));
            }
        }
    }
    imports
}

/// `path` from the crate's root, when `module` names it; `None` for another crate's.
fn absolute<'a>(
    module: &[&'a str],
    path: &[&'a str],
    known: &BTreeSet<String>,
) -> Option<Vec<&'a str>> {
    let child = [module, &path[..1]].concat().join("::");
    let (mut base, rest) = match path[0] {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (module.to_vec(), &path[1..]),
        "super" => {
            let levels = path.iter().take_while(|name| **name == "super").count();
            (module[..module.len().saturating_sub(levels)].to_vec(), &path[levels..])
        }
        _ if known.contains(&child) => (module.to_vec(), path),
        _ => return None,
    };
    base.extend_from_slice(rest);
    Some(base)
}

/// The shortest circle through `module`, if there is one.
fn circle_through(module: &str, imports: &Imports) -> Option<Vec<String>> {
    let mut paths = VecDeque::from([vec![module.to_owned()]]);
    let mut seen = BTreeSet::new();
    while let Some(path) = paths.pop_front() {
        for next in imports.get(path.last()?).into_iter().flatten() {
            if next == module {
                return Some([path, vec![next.clone()]].concat());
            }
            if seen.insert(next.clone()) {
                paths.push_back([path.clone(), vec![next.clone()]].concat());
            }
        }
    }
    None
}

/// One line for each circle; a circle of several modules is named once.
fn circles(imports: &Imports) -> Vec<String> {
    let mut named = BTreeMap::new();
    for module in imports.keys() {
        if let Some(circle) = circle_through(module, imports) {
            let members: BTreeSet<_> = circle.iter().cloned().collect();
            named.entry(members).or_insert_with(|| circle.join(" -> "));
        }
    }
    named.into_values().collect()
}

/// One line for each import between folders that the rules do not allow.
fn wrong_ways(imports: &Imports) -> Vec<String> {
    let mut wrong = Vec::new();
    for (module, imported) in imports {
        for other in imported {
            let folder = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
            let (from, to) = (folder(module), folder(other));
            let (from, to) = (from.as_str(), to.as_str());
            if from == to {
                continue;
            }
            let edge = format!("{module} imports {other}");
            if TOP.contains(&to) && !TOP.contains(&from) {
                wrong.push(format!("{edge}: only cli, app and main.rs may import {to}"));
            } else if BASE.contains(&from) && ABOUT_UPLOADS.contains(&to) {
                wrong.push(format!("{edge}: {from} knows nothing of {to}"));
            } else if !MAY_IMPORT.iter().any(|(name, may)| *name == from && may.contains(&to)) {
                wrong.push(format!("{edge}: {from} -> {to} is not in MAY_IMPORT"));
            }
        }
    }
    wrong
}

/// A crate of these files, for examples.
fn example(files: &[(&str, &str)]) -> Imports {
    let owned = files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned()));
    imports(&owned.collect::<Vec<_>>())
}

fn assert_none(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

#[test]
fn no_module_imports_what_imports_it() {
    let circular = example(&[
        ("src/a/mod.rs", "mod b;\n// use b::X is prose\nfn f() { b::g(\"crate::c::X\"); }"),
        ("src/a/b.rs", "use crate::{d::Y, c::{self as other, X}};"),
        ("src/c.rs", "/// super::a::b\npub struct X<'a>(&'a str);\nuse super::a;"),
        ("src/d.rs", "#[cfg(test)]\nmod tests {\n    use crate::a::b;\n}"),
    ]);
    assert_eq!(circles(&circular), ["a -> a::b -> c -> a"]);

    assert_none("modules that import one another", &circles(&imports(&sources("src"))));
}

#[test]
fn folders_import_one_way() {
    let wrong = wrong_ways(&example(&[
        ("src/app/mod.rs", "use crate::http;"),
        ("src/http/mod.rs", "use crate::app::X;"),
        ("src/server/mod.rs", "fn f() { crate::guard::check() }"),
        ("src/guard/mod.rs", ""),
        ("src/metrics.rs", "use super::guard;"),
    ]));
    assert_eq!(
        wrong,
        [
            "http imports app: only cli, app and main.rs may import app",
            "metrics imports guard: metrics -> guard is not in MAY_IMPORT",
            "server imports guard: server knows nothing of guard",
        ]
    );

    assert_none("imports that run the wrong way", &wrong_ways(&imports(&sources("src"))));
}

/// One line for each file that is too long, and one for the median.
fn too_long(files: &[(String, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut all_lines = Vec::new();
    for (file, text) in files {
        let lines = text.lines().count();
        all_lines.push(lines);
        let limit = match file.as_str() {
            "src/main.rs" => 80,
            "src/lib.rs" => 60,
            _ => MAX_LINES,
        };
        let mut first_lines = text.lines().take_while(|line| line.starts_with("//!"));
        let reason = limit == MAX_LINES && first_lines.any(|line| line.contains(LONG_FILE_REASON));
        if lines > limit && !reason {
            wrong.push(format!("{file} has {lines} lines of at most {limit}"));
        }
    }
    all_lines.sort_unstable();
    let median = all_lines[all_lines.len() / 2];
    if median > MAX_MEDIAN_LINES {
        wrong.push(format!("the median file has {median} lines of at most {MAX_MEDIAN_LINES}"));
    }
    wrong
}

#[test]
fn files_are_short() {
    let file = |name: &str, first: &str, lines: usize| {
        (name.to_owned(), format!("{first}\n{}", "x\n".repeat(lines - 1)))
    };
    let examples = [
        file("src/a.rs", "//! Owns a.", 450),
        file("src/b.rs", "//! Owns b.", 451),
        file("src/c.rs", "//! Owns c. One file: a table that is read as a whole.", 451),
        file("src/lib.rs", "//! One file: the crate.", 61),
        file("src/main.rs", "//! The binary.", 80),
    ];
    assert_eq!(
        too_long(&examples),
        [
            "src/b.rs has 451 lines of at most 450",
            "src/lib.rs has 61 lines of at most 60",
            "the median file has 450 lines of at most 150",
        ]
    );

    assert_none("files that are too long", &too_long(&sources("src")));
}

/// One line for each retired name in the code of `text`.
fn retired_names(file: &str, text: &str) -> Vec<String> {
    let code = tokens(text);
    let mut wrong = Vec::new();
    for (old, new) in RETIRED_NAMES {
        if EXCEPTIONS.iter().any(|(allowed, name, _)| *allowed == file && name == old) {
            continue;
        }
        let pattern: Vec<_> = tokens(old).into_iter().map(|(word, _)| word).collect();
        let at = code
            .windows(pattern.len())
            .filter(|window| window.iter().map(|(word, _)| *word).eq(pattern.iter().copied()));
        wrong.extend(at.map(|window| format!("{file}:{}: `{old}`, say {new}", window[0].1)));
    }
    wrong
}

/// One line for each comment line of `text` that has a vague word.
fn vague_comments(file: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
        if VAGUE_EXCEPTIONS.iter().any(|(part, _)| comment.contains(part)) {
            continue;
        }
        let mut words = comment.split(|character: char| !character.is_alphanumeric());
        if let Some(word) = words.find(|word| VAGUE.contains(&word.to_lowercase().as_str())) {
            wrong.push(format!("{file}:{}: \"{word}\" in a comment", index + 1));
        }
    }
    wrong
}

#[test]
fn names_are_the_field_s_own() {
    let code = "use a::{Crowd, b};\n// Crowd\nfn find() { \"Seat\"; list.find(|x| x.b'\\'' ); }\nfn\n  keep() {}";
    assert_eq!(
        retired_names("x.rs", code),
        ["x.rs:1: `Crowd`, say ConnectionLimits", "x.rs:4: `fn keep`, say store"]
    );
    let comments = "//! Whole.\nlet who = 1;\n  /// Nobody is left.\n// \"who's\" asking";
    assert_eq!(
        vague_comments("x.rs", comments),
        ["x.rs:3: \"Nobody\" in a comment", "x.rs:4: \"who\" in a comment"]
    );

    let mut wrong = Vec::new();
    for folder in ["src", "tests/api", "benches", "fuzz/fuzz_targets"] {
        for (file, text) in sources(folder) {
            wrong.extend(retired_names(&file, &text));
            wrong.extend(vague_comments(&file, &text));
        }
    }
    assert_none("retired names and vague words", &wrong);
}
