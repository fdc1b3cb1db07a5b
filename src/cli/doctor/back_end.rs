//! Whether the owner's back end can be reached at `hooks.stored_url` and `auth.forward_url`, and the issuer of tickets at
//! `auth.jwt.jwks_url`. No event is sent, and no credential: a request that is allowed to change something there would
//! need either.

use std::time::Duration;

use actix_web::http::{Method, StatusCode};

use super::checks::Checks;
use super::report::{Checked, Fault, Report};
use crate::guard::jwks::fetch::{FetchError, Fetcher};
use crate::guard::jwks::set::SetError;
use crate::net::http_client::call::CallError;

const FORWARD: &str = "forward";

impl Checks<'_> {
    /// Asks for the options of `hooks.stored_url`. Some frameworks have no OPTIONS for a route of POST and respond with
    /// 404 as to a URL that is not there: then an empty POST without a signature decides, which is no event.
    pub async fn hooks(&self, url: &str) -> Checked<()> {
        let timeout = self.settings.hooks.timeout;
        let mut asked = Method::OPTIONS;
        let mut status = self.status(&asked, url, "hooks.stored_url", timeout).await?;
        if is_missing(status) {
            asked = Method::POST;
            status = self.status(&asked, url, "hooks.stored_url", timeout).await?;
        }
        let change = match status.as_u16() {
            404 | 410 => {
                "hooks.stored_url is the URL of the route that takes the events: correct it, or deploy that route"
            }
            300..400 => {
                "redirects are not followed: set hooks.stored_url to the URL that it redirects to"
            }
            502..=504 => "a proxy responds, and not the back end behind it: start the back end",
            _ => {
                return Ok((
                    (),
                    format!("{url} responds ({} to {asked}); no event was sent", status.as_u16()),
                ));
            }
        };
        let what = format!("{url} responds with {} to {asked}", status.as_u16());
        Err(Fault { what, change: change.to_owned() })
    }

    /// Asks `auth.forward_url` about an upload without any credential, as a stranger's upload would.
    pub async fn forward_auth(&self, url: &str, report: &mut Report) {
        let timeout = self.settings.auth.forward.timeout;
        let status = match self.status(&Method::GET, url, "auth.forward_url", timeout).await {
            Ok(status) => status.as_u16(),
            Err(fault) => return report.failed(FORWARD, &fault),
        };
        match status {
            300..=399 | 401 | 403 => report.line(
                "ok",
                FORWARD,
                format!("{url} refuses a request without a credential ({status})"),
            ),
            200..300 => {
                report.line("note", FORWARD, format!("{url} responds with {status} to a request without a credential"));
                report.advice(
                    "every client may do what auth.forward allows: unless that is meant, have the back end \
                     respond with 401 where there is no session",
                );
            }
            _ => report.failed(
                FORWARD,
                &Fault {
                    what: format!("{url} responds with {status} to a request without a credential"),
                    change: "the gateway would respond with 503: correct auth.forward_url, and have it respond with 401 \
                             where there is no session"
                        .to_owned(),
                },
            ),
        }
    }

    async fn status(
        &self,
        method: &Method,
        url: &str,
        setting: &str,
        timeout: Duration,
    ) -> Result<StatusCode, Fault> {
        let http = self.upstreams.http(self.settings);
        let mut request = http
            .request(method.clone(), url)
            .timeout(timeout)
            .insert_header(("Accept", "application/json"));
        if method == Method::GET {
            request = request
                .insert_header(("X-Forwarded-Method", "POST"))
                .insert_header(("X-Forwarded-Uri", "/v1/files"));
        }
        let response = request.send().await.map_err(|error| Fault {
            what: format!("{url}: {error}"),
            change: format!(
                "this machine must reach {setting}: check the name, the port, the firewall, and for a private certificate \
                 SSL_CERT_FILE"
            ),
        })?;
        Ok(response.status())
    }
}

/// Fetches the issuer's keys as the gateway does.
pub async fn jwks(url: &str, fetcher: &Fetcher) -> Checked<()> {
    let error = match fetcher.fetch().await {
        Ok(keys) => return Ok(((), format!("{url} has {} usable keys", keys.len()))),
        Err(error) => error,
    };
    let change = match &error {
        FetchError::Timeout
        | FetchError::Call(CallError::Connect(_) | CallError::NoResponse(_)) => {
            "this machine must reach auth.jwt.jwks_url: check the name, the port, the firewall, and for a private \
             certificate SSL_CERT_FILE"
        }
        FetchError::Status(300..400) => {
            "redirects are not followed: set auth.jwt.jwks_url to the URL that it redirects to"
        }
        FetchError::Status(_) | FetchError::Call(_) | FetchError::Set(SetError::Malformed) => {
            "auth.jwt.jwks_url is the URL of the JSON Web Key Set, which OpenID Connect issuers name as `jwks_uri` in \
             /.well-known/openid-configuration"
        }
        FetchError::Set(SetError::NoKey { .. }) => {
            "auth.jwt.algorithm is the `alg` of the issuer's tickets: a key needs the `kty` and `crv` of that, and no \
             other `alg`, `use` or `key_ops`"
        }
    };
    Err(Fault { what: format!("{url}: {error}"), change: change.to_owned() })
}

fn is_missing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 404 | 410)
}
