//! The report as it grows.

use std::time::Instant;

use policies::selftest::{Integrity, Measurement, Op, Order, Report, Role};
use sysfs::Root;
use ucx_sys::{Endpoint, Library, Version, text, text::Lane};

use super::{Line, OURS, blank, counters::Snapshot, link::Link, path};

/// Since this version, what UCX says of a request names the transports that carry it (protocols v2). Before, it names the one that
/// announces it, or nothing.
const REQUESTS_TELL: Version = Version { major: 1, minor: 16, release: 0 };

/// A report, and what it is made from.
pub(super) struct Gathered {
    pub(super) report: Report,
    role: Role,
    started: Instant,
    /// `None` where `/sys` cannot be opened.
    root: Option<Root>,
    before: Snapshot,
    lanes: Vec<Lane>,
    requests_tell: bool,
    /// Bytes that this side moved as the initiator, warm-up and checks included.
    payload: u64,
    /// What the first request of the largest size was said to be.
    told: Option<(u64, String)>,
}

impl Gathered {
    pub(super) fn new(order: &Order, started: Instant) -> Self {
        let root = Root::open("/").ok();
        let before = root.as_ref().map(Snapshot::take).unwrap_or_default();
        Self {
            report: blank(order),
            role: order.role,
            started,
            root,
            before,
            lanes: Vec::new(),
            requests_tell: false,
            payload: 0,
            told: None,
        }
    }

    /// The library that does it.
    pub(super) fn library(&mut self, library: &Library, file: String) {
        self.report.ucx.version = library.version().to_string();
        self.report.ucx.library = file;
        self.requests_tell = library.version() >= REQUESTS_TELL;
    }

    /// The settings in force. Modules have registered theirs once a context is made.
    pub(super) fn settings(&mut self, library: &Library) {
        let settings = library.settings().unwrap_or_default();
        let theirs = settings.into_iter().filter(|setting| !OURS.iter().any(|(name, _)| *name == setting.name));
        self.report.ucx.config = theirs.map(|setting| (setting.name, setting.value)).collect();
    }

    /// The lanes of the endpoint, once it carried a message: before, those of the wire-up show.
    pub(super) fn endpoint(&mut self, endpoint: &Endpoint<'_>) {
        self.lanes = endpoint.info().map(|info| text::lanes(&info)).unwrap_or_default();
        let told = endpoint.transports();
        let source = if told.is_some() { "endpoint query" } else { "description of the endpoint" };
        let lanes = match told {
            Some(pairs) => pairs.into_iter().map(|(transport, device)| format!("{transport}/{device}")).collect(),
            None => self.lanes.iter().map(|lane| lane.pair.clone()).collect::<Vec<_>>(),
        };
        self.report.lanes = Vec::new();
        for lane in lanes {
            if !self.report.lanes.contains(&lane) {
                self.report.lanes.push(lane);
            }
        }
        // The endpoint's description can have been cut or changed; what it does not name is a lane all the same.
        for pair in &self.report.lanes {
            if !self.lanes.iter().any(|lane| lane.pair == *pair) {
                self.lanes.push(Lane { pair: pair.clone(), uses: Vec::new() });
            }
        }
        self.report.evidence.push(format!("UCX's {source}: {}", self.report.lanes.join(", ")));
    }

    /// Bytes are about to move.
    pub(super) fn moving(&mut self, bytes: u64) {
        self.payload = self.payload.saturating_add(bytes);
    }

    /// A figure, and what UCX said of its first request.
    pub(super) fn figure(&mut self, mut figure: Measurement, info: &str) {
        let info = if self.requests_tell { info } else { "" };
        figure.transport = path::of(figure.op, figure.bytes, info, &self.lanes);
        figure.protocol = text::protocol(info);
        let larger = self.told.as_ref().is_none_or(|(bytes, _)| figure.bytes > *bytes);
        if larger && !text::used(info).is_empty() {
            self.told = Some((figure.bytes, info.into()));
        }
        self.report.sizes.push(figure);
    }

    /// Shows the report as it is to the parent.
    pub(super) fn so_far(&mut self, link: &mut Link) {
        self.report.seconds = self.started.elapsed().as_secs_f64();
        self.report.transport = self.bulk();
        link.line(&Line::SoFar(Box::new(self.report.clone())));
    }

    /// Everything was done and compared.
    pub(super) fn whole(&mut self) {
        self.report.integrity = Integrity::Ok;
    }

    /// Adds what is known at the end only.
    pub(super) fn finish(&mut self) {
        if let Some((_, info)) = &self.told {
            self.report.evidence.push(format!("UCX's request query: {}", text::told(info)));
        }
        self.report.transport = self.bulk();
        if let Some(root) = &self.root {
            self.report.counters = Snapshot::take(root).since(&self.before);
        }
        if let (Some(pair), Role::Initiator) = (&self.report.transport, self.role) {
            let (sentence, contradicted) = path::counted(pair, self.payload, &self.report.counters);
            self.report.evidence.extend(sentence);
            if contradicted {
                self.report.evidence.push(format!("UCX says {pair} and the counters do not: neither is believed"));
                self.report.transport = None;
            }
        }
        self.report.seconds = self.started.elapsed().as_secs_f64();
    }

    /// The transport of the largest size that was measured; without a figure, that of the lane for bulk data.
    fn bulk(&self) -> Option<String> {
        let largest = self.report.sizes.iter().reduce(|a, b| if b.bytes > a.bytes { b } else { a });
        largest.map_or_else(|| path::of(Op::Put, u64::MAX, "", &self.lanes), |figure| figure.transport.clone())
    }
}
