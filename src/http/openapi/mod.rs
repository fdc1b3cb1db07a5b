//! The API's description (OpenAPI 3.1), assembled from the handlers' attributes, and the pages that display it, both in
//! English and in Chinese.
//!
//! The handlers describe their requests and successful responses; the error responses and the examples are added here,
//! and the Chinese texts in `chinese`. Description and pages are served by every gateway: they contain no secret and
//! nothing of its settings.

mod chinese;
pub mod examples;
pub mod failures;
mod language;
mod operations;
pub mod pages;
pub mod schemas;

use std::sync::LazyLock;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, VARY};
use actix_web::{HttpRequest, HttpResponse};
use utoipa::openapi::path::Parameter;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{self, RefOr, SecurityRequirement, ServerBuilder};
use utoipa::{Modify, OpenApi};

use self::examples::Examples;
use self::failures::{Failures, failures};
use self::language::Language;
use super::api::{batch, files, health, links, tickets, ueditor_config, upload_links};
pub use super::extract::schemas::{Folder, IdOrPath};
use super::problem::Code;
use super::tcb;
use super::upload::handler;

/// `GET /openapi.json`
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "description", tag = "operation",
    summary = "This description",
    params(("lang" = Option<String>, Query, description = "`zh` or `en`; default: by `Accept-Language`")),
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub async fn description(request: HttpRequest) -> HttpResponse {
    static ENGLISH: LazyLock<String> = LazyLock::new(|| document().to_json().unwrap_or_default());
    static CHINESE: LazyLock<String> = LazyLock::new(|| chinese::translated(&ENGLISH));
    let description = match Language::of(&request) {
        Language::English => &ENGLISH,
        Language::Chinese => &CHINESE,
    };
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/json"))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((VARY, "accept-language"))
        .body(description.as_str())
}

/// The document of `GET /openapi.json`, in English.
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
            .description(Some(
                "An API key of `auth.keys`, or a ticket. With `auth.forward_url`, a request without either is let in by \
                 what the owner's back end accepts, usually the cookie of its session",
            ));
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
