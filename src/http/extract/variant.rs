//! A variant of a file: what of a request's query is appended to the temporary URL that it is redirected to. Nothing of
//! the query reaches COS except a preset, by its name, and what `links.pass_query` lists, which is checked as a whole.

use actix_web::HttpRequest;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::query::{self, Fault};
use crate::http::problem::{Code, Problem};
use crate::settings::{Links, PassQuery};

/// In bytes, decoded: of a parameter that is passed on.
const MAX_LENGTH: usize = 512;

/// `preset`, for the API's description.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "a schema; `parameters` reads the query")]
pub struct Preset {
    /// A name of `links.presets`: the picture as COS processes it.
    #[param(required = false, nullable = false, pattern = "^[a-z0-9_-]+$")]
    preset: Option<String>,
}

/// The parameters to append, joined by `&`; `None` for the file as it is stored. Parameters that have nothing to do with
/// variants are ignored.
pub fn parameters(request: &HttpRequest, links: &Links) -> Result<Option<String>, Problem> {
    let [name] = query::parameters(request, ["preset"])?;
    let mut processing = name.map(|name| preset(&name, links)).transpose()?;
    let mut disposition = None;
    for (name, value) in query::pairs(request.query_string()) {
        let Some(kind) = kind(name) else { continue };
        if !links.pass_query.contains(&kind) {
            let text = format!(
                "this gateway passes no `{}` on to COS; use a preset, or list it in links.pass_query",
                kind.name()
            );
            return Err(invalid(text));
        }
        let decoded = |text| query::decode_form(text).map_err(|fault| malformed(kind, fault));
        let (name, value) = (decoded(name)?, decoded(value)?);
        let (slot, parameter) = match kind {
            PassQuery::ResponseContentDisposition => (&mut disposition, attachment(&value)?),
            _ => (&mut processing, operation(kind, &name, &value)?),
        };
        if slot.replace(parameter).is_some() {
            let text = "the query asks for more than one variant of the file; send one preset, or one parameter of \
                        each kind";
            return Err(invalid(text));
        }
    }
    let parameters: Vec<_> = [processing, disposition].into_iter().flatten().collect();
    Ok((!parameters.is_empty()).then(|| parameters.join("&")))
}

/// A temporary URL with further parameters. That of a file with public read permission can be without a query.
pub fn append(url: &str, parameters: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{parameters}")
}

fn preset(name: &str, links: &Links) -> Result<String, Problem> {
    links.presets.get(name).cloned().ok_or_else(|| {
        let names: Vec<_> = links.presets.keys().map(|name| format!("`{name}`")).collect();
        let detail = match names.is_empty() {
            true => "there are no presets; the operator can set them in links.presets".to_owned(),
            false => format!("there is no such preset; there are {}", names.join(", ")),
        };
        Problem::new(Code::NotFound, detail)
    })
}

/// What a parameter asks for, by its name. A name that begins like processing and cannot be decoded is refused later.
fn kind(name: &str) -> Option<PassQuery> {
    match &*percent_decode_str(name).decode_utf8_lossy() {
        "ci-process" => Some(PassQuery::CiProcess),
        "response-content-disposition" => Some(PassQuery::ResponseContentDisposition),
        name if name.starts_with("imageMogr2/") => Some(PassQuery::ImageMogr2),
        name if name.starts_with("imageView2/") => Some(PassQuery::ImageView2),
        _ => None,
    }
}

/// Processing as its own text. A `|` would begin another operation, such as a watermark from another URL; the characters
/// that are allowed mean nothing else in a query, so that the text needs no encoding.
fn operation(kind: PassQuery, name: &str, value: &str) -> Result<String, Problem> {
    let (text, allowed) = match kind {
        PassQuery::CiProcess => (format!("{name}={value}"), "-_="),
        // The value is the padding of base64 at the end of a name.
        _ if value.is_empty() => (name.to_owned(), "/!@.,-_~"),
        _ => (format!("{name}={value}"), "/!@.,-_~="),
    };
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || allowed.contains(c);
    match text.len() <= MAX_LENGTH && text.chars().all(is_allowed) {
        true => Ok(text),
        false => Err(invalid(format!(
            "`{}` in the query has characters other than letters, digits and {allowed}, or more than {MAX_LENGTH}",
            kind.name()
        ))),
    }
}

/// `attachment`, with a file name or without. `inline` is not allowed: a page that was stored to be downloaded must not
/// be shown because a link says so.
fn attachment(value: &str) -> Result<String, Problem> {
    let kind = value.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("attachment") || value.len() > MAX_LENGTH {
        let text = format!(
            "`response-content-disposition` is `attachment`, with a file name or without, in at most {MAX_LENGTH} bytes"
        );
        return Err(invalid(text));
    }
    let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
    Ok(format!("response-content-disposition={value}"))
}

fn malformed(kind: PassQuery, fault: Fault) -> Problem {
    invalid(format!("`{}` in the query {fault}", kind.name()))
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}
