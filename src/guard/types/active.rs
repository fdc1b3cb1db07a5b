//! Types that browsers execute (active content), and the type that replaces them in storage.

use mime_guess::{Mime, mime};

/// Browsers download a file of this type and never execute it.
pub const SAFE_TYPE: &str = "application/octet-stream";

/// Whether browsers execute this type, or may execute a part that it contains.
pub fn is_active(essence: &str) -> bool {
    const SCRIPTS: &[&str] =
        &["javascript", "ecmascript", "jscript", "livescript", "vbscript", "html"];
    const OTHERS: &[&str] =
        &["cache-manifest", "hta", "x-component", "x-shockwave-flash", "xml", "xsl"];
    let (kind, subtype) = essence.split_once('/').unwrap_or((essence, ""));
    matches!(kind, "multipart" | "message")
        || subtype.ends_with("+xml")
        || OTHERS.contains(&subtype)
        || SCRIPTS.iter().any(|name| subtype.contains(name))
}

/// Whether browsers display this type as text and execute nothing in it.
pub fn is_plain_text(mime: &Mime) -> bool {
    mime.type_() == mime::TEXT && !is_active(mime.essence_str())
}
