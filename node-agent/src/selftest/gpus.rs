//! Whether anybody computes on this node's GPUs: NVML is asked in a child process that may die, and the answer is good for some seconds.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use policies::selftest::{GpuUse, NvmlFacts};
use tokio::{sync::Mutex, task::spawn_blocking, time::sleep};

use crate::probe;

/// How long an answer is good for: a caller and the called ask once for all the profiles of a call.
const GOOD: Duration = Duration::from_secs(5);
/// How often it is asked while a session has memory of a GPU.
const WATCH: Duration = Duration::from_millis(1500);
/// NVML answers in a tenth of a second where the driver is loaded. A caller waits 15 s for an answer, this included.
const DEADLINE: Duration = Duration::from_secs(5);

type Question = dyn Fn() -> NvmlFacts + Send + Sync;

/// Who asks. Clones share the last answer.
#[derive(Clone)]
pub struct Gpus {
    question: Arc<Question>,
    last: Arc<Mutex<Option<(Instant, GpuUse)>>>,
}

impl fmt::Debug for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gpus")
    }
}

impl Gpus {
    /// Asks NVML.
    pub fn nvml() -> Self {
        Self::asking(|| probe::gpus(DEADLINE).facts)
    }

    /// Asks this.
    pub fn asking(question: impl Fn() -> NvmlFacts + Send + Sync + 'static) -> Self {
        Self { question: Arc::new(question), last: Arc::default() }
    }

    /// Who computes now, or did a moment ago. To be asked while no child of ours has memory of a GPU.
    pub async fn now(&self) -> GpuUse {
        // Whoever comes meanwhile waits for the same answer.
        let mut last = self.last.lock().await;
        if let Some((_, known)) = last.as_ref().filter(|(at, _)| at.elapsed() < GOOD) {
            return known.clone();
        }
        let found = self.ask(0).await;
        *last = Some((Instant::now(), found.clone()));
        found
    }

    /// Returns when somebody else than our own `own` children computes, with who. An NVML that does not answer ends nothing.
    pub async fn until_busy(&self, own: u32) -> String {
        loop {
            sleep(WATCH).await;
            if let GpuUse::Busy(who) = self.ask(own).await {
                *self.last.lock().await = Some((Instant::now(), GpuUse::Busy(who.clone())));
                return who;
            }
        }
    }

    async fn ask(&self, own: u32) -> GpuUse {
        let question = Arc::clone(&self.question);
        match spawn_blocking(move || question().in_use(own)).await {
            Ok(found) => found,
            Err(error) => GpuUse::Unknown(format!("asking NVML: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use policies::{fabric::Fact, selftest::NvmlGpu};

    use super::*;

    fn processes(count: u32) -> NvmlFacts {
        let gpu = NvmlGpu {
            compute_processes: Fact::Known(count),
            utilisation_percent: Fact::Known(0),
            memory_used: Fact::Known(0),
        };
        NvmlFacts { driver: Fact::Known(Some("580".into())), gpus: Fact::Known(vec![gpu]) }
    }

    /// The first answer is of no process, the second of one, and so on.
    fn counting() -> (Gpus, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        (Gpus::asking(move || processes(count.fetch_add(1, Ordering::SeqCst))), asked)
    }

    #[tokio::test]
    async fn an_answer_is_good_for_a_while_and_for_all() {
        let (gpus, asked) = counting();
        let other = gpus.clone();
        assert_eq!(tokio::join!(gpus.now(), other.now()), (GpuUse::Idle, GpuUse::Idle));
        assert_eq!((gpus.now().await, asked.load(Ordering::SeqCst)), (GpuUse::Idle, 1));
    }

    #[tokio::test]
    async fn whoever_comes_during_a_session_is_seen_and_remembered() {
        let (gpus, asked) = counting();
        assert_eq!(gpus.now().await, GpuUse::Idle);
        let started = Instant::now();
        // One process is the session's own child.
        assert_eq!(gpus.until_busy(1).await, "GPU 0: 2 compute processes, 0 %, 0 MiB");
        assert!(started.elapsed() >= 2 * WATCH && asked.load(Ordering::SeqCst) == 3);
        assert!(gpus.now().await.busy().is_some(), "the next session does not go by the old answer");
    }

    #[tokio::test]
    async fn an_nvml_that_fails_ends_no_session() {
        let gpus = Gpus::asking(NvmlFacts::default);
        assert!(matches!(gpus.now().await, GpuUse::Unknown(_)));
        assert!(tokio::time::timeout(2 * WATCH, gpus.until_busy(1)).await.is_err());
        let panics = Gpus::asking(|| panic!("as a test"));
        assert!(matches!(panics.now().await, GpuUse::Unknown(why) if why.starts_with("asking NVML")));
    }
}
