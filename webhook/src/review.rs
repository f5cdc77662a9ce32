//! AdmissionReview, `admission.k8s.io/v1`: our own types, because the object must stay the raw JSON it came as.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use json_patch::Patch;
use serde::{Deserialize, Serialize, Serializer, ser::Error as _};
use serde_json::Value;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// More than this, or longer, and the API server drops some for all of a request's webhooks together (4 KiB).
pub const MAX_WARNINGS: usize = 3;
/// Bytes of one warning.
pub const MAX_WARNING: usize = 200;
/// Bytes of a refusal.
pub(crate) const MAX_REFUSAL: usize = 1024;
/// Bytes of one audit annotation.
const MAX_AUDIT: usize = 1024;

/// Why a body is not a review. The text is for whoever set up the webhook.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not the JSON of a review.
    #[error("not an AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    /// Another kind or version.
    #[error("expected {KIND} of {API_VERSION}, got {kind:?} of {api_version:?}")]
    Kind {
        /// `apiVersion` as sent.
        api_version: String,
        /// `kind` as sent.
        kind: String,
    },
    /// No `request`, or one without `uid`.
    #[error("the review has no {0}")]
    Missing(&'static str),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Incoming {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

/// What is being admitted. Fields we have no use for are not kept: `oldObject`, `options`, `userInfo`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Echoed in the answer.
    #[serde(default)]
    pub uid: String,
    /// Kind of the object.
    #[serde(default)]
    pub kind: Kind,
    /// What the request is about.
    #[serde(default)]
    pub resource: Resource,
    /// `binding`, say.
    pub sub_resource: Option<String>,
    /// Name of the object; a pod from a generator has none yet.
    pub name: Option<String>,
    /// Namespace of the object.
    pub namespace: Option<String>,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    #[serde(default)]
    pub operation: String,
    /// Nothing will be kept. We keep nothing anyway.
    pub dry_run: Option<bool>,
    /// The object, raw.
    #[serde(default)]
    pub object: Value,
}

/// Group, version and kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Kind {
    /// Empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
}

/// Group, version and resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Resource, in the plural.
    pub resource: String,
}

/// Reads a review.
pub fn decode(body: &[u8]) -> Result<Request, DecodeError> {
    let Incoming { api_version, kind, request } = serde_json::from_slice(body)?;
    if api_version != API_VERSION || kind != KIND {
        return Err(DecodeError::Kind { api_version, kind });
    }
    let request = request.ok_or(DecodeError::Missing("request"))?;
    if request.uid.is_empty() {
        return Err(DecodeError::Missing("request.uid"));
    }
    Ok(request)
}

/// An answer: it admits the object, unless the object's owner or its namespace asked us to refuse such ones.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Refusal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<Encoded>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<&'static str, String>,
}

/// A patch as the API has it: its JSON in base64.
#[derive(Debug, Clone, PartialEq)]
struct Encoded(Patch);

impl Serialize for Encoded {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let json = serde_json::to_vec(&self.0).map_err(S::Error::custom)?;
        to.serialize_str(&BASE64_STANDARD.encode(json))
    }
}

/// The `Status` that whoever made the request gets.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Refusal {
    code: u16,
    reason: &'static str,
    message: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outgoing<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: &'a Answer,
}

impl Answer {
    /// Admits the object of the request with this uid as it is.
    pub fn allow(uid: impl Into<String>) -> Self {
        Self {
            uid: uid.into(),
            allowed: true,
            status: None,
            patch_type: None,
            patch: None,
            warnings: Vec::new(),
            audit_annotations: BTreeMap::new(),
        }
    }

    /// Refuses the object, with this said to whoever made the request.
    #[must_use]
    pub fn deny(mut self, why: &str) -> Self {
        self.allowed = false;
        self.status = Some(Refusal { code: 403, reason: "Forbidden", message: cut(why, MAX_REFUSAL) });
        self.patch_type = None;
        self.patch = None;
        self
    }

    /// With this change; an empty patch is none, so that the API server sees no mutation.
    #[must_use]
    pub fn patched(mut self, patch: Patch) -> Self {
        if !patch.is_empty() {
            self.patch_type = Some("JSONPatch");
            self.patch = Some(Encoded(patch));
        }
        self
    }

    /// With this said to whoever made the request. Empty, overlong and surplus warnings are cut.
    #[must_use]
    pub fn warn(mut self, text: &str) -> Self {
        if !text.is_empty() && self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(cut(text, MAX_WARNING));
        }
        self
    }

    /// With this in the audit log, under the webhook's name and this key.
    #[must_use]
    pub fn audit(mut self, key: &'static str, value: &str) -> Self {
        if !value.is_empty() {
            self.audit_annotations.insert(key, cut(value, MAX_AUDIT));
        }
        self
    }

    /// The review that carries the answer.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Outgoing { api_version: API_VERSION, kind: KIND, response: self })
    }
}

/// The text, or as much of it as fits with an ellipsis, cut between characters.
pub(crate) fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(max - '…'.len_utf8());
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests;
