//! The READMEs against what they describe: every setting, and the Chinese one against the English.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

const DEFAULTS: &str = include_str!("../../config/default.toml");
const BEGIN: &str = "<!-- config/default.toml: begin -->\n";
const END: &str = "<!-- config/default.toml: end -->";

/// The README, and the same in Chinese.
const READMES: [&str; 2] = ["README.md", "README.zh-CN.md"];

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("a file")
}

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
    for line in lines.lines() {
        if line == "# [auth.keys.panel]" {
            rows.push(row("auth.keys.NAME".to_owned(), "", &mut comment));
        } else if let Some((name, rest)) = line.strip_prefix("# ").and_then(example) {
            let (value, text) = rest.split_once("  ").expect("a meaning");
            rows.push(row(format!("auth.keys.NAME.{name}"), value, &mut vec![text]));
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

/// The whole table, a part for each section.
fn table() -> String {
    let code = |values: &[String]| {
        let values = values.iter();
        let cells: Vec<_> = values
            .map(|value| if value.is_empty() { "-".to_owned() } else { format!("`{value}`") })
            .collect();
        cells.join("<br>")
    };
    let mut table = String::new();
    let mut last = "";
    let rows = rows();
    for row in &rows {
        let section = row.keys[0].split('.').next().unwrap_or_default();
        if section != last {
            let end = if last.is_empty() { "" } else { "\n</details>\n\n" };
            let _ = write!(
                table,
                "{end}<details><summary><code>{section}</code></summary>\n\n| key | default | meaning |\n|---|---|---|\n"
            );
            last = section;
        }
        let _ =
            writeln!(table, "| {} | {} | {} |", code(&row.keys), code(&row.defaults), row.meaning);
    }
    table + "\n</details>\n\n"
}

fn settings_of(readme: &str) -> &str {
    let (_, rest) = readme.split_once(BEGIN).expect("the table's begin");
    rest.split_once(END).expect("the table's end").0
}

/// `UPDATE_README=1` writes it.
#[test]
fn every_setting_stands_in_the_readme_with_its_default_and_its_meaning() {
    let (readme, table) = (read(READMES[0]), table());
    let keys = rows().iter().map(|row| row.keys.len()).sum::<usize>();
    assert!(keys > 80, "{keys} keys");
    if std::env::var_os("UPDATE_README").is_some() {
        let (before, rest) = readme.split_once(BEGIN).expect("the table's begin");
        let (_, after) = rest.split_once(END).expect("the table's end");
        let updated = format!("{before}{BEGIN}{table}{END}{after}");
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(READMES[0]), updated)
            .expect("written");
        return;
    }
    let there: BTreeSet<_> = settings_of(&readme).lines().collect();
    let missing: Vec<_> = table.lines().filter(|line| !there.contains(line)).collect();
    assert!(
        settings_of(&readme) == table,
        "README.md should have (UPDATE_README=1 writes it):\n{}",
        missing.join("\n")
    );
}

/// What must be the same in both languages, between one heading and the next.
#[derive(Debug, Default, PartialEq)]
struct Part {
    level: usize,
    /// ReplayBuffer of code, with their language.
    code: Vec<String>,
    /// Code in sentences and tables.
    names: BTreeSet<String>,
    links: BTreeSet<String>,
    numbers: BTreeSet<String>,
    /// The code in the first cell of each row, and how many cells there are.
    rows: Vec<(Vec<String>, usize)>,
    folded: usize,
}

/// The parts of a README, and their headings as links to them have them.
fn parts(readme: &str) -> (Vec<Part>, Vec<String>) {
    use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

    let (mut parts, mut headings) = (vec![Part::default()], vec![String::new()]);
    let (mut block, mut heading) = (None::<String>, false);
    for event in Parser::new_ext(readme, Options::ENABLE_TABLES) {
        if let Event::Start(Tag::Heading { level, .. }) = event {
            parts.push(Part { level: level as usize, ..Part::default() });
            headings.push(String::new());
            heading = true;
            continue;
        }
        let part = parts.last_mut().expect("one");
        match event {
            Event::End(TagEnd::Heading(_)) => heading = false,
            Event::Start(Tag::CodeBlock(kind)) => {
                block = Some(match kind {
                    CodeBlockKind::Fenced(language) => format!("{language}\n"),
                    CodeBlockKind::Indented => String::new(),
                });
            }
            Event::End(TagEnd::CodeBlock) => part.code.extend(block.take()),
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                part.links.insert(dest_url.into_string());
            }
            Event::Start(Tag::TableRow) => part.rows.push((Vec::new(), 0)),
            Event::End(TagEnd::TableCell) => {
                if let Some((_, cells)) = part.rows.last_mut() {
                    *cells += 1;
                }
            }
            Event::Code(name) => {
                if let Some((first, 0)) = part.rows.last_mut() {
                    first.push(name.to_string());
                }
                part.names.insert(name.into_string());
            }
            Event::Text(text) => match &mut block {
                Some(block) => block.push_str(&text),
                None => {
                    if heading {
                        headings.last_mut().expect("one").push_str(&text);
                    }
                    let numbers = text.split(|letter: char| {
                        !letter.is_ascii_digit() && letter != ',' && letter != '.'
                    });
                    let numbers = numbers.map(|number| number.trim_matches([',', '.']).to_owned());
                    part.numbers.extend(numbers.filter(|number| !number.is_empty()));
                }
            },
            Event::Html(html) | Event::InlineHtml(html) => {
                part.folded += html.matches("<details>").count()
            }
            _ => {}
        }
    }
    let anchors = headings.iter().map(|heading| {
        let letters = heading.to_lowercase().replace(' ', "-");
        letters.chars().filter(|letter| letter.is_alphanumeric() || *letter == '-').collect()
    });
    (parts, anchors.collect())
}

#[test]
fn both_readmes_say_the_same() {
    let [(english, here), (mut chinese, there)] = READMES.map(|name| parts(&read(name)));
    assert_eq!(here.len(), there.len(), "headings: {here:?} {there:?}");
    // Its links lead to itself, and each README to the other.
    for links in chinese.iter_mut().map(|part| &mut part.links) {
        let same = |link: &String| match link.as_str() {
            "README.md" => "README.zh-CN.md".to_owned(),
            "docs/upload.zh-CN.svg" => "docs/upload.svg".to_owned(),
            link => match there.iter().position(|anchor| link.strip_prefix('#') == Some(anchor)) {
                Some(heading) => format!("#{}", here[heading]),
                None => link.to_owned(),
            },
        };
        *links = links.iter().map(same).collect();
    }
    for ((english, chinese), heading) in english.iter().zip(&chinese).zip(&here) {
        assert_eq!(english.level, chinese.level, "{heading}");
        assert_eq!(english.folded, chinese.folded, "{heading}");
        for (english, chinese) in english.code.iter().zip(&chinese.code) {
            assert_eq!(english, chinese, "code of {heading}");
        }
        assert_eq!(english.code.len(), chinese.code.len(), "code of {heading}");
        for (english, chinese) in english.rows.iter().zip(&chinese.rows) {
            assert_eq!(english, chinese, "a table of {heading}");
        }
        assert_eq!(english.rows.len(), chinese.rows.len(), "tables of {heading}");
        for (what, english, chinese) in [
            ("links", &english.links, &chinese.links),
            ("names", &english.names, &chinese.names),
            ("numbers", &english.numbers, &chinese.numbers),
        ] {
            let only: Vec<_> = english.symmetric_difference(chinese).collect();
            assert!(only.is_empty(), "{what} in {heading}, of one README only: {only:?}");
        }
        for anchor in english.links.iter().filter_map(|link| link.strip_prefix('#')) {
            assert!(here.iter().any(|known| known == anchor), "{heading}: no heading #{anchor}");
        }
        for link in english.links.iter().filter(|link| !link.contains([':', '#'])) {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(link);
            assert!(file.exists(), "{heading}: no {link}");
        }
    }
}

/// The keys and the defaults in the table of settings.
fn keys_and_defaults(readme: &str) -> Vec<String> {
    let rows = settings_of(readme).lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.splitn(4, " | ").take(2).collect::<Vec<_>>().join(" | ")).collect()
}

#[test]
fn both_readmes_have_the_same_settings_and_pictures() {
    let [english, chinese] = READMES.map(|name| keys_and_defaults(&read(name)));
    for (english, chinese) in english.iter().zip(&chinese) {
        assert_eq!(english, chinese);
    }
    assert_eq!(english.len(), chinese.len());
    // But for words, the picture of an upload is one.
    let shapes = |name: &str| {
        let picture = read(name);
        let lines = picture.lines().filter(|line| !line.contains("<title>"));
        let shape = |line: &str| match (line.find("<text"), line.ends_with("</text>")) {
            (Some(_), true) => line.split_once('>').map_or(line, |(tag, _)| tag).to_owned(),
            _ => line.to_owned(),
        };
        lines.map(shape).collect::<Vec<_>>()
    };
    assert_eq!(shapes("docs/upload.svg"), shapes("docs/upload.zh-CN.svg"));
    for stage in read("docs/upload.svg").split("class=\"file\"").skip(1) {
        let name =
            stage.split_once('>').and_then(|(_, rest)| rest.split_once('<')).expect("a text").0;
        if let Some(path) = name.strip_prefix("src/") {
            assert!(
                Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path).exists(),
                "{name}"
            );
        }
    }
}

/// `/docs` begins with it.
#[test]
fn the_guide_in_docs_names_every_reply_profile() {
    let guide = include_str!("../../src/http/openapi/introduction.md");
    let readme = read(READMES[0]);
    let (_, table) = readme.split_once("| `reply` | success | failure |").expect("the table");
    let (_, table) = table.split_once("|---|---|---|\n").expect("its rows");
    let profiles = table.lines().map_while(|line| line.strip_prefix("| `")?.split_once('`'));
    let profiles: Vec<_> =
        profiles.map(|(name, _)| name).filter(|name| *name != "default").collect();
    assert_eq!(profiles.len(), 9, "{profiles:?}");
    for name in profiles {
        assert!(guide.contains(&format!("?reply={name}")), "{name}");
    }
}
