//! Where the credentials come from (`cos.api.keys`).

use std::rc::Rc;
use std::sync::Arc;

use super::credentials::Credentials;
use super::getauth::GetAuth;
use crate::cos::error::CosError;
use crate::net::http_client::Pool;

/// The source of credentials; clones share it, on all workers.
#[derive(Clone)]
pub enum Keys {
    /// From the settings.
    Static(Arc<Credentials>),
    /// The temporary keys of cloud hosting.
    GetAuth(GetAuth),
}

impl Keys {
    /// Usable credentials. `pool` is used where they must be fetched.
    pub async fn get(&self, pool: &Rc<Pool>) -> Result<Arc<Credentials>, CosError> {
        match self {
            Self::Static(credentials) => Ok(credentials.clone()),
            Self::GetAuth(getauth) => getauth.get(pool).await.map_err(|cause| {
                let retry_after = getauth.retry_after();
                CosError::Keys { cause, retry_after }
            }),
        }
    }

    /// A request that was signed with `used` has failed: if COS refused the keys, they are dropped, where they are still
    /// those in use. Returns whether another request may be signed with other keys.
    pub async fn reject(&self, used: &Arc<Credentials>, error: &CosError) -> bool {
        match self {
            Self::GetAuth(getauth) if error.is_about_keys() => {
                getauth.reject(used).await;
                true
            }
            Self::Static(_) | Self::GetAuth(_) => false,
        }
    }
}
