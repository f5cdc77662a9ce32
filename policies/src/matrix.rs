//! Node × node bandwidth, from what each node's self-test says of its partners; and which node or pair is the odd one.
//!
//! Read from JSON without asking for anything to be there: nodes of one cluster can run different versions of the agent.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::selftest::outlier::{Usual, median};

/// Below this part of the median a node or pair is odd: the self-test's own bound between slow and failed.
const ODD: f64 = 0.7;
/// Under this many 10⁹ bytes a second it is no RDMA (guide, Monitor Transfer Performance: red flags).
pub const RED_FLAG: f64 = 1.0;
/// Nodes of a fabric domain that it takes to say which of them is unlike the others.
const FLEET: usize = 4;

/// What is read of `status.selftest`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SelftestView {
    /// passed, slow, failed or untested.
    pub verdict: String,
    /// Stable code of why.
    pub code: String,
    /// Why.
    pub reasons: Vec<String>,
    /// What to do next.
    pub remedy: String,
    /// For people: 47.1 GB/s.
    pub bandwidth: Option<String>,
    /// Partners.
    pub partners: Vec<PartnerView>,
    /// Value of the request that was answered last.
    pub requested: Option<String>,
    /// The run of tests in progress, or the last one.
    pub sweep: Option<SweepView>,
}

/// One partner.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PartnerView {
    /// Its name; the node's own for a loopback.
    pub name: String,
    /// passed, slow or failed.
    pub verdict: String,
    /// Stable code.
    pub code: String,
    /// 10⁹ bytes a second.
    pub gbytes_per_s: Option<f64>,
}

/// A run of tests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SweepView {
    /// Transfers so far.
    pub tests: u32,
    /// When it was over.
    pub ended: Option<String>,
}

impl SelftestView {
    /// The self-test's part of a NodeFabric's status; `None` where no test was ever made.
    ///
    /// # Errors
    /// It is there and is something else.
    pub fn of_status(status: &Value) -> Result<Option<Self>, String> {
        match &status["selftest"] {
            Value::Null => Ok(None),
            value => Self::deserialize(value).map(Some).map_err(|error| format!("status.selftest: {error}")),
        }
    }
}

/// A node of the matrix.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Name.
    pub node: String,
    /// Fabric domain.
    pub domain: String,
    /// Verdict of its self-test.
    pub verdict: String,
    /// What it measured, by partner: an agent remembers 16 of them, so most of a large matrix is empty.
    pub cells: BTreeMap<String, Cell>,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cell {
    /// 10⁹ bytes a second; `None` where nothing arrived.
    pub gbytes_per_s: Option<f64>,
    /// passed, slow or failed.
    pub verdict: String,
    /// Part of the median of its fabric domain.
    pub of_median: Option<f64>,
}

/// A node or a pair that is not like the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Odd {
    /// One node, or the two of a pair.
    pub nodes: Vec<String>,
    /// One sentence.
    pub why: String,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Matrix {
    /// Rows; the columns are the same nodes.
    pub rows: Vec<Row>,
    /// Median of all good measurements, by fabric domain, in 10⁹ bytes a second.
    pub medians: BTreeMap<String, f64>,
    /// Not like the others.
    pub odd: Vec<Odd>,
}

impl Matrix {
    /// From nodes: name, fabric domain (or fabric), self-test.
    pub fn new(nodes: &[(String, String, Option<SelftestView>)]) -> Self {
        let mut nodes: Vec<&(String, String, Option<SelftestView>)> = nodes.iter().collect();
        nodes.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
        let names: BTreeSet<&str> = nodes.iter().map(|(node, ..)| node.as_str()).collect();
        let rows: Vec<Row> = nodes
            .iter()
            .map(|(node, domain, test)| Row {
                node: node.clone(),
                domain: domain.clone(),
                verdict: test.as_ref().map_or("untested", |test| test.verdict.as_str()).to_owned(),
                // Partners that are gone are no news, and neither is a loopback.
                cells: test
                    .iter()
                    .flat_map(|test| &test.partners)
                    .filter(|partner| partner.name != *node && names.contains(partner.name.as_str()))
                    .map(|partner| (partner.name.clone(), cell(partner)))
                    .collect(),
            })
            .collect();
        let mut matrix = Self { rows, ..Self::default() };
        matrix.measure();
        matrix.odd = matrix.find_odd();
        matrix
    }

    /// Whether nothing was measured at all.
    pub fn is_empty(&self) -> bool {
        self.rows.iter().all(|row| row.cells.is_empty())
    }

    /// The bandwidth between two nodes, as either of them measured it.
    pub fn between(&self, one: &str, other: &str) -> Option<f64> {
        let seen = |from: &str, to: &str| {
            let row = self.rows.iter().find(|row| row.node == from)?;
            row.cells.get(to)?.gbytes_per_s
        };
        match (seen(one, other), seen(other, one)) {
            (Some(there), Some(back)) => Some(there.min(back)),
            (there, back) => there.or(back),
        }
    }

    fn measure(&mut self) {
        let mut by_domain: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for row in &self.rows {
            let good = row.cells.values().filter(|cell| cell.verdict != "failed").filter_map(|cell| cell.gbytes_per_s);
            by_domain.entry(row.domain.clone()).or_default().extend(good);
        }
        self.medians = by_domain.into_iter().filter_map(|(domain, all)| Some((domain, median(all)?))).collect();
        for row in &mut self.rows {
            let Some(median) = self.medians.get(&row.domain).filter(|median| **median > 0.0) else { continue };
            for cell in row.cells.values_mut() {
                cell.of_median = cell.gbytes_per_s.map(|gbytes| gbytes / median);
            }
        }
    }

    /// Nodes first; a pair of an odd node is no news.
    fn find_odd(&self) -> Vec<Odd> {
        let links = self.links();
        let mut odd = Vec::new();
        let mut named = BTreeSet::new();
        // The worst first, and then without it: a good node's transfers with a broken one say nothing of the good one.
        while let Some((index, why)) = worst(&links, &named) {
            named.insert(index);
            odd.push(Odd { nodes: vec![self.rows[index].node.clone()], why });
        }
        for (index, why) in self.left_behind(&links, &named) {
            named.insert(index);
            odd.push(Odd { nodes: vec![self.rows[index].node.clone()], why });
        }
        let mut pairs = BTreeSet::new();
        for (one, links) in links.iter().enumerate().filter(|(one, _)| !named.contains(one)) {
            for (other, cell) in links.iter().filter(|(other, _)| !named.contains(other)) {
                let why = match (cell.verdict.as_str(), cell.of_median) {
                    ("failed", _) => "the transfer between them failed".to_owned(),
                    (_, Some(part)) if part < ODD => {
                        format!("{:.0} % of the median, and both are good with others", part * 100.0)
                    }
                    _ => continue,
                };
                let (low, high) = (one.min(*other), one.max(*other));
                if pairs.insert((low, high)) {
                    let nodes = vec![self.rows[low].node.clone(), self.rows[high].node.clone()];
                    odd.push(Odd { nodes, why });
                }
            }
        }
        odd
    }

    /// Nodes that pass what is expected of them and are far below the others of their fabric domain, and not by accident: their typical
    /// transfer is, held against how far apart single transfers are.
    fn left_behind(&self, links: &[Vec<(usize, &Cell)>], named: &BTreeSet<usize>) -> Vec<(usize, String)> {
        /// Each node's typical transfer, and every transfer, as parts of the median.
        type Domain = (Vec<(usize, f64)>, Vec<f64>);
        let mut domains: BTreeMap<&str, Domain> = BTreeMap::new();
        for (index, links) in links.iter().enumerate().filter(|(index, _)| !named.contains(index)) {
            let good = links.iter().filter(|(other, cell)| !named.contains(other) && cell.verdict != "failed");
            let parts: Vec<f64> = good.filter_map(|(_, cell)| cell.of_median).collect();
            let (nodes, all) = domains.entry(self.rows[index].domain.as_str()).or_default();
            all.extend(&parts);
            // One partner does not tell a node from a pair.
            nodes.extend((parts.len() >= 2).then(|| median(parts)).flatten().map(|typical| (index, typical)));
        }
        let mut found = Vec::new();
        for (nodes, all) in domains.into_values() {
            let Some(usual) = Usual::of(&all).filter(|_| nodes.len() >= FLEET) else { continue };
            for (index, typical) in nodes.into_iter().filter(|(_, typical)| usual.leaves_behind(*typical)) {
                let why = format!(
                    "{:.0} % of its fabric domain's median with most partners, where transfers differ by {:.0} %",
                    typical * 100.0,
                    usual.deviation * 100.0
                );
                found.push((index, why));
            }
        }
        found
    }

    /// For each node, what it and others measured with it.
    fn links(&self) -> Vec<Vec<(usize, &Cell)>> {
        let places: BTreeMap<&str, usize> =
            self.rows.iter().enumerate().map(|(place, row)| (row.node.as_str(), place)).collect();
        let mut links: Vec<Vec<(usize, &Cell)>> = vec![Vec::new(); self.rows.len()];
        for (from, row) in self.rows.iter().enumerate() {
            for (name, cell) in &row.cells {
                if let Some(&to) = places.get(name.as_str()) {
                    links[from].push((to, cell));
                    links[to].push((from, cell));
                }
            }
        }
        links
    }
}

/// The node that is the least like the others, among those that are not named yet.
fn worst(links: &[Vec<(usize, &Cell)>], named: &BTreeSet<usize>) -> Option<(usize, String)> {
    let mut worst: Option<(f64, usize, String)> = None;
    for (index, links) in links.iter().enumerate().filter(|(index, _)| !named.contains(index)) {
        let seen: Vec<&Cell> =
            links.iter().filter(|(other, _)| !named.contains(other)).map(|(_, cell)| *cell).collect();
        let failed = seen.iter().filter(|cell| cell.verdict == "failed").count();
        let parts = seen.iter().map(|cell| cell.of_median.unwrap_or(0.0)).collect();
        let Some(typical) = median(parts).filter(|_| seen.len() >= 2) else { continue };
        let (how_bad, why) = if failed * 2 > seen.len() {
            // Failures are worse than any slowness.
            (-share(failed, seen.len()), format!("{failed} of {} transfers with it failed", seen.len()))
        } else if typical < ODD {
            (typical, format!("{:.0} % of its fabric domain's median with most partners", typical * 100.0))
        } else {
            continue;
        };
        if worst.as_ref().is_none_or(|(than, ..)| how_bad < *than) {
            worst = Some((how_bad, index, why));
        }
    }
    worst.map(|(_, index, why)| (index, why))
}

fn share(part: usize, all: usize) -> f64 {
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    number(part) / number(all.max(1))
}

fn cell(partner: &PartnerView) -> Cell {
    let gbytes_per_s = partner.gbytes_per_s.filter(|gbytes| gbytes.is_finite() && *gbytes >= 0.0);
    Cell { gbytes_per_s, verdict: partner.verdict.clone(), of_median: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Matrix, SelftestView};

    fn node(name: &str, partners: &[(&str, f64)]) -> (String, String, Option<SelftestView>) {
        let partners: Vec<_> = partners
            .iter()
            .map(|(name, gbytes)| {
                let verdict = if *gbytes < 1.0 { "failed" } else { "passed" };
                json!({"name": name, "verdict": verdict, "gbytesPerS": gbytes, "later": 1})
            })
            .collect();
        let status = json!({"selftest": {"verdict": "passed", "partners": partners}});
        (name.into(), "ib".into(), SelftestView::of_status(&status).unwrap())
    }

    #[test]
    fn odd_nodes_and_odd_pairs() {
        let nodes = [
            node("a", &[("b", 47.0), ("c", 46.0), ("d", 0.4), ("e", 47.0)]),
            node("b", &[("a", 47.5), ("c", 20.0), ("d", 0.3), ("e", 46.0)]),
            node("c", &[("a", 46.5), ("b", 21.0), ("e", 46.9)]),
            node("d", &[("a", 0.5), ("b", 0.4)]),
            node("e", &[("a", 47.0)]),
        ];
        let matrix = Matrix::new(&nodes);
        let odd: Vec<_> = matrix.odd.iter().map(|odd| odd.nodes.join("-")).collect();
        assert_eq!(odd, ["d", "b-c"], "{:?}", matrix.odd);
        assert_eq!(matrix.between("b", "c"), Some(20.0));
        assert_eq!(matrix.between("d", "e"), None);
        assert!((matrix.medians["ib"] - 46.5).abs() < 1.0);
    }

    #[test]
    fn thousands_of_nodes() {
        let name = |index: usize| format!("n{index:04}");
        let nodes: Vec<_> = (0..5000)
            .map(|index| {
                let partners: Vec<String> = (1..=16).map(|step| name((index + step * 7) % 5000)).collect();
                let bad = index == 1234;
                let partners: Vec<(&str, f64)> = partners
                    .iter()
                    .map(|name| (name.as_str(), if bad || name == "n1234" { 20.0 } else { 47.0 }))
                    .collect();
                node(&name(index), &partners)
            })
            .collect();
        let matrix = Matrix::new(&nodes);
        assert_eq!(matrix.odd.iter().map(|odd| odd.nodes.join("-")).collect::<Vec<_>>(), ["n1234"]);
    }

    #[test]
    fn a_node_that_passes_and_is_not_like_its_fleet() {
        let name = |index: usize| format!("n{index:02}");
        let fleet = |slow: f64, spread: f64| {
            let nodes: Vec<_> = (0..12)
                .map(|index| {
                    let partners: Vec<(String, f64)> = (1..=5)
                        .map(|step| {
                            let other = (index + step) % 12;
                            let usual = 47.0 + spread * f64::from(u32::try_from((index + other) % 5).unwrap());
                            (name(other), if index == 3 || other == 3 { slow } else { usual })
                        })
                        .collect();
                    let partners: Vec<(&str, f64)> =
                        partners.iter().map(|(name, rate)| (name.as_str(), *rate)).collect();
                    node(&name(index), &partners)
                })
                .collect();
            Matrix::new(&nodes).odd
        };
        // Above the self-test's own bound of 70 %, and every other node within one or two percent.
        let odd = fleet(38.0, 0.3);
        assert_eq!(odd.iter().map(|odd| odd.nodes.join("-")).collect::<Vec<_>>(), ["n03"], "{odd:?}");
        assert!(odd[0].why.starts_with("80 % of its fabric domain's median"), "{odd:?}");
        assert_eq!(fleet(44.0, 6.0), [], "where nodes differ as much anyway it is none");
        assert_eq!(fleet(44.0, 0.1), [], "near is near");
    }

    #[test]
    fn what_an_agent_of_today_writes_is_read() {
        let at = jiff::Timestamp::UNIX_EPOCH;
        let partner = crate::selftest::PartnerStatus {
            name: "b".into(),
            at,
            verdict: crate::selftest::Grade::Slow,
            streak: 2,
            code: "LowBandwidth".into(),
            against: crate::selftest::Against::Pair,
            port: None,
            gbytes_per_s: Some(17.5),
        };
        let status = crate::node_fabric::NodeFabricStatus {
            selftest: Some(crate::selftest::SelftestStatus {
                verdict: crate::selftest::Standing::Slow,
                requested: Some("now".into()),
                partners: vec![partner],
                sweep: Some(crate::selftest::Sweep {
                    since: at,
                    trigger: crate::selftest::Trigger::Requested,
                    tests: 3,
                    ended: Some(at),
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let read = SelftestView::of_status(&json!(status)).unwrap().unwrap();
        assert_eq!((read.verdict.as_str(), read.requested.as_deref()), ("slow", Some("now")));
        let partner = &read.partners[0];
        assert_eq!((partner.name.as_str(), partner.verdict.as_str(), partner.gbytes_per_s), ("b", "slow", Some(17.5)));
        let sweep = read.sweep.unwrap();
        assert!(sweep.tests == 3 && sweep.ended.is_some());
    }

    #[test]
    fn nothing_measured_and_nonsense() {
        assert!(Matrix::new(&[("a".into(), "x".into(), None)]).is_empty());
        assert_eq!(SelftestView::of_status(&json!({})), Ok(None));
        assert!(SelftestView::of_status(&json!({"selftest": 7})).is_err());
        assert!(SelftestView::of_status(&json!({"selftest": {"partners": "x"}})).is_err());
    }
}
