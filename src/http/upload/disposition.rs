//! `Content-Disposition` of stored files: a download's name (RFC 6266), encoded so that no file name adds anything to the
//! header or to COS's form.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::settings::ContentDisposition;

/// Bytes of a name; longer ones are cut. File systems have 255.
const MAX_NAME: usize = 240;
/// All but the characters of `ext-value` (RFC 8187, 3.2.1).
const EXT_VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// The header for a file that its client calls `name`, which may be empty; `None` where the setting is `none`. It has
/// printable ASCII characters only.
pub fn header(setting: ContentDisposition, name: &str) -> Option<String> {
    let kind = match setting {
        ContentDisposition::None => return None,
        ContentDisposition::Inline | ContentDisposition::Attachment => setting.name(),
    };
    let name = shortened(name.rsplit(['/', '\\']).next().unwrap_or_default());
    if name.is_empty() {
        return Some(kind.to_owned());
    }
    // Quotes and backslashes would have to be escaped, which not all browsers undo, and some decode `%` (RFC 6266,
    // appendix D).
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " !#$&'()+,-.;=@[]^_`{}~".contains(c);
    let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    if plain == name {
        return Some(format!("{kind}; filename=\"{plain}\""));
    }
    let encoded = utf8_percent_encode(&name, EXT_VALUE);
    Some(format!("{kind}; filename=\"{plain}\"; filename*=UTF-8''{encoded}"))
}

/// At most [`MAX_NAME`] bytes, with the extension.
fn shortened(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    let extension = extension.filter(|extension| extension.len() <= 16);
    let room = MAX_NAME - extension.map_or(0, |extension| extension.len() + 1);
    let end = name.char_indices().map(|(at, _)| at).take_while(|at| *at <= room).last();
    let stem = &name[..end.unwrap_or_default()];
    match extension {
        Some(extension) => format!("{stem}.{extension}"),
        None => stem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_encoded_for_old_and_new_clients() {
        let inline = |name: &str| header(ContentDisposition::Inline, name).unwrap();
        assert_eq!(header(ContentDisposition::None, "a.png"), None);
        assert_eq!(inline(""), "inline");
        assert_eq!(inline("a b.png"), "inline; filename=\"a b.png\"");
        assert_eq!(
            header(ContentDisposition::Attachment, "照片.png").unwrap(),
            "attachment; filename=\"__.png\"; filename*=UTF-8''%E7%85%A7%E7%89%87.png"
        );
        assert_eq!(
            inline("a\"; x=\"b%41.png"),
            "inline; filename=\"a_; x=_b_41.png\"; filename*=UTF-8''a%22%3B%20x%3D%22b%2541.png"
        );
        assert_eq!(inline("dir/a.png"), "inline; filename=\"a.png\"");
        let long = inline(&format!("{}.png", "照".repeat(200)));
        assert!(long.ends_with("%85%A7.png") && long.len() < 4 * MAX_NAME, "{long}");
    }

    proptest! {
        #[test]
        fn any_name_gives_a_safe_header(name in ".*") {
            let header = header(ContentDisposition::Attachment, &name).unwrap();
            prop_assert!(header.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            prop_assert!(matches!(header.matches('"').count(), 0 | 2));
            prop_assert!(header.len() < 1024 + 64);
        }
    }
}
