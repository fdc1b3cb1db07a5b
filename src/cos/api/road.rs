//! A worker's way to COS's API. Its client is made once the bucket is known: from the settings, or from the first upload
//! link.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::client::{self, Client};
use super::endpoint::{BucketLocation, EndpointTemplate};
use super::file_id;
use super::keys::Keys;
use super::retry::retried;
use super::sent_part::UploadEvent;
use super::upload::PartSizes;
use crate::cos::error::CosError;
use crate::cos::target::Target;
use crate::cos::upstream::{Timeouts, Upstream};
use crate::net::http_client::Pool;
use crate::net::http_client::base_url::BaseUrl;

/// What all workers share.
#[derive(Clone)]
pub struct ApiSettings {
    pub keys: Keys,
    pub endpoint: EndpointTemplate,
    /// `None`: taken from an upload link, as is the region.
    pub bucket: Option<String>,
    pub region: Option<String>,
    /// `None`: file ids come from upload links.
    pub metaid: Option<BaseUrl>,
    /// For a call to metaid.
    pub call_timeout: Duration,
    pub sizes: PartSizes,
}

/// A worker's way to COS's API.
pub struct ApiRoad {
    settings: ApiSettings,
    pool: Rc<Pool>,
    upstream: Upstream,
    timeouts: Timeouts,
    bucket: OnceCell<Bucket>,
}

struct Bucket {
    name: String,
    client: Rc<Client>,
}

impl ApiRoad {
    /// Must be called on a worker.
    pub fn new(
        settings: ApiSettings,
        tls: Arc<rustls::ClientConfig>,
        timeouts: Timeouts,
    ) -> Rc<Self> {
        let pool = client::pool(tls, timeouts);
        let upstream = Upstream::over(pool.clone(), timeouts);
        Rc::new(Self { settings, pool, upstream, timeouts, bucket: OnceCell::new() })
    }

    pub fn sizes(&self) -> PartSizes {
        self.settings.sizes
    }

    /// The connections that parts are sent over.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Whether file ids come from upload links.
    pub fn needs_link(&self) -> bool {
        self.settings.metaid.is_none()
    }

    /// The client. `link` is an upload link that was checked, and the key that it is for; without one, the settings or an earlier link must name the
    /// bucket.
    pub fn client(&self, link: Option<(&Target, &str)>) -> Result<Rc<Client>, CosError> {
        self.bucket(link).map(|bucket| bucket.client.clone())
    }

    fn bucket(&self, link: Option<(&Target, &str)>) -> Result<&Bucket, CosError> {
        if let Some(bucket) = self.bucket.get() {
            return Ok(bucket);
        }
        let unknown = CosError::Link(
            "it does not name its bucket and region: set cos.api.bucket and .region",
        );
        let ApiSettings { keys, endpoint, bucket, region, .. } = &self.settings;
        let learned = link.and_then(|(target, key)| BucketLocation::of_link(target, key));
        let learned = learned.map(|location| (location.bucket, location.region));
        let (learned_bucket, learned_region) =
            learned.map_or((None, None), |(bucket, region)| (Some(bucket), region));
        let name = bucket.clone().or(learned_bucket);
        let region = region.clone().or(learned_region);
        let resolved = endpoint.resolve(name.as_deref(), region.as_deref());
        let Ok(resolved) = resolved else {
            return Err(unknown);
        };
        let client = Client::new(self.pool.clone(), keys.clone(), resolved, self.timeouts);
        let name = name.unwrap_or_default();
        Ok(self.bucket.get_or_init(|| Bucket { name, client: Rc::new(client) }))
    }

    /// The file id of an object by metaid, and the name of its bucket.
    pub async fn file_id(
        &self,
        key: &str,
        observe: &dyn Fn(UploadEvent),
    ) -> Result<(String, &str), CosError> {
        let url = self.settings.metaid.as_ref();
        let url = url.ok_or(CosError::Link("file ids come from upload links"))?;
        let (bucket, limit) = (&self.bucket(None)?.name, self.settings.call_timeout);
        let fetch = async || file_id::fetch(&self.pool, url, limit, bucket, key).await;
        Ok((retried(key, observe, fetch).await?, bucket))
    }
}
