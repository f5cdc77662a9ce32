//! The Secret through which replicas share one CA: whoever comes first makes it, the others read it, and any of them changes it,
//! never over another's change.
//!
//! It is a `kubernetes.io/tls` Secret whose first certificate signs; further ones are trusted besides. While a rotation is
//! announced it also holds the CA to come.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, api::PostParams, core::ObjectMeta};
use policies::names::WEBHOOK_MANAGER;

use super::{Authority, CertError, ca::certificates, clock, rotation::Phase};
use crate::retry::{ApiError, call};

/// Its name, in our own namespace.
pub const SECRET: &str = "railbind-webhook-ca";
/// Keys of a Secret of type `kubernetes.io/tls`.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// The CA to come. Versions that do not know these keys leave them alone.
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// We may not.
    #[error(
        "cannot {0} Secret {SECRET}: {1} (the webhook's service account needs get, create and update on secrets in its own namespace)"
    )]
    Refused(&'static str, String),
    /// Not now.
    #[error("cannot {0} Secret {SECRET}: {1}")]
    Unavailable(&'static str, String),
    /// No CA could be made.
    #[error(transparent)]
    Make(#[from] CertError),
}

impl SecretError {
    /// Whether waiting does not help.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused(..) | Self::Make(_) => true,
            Self::Unavailable(..) => false,
        }
    }
}

/// All that the Secret holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Material {
    /// The CA that signs.
    pub signing: Arc<Authority>,
    /// Certificates that are trusted besides, PEM.
    pub besides: String,
    /// The CA that is to sign next.
    pub next: Option<Arc<Authority>>,
}

impl Material {
    /// With one CA.
    pub fn of(authority: Authority) -> Self {
        Self { signing: Arc::new(authority), besides: String::new(), next: None }
    }

    /// What the API server has to trust, PEM.
    pub fn bundle_pem(&self) -> String {
        let next = self.next.as_ref().map_or("", |next| next.certificate_pem());
        [self.signing.certificate_pem(), &self.besides, next].concat()
    }

    /// How far a rotation is.
    pub fn phase(&self) -> Phase {
        match &self.next {
            Some(next) => Phase::Announced(next.validity()),
            None if self.besides.is_empty() => Phase::Steady,
            None => Phase::Retiring,
        }
    }

    /// With a CA to come.
    #[must_use]
    pub fn announcing(&self, next: Authority) -> Self {
        Self { next: Some(Arc::new(next)), ..self.clone() }
    }

    /// With the one to come in the place of the one that signs, which stays trusted.
    #[must_use]
    pub fn switched(&self) -> Self {
        match &self.next {
            Some(next) => {
                Self { signing: next.clone(), besides: self.signing.certificate_pem().to_owned(), next: None }
            }
            None => self.clone(),
        }
    }

    /// With nothing but what signs.
    #[must_use]
    pub fn retired(&self) -> Self {
        Self { besides: String::new(), ..self.clone() }
    }

    fn write(&self, data: &mut BTreeMap<String, ByteString>) {
        let mut set = |key: &str, value: Option<&str>| match value {
            Some(text) => drop(data.insert(key.into(), ByteString(text.into()))),
            None => drop(data.remove(key)),
        };
        let trusted = [self.signing.certificate_pem(), &self.besides].concat();
        set(CERTIFICATE, Some(&trusted));
        set(KEY, Some(self.signing.key_pem()));
        set(NEXT_CERTIFICATE, self.next.as_ref().map(|next| next.certificate_pem()));
        set(NEXT_KEY, self.next.as_ref().map(|next| next.key_pem()));
    }

    /// # Errors
    /// What it holds is no CA.
    pub fn read(secret: &Secret) -> Result<Self, CertError> {
        let text = |key: &'static str| {
            let data = secret.data.as_ref().and_then(|data| data.get(key));
            let bytes = data.ok_or_else(|| CertError::Read(key, "it is not there".into()))?;
            std::str::from_utf8(&bytes.0).map_err(|error| CertError::Read(key, error.to_string()))
        };
        let mut trusted = certificates(text(CERTIFICATE)?)?.into_iter();
        let first = trusted.next().ok_or_else(|| CertError::Read(CERTIFICATE, "no certificate in it".into()))?;
        let signing = Authority::load(&first, text(KEY)?)?;
        // One that makes no sense is as good as none: it is made anew when it is time.
        let next = || {
            Authority::load(certificates(text(NEXT_CERTIFICATE)?)?.first().map_or("", |first| first), text(NEXT_KEY)?)
        };
        Ok(Self { signing: Arc::new(signing), besides: trusted.collect(), next: next().ok().map(Arc::new) })
    }
}

/// The Secret in the cluster.
#[derive(Debug, Clone)]
pub struct Store(Api<Secret>);

impl Store {
    /// In our own namespace.
    pub fn new(secrets: Api<Secret>) -> Self {
        Self(secrets)
    }

    /// What is there, and the API server's time as it answered.
    pub async fn get(&self) -> Result<(Option<Secret>, Option<SystemTime>), SecretError> {
        call(clock::get(&self.0, SECRET)).await.map_err(|error| failed("read", error))
    }

    /// Writes this in the place of what was read (`None`: there was nothing). False where another was faster: read again.
    pub async fn put(&self, before: Option<Secret>, material: &Material) -> Result<bool, SecretError> {
        let parameters = PostParams { field_manager: Some(WEBHOOK_MANAGER.into()), ..PostParams::default() };
        let (what, result) = match before {
            None => ("create", call(self.0.create(&parameters, &fresh(material))).await),
            // With the resource version that it was read with.
            Some(mut secret) => {
                material.write(secret.data.get_or_insert_default());
                ("update", call(self.0.replace(SECRET, &parameters, &secret)).await)
            }
        };
        match result {
            Ok(_) => Ok(true),
            Err(ApiError::Conflict(_)) => Ok(false),
            // Deleted in between. On creation it is the namespace that is missing.
            Err(ApiError::NotFound(_)) if what == "update" => Ok(false),
            Err(error) => Err(failed(what, error)),
        }
    }
}

fn failed(what: &'static str, error: ApiError) -> SecretError {
    match error {
        ApiError::Refused(text) => SecretError::Refused(what, text),
        ApiError::Unavailable(text) | ApiError::Conflict(text) | ApiError::NotFound(text) => {
            SecretError::Unavailable(what, text)
        }
    }
}

fn fresh(material: &Material) -> Secret {
    let mut data = BTreeMap::new();
    material.write(&mut data);
    Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.into()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".into(), WEBHOOK_MANAGER.into())])),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::{Authority, Material, Phase, SECRET, Secret, SecretError, Store, fresh};
    use crate::testing::ApiServer;

    const PATH: &str = "/api/v1/namespaces/railbind/secrets/railbind-webhook-ca";

    fn authority() -> Authority {
        Authority::generate(SystemTime::now(), Duration::from_hours(24)).unwrap()
    }

    #[test]
    fn every_phase_is_read_as_it_was_written() {
        let steady = Material::of(authority());
        let announced = steady.announcing(authority());
        let switched = announced.switched();
        for (material, certificates) in [(&steady, 1), (&announced, 2), (&switched, 2), (&switched.retired(), 1)] {
            let read = Material::read(&fresh(material)).unwrap();
            assert_eq!(read, *material);
            assert_eq!(read.bundle_pem(), material.bundle_pem());
            assert_eq!(material.bundle_pem().matches("BEGIN CERTIFICATE").count(), certificates);
        }
        assert!(matches!(announced.phase(), Phase::Announced(_)));
        assert_eq!(
            (steady.phase(), switched.phase(), switched.retired().phase()),
            (Phase::Steady, Phase::Retiring, Phase::Steady)
        );
        assert_eq!(Some(&switched.signing), announced.next.as_ref());
        assert_eq!(switched.besides, steady.signing.certificate_pem());
    }

    #[test]
    fn the_secret_of_a_version_without_rotation_is_read() {
        let old = authority();
        let secret = Secret {
            data: Some(
                [("tls.crt", old.certificate_pem()), ("tls.key", old.key_pem())]
                    .map(|(key, text)| (key.to_owned(), ByteString(text.into())))
                    .into(),
            ),
            ..Secret::default()
        };
        assert_eq!(Material::read(&secret).unwrap(), Material::of(old));
    }

    #[test]
    fn what_makes_no_sense() {
        let material = Material::of(authority()).announcing(authority());
        let with = |key: &str, value: Option<&str>| {
            let mut secret = fresh(&material);
            let data = secret.data.as_mut().unwrap();
            match value {
                Some(value) => data.insert(key.into(), ByteString(value.into())),
                None => data.remove(key),
            };
            Material::read(&secret)
        };
        for (key, value) in [
            ("tls.crt", None),
            ("tls.crt", Some("")),
            ("tls.crt", Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
            ("tls.key", None),
            ("tls.key", Some("nonsense")),
            ("tls.key", Some(authority().key_pem())),
        ] {
            assert!(with(key, value).is_err(), "{key}: {value:?}");
        }
        let garbled = format!(
            "{}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            material.signing.certificate_pem()
        );
        assert!(with("tls.crt", Some(&garbled)).is_err(), "an API server would refuse the whole list");
        for (key, value) in
            [("next.crt", None), ("next.key", None), ("next.key", Some("nonsense")), ("next.crt", Some(""))]
        {
            let read = with(key, value).unwrap();
            assert_eq!((read.signing, read.next), (material.signing.clone(), None), "{key}: {value:?}");
        }
    }

    #[tokio::test]
    async fn nobody_writes_over_anothers_change() {
        let server = ApiServer::start();
        let store = Store::new(server.namespaced("railbind"));
        let (first, second) = (Material::of(authority()), Material::of(authority()));
        assert!(store.put(None, &first).await.unwrap());
        assert!(!store.put(None, &second).await.unwrap(), "it is there already");
        let read = store.get().await.unwrap().0;
        assert_eq!(Material::read(read.as_ref().unwrap()).unwrap(), first);
        assert!(store.put(read.clone(), &second).await.unwrap());
        assert!(!store.put(read.clone(), &first).await.unwrap(), "that is no longer what is there");
        let now = Material::read(&store.get().await.unwrap().0.unwrap()).unwrap();
        assert_eq!(now, second);
        server.delete(PATH);
        assert!(!store.put(read, &first).await.unwrap(), "it is gone");
    }

    #[tokio::test]
    async fn what_others_put_beside_it_stays() {
        let server = ApiServer::start();
        let store = Store::new(server.namespaced("railbind"));
        server.put(
            PATH,
            json!({"metadata": {"name": SECRET, "labels": {"team": "x"}}, "type": "Opaque", "data": {"note": "eA=="}}),
        );
        assert!(store.put(store.get().await.unwrap().0, &Material::of(authority())).await.unwrap());
        let now = server.get(PATH).unwrap();
        assert_eq!(
            (&now["type"], &now["metadata"]["labels"]["team"], &now["data"]["note"]),
            (&json!("Opaque"), &json!("x"), &json!("eA=="))
        );
    }

    #[tokio::test]
    async fn errors_that_waiting_mends_and_others() {
        let server = ApiServer::start();
        let store = Store::new(server.namespaced("railbind"));
        for (code, is_final) in [(403, true), (401, true), (500, false), (503, false), (429, false)] {
            server.fail_with(Some(code));
            let error = store.get().await.unwrap_err();
            assert_eq!(error.is_final(), is_final, "{code}: {error}");
            assert!(error.to_string().starts_with("cannot read Secret railbind-webhook-ca: "), "{error}");
            let error = store.put(None, &Material::of(authority())).await.unwrap_err();
            assert!(error.to_string().starts_with("cannot create Secret "), "{error}");
            assert!(!matches!(error, SecretError::Make(_)));
        }
    }
}
