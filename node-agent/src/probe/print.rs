//! Probes as people read them, and as JSON.

use std::{
    fmt::Write,
    io::{self, Write as _},
};

use anyhow::Context;
use policies::{
    fabric::Fact,
    probe::{CudaFacts, CudaGpu, UcxDomain, UcxFacts},
    selftest::{GpuUse, NvmlFacts},
};
use serde::Serialize;

use super::Probed;

/// Prints a probe.
pub(super) fn probed<T: Serialize>(probed: &Probed<T>, json: bool, facts: fn(&T) -> String) -> anyhow::Result<()> {
    let text = if json { serde_json::to_string_pretty(probed)? + "\n" } else { for_people(probed, facts) };
    match io::stdout().write_all(text.as_bytes()) {
        // `probe ucx | head` is not an error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("writing the probe's findings to standard output"),
    }
}

fn for_people<T>(probed: &Probed<T>, facts: fn(&T) -> String) -> String {
    let mut text = facts(&probed.facts);
    text.push_str(if probed.problems.is_empty() { "\nNo problems found.\n" } else { "\nProblems\n" });
    for problem in &probed.problems {
        let _ =
            writeln!(text, "  {} {}: {}\n    -> {}", problem.code, problem.subject, problem.message, problem.remedy);
    }
    // Names come from devices and variables: they move no cursor and end no line.
    text.chars().map(|character| if character.is_control() && character != '\n' { '?' } else { character }).collect()
}

/// What UCX said.
pub(super) fn ucx(facts: &UcxFacts) -> String {
    let mut text = String::new();
    let library = match &facts.library {
        Fact::Known(Some(library)) => library,
        Fact::Known(None) => return format!("no UCX in {}\n", facts.searched.join(", ")),
        Fact::Unknown(why) => return format!("UCX unknown ({why})\n"),
    };
    let _ = writeln!(text, "UCX {} in {}", library.version, library.folder);
    let types = list(&facts.memory_types, |types| types.join(", "));
    let _ = writeln!(text, "Memory that it can transfer: {types}");
    match (&facts.domains, &facts.in_use) {
        (Fact::Known(domains), in_use) => {
            let in_use = in_use.known().map(Vec::as_slice).unwrap_or_default();
            text.push_str("\nTransports (* in use under the settings in force)\n");
            for found in domains {
                domain(&mut text, found, in_use);
            }
        }
        (Fact::Unknown(why), _) => {
            let _ = writeln!(text, "\nTransports unknown ({why})");
        }
    }
    let settings = facts.settings.known().map(Vec::as_slice).unwrap_or_default();
    section(
        &mut text,
        "Settings that are not UCX's built-in ones (environment, ucx.conf)",
        settings.iter(),
        |setting| format!("{}={} (built in: {})", setting.name, setting.value, setting.default),
    );
    let variables = facts.unknown_variables.known().map(Vec::as_slice).unwrap_or_default();
    section(&mut text, "Variables that it does not know", variables.iter(), |variable| {
        let meant = variable.meant.as_ref().map(|meant| format!(" (did you mean {meant}?)")).unwrap_or_default();
        format!("{}{meant}", variable.name)
    });
    section(&mut text, "Its messages", facts.messages.iter(), Clone::clone);
    section(&mut text, "Functions that it lacks", facts.missing.iter(), Clone::clone);
    text
}

fn domain(text: &mut String, domain: &UcxDomain, in_use: &[String]) {
    let registers = if domain.registers.is_empty() { "nothing".into() } else { domain.registers.join(", ") };
    for transport in &domain.transports {
        let pair = format!("{}/{}", transport.name, transport.device);
        let mark = if in_use.contains(&pair) { '*' } else { ' ' };
        let _ = writeln!(text, "{mark} {pair:<28} {:<14} registers {registers}", transport.kind);
    }
    if let Some(error) = &domain.error {
        let _ = writeln!(text, "  {} {}: {error}", domain.component, domain.name);
    }
}

/// What NVML said, and what the self-test makes of it.
pub(super) fn gpus(facts: &NvmlFacts) -> String {
    match facts.in_use(0) {
        GpuUse::NoGpu => "no GPU\n".into(),
        GpuUse::Idle => {
            format!("{} GPUs, all idle\n", facts.gpus.known().map_or(0, Vec::len))
        }
        GpuUse::Busy(who) => format!("busy: {who}\n"),
        GpuUse::Unknown(why) => format!("unknown ({why})\n"),
    }
}

/// What the NVIDIA driver said.
pub(super) fn cuda(facts: &CudaFacts) -> String {
    let mut text = String::new();
    let driver = match &facts.driver {
        Fact::Known(Some(driver)) => driver,
        Fact::Known(None) => return "no NVIDIA driver (libcuda) here\n".into(),
        Fact::Unknown(why) => return format!("NVIDIA driver unknown ({why})\n"),
    };
    let path = driver.path.as_deref().unwrap_or("an unknown file");
    let _ = writeln!(text, "NVIDIA driver for CUDA {} in {path}", list(&driver.cuda, Clone::clone));
    match &facts.gpus {
        Fact::Known(gpus) if gpus.is_empty() => text.push_str("No GPUs.\n"),
        Fact::Known(gpus) => gpus.iter().for_each(|found| gpu(&mut text, found)),
        Fact::Unknown(why) => {
            let _ = writeln!(text, "GPUs unknown ({why})");
        }
    }
    section(&mut text, "Functions that it lacks", driver.missing.iter(), Clone::clone);
    text
}

fn gpu(text: &mut String, gpu: &CudaGpu) {
    let _ = writeln!(text, "\nGPU {}  {}", list(&gpu.pci, Clone::clone), list(&gpu.name, Clone::clone));
    let yes = |fact: &Fact<bool>| list(fact, |yes| if *yes { "yes".into() } else { "no".into() });
    let _ = writeln!(text, "  GPUDirect RDMA            {}", yes(&gpu.gpu_direct_rdma));
    let _ = writeln!(text, "  DMA-BUF                   {}", yes(&gpu.dma_buf));
    let _ = writeln!(text, "  GPUDirect RDMA with VMM   {}", yes(&gpu.gpu_direct_rdma_vmm));
    let _ = writeln!(text, "  fabric handles (MNNVL)    {}", yes(&gpu.fabric_handle));
    let _ = writeln!(text, "  memory really exported    {}", yes(&gpu.exported));
    let registered = list(&gpu.registered, |nics| {
        let nics = nics.iter().map(|nic| match &nic.error {
            None => format!("{} yes", nic.device),
            Some(error) => format!("{} no ({error})", nic.device),
        });
        let nics: Vec<String> = nics.collect();
        if nics.is_empty() { "no NIC".into() } else { nics.join(", ") }
    });
    let _ = writeln!(text, "  registered with NICs      {registered}");
}

fn list<T>(fact: &Fact<T>, known: impl FnOnce(&T) -> String) -> String {
    match fact {
        Fact::Known(value) => known(value),
        Fact::Unknown(why) => format!("unknown ({why})"),
    }
}

fn section<T>(text: &mut String, title: &str, items: impl ExactSizeIterator<Item = T>, line: impl Fn(T) -> String) {
    if items.len() > 0 {
        let _ = writeln!(text, "\n{title}");
        items.for_each(|item| {
            let _ = writeln!(text, "  {}", line(item));
        });
    }
}
