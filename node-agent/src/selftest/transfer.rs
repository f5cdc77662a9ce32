//! Within the child: one transfer, from the order to the report.
//!
//! Both sides go through the same steps in lockstep: every operation at every size, first one message at an odd place and of an odd
//! length, then the traffic that is measured, and after both the bytes are compared where they arrived. What they tell each other
//! (`link`) goes through their parents; the bytes go over UCX and nothing else.

mod counters;
mod gather;
mod link;
mod path;
mod pattern;
mod rounds;
mod session;
mod steps;
mod trouble;

use std::{path::PathBuf, time::Instant};

use policies::selftest::{FailureKind, Integrity, MemoryPair, Order, Report, Said, Told, UcxUsed};
use serde::{Deserialize, Serialize};

pub(super) use link::failed as failed_word;
pub(super) use trouble::Trouble;

use self::{gather::Gathered, link::Link};
use crate::probe::{Variables, confine, variables};

/// A line of the child's, for its parent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Line {
    /// For whoever runs the transfer.
    Said(Said),
    /// What it enters next, so that its name is known if that is the last thing it does.
    Enters(String),
    /// The report as it would be if it ended here.
    SoFar(Box<Report>),
}

/// Variables of UCX that are ours in the child. Nothing is said about those that a profile may carry for other versions.
pub(super) const OURS: Variables = variables("n");

/// An empty report of a side.
pub(super) fn blank(order: &Order) -> Report {
    Report {
        transport: None,
        lanes: Vec::new(),
        evidence: Vec::new(),
        memory: MemoryPair { local: order.memory, remote: order.memory },
        integrity: Integrity::Unchecked,
        sizes: Vec::new(),
        counters: Vec::new(),
        ucx: UcxUsed::default(),
        seconds: 0.0,
        failure: None,
    }
}

/// The child: never returns, because destructors of loaded libraries are where processes crash after their work.
pub(crate) fn run(folders: &[PathBuf]) -> ! {
    let started = Instant::now();
    let code = match confine() {
        Ok(out) => {
            let mut link = Link::new(out.into());
            match link.told() {
                Some(Told::Order(order)) => {
                    transfer(&order, folders, &mut link, started);
                    0
                }
                Some(Told::FromPeer(_)) | None => 1,
            }
        }
        Err(_) => 1,
    };
    ucx_sys::leave(code)
}

fn transfer(order: &Order, folders: &[PathBuf], link: &mut Link, started: Instant) {
    let mut gathered = Gathered::new(order, started);
    if let Err(trouble) = session::run(order, folders, link, &mut gathered) {
        // The other side hears of it first: it would wait for its deadline otherwise.
        link.fail(&trouble);
        if trouble.kind == FailureKind::Corrupt {
            gathered.report.integrity = Integrity::Corrupt;
        }
        gathered.report.failure = Some(trouble.into());
    }
    gathered.finish();
    link.line(&Line::Said(Said::Report(Box::new(gathered.report))));
}
