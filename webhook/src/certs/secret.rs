//! The Secret through which replicas share one CA: whoever comes first makes it, the others read it.

use std::{collections::BTreeMap, time::SystemTime};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, api::PostParams, core::ObjectMeta};
use policies::names::WEBHOOK_MANAGER;

use super::{Authority, CertError};
use crate::retry::{ApiError, call};

/// Its name, in our own namespace.
pub const SECRET: &str = "railbind-webhook-ca";
/// Keys of a Secret of type `kubernetes.io/tls`.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// We may not.
    #[error(
        "cannot {0} Secret {SECRET}: {1} (the webhook's service account needs get and create on secrets in its own namespace)"
    )]
    Refused(&'static str, String),
    /// Not now.
    #[error("cannot {0} Secret {SECRET}: {1}")]
    Unavailable(&'static str, String),
    /// Someone put something else into it.
    #[error("Secret {SECRET} holds no usable CA: {0} (delete it, and a new one is made)")]
    Garbled(String),
    /// No CA could be made.
    #[error(transparent)]
    Make(#[from] CertError),
}

impl SecretError {
    /// Whether waiting does not help.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused(..) | Self::Garbled(_) | Self::Make(_) => true,
            Self::Unavailable(..) => false,
        }
    }
}

/// The CA in the Secret; `None` if that is the one in use. Where there is no Secret, one is made, with the CA in use if there
/// is one: then a deleted Secret changes nothing for the API server.
pub async fn ensure(
    secrets: &Api<Secret>,
    in_use: Option<&Authority>,
    now: SystemTime,
) -> Result<Option<Authority>, SecretError> {
    if let Some(secret) = call(secrets.get_opt(SECRET)).await.map_err(|error| failed("read", error))? {
        return read(&secret, in_use, now);
    }
    let created = match in_use {
        Some(authority) => write(authority),
        None => write(&Authority::generate(now)?),
    };
    match call(secrets.create(&parameters(), &created)).await {
        // Read back, so that what is used is what everyone else will read.
        Ok(secret) => read(&secret, in_use, now),
        Err(ApiError::Conflict(_)) => {
            let secret = call(secrets.get(SECRET)).await.map_err(|error| failed("read", error))?;
            read(&secret, in_use, now)
        }
        Err(error) => Err(failed("create", error)),
    }
}

fn failed(what: &'static str, error: ApiError) -> SecretError {
    match error {
        ApiError::Refused(text) => SecretError::Refused(what, text),
        // On creation this is the namespace; on reading after a conflict, someone deletes as fast as we create.
        ApiError::Unavailable(text) | ApiError::Conflict(text) | ApiError::NotFound(text) => {
            SecretError::Unavailable(what, text)
        }
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(WEBHOOK_MANAGER.into()), ..PostParams::default() }
}

fn write(authority: &Authority) -> Secret {
    let data = [(CERTIFICATE, authority.bundle_pem()), (KEY, authority.key_pem())];
    Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.into()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".into(), WEBHOOK_MANAGER.into())])),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data.into_iter().map(|(key, text)| (key.into(), ByteString(text.into()))).collect()),
        ..Secret::default()
    }
}

fn read(secret: &Secret, in_use: Option<&Authority>, now: SystemTime) -> Result<Option<Authority>, SecretError> {
    let text = |key: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(key));
        let bytes = data.ok_or_else(|| SecretError::Garbled(format!("no {key}")))?;
        std::str::from_utf8(&bytes.0).map_err(|error| SecretError::Garbled(format!("{key}: {error}")))
    };
    let (bundle, key) = (text(CERTIFICATE)?, text(KEY)?);
    if in_use.is_some_and(|authority| authority.bundle_pem() == bundle && authority.key_pem() == key) {
        return Ok(None);
    }
    Authority::load(bundle, key, now).map(Some).map_err(|error| SecretError::Garbled(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::json;

    use super::{SECRET, SecretError, ensure};
    use crate::testing::ApiServer;

    const PATH: &str = "/api/v1/namespaces/railbind/secrets/railbind-webhook-ca";

    #[tokio::test]
    async fn replicas_that_start_together_share_one() {
        let server = ApiServer::start();
        let now = SystemTime::now();
        // Both have looked and found nothing before either creates.
        server.miss_next_reads(2);
        let (one, other) = (server.namespaced("railbind"), server.namespaced("railbind"));
        let (one, other) = tokio::join!(ensure(&one, None, now), ensure(&other, None, now));
        assert_eq!(one.unwrap().unwrap(), other.unwrap().unwrap());
        assert_eq!(server.count("POST"), 2);
    }

    #[tokio::test]
    async fn a_later_replica_reads_and_writes_nothing() {
        let server = ApiServer::start();
        let now = SystemTime::now();
        let first = ensure(&server.namespaced("railbind"), None, now).await.unwrap().unwrap();
        let later = ensure(&server.namespaced("railbind"), None, now).await.unwrap().unwrap();
        assert_eq!(first, later);
        assert_eq!(server.count("POST"), 1);
    }

    #[tokio::test]
    async fn a_deleted_secret_comes_back_with_the_same_ca() {
        let server = ApiServer::start();
        let now = SystemTime::now();
        let first = ensure(&server.namespaced("railbind"), None, now).await.unwrap().unwrap();
        server.delete(PATH);
        let again = ensure(&server.namespaced("railbind"), Some(&first), now).await.unwrap();
        assert_eq!(again, None, "nothing new");
        assert_eq!(ensure(&server.namespaced("railbind"), None, now).await.unwrap(), Some(first));
    }

    #[tokio::test]
    async fn errors_that_waiting_mends_and_others() {
        let server = ApiServer::start();
        let now = SystemTime::now();
        let secrets = server.namespaced("railbind");
        for (code, is_final) in [(403, true), (401, true), (500, false), (503, false), (429, false)] {
            server.fail_with(Some(code));
            let error = ensure(&secrets, None, now).await.unwrap_err();
            assert_eq!(error.is_final(), is_final, "{code}: {error}");
            assert!(error.to_string().starts_with("cannot read Secret railbind-webhook-ca: "), "{error}");
        }
        server.fail_with(None);
        server.put(PATH, json!({"metadata": {"name": SECRET}, "data": {"tls.crt": ""}}));
        let error = ensure(&secrets, None, now).await.unwrap_err();
        assert!(matches!(error, SecretError::Garbled(_)) && error.is_final(), "{error}");
        assert_eq!(server.get(PATH).unwrap()["data"], json!({"tls.crt": ""}), "someone's Secret is left alone");
    }
}
