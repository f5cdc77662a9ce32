//! One survey: facts from the tree, the verdict from the facts, and both printed for people or machines.

use std::{collections::BTreeMap, fmt::Write, io, path::Path};

use anyhow::Context;
use policies::{
    fabric::{Fact, Facts, Problem},
    node_fabric::{self, NodeFabricStatus},
    probe::{CudaFacts, UcxFacts},
    profile::Profiles,
    report::{self, Condition},
    verdict::{self, Verdict},
};
use serde::Serialize;
use sysfs::{Cache, Root};

use crate::{args::SurveyArgs, probe::Probed, profiles::shipped, selftest::tester::Shown};

/// What a survey found.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Facts.
    pub facts: Facts,
    /// Verdict on them.
    pub verdict: Verdict,
    /// Problems of reading and of the verdict, sorted.
    pub problems: Vec<Problem>,
    /// What the probes said.
    pub probes: Probes,
    /// What the self-test says, where it runs.
    pub selftest: Option<Shown>,
}

/// The machine-readable form.
#[derive(Debug, Serialize)]
struct Output<'a> {
    labels: BTreeMap<String, String>,
    facts: NodeFabricStatus,
    problems: &'a [Problem],
}

impl Survey {
    /// The `FabricReady` condition.
    pub fn condition(&self) -> Condition {
        let plain = report::condition(&self.verdict);
        match &self.selftest {
            Some(shown) => report::with_selftest(plain, &shown.status),
            None => plain,
        }
    }

    /// The status of the node's `NodeFabric`.
    pub fn status(&self) -> NodeFabricStatus {
        let condition = self.condition();
        NodeFabricStatus {
            ucx: self.probes.ucx.as_ref().map(|probed| probed.facts.clone()),
            cuda: self.probes.cuda.as_ref().map(|probed| probed.facts.clone()),
            selftest: self.selftest.as_ref().map(|shown| shown.status.clone()),
            selftest_endpoint: self.selftest.as_ref().and_then(|shown| shown.endpoint.clone()),
            ..node_fabric::status(&self.facts, &self.verdict, condition, &self.problems)
        }
    }
}

/// What the probes of UCX and CUDA said last; nothing until they ran.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probes {
    /// UCX.
    pub ucx: Option<Probed<UcxFacts>>,
    /// CUDA.
    pub cuda: Option<Probed<CudaFacts>>,
}

impl Probes {
    /// Whether memory of every GPU was really exported as a DMA-BUF; unknown where that could not be tried on each.
    fn exported(&self) -> Fact<bool> {
        let gpus = self.cuda.as_ref().and_then(|cuda| cuda.facts.gpus.known());
        match gpus.map(Vec::as_slice) {
            None | Some([]) => Fact::Unknown("CUDA has not been probed here".into()),
            Some(gpus) => match gpus.iter().find_map(|gpu| match &gpu.exported {
                Fact::Unknown(why) => Some(why.clone()),
                Fact::Known(_) => None,
            }) {
                Some(why) => Fact::Unknown(why),
                None => Fact::Known(gpus.iter().all(|gpu| gpu.exported.is_yes())),
            },
        }
    }
}

/// Surveys the tree below `root`. Never fails: what cannot be read is a problem.
pub fn survey(root: &Root, profiles: &Profiles, zone: Option<&str>) -> Survey {
    survey_with(root, &mut Cache::new(), &Probes::default(), profiles, zone)
}

/// The same with what earlier surveys keep, and with what the probes said.
pub fn survey_with(root: &Root, cache: &mut Cache, probes: &Probes, profiles: &Profiles, zone: Option<&str>) -> Survey {
    let (mut facts, mut problems) = sysfs::survey_with(root, cache);
    facts.gpu_direct.exported = probes.exported();
    let verdict = verdict::decide(&facts, profiles, zone);
    problems.extend(verdict.problems.iter().cloned());
    problems.extend(probes.ucx.iter().flat_map(|probed| probed.problems.clone()));
    problems.extend(probes.cuda.iter().flat_map(|probed| probed.problems.clone()));
    problems.sort();
    problems.dedup();
    Survey { facts, verdict, problems, probes: probes.clone(), selftest: None }
}

/// Opens a root, with a message that helps.
pub fn open(root: &Path) -> anyhow::Result<Root> {
    Root::open(root)
        .with_context(|| format!("opening {}: give a directory that holds sys, proc and dev", root.display()))
}

/// `railbind-agent survey`.
pub fn print(args: &SurveyArgs) -> anyhow::Result<()> {
    let profiles = shipped(args.profiles.as_deref())?;
    let found = survey(&open(&args.root)?, &profiles, None);
    let text = if args.json {
        let output = Output {
            labels: found.verdict.labels_on(&BTreeMap::new()),
            facts: found.status(),
            problems: &found.problems,
        };
        serde_json::to_string_pretty(&output)? + "\n"
    } else {
        for_people(&found)
    };
    match io::Write::write_all(&mut io::stdout(), text.as_bytes()) {
        // `survey | head` is not an error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("writing the survey to standard output"),
    }
}

/// The survey as people read it.
pub fn for_people(found: &Survey) -> String {
    let mut text = String::new();
    let verdict = &found.verdict;
    let condition = report::condition(verdict);
    let _ = writeln!(text, "{}\n", condition.message);
    let kernel = match &found.facts.kernel {
        Fact::Known(kernel) => kernel.clone(),
        Fact::Unknown(why) => format!("unknown ({why})"),
    };
    let gpus = found.facts.gpus.known().map_or_else(|| "unknown".into(), |gpus| gpus.len().to_string());
    let _ = writeln!(text, "Kernel  {kernel}\nGPUs    {gpus}\n\nLabels");
    for (key, value) in verdict.labels_on(&BTreeMap::new()) {
        let _ = writeln!(text, "  {key}={value}");
    }
    let nics = report::nics(&found.facts, verdict);
    if !nics.is_empty() {
        text.push_str("\nPorts\n");
        for line in nics.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text.push_str("\nWhy\n");
    for reason in &verdict.reasons {
        let _ = writeln!(text, "  {reason}");
    }
    if found.problems.is_empty() {
        text.push_str("\nNo problems found.\n");
    } else {
        text.push_str("\nProblems\n");
        for problem in &found.problems {
            let _ = writeln!(
                text,
                "  {} {}: {}\n    -> {}",
                problem.code, problem.subject, problem.message, problem.remedy
            );
        }
    }
    text
}
