//! One survey: facts from the tree, the verdict from the facts, and both printed for people or machines.

use std::{collections::BTreeMap, fmt::Write, io, path::Path};

use anyhow::Context;
use policies::{
    fabric::{Fact, Facts, Problem},
    profile::Profiles,
    report,
    verdict::{self, Verdict},
};
use serde::Serialize;
use sysfs::Root;

use crate::args::SurveyArgs;

/// What a survey found.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Facts.
    pub facts: Facts,
    /// Verdict on them.
    pub verdict: Verdict,
    /// Problems of reading and of the verdict, sorted.
    pub problems: Vec<Problem>,
}

/// The machine-readable form.
#[derive(Debug, Serialize)]
struct Output<'a> {
    labels: BTreeMap<String, String>,
    facts: &'a Facts,
    problems: &'a [Problem],
}

/// Surveys the tree below `root`. Never fails: what cannot be read is a problem.
pub fn survey(root: &Root, profiles: &Profiles, zone: Option<&str>) -> Survey {
    let (facts, mut problems) = sysfs::survey(root);
    let verdict = verdict::decide(&facts, profiles, zone);
    problems.extend(verdict.problems.iter().cloned());
    problems.sort();
    problems.dedup();
    Survey { facts, verdict, problems }
}

/// Opens a root, with a message that helps.
pub fn open(root: &Path) -> anyhow::Result<Root> {
    Root::open(root)
        .with_context(|| format!("opening {}: give a directory that holds sys, proc and dev", root.display()))
}

/// `railbind-agent survey`.
pub fn print(args: &SurveyArgs) -> anyhow::Result<()> {
    let profiles = Profiles::embedded()?;
    let found = survey(&open(&args.root)?, &profiles, None);
    let text = if args.json {
        let output = Output {
            labels: found.verdict.labels_on(&BTreeMap::new()),
            facts: &found.facts,
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
