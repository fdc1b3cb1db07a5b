//! The documents of COS's API: their elements are read in order, within bounds.

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::cos::verdict::entity;

/// Elements within each other.
const MAX_DEPTH: usize = 8;
/// Bytes of an element's text. A key has at most 850.
const MAX_TEXT: usize = 4 * 1024;

/// The document is incomplete, malformed, or exceeds a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Calls `ended` at the end of each element with its path from below the root, and with its own text. Whitespace
/// around the text is removed, and an element with children has none. The root must be `root`.
pub(super) fn read(
    document: &[u8],
    root: &str,
    mut ended: impl FnMut(&[&str], &str),
) -> Result<(), Malformed> {
    let document = str::from_utf8(document).map_err(|_| Malformed)?;
    let mut reader = Reader::from_str(document);
    let mut path: Vec<String> = Vec::new();
    let mut text = String::new();
    let mut is_complete = false;
    let mut end = |path: &[String], text: &str| {
        let names: Vec<_> = path.iter().map(String::as_str).collect();
        match *names {
            [first] if first == root => Ok(true),
            [first, ref below @ ..] if first == root => {
                ended(below, text.trim());
                Ok(false)
            }
            _ => Err(Malformed),
        }
    };
    loop {
        match reader.read_event().map_err(|_| Malformed)? {
            Event::Start(element) if path.len() < MAX_DEPTH && !is_complete => {
                path.push(element.name().as_ref().to_owned());
                text.clear();
            }
            Event::Empty(element) if path.len() < MAX_DEPTH && !is_complete => {
                path.push(element.name().as_ref().to_owned());
                is_complete = end(&path, "")?;
                path.pop();
                text.clear();
            }
            Event::End(_) => {
                is_complete = end(&path, &text)?;
                path.pop();
                text.clear();
            }
            Event::Text(more) => text.push_str(&more),
            Event::CData(more) => text.push_str(&more),
            Event::GeneralRef(reference) => text.push(entity(&reference).ok_or(Malformed)?),
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
            Event::Eof if is_complete => return Ok(()),
            Event::Start(_) | Event::Empty(_) | Event::DocType(_) | Event::Eof => {
                return Err(Malformed);
            }
        }
        if text.len() > MAX_TEXT {
            return Err(Malformed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(document: &str) -> Result<Vec<String>, Malformed> {
        let mut seen = Vec::new();
        read(document.as_bytes(), "R", |path, text| {
            seen.push(format!("{}={text}", path.join("/")));
        })?;
        Ok(seen)
    }

    #[test]
    fn elements_are_told_at_their_end() {
        let document = "<?xml version='1.0' encoding='utf-8' ?>\n<!-- c -->\n<R>\n <a>1 &lt;&#x4e2d;&amp;</a>\n <b/>\n \
                        <c><d> &quot;e&quot; </d><d><![CDATA[<f>]]></d></c>\n</R>\n";
        assert_eq!(elements(document).unwrap(), ["a=1 <中&", "b=", "c/d=\"e\"", "c/d=<f>", "c="]);
        assert_eq!(elements("<R/>").unwrap(), [""; 0]);
    }

    #[test]
    fn documents_that_are_cut_or_too_much_are_malformed() {
        let document = "<R><a>1</a><b>2</b></R>";
        for cut in 0..document.len() {
            assert_eq!(elements(&document[..cut]), Err(Malformed), "{cut}");
        }
        let text = |length: usize| format!("<R><a>{}</a></R>", "x".repeat(length));
        assert!(elements(&text(MAX_TEXT)).is_ok());
        assert_eq!(elements(&text(MAX_TEXT + 1)), Err(Malformed));
        let deep = |depth: usize| {
            format!("<R>{}{}</R>", "<a>".repeat(depth - 1), "</a>".repeat(depth - 1))
        };
        assert!(elements(&deep(MAX_DEPTH)).is_ok());
        assert_eq!(elements(&deep(MAX_DEPTH + 1)), Err(Malformed));
        for wrong in [
            "",
            "<Error/>",
            "<R></R><R/>",
            "<R><a></b></R>",
            "<R>&unknown;</R>",
            "<!DOCTYPE R [<!ENTITY a \"b\">]><R>&a;</R>",
            "{}",
        ] {
            assert_eq!(elements(wrong), Err(Malformed), "{wrong}");
        }
    }
}
