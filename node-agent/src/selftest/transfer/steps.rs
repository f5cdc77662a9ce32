//! The steps of both sides: one message that is compared byte by byte at an odd place, then the traffic that is measured, compared too.

use std::time::Instant;

use policies::selftest::{FailureKind, Measurement, Op, Said};
use ucx_sys::{Mapped, Post};

use super::{
    Line, Trouble,
    gather::Gathered,
    link::{Word, unexpected},
    pattern::{Difference, Pattern, tag},
    rounds::{self, Measured, Round},
    session::Session,
};

/// Bytes of a message whose latency is measured.
pub(super) const LATENCY_BYTES: u64 = 8;
/// Where in the buffer such a message is received.
const RECEIVED: usize = 64;
/// Where in the control memory an acknowledgement is sent from and received.
const ACK: (usize, usize) = (128, 192);
/// Seconds of round trips that are timed together: a clock costs a twentieth of a microsecond.
const TIMED: f64 = 2e-6;
/// The turns of a step.
const CHECK: u64 = 1;
const TRAFFIC: u64 = 2;
const BACK: u64 = 3;
const ACKNOWLEDGED: u64 = 4;

/// One operation at one size.
#[derive(Clone, Copy)]
struct Step {
    number: u64,
    op: Op,
    bytes: u64,
}

fn steps(session: &Session<'_, '_>) -> Vec<Step> {
    let order = session.order;
    let each = order.ops.iter().flat_map(|&op| match op {
        Op::Latency => vec![(op, LATENCY_BYTES)],
        Op::Put | Op::Get | Op::Tag => order.sizes.iter().map(|&bytes| (op, bytes)).collect(),
    });
    (1..).zip(each).map(|(number, (op, bytes))| Step { number, op, bytes }).collect()
}

impl Step {
    fn length(self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    /// Where the message of the check begins, and how long it is: at an odd address, and odd where that can be.
    fn odd(self) -> (usize, usize) {
        (1, self.length() - usize::from(self.bytes.is_multiple_of(2)))
    }

    fn pattern(self, session: &Session<'_, '_>, turn: u64) -> Pattern {
        Pattern::new(&session.order.secret, self.op, self.bytes, turn)
    }

    fn tag(self, session: &Session<'_, '_>, turn: u64) -> u64 {
        tag(&session.order.secret, self.number, turn)
    }

    fn name(self) -> String {
        let op = match self.op {
            Op::Put => "put",
            Op::Get => "get",
            Op::Tag => "tag",
            Op::Latency => "latency",
        };
        format!("{op} {}", policies::selftest::Size(self.bytes))
    }
}

/// The initiator's way through all steps.
pub(super) fn initiate(session: &mut Session<'_, '_>, into: &mut Gathered) -> Result<(), Trouble> {
    let all = steps(session);
    for step in &all {
        announce(session, *step, all.len());
        match step.op {
            Op::Put => put(session, *step, into)?,
            Op::Get => get(session, *step, into)?,
            Op::Tag => send(session, *step, into)?,
            Op::Latency => ping(session, *step, into)?,
        }
        into.so_far(session.link);
    }
    session.link.say(&Word::Bye);
    match session.hear()? {
        // Once more: the target keeps its end of the endpoint until then.
        Word::Bye => session.link.say(&Word::Bye),
        word => return Err(unexpected(&word)),
    }
    Ok(())
}

/// The target's.
pub(super) fn answer(session: &mut Session<'_, '_>, into: &mut Gathered) -> Result<(), Trouble> {
    let all = steps(session);
    for step in &all {
        announce(session, *step, all.len());
        match step.op {
            Op::Put => be_written(session, *step)?,
            Op::Get => be_read(session, *step)?,
            Op::Tag => receive(session, *step)?,
            Op::Latency => pong(session, *step)?,
        }
        into.so_far(session.link);
    }
    match session.hear()? {
        Word::Bye => session.link.say(&Word::Bye),
        word => return Err(unexpected(&word)),
    }
    session.part();
    Ok(())
}

fn announce(session: &mut Session<'_, '_>, step: Step, of: usize) {
    let (step_number, of) = (u32::try_from(step.number).unwrap_or(u32::MAX), u32::try_from(of).unwrap_or(u32::MAX));
    session.link.line(&Line::Said(Said::Progress { step: step_number, of, doing: step.name() }));
}

fn put(session: &mut Session<'_, '_>, step: Step, into: &mut Gathered) -> Result<(), Trouble> {
    let (at, length) = step.odd();
    fill(session.data, step.pattern(session, CHECK), at, length)?;
    await_ready(session, CHECK)?;
    let remote = session.need_remote()?;
    into.moving(length as u64);
    session.post(&Post::Put(session.data.part(at, length), remote, at), None)?;
    session.post(&Post::Flush, None)?;
    session.settle(0)?;
    await_checked(session)?;

    fill(session.data, step.pattern(session, TRAFFIC), 0, step.length())?;
    await_ready(session, TRAFFIC)?;
    let mut told = String::new();
    let measured = traffic(session, |session, round| {
        let remote = session.need_remote()?;
        let post = Post::Put(session.data.part(0, step.length()), remote, 0);
        into.moving(round.count.saturating_mul(step.bytes));
        stream(session, &post, round, &mut told)
    })?;
    await_checked(session)?;
    into.figure(bandwidth(step, measured), &told);
    Ok(())
}

fn be_written(session: &mut Session<'_, '_>, step: Step) -> Result<(), Trouble> {
    let (at, length) = step.odd();
    for (turn, at, length) in [(CHECK, at, length), (TRAFFIC, 0, step.length())] {
        poison(session, step, turn)?;
        session.link.say(&Word::Ready { turn });
        expect_done(session)?;
        tell_checked(session, step, turn, at, length)?;
    }
    Ok(())
}

fn get(session: &mut Session<'_, '_>, step: Step, into: &mut Gathered) -> Result<(), Trouble> {
    let (at, length) = step.odd();
    poison(session, step, CHECK)?;
    await_ready(session, CHECK)?;
    let remote = session.need_remote()?;
    into.moving(length as u64);
    session.post(&Post::Get(session.data.part(at, length), remote, at), None)?;
    session.settle(0)?;
    right(session.data, step, step.pattern(session, CHECK), at, length)?;
    session.link.say(&Word::Done);

    await_ready(session, TRAFFIC)?;
    let mut told = String::new();
    let mut poisoned = false;
    let measured = traffic(session, |session, round| {
        if round.measured && !poisoned {
            poison(session, step, TRAFFIC)?;
            poisoned = true;
        }
        let remote = session.need_remote()?;
        let post = Post::Get(session.data.part(0, step.length()), remote, 0);
        into.moving(round.count.saturating_mul(step.bytes));
        stream(session, &post, round, &mut told)
    })?;
    right(session.data, step, step.pattern(session, TRAFFIC), 0, step.length())?;
    session.link.say(&Word::Done);
    into.figure(bandwidth(step, measured), &told);
    Ok(())
}

fn be_read(session: &mut Session<'_, '_>, step: Step) -> Result<(), Trouble> {
    let (at, length) = step.odd();
    for (turn, at, length) in [(CHECK, at, length), (TRAFFIC, 0, step.length())] {
        fill(session.data, step.pattern(session, turn), at, length)?;
        session.link.say(&Word::Ready { turn });
        expect_done(session)?;
    }
    Ok(())
}

fn send(session: &mut Session<'_, '_>, step: Step, into: &mut Gathered) -> Result<(), Trouble> {
    let (at, length) = step.odd();
    fill(session.data, step.pattern(session, CHECK), at, length)?;
    await_ready(session, CHECK)?;
    into.moving(length as u64);
    session.post(&Post::SendOne(session.data.part(at, length), step.tag(session, CHECK)), None)?;
    session.settle(0)?;
    await_checked(session)?;

    fill(session.data, step.pattern(session, TRAFFIC), 0, step.length())?;
    let mut told = String::new();
    let tag = step.tag(session, TRAFFIC);
    let ack = step.tag(session, ACKNOWLEDGED);
    let measured = traffic(session, |session, round| {
        session.link.say(&Word::Run { count: round.count, window: round.window });
        await_ready(session, TRAFFIC)?;
        into.moving(round.count.saturating_mul(step.bytes));
        let post = Post::Send(session.data.part(0, step.length()), tag);
        let begun = Instant::now();
        let told = round.measured.then_some(&mut told).filter(|told| told.is_empty());
        post_all(session, &post, round, told)?;
        session.settle(0)?;
        // The other side says over UCX that it has them all: a message that is sent may not have arrived.
        session.receive(session.control, ACK.1, 8, ack)?;
        session.settle(0)?;
        Ok(begun.elapsed().as_secs_f64())
    })?;
    await_checked(session)?;
    into.figure(bandwidth(step, measured), &told);
    Ok(())
}

fn receive(session: &mut Session<'_, '_>, step: Step) -> Result<(), Trouble> {
    let (at, length) = step.odd();
    poison(session, step, CHECK)?;
    session.receive(session.data, at, length, step.tag(session, CHECK))?;
    session.link.say(&Word::Ready { turn: CHECK });
    expect_done(session)?;
    session.settle(0)?;
    tell_checked(session, step, CHECK, at, length)?;

    poison(session, step, TRAFFIC)?;
    let (tag, ack) = (step.tag(session, TRAFFIC), step.tag(session, ACKNOWLEDGED));
    loop {
        let (count, window) = match session.hear()? {
            Word::Run { count, window } => (count, window.clamp(1, 1024)),
            Word::Done => break,
            word => return Err(unexpected(&word)),
        };
        let first = count.min(window);
        for _ in 0..first {
            session.receive(session.data, 0, step.length(), tag)?;
        }
        session.link.say(&Word::Ready { turn: TRAFFIC });
        for _ in first..count {
            session.settle(window - 1)?;
            session.receive(session.data, 0, step.length(), tag)?;
        }
        session.settle(0)?;
        session.post(&Post::SendOne(session.control.part(ACK.0, 8), ack), None)?;
        session.settle(0)?;
    }
    tell_checked(session, step, TRAFFIC, 0, step.length())
}

/// Round trips. Both sides send and receive the same number.
fn ping(session: &mut Session<'_, '_>, step: Step, into: &mut Gathered) -> Result<(), Trouble> {
    fill(session.data, step.pattern(session, TRAFFIC), 0, step.length())?;
    let (there, back) = (step.tag(session, TRAFFIC), step.tag(session, BACK));
    let mut times: Vec<f64> = Vec::new();
    let mut told = String::new();
    let mut together = 1;
    let measured = traffic(session, |session, round| {
        session.link.say(&Word::Run { count: round.count, window: 1 });
        await_ready(session, TRAFFIC)?;
        if round.measured && times.is_empty() {
            fill(session.data, step.pattern(session, BACK).poison(), RECEIVED, step.length())?;
        }
        into.moving(round.count.saturating_mul(2 * step.bytes));
        let post = Post::SendOne(session.data.part(0, step.length()), there);
        let begun = Instant::now();
        let mut last = begun;
        let mut told = round.measured.then_some(&mut told).filter(|told| told.is_empty());
        for number in 1..=round.count {
            session.post(&post, told.take())?;
            // While the message is on its way; nothing is taken in before it.
            session.receive(session.data, RECEIVED, step.length(), back)?;
            session.settle(0)?;
            if round.measured && (number % together == 0 || number == round.count) {
                let now = Instant::now();
                let of = if number % together == 0 { together } else { number % together };
                times.push((now - last).as_secs_f64() / f64::from(u32::try_from(of).unwrap_or(u32::MAX)));
                last = now;
            }
        }
        let took = begun.elapsed().as_secs_f64();
        if !round.measured {
            let trip = took / f64::from(u32::try_from(round.count).unwrap_or(u32::MAX));
            together = if trip > TIMED { 1 } else { 32 };
        }
        Ok(took)
    })?;
    right(session.data, step, step.pattern(session, BACK), RECEIVED, step.length())?;
    await_checked(session)?;
    times.sort_by(f64::total_cmp);
    let at = |hundredth: usize| times.get(times.len() * hundredth / 100).copied().unwrap_or_default() * 0.5e6;
    let figure = Measurement {
        bytes: step.bytes,
        op: step.op,
        gbytes_per_s: 0.0,
        usec: at(50),
        usec_mean: Some(mean(measured) / 2.0),
        usec_p99: Some(at(99)),
        iterations: measured.operations,
        transport: None,
        protocol: None,
    };
    into.figure(figure, &told);
    Ok(())
}

fn pong(session: &mut Session<'_, '_>, step: Step) -> Result<(), Trouble> {
    fill(session.data, step.pattern(session, BACK), 0, step.length())?;
    fill(session.data, step.pattern(session, TRAFFIC).poison(), RECEIVED, step.length())?;
    let (there, back) = (step.tag(session, TRAFFIC), step.tag(session, BACK));
    loop {
        let count = match session.hear()? {
            Word::Run { count, .. } => count,
            Word::Done => break,
            word => return Err(unexpected(&word)),
        };
        session.receive(session.data, RECEIVED, step.length(), there)?;
        session.link.say(&Word::Ready { turn: TRAFFIC });
        for number in 1..=count {
            session.settle(0)?;
            session.post(&Post::SendOne(session.data.part(0, step.length()), back), None)?;
            if number < count {
                session.receive(session.data, RECEIVED, step.length(), there)?;
            }
        }
        session.settle(0)?;
    }
    tell_checked(session, step, TRAFFIC, RECEIVED, step.length())
}

/// Rounds of traffic, measured.
fn traffic(
    session: &mut Session<'_, '_>,
    go: impl FnMut(&mut Session<'_, '_>, Round) -> Result<f64, Trouble>,
) -> Result<Measured, Trouble> {
    let limits = session.order.limits;
    rounds::run(&limits, session, go, Session::rest)
}

/// One round of RMA: everything has arrived when it ends.
fn stream(
    session: &Session<'_, '_>,
    post: &Post<'_, 'static>,
    round: Round,
    told: &mut String,
) -> Result<f64, Trouble> {
    let begun = Instant::now();
    let told = round.measured.then_some(told).filter(|told| told.is_empty());
    post_all(session, post, round, told)?;
    session.post(&Post::Flush, None)?;
    session.settle(0)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Posts a round. UCX progresses only while the window is full: progress after every post costs threefold at small sizes.
fn post_all(
    session: &Session<'_, '_>,
    post: &Post<'_, 'static>,
    round: Round,
    mut told: Option<&mut String>,
) -> Result<(), Trouble> {
    for _ in 0..round.count {
        session.settle(round.window - 1)?;
        session.post(post, told.take())?;
    }
    Ok(())
}

fn await_ready(session: &mut Session<'_, '_>, turn: u64) -> Result<(), Trouble> {
    match session.hear()? {
        Word::Ready { turn: theirs } if theirs == turn => Ok(()),
        word => Err(unexpected(&word)),
    }
}

/// Ends a turn, and waits until the target has compared.
fn await_checked(session: &mut Session<'_, '_>) -> Result<(), Trouble> {
    session.link.say(&Word::Done);
    match session.hear()? {
        Word::Checked { wrong: None } => Ok(()),
        Word::Checked { wrong: Some(wrong) } => {
            Err(Trouble::new(FailureKind::Corrupt, format!("at the other side, {wrong}")))
        }
        word => Err(unexpected(&word)),
    }
}

fn expect_done(session: &mut Session<'_, '_>) -> Result<(), Trouble> {
    match session.hear()? {
        Word::Done => Ok(()),
        word => Err(unexpected(&word)),
    }
}

fn tell_checked(session: &mut Session<'_, '_>, step: Step, turn: u64, at: usize, len: usize) -> Result<(), Trouble> {
    let right = right(session.data, step, step.pattern(session, turn), at, len);
    let corrupt = |trouble: &Trouble| trouble.kind == FailureKind::Corrupt;
    let wrong = right.as_ref().err().filter(|trouble| corrupt(trouble)).map(|trouble| trouble.message.clone());
    if right.is_ok() || wrong.is_some() {
        session.link.say(&Word::Checked { wrong });
    }
    right
}

/// Makes sure that no byte of what is expected is there already: of the whole message, and of those around it.
fn poison(session: &Session<'_, '_>, step: Step, turn: u64) -> Result<(), Trouble> {
    let (at, length) = if turn == CHECK { step.odd() } else { (0, step.length()) };
    fill(session.data, step.pattern(session, turn).poison(), at, length)
}

fn fill(memory: &Mapped<'_>, mut pattern: Pattern, at: usize, length: usize) -> Result<(), Trouble> {
    pattern.fill(memory.block(), at, length).map_err(|error| Trouble::new(FailureKind::Memory, error))
}

fn right(memory: &Mapped<'_>, step: Step, mut pattern: Pattern, at: usize, length: usize) -> Result<(), Trouble> {
    let compared = pattern.compare(memory.block(), at, length);
    match compared.map_err(|error| Trouble::new(FailureKind::Memory, error))? {
        None => Ok(()),
        Some(Difference { at, is, expected, count }) => {
            let message = format!(
                "{}: byte {at} of {length} is {is:#04x} instead of {expected:#04x}; {count} bytes are wrong in all",
                step.name()
            );
            Err(Trouble::new(FailureKind::Corrupt, message))
        }
    }
}

/// Microseconds of one operation.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2⁵³")]
fn mean(measured: Measured) -> f64 {
    measured.seconds * 1e6 / measured.operations as f64
}

#[expect(clippy::cast_precision_loss, reason = "bytes and counts far below 2⁵³ for a figure with three digits")]
fn bandwidth(step: Step, measured: Measured) -> Measurement {
    Measurement {
        bytes: step.bytes,
        op: step.op,
        gbytes_per_s: step.bytes as f64 * measured.operations as f64 / measured.seconds / 1e9,
        usec: mean(measured),
        usec_mean: None,
        usec_p99: None,
        iterations: measured.operations,
        transport: None,
        protocol: None,
    }
}
