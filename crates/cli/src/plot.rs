//! The two latency curves, in a terminal and as SVG.

use std::fmt::Write as _;

use policies::advice::{Advice, BreakEven, Point, thousands};

use crate::out;

const WIDTH: usize = 61;
const HEIGHT: usize = 12;

/// In a terminal: `a` for aggregated, `d` for disaggregated, `*` where they are one.
pub fn terminal(advice: &Advice) -> String {
    let top = top(advice);
    let end = advice.curve.last().map_or(1, |point| point.osl).max(1);
    let mut cells = vec![vec![' '; WIDTH]; HEIGHT];
    let row = |ms: f64| HEIGHT - 1 - at(ms / top, HEIGHT);
    for (column, point) in advice.curve.iter().enumerate().take(WIDTH) {
        let (a, d) = (row(point.aggregated_ms), row(point.disaggregated_ms));
        cells[a][column] = 'a';
        cells[d][column] = if a == d { '*' } else { 'd' };
    }
    let mut text = String::new();
    for (index, line) in cells.iter().enumerate() {
        let label = match index {
            0 => format!("{:.1} s", top / 1e3),
            _ if index == HEIGHT - 1 => "0 s".into(),
            _ => String::new(),
        };
        let mut drawn = String::new();
        for cell in line.iter().collect::<String>().trim_end().chars() {
            match cell {
                'a' => drawn += &out::paint(out::GOOD, 'a'),
                'd' => drawn += &out::paint(out::WARN, 'd'),
                other => drawn.push(other),
            }
        }
        let _ = writeln!(text, "{label:>9} ┤{drawn}");
    }
    let _ = writeln!(text, "{:>9} └{}", "", "─".repeat(WIDTH));
    let _ = writeln!(text, "{:>11}{:<30}{:>31}", "", "0", format!("{} output tokens", thousands(u64::from(end))));
    let _ = writeln!(
        text,
        "{:>11}{} aggregated   {} disaggregated   * both",
        "",
        out::paint(out::GOOD, 'a'),
        out::paint(out::WARN, 'd')
    );
    text
}

fn top(advice: &Advice) -> f64 {
    advice.curve.iter().map(|point| point.aggregated_ms.max(point.disaggregated_ms)).fold(1.0, f64::max)
}

/// A part of one as one of `steps`.
fn at(part: f64, steps: usize) -> usize {
    (0..steps).rev().find(|step| part * to_f64(steps - 1) + 0.5 >= to_f64(*step)).unwrap_or(0)
}

fn to_f64(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// As SVG, readable without its colours.
pub fn svg(advice: &Advice) -> String {
    let (top, end) = (top(advice), f64::from(advice.curve.last().map_or(1, |point| point.osl).max(1)));
    let x = |osl: f64| 70.0 + osl / end * 560.0;
    let y = |ms: f64| 320.0 - ms / top * 280.0;
    let line = |of: fn(&Point) -> f64| {
        let points = advice.curve.iter().map(|point| format!("{:.1},{:.1}", x(f64::from(point.osl)), y(of(point))));
        points.collect::<Vec<_>>().join(" ")
    };
    let mut text = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 680 380\" font-family=\"sans-serif\" font-size=\"13\" role=\"img\">\n",
    );
    let _ = writeln!(text, "<title>Total latency over output tokens at ISL {}</title>", advice.isl);
    text += "<rect width=\"680\" height=\"380\" fill=\"white\"/>\n<path d=\"M70 40V320H630\" fill=\"none\" stroke=\"black\"/>\n";
    let _ = writeln!(
        text,
        "<text x=\"64\" y=\"45\" text-anchor=\"end\">{:.1} s</text><text x=\"64\" y=\"324\" text-anchor=\"end\">0</text>",
        top / 1e3
    );
    let _ = writeln!(text, "<text x=\"630\" y=\"340\" text-anchor=\"end\">{end:.0} output tokens</text>");
    let _ = writeln!(
        text,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#1a7f37\" stroke-width=\"2\"/>",
        line(|point| point.aggregated_ms)
    );
    let _ = writeln!(
        text,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#bc4c00\" stroke-width=\"2\" stroke-dasharray=\"6 3\"/>",
        line(|point| point.disaggregated_ms)
    );
    if let BreakEven::Tokens(tokens) = advice.break_even {
        let osl = f64::from(u32::try_from(tokens).unwrap_or(u32::MAX));
        if osl <= end {
            let (px, py) = (x(osl), y(advice.aggregated.total(osl)));
            let _ = writeln!(
                text,
                "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"4\"/><text x=\"{px:.1}\" y=\"{:.1}\" text-anchor=\"middle\">even at {}</text>",
                py - 10.0,
                thousands(tokens)
            );
        }
    }
    let osl = x(f64::from(advice.osl));
    let _ = writeln!(
        text,
        "<path d=\"M{osl:.1} 40V320\" stroke=\"#57606a\" stroke-dasharray=\"2 4\"/><text x=\"{osl:.1}\" y=\"34\" text-anchor=\"middle\">OSL {}</text>",
        advice.osl
    );
    text += "<text x=\"90\" y=\"365\" fill=\"#1a7f37\">— aggregated</text><text x=\"220\" y=\"365\" fill=\"#bc4c00\">- - disaggregated</text>\n</svg>\n";
    text
}
