//! The head of one part of a form: its name and its file name, read strictly. An error says what is malformed.

pub struct PartHead {
    pub name: String,
    pub file_name: Option<String>,
}

/// Reads the lines of a part's head, without the empty line that ends it.
pub fn part_head(head: &[u8]) -> Result<PartHead, &'static str> {
    let head = std::str::from_utf8(head).map_err(|_| "a part head that is not UTF-8")?;
    let mut seen: Vec<String> = Vec::new();
    let mut part = None;
    for line in head.split("\r\n") {
        let (name, value) = line.split_once(':').ok_or("a part head without a colon")?;
        let name = name.to_ascii_lowercase();
        if name.is_empty() || name.bytes().any(|b| !b.is_ascii_alphanumeric() && b != b'-') {
            return Err("a part head with an invalid header name");
        }
        if value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
            return Err("a part head with a control character");
        }
        if seen.contains(&name) {
            return Err("a part head with a repeated header");
        }
        match name.as_str() {
            "content-disposition" => part = Some(disposition(value.trim())?),
            "content-transfer-encoding" => {
                return Err("Content-Transfer-Encoding is not supported");
            }
            _ => {}
        }
        seen.push(name);
    }
    part.ok_or("a part without Content-Disposition")
}

fn disposition(value: &str) -> Result<PartHead, &'static str> {
    let wrong = "an invalid Content-Disposition";
    let Some(mut rest) = value.strip_prefix("form-data") else {
        return Err(wrong);
    };
    let (mut name, mut file_name) = (None, None);
    while !rest.is_empty() {
        let Some((parameter, quoted)) =
            rest.strip_prefix(';').and_then(|text| text.trim_start().split_once("=\""))
        else {
            return Err(wrong);
        };
        let Some((text, remainder)) = quoted.split_once('"') else {
            return Err(wrong);
        };
        let slot = match parameter {
            "name" => &mut name,
            "filename" => &mut file_name,
            _ => return Err("an unknown Content-Disposition parameter"),
        };
        if slot.replace(text.to_owned()).is_some() {
            return Err(wrong);
        }
        rest = remainder;
    }
    match name {
        Some(name) if !name.is_empty() => Ok(PartHead { name, file_name }),
        _ => Err("a part without a name"),
    }
}
