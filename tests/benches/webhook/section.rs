//! What the page of benchmarks says of this bench: `scripts/bench-page.py` writes it.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{NODES, stats};

/// What one half of the bench adds.
#[derive(Debug, Default)]
pub(crate) struct Half {
    /// How it was measured.
    pub(crate) method: String,
    /// Above the table.
    pub(crate) caption: String,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    /// Below all tables.
    pub(crate) notes: Vec<String>,
    /// What is drawn: label, series, and the rounds' values in ms.
    pub(crate) drawn: Vec<(String, &'static str, Vec<f64>)>,
}

/// Writes it where `RAILBIND_BENCH_OUT` says, if it does: `make bench` does.
pub(crate) fn write(alone: &Half, through: &Half) -> Result<()> {
    let Some(out) = env::var_os("RAILBIND_BENCH_OUT").map(PathBuf::from) else { return Ok(()) };
    let bars = through.drawn.iter().map(|(label, series, rounds)| {
        let [low, mid, high] = stats::ends(rounds);
        json!({"label": label, "series": series, "low": low, "mid": mid, "high": high})
    });
    let bars: Vec<Value> = bars.collect();
    let table = |half: &Half| json!({"caption": half.caption, "columns": half.columns, "rows": half.rows});
    let notes = [&*alone.notes, &*through.notes].concat();
    let section = json!({
        "title": format!("Webhook: reviews with {NODES} nodes, beside a policy and a Go webhook"),
        "method": [alone.method, through.method],
        "tables": [table(alone), table(through)],
        "plot": {
            "title": "What admission adds to a pod's CREATE and to its binding",
            "unit": "ms (median, least and greatest round)", "rows": bars,
        },
        "notes": notes,
    });
    fs::write(&out, section.to_string()).with_context(|| format!("write {}", out.display()))
}
