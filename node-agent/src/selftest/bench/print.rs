//! A report as people read it.

use std::fmt::Write;

use policies::selftest::{Integrity, Measurement, Op, Report, Size};

/// The whole of it.
pub(super) fn report(report: &Report) -> String {
    let mut text = String::new();
    let unknown = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
    let transport = report.transport.as_deref().unwrap_or("unknown");
    let _ = writeln!(text, "Transport  {transport}");
    let _ = writeln!(text, "Memory     {} here, {} there", report.memory.local, report.memory.remote);
    let (ours, theirs) = (unknown(&report.ucx.version), unknown(&report.ucx.peer_version));
    let _ = writeln!(text, "UCX        {ours} here, {theirs} there");
    for (name, value) in &report.ucx.config {
        let _ = writeln!(text, "           {name}={value}");
    }
    let integrity = match report.integrity {
        Integrity::Ok => "ok: every byte of every operation and size arrived as it was sent",
        Integrity::Corrupt => "CORRUPT: bytes differ",
        Integrity::Unchecked => "unchecked: it ended before",
    };
    let _ = writeln!(text, "Integrity  {integrity}");
    if !report.sizes.is_empty() {
        let _ = writeln!(text, "\n{:<8} {:>9} {:>9} {:>12} {:>10}  transport", "op", "size", "GB/s", "µs", "times");
    }
    for figure in &report.sizes {
        row(&mut text, figure);
    }
    if !report.evidence.is_empty() {
        text.push_str("\nEvidence\n");
        for sentence in &report.evidence {
            let _ = writeln!(text, "  {sentence}");
        }
    }
    if let Some(failure) = &report.failure {
        let _ = writeln!(text, "\nFailed: {}\n  -> {}", failure.message, failure.remedy);
    }
    // Names come from devices and from the other side: they move no cursor and end no line.
    plain(&text)
}

fn row(text: &mut String, figure: &Measurement) {
    let (op, bandwidth) = match figure.op {
        Op::Put => ("put", true),
        Op::Get => ("get", true),
        Op::Tag => ("tag", true),
        Op::Latency => ("latency", false),
    };
    let rate = if bandwidth { format!("{:.3}", figure.gbytes_per_s) } else { "-".into() };
    let size = Size(figure.bytes).to_string();
    let transport = figure.transport.as_deref().unwrap_or("unknown");
    let protocol = figure.protocol.as_ref().map(|protocol| format!(", {protocol}")).unwrap_or_default();
    let mean = figure.usec_mean.map(|usec| format!(", {usec:.2} µs on average")).unwrap_or_default();
    let p99 = figure.usec_p99.map(|usec| format!(", 99 % within {usec:.2} µs")).unwrap_or_default();
    let _ = writeln!(
        text,
        "{op:<8} {size:>9} {rate:>9} {:>12.2} {:>10}  {transport}{protocol}{mean}{p99}",
        figure.usec, figure.iterations
    );
}

/// Without characters that move a cursor.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() && character != '\n' { '?' } else { character }).collect()
}
