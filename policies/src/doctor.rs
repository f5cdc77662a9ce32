//! What is wrong: the guide's pre-deployment validation, diagnostics, checklist and troubleshooting table, on values.
//!
//! A [`Scene`] holds what could be learnt, each piece known or *unknown with why*. [`diagnose`] names causes, the most likely first,
//! each with its evidence, its remedy and the section of the guide that speaks of it. A symptom (a line of a log) that a
//! cause explains becomes evidence of that cause and is no finding of its own.

use serde::Serialize;

mod cause;
mod checklist;
mod deployment;
pub mod logs;
mod node;
mod pod;
mod read;
mod scene;

pub use cause::Cause;
pub use checklist::{Check, State, checklist};
pub use scene::{Asked, ContainerScene, EnvScene, NodeScene, PodScene, Scene};

use crate::profile::Profiles;

/// Lines of evidence kept for one diagnosis.
const EVIDENCE: usize = 8;

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing to do.
    Note,
    /// Works, and not as well as it could.
    Warning,
    /// Does not work, or not over RDMA.
    Fault,
}

/// One cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// Stable code.
    pub code: Cause,
    /// How bad.
    pub severity: Severity,
    /// Nodes, pods or containers that it is about.
    pub subjects: Vec<String>,
    /// What is wrong, one sentence.
    pub cause: String,
    /// What was seen, a line each.
    pub evidence: Vec<String>,
    /// What to do, one sentence.
    pub remedy: String,
    /// Section of the guide.
    pub guide: &'static str,
}

impl Diagnosis {
    fn new(code: Cause, severity: Severity, subject: impl Into<String>, cause: impl Into<String>) -> Self {
        Self {
            code,
            severity,
            subjects: vec![subject.into()],
            cause: cause.into(),
            evidence: Vec::new(),
            remedy: String::new(),
            guide: code.section(),
        }
    }

    fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

/// All causes, the most likely first.
pub fn diagnose(scene: &Scene, profiles: &Profiles) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    for node in &scene.nodes {
        node::look(scene, node, &mut found);
    }
    for pod in &scene.pods {
        pod::look(scene, pod, profiles, &mut found);
    }
    deployment::look(scene, &mut found);
    logs::look(scene, &mut found);
    let mut found = merged(found);
    found.sort_by_key(|diagnosis| (std::cmp::Reverse(diagnosis.severity), diagnosis.code));
    found
}

/// Whether a person should act.
pub fn is_healthy(found: &[Diagnosis]) -> bool {
    found.iter().all(|diagnosis| diagnosis.severity == Severity::Note)
}

/// The same cause of several subjects, once.
fn merged(found: Vec<Diagnosis>) -> Vec<Diagnosis> {
    let mut all: Vec<Diagnosis> = Vec::new();
    for diagnosis in found {
        let same = all.iter_mut().find(|other| {
            (other.code, other.severity, &other.cause) == (diagnosis.code, diagnosis.severity, &diagnosis.cause)
        });
        match same {
            Some(other) => {
                for subject in diagnosis.subjects {
                    if !other.subjects.contains(&subject) {
                        other.subjects.push(subject);
                    }
                }
                for line in diagnosis.evidence {
                    if other.evidence.len() < EVIDENCE && !other.evidence.contains(&line) {
                        other.evidence.push(line);
                    }
                }
            }
            None => all.push(diagnosis),
        }
    }
    all
}
