//! Asking NVML who uses the GPUs, step by step.

use std::io;

use cuda::{Answer, Nvml};
use policies::{
    fabric::Fact,
    selftest::{NvmlFacts, NvmlGpu},
};

use super::inside::Report;

/// Asks everything, in the child. The report is sent before each step that enters the library.
pub(super) fn ask(report: &mut Report) -> io::Result<()> {
    let mut facts = NvmlFacts::default();
    report.before("starting NVML (nvmlInit)", &facts)?;
    let nvml = match Nvml::start() {
        Ok(Some(nvml)) => nvml,
        Ok(None) => {
            facts.driver = Fact::Known(None);
            return report.done(&facts);
        }
        Err(why) => {
            facts.gpus = Fact::Unknown(why);
            return report.done(&facts);
        }
    };
    facts.driver = fact(nvml.driver().map(Some));
    report.before("asking NVML for the GPUs", &facts)?;
    facts.gpus = fact(nvml.count().map(|count| (0..count).map(|index| gpu(&nvml, index)).collect()));
    report.done(&facts)
}

fn gpu(nvml: &Nvml, index: u32) -> NvmlGpu {
    let found = nvml.used(index);
    NvmlGpu {
        compute_processes: fact(found.processes),
        utilisation_percent: fact(found.percent),
        memory_used: fact(found.memory),
    }
}

fn fact<T>(answer: Answer<T>) -> Fact<T> {
    answer.map_or_else(Fact::Unknown, Fact::Known)
}
