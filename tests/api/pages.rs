//! The READMEs and the pages of docs/, as the tests read them.

use std::path::{Path, PathBuf};

/// A guide: its place in the repository (`docs/en/tickets.md`) and its text.
pub struct Page {
    pub file: String,
    pub text: String,
}

pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A page of docs/en by its name (`tickets`), or `README`.
pub fn page(name: &str) -> Page {
    read(if name == "README" { "README.md".to_owned() } else { format!("docs/en/{name}.md") })
}

/// The README and every page of docs/en.
pub fn english() -> Vec<Page> {
    let pages = names("docs/en").into_iter().map(|name| format!("docs/en/{name}"));
    std::iter::once("README.md".to_owned()).chain(pages).map(read).collect()
}

/// A page of the English guide and its Chinese counterpart. Both languages have the same pages.
pub fn pairs() -> Vec<[Page; 2]> {
    assert_eq!(names("docs/en"), names("docs/zh"));
    let counterpart = |file: &str| match file {
        "README.md" => "README.zh-CN.md".to_owned(),
        page => page.replace("docs/en/", "docs/zh/"),
    };
    let pair = |page: Page| {
        let chinese = read(counterpart(&page.file));
        [page, chinese]
    };
    english().into_iter().map(pair).collect()
}

pub fn read(file: String) -> Page {
    let text = std::fs::read_to_string(project().join(&file));
    let text = text.unwrap_or_else(|error| panic!("{file}: {error}"));
    Page { file, text }
}

fn names(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(project().join(folder)).expect("a folder of pages");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let pages = paths.filter(|path: &PathBuf| path.extension().is_some_and(|kind| kind == "md"));
    let name = |path: PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    let mut names: Vec<_> = pages.map(name).collect();
    names.sort();
    names
}

/// A fenced block of code: its language, and the summary of the `<details>` that it stands in.
pub struct Block {
    pub language: String,
    pub code: String,
    pub summary: Option<String>,
}

impl Page {
    /// Every block of code, in order, without the indentation of a list.
    pub fn blocks(&self) -> Vec<Block> {
        use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
        let (mut blocks, mut open, mut summary) = (Vec::new(), None::<(String, String)>, None);
        for event in Parser::new_ext(&self.text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    open = Some((language.into_string(), String::new()));
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Indented)) => {
                    panic!("{}: a block of code without a fence", self.file)
                }
                Event::Text(text) => {
                    if let Some((_, code)) = &mut open {
                        code.push_str(&text);
                    }
                }
                Event::End(TagEnd::CodeBlock) => {
                    let (language, code) = open.take().expect("a block");
                    blocks.push(Block { language, code, summary: summary.clone() });
                }
                Event::Html(html) => {
                    if let Some((_, rest)) = html.split_once("<summary>") {
                        let (text, _) = rest.split_once("</summary>").expect("its end");
                        summary = Some(text.to_owned());
                    }
                    if html.contains("</details>") {
                        summary = None;
                    }
                }
                _ => {}
            }
        }
        blocks
    }

    /// The blocks in this language that are not folded away.
    pub fn open_blocks(&self, language: &str) -> Vec<String> {
        let blocks = self.blocks().into_iter();
        let blocks = blocks.filter(|block| block.language == language && block.summary.is_none());
        blocks.map(|block| block.code).collect()
    }

    /// The code in the `<details>` with this summary.
    pub fn code(&self, summary: &str) -> String {
        let mut blocks = self.blocks().into_iter();
        let block = blocks.find(|block| block.summary.as_deref() == Some(summary));
        block.unwrap_or_else(|| panic!("no {summary} in {}", self.file)).code
    }

    /// What stands between two markers that are lines of their own.
    pub fn between(&self, begin: &str, end: &str) -> &str {
        let (_, rest) = self.text.split_once(begin).expect("the beginning's marker");
        rest.split_once(end).expect("the end's marker").0
    }
}
