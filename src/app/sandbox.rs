//! Starts the sandbox, which replaces WeChat and COS, if `sandbox.enabled` is set.

#[cfg(feature = "sandbox")]
use std::io;
#[cfg(feature = "sandbox")]
use std::net::Ipv4Addr;

use super::error::AppError;
use crate::settings::Settings;
#[cfg(feature = "sandbox")]
use crate::settings::{CosKeys, CredentialMode};

#[cfg(feature = "sandbox")]
pub(crate) type Sandbox = crate::sandbox::Sandbox;
/// Uninhabited: this build has no sandbox.
#[cfg(not(feature = "sandbox"))]
pub(crate) type Sandbox = std::convert::Infallible;

#[cfg(not(feature = "sandbox"))]
pub(crate) fn with_sandbox(settings: Settings) -> Result<(Settings, Option<Sandbox>), AppError> {
    if settings.sandbox.enabled { Err(AppError::NoSandbox) } else { Ok((settings, None)) }
}

/// Starts the sandbox if it is enabled, and makes the settings point to it.
#[cfg(feature = "sandbox")]
pub(crate) fn with_sandbox(
    mut settings: Settings,
) -> Result<(Settings, Option<Sandbox>), AppError> {
    use secrecy::ExposeSecret;

    use crate::sandbox::Options;

    if !settings.sandbox.enabled {
        return Ok((settings, None));
    }
    let mut options = Options {
        wechat: (Ipv4Addr::LOCALHOST, settings.sandbox.wechat_port).into(),
        cos: (Ipv4Addr::LOCALHOST, settings.sandbox.cos_port).into(),
        token_life: settings.sandbox.token_life,
        token_overlap: settings.sandbox.token_overlap,
        link_life: settings.sandbox.link_life,
        upload_limit: settings.sandbox.upload_limit,
        post_crc: settings.sandbox.post_crc,
        secret_id: settings.sandbox.secret_id.clone(),
        secret_key: settings.sandbox.secret_key.as_ref().map(|key| key.expose_secret().to_owned()),
        ..Options::default()
    };
    if settings.cos.api.keys == CosKeys::Static {
        let api = &mut settings.cos.api;
        let id = options.secret_id.get_or_insert_with(|| "sandbox-secret-id".to_owned());
        let key = options.secret_key.get_or_insert_with(|| hex::encode(rand::random::<[u8; 16]>()));
        (api.secret_id, api.secret_key, api.token) = (id.clone(), key.clone().into(), None);
    }
    if let Some(data) = &settings.sandbox.data {
        options.data.clone_from(data);
    }
    settings.wechat.env.clone_from(&options.env);
    settings.wechat.appid.clone_from(&options.appid);
    settings.wechat.secret = options.secret.clone().into();
    let data = options.data.display().to_string();
    // Each credential mode works as in production; the token files of the platforms are in the sandbox's data folder.
    let token_file = |name: &str| -> io::Result<(String, std::path::PathBuf)> {
        let (token, file) = (format!("{:032x}", rand::random::<u128>()), options.data.join(name));
        std::fs::create_dir_all(&options.data)?;
        std::fs::write(&file, &token)?;
        Ok((token, file))
    };
    match settings.wechat.credential {
        CredentialMode::Secret | CredentialMode::Stable => {}
        CredentialMode::Open => options.open = true,
        CredentialMode::Cloudbase => {
            let (token, file) = token_file("cloudbase_access_token").map_err(AppError::Sandbox)?;
            (options.cloudbase_token, settings.wechat.cloudbase_token_file) = (Some(token), file);
        }
        CredentialMode::Authorizer => {
            let (token, file) = token_file("component_access_token").map_err(AppError::Sandbox)?;
            let authorizer = &mut settings.wechat.authorizer;
            (options.component_token, authorizer.component_token_file) = (Some(token), file);
            authorizer.component_appid.clone_from(&options.component_appid);
            authorizer.authorizer_appid.clone_from(&options.appid);
            authorizer.refresh_token = options.refresh_token.clone().into();
        }
    }
    let sandbox = Sandbox::start(options).map_err(AppError::Sandbox)?;
    settings.wechat.base_url = sandbox.wechat_url();
    settings.cos.allowed_hosts = vec![sandbox.cos_addr().to_string()];
    settings.cos.allow_http = true;
    let api = &mut settings.cos.api;
    api.endpoint = format!("http://{}", sandbox.cos_addr());
    api.getauth_url = format!("{}/_/cos/getauth", sandbox.wechat_url());
    api.metaid_url = format!("{}/_/cos/metaid/encode", sandbox.wechat_url());
    tracing::info!(
        "sandbox: WeChat on {}, COS on http://{}, objects in {data}",
        sandbox.wechat_url(),
        sandbox.cos_addr()
    );
    Ok((settings, Some(sandbox)))
}
