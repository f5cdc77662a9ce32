//! The environment of a plan: the profile's lines that apply, and what the user's own settings mean for them.

use super::{EnvPlan, EnvValue, Plan, Replacement};
use crate::{
    intent::PodIntent,
    lint::{self, Conflicts},
    names::annotation,
    profile::{EnvLine, Range, TransportProfile},
    roles::Fabric,
};

/// Variables of which UCX takes one at most.
const EXCLUSIVE: [(&str, &str); 2] =
    [("UCX_IB_GID_INDEX", "UCX_IB_ROCE_SUBNETS"), ("UCX_IB_ROCE_SUBNETS", "UCX_IB_GID_INDEX")];

/// Whether a line is for this fabric.
pub(super) fn applies(line: &EnvLine, fabric: Fabric) -> bool {
    line.fabric.is_empty() || line.fabric.contains(&fabric)
}

/// The lines of the profile that apply.
pub(super) fn lines(profile: &TransportProfile, fabric: Fabric, intent: &PodIntent, plan: &mut Plan) {
    for line in profile.spec.env.iter().filter(|line| applies(line, fabric)) {
        if !line.engine.is_empty() && intent.engine.is_none_or(|engine| !line.engine.contains(&engine)) {
            continue;
        }
        if let Some(range) = line.ucx {
            match intent.ucx {
                Some(ucx) if range.contains(ucx) => {}
                Some(ucx) => {
                    plan.reasons.push(format!("{} left out: UCX {ucx} does not know it", line.name));
                    continue;
                }
                None => {
                    plan.reasons.push(format!(
                        "{} left out: only for UCX {}, and the image's UCX is not known ({})",
                        line.name,
                        range_text(range),
                        annotation::UCX_VERSION
                    ));
                    continue;
                }
            }
        }
        let value = match (&line.value, &line.default) {
            (Some(value), _) => EnvValue::Constant(value.clone()),
            (None, default) => EnvValue::Late(default.clone().unwrap_or_default()),
        };
        plan.env.push(EnvPlan { name: line.name.clone(), value });
    }
}

/// What the user set: it stays, unless it breaks the worker and the user asked for another way.
pub(super) fn settings(profile: &TransportProfile, fabric: Fabric, intent: &PodIntent, plan: &mut Plan) {
    let found = lint::lint(profile, fabric, intent);
    let mut refused = Vec::new();
    for finding in &found {
        match (&finding.remedy, intent.conflicts) {
            (Some(value), Conflicts::Override) => {
                plan.reasons.push(format!("{} set to {value}: {}", finding.variable, finding.text));
                plan.replacements.push(Replacement {
                    container: finding.container.clone(),
                    variable: finding.variable.clone(),
                    value: value.clone(),
                });
            }
            (Some(_), Conflicts::Deny) => refused.push(finding.text.as_str()),
            (Some(_), Conflicts::Warn) | (None, _) => plan.warnings.push(format!("railbind: {}", finding.text)),
        }
    }
    if !refused.is_empty() {
        plan.deny = Some(format!("railbind: {} ({}: deny)", refused.join("; "), annotation::CONFLICTS));
    }
    for container in &intent.containers {
        for planned in &plan.env {
            let replaced = plan
                .replacements
                .iter()
                .any(|replaced| replaced.container == container.name && replaced.variable == planned.name);
            if container.env.contains_key(&planned.name) && !replaced {
                plan.reasons.push(format!("{}: {} is the user's and stays", container.name, planned.name));
            }
            let excluded = EXCLUSIVE.iter().find(|(ours, theirs)| {
                planned.name == *ours
                    && !container.env.contains_key(*ours)
                    && container.env.get(*theirs).is_some_and(|value| !matches!(value.as_deref(), Some("auto" | "all")))
            });
            if let Some((ours, theirs)) = excluded {
                plan.reasons.push(format!(
                    "{}: {ours} left out: UCX takes it or {theirs}, which is the user's",
                    container.name
                ));
                plan.left_out.insert((container.name.clone(), (*ours).into()));
            }
        }
    }
    if !intent.opaque_env.is_empty() && !plan.env.is_empty() {
        let names: Vec<&str> = intent.opaque_env.iter().map(String::as_str).collect();
        plan.warnings.push(format!("railbind: envFrom {} cannot be seen here and `env` wins over it: settings of the same names are overridden", names.join(", ")));
    }
    for advice in profile.spec.advice.iter().filter(|advice| intent.engine == Some(advice.engine)) {
        let has = |word: &String| word.contains(&advice.unless);
        if !intent.containers.iter().any(|container| container.words.iter().any(has)) {
            plan.warnings.push(format!("railbind: {}", advice.text));
        }
    }
}

fn range_text(range: Range) -> String {
    match (range.min, range.below) {
        (Some(min), Some(below)) => format!("{min} up to before {below}"),
        (Some(min), None) => format!("{min} and later"),
        (None, Some(below)) => format!("before {below}"),
        (None, None) => "of any version".into(),
    }
}
