//! The self-test's decisions: what two nodes move between them, what they report of it, and how that is judged.

pub mod blame;
pub mod gpus;
pub mod outlier;
pub mod own;
pub mod plan;
pub mod publish;
mod shuffle;
mod size;
mod status;
mod terms;
mod transfer;
pub mod verdict;

pub use gpus::{GpuUse, NvmlFacts, NvmlGpu};
pub use plan::{Gates, Next, Pace, Refusal, Settings, Skip, View};
pub use size::{ParseSizeError, Size, Sizes};
pub use status::{
    Against, Extreme, Grade, PARTNERS_KEPT, PartnerStatus, ProfileTried, SelftestStatus, Standing, Sweep,
    TransferStatus, Trigger,
};
pub use terms::{Terms, TermsError, is_secret};
pub use transfer::{
    Counter, Failure, FailureKind, Integrity, Limits, Measurement, Memory, MemoryPair, Op, Order, ParseMemoryError,
    Report, Role, Said, Told, UcxUsed,
};
