//! What the API server's answer says about the page.

use serde::Deserialize;

use crate::exit::{Ended, Exit, Result};

/// Where the page is.
pub(super) struct Place {
    /// Namespace of Railbind.
    pub(super) namespace: String,
    /// The webhook's Service.
    pub(super) service: String,
}

impl Place {
    /// Path of the page behind the API server.
    pub(super) fn page(&self) -> String {
        format!("/api/v1/namespaces/{}/services/{}/proxy/ui/", self.namespace, self.port())
    }

    /// The Service's port as the API server names it: the name that a Role has to carry.
    fn port(&self) -> String {
        format!("http:{}:admin", self.service)
    }
}

/// The API server's own word, as it is in place of an answer; the webhook says nothing of this form.
#[derive(Deserialize)]
struct Status {
    kind: String,
    #[serde(default)]
    message: String,
}

/// The page's data, as far as it concerns us.
#[derive(Deserialize)]
struct Data {
    version: String,
}

/// The version of the page, or why there is none.
pub(super) fn judge(code: u16, body: &[u8], place: &Place) -> Result<String> {
    let Place { namespace, service } = place;
    let status = serde_json::from_slice::<Status>(body).ok().filter(|status| status.kind == "Status");
    let said = status.as_ref().map(|status| status.message.clone());
    match (code, said) {
        (200, _) => match serde_json::from_slice::<Data>(body) {
            Ok(data) => Ok(data.version),
            Err(error) => Err(Ended::new(
                Exit::OtherVersion,
                format!(
                    "Service {namespace}/{service} answers, and not as Railbind's page does ({error}): another version of Railbind, or another program"
                ),
            )),
        },
        (401 | 403, Some(why)) => Err(Ended::new(
            Exit::NoPermission,
            format!(
                "{why}; the page needs the right to get services/proxy of {} in namespace {namespace} (docs/page.md has the Role)",
                place.port()
            ),
        )),
        (404, Some(why)) => Err(Ended::new(
            Exit::NoRailbind,
            format!(
                "{why}: Railbind is not installed in namespace {namespace}; --railbind-namespace and --service name another place"
            ),
        )),
        (404, None) => Err(Ended::new(
            Exit::OtherVersion,
            format!(
                "the webhook of {namespace}/{service} serves no page: an older Railbind, or one that runs with --page=false"
            ),
        )),
        (503, Some(why)) if why.contains("no service port") => Err(Ended::new(
            Exit::OtherVersion,
            format!("{why}: an older Railbind, whose Service leads to no page; apply the manifests of this version"),
        )),
        (503, Some(why)) if why.contains("no endpoints") => {
            Err(Ended::new(Exit::Partial, format!("{why}: no webhook is ready; see `kubectl get pods -n {namespace}`")))
        }
        (code, why) => {
            let words = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            Err(unreached(place, &format!("{code}: {}", why.unwrap_or(words))))
        }
    }
}

/// The API server is there, and the webhook out of its reach.
pub(super) fn unreached(place: &Place, why: &str) -> Ended {
    let Place { namespace, service } = place;
    Ended::new(
        Exit::Partial,
        format!(
            "the API server does not reach the page of {namespace}/{service} ({why}): a NetworkPolicy has to let the API server's address \
             in to port 9090 (docs/page.md); without it, `kubectl port-forward -n {namespace} service/{service} 9090` shows the map and \
             the workers at http://127.0.0.1:9090/ui/"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::{Place, judge};
    use crate::exit::Exit;

    fn place() -> Place {
        Place { namespace: "railbind-system".into(), service: "railbind-webhook".into() }
    }

    #[test]
    fn answers() {
        assert_eq!(judge(200, br#"{"version":"0.1.0","nodes":null}"#, &place()).unwrap_or_default(), "0.1.0");
        let status = |message: &str| format!(r#"{{"kind":"Status","message":"{message}","code":1}}"#);
        for (code, body, exit, words) in [
            (200, "{}".to_owned(), Exit::OtherVersion, "not as Railbind's page does"),
            (200, "<html>".into(), Exit::OtherVersion, "another program"),
            (
                403,
                status("services is forbidden"),
                Exit::NoPermission,
                "get services/proxy of http:railbind-webhook:admin",
            ),
            (404, status("services not found"), Exit::NoRailbind, "not installed in namespace railbind-system"),
            (404, String::new(), Exit::OtherVersion, "serves no page"),
            (503, status("no endpoints available for service"), Exit::Partial, "no webhook is ready"),
            (503, status("no service port admin found"), Exit::OtherVersion, "apply the manifests of this version"),
            (503, status("error trying to reach service: dial tcp"), Exit::Partial, "NetworkPolicy"),
            (503, "cannot collect the data; see the log".into(), Exit::Partial, "503: cannot collect the data"),
            (403, "a mesh says no".into(), Exit::Partial, "403: a mesh says no"),
        ] {
            let ended = judge(code, body.as_bytes(), &place()).err().map(|ended| (ended.exit, ended.text));
            let (found, text) = ended.unwrap_or((Exit::Healthy, String::new()));
            assert!(found == exit && text.contains(words), "{code} {body}: {found:?} {text}");
        }
    }
}
