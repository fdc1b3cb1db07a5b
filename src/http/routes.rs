//! Every route, and which web pages may call it (CORS).

use std::future::ready;

use actix_cors::Cors;
use actix_web::dev::{RequestHead, ServiceRequest};
use actix_web::http::header::HeaderValue;
use actix_web::http::{Method, Uri};
use actix_web::middleware::DefaultHeaders;
use actix_web::{guard, web};

use super::api::{batch, fallback, files, health, links, tickets, ueditor_config, upload_links};
use super::extract::{file_url, query};
use super::upload::handler;
use super::{console, openapi, resumable, tcb};
use crate::metrics::Metrics;
use crate::settings::Settings;

/// Adds all routes, each with its figures. Returns each path with its methods, for the test that compares them with the
/// API's description.
pub fn add_all(
    routes: &mut web::ServiceConfig,
    settings: &Settings,
    metrics: &Metrics,
) -> Vec<(&'static str, &'static str)> {
    let mut added = Vec::new();
    let mut resource = |path: &'static str, methods: &'static str| {
        added.push((path, methods));
        let refuse = web::to(move || ready(fallback::method_not_allowed(methods)));
        web::resource(path).app_data(metrics.route(path, methods)).default_service(refuse)
    };
    routes
        .service(
            resource("/v1/files", "GET, POST, DELETE")
                .route(web::post().to(handler::form))
                .route(web::delete().to(files::revert))
                .route(web::get().to(ueditor_config::get)),
        )
        .service(
            resource("/v1/files/{path:.*}", "GET, HEAD, PUT, DELETE")
                .route(web::put().to(handler::raw))
                .route(web::get().to(files::redirect))
                .route(web::head().to(files::redirect))
                .route(web::delete().to(files::delete)),
        )
        .service(resource("/v1/download-links", "POST").route(web::post().to(batch::download)))
        .service(resource("/v1/delete", "POST").route(web::post().to(batch::delete)))
        .service(resource("/v1/links", "POST").route(web::post().to(links::sign)))
        .service(resource("/v1/tickets", "POST").route(web::post().to(tickets::mint)))
        .service(resource("/v1/upload-links", "POST").route(web::post().to(upload_links::create)))
        .service(
            resource("/v1/uploads", "OPTIONS, POST")
                .route(web::post().to(resumable::create::create))
                .route(web::method(Method::OPTIONS).to(resumable::status::options))
                .wrap(tus_headers()),
        )
        .service(
            resource("/v1/uploads/{id}", "GET, HEAD, PATCH, DELETE")
                .route(web::patch().to(resumable::append::patch))
                .route(web::post().to(resumable::status::overridden))
                .route(web::head().to(resumable::status::head))
                .route(web::get().to(resumable::status::get))
                .route(web::delete().to(resumable::status::terminate))
                .wrap(tus_headers()),
        )
        // All methods, since a wrong one gets WeChat's own error.
        .service(resource("/tcb/uploadfile", "POST").to(tcb::files::upload_file))
        .service(resource("/tcb/batchdownloadfile", "POST").to(tcb::files::batch_download_file))
        .service(resource("/tcb/batchdeletefile", "POST").to(tcb::files::batch_delete_file))
        .service(resource("/cgi-bin/token", "GET").to(tcb::token::token))
        .service(resource("/cgi-bin/stable_token", "POST").to(tcb::token::stable_token))
        .service(
            resource("/", "GET")
                .guard(guard::Get())
                .guard(guard::fn_guard(tcb::sample::has_cloudid))
                .to(tcb::sample::sample),
        )
        .service(
            resource("/healthz", "GET, HEAD")
                .route(web::get().to(health::health))
                .route(web::head().to(health::health)),
        )
        .service(
            resource("/readyz", "GET, HEAD")
                .route(web::get().to(health::ready))
                .route(web::head().to(health::ready)),
        )
        .service(resource("/openapi.json", "GET").route(web::get().to(openapi::description)))
        .service(resource("/docs", "GET").route(web::get().to(openapi::pages::without_slash)))
        .service(resource("/docs/{file:.*}", "GET").route(web::get().to(openapi::pages::page)));
    if settings.metrics.bind.is_none() {
        routes.service(resource("/metrics", "GET").route(web::get().to(health::metrics)));
    }
    if settings.console.enabled {
        let mut page = |path: &'static str| {
            resource(path, "GET, HEAD")
                .route(web::get().to(console::page))
                .route(web::head().to(console::page))
        };
        if settings.sandbox.enabled {
            routes.service(page("/"));
        }
        routes
            .service(page("/console"))
            .service(resource("/console/", "GET").route(web::get().to(console::without_slash)))
            .service(resource("/console/info", "GET").route(web::get().to(console::info::info)))
            .service(resource("/console/{file}", "GET").route(web::get().to(console::file)));
    }
    routes.default_service(web::to(fallback::not_found));
    added
}

/// Every response of tus names the version.
fn tus_headers() -> DefaultHeaders {
    DefaultHeaders::new()
        .add((resumable::TUS_RESUMABLE, resumable::VERSION))
        .add((resumable::TUS_VERSION, resumable::VERSION))
}

/// Paths that also work with a trailing slash, which some clients append. Pages are not among them: the slash changes
/// what their relative links refer to.
const API_PATHS: &[&str] = &[
    "/v1/files",
    "/v1/download-links",
    "/v1/delete",
    "/v1/links",
    "/v1/tickets",
    "/v1/upload-links",
    "/tcb/uploadfile",
    "/tcb/batchdownloadfile",
    "/tcb/batchdeletefile",
    "/cgi-bin/token",
    "/cgi-bin/stable_token",
    "/metrics",
    "/healthz",
    "/readyz",
    "/openapi.json",
];

/// Removes the trailing slash of an API path. A second pattern for each resource would make the router match every
/// request with regular expressions.
pub fn trim_slash(request: &mut ServiceRequest) {
    let uri = &request.head().uri;
    let Some(path) = uri.path().strip_suffix('/').filter(|path| API_PATHS.contains(path)) else {
        return;
    };
    if is_file_without_path(request.head()) {
        return;
    }
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = target.parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        request.match_info_mut().get_mut().update(&uri);
        request.head_mut().uri = uri;
    }
}

/// Whether a request for `/v1/files/` means `/v1/files/{path}` with an empty path, and not `/v1/files`.
fn is_file_without_path(head: &RequestHead) -> bool {
    let is_from_ueditor = || {
        let mut parameters = query::pairs(head.uri.query().unwrap_or_default());
        parameters.any(|(name, _)| name == "action")
    };
    head.uri.path() == file_url::FILES
        && match head.method {
            Method::PUT | Method::HEAD => true,
            Method::GET => !is_from_ueditor(),
            _ => false,
        }
}

/// The CORS middleware; `is_listed` looks into `cors.origins`. Pages of the listed origins may send any header, since upload widgets add different ones.
pub fn cors(is_listed: impl Fn(&[u8]) -> bool + 'static) -> Cors {
    Cors::default()
        .allowed_origin_fn(move |origin: &HeaderValue, _| is_listed(origin.as_bytes()))
        .allowed_methods(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
        .allow_any_header()
        .supports_credentials()
        .expose_headers([
            "content-location",
            "idempotent-replayed",
            "location",
            "ratelimit",
            "ratelimit-policy",
            "retry-after",
            "server-timing",
            "tus-checksum-algorithm",
            "tus-extension",
            "tus-max-size",
            "tus-resumable",
            "tus-version",
            "upload-defer-length",
            "upload-expires",
            "upload-length",
            "upload-metadata",
            "upload-offset",
            "x-file-id",
            "x-request-id",
        ])
        // The longest time in seconds that browsers honour.
        .max_age(7200)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use actix_web::App;

    use super::*;

    /// Pages for people are not in the API's description, nor is what tus 1.0 describes.
    fn is_page(path: &str) -> bool {
        ["/console", "/docs", "/v1/uploads"].iter().any(|page| {
            path.strip_prefix(page).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    #[test]
    fn the_description_has_every_route_and_no_other() {
        let mut added = Vec::new();
        let settings =
            Settings::from_layers(None, None, Default::default()).expect("the sandbox's");
        let metrics = Metrics::new([].into_iter()).expect("names");
        let _app = App::new().configure(|routes| added = add_all(routes, &settings, &metrics));
        let calls = added.iter().map(|(path, _)| *path);
        let calls: BTreeSet<_> =
            calls.filter(|path| !is_page(path) && !path.ends_with(['/', '}'])).collect();
        assert_eq!(calls, API_PATHS.iter().copied().collect(), "with and without a slash");
        let served: BTreeSet<_> = added
            .iter()
            .filter(|(path, _)| !is_page(path))
            .flat_map(|(path, methods)| {
                methods.split(", ").map(|method| format!("{method} {}", path.replace(":.*", "")))
            })
            // The console's page at `/`; `GET /` is described for the PHP sample.
            .filter(|operation| operation != "HEAD /")
            .collect();
        let described: BTreeSet<_> = openapi::document()
            .paths
            .paths
            .iter()
            .flat_map(|(path, item)| {
                let operations = [
                    ("GET", &item.get),
                    ("HEAD", &item.head),
                    ("POST", &item.post),
                    ("PUT", &item.put),
                    ("DELETE", &item.delete),
                    ("OPTIONS", &item.options),
                    ("PATCH", &item.patch),
                    ("TRACE", &item.trace),
                ];
                let operations =
                    operations.into_iter().filter(|(_, operation)| operation.is_some());
                operations.map(move |(method, _)| format!("{method} {path}"))
            })
            .collect();
        assert_eq!(served, described);
    }
}
