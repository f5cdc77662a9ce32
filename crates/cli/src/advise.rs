//! `advise`: should this workload be disaggregated here?

use std::{fmt::Write as _, fs, io::Read as _, path::Path};

use policies::{
    advice::{Advice, KvShape, Measured, Question, Recommendation, advise, thousands},
    matrix::Matrix,
};

use crate::{
    args::AdviseArgs,
    cluster::Cluster,
    exit::{Ended, Exit, Result},
    gather, out, plot,
};

/// No model's config.json is larger.
const MAX_CONFIG: u64 = 16 << 20;

/// The bandwidth that the self-test measured between two nodes.
///
/// # Errors
/// There is no such measurement, or no cluster.
pub async fn measured(cluster: &Cluster, args: &AdviseArgs) -> Result<Option<Measured>> {
    let Some((one, other)) = &args.pair else { return Ok(None) };
    let nodes = gather::nodes(cluster).await?;
    for name in [one, other] {
        if !nodes.iter().any(|node| node.view.name == *name) {
            return Err(Ended::usage(format!("there is no node {name}: see kubectl railbind status")));
        }
    }
    let matrix = Matrix::new(&gather::matrix_rows(&nodes));
    match matrix.between(one, other) {
        Some(gbytes_per_s) if gbytes_per_s > 0.0 => {
            Ok(Some(Measured { gbytes_per_s, source: format!("self-test {one} to {other}") }))
        }
        _ => Err(Ended::new(
            Exit::Partial,
            format!(
                "no self-test has measured {one} with {other}: kubectl railbind selftest {one} {other}, or give --bandwidth"
            ),
        )),
    }
}

/// Answers.
///
/// # Errors
/// A file that makes no sense.
pub fn run(args: &AdviseArgs, measured: Option<Measured>) -> Result<Exit> {
    let shape = match (&args.model_shape, &args.file) {
        (Some(shape), _) => Some(shape.clone()),
        (None, Some(file)) => Some(model(file)?),
        (None, None) => None,
    };
    let given = args.bandwidth.map(|gbytes_per_s| Measured { gbytes_per_s, source: "--bandwidth".into() });
    let bandwidth = measured.or(given);
    if bandwidth.is_some() && shape.is_none() {
        out::say("note: a bandwidth says something only with the model's shape: give --model-shape or -f config.json");
    }
    let question = Question {
        isl: args.isl,
        osl: args.osl,
        ttft_agg: args.ttft_agg,
        itl_agg: args.itl_agg,
        ttft_disagg: args.ttft_disagg,
        itl_disagg: args.itl_disagg,
        shape,
        bandwidth,
    };
    let advice = advise(&question);
    if let Some(path) = &args.svg {
        out::file(path, &plot::svg(&advice))?;
    }
    out::answer(args.output, &advice, || people(&advice, question.shape.as_ref()))?;
    Ok(Exit::Healthy)
}

fn model(file: &Path) -> Result<KvShape> {
    let mut text = String::new();
    let wrong = |error: String| Ended::usage(format!("{}: {error}", file.display()));
    let opened = fs::File::open(file).map_err(|error| wrong(error.to_string()))?;
    opened.take(MAX_CONFIG).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    let config = serde_json::from_str(&text).map_err(|error| wrong(format!("not JSON: {error}")))?;
    KvShape::from_config(&config).map_err(|error| wrong(error.to_string()))
}

fn people(advice: &Advice, shape: Option<&KvShape>) -> String {
    let (style, verdict) = match advice.recommendation {
        Recommendation::Disaggregate => (out::GOOD, "Disaggregate: it is not slower."),
        Recommendation::Acceptable => {
            (out::WARN, "Acceptable: a little slower; worth it where prefill and decode must scale apart.")
        }
        Recommendation::Aggregate => (out::BAD, "Keep prefill and decode together."),
    };
    let mut text = out::paint(style, verdict) + "\n\n";
    let row = |name: &str, times: policies::advice::Times, total: f64| {
        vec![
            name.to_owned(),
            format!("{:.0} ms", times.ttft_ms),
            format!("{:.2} ms", times.itl_ms),
            format!("{:.2} s", total / 1e3),
        ]
    };
    let total = format!("TOTAL AT OSL {}", advice.osl);
    text += &out::table(
        &["", "TTFT", "ITL", &total],
        vec![
            row("aggregated", advice.aggregated, advice.aggregated_total_ms),
            row("disaggregated", advice.disaggregated, advice.disaggregated_total_ms),
        ],
    );
    text.push('\n');
    if let Some(cache) = &advice.cache {
        let _ = writeln!(
            text,
            "KV cache  {} a token, {} for ISL {}",
            bytes(cache.bytes_per_token),
            bytes(cache.bytes),
            advice.isl
        );
        let _ = writeln!(text, "          {}", cache.formula);
        if let Some(note) = shape.and_then(|shape| shape.note.as_ref()) {
            let _ = writeln!(text, "          {note}");
        }
    }
    if let Some(transfer) = &advice.transfer {
        let _ =
            writeln!(text, "Transfer  {:.1} ms at {} GB/s ({})", transfer.ms, transfer.gbytes_per_s, transfer.source);
    }
    let _ = writeln!(text, "Overhead  {:.0} ms to the first token", advice.overhead_ms);
    let even = match advice.break_even {
        policies::advice::BreakEven::Tokens(tokens) => format!("{} output tokens", thousands(tokens)),
        policies::advice::BreakEven::Always => "from the first token on".into(),
        policies::advice::BreakEven::Never => "never".into(),
    };
    let _ = writeln!(text, "Even      {even}\n");
    text += &plot::terminal(advice);
    text += "\nWhy\n";
    for reason in &advice.reasons {
        let _ = writeln!(text, "  {} {}", reason.text, out::paint(out::DIM, format!("[{}]", reason.source)));
    }
    if !advice.assumptions.is_empty() {
        text += "\nNot your figures\n";
        for assumption in &advice.assumptions {
            let _ =
                writeln!(text, "  {} {}", assumption.text, out::paint(out::DIM, format!("[{}]", assumption.source)));
        }
    }
    text
}

fn bytes(bytes: f64) -> String {
    match bytes {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b if b >= 1e3 => format!("{:.1} kB", b / 1e3),
        b => format!("{b:.0} B"),
    }
}
