//! The names of media types: those that clients send, the standard ones, and those that [`infer`] uses.

/// Names that clients send, and the standard name of the same type; sorted. Where browsers and the registry disagree,
/// the name that browsers use.
const STANDARD: &[(&str, &str)] = &[
    ("application/acrobat", "application/pdf"),
    ("application/csv", "text/csv"),
    ("application/doc", "application/msword"),
    ("application/excel", "application/vnd.ms-excel"),
    ("application/font-woff", "font/woff"),
    ("application/font-woff2", "font/woff2"),
    ("application/gzip-compressed", "application/gzip"),
    ("application/javascript", "text/javascript"),
    ("application/msexcel", "application/vnd.ms-excel"),
    ("application/mspowerpoint", "application/vnd.ms-powerpoint"),
    ("application/powerpoint", "application/vnd.ms-powerpoint"),
    ("application/rar", "application/vnd.rar"),
    ("application/vnd.msword", "application/msword"),
    ("application/vnd.pdf", "application/pdf"),
    ("application/winword", "application/msword"),
    ("application/x-compressed-zip", "application/zip"),
    ("application/x-csv", "text/csv"),
    ("application/x-excel", "application/vnd.ms-excel"),
    ("application/x-font-opentype", "font/otf"),
    ("application/x-font-otf", "font/otf"),
    ("application/x-font-truetype", "font/ttf"),
    ("application/x-font-ttf", "font/ttf"),
    ("application/x-font-woff", "font/woff"),
    ("application/x-font-woff2", "font/woff2"),
    ("application/x-gunzip", "application/gzip"),
    ("application/x-gzip", "application/gzip"),
    ("application/x-javascript", "text/javascript"),
    ("application/x-json", "application/json"),
    ("application/x-ms-excel", "application/vnd.ms-excel"),
    ("application/x-msexcel", "application/vnd.ms-excel"),
    ("application/x-mspowerpoint", "application/vnd.ms-powerpoint"),
    ("application/x-msword", "application/msword"),
    ("application/x-pdf", "application/pdf"),
    ("application/x-rar", "application/vnd.rar"),
    ("application/x-rar-compressed", "application/vnd.rar"),
    ("application/x-rtf", "application/rtf"),
    ("application/x-xls", "application/vnd.ms-excel"),
    ("application/x-zip", "application/zip"),
    ("application/x-zip-compressed", "application/zip"),
    ("application/xls", "application/vnd.ms-excel"),
    ("application/zip-compressed", "application/zip"),
    ("audio/m4a", "audio/mp4"),
    ("audio/mid", "audio/midi"),
    ("audio/mp3", "audio/mpeg"),
    ("audio/mpeg3", "audio/mpeg"),
    ("audio/mpg", "audio/mpeg"),
    ("audio/vnd.wave", "audio/wav"),
    ("audio/wave", "audio/wav"),
    ("audio/x-aac", "audio/aac"),
    ("audio/x-amr", "audio/amr"),
    ("audio/x-flac", "audio/flac"),
    ("audio/x-m4a", "audio/mp4"),
    ("audio/x-mid", "audio/midi"),
    ("audio/x-midi", "audio/midi"),
    ("audio/x-mp3", "audio/mpeg"),
    ("audio/x-mp4", "audio/mp4"),
    ("audio/x-mpeg", "audio/mpeg"),
    ("audio/x-mpeg-3", "audio/mpeg"),
    ("audio/x-mpg", "audio/mpeg"),
    ("audio/x-ogg", "audio/ogg"),
    ("audio/x-pn-wav", "audio/wav"),
    ("audio/x-wav", "audio/wav"),
    ("font/x-ttf", "font/ttf"),
    ("image/jpe", "image/jpeg"),
    ("image/jpg", "image/jpeg"),
    ("image/pjpeg", "image/jpeg"),
    ("image/svg", "image/svg+xml"),
    ("image/svg-xml", "image/svg+xml"),
    ("image/tif", "image/tiff"),
    ("image/x-bmp", "image/bmp"),
    ("image/x-citrix-gif", "image/gif"),
    ("image/x-citrix-jpeg", "image/jpeg"),
    ("image/x-citrix-png", "image/png"),
    ("image/x-gif", "image/gif"),
    ("image/x-jpeg", "image/jpeg"),
    ("image/x-jpg", "image/jpeg"),
    ("image/x-ms-bmp", "image/bmp"),
    ("image/x-png", "image/png"),
    ("image/x-tif", "image/tiff"),
    ("image/x-tiff", "image/tiff"),
    ("image/x-webp", "image/webp"),
    ("image/x-windows-bmp", "image/bmp"),
    ("text/comma-separated-values", "text/csv"),
    ("text/json", "application/json"),
    ("text/pdf", "application/pdf"),
    ("text/rtf", "application/rtf"),
    ("text/x-comma-separated-values", "text/csv"),
    ("text/x-csv", "text/csv"),
    ("text/x-javascript", "text/javascript"),
    ("text/x-json", "application/json"),
    ("text/x-markdown", "text/markdown"),
    ("text/x-pdf", "application/pdf"),
    ("text/x-web-markdown", "text/markdown"),
    ("video/3gp", "video/3gpp"),
    ("video/avi", "video/x-msvideo"),
    ("video/m4v", "video/mp4"),
    ("video/mov", "video/quicktime"),
    ("video/mpg", "video/mpeg"),
    ("video/msvideo", "video/x-msvideo"),
    ("video/x-m4v", "video/mp4"),
    ("video/x-mp4", "video/mp4"),
    ("video/x-mpeg", "video/mpeg"),
    ("video/x-mpg", "video/mpeg"),
    ("video/x-quicktime", "video/quicktime"),
    ("video/x-webm", "video/webm"),
];

/// Standard names, and the name that [`infer`] uses for the same type or for its container; sorted.
const INFERRED: &[(&str, &str)] = &[
    ("application/ogg", "audio/ogg"),
    ("application/x-bzip", "application/x-bzip2"),
    ("application/x-msdownload", "application/vnd.microsoft.portable-executable"),
    ("application/x-sqlite3", "application/vnd.sqlite3"),
    ("application/xml", "text/xml"),
    ("audio/aiff", "audio/x-aiff"),
    ("audio/flac", "audio/x-flac"),
    ("audio/wav", "audio/x-wav"),
    ("font/otf", "application/font-sfnt"),
    ("font/ttf", "application/font-sfnt"),
    ("font/woff", "application/font-woff"),
    ("font/woff2", "application/font-woff"),
    ("image/apng", "image/png"),
    ("image/heic", "image/heif"),
    ("image/x-icon", "image/vnd.microsoft.icon"),
];

fn look_up(table: &[(&str, &'static str)], essence: &str) -> Option<&'static str> {
    let index = table.binary_search_by_key(&essence, |(name, _)| name).ok()?;
    table.get(index).map(|(_, other)| *other)
}

/// The standard name of a type; files are stored under it.
pub fn standard(essence: &str) -> &str {
    look_up(STANDARD, essence).unwrap_or(essence)
}

/// The name by which types are compared: that of [`infer`].
pub fn canonical(essence: &str) -> &str {
    let essence = standard(essence);
    look_up(INFERRED, essence).unwrap_or(essence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_sorted_and_stand_for_known_names() {
        for table in [STANDARD, INFERRED] {
            assert!(table.is_sorted_by(|(one, _), (next, _)| one < next));
        }
        for (alias, name) in STANDARD {
            assert_eq!(standard(name), *name, "{alias}");
        }
        for (standard, name) in INFERRED {
            assert!(infer::is_mime_supported(name), "{standard} → {name}");
        }
    }
}
