//! `matrix`: node × node bandwidth as a heatmap, and the odd ones by name.

use std::{collections::BTreeSet, fmt::Write as _};

use policies::matrix::{Cell, Matrix, RED_FLAG, Row};

use crate::{
    args::MatrixArgs,
    cluster::Cluster,
    exit::{Exit, Result},
    gather, out,
};

/// More columns than this no terminal has.
const MAX_COLUMNS: usize = 40;

/// Shows it.
///
/// # Errors
/// No nodes can be listed, or the file cannot be written.
pub async fn run(cluster: &Cluster, args: &MatrixArgs) -> Result<Exit> {
    let nodes = gather::nodes(cluster).await?;
    let matrix = Matrix::new(&gather::matrix_rows(&nodes));
    if let Some(path) = &args.svg {
        out::file(path, &svg(&matrix))?;
    }
    out::answer(args.output, &matrix, || people(&matrix))?;
    Ok(cluster.end(!matrix.odd.is_empty()))
}

/// How good a cell is: 0 failed or no RDMA, 4 as good as the median.
fn level(cell: &Cell) -> usize {
    match (cell.gbytes_per_s, cell.of_median) {
        (None, _) => 0,
        (Some(gbytes), _) if gbytes < RED_FLAG || cell.verdict == "failed" => 0,
        (_, Some(part)) if part < 0.7 => 1,
        (_, Some(part)) if part < 0.85 => 2,
        (_, Some(part)) if part < 0.95 => 3,
        _ => 4,
    }
}

/// Backgrounds of a terminal's 256 colours, and whether a light foreground is readable on them.
const ANSI: [(u8, bool); 5] = [(124, true), (208, false), (220, false), (150, false), (71, false)];
const SVG: [&str; 5] = ["#b91c1c", "#f97316", "#facc15", "#a3d977", "#4c9f50"];

/// The nodes that somebody measured something with.
fn measured(matrix: &Matrix) -> Vec<&Row> {
    let partners: BTreeSet<&String> = matrix.rows.iter().flat_map(|row| row.cells.keys()).collect();
    matrix.rows.iter().filter(|row| !row.cells.is_empty() || partners.contains(&row.node)).collect()
}

fn shown(cell: &Cell) -> String {
    match cell.gbytes_per_s {
        Some(gbytes) if gbytes >= 10.0 => format!("{gbytes:.0}"),
        Some(gbytes) => format!("{gbytes:.1}"),
        None => "✗".into(),
    }
}

fn people(matrix: &Matrix) -> String {
    if matrix.is_empty() {
        return "No self-test has measured anything yet: kubectl railbind selftest asks for it.\n".into();
    }
    let mut text = String::from("GB/s, row sends to column; columns are numbered as rows\n\n");
    let rows = measured(matrix);
    let width = rows.iter().map(|row| row.node.chars().count()).max().unwrap_or(0).min(40);
    let columns = rows.len().min(MAX_COLUMNS);
    let _ = write!(text, "{:>3} {:<width$} ", "", "");
    for number in 1..=columns {
        let _ = write!(text, "{number:>4}");
    }
    text.push('\n');
    let mut domain = "";
    for (index, row) in rows.iter().enumerate() {
        if row.domain != domain {
            domain = &row.domain;
            let median =
                matrix.medians.get(domain).map(|median| format!(", median {median:.1} GB/s")).unwrap_or_default();
            let _ = writeln!(text, "{}", out::paint(out::HEAD, format!("{}{median}", out::clean(domain))));
        }
        let name: String = out::clean(&row.node).chars().take(width).collect();
        let _ = write!(text, "{:>3} {name:<width$} ", index + 1);
        for (column, partner) in rows.iter().take(columns).enumerate() {
            match row.cells.get(&partner.node) {
                Some(cell) => {
                    let (background, dark) = ANSI[level(cell)];
                    text += &out::paint(out::on(background, dark), format!("{:>4}", shown(cell)));
                }
                None => text += if column == index { "   ·" } else { "    " },
            }
        }
        text.push('\n');
    }
    if rows.len() > columns {
        let _ = writeln!(text, "… {} columns more: -o json or --svg has all", rows.len() - columns);
    }
    let rest = matrix.rows.len() - rows.len();
    if rest > 0 {
        let _ = writeln!(text, "{rest} more nodes have no measurement");
    }
    text.push('\n');
    if matrix.odd.is_empty() {
        text += &(out::paint(out::GOOD, "No node and no pair is odd.") + "\n");
    }
    for odd in &matrix.odd {
        let names = odd.nodes.iter().map(|name| out::clean(name)).collect::<Vec<_>>().join(" with ");
        let _ = writeln!(text, "{} {names}: {}", out::paint(out::BAD, "odd:"), odd.why);
    }
    text
}

/// As SVG: every cell has its number, so that the colours are not needed.
fn svg(matrix: &Matrix) -> String {
    let size = 34;
    let rows = measured(matrix);
    let edge = i64::try_from(rows.len()).unwrap_or(0) * size;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"11\" role=\"img\">\n<title>Bandwidth between nodes in GB/s</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        edge + 200,
        edge + 180
    );
    let mut y = 160;
    for (index, row) in rows.iter().enumerate() {
        let name = escaped(&row.node);
        let x = 180 + i64::try_from(index).unwrap_or(0) * size;
        let _ = writeln!(
            text,
            "<text x=\"172\" y=\"{}\" text-anchor=\"end\">{name}</text><text transform=\"translate({},152) rotate(-60)\">{name}</text>",
            y + 21,
            x + 20
        );
        let mut x = 180;
        for partner in &rows {
            if let Some(cell) = row.cells.get(&partner.node) {
                let level = level(cell);
                let ink = if level == 0 { "white" } else { "black" };
                let _ = writeln!(
                    text,
                    "<g><title>{name} to {}: {} GB/s, {}</title><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill=\"{}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"{ink}\">{}</text></g>",
                    escaped(&partner.node),
                    shown(cell),
                    escaped(&cell.verdict),
                    size - 2,
                    size - 2,
                    SVG[level],
                    x + 16,
                    y + 20,
                    shown(cell)
                );
            }
            x += size;
        }
        y += size;
    }
    text + "</svg>\n"
}

fn escaped(text: &str) -> String {
    out::clean(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use policies::matrix::{Matrix, PartnerView, SelftestView};

    use super::{people, svg};

    fn node(name: &str, partners: &[(&str, f64)]) -> (String, String, Option<SelftestView>) {
        let partners = partners.iter().map(|(name, gbytes)| PartnerView {
            name: (*name).into(),
            verdict: if *gbytes < 1.0 { "failed" } else { "passed" }.into(),
            gbytes_per_s: Some(*gbytes),
            ..PartnerView::default()
        });
        let test = SelftestView { verdict: "passed".into(), partners: partners.collect(), ..SelftestView::default() };
        (name.into(), "ib-fe80".into(), Some(test))
    }

    #[test]
    fn drawn_both_ways() {
        let matrix = Matrix::new(&[
            node("gpu-1", &[("gpu-2", 47.1), ("gpu-3", 46.8), ("gpu<4>", 0.9)]),
            node("gpu-2", &[("gpu-1", 47.0), ("gpu-3", 21.0), ("gpu<4>", 0.8)]),
            node("gpu-3", &[("gpu-1", 46.5), ("gpu-2", 22.0)]),
            node("gpu<4>", &[("gpu-1", 0.9)]),
        ]);
        let text = anstream::adapter::strip_str(&people(&matrix)).to_string();
        insta::assert_snapshot!(text);
        let svg = svg(&matrix);
        assert!(svg.contains("gpu&lt;4&gt;") && !svg.contains("gpu<4>") && svg.ends_with("</svg>\n"), "{svg}");
    }

    #[test]
    fn nothing_yet() {
        assert!(people(&Matrix::default()).contains("kubectl railbind selftest"));
    }
}
