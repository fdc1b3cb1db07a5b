//! What COS's API needs of the settings.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use crate::cos::api::credentials::Credentials;
use crate::cos::api::endpoint::{EndpointError, EndpointTemplate};
use crate::cos::api::getauth::GetAuth;
use crate::cos::api::keys::Keys;
use crate::cos::api::road::ApiSettings;
use crate::cos::api::upload::PartSizes;
use crate::net::http_client::base_url::BaseUrl;
use crate::settings::{Cos, CosKeys, FileIds};

/// Why the settings of the API cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CosApiError {
    #[error("cos.api.endpoint: {0}")]
    Endpoint(#[from] EndpointError),
    #[error("cos.api.{0}: it is not a URL")]
    Url(&'static str),
    #[error("cos.api: {0}")]
    Credentials(&'static str),
}

/// `call_timeout` is for calls of WeChat cloud hosting.
pub(super) fn settings(cos: &Cos, call_timeout: Duration) -> Result<ApiSettings, CosApiError> {
    let api = &cos.api;
    let url = |name, url: &str| BaseUrl::parse(url).ok_or(CosApiError::Url(name));
    let keys = match api.keys {
        CosKeys::Getauth => {
            Keys::GetAuth(GetAuth::new(url("getauth_url", &api.getauth_url)?, call_timeout))
        }
        CosKeys::Static => {
            let token = api.token.as_ref().map(|token| token.expose_secret());
            let secret_key = api.secret_key.expose_secret();
            let credentials = Credentials::new(&api.secret_id, secret_key, token);
            Keys::Static(Arc::new(credentials.map_err(CosApiError::Credentials)?))
        }
    };
    let metaid = match api.file_ids {
        FileIds::Link => None,
        FileIds::Metaid => Some(url("metaid_url", &api.metaid_url)?),
    };
    Ok(ApiSettings {
        keys,
        endpoint: EndpointTemplate::parse(&api.endpoint, cos.allow_http)?,
        bucket: api.bucket.clone(),
        region: api.region.clone(),
        metaid,
        call_timeout,
        sizes: PartSizes { part: api.part_size, single_put: api.single_put },
    })
}
