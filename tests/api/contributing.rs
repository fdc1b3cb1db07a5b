//! CONTRIBUTING.md in both languages: the same commands, each of which exists.

use std::path::Path;

const ENGLISH: &str = include_str!("../../CONTRIBUTING.md");
const CHINESE: &str = include_str!("../../CONTRIBUTING.zh-CN.md");
const JUSTFILE: &str = include_str!("../../justfile");

/// The text in backticks and in code blocks.
fn code(page: &str) -> Vec<&str> {
    page.split("```").flat_map(|text| text.split('`').skip(1).step_by(2)).collect()
}

fn blocks(page: &str) -> Vec<&str> {
    page.split("```").skip(1).step_by(2).collect()
}

#[test]
fn both_languages_have_the_same_commands() {
    assert_eq!(blocks(ENGLISH), blocks(CHINESE));
    let commands = |page| -> Vec<_> {
        code(page).into_iter().filter(|text| text.contains([' ', '/'])).collect()
    };
    let (mut english, mut chinese) = (commands(ENGLISH), commands(CHINESE));
    english.retain(|text| *text != "file::test");
    chinese.retain(|text| *text != "文件::测试");
    assert_eq!(english, chinese);
    assert!(english.len() > 10, "{english:?}");
}

#[test]
fn every_file_and_recipe_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut recipes = 0;
    for text in code(ENGLISH) {
        if let Some(name) = text.strip_prefix("just ") {
            let name = name.split(' ').next().unwrap_or_default();
            let begins = |line: &str| line.split([' ', ':']).next() == Some(name);
            assert!(JUSTFILE.lines().any(begins), "no recipe {name}");
            recipes += 1;
        } else if (text.contains('/') || text.ends_with(".toml")) && !text.contains(' ') {
            assert!(root.join(text).exists(), "no {text}");
        }
    }
    assert!(recipes >= 4, "{recipes}");
}
