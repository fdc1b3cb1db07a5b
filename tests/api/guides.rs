//! The guides against each other and against what they name: the Chinese pages say what the English ones say, every link
//! leads somewhere, the README's figures are those that were measured.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::pages::{Page, page, pairs, project, read};

/// What must be the same in both languages, between one heading and the next.
#[derive(Debug, Default, PartialEq)]
struct Part {
    level: usize,
    /// Blocks of code, with their language.
    code: Vec<String>,
    /// Code in sentences and tables.
    names: BTreeSet<String>,
    links: BTreeSet<String>,
    numbers: BTreeSet<String>,
    /// The code in the first cell of each row, and how many cells there are.
    rows: Vec<(Vec<String>, usize)>,
    folded: usize,
}

/// The parts of a page, and their headings as links to them have them.
fn parts(page: &str) -> (Vec<Part>, Vec<String>) {
    use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

    let (mut parts, mut headings) = (vec![Part::default()], vec![String::new()]);
    let (mut block, mut heading) = (None::<String>, false);
    for event in Parser::new_ext(page, Options::ENABLE_TABLES) {
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
        letters
            .chars()
            .filter(|letter| letter.is_alphanumeric() || ['-', '_'].contains(letter))
            .collect()
    });
    (parts, anchors.collect())
}

/// Where a link of a page leads: a file of the repository, and a heading of it.
fn target(page: &Page, link: &str) -> (String, Option<String>) {
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor.to_owned())),
        None => (link, None),
    };
    if path.is_empty() {
        return (page.file.clone(), anchor);
    }
    let mut folder: PathBuf = Path::new(&page.file).parent().expect("a folder").to_owned();
    for component in Path::new(path).components() {
        match component {
            Component::ParentDir => assert!(folder.pop(), "{}: {link}", page.file),
            Component::Normal(name) => folder.push(name),
            _ => panic!("{}: {link}", page.file),
        }
    }
    (folder.to_string_lossy().into_owned(), anchor)
}

/// The link as the English page has it: each page leads to the other language, and otherwise to its own.
fn in_english(page: &Page, link: &str) -> String {
    if link.contains(':') {
        return link.to_owned();
    }
    let (file, anchor) = target(page, link);
    let index = anchor.map(|anchor| {
        let (_, anchors) = parts(&read(file.clone()).text);
        let index = anchors.iter().position(|known| *known == anchor);
        index.unwrap_or_else(|| panic!("{}: {link}: no such heading", page.file))
    });
    let own = |file: &str, english: &str, chinese: &str| match file.split_once(chinese) {
        Some((before, after)) => format!("{before}{english}{after}"),
        None => file.replace(english, chinese),
    };
    let file = if !page.file.contains("zh") {
        file
    } else if file.starts_with("CONTRIBUTING") {
        own(&file, "CONTRIBUTING.md", "CONTRIBUTING.zh-CN.md")
    } else if file.starts_with("README") {
        own(&file, "README.md", "README.zh-CN.md")
    } else if file.starts_with("docs/upload") {
        own(&file, "upload.svg", "upload.zh-CN.svg")
    } else {
        own(&file, "docs/en/", "docs/zh/")
    };
    format!("{file}{}", index.map_or(String::new(), |index| format!("#{index}")))
}

/// A diagram without its words: what is in quotes, what is behind a colon, the names of participants and of loops.
fn shape(diagram: &str) -> Vec<String> {
    let shape = |line: &str| {
        let unquoted: String = line.split('"').step_by(2).collect();
        let ends = [": ", " as ", "loop "].map(|word| unquoted.find(word));
        unquoted[..ends.into_iter().flatten().min().unwrap_or(unquoted.len())].to_owned()
    };
    diagram.lines().map(shape).collect()
}

#[test]
fn both_languages_say_the_same() {
    let pairs = pairs();
    assert_eq!(pairs.len(), 20, "the README and 19 pages");
    for pages in &pairs {
        let [(english, here), (chinese, there)] =
            [&pages[0], &pages[1]].map(|page| parts(&page.text));
        let file = &pages[0].file;
        assert_eq!(here.len(), there.len(), "headings of {file}: {here:?} {there:?}");
        for ((english, chinese), heading) in english.iter().zip(&chinese).zip(&here) {
            let place = format!("{file}, {heading}");
            assert_eq!(english.level, chinese.level, "{place}");
            assert_eq!(english.folded, chinese.folded, "{place}");
            for (english, chinese) in english.code.iter().zip(&chinese.code) {
                if english.starts_with("mermaid\n") {
                    assert_eq!(shape(english), shape(chinese), "a diagram of {place}");
                } else {
                    assert_eq!(english, chinese, "code of {place}");
                }
            }
            assert_eq!(english.code.len(), chinese.code.len(), "code of {place}");
            for (english, chinese) in english.rows.iter().zip(&chinese.rows) {
                assert_eq!(english, chinese, "a table of {place}");
            }
            assert_eq!(english.rows.len(), chinese.rows.len(), "tables of {place}");
            let links = |page: &Page, part: &Part| -> BTreeSet<_> {
                part.links.iter().map(|link| in_english(page, link)).collect()
            };
            for (what, english, chinese) in [
                ("links", &links(&pages[0], english), &links(&pages[1], chinese)),
                ("names", &english.names, &chinese.names),
                ("numbers", &english.numbers, &chinese.numbers),
            ] {
                let only: Vec<_> = english.symmetric_difference(chinese).collect();
                assert!(only.is_empty(), "{what} in {place}, of one language only: {only:?}");
            }
        }
    }
}

#[test]
fn every_link_of_the_guides_leads_somewhere() {
    let documents = ["SECURITY.md"].map(|file| read(file.to_owned()));
    for page in pairs().into_iter().flatten().chain(documents) {
        let (parts, _) = parts(&page.text);
        for link in parts.iter().flat_map(|part| &part.links).filter(|link| !link.contains(':')) {
            let (file, anchor) = target(&page, link);
            assert!(project().join(&file).exists(), "{}: no {file}", page.file);
            if let Some(anchor) = anchor {
                let (_, anchors) = self::parts(&read(file).text);
                assert!(anchors.contains(&anchor), "{}: {link}: no such heading", page.file);
            }
        }
    }
}

/// Files and folders of the source that a guide names.
#[test]
fn every_source_file_that_a_guide_names_is_there() {
    let roots = ["", "src", "src/http", "src/server", "src/wechat", "src/cos"];
    for [page, _] in pairs() {
        for name in parts(&page.text).0.into_iter().flat_map(|part| part.names) {
            let is_source = name.starts_with("src/")
                || page.file.ends_with("architecture.md")
                    && (name.ends_with('/') || name.ends_with(".rs"));
            let is_there = roots.iter().any(|root| project().join(root).join(&name).exists());
            assert!(!is_source || is_there, "{}: no {name}", page.file);
        }
    }
}

#[test]
fn the_readmes_are_short() {
    for page in &pairs()[0] {
        let lines = page.text.lines().count();
        assert!(lines <= 250, "{}: {lines} lines", page.file);
    }
}

/// Benchmarks write the page of figures, and people the README. A figure that reaches its bar is quoted, also where its
/// goal, for which it would be bold, is not reached.
#[test]
fn the_readme_s_figures_are_those_that_were_measured() {
    let (readme, measured) = (page("README").text, page("performance").text);
    let (_, section) = readme.split_once("\n## Speed\n").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("its end");
    let figures: Vec<_> = section.split("**").skip(1).step_by(2).collect();
    assert_eq!(figures.len(), 3, "{figures:?}");
    for figure in figures {
        let is_measured = [format!("| **{figure}** |"), format!("| {figure} |")]
            .iter()
            .any(|cell| measured.contains(cell));
        assert!(is_measured, "{figure} is not measured");
    }
}

#[test]
fn the_picture_of_an_upload_is_one_but_for_its_words() {
    let shapes = |name: &str| {
        let picture = read(name.to_owned()).text;
        let lines = picture.lines().filter(|line| !line.contains("<title>"));
        let shape = |line: &str| match (line.find("<text"), line.ends_with("</text>")) {
            (Some(_), true) => line.split_once('>').map_or(line, |(tag, _)| tag).to_owned(),
            _ => line.to_owned(),
        };
        lines.map(shape).collect::<Vec<_>>()
    };
    assert_eq!(shapes("docs/upload.svg"), shapes("docs/upload.zh-CN.svg"));
    for stage in read("docs/upload.svg".to_owned()).text.split("class=\"file\"").skip(1) {
        let name =
            stage.split_once('>').and_then(|(_, rest)| rest.split_once('<')).expect("a text").0;
        if let Some(path) = name.strip_prefix("src/") {
            assert!(project().join("src").join(path).exists(), "{name}");
        }
    }
}

/// `/docs` begins with it.
#[test]
fn the_guide_in_docs_names_every_reply_profile() {
    let guides = [
        include_str!("../../src/http/openapi/introduction.md"),
        include_str!("../../src/http/openapi/introduction.zh.md"),
    ];
    let editors = page("editors").text;
    let (_, table) = editors.split_once("| `reply` | success | failure |").expect("the table");
    let (_, table) = table.split_once("|---|---|---|\n").expect("its rows");
    let profiles = table.lines().map_while(|line| line.strip_prefix("| `")?.split_once('`'));
    let profiles: Vec<_> =
        profiles.map(|(name, _)| name).filter(|name| *name != "default").collect();
    assert_eq!(profiles.len(), 10, "{profiles:?}");
    for name in profiles {
        assert!(guides.iter().all(|guide| guide.contains(&format!("?reply={name}"))), "{name}");
    }
}
