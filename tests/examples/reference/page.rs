//! The text of `docs/reference.md`.

use std::fmt::Write as _;

use anyhow::Result;
use policies::{
    names::{CONDITION, annotation, problem},
    profile::{EnvLine, Profiles, Range, TransportProfile},
    reference::Reference,
    report::{self, Condition},
    roles::Fabric,
};
use webhook::auditor::Finding;

use super::{
    metrics::{self, Metrics},
    names::{self, Name},
};

const HEAD: &str = "\
# Reference

<!-- Written by `make generate` from the code; a test compares. Do not edit. -->

Every name on the wire. What the words mean is in [concepts.md](concepts.md).
";

/// Reasons of the condition: not constants, because each is said in one place only; a test finds those that are missing.
const REASONS: &[(&str, &str, &str)] = &[
    ("True", "AllPortsActive", "every compute port is ACTIVE"),
    ("True", "SomePortsDown", "the fabric works, and ports of it are down"),
    ("False", "NoRdmaFabric", "TCP only: there is no RDMA compute fabric"),
    ("False", "PortDown", "TCP only: there are RDMA ports, and none is ACTIVE"),
    ("False", "NoRoutableGid", "TCP only: RoCE ports without a routable GID"),
    ("False", "SoftRdmaOnly", "the only RDMA devices are software ones"),
    ("Unknown", "Unreadable", "the RDMA devices could not be read"),
];

/// The page.
pub(crate) fn text() -> Result<String> {
    let mut page = String::from(HEAD);
    labels(&mut page)?;
    annotations(&mut page)?;
    condition(&mut page)?;
    events(&mut page)?;
    problems(&mut page)?;
    profiles(&mut page)?;
    settings(&mut page)?;
    for (title, metrics) in [("railbind-agent", metrics::agent()?), ("railbind-webhook", metrics::webhook()?)] {
        table_of(&mut page, title, &metrics)?;
    }
    Ok(page)
}

fn rows(page: &mut String, title: &str, head: &str, names: &[Name]) -> Result<()> {
    write!(page, "\n{title}\n\n| {head} | meaning |\n|---|---|\n")?;
    for name in names {
        writeln!(page, "| `{}` | {} |", name.value, cell(&name.doc))?;
    }
    Ok(())
}

fn labels(page: &mut String) -> Result<()> {
    let users = |doc: &str| doc.starts_with("On a ");
    rows(
        page,
        "## Labels\n\nOn a Node, written by the agent; each is there only while its fact is known:",
        "label",
        &names::of("label", |doc| !users(doc)),
    )?;
    rows(page, "Written by people:", "label", &names::of("label", users))
}

fn annotations(page: &mut String) -> Result<()> {
    let user = |doc: &str| doc.contains("by the user") || doc.contains("by a person");
    let ours = names::of("annotation", |doc| !user(doc));
    let ours: Vec<Name> = ours.into_iter().filter(|name| name.value.contains("railbind.dev")).collect();
    rows(page, "## Annotations\n\nWritten by people:", "annotation", &names::of("annotation", user))?;
    rows(page, "Written by Railbind:", "annotation", &ours)?;
    let prefix = annotation::ENV_PREFIX;
    write!(page, "\nA late-bound variable `NAME` of a pod refers to its annotation `{prefix}NAME`.\n")?;
    Ok(())
}

fn condition(page: &mut String) -> Result<()> {
    write!(page, "\n## Condition\n\nOn a Node, type `{CONDITION}`:\n\n| status | reason | meaning |\n|---|---|---|\n")?;
    for (status, reason, meaning) in REASONS {
        writeln!(page, "| `{status}` | `{reason}` | {meaning} |")?;
    }
    if names::of("event", |_| true).iter().any(|name| name.value == "SelfTestFailed") {
        page.push_str("| `False` | `SelfTestFailed` | whatever the ports say, the self-test fails |\n");
        page.push_str("| `True` | `SelfTestSlow` | the self-test works, and is slower than it should be |\n");
    }
    let others = |name: &Name| name.value.contains("railbind.dev/") && name.value != CONDITION;
    let taints: Vec<Name> = names::of("", |_| true).into_iter().filter(others).collect();
    if !taints.is_empty() {
        rows(page, "## Taints", "taint", &taints)?;
    }
    Ok(())
}

fn events(page: &mut String) -> Result<()> {
    let of = |status: &str| Condition { status: status.into(), reason: "-".into(), message: status.into() };
    let reason =
        |old: &Condition, new: &Condition| report::announcement(Some(old), new).map_or("?", |event| event.reason);
    let mut table: Vec<(&str, String, String)> = vec![
        ("Node", reason(&of("False"), &of("True")).into(), "The condition changed.".into()),
        ("Node", reason(&of("True"), &of("False")).into(), "The condition changed for the worse.".into()),
    ];
    // The self-test's reasons, where this version has them.
    table.extend(names::of("event", |_| true).into_iter().map(|name| ("Node", name.value, name.doc)));
    for (finding, meaning) in [
        (Finding::Bound, "The pod is bound and has its node's values: profile and facts."),
        (Finding::Unpatched, "A worker that was admitted without Railbind, because its webhook was not there."),
        (Finding::WithoutValues, "The pod's values are not those of its node: create it anew."),
    ] {
        table.push(("Pod", finding.reason().into(), meaning.into()));
    }
    page.push_str("\n## Events\n\n| on | reason | meaning |\n|---|---|---|\n");
    for (on, reason, meaning) in table {
        writeln!(page, "| {on} | `{reason}` | {} |", cell(&meaning))?;
    }
    Ok(())
}

fn problems(page: &mut String) -> Result<()> {
    let known = names::of("problem", |_| true);
    debug_assert!(known.iter().any(|name| name.value == problem::PORT_DOWN));
    rows(
        page,
        "## Problems\n\nIn the NodeFabric and in `railbind-agent survey`, each with its subject and a remedy:",
        "code",
        &known,
    )?;
    let codes = names::of("selftest", |_| true);
    if !codes.is_empty() {
        rows(page, "## Self-test codes", "code", &codes)?;
    }
    Ok(())
}

fn profiles(page: &mut String) -> Result<()> {
    let all = Profiles::embedded()?;
    page.push_str("\n## Profiles\n\nThe embedded ones, by set; of those that apply, the highest priority wins.\n");
    for set in ["guide", "nixl"] {
        write!(
            page,
            "\n### Set {set}\n\n| profile | priority | fabric | when | expected TTFT |\n|---|---|---|---|---|\n"
        )?;
        let mut of_set: Vec<&TransportProfile> = all.iter().filter(|profile| profile.spec.set == set).collect();
        of_set.sort_by_key(|profile| -profile.spec.priority);
        for profile in &of_set {
            let spec = &profile.spec;
            let fabrics: Vec<&str> = spec.when.fabric.iter().map(|fabric| fabric.as_str()).collect();
            writeln!(
                page,
                "| `{}` | {} | {} | {} | {} ({}) |",
                profile.metadata.name,
                spec.priority,
                fabrics.join(", "),
                when(profile),
                spec.expect.ttft_overhead.value,
                cell(&spec.expect.ttft_overhead.source),
            )?;
        }
        for profile in of_set {
            one(page, profile)?;
        }
    }
    Ok(())
}

fn when(profile: &TransportProfile) -> String {
    let when = &profile.spec.when;
    let direct = when.gpu_direct.map(|there| if there { "GPUDirect" } else { "no GPUDirect" }.to_owned());
    let kernel = when.kernel.map(|kernel| format!("kernel {}", range(kernel)));
    let parts: Vec<String> = direct.into_iter().chain(kernel).collect();
    if parts.is_empty() { "always".into() } else { parts.join(", ") }
}

fn range(range: Range) -> String {
    let min = range.min.map(|min| format!("{min} or later"));
    let below = range.below.map(|below| format!("before {below}"));
    min.into_iter().chain(below).collect::<Vec<_>>().join(", ")
}

fn one(page: &mut String, profile: &TransportProfile) -> Result<()> {
    let spec = &profile.spec;
    write!(page, "\n#### {}\n\n{}.\n", profile.metadata.name, spec.description)?;
    if !spec.env.is_empty() {
        page.push_str("\n| variable | value | only | source |\n|---|---|---|---|\n");
        for line in &spec.env {
            writeln!(page, "| `{}` | {} | {} | {} |", line.name, value(line)?, only(line)?, cell(&line.source))?;
        }
    }
    page.push_str("\n| needs | what | source |\n|---|---|---|\n");
    for capability in &spec.needs.capabilities {
        writeln!(page, "| capability | `{}` | {} |", capability.value, cell(&capability.source))?;
    }
    if let Some(resource) = &spec.needs.resource {
        let (family, count) = (word(&resource.family)?, word(&resource.count)?);
        writeln!(page, "| NIC resource | family `{family}`, count `{count}` | {} |", cell(&resource.source))?;
    }
    for (engine, size) in &spec.needs.shared_memory {
        writeln!(page, "| `/dev/shm` | `{}` for {} | {} |", size.value, engine.title(), cell(&size.source))?;
    }
    if let Some(apart) = &spec.needs.roles_apart {
        writeln!(page, "| prefill and decode apart | by `{}` | {} |", apart.topology_key, cell(&apart.source))?;
    }
    for fatal in &spec.fatal {
        let values: Vec<String> = fatal.values.iter().map(|value| format!("`{value}`")).collect();
        writeln!(
            page,
            "| never | `{}` = {}: {} | {} |",
            fatal.name,
            values.join(" or "),
            cell(&fatal.why),
            cell(&fatal.source)
        )?;
    }
    for advice in &spec.advice {
        writeln!(page, "| by hand, {} | {} | {} |", advice.engine.title(), cell(&advice.text), cell(&advice.source))?;
    }
    let transports: Vec<String> = spec.expect.transports.iter().map(|name| format!("`{name}`")).collect();
    write!(page, "\nExpected transports: {}", transports.join(", "))?;
    for rate in &spec.expect.bandwidth {
        write!(page, "; {}: {} to {} GB/s ({})", rate.port, rate.min, rate.max, rate.source)?;
    }
    page.push_str(".\n");
    Ok(())
}

fn value(line: &EnvLine) -> Result<String> {
    Ok(match (&line.value, line.from) {
        (Some(value), _) => format!("`{value}`"),
        (None, Some(fact)) => {
            format!(
                "the node's `{}`; until it is bound `{}`",
                word(&fact)?,
                line.default.as_deref().unwrap_or_default()
            )
        }
        (None, None) => String::new(),
    })
}

fn only(line: &EnvLine) -> Result<String> {
    let fabrics = (!line.fabric.is_empty())
        .then(|| line.fabric.iter().map(|fabric: &Fabric| fabric.as_str()).collect::<Vec<_>>().join(", "));
    let engines = line.engine.iter().map(word).collect::<Result<Vec<_>>>()?;
    let engines = (!engines.is_empty()).then(|| engines.join(", "));
    let ucx = line.ucx.map(|ucx| format!("UCX known to be {}", range(ucx)));
    Ok(fabrics.into_iter().chain(engines).chain(ucx).collect::<Vec<_>>().join("; "))
}

/// How a value is spelled in YAML.
fn word(value: &impl serde::Serialize) -> Result<String> {
    Ok(serde_json::to_value(value)?.as_str().unwrap_or_default().to_owned())
}

fn settings(page: &mut String) -> Result<()> {
    let tables = Reference::guide().map_err(anyhow::Error::msg)?;
    page.push_str("\n## What the values mean\n\n| name | value | meaning | source |\n|---|---|---|---|\n");
    for transport in &tables.transports {
        let meaning = format!("{}; {}", transport.meaning, transport.when);
        writeln!(page, "| `UCX_TLS` | `{}` | {} | {} |", transport.name, cell(&meaning), cell(&transport.source))?;
    }
    for setting in &tables.settings {
        writeln!(
            page,
            "| `{}` | `{}` | {} | {} |",
            setting.name,
            setting.value,
            cell(&setting.meaning),
            cell(&setting.source)
        )?;
    }
    Ok(())
}

fn table_of(page: &mut String, title: &str, metrics: &Metrics) -> Result<()> {
    write!(page, "\n## Metrics of {title}\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n")?;
    for (name, metric) in metrics {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(page, "| `{name}` | {} | {} | {} |", metric.kind, labels.join(", "), cell(&metric.help))?;
    }
    Ok(())
}

/// Text that breaks no table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}
