//! Files of /proc, /etc and module parameters.

use policies::fabric::{Memlock, NetnsMode, NvidiaDriver};

use super::line;

/// More parameters about one thing than anyone sets.
const MAX_PARAMETERS: usize = 32;

/// `uname -r`, from `/proc/sys/kernel/osrelease`.
pub fn kernel_release(text: &str) -> Option<String> {
    let text = line(text)?;
    text.starts_with(|c: char| c.is_ascii_digit()).then(|| text.to_owned())
}

/// `/proc/sys/kernel/random/boot_id`: a UUID.
pub fn boot_id(text: &str) -> Option<String> {
    let text = text.trim();
    let plain = text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    plain.then(|| text.to_owned())
}

/// The words of `/proc/cmdline` that concern the IOMMU or ACS. Others may hold what is nobody's business, so they are dropped here.
pub fn iommu_parameters(text: &str) -> Option<Vec<String>> {
    const NAMES: [&str; 8] = [
        "iommu",
        "intel_iommu",
        "amd_iommu",
        "iommu.passthrough",
        "iommu.strict",
        "arm-smmu.disable_bypass",
        "pci",
        "pcie_acs_override",
    ];
    let name = |word: &str| word.split_once('=').map_or(word.to_owned(), |(name, _)| name.to_owned());
    let words = text.split_whitespace().filter(|word| NAMES.contains(&name(word).as_str()));
    words.take(MAX_PARAMETERS).map(|word| line(word).map(str::to_owned)).collect()
}

/// `PRETTY_NAME` of os-release(5): shell quoting, without expansion.
pub fn os_name(text: &str) -> Option<String> {
    let value = text.lines().rev().find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))?.trim();
    let quoted = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let value = match (quoted('"'), quoted('\'')) {
        (Some(value), _) => unescape(value),
        (None, Some(value)) => value.to_owned(),
        (None, None) => unescape(value),
    };
    line(&value).map(str::to_owned)
}

fn unescape(text: &str) -> String {
    let mut escaped = false;
    let keep = |c: &char| {
        let drop = *c == '\\' && !escaped;
        escaped = drop;
        !drop
    };
    text.chars().filter(keep).collect()
}

/// Soft `Max locked memory` of `/proc/PID/limits`.
pub fn memlock(text: &str) -> Option<Memlock> {
    let rest = text.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    match rest.split_whitespace().next()? {
        "unlimited" => Some(Memlock::Unlimited),
        bytes if bytes.bytes().all(|byte| byte.is_ascii_digit()) => bytes.parse().ok().map(Memlock::Limited),
        _ => None,
    }
}

/// `netns_mode` of `ib_core`: `Y` is shared, the default; `N` exclusive.
pub fn netns_mode(text: &str) -> Option<NetnsMode> {
    match text.trim() {
        "Y" | "1" => Some(NetnsMode::Shared),
        "N" | "0" => Some(NetnsMode::Exclusive),
        _ => None,
    }
}

/// `/proc/driver/nvidia/version`: `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build …`;
/// the proprietary module says `NVIDIA UNIX x86_64 Kernel Module  535.183.01  …`.
pub fn nvidia_driver(text: &str) -> Option<NvidiaDriver> {
    let rest = text.lines().find_map(|line| line.trim().strip_prefix("NVRM version:"))?;
    let is_version = |word: &&str| {
        word.contains('.')
            && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    Some(NvidiaDriver {
        version: line(rest.split_whitespace().find(is_version)?)?.to_owned(),
        open: rest.contains("Open Kernel Module"),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("6.8.0-1024-aws\n", Some("6.8.0-1024-aws"))]
    #[case("linux", None)]
    #[case("", None)]
    fn kernels(#[case] text: &str, #[case] release: Option<&str>) {
        assert_eq!(kernel_release(text).as_deref(), release);
    }

    #[rstest]
    #[case("NAME=x\nPRETTY_NAME=\"Ubuntu 22.04.5 LTS\"\n", Some("Ubuntu 22.04.5 LTS"))]
    #[case("PRETTY_NAME='Flatcar Container Linux'", Some("Flatcar Container Linux"))]
    #[case("PRETTY_NAME=Talos", Some("Talos"))]
    #[case("PRETTY_NAME=\"a \\\"b\\\" \\\\ c\"", Some("a \"b\" \\ c"))]
    #[case("PRETTY_NAME=\"\"", None)]
    #[case("NAME=x", None)]
    fn names(#[case] text: &str, #[case] name: Option<&str>) {
        assert_eq!(os_name(text).as_deref(), name);
    }

    #[rstest]
    #[case(
        "Max locked memory         unlimited            unlimited            bytes     \n",
        Some(Memlock::Unlimited)
    )]
    #[case(
        "Limit  Soft\nMax locked memory         8388608              8388608              bytes",
        Some(Memlock::Limited(8_388_608))
    )]
    #[case("Max locked memory         67108864 unlimited bytes", Some(Memlock::Limited(67_108_864)))]
    #[case("Max locked memory -1 -1 bytes", None)]
    #[case("Max locked memory", None)]
    #[case("Max open files 1 1 files", None)]
    fn limits(#[case] text: &str, #[case] limit: Option<Memlock>) {
        assert_eq!(memlock(text), limit);
    }

    #[rstest]
    #[case("Y\n", Some(NetnsMode::Shared))]
    #[case("N\n", Some(NetnsMode::Exclusive))]
    #[case("maybe", None)]
    fn modes(#[case] text: &str, #[case] mode: Option<NetnsMode>) {
        assert_eq!(netns_mode(text), mode);
    }

    #[rstest]
    #[case("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U16-I3-B03-4-3)  Thu Jan 23 22:35:38 UTC 2025\nGCC version:  gcc version 11.4.0\n", Some(("570.86.15", true)))]
    #[case("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024", Some(("535.183.01", false)))]
    #[case("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.65.06", Some(("580.65.06", true)))]
    #[case("NVRM version: NVIDIA UNIX", None)]
    #[case("GCC version: 11.4.0", None)]
    fn drivers(#[case] text: &str, #[case] driver: Option<(&str, bool)>) {
        let found = nvidia_driver(text);
        assert_eq!(found.as_ref().map(|found| (found.version.as_str(), found.open)), driver);
    }

    #[rstest]
    #[case("6d1ea8a0-7f0d-4d3a-9d3e-7d2f0a1b2c3d\n", true)]
    #[case("6d1ea8a0", false)]
    #[case("6d1ea8a0-7f0d-4d3a-9d3e-7d2f0a1b2c3/", false)]
    #[case("", false)]
    fn boot_ids(#[case] text: &str, #[case] good: bool) {
        assert_eq!(boot_id(text).is_some(), good);
    }

    #[rstest]
    #[case("BOOT_IMAGE=/vmlinuz root=UUID=1 iommu=pt intel_iommu=on password=x\n", Some(vec!["iommu=pt", "intel_iommu=on"]))]
    #[case("quiet pci=disable_acs_redir=0000:00:01.0 iommu.passthrough=1", Some(vec!["pci=disable_acs_redir=0000:00:01.0", "iommu.passthrough=1"]))]
    #[case("quiet", Some(vec![]))]
    #[case("iommu=\u{fffd}", None)]
    fn iommu_words(#[case] text: &str, #[case] words: Option<Vec<&str>>) {
        let words = words.map(|words| words.into_iter().map(str::to_owned).collect());
        assert_eq!(iommu_parameters(text), words);
    }
}
