//! The API's description (OpenAPI 3.1), assembled from the handlers' attributes, and the pages that display it.
//!
//! The handlers describe their requests and successful responses; the error responses and the examples are added here.
//! Description and pages are served by every gateway: they contain no secret and nothing of its settings.

pub mod examples;
pub mod failures;
mod operations;
pub mod schemas;

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION,
};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{self, RefOr, SecurityRequirement, ServerBuilder};
use utoipa::{Modify, OpenApi};

use self::examples::Examples;
use self::failures::{Failures, failures};
use super::api::{batch, files, health, links, tickets, ueditor_config, upload_links};
pub use super::extract::schemas::{Folder, IdOrPath};
use super::problem::{Code, Problem};
use super::tcb;
use super::upload::handler;

/// Scripts and styles come from the binary, and the pages send requests to this gateway only. Swagger UI's icons are
/// `data:` images.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                   form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// `GET /openapi.json`
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "description", tag = "operation",
    summary = "This description",
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub async fn description() -> HttpResponse {
    static DESCRIPTION: LazyLock<String> =
        LazyLock::new(|| document().to_json().unwrap_or_default());
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/json"))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .body(DESCRIPTION.as_str())
}

/// `GET /docs`: redirects, since the page's links are relative to `/docs/`.
pub async fn pages() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((LOCATION, "docs/")).finish()
}

/// `GET /docs/{file}`: Swagger UI.
pub async fn page(request: HttpRequest) -> Result<HttpResponse, Problem> {
    static CONFIG: LazyLock<Arc<utoipa_swagger_ui::Config<'_>>> = LazyLock::new(|| {
        let config = utoipa_swagger_ui::Config::new(["../openapi.json"])
            // The default validator is another host, which the page would send the description to.
            .validator_url("none")
            .use_base_layout()
            .try_it_out_enabled(true)
            .display_request_duration(true);
        Arc::new(config)
    });
    let file = request.match_info().query("file");
    match utoipa_swagger_ui::serve(file, CONFIG.clone()) {
        Ok(Some(file)) => {
            let mut page = HttpResponse::Ok();
            page.insert_header((CONTENT_TYPE, file.content_type))
                .insert_header((CONTENT_SECURITY_POLICY, CSP))
                .insert_header((CACHE_CONTROL, "max-age=3600"))
                .insert_header(("x-content-type-options", "nosniff"));
            // Compressed at build time; every browser that can show the page accepts gzip.
            if file.gzpipped {
                page.insert_header((CONTENT_ENCODING, "gzip"));
            }
            // Not copied for each response, since a client may request many at once and read none.
            let body = match file.bytes {
                Cow::Borrowed(bytes) => Bytes::from_static(bytes),
                Cow::Owned(bytes) => bytes.into(),
            };
            Ok(page.body(body))
        }
        Ok(None) => Err(Problem::new(Code::NotFound, "there is no page at this URL")),
        Err(error) => {
            tracing::error!(%error, "a page of the documentation cannot be served");
            Err(Problem::new(Code::Internal, "the page cannot be served"))
        }
    }
}

/// The document of `GET /openapi.json`.
pub fn document() -> openapi::OpenApi {
    Description::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(description = include_str!("introduction.md")),
    paths(
        handler::form,
        handler::raw,
        files::redirect,
        files::delete,
        files::revert,
        batch::download,
        batch::delete,
        upload_links::create,
        tickets::mint,
        links::sign,
        tcb::files::upload_file,
        tcb::files::batch_download_file,
        tcb::files::batch_delete_file,
        tcb::sample::sample,
        tcb::token::token,
        tcb::token::stable_token,
        ueditor_config::get,
        health::health,
        health::ready,
        health::metrics,
        description,
    ),
    tags(
        (name = "upload", description = "Files from clients"),
        (name = "editors", description = "Requests of editors besides uploads"),
        (name = "one file", description = "A stored file by its path"),
        (name = "many files", description = "Up to 1000 stored files by id or path; 50 of them in one call to WeChat"),
        (name = "links to COS", description = "For clients that post to COS themselves"),
        (name = "tickets", description = "For back ends that give their users tickets"),
        (name = "WeChat's own API", description = "WeChat's requests and responses, HTTP 200 and `errcode` included: \
            back ends change only the base URL. `access_token` is an API key of the gateway"),
        (name = "operation", description = "For probes, Prometheus and tools"),
    ),
    components(schemas(super::problem::Document, crate::settings::ReplyProfile)),
    modifiers(&RelativeServer, &HeadOperations, &Security, &Failures, &Examples),
)]
struct Description;

/// The server's URL is relative to the description, since the gateway may be mounted under a path.
struct RelativeServer;

impl Modify for RelativeServer {
    fn modify(&self, openapi: &mut openapi::OpenApi) {
        openapi.servers = Some(vec![ServerBuilder::new().url(".").build()]);
    }
}

/// HEAD operations: as GET, with their own ids and without response bodies.
struct HeadOperations;

impl Modify for HeadOperations {
    fn modify(&self, openapi: &mut openapi::OpenApi) {
        for (path, item) in &mut openapi.paths.paths {
            let Some(operation) = &mut item.head else { continue };
            if let Some(id) = &mut operation.operation_id {
                id.push_str("_head");
            }
            // `?info=1` is for GET.
            if path == "/v1/files/{path}" {
                operation.responses.responses.remove("200");
                let is_info = |parameter: &RefOr<Parameter>| matches!(parameter, RefOr::T(parameter) if parameter.name == "info");
                operation.parameters.iter_mut().for_each(|all| all.retain(|one| !is_info(one)));
            }
            for response in operation.responses.responses.values_mut() {
                if let RefOr::T(response) = response {
                    response.content.clear();
                }
            }
        }
    }
}

/// The credentials that each operation accepts.
struct Security;

impl Modify for Security {
    fn modify(&self, openapi: &mut openapi::OpenApi) {
        let header = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key of `auth.keys`, or a ticket"));
        let parameter = |name, description| {
            let value = ApiKeyValue::with_description(name, description);
            SecurityScheme::ApiKey(ApiKey::Query(value))
        };
        let components = openapi.components.get_or_insert_default();
        for (name, scheme) in [
            ("key", SecurityScheme::Http(header.build())),
            ("ticket", parameter("ticket", "A ticket, for clients that cannot set headers")),
            (
                "access_token",
                parameter("access_token", "An API key or a ticket, in place of WeChat's token"),
            ),
        ] {
            components.add_security_scheme(name, scheme);
        }
        let one_of = |names: &[&str]| {
            let names = names.iter();
            names
                .map(|name| SecurityRequirement::new(*name, Vec::<String>::new()))
                .collect::<Vec<_>>()
        };
        for operation in operations::operations(openapi) {
            let id = operation.operation_id.as_deref().unwrap_or_default();
            operation.security = match id {
                // Whether a credential is needed depends on `links.access`.
                "file" | "file_head" => Some(
                    [one_of(&["key", "ticket"]), vec![SecurityRequirement::default()]].concat(),
                ),
                "mint_ticket" => Some(one_of(&["key"])),
                _ if id.starts_with("tcb_") => Some(one_of(&["key", "ticket", "access_token"])),
                _ if failures(id).contains(&Code::Unauthenticated) => {
                    Some(one_of(&["key", "ticket"]))
                }
                _ => None,
            };
        }
    }
}
