//! The syntax of presets: processing of pictures, as COS's query parameters say it.

/// The names of processing that COS knows (docs 44880, 44893, 44892), as a parameter begins with them.
const OPERATIONS: [&str; 4] = ["imageMogr2/", "imageView2/", "watermark/", "ci-process="];
/// Longer than any useful one, and far below the limit of URLs.
const MAX_LENGTH: usize = 1024;

/// A parameter as it is appended to a temporary URL: exactly one, since a second one could replace those that the URL
/// has. The error is worded to be printed after the value.
pub(super) fn parse(text: &str) -> Result<String, String> {
    if !OPERATIONS.iter().any(|operation| text.starts_with(operation)) {
        return Err(format!(
            "is not processing that COS knows: it begins with {}",
            OPERATIONS.join(", ")
        ));
    }
    if text.contains(['&', '?', '#']) {
        return Err("is not one parameter of a URL: it has `&`, `?` or `#` in it".to_owned());
    }
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{}".contains(&byte);
    if !text.bytes().all(is_plain) || !text.split('%').skip(1).all(begins_with_escape) {
        return Err("has characters that must be percent-encoded in a URL".to_owned());
    }
    match text.len() > MAX_LENGTH {
        true => Err(format!("is longer than {MAX_LENGTH} characters")),
        false => Ok(text.to_owned()),
    }
}

/// Whether a text begins with two hexadecimal digits that do not stand for a control character.
fn begins_with_escape(text: &str) -> bool {
    let digits = text.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
    byte.is_some_and(|byte| !byte.is_ascii_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_is_one_parameter() {
        let longest = format!("imageMogr2/{}", "x".repeat(MAX_LENGTH - 11));
        for preset in [
            "imageMogr2/thumbnail/200x",
            "imageMogr2/thumbnail/!50p|imageMogr2/format/webp",
            "imageMogr2/thumbnail/640x355%3E",
            "imageView2/1/w/200/h/200",
            "watermark/2/text/5pWw5o2u5LiH6LGh/fill/I0ZGRkZGRg==/fontsize/30",
            "ci-process=doc-preview",
            &longest,
        ] {
            assert_eq!(parse(preset).as_deref(), Ok(preset));
        }
        let too_long = format!("{longest}x");
        for (preset, fault) in [
            ("", "processing"),
            ("200x", "processing"),
            ("imagemogr2/thumbnail/200x", "processing"),
            ("response-content-type=text/html", "processing"),
            ("sign=0&imageMogr2/thumbnail/200x", "processing"),
            ("?imageMogr2/thumbnail/200x", "processing"),
            ("imageMogr2/thumbnail/200x&sign=0", "one parameter"),
            ("imageMogr2/thumbnail/200x?x", "one parameter"),
            ("imageMogr2/thumbnail/200x#x", "one parameter"),
            ("imageMogr2/thumbnail/200x\r\nSet-Cookie: a=b", "percent-encoded"),
            ("imageMogr2/thumbnail/200x%0d%0aSet-Cookie:a=b", "percent-encoded"),
            ("imageMogr2/thumbnail/200x%00", "percent-encoded"),
            ("imageMogr2/thumbnail/200x%", "percent-encoded"),
            ("imageMogr2/thumbnail/200x%+1", "percent-encoded"),
            ("imageMogr2/thumbnail/640x355>", "percent-encoded"),
            ("imageMogr2/thumbnail/ 200x", "percent-encoded"),
            ("watermark/2/text/中", "percent-encoded"),
            (&too_long, "longer"),
        ] {
            let error = parse(preset).expect_err(preset);
            assert!(error.contains(fault), "{preset}: {error}");
        }
    }
}
