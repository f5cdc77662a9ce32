//! Who else is in the fabric domain, where it listens, and which certificate it has there.
//!
//! Read as tables: the API server sends a row of five words for each node instead of its object, a tenth of a megabyte for a thousand
//! nodes, from its cache. Nothing is read while nothing is to be tested.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use kube::Client;
use policies::{names::label, selftest::Standing};
use serde::Deserialize;

use super::session::Fingerprint;

/// The API server's form of a list that `kubectl get` prints.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const PATH: &str = "/apis/railbind.dev/v1alpha1/nodefabrics";
/// How old the list may be while tests are made.
const FRESH: Duration = Duration::from_secs(5);
/// Requests for one node that a stranger's word can cause: so many at once, and one more after each of these times.
const LOOKUPS: (u32, Duration) = (8, Duration::from_millis(500));

/// A node that can be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What its label says of it.
    pub standing: Standing,
    /// Its fabric domain.
    pub domain: String,
    /// Where it listens, and its certificate; `None` where it does not take part.
    pub endpoint: Option<(SocketAddr, Fingerprint)>,
}

/// The members as they were last seen.
pub struct Members {
    client: Client,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    domain: String,
    list: BTreeMap<String, Member>,
    at: Option<Instant>,
    lookups: Option<(Instant, u32)>,
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Members")
    }
}

impl Members {
    /// Nobody yet.
    pub fn new(client: Client) -> Self {
        Self { client, kept: Mutex::default() }
    }

    /// These, just now.
    #[cfg(test)]
    pub(super) fn known_as(domain: &str, list: BTreeMap<String, Member>, client: Client) -> Self {
        let kept = Kept { domain: domain.into(), list, at: Some(Instant::now()), lookups: None };
        Self { client, kept: Mutex::new(kept) }
    }

    /// Who is not of this domain is nobody's partner here. What is known of another one is forgotten.
    pub fn belong_to(&self, domain: &str) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.domain != domain {
            (kept.domain, kept.at) = (domain.into(), None);
            kept.list.clear();
        }
    }

    /// The members of a domain: as they are now, or where the API server does not answer, as they were.
    pub async fn of(&self, domain: &str) -> BTreeMap<String, Member> {
        let (mut list, fresh) = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let same = kept.domain == domain;
            let fresh = same && kept.at.is_some_and(|at| at.elapsed() < FRESH);
            (if same { kept.list.clone() } else { BTreeMap::new() }, fresh)
        };
        if !fresh {
            match self.list(domain).await {
                Ok(found) => {
                    let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                    (kept.domain, kept.at) = (domain.into(), Some(Instant::now()));
                    kept.list.clone_from(&found);
                    list = found;
                }
                Err(error) => {
                    tracing::warn!(%error, known = list.len(), "could not list the NodeFabrics of this domain; going by the last list");
                }
            }
        }
        list
    }

    /// A member as it was last seen.
    pub fn known(&self, node: &str) -> Option<Member> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).list.get(node).cloned()
    }

    /// All names, as they were last seen.
    pub fn last(&self) -> BTreeMap<String, Member> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).list.clone()
    }

    /// What the API server says of one node now. `None` too where strangers have had it asked too often.
    pub async fn ask(&self, node: &str) -> Option<Member> {
        // A name may come from anybody.
        let name = node.len() <= 253 && !node.is_empty() && !node.starts_with('.');
        let plain =
            name && node.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
        if !plain || !self.may_ask() {
            return None;
        }
        match self.rows(&format!("{PATH}/{node}?includeObject=None")).await {
            Ok(found) => {
                let member = found.get(node).cloned();
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                match &member {
                    Some(member) if member.domain == kept.domain => drop(kept.list.insert(node.into(), member.clone())),
                    _ => drop(kept.list.remove(node)),
                }
                member
            }
            Err(kube::Error::Api(error)) if error.code == 404 => None,
            Err(error) => {
                tracing::warn!(%error, node, "could not ask who a caller is");
                None
            }
        }
    }

    /// A bucket: whoever can connect can name nodes, and must not have this agent ask the API server without end.
    fn may_ask(&self) -> bool {
        let (most, each) = LOOKUPS;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, used) = kept.lookups.unwrap_or((Instant::now(), 0));
        let back = u32::try_from(since.elapsed().as_millis() / each.as_millis()).unwrap_or(u32::MAX);
        let used = used.saturating_sub(back);
        let since = if back > 0 { Instant::now() } else { since };
        let allowed = used < most;
        kept.lookups = Some((since, used + u32::from(allowed)));
        allowed
    }

    async fn list(&self, domain: &str) -> kube::Result<BTreeMap<String, Member>> {
        // A label value needs no escaping; the slash of the key does.
        let selector = format!("{}%3D{domain}", label::FABRIC_DOMAIN.replace('/', "%2F"));
        self.rows(&format!("{PATH}?labelSelector={selector}&resourceVersion=0&includeObject=None")).await
    }

    async fn rows(&self, path: &str) -> kube::Result<BTreeMap<String, Member>> {
        let request = http::Request::get(path).header(http::header::ACCEPT, TABLE).body(Vec::new());
        let request = request.map_err(kube::Error::HttpError)?;
        let table: Table = self.client.request(request).await?;
        Ok(members(&table))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    column_definitions: Vec<Column>,
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Column {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Row {
    cells: Vec<serde_json::Value>,
}

fn members(table: &Table) -> BTreeMap<String, Member> {
    let place = |name: &str| table.column_definitions.iter().position(|column| column.name == name);
    let (name, domain, verdict) = (place("Name"), place("Domain"), place("Selftest"));
    let (address, certificate) = (place("Endpoint"), place("Certificate"));
    let of = |row: &Row| {
        let cell = |place: Option<usize>| row.cells.get(place?)?.as_str();
        let endpoint = || Some((cell(address)?.parse().ok()?, cell(certificate)?.parse().ok()?));
        let member = Member {
            standing: Standing::of_label(cell(verdict)),
            domain: cell(domain)?.to_owned(),
            endpoint: endpoint(),
        };
        Some((cell(name)?.to_owned(), member))
    };
    table.rows.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_by_their_columns_names() {
        let certificate = "ab".repeat(32);
        let table = serde_json::json!({
            "columnDefinitions": [{"name": "Name"}, {"name": "Selftest"}, {"name": "Domain"}, {"name": "Endpoint"}, {"name": "Certificate"}],
            "rows": [
                {"cells": ["a", "failed", "tcp", "10.0.0.1:9466", certificate]},
                {"cells": ["b", null, "tcp", "not an address", "nor a certificate"]},
                {"cells": ["no-domain", "passed", null, "10.0.0.1:9466", certificate]},
                {"cells": []},
            ],
        });
        let found = members(&serde_json::from_value(table).unwrap());
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(found["a"].standing, Standing::Failed);
        assert_eq!(found["a"].endpoint.unwrap().0, "10.0.0.1:9466".parse().unwrap());
        assert_eq!((found["b"].standing, found["b"].endpoint), (Standing::Untested, None));
    }
}
