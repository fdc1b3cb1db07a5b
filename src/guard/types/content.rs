//! What a file's first bytes say about its type: which types they fit, and which types they must confirm.

use super::active::SAFE_TYPE;

/// Formats that share a container: the first bytes show the container and may not show which of its formats it is.
const CONTAINERS: &[&[&str]] = &[
    &[
        "video/mp4",
        "video/quicktime",
        "video/x-m4v",
        "video/3gpp",
        "video/3gpp2",
        "audio/mp4",
        "audio/m4a",
        "audio/aac",
    ],
    &["video/x-matroska", "video/webm", "audio/webm", "audio/x-matroska"],
    &["audio/ogg", "video/ogg", "audio/opus"],
    &["image/heif", "image/avif"],
    &["video/x-ms-wmv", "video/x-ms-asf", "audio/x-ms-wma"],
    &[
        "application/x-ole-storage",
        "application/msword",
        "application/vnd.ms-excel",
        "application/vnd.ms-powerpoint",
    ],
    &["image/svg+xml", "text/xml"],
    &["application/xhtml+xml", "text/xml", "text/html"],
];

fn containers_of(essence: &str) -> impl Iterator<Item = &'static &'static [&'static str]> {
    CONTAINERS.iter().filter(move |container| container.contains(&essence))
}

/// Office documents, e-books and packages are ZIP archives.
fn is_zip(essence: &str) -> bool {
    essence == "application/zip"
        || essence.ends_with("+zip")
        || essence.starts_with("application/vnd.openxmlformats-officedocument.")
        || essence.starts_with("application/vnd.oasis.opendocument.")
        || matches!(essence, "application/java-archive" | "application/vnd.android.package-archive")
}

/// Whether a file whose first bytes are those of `found` can be of type `declared`.
pub fn fits(declared: &str, found: &str) -> bool {
    declared == found
        || containers_of(declared).any(|container| container.contains(&found))
        || (is_zip(declared) && is_zip(found))
        || (declared.ends_with("+xml") && found == "text/xml")
}

/// Whether every file of this type begins with a known signature. XML may begin with any element, and a file of
/// [`SAFE_TYPE`] with any byte.
pub fn has_signature(essence: &str) -> bool {
    let any_beginning = essence == "text/xml"
        || (essence.ends_with("+xml") && containers_of(essence).next().is_none());
    !any_beginning
        && essence != SAFE_TYPE
        && (infer::is_mime_supported(essence)
            || containers_of(essence).next().is_some()
            || is_zip(essence))
}
