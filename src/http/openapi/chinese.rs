//! The description in Chinese: the English one, with its texts replaced by those of `texts.zh.toml`,
//! `introduction.zh.md` and `docs/zh/errors.toml`. Names, codes and examples stay as they are.
//!
//! A text is found by the English one, so that a changed one has no Chinese text any more: it stays English, and a test
//! fails.

use std::collections::HashMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failures::explained;
use crate::http::problem::Code;

/// The members that have texts.
const TEXTS: [&str; 2] = ["description", "summary"];
/// The members that have values of requests and responses, whatever their members are called.
const VALUES: [&str; 4] = ["example", "examples", "default", "enum"];

/// JSON whose members keep their order, which is the order of a form's fields, too.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Json {
    Object(IndexMap<String, Json>),
    Array(Vec<Json>),
    Other(Value),
}

/// The entry of a code in `docs/zh/errors.toml`.
#[derive(Deserialize)]
struct Explanation {
    title: String,
    remedy: String,
}

/// `english`, a description as JSON, in Chinese.
pub fn translated(english: &str) -> String {
    let translations = Translations::read();
    let translated = serde_json::from_str(english).and_then(|mut document: Json| {
        each_text(&mut document, &mut |text| {
            if let Some(chinese) = translations.of(text) {
                *text = chinese;
            }
        });
        serde_json::to_string(&document)
    });
    translated.unwrap_or_else(|_| english.to_owned())
}

fn each_text(json: &mut Json, visit: &mut impl FnMut(&mut String)) {
    match json {
        Json::Object(members) => {
            for (name, member) in members {
                match member {
                    Json::Other(Value::String(text)) if TEXTS.contains(&name.as_str()) => {
                        visit(text);
                    }
                    member if !VALUES.contains(&name.as_str()) => each_text(member, visit),
                    _ => {}
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(|item| each_text(item, visit)),
        Json::Other(_) => {}
    }
}

/// The Chinese texts by the English ones.
struct Translations(HashMap<String, String>);

impl Translations {
    /// A file that cannot be read counts as empty; a test reads them all.
    fn read() -> Self {
        let texts = toml::from_str(include_str!("texts.zh.toml"));
        let mut texts: HashMap<_, _> = texts.unwrap_or_default();
        texts.insert(
            include_str!("introduction.md").to_owned(),
            include_str!("introduction.zh.md").to_owned(),
        );
        let errors = toml::from_str(include_str!("../../../docs/zh/errors.toml"));
        let errors: HashMap<String, Explanation> = errors.unwrap_or_default();
        for code in Code::ALL {
            let Some(Explanation { title, remedy }) = errors.get(code.name()) else { continue };
            let (english, status) = (explained(*code), code.status().as_u16());
            let chinese = format!("- `{}`：{title}。{remedy}", code.name());
            // As the schema of `Code` has it.
            texts.insert(format!("{english} ({status})"), format!("{chinese}（{status}）"));
            texts.insert(english, chinese);
        }
        Self(texts)
    }

    /// The text in Chinese, as a whole or line by line.
    fn of(&self, text: &str) -> Option<String> {
        if let Some(chinese) = self.0.get(text) {
            return Some(chinese.clone());
        }
        let lines = text.lines().map(|line| match line {
            "" => Some(line),
            line => self.0.get(line).map(String::as_str),
        });
        lines.collect::<Option<Vec<_>>>().map(|lines| lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn english() -> String {
        super::super::document().to_json().expect("JSON")
    }

    fn texts(json: &str) -> BTreeSet<String> {
        let (mut json, mut texts) = (serde_json::from_str(json).expect("JSON"), BTreeSet::new());
        each_text(&mut json, &mut |text| _ = texts.insert(text.clone()));
        texts
    }

    #[test]
    fn every_text_is_there_in_both_languages() {
        let (translations, texts) = (Translations::read(), texts(&english()));
        assert!(texts.len() > 200, "{} texts", texts.len());
        let missing: Vec<_> = texts.iter().filter(|text| translations.of(text).is_none()).collect();
        assert!(missing.is_empty(), "texts.zh.toml has no text for {missing:#?}");

        let lines = texts.iter().flat_map(|text| text.lines());
        let used: BTreeSet<_> = texts.iter().map(String::as_str).chain(lines).collect();
        let names: Vec<_> = Code::ALL.iter().map(|code| format!("- `{}`: ", code.name())).collect();
        let of_a_code = |text: &str| names.iter().any(|name| text.starts_with(name));
        let unused = translations.0.keys().filter(|text| !used.contains(text.as_str()));
        let unused: Vec<_> = unused.filter(|text| !of_a_code(text)).collect();
        assert!(unused.is_empty(), "the description has no such text: {unused:#?}");
    }

    /// Code, names and URLs are the same in both languages.
    #[test]
    fn code_in_texts_is_not_translated() {
        let code = |text: &str| {
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let mut code: Vec<_> = words.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            code.sort_unstable();
            code
        };
        for (english, chinese) in Translations::read().0 {
            // The Chinese errors name different examples, which other tests compare with the guide.
            if !english.starts_with("- `") {
                assert_eq!(code(&english), code(&chinese), "{chinese}");
            }
        }
    }

    #[test]
    fn only_texts_differ() {
        let without_texts = |json: &str| {
            let mut json = serde_json::from_str(json).expect("JSON");
            each_text(&mut json, &mut String::clear);
            serde_json::to_string(&json).expect("JSON")
        };
        let (english, chinese) = (english(), translated(&english()));
        assert_eq!(without_texts(&english), without_texts(&chinese));
        let letters = |text: &str| !text.is_ascii();
        let untranslated: Vec<_> =
            texts(&chinese).into_iter().filter(|text| !letters(text)).collect();
        assert_eq!(
            untranslated,
            ["0", "OpenAPI 3.1", "`POST`", "`client_credential`", "`cloud://ENV.BUCKET/PATH`"]
        );
    }
}
