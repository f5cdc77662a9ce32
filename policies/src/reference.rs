//! The guide's explanatory tables: what a transport, a setting or a resource means.

use serde::{Deserialize, Serialize};

const GUIDE: &str = include_str!("../profiles/guide/reference.yaml");

/// The tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reference {
    /// `railbind.dev/v1alpha1`.
    pub api_version: String,
    /// `Reference`.
    pub kind: String,
    /// UCX transports.
    pub transports: Vec<Transport>,
    /// Values of UCX variables.
    pub settings: Vec<Setting>,
    /// Capabilities and resources.
    pub resources: Vec<Resource>,
}

/// A UCX transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transport {
    /// Name in `UCX_TLS`.
    pub name: String,
    /// What it is.
    pub meaning: String,
    /// When to use it.
    #[serde(rename = "use")]
    pub when: String,
    /// Where that comes from.
    pub source: String,
}

/// One value of a UCX variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Variable.
    pub name: String,
    /// Value, or one word of a comma-separated value.
    pub value: String,
    /// What it does.
    pub meaning: String,
    /// Where that comes from.
    pub source: String,
}

/// A capability or resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// Name.
    pub name: String,
    /// What it is for.
    pub meaning: String,
    /// What to know.
    pub notes: String,
    /// Where that comes from.
    pub source: String,
}

impl Reference {
    /// The guide's tables.
    ///
    /// # Errors
    /// Only if the shipped YAML is wrong, which a test excludes; the text names line and field.
    pub fn guide() -> Result<Self, String> {
        serde_saphyr::from_str(GUIDE).map_err(|error| error.to_string())
    }

    /// What `name=value` means, one sentence for each word of the value that the tables know.
    pub fn explain(&self, name: &str, value: &str) -> Vec<String> {
        let words = value.split(',').map(str::trim);
        words
            .filter_map(|word| {
                if name == "UCX_TLS" {
                    let found = self.transports.iter().find(|transport| transport.name == word)?;
                    Some(format!("{word}: {}; {}", found.meaning, found.when))
                } else {
                    let found = self.settings.iter().find(|setting| setting.name == name && setting.value == word)?;
                    Some(format!("{word}: {}", found.meaning))
                }
            })
            .collect()
    }
}
